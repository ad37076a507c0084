//! `anyOf`, `allOf`, `oneOf` and `not`: they say how values look, and speak only of what is there outside of them.

use serde_json::Value;

use super::super::schema::pattern;
use super::{Errors, fields, flag, list, object, text};
use crate::field_error::{FieldError, Path};

/// What alternatives may say: only how values look, never what there is.
pub(super) fn values(
    schema: &Value,
    path: &Path<'_>,
    also: &mut impl FnMut(&Value, &Path<'_>, &mut Errors),
    errors: &mut Errors,
) {
    let text_of_pattern = text(schema, "pattern");
    if let Err(error) = pattern(text_of_pattern) {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(&path.child("pattern"), text_of_pattern, detail));
    }
    let either = is_int_or_string(list(schema, "anyOf"));
    for name in ["anyOf", "allOf", "oneOf"] {
        let at = path.child(name);
        for (index, nested) in list(schema, name).iter().enumerate() {
            let first = name == "allOf" && index == 0 && is_int_or_string(list(nested, "anyOf"));
            if name == "anyOf" && either && flag(schema, "x-kubernetes-int-or-string") {
                continue;
            }
            let nested = if first { &without_any_of(nested) } else { nested };
            alternative(nested, &at.index(index), also, errors);
        }
    }
    if let Some(not) = object(schema, "not") {
        alternative(not, &path.child("not"), also, errors);
    }
}

fn without_any_of(schema: &Value) -> Value {
    let mut copy = schema.clone();
    if let Some(fields) = copy.as_object_mut() {
        fields.remove("anyOf");
    }
    copy
}

/// `[{type: integer}, {type: string}]`, which may stand with int-or-string.
fn is_int_or_string(any_of: &[Value]) -> bool {
    let only = |schema: &Value, ty: &str| {
        schema.as_object().is_some_and(|fields| fields.len() == 1) && text(schema, "type") == ty
    };
    matches!(any_of, [one, other] if only(one, "integer") && only(other, "string"))
}

fn alternative(
    schema: &Value,
    path: &Path<'_>,
    also: &mut impl FnMut(&Value, &Path<'_>, &mut Errors),
    errors: &mut Errors,
) {
    also(schema, path, errors);
    values(schema, path, also, errors);
    let said = |name: &str| match schema.get(name) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    };
    let forbidden = [
        ("type", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("nullable", "must be false to be structural"),
        ("externalDocs", "must be undefined to be structural"),
        ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
        ("x-kubernetes-embedded-resource", "must be false to be structural"),
        ("x-kubernetes-int-or-string", "must be false to be structural"),
        ("x-kubernetes-list-map-keys", "must be empty to be structural"),
        ("x-kubernetes-list-type", "must be undefined to be structural"),
        ("x-kubernetes-map-type", "must be undefined to be structural"),
        ("x-kubernetes-validations", "must be empty to be structural"),
    ];
    for (name, detail) in forbidden.into_iter().filter(|(name, _)| said(name)) {
        errors.push(FieldError::forbidden(&path.child(name), detail));
    }
    let properties = path.child("properties");
    for (name, property) in fields(schema, "properties") {
        let at = properties.key(name);
        if name == "metadata" {
            errors.push(FieldError::forbidden(&at, "must not be specified in a nested context"));
        }
        alternative(property, &at, also, errors);
    }
    if let Some(items) = object(schema, "items") {
        alternative(items, &path.child("items"), also, errors);
    }
}

/// Every field that an alternative speaks of is there outside of it.
pub(super) fn complete(schema: &Value, outer: &Value, path: &Path<'_>, errors: &mut Errors) {
    for name in ["anyOf", "allOf", "oneOf"] {
        let at = path.child(name);
        for (index, nested) in list(schema, name).iter().enumerate() {
            covered(nested, outer, &at.index(index), path, errors);
        }
    }
    if let Some(not) = object(schema, "not") {
        covered(not, outer, &path.child("not"), path, errors);
    }
    if !std::ptr::eq(schema, outer) {
        return;
    }
    let properties = path.child("properties");
    for (name, property) in fields(schema, "properties") {
        complete(property, property, &properties.key(name), errors);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(below) = object(schema, name) {
            complete(below, below, &path.child(name), errors);
        }
    }
}

/// `nested` speaks of parts of the value that `outer` describes at `outer_path`.
fn covered(nested: &Value, outer: &Value, path: &Path<'_>, outer_path: &Path<'_>, errors: &mut Errors) {
    let because = format!("because it is defined in {path}");
    let free = flag(outer, "x-kubernetes-preserve-unknown-fields");
    for (name, property) in fields(nested, "properties") {
        let (in_properties, out_properties) = (path.child("properties"), outer_path.child("properties"));
        let (at, outer_at) = (in_properties.key(name), out_properties.key(name));
        match outer.get("properties").and_then(|all| all.get(name)) {
            Some(below) => covered(property, below, &at, &outer_at, errors),
            None => match object(outer, "additionalProperties") {
                Some(_) => {}
                None if free => {}
                None => {
                    errors.push(FieldError::required(&outer_at, format!("because it is defined in {at}")))
                }
            },
        }
    }
    if let Some(items) = object(nested, "items") {
        match object(outer, "items") {
            Some(below) => covered(items, below, &path.child("items"), &outer_path.child("items"), errors),
            None => errors.push(FieldError::required(&outer_path.child("items"), because)),
        }
    }
    for name in ["anyOf", "allOf", "oneOf"] {
        let at = path.child(name);
        for (index, deeper) in list(nested, name).iter().enumerate() {
            covered(deeper, outer, &at.index(index), outer_path, errors);
        }
    }
    if let Some(not) = object(nested, "not") {
        covered(not, outer, &path.child("not"), outer_path, errors);
    }
}
