//! The order of a merged list: elements of the patch in the patch's order, the others in the server's order,
//! and the two woven together so that the server's order holds wherever it says anything.

use serde_json::Value;

use super::PATCH;
use crate::patch::PatchError;

/// Whether two elements are the same one: equal keys for objects, equal values for scalars.
fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}

fn position(item: &Value, list: &[Value], key: Option<&str>) -> Option<usize> {
    list.iter().position(|candidate| same(candidate, item, key))
}

/// Orders a merged list by the patch and by what the server had.
pub(super) fn arrange(
    merged: Vec<Value>,
    patch: &[Value],
    server: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    let (mut ours, mut theirs): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| position(item, patch, key).is_some());
    sort_by(&mut ours, patch, key);
    sort_by(&mut theirs, server, key);
    weave(theirs, ours, server, key)
}

/// Orders a list by a `$setElementOrder` directive; elements that it does not name keep their place in between.
pub(super) fn by_directive(items: Vec<Value>, order: &[Value], key: Option<&str>) -> Vec<Value> {
    let server = items.clone();
    arrange(items, order, &server, key)
}

fn sort_by(items: &mut [Value], order: &[Value], key: Option<&str>) {
    items.sort_by_cached_key(|item| position(item, order, key).unwrap_or(usize::MAX));
}

/// Merges two ordered lists; an element of the server comes first only where the server had both in that order.
fn weave(theirs: Vec<Value>, ours: Vec<Value>, server: &[Value], key: Option<&str>) -> Vec<Value> {
    let mut out = Vec::with_capacity(theirs.len() + ours.len());
    let mut theirs = theirs.into_iter().peekable();
    let mut ours = ours.into_iter().peekable();
    loop {
        let theirs_first = match (theirs.peek(), ours.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(t), Some(o)) => {
                let places = position(t, server, key).zip(position(o, server, key));
                places.is_some_and(|(t, o)| t < o)
            }
        };
        out.extend(if theirs_first { theirs.next() } else { ours.next() });
    }
}

/// The patch's list must be part of the order list and in the same order.
pub(super) fn check(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    let marked = |item: &&Value| item.get(PATCH).is_none();
    for item in patch.iter().filter(marked) {
        if !rest.any(|candidate| same(candidate, item, key)) {
            let (patch, order) = (Value::from(patch.to_vec()), Value::from(order.to_vec()));
            return Err(PatchError::Failed(format!(
                "The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n"
            )));
        }
    }
    Ok(())
}
