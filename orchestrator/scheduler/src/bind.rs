//! Writes a decision: the binding, or the condition and the event that say why there is none.

use catamaran_client::{EventType, Key, Recorder};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod as FullPod;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource};
use serde_json::{Value, json};
use tracing::instrument;

use crate::place::Unschedulable;
use crate::pod::Pod;

/// POSTs the binding of a pod to a node.
///
/// # Errors
/// The server did not take it: the pod is gone, bound already, or the server did not answer.
#[instrument(name = "bind", skip_all, fields(pod = %key, node))]
pub(crate) async fn bind(client: &Client, key: &Key, uid: &str, node: &str) -> Result<(), kube::Error> {
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": { "name": key.name, "namespace": key.namespace, "uid": uid },
        "target": { "apiVersion": "v1", "kind": "Node", "name": node },
    });
    let path = format!("/api/v1/namespaces/{}/pods/{}/binding", key.namespace, key.name);
    let request = http::Request::post(path).header("content-type", "application/json");
    let request = request.body(binding.to_string().into_bytes()).map_err(kube::Error::HttpError)?;
    client.request::<Value>(request).await.map(drop)
}

/// Says that the pod was placed.
pub(crate) fn report_scheduled(recorder: &Recorder, pod: &Pod, key: &Key, node: &str) {
    let text = format!("Successfully assigned {}/{} to {node}", key.namespace, key.name);
    recorder.publish(pod.object_ref(&()), EventType::Normal, "Scheduled", text);
}

/// Says on the pod and in an event why no node takes it.
///
/// # Errors
/// The server did not take the condition.
pub(crate) async fn report_unschedulable(
    client: &Client,
    recorder: &Recorder,
    pod: &Pod,
    key: &Key,
    why: &Unschedulable,
) -> Result<(), kube::Error> {
    let message = why.to_string();
    recorder.publish(pod.object_ref(&()), EventType::Warning, "FailedScheduling", message.clone());
    if pod.says_unschedulable(&message) {
        return Ok(());
    }
    let condition = json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    let pods: Api<FullPod> = Api::namespaced(client.clone(), &key.namespace);
    let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
    pods.patch_status(&key.name, &PatchParams::default(), &patch).await.map(drop)
}
