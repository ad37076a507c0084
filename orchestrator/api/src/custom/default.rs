//! Filling in the defaults of a schema, as `apiserver/schema/defaulting` does: a missing field gets its default,
//! null does too unless the field may be null, and null without a default goes (which pruning sees to).

use serde_json::Value;

use super::schema::Schema;

/// Fills in what is missing. Doing it twice changes nothing.
pub fn default(schema: &Schema, value: &mut Value) {
    if schema.has_defaults() {
        fill(schema, value);
    }
}

fn fill(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                let missing = match fields.get(name) {
                    None => true,
                    Some(Value::Null) => !property.nullable,
                    Some(_) => false,
                };
                if missing {
                    fields.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in fields {
                if let Some(below) = schema.field(name) {
                    replace_null(below, value);
                    if below.has_defaults() {
                        fill(below, value);
                    }
                }
            }
        }
        Value::Array(items) => {
            let Some(below) = schema.items.as_deref() else { return };
            for item in items {
                replace_null(below, item);
                fill(below, item);
            }
        }
        _ => {}
    }
}

fn replace_null(schema: &Schema, value: &mut Value) {
    if let (Value::Null, false, Some(default)) = (&*value, schema.nullable, &schema.default) {
        *value = default.clone();
    }
}

/// Null in a field that may not be null and has no default means absence.
pub(super) fn drop_nulls(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| {
                let stays = |below: &Schema| below.nullable || below.default.is_some();
                !value.is_null() || schema.field(name).is_none_or(stays)
            });
            for (name, value) in fields {
                if let Some(below) = schema.field(name) {
                    drop_nulls(below, value);
                }
            }
        }
        Value::Array(items) => {
            let Some(below) = schema.items.as_deref() else { return };
            items.iter_mut().for_each(|item| drop_nulls(below, item));
        }
        _ => {}
    }
}
