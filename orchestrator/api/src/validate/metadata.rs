//! Object metadata: names, labels, annotations, owners, finalizers, and what of it may change.

use serde_json::Value;

use super::Errors;
use super::check::{IMMUTABLE, NOT_NEGATIVE, labels, messages};
use crate::field_error::{FieldError, Path};
use crate::fields::{list, map, number, text};
use crate::kind::{self, Resource, Scope};
use crate::meta;
use crate::name::{self, NameRule};

const METADATA: Path<'static> = Path::root("metadata");
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// Rules for the metadata of a new object.
pub(super) fn create(resource: &Resource, object: &Value) -> Errors {
    let mut errors = Errors::new();
    let rule = NameRule::of(resource.group, resource.plural);
    let (name, prefix) = (meta::name(object), meta::generate_name(object));
    if !prefix.is_empty() {
        messages(rule.check_prefix(prefix), prefix, &METADATA.child("generateName"), &mut errors);
    }
    match name {
        "" => errors.push(FieldError::required(&METADATA.child("name"), "name or generateName is required")),
        name => messages(rule.check(name), name, &METADATA.child("name"), &mut errors),
    }
    let namespace = meta::namespace(object);
    match (resource.scope, namespace) {
        (Scope::Namespaced, "") => errors.push(FieldError::required(&METADATA.child("namespace"), "")),
        (Scope::Namespaced, namespace) => {
            messages(name::dns1123_label(namespace), namespace, &METADATA.child("namespace"), &mut errors);
        }
        (Scope::Cluster, "") => {}
        (Scope::Cluster, _) => {
            errors.push(FieldError::forbidden(&METADATA.child("namespace"), "not allowed on this type"));
        }
    }
    common(object, &mut errors);
    standard_finalizers(resource, object, &mut errors);
    errors
}

/// A finalizer without a domain must be one of Kubernetes' own; what comes from definitions is freer.
fn standard_finalizers(resource: &Resource, object: &Value, errors: &mut Errors) {
    let built_in = kind::find(resource.group, resource.version, resource.plural).is_some();
    if !built_in || matches!(resource.group, "apiextensions.k8s.io" | "apiregistration.k8s.io") {
        return;
    }
    let path = METADATA.child("finalizers");
    for (at, finalizer) in meta::finalizers(object).enumerate() {
        let standard = ["kubernetes", meta::ORPHAN_FINALIZER, meta::FOREGROUND_FINALIZER];
        if !finalizer.contains('/') && !standard.contains(&finalizer) {
            let message = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(&path.index(at), finalizer, message));
        }
    }
}

fn common(object: &Value, errors: &mut Errors) {
    if let Some(generation) = number(object, "metadata.generation").filter(|g| *g < 0) {
        errors.push(FieldError::invalid(&METADATA.child("generation"), generation, NOT_NEGATIVE));
    }
    let Some(metadata) = object.get("metadata") else { return };
    labels(metadata, "labels", &METADATA, errors);
    annotations(metadata, &METADATA, errors);
    owners(metadata, errors);
    finalizers(metadata, errors);
}

/// Keys and total size of annotations.
pub(super) fn annotations(metadata: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("annotations");
    let mut size = 0;
    for (key, value) in map(metadata, "annotations") {
        messages(name::qualified_name(&key.to_lowercase()), key, &path, errors);
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(&path, ANNOTATIONS_MAX));
    }
}

fn owners(metadata: &Value, errors: &mut Errors) {
    let path = METADATA.child("ownerReferences");
    let mut controller: Option<&str> = None;
    for (i, owner) in list(metadata, "ownerReferences").iter().enumerate() {
        let path_of_one = path.index(i);
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                errors.push(FieldError::invalid(&path_of_one.child(field), "", "must not be empty"));
            }
        }
        let (api_version, kind) = (text(owner, "apiVersion"), text(owner, "kind"));
        if (api_version, kind) == ("v1", "Event") {
            let message = format!("{api_version}, Kind={kind} is disallowed from being an owner");
            errors.push(FieldError::invalid(&path_of_one, owner.clone(), message));
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            let name = text(owner, "name");
            match controller {
                None => controller = Some(name),
                Some(first) => {
                    let message = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                    );
                    let all = metadata.get("ownerReferences").cloned().unwrap_or(Value::Null);
                    errors.push(FieldError::invalid(&path, all, message));
                }
            }
        }
    }
}

fn finalizers(metadata: &Value, errors: &mut Errors) {
    let path = METADATA.child("finalizers");
    let all: Vec<&str> = list(metadata, "finalizers").iter().filter_map(Value::as_str).collect();
    for finalizer in &all {
        messages(name::qualified_name(finalizer), finalizer, &path, errors);
    }
    let (orphan, foreground) = (meta::ORPHAN_FINALIZER, meta::FOREGROUND_FINALIZER);
    if all.contains(&orphan) && all.contains(&foreground) {
        let message = format!("finalizer {orphan} and {foreground} cannot be both set");
        errors.push(FieldError::invalid(&path, Value::from(all), message));
    }
}

/// Rules for the metadata of a changed object.
pub(super) fn update(resource: &Resource, new: &Value, old: &Value) -> Errors {
    let mut errors = Errors::new();
    let changed = |field: &str| new["metadata"].get(field) != old["metadata"].get(field);
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        if changed(field) {
            let value = new["metadata"].get(field).cloned().unwrap_or(Value::Null);
            errors.push(FieldError::invalid(&METADATA.child(field), value, IMMUTABLE));
        }
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        if changed(field) && old["metadata"].get(field).is_some() {
            let value = new["metadata"].get(field).cloned().unwrap_or(Value::Null);
            let message = "field is immutable; may only be changed via deletion";
            errors.push(FieldError::invalid(&METADATA.child(field), value, message));
        }
    }
    if resource.generation && meta::generation(new) < meta::generation(old) {
        let path = METADATA.child("generation");
        errors.push(FieldError::invalid(&path, meta::generation(new), "must not be decremented"));
    }
    if meta::is_being_deleted(old) {
        errors.extend(no_new_finalizers(new, old));
    }
    common(new, &mut errors);
    errors
}

/// An object that is being deleted may not get further finalizers.
pub fn no_new_finalizers(new: &Value, old: &Value) -> Option<FieldError> {
    let mut added: Vec<&str> =
        meta::finalizers(new).filter(|f| meta::finalizers(old).all(|known| known != *f)).collect();
    if added.is_empty() {
        return None;
    }
    added.sort_unstable();
    let list: Vec<String> = added.iter().map(|f| crate::status::quoted(f)).collect();
    let message = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        list.join(", ")
    );
    Some(FieldError::forbidden(&METADATA.child("finalizers"), message))
}
