//! Removing a set of fields from an object; what becomes empty by it goes too.

use serde_json::{Map, Value};

use super::element::Element;
use super::set::FieldSet;
use super::shape::{Kind, Shape};

/// What is taken from an object, and which objects stay although they become empty: those that somebody applied empty.
pub(super) struct Removal<'a> {
    /// The fields that go.
    pub(super) fields: &'a FieldSet,
    /// The fields that somebody owns.
    pub(super) owned: &'a FieldSet,
}

/// The object without the fields.
pub(super) fn remove(object: &Value, removal: &Removal<'_>, shape: Shape<'_>) -> Value {
    value(object, removal.fields, Some(removal.owned), shape).unwrap_or_else(|| Value::Object(Map::new()))
}

fn value(from: &Value, fields: &FieldSet, owned: Option<&FieldSet>, shape: Shape<'_>) -> Option<Value> {
    let kind = shape.kind([Some(from), None]);
    match (kind, from) {
        (Kind::Object, Value::Object(map)) => {
            let mut out = Map::new();
            for (name, child) in map {
                let element = Element::field(name);
                let shape = shape.field(name).map_or(Shape::Deduced, |f| f.shape);
                if let Some(kept) = part(child, &element, fields, owned, shape) {
                    out.insert(name.clone(), kept);
                }
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
        (Kind::Set | Kind::Keyed, Value::Array(list)) => {
            let kept = list.iter().filter_map(|item| match shape.element(kind, item) {
                Ok(element) => part(item, &element, fields, owned, shape.item()),
                Err(_) => Some(item.clone()),
            });
            let kept: Vec<Value> = kept.collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        _ => Some(from.clone()),
    }
}

fn part(
    child: &Value,
    element: &Element,
    fields: &FieldSet,
    owned: Option<&FieldSet>,
    shape: Shape<'_>,
) -> Option<Value> {
    if fields.has_element(element) {
        return None;
    }
    let Some(below) = fields.below(element) else { return Some(child.clone()) };
    let owned_below = owned.and_then(|o| o.below(element));
    let owned_empty = owned_below.is_none() && owned.is_some_and(|o| o.has_element(element));
    match value(child, below, owned_below, shape) {
        None if owned_empty && child.is_object() => Some(Value::Object(Map::new())),
        kept => kept,
    }
}
