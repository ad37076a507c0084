//! Reading fields by path and writing common cells.

use jiff::Timestamp;
use serde_json::{Map, Value};

pub(super) use crate::fields::{at, count, integer, list, text, text_or};
use crate::selector::LabelSelector;
use crate::time;

/// A number or text (IntOrString, Quantity) as text.
pub(super) fn scalar(value: Option<&Value>, absent: &str) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => absent.to_owned(),
        Some(other) => other.to_string(),
    }
}

/// The cell of the name.
pub(super) fn name(object: &Value) -> Value {
    text(object, "metadata.name").into()
}

/// The cell of the age.
pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    since(object, "metadata.creationTimestamp", now).into()
}

/// The time since a field, `<unknown>` when absent.
pub(super) fn since(object: &Value, path: &str, now: Timestamp) -> String {
    time::age(at(object, path).and_then(Value::as_str), now)
}

/// The creation time itself.
pub(super) fn created_at(object: &Value) -> Value {
    text(object, "metadata.creationTimestamp").into()
}

/// Names and images of a pod template's containers.
pub(super) fn containers(object: &Value, path: &str) -> [Value; 2] {
    let join = |field: &str| -> Value {
        list(object, path).iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",").into()
    };
    [join("name"), join("image")]
}

/// `a=b,c=d` or `<none>`.
pub(super) fn labels(map: Option<&Value>) -> String {
    let pairs = map.and_then(Value::as_object).map(|map: &Map<String, Value>| {
        let mut pairs: Vec<String> =
            map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
        pairs.sort();
        pairs.join(",")
    });
    pairs.filter(|p| !p.is_empty()).unwrap_or_else(|| "<none>".into())
}

/// A `LabelSelector` as text, or `<none>`.
pub(super) fn selector(value: Option<&Value>) -> String {
    let Some(value) = value else { return "<none>".into() };
    match LabelSelector::from_value(value) {
        Ok(selector) if selector.requirements().is_empty() => "<none>".into(),
        Ok(selector) => selector.to_string(),
        Err(_) => "<error>".into(),
    }
}

/// The condition of a type.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, "status.conditions").iter().find(|c| text(c, "type") == kind)
}

/// Whether the condition of a type is true.
pub(super) fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|c| text(c, "status") == "True")
}

/// At most three entries and how many more there are.
pub(super) fn three_of(entries: &[String], absent: &str) -> String {
    match entries {
        [] => absent.to_owned(),
        [a, b, c, more @ ..] if !more.is_empty() => format!("{a},{b},{c} + {} more...", more.len()),
        few => few.join(","),
    }
}
