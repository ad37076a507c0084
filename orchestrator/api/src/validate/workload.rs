//! Deployments, ReplicaSets, ReplicationControllers, StatefulSets, DaemonSets, ControllerRevisions.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::check::{
    count_or_percent, immutable, is_zero, not_negative, one_of, optional_one_of, percent_of,
    workload_selector,
};
use super::{Errors, pod};
use crate::field_error::{FieldError, Path};
use crate::fields::{at, integer, list, map, number, text};

const SPEC: Path<'static> = Path::root("spec");

/// The rules of every state.
pub(super) fn validate(plural: &str, o: &Value, errors: &mut Errors) {
    let Some(spec) = at(o, "spec") else {
        if plural != "controllerrevisions" {
            errors.push(FieldError::required(&SPEC.child("selector"), ""));
        }
        return;
    };
    let template_path = SPEC.child("template");
    let (kind, empty) = match plural {
        "deployments" => ("Deployment", "empty selector is invalid for deployment"),
        "replicasets" => ("ReplicaSet", "empty selector is invalid for deployment"),
        "statefulsets" => ("StatefulSet", "empty selector is invalid for statefulset"),
        "daemonsets" => ("DaemonSet", "empty selector is invalid for daemonset"),
        "replicationcontrollers" => return replication_controller(spec, errors),
        _ => return,
    };
    workload_selector(spec, &SPEC, errors, empty);
    pod::always_template(&with_claims(spec), &template_path, kind, errors);
    not_negative(spec, "replicas", &SPEC, errors);
    not_negative(spec, "minReadySeconds", &SPEC, errors);
    not_negative(spec, "revisionHistoryLimit", &SPEC, errors);
    match plural {
        "deployments" => deployment(spec, errors),
        "statefulsets" => stateful_set(spec, errors),
        "daemonsets" => daemon_set(spec, errors),
        _ => {}
    }
}

/// The template as its pods will have it: the claims of a StatefulSet are volumes of theirs.
fn with_claims(spec: &Value) -> Cow<'_, Value> {
    let template = &spec["template"];
    let claims = list(spec, "volumeClaimTemplates");
    if claims.is_empty() || !template["spec"].is_object() {
        return Cow::Borrowed(template);
    }
    let mut template = template.clone();
    let mut volumes = list(&template, "spec.volumes").to_vec();
    for name in claims.iter().map(|claim| text(claim, "metadata.name")) {
        if !volumes.iter().any(|volume| volume["name"] == name) {
            volumes.push(json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
        }
    }
    template["spec"]["volumes"] = volumes.into();
    Cow::Owned(template)
}

fn replication_controller(spec: &Value, errors: &mut Errors) {
    not_negative(spec, "replicas", &SPEC, errors);
    not_negative(spec, "minReadySeconds", &SPEC, errors);
    let labels = at(spec, "template.metadata.labels");
    if map(spec, "selector").next().is_none() {
        errors.push(FieldError::required(&SPEC.child("selector"), ""));
    }
    let has = |(key, value): (&String, &Value)| labels.and_then(|l| l.get(key)) == Some(value);
    let template_path = SPEC.child("template");
    if !map(spec, "selector").all(has) {
        let metadata = template_path.child("metadata");
        let message = "`selector` does not match template `labels`";
        let value = labels.cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(&metadata.child("labels"), value, message));
    }
    pod::always_template(&spec["template"], &template_path, "ReplicationController", errors);
}

fn deployment(spec: &Value, errors: &mut Errors) {
    let path = SPEC.child("strategy");
    if let Some(strategy) = at(spec, "strategy") {
        one_of(strategy, "type", &["Recreate", "RollingUpdate"], &path, errors);
        let rolling = path.child("rollingUpdate");
        match (text(strategy, "type"), at(strategy, "rollingUpdate")) {
            ("Recreate", Some(_)) => {
                let message = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(FieldError::forbidden(&rolling, message));
            }
            ("RollingUpdate", Some(update)) => rolling_update(update, &rolling, errors),
            _ => {}
        }
    }
    if let Some(deadline) = number(spec, "progressDeadlineSeconds") {
        not_negative(spec, "progressDeadlineSeconds", &SPEC, errors);
        if deadline <= integer(spec, "minReadySeconds") {
            let path = SPEC.child("progressDeadlineSeconds");
            errors.push(FieldError::invalid(&path, deadline, "must be greater than minReadySeconds"));
        }
    }
}

fn rolling_update(update: &Value, path: &Path<'_>, errors: &mut Errors) {
    let unavailable_path = path.child("maxUnavailable");
    for field in ["maxUnavailable", "maxSurge"] {
        if let Some(value) = at(update, field) {
            count_or_percent(value, &path.child(field), errors);
        }
    }
    let unavailable = at(update, "maxUnavailable");
    if is_zero(unavailable) && is_zero(at(update, "maxSurge")) {
        let value = unavailable.cloned().unwrap_or(Value::from(0));
        errors.push(FieldError::invalid(&unavailable_path, value, "may not be 0 when `maxSurge` is 0"));
    }
    not_above_hundred(unavailable, &unavailable_path, errors);
}

fn not_above_hundred(value: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(value) = value.filter(|v| percent_of(v).is_some_and(|p| p > 100)) {
        errors.push(FieldError::invalid(path, value.clone(), "must not be greater than 100%"));
    }
}

fn stateful_set(spec: &Value, errors: &mut Errors) {
    let management = ["OrderedReady", "Parallel"];
    match text(spec, "podManagementPolicy") {
        "" => errors.push(FieldError::required(&SPEC.child("podManagementPolicy"), "")),
        policy if !management.contains(&policy) => {
            let message = format!("must be '{}' or '{}'", management[0], management[1]);
            errors.push(FieldError::invalid(&SPEC.child("podManagementPolicy"), policy, message));
        }
        _ => {}
    }
    let path = SPEC.child("updateStrategy");
    let rolling = path.child("rollingUpdate");
    match text(spec, "updateStrategy.type") {
        "" => errors.push(FieldError::required(&path, "")),
        "OnDelete" if at(spec, "updateStrategy.rollingUpdate").is_some() => {
            let value = spec["updateStrategy"]["rollingUpdate"].clone();
            let message = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(FieldError::invalid(&rolling, value, message));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            if let Some(update) = at(spec, "updateStrategy.rollingUpdate") {
                not_negative(update, "partition", &rolling, errors);
            }
        }
        other => {
            let value = spec["updateStrategy"].clone();
            let message = format!("must be 'RollingUpdate' or 'OnDelete', not '{other}'");
            errors.push(FieldError::invalid(&path, value, message));
        }
    }
    let retention = SPEC.child("persistentVolumeClaimRetentionPolicy");
    if let Some(policy) = at(spec, "persistentVolumeClaimRetentionPolicy") {
        for field in ["whenDeleted", "whenScaled"] {
            optional_one_of(policy, field, &["Retain", "Delete"], &retention, errors);
        }
    }
}

fn daemon_set(spec: &Value, errors: &mut Errors) {
    let path = SPEC.child("updateStrategy");
    let Some(strategy) = at(spec, "updateStrategy") else { return };
    one_of(strategy, "type", &["RollingUpdate", "OnDelete"], &path, errors);
    if text(strategy, "type") != "RollingUpdate" {
        return;
    }
    let path = path.child("rollingUpdate");
    let Some(update) = at(strategy, "rollingUpdate") else {
        errors.push(FieldError::required(&path, ""));
        return;
    };
    for field in ["maxUnavailable", "maxSurge"] {
        if let Some(value) = at(update, field) {
            count_or_percent(value, &path.child(field), errors);
            not_above_hundred(Some(value), &path.child(field), errors);
        }
    }
    let (unavailable, surge) = (at(update, "maxUnavailable"), at(update, "maxSurge"));
    match (is_zero(unavailable), is_zero(surge)) {
        (true, true) => {
            let value = unavailable.cloned().unwrap_or(Value::from(0));
            errors.push(FieldError::required(
                &path.child("maxUnavailable"),
                format!("cannot be {value} when maxSurge is 0"),
            ));
        }
        (false, false) => {
            let value = surge.cloned().unwrap_or(Value::Null);
            let message = "may not be set when maxUnavailable is non-zero";
            errors.push(FieldError::invalid(&path.child("maxSurge"), value, message));
        }
        _ => {}
    }
}

const STATEFUL_SET_FREE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

/// What may not change.
pub(super) fn update(plural: &str, new: &Value, old: &Value, errors: &mut Errors) {
    let (new_spec, old_spec) = (&new["spec"], &old["spec"]);
    match plural {
        "deployments" | "replicasets" | "daemonsets" => {
            immutable(new_spec, old_spec, "selector", &SPEC, errors);
        }
        "statefulsets" => {
            let fixed = |spec: &Value| {
                let mut copy = spec.clone();
                if let Some(fields) = copy.as_object_mut() {
                    fields.retain(|field, value| {
                        !STATEFUL_SET_FREE.contains(&field.as_str()) && !value.is_null()
                    });
                }
                copy
            };
            if fixed(new_spec) != fixed(old_spec) {
                let message = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
                errors.push(FieldError::forbidden(&SPEC, message));
            }
        }
        "controllerrevisions" => immutable(new, old, "data", &Path::root(""), errors),
        _ => {}
    }
}
