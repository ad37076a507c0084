//! Merging lists: of objects by their merge key, of scalars as sets.

use serde_json::{Map, Value};

use super::order;
use super::{ListRule, PATCH, merge_object, without_directives};
use crate::patch::PatchError;

/// Merges a list of the patch into a list whose schema says `merge`.
pub(super) fn merge(
    old: Vec<Value>,
    patch: &[Value],
    rule: ListRule,
    name: &str,
) -> Result<Vec<Value>, PatchError> {
    if old.iter().chain(patch).any(Value::is_array) {
        return Err(PatchError::Failed("lists of lists are not supported".into()));
    }
    match old.iter().chain(patch).all(Value::is_object) {
        true => objects(old, patch, rule, name),
        false if old.iter().chain(patch).any(Value::is_object) => {
            Err(PatchError::Failed(format!("the elements of list {name} must be all objects or all scalars")))
        }
        false => Ok(scalars(old, patch)),
    }
}

fn scalars(old: Vec<Value>, patch: &[Value]) -> Vec<Value> {
    let order = old.clone();
    let mut merged: Vec<Value> = Vec::with_capacity(old.len() + patch.len());
    for item in old.into_iter().chain(patch.iter().cloned()) {
        if !merged.contains(&item) {
            merged.push(item);
        }
    }
    order::arrange(merged, patch, &order, None)
}

fn objects(
    mut old: Vec<Value>,
    patch: &[Value],
    rule: ListRule,
    name: &str,
) -> Result<Vec<Value>, PatchError> {
    let Some(key) = rule.key else {
        return Err(PatchError::Failed(format!("cannot merge lists without merge key for {name}")));
    };
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch.iter().filter_map(Value::as_object) {
        match item.get(PATCH).map(|d| (d, d.as_str())) {
            None => plain.push(item),
            Some((_, Some("delete"))) => {
                let value = key_of(item, key)?;
                old.retain(|candidate| candidate.get(key) != Some(value));
            }
            Some((_, Some("replace"))) => replace = true,
            Some((_, Some("merge"))) => {
                return Err(PatchError::Failed("merging lists cannot yet be specified in the patch".into()));
            }
            Some((directive, _)) => {
                return Err(PatchError::Failed(format!("unknown patch type: {directive} in list {name}")));
            }
        }
    }
    if replace {
        let items = plain.into_iter().map(|item| Value::Object(item.clone()));
        return Ok(items.filter_map(|item| without_directives(&item)).collect());
    }
    let server_order = old.clone();
    for item in &plain {
        merge_item(&mut old, item, key, rule)?;
    }
    Ok(order::arrange(old, patch, &server_order, Some(key)))
}

fn merge_item(
    list: &mut Vec<Value>,
    item: &Map<String, Value>,
    key: &str,
    rule: ListRule,
) -> Result<(), PatchError> {
    let value = key_of(item, key)?;
    match list.iter_mut().find(|candidate| candidate.get(key) == Some(value)) {
        Some(slot) => {
            let Value::Object(old) = slot.take() else { return Ok(()) };
            *slot = Value::Object(merge_object(old, item, rule.item)?);
        }
        None => list.extend(without_directives(&Value::Object(item.clone()))),
    }
    Ok(())
}

fn key_of<'a>(item: &'a Map<String, Value>, key: &str) -> Result<&'a Value, PatchError> {
    item.get(key).ok_or_else(|| {
        let text = Value::Object(item.clone());
        PatchError::Failed(format!("map: {text} does not contain declared merge key: {key}"))
    })
}
