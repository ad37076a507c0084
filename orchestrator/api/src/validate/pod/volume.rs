//! Volumes of a pod.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::Errors;
use super::super::check::{in_range, messages, optional_one_of, quantity, required, required_name};
use super::container::descending;
use super::env;
use crate::field_error::{FieldError, Path};
use crate::fields::{at, list, number, text};
use crate::name;

/// The names of a pod's volumes.
pub(super) type Volumes<'a> = BTreeSet<&'a str>;

const MODE_MESSAGE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const HOST_PATH_TYPES: &[&str] =
    &["BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
/// The pod fields that a downward API volume may show.
const FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Checks volumes; returns their names for the mounts.
pub(super) fn volumes<'a>(spec: &'a Value, path: &Path<'_>, errors: &mut Errors) -> Volumes<'a> {
    let list_path = path.child("volumes");
    let mut names = Volumes::new();
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let path = list_path.index(i);
        if let Some(name) = required(volume, "name", &path, errors) {
            messages(name::dns1123_label(name), name, &path.child("name"), errors);
            if !names.insert(name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
        }
        source(volume, &path, errors);
    }
    names
}

fn source(volume: &Value, path: &Path<'_>, errors: &mut Errors) {
    let fields = volume.as_object().into_iter().flatten();
    let mut given: Vec<&str> = fields
        .filter(|(key, value)| *key != "name" && !value.is_null())
        .map(|(key, _)| key.as_str())
        .collect();
    given.sort_unstable();
    let Some((kind, others)) = given.split_first() else {
        errors.push(FieldError::required(path, "must specify a volume type"));
        return;
    };
    for other in others {
        errors.push(FieldError::forbidden(&path.child(other), "may not specify more than 1 volume type"));
    }
    let value = &volume[*kind];
    let path = path.child(kind);
    match *kind {
        "hostPath" => host_path(value, &path, errors),
        "emptyDir" => {
            if let Some(limit) = at(value, "sizeLimit") {
                quantity(limit, &path.child("sizeLimit"), errors);
            }
        }
        "configMap" => keys(value, "name", &path, errors),
        "secret" => keys(value, "secretName", &path, errors),
        "downwardAPI" => downward(value, &path, errors),
        "projected" => projected(value, &path, errors),
        "persistentVolumeClaim" => {
            required(value, "claimName", &path, errors);
        }
        "nfs" => {
            required(value, "server", &path, errors);
            required(value, "path", &path, errors);
        }
        "csi" => {
            required(value, "driver", &path, errors);
        }
        _ => {}
    }
}

fn host_path(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(target) = required(value, "path", path, errors)
        && target.split('/').any(|part| part == "..")
    {
        errors.push(FieldError::invalid(&path.child("path"), target, "must not contain '..'"));
    }
    optional_one_of(value, "type", HOST_PATH_TYPES, path, errors);
}

fn mode(o: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    if let Some(mode) = number(o, field).filter(|m| !(0..=0o777).contains(m)) {
        errors.push(FieldError::invalid(&path.child(field), mode, MODE_MESSAGE));
    }
}

/// A ConfigMap or Secret as files.
fn keys(value: &Value, name_field: &str, path: &Path<'_>, errors: &mut Errors) {
    required(value, name_field, path, errors);
    mode(value, "defaultMode", path, errors);
    items(value, path, errors);
}

fn items(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    let items_path = path.child("items");
    for (i, item) in list(value, "items").iter().enumerate() {
        let path = items_path.index(i);
        required(item, "key", &path, errors);
        relative(item, &path, errors);
        mode(item, "mode", &path, errors);
    }
}

fn relative(item: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(target) = required(item, "path", path, errors) {
        descending(target, &path.child("path"), errors);
        if target.starts_with("..") && !target.starts_with("../") && target != ".." {
            errors.push(FieldError::invalid(&path.child("path"), target, "must not start with '..'"));
        }
    }
}

fn downward(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    mode(value, "defaultMode", path, errors);
    let items_path = path.child("items");
    for (i, item) in list(value, "items").iter().enumerate() {
        let path = items_path.index(i);
        relative(item, &path, errors);
        mode(item, "mode", &path, errors);
        match (at(item, "fieldRef"), at(item, "resourceFieldRef")) {
            (Some(_), Some(_)) => errors.push(FieldError::invalid(
                &path,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            )),
            (Some(field), None) => env::field_ref(field, FIELDS, &path.child("fieldRef"), errors),
            (None, Some(resource)) => {
                let path = path.child("resourceFieldRef");
                required(resource, "containerName", &path, errors);
                env::resource_ref(resource, &path, errors);
            }
            (None, None) => {
                errors.push(FieldError::required(&path, "one of fieldRef and resourceFieldRef is required"));
            }
        }
    }
}

fn projected(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    mode(value, "defaultMode", path, errors);
    let sources = path.child("sources");
    for (i, source) in list(value, "sources").iter().enumerate() {
        let path = sources.index(i);
        let kinds = ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle"];
        let given: Vec<&str> = kinds.into_iter().filter(|k| at(source, k).is_some()).collect();
        for extra in given.iter().skip(1) {
            errors.push(FieldError::forbidden(
                &path.child(extra),
                "may not specify more than 1 volume type per source",
            ));
        }
        for kind in given {
            let (value, path) = (&source[kind], path.child(kind));
            match kind {
                "secret" | "configMap" => {
                    required(value, "name", &path, errors);
                    items(value, &path, errors);
                }
                "downwardAPI" => downward(value, &path, errors),
                "serviceAccountToken" => token(value, &path, errors),
                _ => required_name(value, "path", |_| Vec::new(), &path, errors),
            }
        }
    }
}

fn token(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(seconds) = number(value, "expirationSeconds").filter(|s| *s < 600) {
        let message = "may not specify a duration less than 10 minutes";
        errors.push(FieldError::invalid(&path.child("expirationSeconds"), seconds, message));
    }
    in_range(value, "expirationSeconds", i64::MIN, 1 << 32, path, errors);
    if text(value, "path").is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
    } else {
        relative(value, path, errors);
    }
}
