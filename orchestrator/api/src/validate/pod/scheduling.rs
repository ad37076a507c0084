//! Tolerations, affinity, spreading, gates.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::Errors;
use super::super::check::{in_range, messages, one_of, optional_name, required};
use crate::field_error::{FieldError, Path};
use crate::fields::{at, list, number, text};
use crate::{name, selector};

/// The scheduling fields of a pod.
pub(super) fn pod(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let tolerations_path = path.child("tolerations");
    for (i, one) in list(spec, "tolerations").iter().enumerate() {
        toleration(one, &tolerations_path.index(i), errors);
    }
    let spread_path = path.child("topologySpreadConstraints");
    for (i, one) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        spread(one, &spread_path.index(i), errors);
    }
    let gates_path = path.child("schedulingGates");
    let mut gates = BTreeSet::new();
    for (i, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let gate = text(gate, "name");
        let path = gates_path.index(i);
        messages(name::qualified_name(gate), gate, &path, errors);
        if !gates.insert(gate) {
            errors.push(FieldError::duplicate(&path, gate));
        }
    }
    let readiness_path = path.child("readinessGates");
    for (i, gate) in list(spec, "readinessGates").iter().enumerate() {
        let condition = text(gate, "conditionType");
        messages(
            name::qualified_name(condition),
            condition,
            &readiness_path.index(i).child("conditionType"),
            errors,
        );
    }
    if let Some(affinity) = at(spec, "affinity") {
        let path = path.child("affinity");
        node_affinity(affinity, &path.child("nodeAffinity"), errors);
        for field in ["podAffinity", "podAntiAffinity"] {
            if let Some(value) = at(affinity, field) {
                pod_affinity(value, &path.child(field), errors);
            }
        }
    }
}

fn toleration(toleration: &Value, path: &Path<'_>, errors: &mut Errors) {
    optional_name(toleration, "key", name::qualified_name, path, errors);
    let (key, operator, value) =
        (text(toleration, "key"), text(toleration, "operator"), text(toleration, "value"));
    if key.is_empty() && operator != "Exists" {
        let message =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(&path.child("operator"), operator, message));
    }
    if number(toleration, "tolerationSeconds").is_some() && text(toleration, "effect") != "NoExecute" {
        let message = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid(&path.child("effect"), text(toleration, "effect"), message));
    }
    match operator {
        "" | "Equal" => messages(name::label_value(value), value, &path.child("operator"), errors),
        "Exists" if !value.is_empty() => {
            let message = "value must be empty when `operator` is 'Exists'";
            errors.push(FieldError::invalid(&path.child("operator"), value, message));
        }
        "Exists" => {}
        other => errors.push(FieldError::not_supported(&path.child("operator"), other, &["Equal", "Exists"])),
    }
    let effect = text(toleration, "effect");
    let effects = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
    if !effect.is_empty() && !effects.contains(&effect) {
        errors.push(FieldError::not_supported(&path.child("effect"), effect, &effects));
    }
}

fn spread(constraint: &Value, path: &Path<'_>, errors: &mut Errors) {
    match number(constraint, "maxSkew") {
        Some(skew) if skew > 0 => {}
        skew => {
            let value = skew.unwrap_or(0);
            errors.push(FieldError::invalid(&path.child("maxSkew"), value, "must be greater than zero"));
        }
    }
    if required(constraint, "topologyKey", path, errors).is_some() {
        optional_name(constraint, "topologyKey", name::qualified_name, path, errors);
    }
    one_of(constraint, "whenUnsatisfiable", &["DoNotSchedule", "ScheduleAnyway"], path, errors);
    if let Some(value) = at(constraint, "labelSelector") {
        errors.extend(selector::validate(value, &path.child("labelSelector")));
    }
}

fn node_affinity(affinity: &Value, path: &Path<'_>, errors: &mut Errors) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let Some(affinity) = at(affinity, "nodeAffinity") else { return };
    if let Some(selector) = at(affinity, REQUIRED) {
        let path = path.child(REQUIRED);
        let terms = path.child("nodeSelectorTerms");
        if list(selector, "nodeSelectorTerms").is_empty() {
            errors.push(FieldError::required(&terms, "must have at least one node selector term"));
        }
        for (i, term) in list(selector, "nodeSelectorTerms").iter().enumerate() {
            node_term(term, &terms.index(i), errors);
        }
    }
    let preferred = path.child(PREFERRED);
    for (i, one) in list(affinity, PREFERRED).iter().enumerate() {
        let path = preferred.index(i);
        in_range(one, "weight", 1, 100, &path, errors);
        if let Some(term) = at(one, "preference") {
            node_term(term, &path.child("preference"), errors);
        }
    }
}

fn node_term(term: &Value, path: &Path<'_>, errors: &mut Errors) {
    let expressions = path.child("matchExpressions");
    for (i, expression) in list(term, "matchExpressions").iter().enumerate() {
        let path = expressions.index(i);
        let (key, values) = (text(expression, "key"), list(expression, "values"));
        messages(name::qualified_name(key), key, &path.child("key"), errors);
        match text(expression, "operator") {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "Gt" | "Lt" if values.len() != 1 => errors.push(FieldError::required(
                &path.child("values"),
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => {
                errors.push(FieldError::invalid(
                    &path.child("operator"),
                    other,
                    "not a valid selector operator",
                ));
            }
        }
    }
}

fn pod_affinity(affinity: &Value, path: &Path<'_>, errors: &mut Errors) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let required_path = path.child(REQUIRED);
    for (i, term) in list(affinity, REQUIRED).iter().enumerate() {
        pod_term(term, &required_path.index(i), errors);
    }
    let preferred = path.child(PREFERRED);
    for (i, one) in list(affinity, PREFERRED).iter().enumerate() {
        let path = preferred.index(i);
        in_range(one, "weight", 1, 100, &path, errors);
        if let Some(term) = at(one, "podAffinityTerm") {
            pod_term(term, &path.child("podAffinityTerm"), errors);
        }
    }
}

fn pod_term(term: &Value, path: &Path<'_>, errors: &mut Errors) {
    if text(term, "topologyKey").is_empty() {
        errors.push(FieldError::required(&path.child("topologyKey"), "can not be empty"));
    } else {
        optional_name(term, "topologyKey", name::qualified_name, path, errors);
    }
    for field in ["labelSelector", "namespaceSelector"] {
        if let Some(value) = at(term, field) {
            errors.extend(selector::validate(value, &path.child(field)));
        }
    }
}
