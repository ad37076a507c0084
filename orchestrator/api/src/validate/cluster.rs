//! Namespaces, Nodes, Events, Leases, RuntimeClasses, PriorityClasses.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Errors;
use super::check::{self, immutable, messages, optional_one_of, required, required_name};
use crate::field_error::{FieldError, Path};
use crate::fields::{at, flag, integer, list, number, text, texts};
use crate::name;

const SPEC: Path<'static> = Path::root("spec");
const ROOT: Path<'static> = Path::root("");

/// The rules of every state.
pub(super) fn validate(plural: &str, o: &Value, errors: &mut Errors) {
    match plural {
        "namespaces" => {
            let path = SPEC.child("finalizers");
            for finalizer in texts(o, "spec.finalizers") {
                messages(name::qualified_name(finalizer), finalizer, &path, errors);
            }
        }
        "nodes" => node(o, errors),
        "events" => event(o, errors),
        "leases" => lease(o, errors),
        "runtimeclasses" => runtime_class(o, errors),
        "priorityclasses" => priority_class(o, errors),
        _ => {}
    }
}

fn node(o: &Value, errors: &mut Errors) {
    let taints = SPEC.child("taints");
    let mut seen = BTreeSet::new();
    for (i, taint) in list(o, "spec.taints").iter().enumerate() {
        let path = taints.index(i);
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        messages(name::qualified_name(key), key, &path.child("key"), errors);
        messages(name::label_value(value), value, &path.child("value"), errors);
        match effect {
            "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
            "" => errors.push(FieldError::required(&path.child("effect"), "")),
            other => {
                let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
                errors.push(FieldError::not_supported(&path.child("effect"), other, &effects));
            }
        }
        if !seen.insert((key, effect)) {
            let message = "taints must be unique by key and effect pair";
            let mut duplicate = FieldError::duplicate(&path, taint.clone());
            duplicate.detail = message.into();
            errors.push(duplicate);
        }
    }
    let ranges = SPEC.child("podCIDRs");
    for (i, range) in texts(o, "spec.podCIDRs").enumerate() {
        cidr(range, &ranges.index(i), errors);
    }
    for (field, path) in [("capacity", "status.capacity"), ("allocatable", "status.allocatable")] {
        let status = Path::root("status");
        let parent = status.child(field);
        for (resource, value) in crate::fields::map(o, path) {
            check::quantity(value, &parent.key(resource), errors);
        }
    }
}

/// An address range such as `10.0.0.0/8`.
pub(super) fn cidr(range: &str, path: &Path<'_>, errors: &mut Errors) {
    let good = range.split_once('/').is_some_and(|(address, bits)| {
        let max = match address.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V4(_)) => 32,
            Ok(std::net::IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= max)
    });
    if !good {
        let message = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        errors.push(FieldError::invalid(path, range, message));
    }
}

/// Events are stored in their core form.
fn event(o: &Value, errors: &mut Errors) {
    let object = at(o, "involvedObject").or_else(|| at(o, "regarding")).unwrap_or(&Value::Null);
    let path = Path::root("involvedObject");
    let (wanted, found) = (text(object, "namespace"), text(o, "metadata.namespace"));
    let cluster_wide = wanted.is_empty() && matches!(found, "default" | "kube-system");
    if wanted != found && !cluster_wide {
        errors.push(FieldError::invalid(&path.child("namespace"), wanted, "does not match event.namespace"));
    }
    let micro = at(o, "eventTime").is_some();
    if !micro {
        return;
    }
    for (field, other, max) in
        [("reportingComponent", "reportingController", 128), ("reportingInstance", "reportingInstance", 128)]
    {
        let value = crate::fields::text_or(o, field, text(o, other));
        if value.is_empty() {
            errors.push(FieldError::required(&Path::root(other), ""));
        } else if value.len() > max {
            errors.push(FieldError::invalid(
                &Path::root(other),
                "",
                format!("can have at most {max} characters"),
            ));
        }
    }
    for (field, max) in [("action", 128), ("reason", 128)] {
        let value = text(o, field);
        if value.is_empty() {
            errors.push(FieldError::required(&Path::root(field), ""));
        } else if value.len() > max {
            errors.push(FieldError::invalid(
                &Path::root(field),
                "",
                format!("can have at most {max} characters"),
            ));
        }
    }
    let message = crate::fields::text_or(o, "message", text(o, "note"));
    if message.len() > 1024 {
        errors.push(FieldError::invalid(&Path::root("message"), "", "can have at most 1024 characters"));
    }
    if !matches!(text(o, "type"), "Normal" | "Warning") {
        let message = "has invalid value: ".to_owned() + text(o, "type");
        errors.push(FieldError::invalid(&Path::root("type"), "", message));
    }
}

fn lease(o: &Value, errors: &mut Errors) {
    if let Some(seconds) = number(o, "spec.leaseDurationSeconds").filter(|s| *s <= 0) {
        let path = SPEC.child("leaseDurationSeconds");
        errors.push(FieldError::invalid(&path, seconds, "must be greater than 0"));
    }
    if let Some(transitions) = number(o, "spec.leaseTransitions").filter(|s| *s < 0) {
        let path = SPEC.child("leaseTransitions");
        errors.push(FieldError::invalid(&path, transitions, "must be greater than or equal to 0"));
    }
}

fn runtime_class(o: &Value, errors: &mut Errors) {
    required_name(o, "handler", name::dns1123_label, &ROOT, errors);
    let overhead = Path::root("overhead");
    let fixed = overhead.child("podFixed");
    for (resource, value) in crate::fields::map(o, "overhead.podFixed") {
        check::quantity(value, &fixed.key(resource), errors);
    }
    if let Some(scheduling) = at(o, "scheduling") {
        check::labels(scheduling, "nodeSelector", &Path::root("scheduling"), errors);
    }
}

/// Above this only the system's own classes.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

fn priority_class(o: &Value, errors: &mut Errors) {
    let name = text(o, "metadata.name");
    let known = [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
    let metadata = Path::root("metadata");
    let value = integer(o, "value");
    if name.starts_with("system-") {
        let same = known.iter().any(|(n, v)| *n == name && *v == value) && !flag(o, "globalDefault");
        if !same {
            let message = "priority class names with 'system-' prefix are reserved for system use only. error: is not a known system priority class";
            errors.push(FieldError::forbidden(&metadata.child("name"), message));
        }
    } else if value > HIGHEST_USER_PRIORITY {
        let message = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
        errors.push(FieldError::forbidden(&Path::root("value"), message));
    }
    optional_one_of(o, "preemptionPolicy", &["Never", "PreemptLowerPriority"], &ROOT, errors);
}

/// What may not change.
pub(super) fn update(plural: &str, new: &Value, old: &Value, errors: &mut Errors) {
    match plural {
        "runtimeclasses" => immutable(new, old, "handler", &ROOT, errors),
        "nodes" => update_node(new, old, errors),
        "priorityclasses" => {
            if integer(new, "value") != integer(old, "value") {
                let message = "may not be changed in an update.";
                errors.push(FieldError::forbidden(&Path::root("value"), message));
            }
            if text(new, "preemptionPolicy") != text(old, "preemptionPolicy") {
                immutable(new, old, "preemptionPolicy", &ROOT, errors);
            }
        }
        _ => {}
    }
}

/// What is decided once about a node.
fn update_node(new: &Value, old: &Value, errors: &mut Errors) {
    for (field, name) in [("podCIDRs", "podCIDR"), ("providerID", "providerID")] {
        let before = at(&old["spec"], field);
        if before.is_some() && at(&new["spec"], field) != before {
            let message = format!("node updates may not change {name} except from \"\" to valid");
            errors.push(FieldError::forbidden(&SPEC.child(field), message));
        }
    }
}

/// A field that must be there, used by kinds without a `spec`.
pub(super) fn need(o: &Value, field: &str, errors: &mut Errors) {
    required(o, field, &ROOT, errors);
}
