//! What may change in a pod: images, a shorter deadline, further tolerations; through subresources ephemeral
//! containers and resources.

use serde_json::Value;

use super::super::Errors;
use super::super::check::messages;
use crate::field_error::{FieldError, Path};
use crate::fields::{at, list, number, text};
use crate::name;

const SPEC: Path<'static> = Path::root("spec");
const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// A write of the pod itself.
pub(in super::super) fn main(new: &Value, old: &Value, errors: &mut Errors) {
    for field in ["containers", "initContainers"] {
        let (new_list, old_list) = (list(&new["spec"], field), list(&old["spec"], field));
        let path = SPEC.child(field);
        if new_list.len() != old_list.len() {
            errors.push(FieldError::forbidden(&path, "pod updates may not add or remove containers"));
            return;
        }
        for (i, container) in new_list.iter().enumerate() {
            if text(container, "image").is_empty() {
                errors.push(FieldError::required(&path.index(i).child("image"), ""));
            }
        }
    }
    deadline(new, old, errors);
    tolerations(new, old, errors);
    only_updatable(new, old, errors);
    for (i, gate) in list(&new["spec"], "schedulingGates").iter().enumerate() {
        if !list(&old["spec"], "schedulingGates").contains(gate) {
            let message =
                format!("only deletion is allowed, but found new scheduling gate '{}'", text(gate, "name"));
            let path = SPEC.child("schedulingGates");
            errors.push(FieldError::forbidden(&path.index(i).child("name"), message));
        }
    }
}

fn deadline(new: &Value, old: &Value, errors: &mut Errors) {
    let path = SPEC.child("activeDeadlineSeconds");
    let seconds = |pod: &Value| number(pod, "spec.activeDeadlineSeconds");
    match (seconds(new), seconds(old)) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            let message = name::inclusive_range(0, i64::from(i32::MAX));
            errors.push(FieldError::invalid(&path, new, message));
        }
        (Some(new), Some(old)) if new > old => {
            errors.push(FieldError::invalid(&path, new, "must be less than or equal to previous value"));
        }
        (None, Some(_)) => {
            let message = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(&path, Value::Null, message));
        }
        _ => {}
    }
}

fn tolerations(new: &Value, old: &Value, errors: &mut Errors) {
    let plain = |toleration: &Value| {
        let mut copy = toleration.clone();
        if let Some(fields) = copy.as_object_mut() {
            fields.remove("tolerationSeconds");
        }
        copy
    };
    let kept: Vec<Value> = list(&new["spec"], "tolerations").iter().map(plain).collect();
    if list(&old["spec"], "tolerations").iter().any(|t| !kept.contains(&plain(t))) {
        let message = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(&SPEC.child("tolerations"), message));
    }
}

/// Sets what may change back to the old values; whatever still differs may not.
fn only_updatable(new: &Value, old: &Value, errors: &mut Errors) {
    let mut spec = new["spec"].clone();
    let old_spec = &old["spec"];
    for field in ["containers", "initContainers"] {
        let old_list = list(old_spec, field);
        let new_list = spec.get_mut(field).and_then(Value::as_array_mut);
        for (container, old) in new_list.into_iter().flatten().zip(old_list) {
            container["image"] = old.get("image").cloned().unwrap_or(Value::Null);
        }
    }
    let mut restored = vec!["activeDeadlineSeconds", "tolerations"];
    let negative_before = number(old_spec, "terminationGracePeriodSeconds").is_some_and(|s| s < 0);
    if negative_before && number(&spec, "terminationGracePeriodSeconds") == Some(1) {
        restored.push("terminationGracePeriodSeconds");
    }
    if !list(old_spec, "schedulingGates").is_empty() {
        // A gated pod may still be steered: gates go, selectors are narrowed by the scheduler's rules.
        restored.extend(["schedulingGates", "nodeSelector", "affinity"]);
    }
    if let Some(fields) = spec.as_object_mut() {
        for field in restored {
            match old_spec.get(field) {
                Some(value) => fields.insert(field.to_owned(), value.clone()),
                None => fields.remove(field),
            };
        }
    }
    let mut changed = Vec::new();
    differences(&spec, old_spec, "spec", &mut changed);
    if !changed.is_empty() {
        let message = format!(
            "pod updates may not change fields other than {UPDATABLE}\nchanged: {}\n",
            changed.join(", ")
        );
        errors.push(FieldError::forbidden(&SPEC, message));
    }
}

/// The paths of all leaves that differ; absent, null and empty are the same.
fn differences(new: &Value, old: &Value, path: &str, changed: &mut Vec<String>) {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))).collect();
            keys.sort();
            for key in keys {
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
                differences(&of(a), &of(b), &format!("{path}.{key}"), changed);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differences(a, b, &format!("{path}[{i}]"), changed);
            }
        }
        (a, b) if a == b || (empty(a) && empty(b)) => {}
        _ => changed.push(path.to_owned()),
    }
}

/// A write of `/ephemeralcontainers`: containers may be added, never changed or removed.
pub(in super::super) fn ephemeral(new: &Value, old: &Value, errors: &mut Errors) {
    let path = SPEC.child("ephemeralContainers");
    let new_list = list(&new["spec"], "ephemeralContainers");
    for container in list(&old["spec"], "ephemeralContainers") {
        let name = text(container, "name");
        match new_list.iter().find(|c| text(c, "name") == name) {
            None => {
                let message = format!(
                    "existing ephemeral containers {} may not be removed\n",
                    crate::status::quoted(name)
                );
                errors.push(FieldError::forbidden(&path, message));
            }
            Some(same) if same != container => {
                let message = format!(
                    "existing ephemeral containers {} may not be changed\n",
                    crate::status::quoted(name)
                );
                errors.push(FieldError::forbidden(&path, message));
            }
            Some(_) => {}
        }
    }
    let taken = ["containers", "initContainers"].iter().flat_map(|f| list(&new["spec"], f));
    let taken: Vec<&str> = taken.map(|c| text(c, "name")).collect();
    for (i, container) in new_list.iter().enumerate() {
        let path = path.index(i);
        let name = text(container, "name");
        messages(name::dns1123_label(name), name, &path.child("name"), errors);
        let earlier = new_list[..i].iter().any(|c| text(c, "name") == name);
        if earlier || taken.contains(&name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
        if text(container, "image").is_empty() {
            errors.push(FieldError::required(&path.child("image"), ""));
        }
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !taken.contains(&target) {
            errors.push(FieldError::not_found(&path.child("targetContainerName"), target));
        }
    }
}

/// A write of `/resize`: only requests and limits of containers may change.
pub(in super::super) fn resources(new: &Value, old: &Value, errors: &mut Errors) {
    let mut spec = new["spec"].clone();
    let path = SPEC.child("containers");
    for (i, container) in list(&new["spec"], "containers").iter().enumerate() {
        super::resources::container(container, &path.index(i), errors);
    }
    let old_list = list(&old["spec"], "containers");
    for (container, old) in spec["containers"].as_array_mut().into_iter().flatten().zip(old_list) {
        container["resources"] = at(old, "resources").cloned().unwrap_or(Value::Null);
    }
    let mut changed = Vec::new();
    differences(&spec, &old["spec"], "spec", &mut changed);
    if !changed.is_empty() {
        let message = format!("only cpu and memory resources are mutable\nchanged: {}\n", changed.join(", "));
        errors.push(FieldError::forbidden(&SPEC, message));
    }
}
