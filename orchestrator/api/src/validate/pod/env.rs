//! Environment variables and where their values come from.

use serde_json::Value;

use super::super::Errors;
use super::super::check::{messages, required, required_name};
use crate::field_error::{FieldError, Path};
use crate::fields::{at, list, text};
use crate::name;

const SOURCES: [&str; 5] = ["configMapKeyRef", "fieldRef", "resourceFieldRef", "secretKeyRef", "fileKeyRef"];
const ONE_ONLY: &str = "may not have more than one field specified at a time";

/// The pod fields that an environment variable may show.
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// The resources that may be shown, besides huge pages.
pub(super) const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// `env` and `envFrom` of a container.
pub(super) fn env(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let env_path = path.child("env");
    for (i, variable) in list(container, "env").iter().enumerate() {
        let path = env_path.index(i);
        if let Some(name) = required(variable, "name", &path, errors) {
            messages(name::env_var_name(name), name, &path.child("name"), errors);
        }
        if let Some(source) = at(variable, "valueFrom") {
            value_from(variable, source, &path.child("valueFrom"), errors);
        }
    }
    let from_path = path.child("envFrom");
    for (i, source) in list(container, "envFrom").iter().enumerate() {
        env_from(source, &from_path.index(i), errors);
    }
}

fn value_from(variable: &Value, source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let given: Vec<&str> = SOURCES.into_iter().filter(|field| at(source, field).is_some()).collect();
    if given.is_empty() {
        let message =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        errors.push(FieldError::invalid(path, "", message));
    } else if !text(variable, "value").is_empty() {
        errors.push(FieldError::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if given.len() > 1 {
        errors.push(FieldError::invalid(path, "", ONE_ONLY));
    }
    for field in given {
        let path = path.child(field);
        match field {
            "fieldRef" => field_ref(&source[field], FIELDS, &path, errors),
            "resourceFieldRef" => resource_ref(&source[field], &path, errors),
            "configMapKeyRef" | "secretKeyRef" => {
                required_name(&source[field], "name", name::dns1123_subdomain, &path, errors);
                required_name(&source[field], "key", name::config_map_key, &path, errors);
            }
            _ => {}
        }
    }
}

/// A reference to a field of the pod.
pub(super) fn field_ref(reference: &Value, fields: &[&str], path: &Path<'_>, errors: &mut Errors) {
    required(reference, "apiVersion", path, errors);
    let Some(field) = required(reference, "fieldPath", path, errors) else { return };
    let path = path.child("fieldPath");
    let subscript = field.strip_suffix("']").and_then(|f| f.split_once("['"));
    match subscript {
        Some(("metadata.labels" | "metadata.annotations", key)) => {
            messages(name::qualified_name(key), field, &path, errors);
        }
        Some(_) => {
            let message =
                format!("error converting fieldPath: field label does not support subscript: {field}");
            errors.push(FieldError::invalid(&path, field, message));
        }
        None if !fields.contains(&field) => errors.push(FieldError::not_supported(&path, field, fields)),
        None => {}
    }
}

/// A reference to a resource of a container.
pub(super) fn resource_ref(reference: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(resource) = required(reference, "resource", path, errors) else { return };
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if !huge && !RESOURCES.contains(&resource) {
        errors.push(FieldError::not_supported(&path.child("resource"), resource, RESOURCES));
    }
}

fn env_from(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let prefix = text(source, "prefix");
    if !prefix.is_empty() {
        messages(name::env_var_name(prefix), prefix, &path.child("prefix"), errors);
    }
    let given: Vec<&str> =
        ["configMapRef", "secretRef"].into_iter().filter(|f| at(source, f).is_some()).collect();
    match given.len() {
        0 => errors.push(FieldError::invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")),
        1 => {}
        _ => errors.push(FieldError::invalid(path, "", ONE_ONLY)),
    }
    for field in given {
        required_name(&source[field], "name", name::dns1123_subdomain, &path.child(field), errors);
    }
}
