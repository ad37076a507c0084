//! The first status of a pod, as it follows from its spec once that is complete: the class of service, and whether
//! scheduling has to wait.

use serde_json::{Value, json};

use catamaran_api::defaults;

/// Brings the status of a new pod in line with its spec.
pub(super) fn complete(pod: &mut Value) {
    pod["status"]["qosClass"] = defaults::qos_class(&pod["spec"]).into();
    let gated = pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
    let conditions = pod["status"].get("conditions").and_then(Value::as_array);
    let mut conditions = conditions.cloned().unwrap_or_default();
    conditions.retain(|condition| condition["reason"] != "SchedulingGated");
    if gated {
        conditions.push(json!({
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null, "lastTransitionTime": null,
        }));
    }
    if conditions.is_empty() {
        if let Some(status) = pod["status"].as_object_mut() {
            status.remove("conditions");
        }
    } else {
        pod["status"]["conditions"] = conditions.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_follows_the_spec() {
        let mut pod = json!({
            "spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}], "schedulingGates": [{"name": "g"}]},
            "status": {"phase": "Pending", "qosClass": "BestEffort"},
        });
        complete(&mut pod);
        complete(&mut pod);
        assert_eq!(pod["status"]["qosClass"], "Burstable");
        assert_eq!(pod["status"]["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(pod["status"]["conditions"][0]["reason"], "SchedulingGated");
        pod["spec"].as_object_mut().unwrap().remove("schedulingGates");
        complete(&mut pod);
        assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "Burstable"}));
    }
}
