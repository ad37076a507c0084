//! Configurations of admission webhooks.

use serde_json::Value;

use super::Errors;
use super::check::{in_range, messages, optional_one_of, required};
use crate::field_error::{FieldError, Path};
use crate::fields::{at, list, number, text, texts};
use crate::{name, selector};

const HOOKS: Path<'static> = Path::root("webhooks");
const HTTPS: &str = "; desired format: https://host[/path]";

/// The rules of every state.
pub(super) fn validate(o: &Value, errors: &mut Errors) {
    let hooks = list(o, "webhooks");
    for (place, hook) in hooks.iter().enumerate() {
        let path = HOOKS.index(place);
        let called = text(hook, "name");
        if hooks[..place].iter().any(|other| text(other, "name") == called) {
            errors.push(FieldError::duplicate(&path.child("name"), called));
        }
        one(hook, &path, errors);
    }
}

fn one(hook: &Value, path: &Path<'_>, errors: &mut Errors) {
    full_name(hook, path, errors);
    versions(hook, path, errors);
    for (place, rule) in list(hook, "rules").iter().enumerate() {
        self::rule(rule, &path.child("rules").index(place), errors);
    }
    optional_one_of(hook, "failurePolicy", &["Fail", "Ignore"], path, errors);
    optional_one_of(hook, "matchPolicy", &["Equivalent", "Exact"], path, errors);
    optional_one_of(hook, "reinvocationPolicy", &["IfNeeded", "Never"], path, errors);
    match text(hook, "sideEffects") {
        "" => {
            let detail = "must specify one of None, NoneOnDryRun";
            errors.push(FieldError::required(&path.child("sideEffects"), detail));
        }
        _ => optional_one_of(hook, "sideEffects", &["None", "NoneOnDryRun"], path, errors),
    }
    if let Some(seconds) = number(hook, "timeoutSeconds").filter(|seconds| !(1..=30).contains(seconds)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(&path.child("timeoutSeconds"), seconds, detail));
    }
    for field in ["namespaceSelector", "objectSelector"] {
        if let Some(value) = at(hook, field) {
            errors.extend(selector::validate(value, &path.child(field)));
        }
    }
    if !list(hook, "matchConditions").is_empty() {
        let detail = "this server does not evaluate conditions; use rules and selectors instead";
        errors.push(FieldError::forbidden(&path.child("matchConditions"), detail));
    }
    client(hook, path, errors);
}

fn full_name(hook: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(value) = required(hook, "name", path, errors) else { return };
    let path = path.child("name");
    let wrong = name::dns1123_subdomain(value);
    if wrong.is_empty() && value.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.push(FieldError::invalid(&path, value, detail));
    }
    messages(wrong, value, &path, errors);
}

fn versions(hook: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("admissionReviewVersions");
    let versions: Vec<&str> = texts(hook, "admissionReviewVersions").collect();
    if versions.is_empty() {
        errors.push(FieldError::required(&path, "must specify one of v1"));
        return;
    }
    for (place, version) in versions.iter().enumerate() {
        if versions[..place].contains(version) {
            errors.push(FieldError::invalid(&path.index(place), *version, "duplicate version"));
        }
    }
    if !versions.contains(&"v1") {
        let detail = "must include at least one of v1";
        errors.push(FieldError::invalid(&path, versions, detail));
    }
}

fn rule(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    let called = [("apiGroups", "API groups"), ("apiVersions", "API versions"), ("operations", "operations")];
    for (field, what) in called {
        let values: Vec<&str> = texts(rule, field).collect();
        let path = path.child(field);
        if values.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if values.len() > 1 && values.contains(&"*") {
            let detail = format!("if '*' is present, must not specify other {what}");
            errors.push(FieldError::invalid(&path, values.clone(), detail));
        }
        for (place, value) in values.iter().enumerate() {
            const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
            match field {
                "operations" if !OPERATIONS.contains(value) => {
                    errors.push(FieldError::not_supported(&path.index(place), *value, &OPERATIONS));
                }
                "apiVersions" if value.is_empty() => {
                    errors.push(FieldError::required(&path.index(place), ""));
                }
                _ => {}
            }
        }
    }
    resources(rule, path, errors);
    optional_one_of(rule, "scope", &["*", "Cluster", "Namespaced"], path, errors);
}

fn resources(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("resources");
    let values: Vec<&str> = texts(rule, "resources").collect();
    if values.is_empty() {
        errors.push(FieldError::required(&path, ""));
    }
    for (place, value) in values.iter().enumerate() {
        if value.is_empty() {
            errors.push(FieldError::required(&path.index(place), ""));
        }
        if *value == "*/*" && values.len() > 1 {
            let detail = "if '*/*' is present, must not specify other resources";
            errors.push(FieldError::invalid(&path, values.clone(), detail));
        }
        if *value == "*" && values.iter().any(|other| *other != "*" && !other.contains('/')) {
            let detail = "if '*' is present, must not specify other resources without subresources";
            errors.push(FieldError::invalid(&path, values.clone(), detail));
        }
    }
}

fn client(hook: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("clientConfig");
    match (at(hook, "clientConfig.url"), at(hook, "clientConfig.service")) {
        (Some(url), None) => {
            let url = url.as_str().unwrap_or_default();
            errors.extend(wrong_with_url(url).map(|why| FieldError::invalid(&path.child("url"), url, why)));
        }
        (None, Some(service)) => self::service(service, &path.child("service"), errors),
        _ => errors.push(FieldError::required(&path, "exactly one of url or service is required")),
    }
}

fn wrong_with_url(url: &str) -> Option<String> {
    let Some(rest) = url.strip_prefix("https://") else {
        return Some(format!("'https' is the only allowed URL scheme{HTTPS}"));
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() {
        return Some(format!("host must be specified{HTTPS}"));
    }
    if host.contains('@') {
        return Some("user information is not permitted in the URL".to_owned());
    }
    if rest.contains('#') {
        return Some("fragments are not permitted in the URL".to_owned());
    }
    rest.contains('?').then(|| "query parameters are not permitted in the URL".to_owned())
}

fn service(service: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["name", "namespace"] {
        let detail =
            if field == "name" { "service name is required" } else { "service namespace is required" };
        if text(service, field).is_empty() {
            errors.push(FieldError::required(&path.child(field), detail));
        }
    }
    in_range(service, "port", 1, 65535, path, errors);
    let place = text(service, "path");
    if !place.is_empty() && !place.starts_with('/') {
        errors.push(FieldError::invalid(&path.child("path"), place, "must start with a '/'"));
    }
}
