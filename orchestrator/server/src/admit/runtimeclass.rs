//! What a pod's runtime class adds: overhead, node selector, tolerations. A pod of an unknown class is accepted
//! and waits for it.

use serde_json::Value;

use catamaran_api::meta;
use catamaran_api::status::Status;

use super::look_up;
use crate::context::Context;

/// Completes the pod from its class.
pub(super) async fn admit(context: &Context, pod: &mut Value) -> Result<(), Status> {
    let Some(name) = pod["spec"]["runtimeClassName"].as_str().filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    let class = look_up(context, ("node.k8s.io", "v1", "runtimeclasses"), None, name).await?;
    let Some(class) = class else { return Ok(()) };
    complete(pod, &class).map_err(|why| Status::forbidden(context.group_resource(), meta::name(pod), &why))
}

fn complete(pod: &mut Value, class: &Value) -> Result<(), String> {
    let overhead = &class["overhead"]["podFixed"];
    if overhead.is_object() {
        let said = &pod["spec"]["overhead"];
        if !said.is_null() && said != overhead {
            return Err(
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned()
            );
        }
        pod["spec"]["overhead"] = overhead.clone();
    }
    for (key, value) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
        let said = &pod["spec"]["nodeSelector"][key];
        if !said.is_null() && said != value {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {said}"
            ));
        }
        pod["spec"]["nodeSelector"][key] = value.clone();
    }
    let mut tolerations = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    for toleration in class["scheduling"]["tolerations"].as_array().into_iter().flatten() {
        if !tolerations.contains(toleration) {
            tolerations.push(toleration.clone());
        }
    }
    if !tolerations.is_empty() {
        pod["spec"]["tolerations"] = tolerations.into();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn overhead_selector_and_tolerations() {
        let class = json!({
            "overhead": {"podFixed": {"memory": "16Mi"}},
            "scheduling": {"nodeSelector": {"wasm": "yes"}, "tolerations": [{"key": "wasm"}]},
        });
        let mut pod = json!({"spec": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "x"}]}});
        complete(&mut pod, &class).unwrap();
        assert_eq!(pod["spec"]["overhead"]["memory"], "16Mi");
        assert_eq!(pod["spec"]["nodeSelector"], json!({"a": "b", "wasm": "yes"}));
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
        let mut conflicting = json!({"spec": {"nodeSelector": {"wasm": "no"}}});
        assert!(complete(&mut conflicting, &class).unwrap_err().starts_with("conflict"));
        let mut nothing = json!({"spec": {}});
        complete(&mut nothing, &json!({})).unwrap();
        assert_eq!(nothing, json!({"spec": {}}));
    }
}
