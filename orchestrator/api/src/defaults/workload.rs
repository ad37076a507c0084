//! Workloads: apps, batch, autoscaling.

use serde_json::{Value, json};

use super::core::claim;
use super::pod::template;
use super::{Object, each, made, put, put_text, text, within};
use crate::kind::GroupVersionKind;

pub(super) fn fill(gvk: GroupVersionKind, object: &mut Object) {
    match (gvk.kind, gvk.version) {
        ("Deployment", _) => made(object, "spec", deployment),
        ("ReplicaSet", _) => made(object, "spec", |spec| {
            put(spec, "replicas", 1);
            template(spec);
        }),
        ("StatefulSet", _) => made(object, "spec", stateful_set),
        ("DaemonSet", _) => made(object, "spec", daemon_set),
        ("Job", _) => job(object),
        ("CronJob", _) => made(object, "spec", |spec| {
            put_text(spec, "concurrencyPolicy", "Allow");
            put(spec, "suspend", false);
            put(spec, "successfulJobsHistoryLimit", 3);
            put(spec, "failedJobsHistoryLimit", 1);
            made(spec, "jobTemplate", |job| made(job, "spec", template));
        }),
        ("HorizontalPodAutoscaler", "v2") => made(object, "spec", autoscaler),
        ("HorizontalPodAutoscaler", _) => made(object, "spec", |spec| put(spec, "minReplicas", 1)),
        _ => {}
    }
}

fn deployment(spec: &mut Object) {
    put(spec, "replicas", 1);
    made(spec, "strategy", |strategy| {
        put_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            made(strategy, "rollingUpdate", |rolling| {
                put(rolling, "maxUnavailable", "25%");
                put(rolling, "maxSurge", "25%");
            });
        }
    });
    put(spec, "revisionHistoryLimit", 10);
    put(spec, "progressDeadlineSeconds", 600);
    template(spec);
}

fn stateful_set(spec: &mut Object) {
    put(spec, "replicas", 1);
    put_text(spec, "podManagementPolicy", "OrderedReady");
    put(spec, "revisionHistoryLimit", 10);
    made(spec, "updateStrategy", |strategy| {
        put_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            made(strategy, "rollingUpdate", |rolling| put(rolling, "partition", 0));
        }
    });
    made(spec, "persistentVolumeClaimRetentionPolicy", |policy| {
        put_text(policy, "whenDeleted", "Retain");
        put_text(policy, "whenScaled", "Retain");
    });
    each(spec, "volumeClaimTemplates", |template| {
        put_text(template, "apiVersion", "v1");
        put_text(template, "kind", "PersistentVolumeClaim");
        claim(template);
    });
    template(spec);
}

fn daemon_set(spec: &mut Object) {
    made(spec, "updateStrategy", |strategy| {
        put_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            made(strategy, "rollingUpdate", |rolling| {
                put(rolling, "maxUnavailable", 1);
                put(rolling, "maxSurge", 0);
            });
        }
    });
    put(spec, "revisionHistoryLimit", 10);
    template(spec);
}

fn job(object: &mut Object) {
    let labels = object.get("spec").and_then(|spec| spec.pointer("/template/metadata/labels")).cloned();
    if let Some(labels) = labels.filter(|labels| labels.as_object().is_some_and(|l| !l.is_empty())) {
        made(object, "metadata", |metadata| put(metadata, "labels", labels));
    }
    made(object, "spec", |spec| {
        // A fixed number of completions is the default; parallelism alone means a work queue.
        if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
            put(spec, "completions", 1);
        }
        put(spec, "parallelism", 1);
        let backoff = if spec.contains_key("backoffLimitPerIndex") { i32::MAX } else { 6 };
        put(spec, "backoffLimit", backoff);
        put(spec, "completionMode", "NonIndexed");
        put(spec, "suspend", false);
        let replacement =
            if spec.contains_key("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
        put(spec, "podReplacementPolicy", replacement);
        within(spec, "podFailurePolicy", |policy| {
            each(policy, "rules", |rule| {
                each(rule, "onPodConditions", |condition| put_text(condition, "status", "True"));
            });
        });
        template(spec);
    });
}

/// A Job that does not bring its own selector selects by its uid; the template gets the labels that fit.
pub(super) fn job_on_create(object: &mut Object) {
    object.insert("status".into(), json!({}));
    let of_metadata = |name: &str| {
        object
            .get("metadata")
            .and_then(|m| m.get(name))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (uid, name) = (of_metadata("uid"), of_metadata("name"));
    made(object, "spec", |spec| {
        if spec.get("manualSelector").and_then(Value::as_bool).unwrap_or_default() {
            return;
        }
        made(spec, "template", |template| {
            made(template, "metadata", |metadata| {
                made(metadata, "labels", |labels| {
                    for prefix in ["", "batch.kubernetes.io/"] {
                        labels.insert(format!("{prefix}job-name"), name.clone().into());
                        labels.insert(format!("{prefix}controller-uid"), uid.clone().into());
                    }
                });
            });
        });
        made(spec, "selector", |selector| {
            made(selector, "matchLabels", |labels| put(labels, "batch.kubernetes.io/controller-uid", uid));
        });
    });
}

fn autoscaler(spec: &mut Object) {
    put(spec, "minReplicas", 1);
    let has_metrics =
        spec.get("metrics").and_then(Value::as_array).is_some_and(|metrics| !metrics.is_empty());
    if !has_metrics {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        spec.insert(
            "metrics".into(),
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]),
        );
    }
    within(spec, "behavior", |behavior| {
        made(behavior, "scaleUp", |rules| {
            put(rules, "stabilizationWindowSeconds", 0);
            put_text(rules, "selectPolicy", "Max");
            put(
                rules,
                "policies",
                json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]),
            );
        });
        made(behavior, "scaleDown", |rules| {
            put_text(rules, "selectPolicy", "Max");
            put(rules, "policies", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
        });
    });
}
