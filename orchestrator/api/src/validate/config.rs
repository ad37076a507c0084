//! ConfigMaps, Secrets and ServiceAccounts.

use serde_json::Value;

use super::Errors;
use super::check::{immutable, messages, required};
use crate::field_error::{FieldError, Path};
use crate::fields::{at, flag, list, map, text};
use crate::meta;
use crate::name;

/// As many bytes as a ConfigMap or Secret may hold.
const SIZE_MAX: usize = 1024 * 1024;

/// The rules of every state.
pub(super) fn validate(plural: &str, o: &Value, errors: &mut Errors) {
    match plural {
        "configmaps" => config_map(o, errors),
        "secrets" => secret(o, errors),
        "serviceaccounts" => {
            let path = Path::root("secrets");
            for (i, secret) in list(o, "imagePullSecrets").iter().enumerate() {
                required(secret, "name", &path.index(i), errors);
            }
        }
        _ => {}
    }
}

fn keys(o: &Value, field: &str, errors: &mut Errors) {
    let path = Path::root(field);
    for (key, _) in map(o, field) {
        messages(name::config_map_key(key), key, &path.key(key), errors);
    }
}

/// The bytes that base64 text stands for.
fn decoded_size(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    text.len() / 4 * 3 - text.bytes().rev().take_while(|b| *b == b'=').count().min(text.len() / 4 * 3)
}

fn config_map(o: &Value, errors: &mut Errors) {
    keys(o, "data", errors);
    keys(o, "binaryData", errors);
    let data_path = Path::root("data");
    for (key, _) in map(o, "data") {
        if o.get("binaryData").and_then(|b| b.get(key)).is_some() {
            let message = "duplicate of key present in binaryData";
            errors.push(FieldError::invalid(&data_path.key(key), key.as_str(), message));
        }
    }
    let plain: usize = map(o, "data").map(|(_, v)| v.as_str().map_or(0, str::len)).sum();
    let binary: usize = map(o, "binaryData").map(|(_, v)| decoded_size(v)).sum();
    if plain + binary > SIZE_MAX {
        errors.push(FieldError::too_long(&Path::root(""), SIZE_MAX));
    }
}

fn secret(o: &Value, errors: &mut Errors) {
    keys(o, "data", errors);
    let size: usize = map(o, "data").map(|(_, v)| decoded_size(v)).sum();
    if size > SIZE_MAX {
        errors.push(FieldError::too_long(&Path::root("data"), SIZE_MAX));
    }
    let data = Path::root("data");
    let has = |key: &str| o.get("data").and_then(|d| d.get(key)).is_some();
    let mut need = |key: &str| {
        if !has(key) {
            errors.push(FieldError::required(&data.key(key), ""));
        }
    };
    match text(o, "type") {
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            if meta::annotation(o, ACCOUNT).unwrap_or_default().is_empty() {
                let metadata = Path::root("metadata");
                let annotations = metadata.child("annotations");
                errors.push(FieldError::required(&annotations.key(ACCOUNT), ""));
            }
        }
        "kubernetes.io/dockercfg" => need(".dockercfg"),
        "kubernetes.io/dockerconfigjson" => need(".dockerconfigjson"),
        "kubernetes.io/ssh-auth" => need("ssh-privatekey"),
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            errors.push(FieldError::required(&data.key("username"), ""));
            errors.push(FieldError::required(&data.key("password"), ""));
        }
        _ => {}
    }
}

/// What may not change.
pub(super) fn update(plural: &str, new: &Value, old: &Value, errors: &mut Errors) {
    let root = Path::root("");
    if plural == "secrets" {
        immutable(new, old, "type", &root, errors);
    }
    if !flag(old, "immutable") {
        return;
    }
    if !flag(new, "immutable") {
        let message = "field is immutable when `immutable` is set";
        errors.push(FieldError::forbidden(&Path::root("immutable"), message));
    }
    for field in ["data", "binaryData"] {
        if at(new, field) != at(old, field) {
            errors.push(FieldError::forbidden(
                &Path::root(field),
                "field is immutable when `immutable` is set",
            ));
        }
    }
}
