//! What the server fills in where the client says nothing. Static values only: addresses, ports and names are allocated elsewhere.
//! Objects have been decoded, so that values have their types; a missing `spec` counts as an empty one.

use serde_json::{Map, Value};

use crate::kind::{GroupVersionKind, Resource};

mod core;
mod pod;
mod policy;
mod workload;

pub use pod::qos_class;

type Object = Map<String, Value>;

/// Fills in the defaults of a resource's object. Doing it twice changes nothing.
///
/// Those of custom resources stand in their schemas.
pub fn apply(resource: &Resource, object: &mut Value) {
    if resource.custom {
        return;
    }
    apply_kind(resource.gvk(), object);
}

/// Fills in the defaults of any kind: also `TokenRequest`.
pub fn apply_kind(gvk: GroupVersionKind, object: &mut Value) {
    let Some(object) = object.as_object_mut() else { return };
    match gvk.group {
        "" => core::fill(gvk.kind, object),
        "apps" | "batch" | "autoscaling" => workload::fill(gvk, object),
        _ => policy::fill(gvk, object),
    }
}

/// Fills in what a new object gets once and a changed one keeps: the first status of a pod, a namespace's finalizer, a Job's own selector.
/// `metadata.uid` must be set. Run it after [`apply`].
pub fn on_create(resource: &Resource, object: &mut Value) {
    let Some(object) = object.as_object_mut() else { return };
    if resource.custom {
        return;
    }
    match (resource.group, resource.kind) {
        ("", "Pod") => pod::on_create(object),
        ("", "Namespace") => core::namespace_on_create(object),
        ("batch", "Job") => workload::job_on_create(object),
        _ => {}
    }
}

/// Sets a field that is not there.
fn put(object: &mut Object, name: &str, value: impl Into<Value>) {
    if !object.contains_key(name) {
        object.insert(name.to_owned(), value.into());
    }
}

/// Sets a field that is not there or empty text.
fn put_text(object: &mut Object, name: &str, value: &str) {
    if text(object, name).is_empty() {
        object.insert(name.to_owned(), value.into());
    }
}

/// Sets a number that is not there or zero.
fn put_number(object: &mut Object, name: &str, value: i64) {
    if object.get(name).and_then(Value::as_i64).unwrap_or_default() == 0 {
        object.insert(name.to_owned(), value.into());
    }
}

/// A text field; empty when it is not there.
fn text<'a>(object: &'a Object, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a boolean field is true.
fn is_true(object: &Object, name: &str) -> bool {
    object.get(name).and_then(Value::as_bool).unwrap_or_default()
}

/// Works on an object that is there.
fn within(object: &mut Object, name: &str, work: impl FnOnce(&mut Object)) {
    if let Some(Value::Object(child)) = object.get_mut(name) {
        work(child);
    }
}

/// Works on an object, made if it is not there.
fn made(object: &mut Object, name: &str, work: impl FnOnce(&mut Object)) {
    put(object, name, Map::new());
    within(object, name, work);
}

/// Works on each object of a list.
fn each(object: &mut Object, name: &str, mut work: impl FnMut(&mut Object)) {
    if let Some(Value::Array(items)) = object.get_mut(name) {
        items.iter_mut().filter_map(Value::as_object_mut).for_each(&mut work);
    }
}
