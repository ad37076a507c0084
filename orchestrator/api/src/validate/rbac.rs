//! Roles and bindings.

use serde_json::Value;

use super::Errors;
use super::check::{IMMUTABLE, required};
use crate::field_error::{FieldError, Path};
use crate::fields::{list, text};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The rules of every state.
pub(super) fn validate(plural: &str, o: &Value, errors: &mut Errors) {
    match plural {
        "roles" => rules(o, Reach::Namespace, errors),
        "clusterroles" => rules(o, Reach::Cluster, errors),
        "rolebindings" => binding(o, &["ClusterRole", "Role"], errors),
        "clusterrolebindings" => binding(o, &["ClusterRole"], errors),
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
            let path = path.child("nonResourceURLs");
            let mixed = ["apiGroups", "resources", "resourceNames"].iter().any(|f| !list(rule, f).is_empty());
            if reach == Reach::Namespace {
                let message = "namespaced rules cannot apply to non-resource URLs";
                errors.push(FieldError::invalid(&path, rule["nonResourceURLs"].clone(), message));
            } else if mixed {
                let message = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(FieldError::invalid(&path, rule["nonResourceURLs"].clone(), message));
            }
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

fn binding(o: &Value, kinds: &[&str], errors: &mut Errors) {
    let path = Path::root("roleRef");
    let reference = &o["roleRef"];
    let (group, kind) = (text(reference, "apiGroup"), text(reference, "kind"));
    if group != GROUP {
        errors.push(FieldError::not_supported(&path.child("apiGroup"), group, &[GROUP]));
    }
    if !kinds.contains(&kind) {
        errors.push(FieldError::not_supported(&path.child("kind"), kind, kinds));
    }
    required(reference, "name", &path, errors);
    let subjects = Path::root("subjects");
    for (i, subject) in list(o, "subjects").iter().enumerate() {
        let path = subjects.index(i);
        required(subject, "name", &path, errors);
        let group = text(subject, "apiGroup");
        match text(subject, "kind") {
            "ServiceAccount" => {
                if !group.is_empty() {
                    errors.push(FieldError::not_supported(&path.child("apiGroup"), group, &[""]));
                }
                required(subject, "namespace", &path, errors);
            }
            "User" | "Group" if group != GROUP => {
                errors.push(FieldError::not_supported(&path.child("apiGroup"), group, &[GROUP]));
            }
            "User" | "Group" => {}
            other => {
                errors.push(FieldError::not_supported(
                    &path.child("kind"),
                    other,
                    &["Group", "ServiceAccount", "User"],
                ));
            }
        }
    }
}

/// What may not change.
pub(super) fn update(plural: &str, new: &Value, old: &Value, errors: &mut Errors) {
    if matches!(plural, "rolebindings" | "clusterrolebindings") && new["roleRef"] != old["roleRef"] {
        let message = format!("cannot change roleRef: {IMMUTABLE}");
        errors.push(FieldError::invalid(&Path::root("roleRef"), new["roleRef"].clone(), message));
    }
}
