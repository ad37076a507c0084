//! The fields of an object, and the fields in which two objects differ.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::element::Element;
use super::set::FieldSet;
use super::shape::{Kind, Shape};

/// The fields in which a new object differs from an old one; no field is in two of the sets.
#[derive(Clone, Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl Comparison {
    /// Leaves out fields and all below them.
    pub(super) fn without(self, fields: &FieldSet) -> Comparison {
        Comparison {
            added: self.added.recursive_difference(fields),
            modified: self.modified.recursive_difference(fields),
            removed: self.removed.recursive_difference(fields),
        }
    }
}

/// Compares two objects.
pub(super) fn compare(old: &Value, new: &Value, shape: Shape<'_>) -> Comparison {
    let mut out = Comparison::default();
    walk(Some(old), Some(new), shape, &mut Vec::new(), &mut out);
    out
}

fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|v| !v.is_null())
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

fn walk(
    old: Option<&Value>,
    new: Option<&Value>,
    shape: Shape<'_>,
    path: &mut Vec<Element>,
    out: &mut Comparison,
) {
    let (old, new) = (present(old), present(new));
    if old.is_none() && new.is_none() {
        return;
    }
    let kind = shape.kind([old, new]);
    match kind {
        Kind::Object if !(is_empty(old) && is_empty(new)) => objects(old, new, shape, path, out),
        Kind::Set | Kind::Keyed if !(is_empty(old) && is_empty(new)) => {
            lists(old, new, shape, kind, path, out)
        }
        _ => {
            if old.is_some() && new.is_some() && old != new {
                out.modified.insert(path);
            }
        }
    }
    match (old, new) {
        (None, Some(_)) => out.added.insert(path),
        (Some(_), None) => out.removed.insert(path),
        _ => {}
    }
}

fn objects(
    old: Option<&Value>,
    new: Option<&Value>,
    shape: Shape<'_>,
    path: &mut Vec<Element>,
    out: &mut Comparison,
) {
    let empty = Map::new();
    let fields = |value: Option<&'_ Value>| value.and_then(Value::as_object).cloned();
    let (old_fields, new_fields) = (fields(old), fields(new));
    let (old, new) = (old_fields.as_ref().unwrap_or(&empty), new_fields.as_ref().unwrap_or(&empty));
    for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
        let child = shape.field(name).map_or(Shape::Deduced, |f| f.shape);
        path.push(Element::field(name));
        walk(old.get(name), new.get(name), child, path, out);
        path.pop();
    }
}

/// The items of a list by their element; duplicates together. Items without a key are left out.
fn index<'v>(list: Option<&'v Value>, shape: Shape<'_>, kind: Kind) -> BTreeMap<Element, Vec<&'v Value>> {
    let mut items: BTreeMap<Element, Vec<&Value>> = BTreeMap::new();
    for item in list.and_then(Value::as_array).into_iter().flatten() {
        if let Ok(element) = shape.element(kind, item) {
            items.entry(element).or_default().push(item);
        }
    }
    items
}

fn lists(
    old: Option<&Value>,
    new: Option<&Value>,
    shape: Shape<'_>,
    kind: Kind,
    path: &mut Vec<Element>,
    out: &mut Comparison,
) {
    let (old, new) = (index(old, shape, kind), index(new, shape, kind));
    let none: Vec<&Value> = Vec::new();
    for element in old.keys().chain(new.keys().filter(|e| !old.contains_key(*e))) {
        let (before, after) = (old.get(element).unwrap_or(&none), new.get(element).unwrap_or(&none));
        path.push(element.clone());
        match (before.as_slice(), after.as_slice()) {
            ([_, _, ..], [_, _, ..]) => {
                if before != after {
                    out.modified.insert(path);
                }
            }
            // Duplicates are owned as one; when they end or begin, the single item is new or gone.
            ([_, _, ..], after) => {
                walk(None, after.first().copied(), shape.item(), path, out);
                out.removed.insert(path);
            }
            (before, [_, _, ..]) => {
                walk(before.first().copied(), None, shape.item(), path, out);
                out.added.insert(path);
            }
            (before, after) => {
                walk(before.first().copied(), after.first().copied(), shape.item(), path, out);
            }
        }
        path.pop();
    }
}

/// Every field of an object that can be owned.
pub(super) fn to_set(object: &Value, shape: Shape<'_>) -> FieldSet {
    let mut set = FieldSet::default();
    fields(object, shape, &mut Vec::new(), &mut set);
    set
}

fn fields(value: &Value, shape: Shape<'_>, path: &mut Vec<Element>, set: &mut FieldSet) {
    let kind = shape.kind([Some(value), None]);
    match (kind, value) {
        (Kind::Object, Value::Object(map)) => {
            for (name, value) in map {
                let (child, named) =
                    shape.field(name).map_or((Shape::Deduced, false), |f| (f.shape, f.named));
                path.push(Element::field(name));
                fields(value, child, path, set);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                if empty || !named {
                    set.insert(path);
                }
                path.pop();
            }
        }
        (Kind::Set | Kind::Keyed, Value::Array(_)) => {
            for (element, items) in index(Some(value), shape, kind) {
                path.push(element);
                if let [item] = items.as_slice() {
                    fields(item, shape.item(), path, set);
                }
                set.insert(path);
                path.pop();
            }
        }
        _ => set.insert(path),
    }
}
