//! Reading fields of JSON values by path; an absent field and null are the same.

use serde_json::{Map, Value};

/// The value at a path with dots.
pub(crate) fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(object, |value, part| value.get(part)).filter(|v| !v.is_null())
}

/// The text at a path, empty when absent.
pub(crate) fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// The text at a path, or a word for its absence.
pub(crate) fn text_or<'a>(object: &'a Value, path: &str, absent: &'a str) -> &'a str {
    Some(text(object, path)).filter(|t| !t.is_empty()).unwrap_or(absent)
}

/// The number at a path.
pub(crate) fn number(object: &Value, path: &str) -> Option<i64> {
    at(object, path).and_then(Value::as_i64)
}

/// The number at a path, 0 when absent.
pub(crate) fn integer(object: &Value, path: &str) -> i64 {
    number(object, path).unwrap_or(0)
}

/// The boolean at a path, false when absent.
pub(crate) fn flag(object: &Value, path: &str) -> bool {
    at(object, path).and_then(Value::as_bool).unwrap_or(false)
}

/// The list at a path, empty when absent.
pub(crate) fn list<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The texts of a list.
pub(crate) fn texts<'a>(object: &'a Value, path: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    list(object, path).iter().filter_map(Value::as_str)
}

/// The map at a path, empty when absent.
pub(crate) fn map<'a>(
    object: &'a Value,
    path: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
    let map: Option<&Map<String, Value>> = at(object, path).and_then(Value::as_object);
    map.into_iter().flatten()
}

/// The number of entries of a map or list.
pub(crate) fn count(object: &Value, path: &str) -> usize {
    match at(object, path) {
        Some(Value::Object(map)) => map.len(),
        Some(Value::Array(list)) => list.len(),
        _ => 0,
    }
}
