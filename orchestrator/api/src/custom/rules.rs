//! `x-kubernetes-validations`: rules in the Common Expression Language over a value (`self`) and what it was before
//! (`oldSelf`). Their cost is bounded for each rule and for each object.

use serde_json::Value;

use super::correlate;
use super::error;
use super::number::same;
use super::schema::{Additional, ListType, Schema, Type};
use crate::cel::{self, Budget, EvalError, Expr, Hint, ListKind, Typing, Val};
use crate::field_error::{ErrorType, FieldError, Path};

/// Steps that one evaluation of a rule may take.
const RULE_BUDGET: u64 = 1_000_000;
/// Steps that all rules of an object may take together.
const OBJECT_BUDGET: u64 = 10_000_000;

const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// One rule.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    text: String,
    expr: Expr,
    message: Option<String>,
    message_expr: Option<Expr>,
    reason: ErrorType,
    field_path: String,
    uses_old: bool,
    old_is_optional: bool,
}

impl Rule {
    /// The rules of one node of a schema.
    pub(super) fn compile_all(json: &Value) -> Result<Vec<Rule>, String> {
        let list = json.get("x-kubernetes-validations").and_then(Value::as_array);
        list.into_iter().flatten().map(Self::compile).collect()
    }

    fn compile(json: &Value) -> Result<Rule, String> {
        let text = |name: &str| json.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let rule = text("rule").unwrap_or_default();
        let expr = cel::parse(rule).map_err(|error| error.to_string())?;
        let message_expr = text("messageExpression").map(cel::parse).transpose();
        Ok(Rule {
            uses_old: expr.uses("oldSelf"),
            text: rule.to_owned(),
            expr,
            message: text("message").map(str::to_owned),
            message_expr: message_expr.map_err(|error| error.to_string())?,
            reason: match text("reason") {
                Some("FieldValueForbidden") => ErrorType::Forbidden,
                Some("FieldValueRequired") => ErrorType::Required,
                Some("FieldValueDuplicate") => ErrorType::Duplicate,
                _ => ErrorType::Invalid,
            },
            field_path: text("fieldPath").unwrap_or_default().to_owned(),
            old_is_optional: json.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or(false),
        })
    }
}

impl Typing for Schema {
    fn field(&self, name: &str) -> Option<&dyn Typing> {
        // A map knows nothing of its keys: any name stands for each of them.
        Schema::field(self, name).map(|schema| schema as &dyn Typing)
    }

    fn closed(&self) -> bool {
        let free = self.preserve || self.embedded || self.ty != Some(Type::Object);
        !free && matches!(self.additional, Additional::Nothing)
    }

    fn item(&self) -> Option<&dyn Typing> {
        self.items.as_deref().map(|schema| schema as &dyn Typing)
    }

    fn hint(&self) -> Hint {
        match (self.ty, self.format.map(super::format::Format::name)) {
            _ if self.int_or_string => Hint::Plain,
            (Some(Type::Number), _) => Hint::Double,
            (Some(Type::String), Some("date" | "date-time")) => Hint::Timestamp,
            (Some(Type::String), Some("duration")) => Hint::Duration,
            (Some(Type::String), Some("byte")) => Hint::Bytes,
            _ => Hint::Plain,
        }
    }

    fn list_kind(&self) -> ListKind<'_> {
        match &self.list_type {
            ListType::Atomic => ListKind::Atomic,
            ListType::Set => ListKind::Set,
            ListType::Map(keys) => ListKind::Map(keys),
        }
    }

    fn is_object(&self) -> bool {
        !self.properties.is_empty()
    }
}

/// Every rule that does not hold.
pub(super) fn check(schema: &Schema, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut walk = Walk { errors: Vec::new(), budget: Budget::new(OBJECT_BUDGET), ended: false };
    walk.node(schema, (new, old), "");
    walk.errors
}

struct Walk {
    errors: Vec<FieldError>,
    budget: Budget,
    ended: bool,
}

impl Walk {
    fn node(&mut self, schema: &Schema, (value, old): (&Value, Option<&Value>), path: &str) {
        if !schema.has_rules() || value.is_null() || self.ended {
            return;
        }
        let unchanged = old.is_some_and(|old| same(old, value));
        for rule in &schema.rules {
            // What was accepted once and stays as it is is not judged again, except for changes.
            let skips =
                unchanged && !rule.uses_old || rule.uses_old && old.is_none() && !rule.old_is_optional;
            if !skips && !self.ended {
                self.rule(rule, schema, (value, old), path);
            }
        }
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let Some(below) = schema.field(name) else { continue };
                    let place = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    self.node(below, (value, correlate::field(schema, name, old)), &place);
                }
            }
            Value::Array(items) => {
                let Some(below) = schema.items.as_deref() else { return };
                for (index, item) in items.iter().enumerate() {
                    let old = correlate::item(schema, item, old);
                    self.node(below, (item, old), &format!("{path}[{index}]"));
                }
            }
            _ => {}
        }
    }

    fn rule(&mut self, rule: &Rule, schema: &Schema, (value, old): (&Value, Option<&Value>), path: &str) {
        let typing: &dyn Typing = schema;
        let bindings = || {
            let mut bindings = vec![("self".to_owned(), Val::json(value, Some(typing)))];
            let before = old.map(|old| Val::json(old, Some(typing)));
            if rule.old_is_optional {
                bindings.push(("oldSelf".to_owned(), Val::Optional(before.map(std::rc::Rc::new))));
            } else if let Some(before) = before {
                bindings.push(("oldSelf".to_owned(), before));
            }
            bindings
        };
        let outcome = self.evaluate(&rule.expr, bindings());
        let detail = match outcome {
            Ok(Val::Bool(true)) => return,
            Ok(Val::Bool(false)) => self.message(rule, bindings()),
            Ok(other) => format!("rule evaluated to a {}, not a bool: {}", other.type_name(), rule.text),
            Err(EvalError::Budget) => {
                self.ended = true;
                format!(
                    "no further validation rules will be run due to call cost exceeds limit for rule: {}",
                    rule.text
                )
            }
            Err(failure @ EvalError::NoOverload(_)) => format!(
                "'{failure}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                rule.text
            ),
            Err(failure) => format!("rule evaluation error: {failure}: {}", rule.text),
        };
        let field = match (path, rule.field_path.as_str()) {
            ("", "") => "<nil>".to_owned(),
            ("", below) => below.trim_start_matches('.').to_owned(),
            (path, "") => path.to_owned(),
            (path, below) if below.starts_with('[') => format!("{path}{below}"),
            (path, below) => format!("{path}.{}", below.trim_start_matches('.')),
        };
        let shown = schema.ty.map_or("", Type::as_str);
        let value =
            matches!(rule.reason, ErrorType::Invalid | ErrorType::Duplicate).then(|| Value::from(shown));
        self.errors.push(error(rule.reason, &field, value, detail));
    }

    /// Evaluates within what a rule and the object have left.
    fn evaluate<'a>(&mut self, expr: &Expr, bindings: cel::Bindings<'a>) -> Result<Val<'a>, EvalError> {
        let most = RULE_BUDGET.min(self.budget.left());
        let budget = Budget::new(most);
        let outcome = cel::evaluate(expr, bindings, &budget);
        self.budget.spend(most - budget.left())?;
        outcome
    }

    fn message(&mut self, rule: &Rule, bindings: cel::Bindings<'_>) -> String {
        if let Some(expr) = &rule.message_expr
            && let Ok(Val::Text(text)) = self.evaluate(expr, bindings)
        {
            let good = !text.trim().is_empty() && !text.contains('\n') && text.len() <= 5 * 1024;
            if good {
                return text.trim().to_owned();
            }
        }
        rule.message.clone().unwrap_or_else(|| format!("failed rule: {}", rule.text.trim()))
    }
}

/// What is wrong with the rules of one node of a definition's schema. `uncorrelated` is the place above at which
/// the old value is lost.
pub(super) fn check_definition(
    schema: &Value,
    path: &Path<'_>,
    uncorrelated: Option<&str>,
    errors: &mut Vec<FieldError>,
) {
    let Some(rules) = schema.get("x-kubernetes-validations").and_then(Value::as_array) else { return };
    let typing = Schema::compile_without_rules(schema).ok();
    let all = path.child("x-kubernetes-validations");
    for (index, rule) in rules.iter().enumerate() {
        let at = all.index(index);
        one_definition(rule, &at, typing.as_ref(), uncorrelated, errors);
        let field_path = rule.get("fieldPath").and_then(Value::as_str);
        if let (Some(field_path), Some(typing)) = (field_path, &typing) {
            check_field_path(field_path, typing, &at.child("fieldPath"), errors);
        }
    }
}

fn one_definition(
    rule: &Value,
    at: &Path<'_>,
    typing: Option<&Schema>,
    uncorrelated: Option<&str>,
    errors: &mut Vec<FieldError>,
) {
    let text = |name: &str| rule.get(name).and_then(Value::as_str);
    let source = text("rule").unwrap_or_default();
    let (rule_at, message_at) = (at.child("rule"), at.child("message"));
    if source.trim().is_empty() {
        errors.push(FieldError::required(&rule_at, "rule is not specified"));
        return;
    }
    match text("message") {
        Some(message) if !message.is_empty() && message.trim().is_empty() => {
            errors.push(FieldError::invalid(&message_at, message, "must be non-empty if specified"));
        }
        Some(message) if message.contains('\n') => {
            errors.push(FieldError::invalid(&message_at, message, "must not contain line breaks"));
        }
        None | Some("") if source.trim().contains('\n') && text("messageExpression").is_none() => {
            let detail = "message must be specified if rule contains line breaks";
            errors.push(FieldError::required(&message_at, detail));
        }
        _ => {}
    }
    if let Some(reason) = text("reason").filter(|reason| !REASONS.contains(reason)) {
        errors.push(FieldError::not_supported(&at.child("reason"), reason, &REASONS));
    }
    let optional = rule.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or(false);
    let typing = typing.map(|typing| typing as &dyn Typing);
    let variables = [("self".to_owned(), typing), ("oldSelf".to_owned(), typing.filter(|_| !optional))];
    let mut compile = |field: &str, source: &str| match cel::parse(source) {
        Err(error) => {
            let detail = format!("compilation failed: {error}");
            errors.push(FieldError::invalid(&at.child(field), source, detail));
            None
        }
        Ok(expr) => {
            if let Some(what) = cel::undeclared(&expr, &variables) {
                let detail = format!("compilation failed: {what}");
                errors.push(FieldError::invalid(&at.child(field), source, detail));
            }
            Some(expr)
        }
    };
    let compiled = compile("rule", source);
    if let Some(message) = text("messageExpression") {
        if message.trim().is_empty() {
            let detail = "messageExpression must be non-empty if specified";
            errors.push(FieldError::required(&at.child("messageExpression"), detail));
        } else {
            compile("messageExpression", message);
        }
    }
    let uses_old = compiled.is_some_and(|expr| expr.uses("oldSelf"));
    if let (true, Some(place)) = (uses_old, uncorrelated) {
        let detail =
            format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {place}");
        errors.push(FieldError::invalid(&rule_at, source, detail));
    }
    if optional && !uses_old {
        let detail = "may not be set if oldSelf is not used in rule";
        errors.push(FieldError::invalid(&at.child("optionalOldSelf"), true, detail));
    }
}

/// A field path such as `.spec.list['a']` leads to a field of the schema.
fn check_field_path(text: &str, schema: &Schema, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    if text.trim().is_empty() {
        errors.push(FieldError::invalid(at, text, "must be non-empty if specified"));
        return;
    }
    let fields = super::jsonpath::JsonPath::parse(text).ok().and_then(|path| {
        path.fields().map(|fields| fields.into_iter().map(str::to_owned).collect::<Vec<_>>())
    });
    let known = fields
        .is_some_and(|fields| fields.iter().try_fold(schema, |schema, name| schema.field(name)).is_some());
    if !known {
        let detail = "fieldPath must be a valid path: does not refer to a valid field";
        errors.push(FieldError::invalid(at, text, detail));
    }
}
