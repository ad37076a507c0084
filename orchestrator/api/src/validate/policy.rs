//! Disruption budgets, autoscalers, limit ranges, quotas.

use serde_json::Value;

use super::Errors;
use super::check::{self, count_or_percent, one_of, required};
use crate::field_error::{FieldError, Path};
use crate::fields::{at, integer, list, map, number, text, texts};
use crate::kind::Resource;
use crate::{name, selector};

const SPEC: Path<'static> = Path::root("spec");

/// The rules of every state.
pub(super) fn validate(resource: &Resource, o: &Value, errors: &mut Errors) {
    match resource.plural {
        "poddisruptionbudgets" => budget(&o["spec"], errors),
        "horizontalpodautoscalers" => autoscaler(&o["spec"], errors),
        "limitranges" => limit_range(&o["spec"], errors),
        "resourcequotas" => quota(&o["spec"], errors),
        _ => {}
    }
}

/// What may not change in a quota.
pub(super) fn update(new: &Value, old: &Value, errors: &mut Errors) {
    check::immutable(&new["spec"], &old["spec"], "scopes", &SPEC, errors);
}

fn budget(spec: &Value, errors: &mut Errors) {
    let (least, most) = (at(spec, "minAvailable"), at(spec, "maxUnavailable"));
    if least.is_some() && most.is_some() {
        let message = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid(&SPEC, spec.clone(), message));
    }
    for (field, value) in [("minAvailable", least), ("maxUnavailable", most)] {
        if let Some(value) = value {
            let path = SPEC.child(field);
            count_or_percent(value, &path, errors);
            if check::percent_of(value).is_some_and(|p| p > 100) {
                errors.push(FieldError::invalid(&path, value.clone(), "must not be greater than 100%"));
            }
        }
    }
    if let Some(value) = at(spec, "selector") {
        errors.extend(selector::validate(value, &SPEC.child("selector")));
    }
    if at(spec, "unhealthyPodEvictionPolicy").is_some() {
        one_of(spec, "unhealthyPodEvictionPolicy", &["AlwaysAllow", "IfHealthyBudget"], &SPEC, errors);
    }
}

fn autoscaler(spec: &Value, errors: &mut Errors) {
    let (least, most) = (number(spec, "minReplicas"), integer(spec, "maxReplicas"));
    if let Some(least) = least.filter(|n| *n < 1) {
        let message = "must be greater than or equal to 1";
        errors.push(FieldError::invalid(&SPEC.child("minReplicas"), least, message));
    }
    if most < 1 {
        errors.push(FieldError::invalid(&SPEC.child("maxReplicas"), most, "must be greater than 0"));
    }
    if least.is_some_and(|least| most < least) {
        let message = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(&SPEC.child("maxReplicas"), most, message));
    }
    let target = SPEC.child("scaleTargetRef");
    let reference = &spec["scaleTargetRef"];
    for field in ["kind", "name"] {
        if let Some(value) = required(reference, field, &target, errors) {
            check::messages(name::path_segment(value), value, &target.child(field), errors);
        }
    }
    let metrics = SPEC.child("metrics");
    for (i, metric) in list(spec, "metrics").iter().enumerate() {
        let path = metrics.index(i);
        let kinds = ["ContainerResource", "External", "Object", "Pods", "Resource"];
        one_of(metric, "type", &kinds, &path, errors);
        if text(metric, "type") == "Resource" {
            let path = path.child("resource");
            match at(metric, "resource") {
                None => errors.push(FieldError::required(
                    &path,
                    "must populate information for the given metric source",
                )),
                Some(resource) => {
                    required(resource, "name", &path, errors);
                }
            }
        }
    }
}

fn limit_range(spec: &Value, errors: &mut Errors) {
    let limits = SPEC.child("limits");
    let mut seen = std::collections::BTreeSet::new();
    for (i, limit) in list(spec, "limits").iter().enumerate() {
        let path = limits.index(i);
        let kind = text(limit, "type");
        check::messages(name::qualified_name(kind), kind, &path.child("type"), errors);
        if !seen.insert(kind) {
            errors.push(FieldError::duplicate(&path.child("type"), kind));
        }
        let amount = |field: &str, resource: &str| {
            limit
                .get(field)
                .and_then(|m| m.get(resource))
                .and_then(|v| crate::quantity::Quantity::from_value(v).ok())
        };
        for field in ["min", "max", "default", "defaultRequest"] {
            let parent = path.child(field);
            for (resource, value) in map(limit, field) {
                check::quantity(value, &parent.key(resource), errors);
            }
            if kind == "Pod" && field.starts_with("default") && map(limit, field).next().is_some() {
                errors.push(FieldError::forbidden(&parent, "may not be specified when `type` is 'Pod'"));
            }
        }
        let order = [
            ("min", "max"),
            ("min", "default"),
            ("min", "defaultRequest"),
            ("defaultRequest", "default"),
            ("default", "max"),
            ("defaultRequest", "max"),
        ];
        for (low, high) in order {
            let parent = path.child(low);
            for (resource, _) in map(limit, low) {
                if let Some((below, above)) = amount(low, resource).zip(amount(high, resource))
                    && below > above
                {
                    let message = format!("{low} value {below} is greater than {high} value {above}");
                    errors.push(FieldError::invalid(&parent.key(resource), below.to_string(), message));
                }
            }
        }
    }
}

fn quota(spec: &Value, errors: &mut Errors) {
    let hard = SPEC.child("hard");
    for (resource, value) in map(spec, "hard") {
        let path = hard.key(resource);
        check::messages(name::qualified_name(resource), resource, &path, errors);
        check::quantity(value, &path, errors);
    }
    let scopes = SPEC.child("scopes");
    let known = [
        "BestEffort",
        "CrossNamespacePodAffinity",
        "NotBestEffort",
        "NotTerminating",
        "PriorityClass",
        "Terminating",
    ];
    for scope in texts(spec, "scopes") {
        if !known.contains(&scope) {
            errors.push(FieldError::invalid(&scopes, scope, "unsupported scope"));
        }
    }
}
