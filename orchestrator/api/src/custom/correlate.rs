//! Which part of the old object a part of the new one was: fields by name, items of keyed lists by their keys.
//! Items of other lists have no identity.

use serde_json::Value;

use super::number::same;
use super::schema::{ListType, Schema};

/// The old value of a field.
pub(super) fn field<'a>(schema: &Schema, name: &str, old: Option<&'a Value>) -> Option<&'a Value> {
    if schema.map_is_atomic {
        return None;
    }
    old?.get(name)
}

/// The old value of an item.
pub(super) fn item<'a>(schema: &Schema, item: &Value, old: Option<&'a Value>) -> Option<&'a Value> {
    let ListType::Map(keys) = &schema.list_type else { return None };
    let matches = |other: &&Value| keys.iter().all(|key| same_key(item.get(key), other.get(key)));
    old?.as_array()?.iter().find(matches)
}

fn same_key(one: Option<&Value>, other: Option<&Value>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => same(one, other),
        (None, None) => true,
        _ => false,
    }
}
