//! Lists that are sets or maps hold nothing twice (`apiserver/schema/listtype`).

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::error;
use super::schema::{ListType, Schema};
use crate::field_error::{ErrorType, FieldError};

/// Every item that occurs a second time.
pub(super) fn check(schema: &Schema, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    node(schema, value, "", &mut errors);
    errors
}

fn node(schema: &Schema, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let Some(below) = schema.field(name) {
                    let place = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    node(below, value, &place, errors);
                }
            }
        }
        Value::Array(items) => {
            duplicates(schema, items, path, errors);
            let Some(below) = schema.items.as_deref() else { return };
            for (index, item) in items.iter().enumerate() {
                node(below, item, &format!("{path}[{index}]"), errors);
            }
        }
        _ => {}
    }
}

fn duplicates(schema: &Schema, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let keys = match &schema.list_type {
        ListType::Atomic => return,
        ListType::Set => None,
        ListType::Map(keys) => Some(keys),
    };
    let mut seen = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let identity = match keys {
            None => item.clone(),
            Some(keys) => {
                let of = |key: &String| Some((key.clone(), item.get(key)?.clone()));
                Value::Object(keys.iter().filter_map(of).collect::<Map<_, _>>())
            }
        };
        if !seen.insert(canonical(&identity)) {
            errors.push(error(ErrorType::Duplicate, &format!("{path}[{index}]"), Some(identity), ""));
        }
    }
}

/// The same text for the same value: `1.0` is `1`, and fields are sorted.
fn canonical(value: &Value) -> String {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9e15 => {
                format!("{float:.0}")
            }
            _ => number.to_string(),
        },
        Value::Object(fields) => {
            let mut parts: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name:?}:{}", canonical(value))).collect();
            parts.sort();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}
