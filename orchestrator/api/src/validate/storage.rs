//! Claims, volumes and storage classes.

use serde_json::Value;

use super::Errors;
use super::check::{immutable, one_of, optional_one_of, quantity};
use super::cluster::need;
use crate::field_error::{FieldError, Path};
use crate::fields::{at, list, text, texts};
use crate::quantity::Quantity;

const SPEC: Path<'static> = Path::root("spec");
const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// The rules of every state.
pub(super) fn validate(plural: &str, o: &Value, errors: &mut Errors) {
    match plural {
        "persistentvolumeclaims" => claim(&o["spec"], errors),
        "persistentvolumes" => volume(&o["spec"], errors),
        "storageclasses" => {
            need(o, "provisioner", errors);
            optional_one_of(o, "reclaimPolicy", &["Delete", "Retain"], &Path::root(""), errors);
            let modes = ["Immediate", "WaitForFirstConsumer"];
            one_of(o, "volumeBindingMode", &modes, &Path::root(""), errors);
        }
        _ => {}
    }
}

fn access_modes(spec: &Value, errors: &mut Errors) {
    let path = SPEC.child("accessModes");
    if list(spec, "accessModes").is_empty() {
        errors.push(FieldError::required(&path, "at least 1 access mode is required"));
    }
    for mode in texts(spec, "accessModes") {
        if !MODES.contains(&mode) {
            errors.push(FieldError::not_supported(&path, mode, MODES));
        }
    }
}

fn positive(value: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    match value {
        None => errors.push(FieldError::required(path, "")),
        Some(value) => {
            if quantity(value, path, errors).is_some_and(Quantity::is_zero) {
                errors.push(FieldError::invalid(path, value.clone(), "must be greater than zero"));
            }
        }
    }
}

fn claim(spec: &Value, errors: &mut Errors) {
    access_modes(spec, errors);
    let resources = SPEC.child("resources");
    positive(at(spec, "resources.requests.storage"), &resources.key("storage"), errors);
    optional_one_of(spec, "volumeMode", &["Block", "Filesystem"], &SPEC, errors);
    if let Some(selector) = at(spec, "selector") {
        errors.extend(crate::selector::validate(selector, &SPEC.child("selector")));
    }
}

fn volume(spec: &Value, errors: &mut Errors) {
    access_modes(spec, errors);
    let capacity = SPEC.child("capacity");
    positive(at(spec, "capacity.storage"), &capacity.key("storage"), errors);
    let policies = ["Delete", "Recycle", "Retain"];
    optional_one_of(spec, "persistentVolumeReclaimPolicy", &policies, &SPEC, errors);
}

/// What may not change.
pub(super) fn update(plural: &str, new: &Value, old: &Value, errors: &mut Errors) {
    match plural {
        "persistentvolumeclaims" => update_claim(new, old, errors),
        "persistentvolumes" => {
            let source = |o: &Value| {
                let fixed = |(k, _): &(&String, &Value)| {
                    !matches!(
                        k.as_str(),
                        "capacity"
                            | "accessModes"
                            | "claimRef"
                            | "persistentVolumeReclaimPolicy"
                            | "storageClassName"
                            | "mountOptions"
                            | "volumeMode"
                            | "nodeAffinity"
                            | "volumeAttributesClassName"
                    )
                };
                let fields = o["spec"].as_object().into_iter().flatten();
                fields.filter(fixed).map(|(k, v)| (k.clone(), v.clone())).collect::<serde_json::Map<_, _>>()
            };
            if source(new) != source(old) {
                let message = "spec.persistentvolumesource is immutable after creation";
                errors.push(FieldError::forbidden(&SPEC.child("persistentvolumesource"), message));
            }
        }
        "storageclasses" => {
            for field in ["provisioner", "parameters", "reclaimPolicy"] {
                if at(new, field) != at(old, field) {
                    let message =
                        "updates to storageclass fields other than annotations and labels are forbidden.";
                    errors.push(FieldError::forbidden(&Path::root(field), message));
                }
            }
            immutable(new, old, "volumeBindingMode", &Path::root(""), errors);
        }
        _ => {}
    }
}

fn update_claim(new: &Value, old: &Value, errors: &mut Errors) {
    let fixed = |claim: &Value| {
        let mut spec = claim["spec"].clone();
        if let Some(fields) = spec.as_object_mut() {
            fields.remove("resources");
            fields.remove("volumeAttributesClassName");
            if text(old, "spec.volumeName").is_empty() {
                fields.remove("volumeName");
                // A claim that names no class may still get the default one.
                if at(old, "spec.storageClassName").is_none() {
                    fields.remove("storageClassName");
                }
            }
        }
        spec
    };
    if fixed(new) != fixed(old) {
        let message = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.push(FieldError::forbidden(&SPEC, message));
    }
    let size = |claim: &Value| {
        at(claim, "spec.resources.requests.storage")
            .and_then(|v| Quantity::from_value(v).ok())
            .unwrap_or_default()
    };
    if size(new) < size(old) {
        let resources = SPEC.child("resources");
        let path = resources.child("requests");
        errors
            .push(FieldError::forbidden(&path.key("storage"), "field can not be less than status.capacity"));
    }
}
