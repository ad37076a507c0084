//! Merging an applied configuration into the live object: the configuration wins wherever it says something.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::element::{Element, path_text};
use super::shape::{Kind, Shape};

/// Merges; the error says which part of the configuration is malformed.
pub(super) fn merge(live: &Value, config: &Value, shape: Shape<'_>) -> Result<Value, String> {
    let merged = values(Some(live), Some(config), shape, &mut Vec::new())?;
    Ok(merged.unwrap_or_else(|| Value::Object(Map::new())))
}

fn values(
    live: Option<&Value>,
    config: Option<&Value>,
    shape: Shape<'_>,
    path: &mut Vec<Element>,
) -> Result<Option<Value>, String> {
    let explicit_null = config.is_some_and(Value::is_null);
    let (live, config) = (live.filter(|v| !v.is_null()), config.filter(|v| !v.is_null()));
    let kind = shape.kind([live, config]);
    let empty = |value: Option<&Value>| match value {
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        other => other.is_none(),
    };
    match kind {
        Kind::Object if !(empty(live) && empty(config)) => objects(live, config, shape, path),
        Kind::Set | Kind::Keyed if !(empty(live) && empty(config)) => lists(live, config, shape, kind, path),
        Kind::Leaf if explicit_null => Ok(None),
        _ => Ok(config.or(live).cloned()),
    }
}

fn objects(
    live: Option<&Value>,
    config: Option<&Value>,
    shape: Shape<'_>,
    path: &mut Vec<Element>,
) -> Result<Option<Value>, String> {
    let empty = Map::new();
    let live = live.and_then(Value::as_object).unwrap_or(&empty);
    let config = config.and_then(Value::as_object).unwrap_or(&empty);
    let mut out = Map::new();
    for name in live.keys().chain(config.keys().filter(|name| !live.contains_key(*name))) {
        let child = shape.field(name).map_or(Shape::Deduced, |f| f.shape);
        path.push(Element::field(name));
        if let Some(merged) = values(live.get(name), config.get(name), child, path)? {
            out.insert(name.clone(), merged);
        }
        path.pop();
    }
    Ok((!out.is_empty()).then_some(Value::Object(out)))
}

type Indexed<'v> = (Vec<(Element, &'v Value)>, BTreeMap<Element, &'v Value>);

/// The items of a configuration; an element that occurs twice is an error.
fn unique<'v>(
    list: &'v [Value],
    shape: Shape<'_>,
    kind: Kind,
    path: &[Element],
) -> Result<Indexed<'v>, String> {
    let mut order = Vec::with_capacity(list.len());
    let mut by_element = BTreeMap::new();
    for (i, item) in list.iter().enumerate() {
        let element =
            shape.element(kind, item).map_err(|e| format!("{}: element {i}: {e}", path_text(path)))?;
        if by_element.insert(element.clone(), item).is_some() {
            return Err(format!("{}: duplicate entries for key {element}", path_text(path)));
        }
        order.push((element, item));
    }
    Ok((order, by_element))
}

fn items(list: Option<&Value>) -> &[Value] {
    list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Items of the configuration keep its order; items that only the live list has stay where they are between
/// the items that both have.
fn lists(
    live: Option<&Value>,
    config: Option<&Value>,
    shape: Shape<'_>,
    kind: Kind,
    path: &mut Vec<Element>,
) -> Result<Option<Value>, String> {
    let (ours, by_element) = unique(items(config), shape, kind, path)?;
    let mut live_items = Vec::new();
    let mut mergeable: BTreeMap<Element, Option<&Value>> = BTreeMap::new();
    for item in items(live) {
        // A live item without a key belongs to nobody and stays.
        let element = shape.element(kind, item).ok();
        if let Some(element) = &element {
            // Duplicates are not merged with.
            mergeable.entry(element.clone()).and_modify(|slot| *slot = None).or_insert(Some(item));
        }
        live_items.push((element, item));
    }
    let mut shared: Vec<&Element> =
        ours.iter().map(|(e, _)| e).filter(|e| mergeable.contains_key(*e)).rev().collect();
    let mut weave = Weave { out: Vec::new() };
    let mut live_items = live_items.into_iter().peekable();
    for (element, item) in &ours {
        // Live-only items come before the next shared item, as they did.
        if shared.last() == Some(&element) {
            shared.pop();
            while let Some((other, live_item)) = live_items.next_if(|(e, _)| e.as_ref() != Some(element)) {
                weave.keep(other, live_item, &by_element);
            }
            live_items.next();
        }
        path.push(element.clone());
        let old = mergeable.get(element).copied().flatten();
        weave.out.extend(values(old, Some(item), shape.item(), path)?);

        path.pop();
    }
    for (other, live_item) in live_items {
        weave.keep(other, live_item, &by_element);
    }
    Ok((!weave.out.is_empty()).then_some(Value::Array(weave.out)))
}

struct Weave {
    out: Vec<Value>,
}

impl Weave {
    /// Keeps a live item unless the configuration has it, which puts it elsewhere.
    fn keep(&mut self, element: Option<Element>, item: &Value, config: &BTreeMap<Element, &Value>) {
        if element.is_none_or(|element| !config.contains_key(&element)) {
            self.out.push(item.clone());
        }
    }
}
