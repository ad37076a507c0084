//! Dropping what a structural schema does not know (`apiserver/schema/pruning`), and finding the objects inside of
//! objects whose metadata is checked like that of every object.

use serde_json::Value;

use super::default::drop_nulls;
use super::schema::{Additional, Schema};

const TYPE_META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Drops unknown fields of a whole object, and null where null means absence. Returns the paths of what was
/// dropped, such as `spec.list[0].typo`.
pub fn prune(schema: &Schema, object: &mut Value) -> Vec<String> {
    let mut dropped = Vec::new();
    node(Some(schema), Level::Root, object, "", &mut dropped);
    drop_nulls(schema, object);
    dropped.sort();
    dropped
}

/// As [`prune`], for a value that is no whole object.
pub(super) fn prune_below(schema: &Schema, value: &mut Value) -> Vec<String> {
    let mut dropped = Vec::new();
    node(Some(schema), Level::Below, value, "", &mut dropped);
    dropped
}

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Below,
}

/// Without a schema nothing is known, so everything goes.
fn node(schema: Option<&Schema>, level: Level, value: &mut Value, path: &str, dropped: &mut Vec<String>) {
    let keeps = schema.is_some_and(|schema| schema.preserve);
    match value {
        Value::Object(fields) => {
            let resource = level == Level::Root || schema.is_some_and(|schema| schema.embedded);
            fields.retain(|name, value| {
                if resource && TYPE_META.contains(&name.as_str()) {
                    return true;
                }
                let place = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let (known, below) =
                    match schema.map(|schema| (schema.properties.get(name), &schema.additional)) {
                        Some((Some(below), _)) => (true, Some(below)),
                        Some((None, Additional::Values(below))) => (true, Some(&**below)),
                        Some((None, Additional::Anything)) => (true, None),
                        _ => (keeps, None),
                    };
                if !known {
                    dropped.push(place);
                    return false;
                }
                // What is kept without a schema of its own is kept whole.
                if below.is_some() {
                    node(below, Level::Below, value, &place, dropped);
                }
                true
            });
        }
        Value::Array(items) => {
            let below = schema.and_then(|schema| schema.items.as_deref());
            if below.is_none() && keeps {
                return;
            }
            for (index, item) in items.iter_mut().enumerate() {
                node(below, Level::Below, item, &format!("{path}[{index}]"), dropped);
            }
        }
        _ => {}
    }
}

/// Calls `visit` with the place and the fields of every object inside of the object.
pub fn embedded_metadata<E>(
    schema: &Schema,
    value: &mut Value,
    path: &str,
    visit: &mut impl FnMut(&str, &mut serde_json::Map<String, Value>) -> Result<(), E>,
) -> Result<(), E> {
    match value {
        Value::Object(fields) => {
            if schema.embedded {
                visit(path, fields)?;
            }
            for (name, value) in fields {
                if let Some(below) = schema.field(name) {
                    let place = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    embedded_metadata(below, value, &place, visit)?;
                }
            }
        }
        Value::Array(items) => {
            let Some(below) = schema.items.as_deref() else { return Ok(()) };
            for (index, item) in items.iter_mut().enumerate() {
                embedded_metadata(below, item, &format!("{path}[{index}]"), visit)?;
            }
        }
        _ => {}
    }
    Ok(())
}
