//! What a controller has written and its caches have not shown yet, and patches of status.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use catamaran_client::object;

/// The highest revision that was written on behalf of each key. A controller that plans from a cache first
/// makes sure that the cache has seen its own last write: so nothing is created twice.
///
/// It is only in memory. After a restart the first list of each cache is newer than every earlier write.
///
/// A write is waited for no longer than [`PATIENCE`]: when the object was deleted while the cache listed anew,
/// no event with its revision, and perhaps none at all, will ever come.
pub(crate) struct Written<K> {
    revisions: Mutex<HashMap<K, (u64, Instant)>>,
}

/// By then a cache shows every write, or listed anew after it.
const PATIENCE: Duration = Duration::from_secs(30);

impl<K> Default for Written<K> {
    fn default() -> Self {
        Self { revisions: Mutex::default() }
    }
}

impl<K: Hash + Eq + Clone> Written<K> {
    /// A write on behalf of `key` made `revision`.
    pub(crate) fn note(&self, key: &K, revision: u64) {
        let now = Instant::now();
        let mut revisions = self.revisions();
        let highest = revisions.entry(key.clone()).or_insert((0, now));
        *highest = (revision.max(highest.0), now);
    }

    /// Is there a write that a cache which is at `seen` has not shown?
    pub(crate) fn is_ahead_of(&self, key: &K, seen: u64) -> bool {
        let mut revisions = self.revisions();
        match revisions.get(key) {
            Some((revision, at)) if *revision > seen && at.elapsed() < PATIENCE => true,
            Some(_) => {
                revisions.remove(key);
                false
            }
            None => false,
        }
    }

    /// Stops waiting, for example since the object was read from the server itself.
    pub(crate) fn forget(&self, key: &K) {
        self.revisions().remove(key);
    }

    fn revisions(&self) -> MutexGuard<'_, HashMap<K, (u64, Instant)>> {
        self.revisions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A JSON merge patch that turns status `old` into `new`; `None` when they are equal. It holds only if the
/// object is still the one of `meta`, unchanged.
pub(crate) fn status_patch<S: Serialize + PartialEq>(meta: &ObjectMeta, old: &S, new: &S) -> Option<Value> {
    if old == new {
        return None;
    }
    let (old, new) = (serde_json::to_value(old).ok()?, serde_json::to_value(new).ok()?);
    let status = difference(&old, &new)?;
    Some(json!({"metadata": preconditions(meta), "status": status}))
}

/// The metadata of a patch that is refused when the object has changed or is another one.
pub(crate) fn preconditions(meta: &ObjectMeta) -> Value {
    json!({"uid": object::uid(meta), "resourceVersion": meta.resource_version})
}

/// The members that differ, at any depth; null for those that are gone.
fn difference(old: &Value, new: &Value) -> Option<Value> {
    let (old, new) = (old.as_object()?, new.as_object()?);
    let mut patch = Map::new();
    for (key, value) in new {
        match old.get(key) {
            Some(same) if same == value => {}
            // What is not named in a merge patch stays, also in an object within the object.
            Some(before @ Value::Object(_)) if value.is_object() => {
                patch.extend(difference(before, value).map(|inner| (key.clone(), inner)));
            }
            _ => drop(patch.insert(key.clone(), value.clone())),
        }
    }
    for key in old.keys() {
        if !new.contains_key(key) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_what_changed_and_what_is_gone() {
        let old = json!({"a": 1, "b": 2, "c": [1], "e": {"x": 1, "y": 2}, "f": {"x": 1}});
        let new = json!({"a": 1, "b": 3, "d": true, "e": {"y": 3}, "f": {"x": 1}});
        assert_eq!(
            difference(&old, &new),
            Some(json!({"b": 3, "c": null, "d": true, "e": {"x": null, "y": 3}}))
        );
        assert_eq!(difference(&old, &old), None);
    }

    #[test]
    fn a_write_is_waited_for_until_it_is_seen() {
        let written = Written::default();
        written.note(&"k", 7);
        written.note(&"k", 5);
        assert!(written.is_ahead_of(&"k", 6));
        assert!(!written.is_ahead_of(&"k", 7));
        assert!(!written.is_ahead_of(&"k", 0), "once seen it is forgotten");
    }
}
