//! Roles and bindings.

use serde_json::Value;

use super::Errors;
use super::check::{optional_name, required, required_name};
use crate::field_error::{FieldError, Path};
use crate::fields::{list, text};
use crate::{name, selector};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The rules of every state.
pub(super) fn validate(plural: &str, o: &Value, errors: &mut Errors) {
    match plural {
        "roles" => rules(o, Reach::Namespace, errors),
        "clusterroles" => {
            rules(o, Reach::Cluster, errors);
            aggregation(o, errors);
        }
        "rolebindings" => binding(o, &["Role", "ClusterRole"], Reach::Namespace, errors),
        "clusterrolebindings" => binding(o, &["ClusterRole"], Reach::Cluster, errors),
        _ => {}
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Namespace,
    Cluster,
}

fn rules(o: &Value, reach: Reach, errors: &mut Errors) {
    let rules = Path::root("rules");
    for (i, rule) in list(o, "rules").iter().enumerate() {
        let path = rules.index(i);
        if list(rule, "verbs").is_empty() {
            errors.push(FieldError::required(&path.child("verbs"), "verbs must contain at least one value"));
        }
        if !list(rule, "nonResourceURLs").is_empty() {
            paths(rule, reach, &path, errors);
            continue;
        }
        if list(rule, "apiGroups").is_empty() {
            let message = "resource rules must supply at least one api group";
            errors.push(FieldError::required(&path.child("apiGroups"), message));
        }
        if list(rule, "resources").is_empty() {
            let message = "resource rules must supply at least one resource";
            errors.push(FieldError::required(&path.child("resources"), message));
        }
    }
}

/// A rule about paths is about nothing else, and not in a namespace.
fn paths(rule: &Value, reach: Reach, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("nonResourceURLs");
    let mut invalid =
        |message: &str| errors.push(FieldError::invalid(&path, rule["nonResourceURLs"].clone(), message));
    if reach == Reach::Namespace {
        invalid("namespaced rules cannot apply to non-resource URLs");
    }
    if ["apiGroups", "resources", "resourceNames"].iter().any(|field| !list(rule, field).is_empty()) {
        invalid("rules cannot apply to both regular resources and non-resource URLs");
    }
}

fn aggregation(o: &Value, errors: &mut Errors) {
    let Some(rule) = o.get("aggregationRule").filter(|rule| rule.is_object()) else { return };
    let root = Path::root("aggregationRule");
    let path = root.child("clusterRoleSelectors");
    let selectors = list(rule, "clusterRoleSelectors");
    if selectors.is_empty() {
        let message = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.push(FieldError::required(&path, message));
    }
    for (i, found) in selectors.iter().enumerate() {
        errors.extend(selector::validate(found, &path.index(i)));
    }
}

fn binding(o: &Value, kinds: &[&str], reach: Reach, errors: &mut Errors) {
    let path = Path::root("roleRef");
    let reference = &o["roleRef"];
    let (group, kind) = (text(reference, "apiGroup"), text(reference, "kind"));
    if group != GROUP {
        errors.push(FieldError::not_supported(&path.child("apiGroup"), group, &[GROUP]));
    }
    if !kinds.contains(&kind) {
        errors.push(FieldError::not_supported(&path.child("kind"), kind, kinds));
    }
    required_name(reference, "name", name::path_segment, &path, errors);
    let subjects = Path::root("subjects");
    for (i, found) in list(o, "subjects").iter().enumerate() {
        subject(found, reach, &subjects.index(i), errors);
    }
}

fn subject(subject: &Value, reach: Reach, path: &Path<'_>, errors: &mut Errors) {
    required(subject, "name", path, errors);
    let group = text(subject, "apiGroup");
    match text(subject, "kind") {
        "ServiceAccount" => {
            optional_name(subject, "name", name::dns1123_subdomain, path, errors);
            // In a namespace the binding's own is meant.
            if reach == Reach::Cluster {
                required(subject, "namespace", path, errors);
            }
            if !group.is_empty() {
                errors.push(FieldError::not_supported(&path.child("apiGroup"), group, &[""]));
            }
        }
        "User" | "Group" if group != GROUP => {
            errors.push(FieldError::not_supported(&path.child("apiGroup"), group, &[GROUP]));
        }
        "User" | "Group" => {}
        other => {
            let kinds = ["ServiceAccount", "User", "Group"];
            errors.push(FieldError::not_supported(&path.child("kind"), other, &kinds));
        }
    }
}

/// What may not change.
pub(super) fn update(plural: &str, new: &Value, old: &Value, errors: &mut Errors) {
    if matches!(plural, "rolebindings" | "clusterrolebindings") && new["roleRef"] != old["roleRef"] {
        let (path, value) = (Path::root("roleRef"), new["roleRef"].clone());
        errors.push(FieldError::invalid(&path, value, "cannot change roleRef"));
    }
}
