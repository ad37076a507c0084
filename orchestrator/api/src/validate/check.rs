//! Checks that many kinds share.

use serde_json::Value;

use super::Errors;
use crate::field_error::{FieldError, Path};
use crate::fields::{at, map, number, text};
use crate::name::{self, Messages};
use crate::quantity::Quantity;
use crate::selector::LabelSelector;

pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub(super) const IMMUTABLE: &str = "field is immutable";

/// Adds one error for each message.
pub(super) fn messages(found: Messages, value: &str, path: &Path<'_>, errors: &mut Errors) {
    errors.extend(found.into_iter().map(|message| FieldError::invalid(path, value, message)));
}

/// A text that must be there; returns it when it is.
pub(super) fn required<'a>(
    o: &'a Value,
    field: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) -> Option<&'a str> {
    let value = text(o, field);
    if value.is_empty() {
        errors.push(FieldError::required(&path.child(field), ""));
        return None;
    }
    Some(value)
}

/// A text that must be there and pass a check.
pub(super) fn required_name(
    o: &Value,
    field: &str,
    check: fn(&str) -> Messages,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(value) = required(o, field, path, errors) {
        messages(check(value), value, &path.child(field), errors);
    }
}

/// A text that must pass a check where it is set.
pub(super) fn optional_name(
    o: &Value,
    field: &str,
    check: fn(&str) -> Messages,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let value = text(o, field);
    if !value.is_empty() {
        messages(check(value), value, &path.child(field), errors);
    }
}

/// A text that must be one of a few; absence is an error too.
pub(super) fn one_of(o: &Value, field: &str, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if let Some(value) = required(o, field, path, errors)
        && !allowed.contains(&value)
    {
        errors.push(FieldError::not_supported(&path.child(field), value, allowed));
    }
}

/// A text that must be one of a few where it is set.
pub(super) fn optional_one_of(
    o: &Value,
    field: &str,
    allowed: &[&str],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let value = text(o, field);
    if !value.is_empty() && !allowed.contains(&value) {
        errors.push(FieldError::not_supported(&path.child(field), value, allowed));
    }
}

/// A number that may not be below zero.
pub(super) fn not_negative(o: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    if let Some(value) = number(o, field).filter(|n| *n < 0) {
        errors.push(FieldError::invalid(&path.child(field), value, NOT_NEGATIVE));
    }
}

/// A number within bounds where it is set.
pub(super) fn in_range(o: &Value, field: &str, low: i64, high: i64, path: &Path<'_>, errors: &mut Errors) {
    if let Some(value) = number(o, field).filter(|n| !(low..=high).contains(n)) {
        errors.push(FieldError::invalid(&path.child(field), value, name::inclusive_range(low, high)));
    }
}

/// A field that may not change.
pub(super) fn immutable(new: &Value, old: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    let (new, old) = (at(new, field), at(old, field));
    if new != old {
        let value = new.cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(&path.child(field), value, IMMUTABLE));
    }
}

/// A count or a percentage; nothing below zero.
pub(super) fn count_or_percent(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    match value {
        Value::String(percent) => messages(name::percent(percent), percent, path, errors),
        Value::Number(n) if n.as_i64().is_some_and(|n| n < 0) => {
            errors.push(FieldError::invalid(path, value.clone(), NOT_NEGATIVE));
        }
        _ => {}
    }
}

/// What a percentage is, `None` for counts.
pub(super) fn percent_of(value: &Value) -> Option<i64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

/// Whether a count or percentage is zero or absent.
pub(super) fn is_zero(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text == "0%",
        Some(value) => value.as_i64() == Some(0),
    }
}

/// A port number or the name of one.
pub(super) fn port(value: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    match value {
        Some(Value::String(port)) => messages(name::port_name(port), port, path, errors),
        Some(Value::Number(port)) => {
            let port = port.as_i64().unwrap_or(0);
            let bad = name::port_number(port).into_iter();
            errors.extend(bad.map(|m| FieldError::invalid(path, port, m)));
        }
        _ => errors.push(FieldError::required(path, "")),
    }
}

/// Keys and values of a map of labels.
pub(super) fn labels(o: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child(field);
    for (key, value) in map(o, field) {
        messages(name::qualified_name(key), key, &path, errors);
        let value = value.as_str().unwrap_or_default();
        messages(name::label_value(value), value, &path, errors);
    }
}

/// A quantity that is well formed and not negative.
pub(super) fn quantity(value: &Value, path: &Path<'_>, errors: &mut Errors) -> Option<Quantity> {
    match Quantity::from_value(value) {
        Ok(quantity) if quantity.is_negative() => {
            errors.push(FieldError::invalid(path, quantity.to_string(), NOT_NEGATIVE));
            None
        }
        Ok(quantity) => Some(quantity),
        Err(error) => {
            errors.push(FieldError::invalid(path, value.clone(), error.to_string()));
            None
        }
    }
}

/// A selector of a workload: present, not empty, well formed, and matching its template.
pub(super) fn workload_selector(spec: &Value, path: &Path<'_>, errors: &mut Errors, empty: &str) {
    let selector_path = path.child("selector");
    let Some(selector) = at(spec, "selector") else {
        errors.push(FieldError::required(&selector_path, ""));
        return;
    };
    let found = crate::selector::validate(selector, &selector_path);
    if !found.is_empty() {
        errors.extend(found);
        return;
    }
    let Ok(parsed) = LabelSelector::from_value(selector) else { return };
    if parsed.is_everything() {
        errors.push(FieldError::invalid(&selector_path, selector.clone(), empty));
        return;
    }
    let labels = at(spec, "template.metadata.labels").cloned().unwrap_or_else(|| serde_json::json!({}));
    if !parsed.matches(&labels) {
        let template = path.child("template");
        let metadata = template.child("metadata");
        let message = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(&metadata.child("labels"), labels, message));
    }
}
