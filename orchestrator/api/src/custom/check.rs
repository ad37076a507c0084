//! Values against a schema, with the messages of `kube-openapi/pkg/validation`. On an update, what is as it was is
//! not judged (KEP-4008).

use serde_json::{Map, Value};

use super::correlate;
use super::error;
use super::number::{is_whole, same};
use super::schema::{Additional, Schema, Type};
use crate::field_error::{ErrorType, FieldError};

/// What is wrong with the values of a whole object.
pub(super) fn check(schema: &Schema, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut outcome = Outcome::default();
    // The object's own name, kind and metadata are checked like those of every other object; the schema may
    // restrict them further.
    node(schema, (new, old), "", &mut outcome);
    embedded(schema, new, "", &mut outcome.errors);
    outcome.errors
}

/// Errors, and how many checks were made: of several alternatives the one that fits best explains itself.
#[derive(Default)]
struct Outcome {
    errors: Vec<FieldError>,
    checks: usize,
}

impl Outcome {
    fn merge(&mut self, other: Outcome) {
        self.errors.extend(other.errors);
        self.checks += other.checks;
    }

    fn invalid(&mut self, path: &str, value: impl Into<Value>, what: &str) {
        let detail = format!("{path} in body {what}");
        self.errors.push(error(ErrorType::Invalid, path, Some(value.into()), detail));
    }

    fn composite(&mut self, path: &str, what: &str) {
        let detail = format!("{} {what}", crate::status::quoted(path));
        self.errors.push(error(ErrorType::Invalid, "<nil>", Some("".into()), detail));
    }
}

type Pair<'a> = (&'a Value, Option<&'a Value>);

fn node(schema: &Schema, (value, old): Pair<'_>, path: &str, outcome: &mut Outcome) {
    if old.is_some_and(|old| same(old, value)) {
        return;
    }
    outcome.checks += 1;
    if !type_fits(schema, value, path, outcome) && value.is_null() {
        return;
    }
    enumeration(schema, value, path, outcome);
    if value.is_null() {
        return;
    }
    alternatives(schema, value, path, outcome);
    match value {
        Value::String(text) => string(schema, text, path, outcome),
        Value::Number(_) => number(schema, value, path, outcome),
        Value::Array(items) => array(schema, (items, old), path, outcome),
        Value::Object(fields) => object(schema, (fields, old), path, outcome),
        Value::Bool(_) | Value::Null => {}
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn type_fits(schema: &Schema, value: &Value, path: &str, outcome: &mut Outcome) -> bool {
    let fits = match (schema.ty, value) {
        (None, _) if !schema.int_or_string => true,
        (_, Value::Null) => schema.nullable,
        _ if schema.int_or_string => value.is_string() || value.is_number() && is_whole(value),
        (Some(Type::Object), _) => value.is_object(),
        (Some(Type::Array), _) => value.is_array(),
        (Some(Type::String), _) => value.is_string(),
        (Some(Type::Integer), _) => value.is_number() && is_whole(value),
        (Some(Type::Number), _) => value.is_number(),
        (Some(Type::Boolean), _) => value.is_boolean(),
        (None, _) => true,
    };
    if !fits {
        let found = type_of(value);
        let detail = format!("{path} in body must be of type {}: \"{found}\"", schema.type_name());
        outcome.errors.push(error(ErrorType::TypeInvalid, path, Some(found.into()), detail));
    }
    fits
}

fn enumeration(schema: &Schema, value: &Value, path: &str, outcome: &mut Outcome) {
    let allowed = &schema.limits.values;
    if allowed.is_empty() || allowed.iter().any(|one| same(one, value)) {
        return;
    }
    let words = allowed.iter().map(|one| match one {
        Value::String(text) => crate::status::quoted(text),
        other => crate::status::quoted(&other.to_string()),
    });
    let detail = format!("supported values: {}", words.collect::<Vec<_>>().join(", "));
    outcome.errors.push(error(ErrorType::NotSupported, path, Some(value.clone()), detail));
}

fn alternatives(schema: &Schema, value: &Value, path: &str, outcome: &mut Outcome) {
    let judge = |schema: &Schema| {
        let mut outcome = Outcome::default();
        node(schema, (value, None), path, &mut outcome);
        outcome
    };
    if !schema.any_of.is_empty() {
        let judged: Vec<Outcome> = schema.any_of.iter().map(judge).collect();
        if judged.iter().all(|one| !one.errors.is_empty()) {
            outcome.composite(path, "must validate at least one schema (anyOf)");
            best(judged, outcome);
        }
    }
    if !schema.one_of.is_empty() {
        let judged: Vec<Outcome> = schema.one_of.iter().map(judge).collect();
        match judged.iter().filter(|one| one.errors.is_empty()).count() {
            0 => {
                outcome.composite(path, "must validate one and only one schema (oneOf). Found none valid");
                best(judged, outcome);
            }
            1 => {}
            several => {
                let found = format!("Found {several} valid alternatives");
                outcome.composite(path, &format!("must validate one and only one schema (oneOf). {found}"));
            }
        }
    }
    let judged: Vec<Outcome> = schema.all_of.iter().map(judge).collect();
    let good = judged.iter().filter(|one| one.errors.is_empty()).count();
    let all = judged.len();
    judged.into_iter().for_each(|one| outcome.merge(one));
    if good < all {
        let none = if good == 0 { ". None validated" } else { "" };
        outcome.composite(path, &format!("must validate all the schemas (allOf){none}"));
    }
    if schema.not.as_deref().is_some_and(|not| judge(not).errors.is_empty()) {
        outcome.composite(path, "must not validate the schema (not)");
    }
}

/// The errors of the alternative with the most checks, of the first such one.
fn best(judged: Vec<Outcome>, outcome: &mut Outcome) {
    let most = judged.iter().map(|one| one.checks).max().unwrap_or_default();
    if let Some(best) = judged.into_iter().find(|one| one.checks == most) {
        outcome.merge(best);
    }
}

fn string(schema: &Schema, text: &str, path: &str, outcome: &mut Outcome) {
    let limits = &schema.limits;
    if limits.max_length.is_some() || limits.min_length.is_some() {
        let length = text.chars().count();
        if let Some(max) = limits.max_length.filter(|max| length > *max) {
            let unit = if max == 1 { "byte" } else { "bytes" };
            let detail = format!("may not be more than {max} {unit}");
            outcome.errors.push(error(ErrorType::TooLong, path, None, detail));
        }
        if let Some(min) = limits.min_length.filter(|min| length < *min) {
            outcome.invalid(path, text, &format!("should be at least {min} chars long"));
        }
    }
    if let Some((pattern, _)) = limits.pattern.as_ref().filter(|(_, regex)| !regex.is_match(text)) {
        outcome.invalid(path, text, &format!("should match '{pattern}'"));
    }
    if let Some(format) = schema.format.filter(|format| !format.fits(text)) {
        let text_quoted = crate::status::quoted(text);
        let detail = format!("{path} in body must be of type {}: {text_quoted}", format.name());
        outcome.errors.push(error(ErrorType::TypeInvalid, path, Some(text.into()), detail));
    }
}

fn number(schema: &Schema, value: &Value, path: &str, outcome: &mut Outcome) {
    let limits = &schema.limits;
    let Some(number) = value.as_f64() else { return };
    if let Some(max) = limits.maximum {
        let (bad, words) = match limits.exclusive_maximum {
            true => (number >= max, "less than"),
            false => (number > max, "less than or equal to"),
        };
        if bad {
            outcome.invalid(path, value.clone(), &format!("should be {words} {max}"));
        }
    }
    if let Some(min) = limits.minimum {
        let (bad, words) = match limits.exclusive_minimum {
            true => (number <= min, "greater than"),
            false => (number < min, "greater than or equal to"),
        };
        if bad {
            outcome.invalid(path, value.clone(), &format!("should be {words} {min}"));
        }
    }
    if let Some(factor) =
        limits.multiple_of.filter(|factor| *factor > 0.0 && (number / factor).fract() != 0.0)
    {
        outcome.invalid(path, value.clone(), &format!("should be a multiple of {factor}"));
    }
    let whole = value.as_i64();
    let narrow = schema.format.is_some_and(|format| format.name() == "int32");
    if narrow && whole.is_none_or(|whole| i32::try_from(whole).is_err()) {
        let detail = format!("Checked value must be of type integer with format int32 in {path}");
        outcome.errors.push(error(ErrorType::Invalid, path, Some(value.clone()), detail));
    }
}

fn array(schema: &Schema, (items, old): (&[Value], Option<&Value>), path: &str, outcome: &mut Outcome) {
    let limits = &schema.limits;
    if let Some(below) = schema.items.as_deref() {
        for (index, item) in items.iter().enumerate() {
            let old = correlate::item(schema, item, old);
            node(below, (item, old), &format!("{path}[{index}]"), outcome);
        }
    }
    if let Some(min) = limits.min_items.filter(|min| items.len() < *min) {
        outcome.invalid(path, items.len(), &format!("should have at least {min} items"));
    }
    if let Some(max) = limits.max_items.filter(|max| items.len() > *max) {
        too_many(path, items.len(), max, outcome);
    }
    if limits.unique_items
        && items.iter().enumerate().any(|(at, item)| items[..at].iter().any(|other| same(item, other)))
    {
        outcome.invalid(path, "", "shouldn't contain duplicates");
    }
}

fn too_many(path: &str, count: usize, max: usize, outcome: &mut Outcome) {
    let unit = if max == 1 { "item" } else { "items" };
    let detail = format!("must have at most {max} {unit}");
    outcome.errors.push(error(ErrorType::TooMany, path, Some(count.into()), detail));
}

fn object(
    schema: &Schema,
    (fields, old): (&Map<String, Value>, Option<&Value>),
    path: &str,
    outcome: &mut Outcome,
) {
    let limits = &schema.limits;
    let place = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if let Some(min) = limits.min_properties.filter(|min| fields.len() < *min) {
        outcome.invalid(path, fields.len(), &format!("should have at least {min} properties"));
    }
    if let Some(max) = limits.max_properties.filter(|max| fields.len() > *max) {
        too_many(path, fields.len(), max, outcome);
    }
    for (name, value) in fields {
        let below = match (&schema.additional, schema.properties.get(name)) {
            (_, Some(below)) => below,
            (Additional::Values(below), None) => below,
            _ => continue,
        };
        node(below, (value, correlate::field(schema, name, old)), &place(name), outcome);
    }
    for name in limits.required.iter().filter(|name| !fields.contains_key(*name)) {
        outcome.errors.push(error(ErrorType::Required, &place(name), None, ""));
    }
}

/// Objects inside of objects say what they are.
fn embedded(schema: &Schema, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(fields) => {
            if schema.embedded {
                for name in ["apiVersion", "kind"] {
                    if fields.get(name).and_then(Value::as_str).is_none_or(str::is_empty) {
                        let place = format!("{path}.{name}");
                        errors.push(error(ErrorType::Required, &place, None, "must not be empty"));
                    }
                }
            }
            for (name, value) in fields {
                if let Some(below) = schema.field(name) {
                    let place = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    embedded(below, value, &place, errors);
                }
            }
        }
        Value::Array(items) => {
            let Some(below) = schema.items.as_deref() else { return };
            for (index, item) in items.iter().enumerate() {
                embedded(below, item, &format!("{path}[{index}]"), errors);
            }
        }
        _ => {}
    }
}
