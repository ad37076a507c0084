//! Strategic merge patch: a merge patch that knows from the schema which lists are merged by which key.
//! Directives: `$patch`, `$retainKeys`, `$setElementOrder/LIST`, `$deleteFromPrimitiveList/LIST`.

mod list;
mod order;

use serde_json::{Map, Value};

use super::PatchError;
use crate::kind::Resource;
use crate::schema::{self, Field, ListStrategy, Struct, Type};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// Merges a patch body into an object of a built-in kind.
pub fn apply(resource: &Resource, current: &Value, patch: &Value) -> Result<Value, PatchError> {
    let (Value::Object(current), Value::Object(patch)) = (current, patch) else {
        return Err(malformed("a strategic merge patch must be an object"));
    };
    merge_object(current.clone(), patch, Shape::Struct(schema::of(resource))).map(Value::Object)
}

fn malformed(message: &str) -> PatchError {
    PatchError::Malformed(format!("error decoding patch: {message}"))
}

/// What the schema says about an object.
#[derive(Clone, Copy)]
enum Shape {
    /// Named fields.
    Struct(&'static Struct),
    /// Free keys with values of one type.
    Map(Type),
    /// Nothing is known: lists are replaced, objects merged.
    Unknown,
}

impl Shape {
    fn of(ty: Type) -> Shape {
        match (ty.as_struct(), ty) {
            (Some(s), _) => Shape::Struct(s),
            (None, Type::Map(_)) => ty.item().map_or(Shape::Unknown, Shape::Map),
            _ => Shape::Unknown,
        }
    }

    fn field(self, name: &str) -> Option<&'static Field> {
        match self {
            Shape::Struct(s) => s.field(name),
            _ => None,
        }
    }

    /// The shape of an object below a field.
    fn child(self, name: &str) -> Shape {
        match self {
            Shape::Struct(s) => s.field(name).map_or(Shape::Unknown, |f| Shape::of(f.ty)),
            Shape::Map(item) => Shape::of(item),
            Shape::Unknown => Shape::Unknown,
        }
    }

    /// How a list below a field is merged.
    fn list(self, name: &str) -> ListRule {
        let Some(field) = self.field(name) else { return ListRule::REPLACE };
        ListRule {
            merged: field.list_strategy() == ListStrategy::Merge,
            key: field.patch_merge_key(),
            item: field.ty.item().map_or(Shape::Unknown, Shape::of),
        }
    }
}

/// How a list is merged, and the shape of its elements.
#[derive(Clone, Copy)]
struct ListRule {
    merged: bool,
    key: Option<&'static str>,
    item: Shape,
}

impl ListRule {
    const REPLACE: ListRule = ListRule { merged: false, key: None, item: Shape::Unknown };
}

/// Merges one object; the directives of the patch are obeyed and dropped.
fn merge_object(
    mut object: Map<String, Value>,
    patch: &Map<String, Value>,
    shape: Shape,
) -> Result<Map<String, Value>, PatchError> {
    if let Some(directive) = patch.get(PATCH) {
        return whole_object(directive, patch);
    }
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        retain_keys(&mut object, patch, keys)?;
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_PRIMITIVES) {
            delete_primitives(&mut object, list, value)?;
        }
    }
    for (key, value) in patch {
        if key == RETAIN_KEYS || key.starts_with(DELETE_PRIMITIVES) || key.starts_with(ELEMENT_ORDER) {
            continue;
        }
        merge_field(&mut object, key, value, shape)?;
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(ELEMENT_ORDER) {
            let original_patch = patch.get(list);
            set_order(&mut object, list, value, original_patch, shape)?;
        }
    }
    Ok(object)
}

/// `$patch: replace` takes the patch as it is, `$patch: delete` empties the object.
fn whole_object(directive: &Value, patch: &Map<String, Value>) -> Result<Map<String, Value>, PatchError> {
    match directive.as_str() {
        Some("replace") => {
            let fields = patch.iter().filter(|(key, _)| *key != PATCH);
            Ok(fields.filter_map(|(k, v)| Some((k.clone(), without_directives(v)?))).collect())
        }
        Some("delete") => Ok(Map::new()),
        Some("merge") => {
            let fields = patch.iter().filter(|(key, _)| *key != PATCH);
            Ok(fields.map(|(k, v)| (k.clone(), v.clone())).collect())
        }
        _ => Err(PatchError::Malformed(format!("unknown patch type: {directive}"))),
    }
}

/// Drops every key that the directive does not list; the patch may set only keys that it lists.
fn retain_keys(
    object: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    keys: &Value,
) -> Result<(), PatchError> {
    let refused = || PatchError::Malformed("invalid patch format of retainKeys".into());
    let keys: Vec<&str> = keys
        .as_array()
        .ok_or_else(refused)?
        .iter()
        .map(|k| k.as_str().ok_or_else(refused))
        .collect::<Result<_, _>>()?;
    let unlisted = |(key, value): (&String, &Value)| {
        !key.starts_with('$') && !value.is_null() && !keys.contains(&key.as_str())
    };
    if patch.iter().any(unlisted) {
        return Err(refused());
    }
    object.retain(|key, _| keys.contains(&key.as_str()));
    Ok(())
}

fn delete_primitives(object: &mut Map<String, Value>, list: &str, values: &Value) -> Result<(), PatchError> {
    let refused = || PatchError::Malformed("invalid patch format of primitive list".into());
    let values = values.as_array().ok_or_else(refused)?;
    if let Some(Value::Array(items)) = object.get_mut(list) {
        items.retain(|item| !values.contains(item));
    }
    Ok(())
}

fn merge_field(
    object: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    shape: Shape,
) -> Result<(), PatchError> {
    if value.is_null() {
        object.remove(key);
        return Ok(());
    }
    let replaced = shape.field(key).is_some_and(Field::replaced);
    let merged = match (object.remove(key), value) {
        (Some(Value::Object(old)), Value::Object(patch)) if !replaced => {
            Some(Value::Object(merge_object(old, patch, shape.child(key))?))
        }
        (Some(Value::Array(old)), Value::Array(patch)) if shape.list(key).merged => {
            Some(Value::Array(list::merge(old, patch, shape.list(key), key)?))
        }
        _ => without_directives(value),
    };
    if let Some(merged) = merged {
        object.insert(key.to_owned(), merged);
    }
    Ok(())
}

fn set_order(
    object: &mut Map<String, Value>,
    list: &str,
    order: &Value,
    patch: Option<&Value>,
    shape: Shape,
) -> Result<(), PatchError> {
    let refused = || PatchError::Malformed("invalid patch format of setElementOrder list".into());
    let order = order.as_array().ok_or_else(refused)?;
    let rule = shape.list(list);
    if let Some(patch) = patch {
        order::check(patch.as_array().ok_or_else(refused)?, order, rule.key)?;
    }
    if let Some(Value::Array(items)) = object.get_mut(list) {
        *items = order::by_directive(std::mem::take(items), order, rule.key);
    }
    Ok(())
}

/// A value of the patch that has nothing to merge with: directives and nulls go, marked elements are left out.
fn without_directives(value: &Value) -> Option<Value> {
    match value {
        Value::Object(fields) => {
            if fields.contains_key(PATCH) && fields.get(PATCH).and_then(Value::as_str) != Some("replace") {
                return None;
            }
            let kept = fields.iter().filter(|(key, value)| !key.starts_with('$') && !value.is_null());
            Some(Value::Object(kept.filter_map(|(k, v)| Some((k.clone(), without_directives(v)?))).collect()))
        }
        Value::Array(items) => {
            let only_a_directive = |item: &&Value| {
                item.as_object().is_none_or(|fields| fields.len() > 1 || !fields.contains_key(PATCH))
            };
            Some(Value::Array(items.iter().filter(only_a_directive).filter_map(without_directives).collect()))
        }
        other => Some(other.clone()),
    }
}

#[cfg(test)]
mod tests;
