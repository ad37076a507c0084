//! Tells the server what was decided: a Binding, or the condition and the event that say why there is none.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Request;
use serde_json::json;
use tracing::debug;

use catamaran_client::error::{Chain, is_conflict, is_not_found};
use catamaran_client::{EventType, Recorder};

use crate::queue::Uid;
use crate::state::{First, Row};

/// After this long nobody knows whether a binding happened; the pod's next event tells.
const PATIENCE: Duration = Duration::from_secs(30);

/// A pod as the server knows it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) uid: Uid,
    pub(crate) namespace: std::sync::Arc<str>,
    pub(crate) name: Box<str>,
}

impl Target {
    pub(crate) fn new(uid: &Uid, row: &Row) -> Self {
        Self { uid: uid.clone(), namespace: row.namespace.clone(), name: row.name.clone() }
    }

    fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(self.namespace.to_string()),
            name: Some(self.name.to_string()),
            uid: Some(self.uid.to_string()),
            ..ObjectReference::default()
        }
    }

    fn request(&self) -> Request {
        Request::new(format!("/api/v1/namespaces/{}/pods", self.namespace))
    }
}

/// How a binding ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    Yes,
    No,
}

/// Binds a pod to a node.
pub(crate) async fn bind(client: Client, recorder: Recorder, target: Target, node: String) -> (Uid, Bound) {
    let body = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": target.name, "namespace": &*target.namespace, "uid": &*target.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let body = serde_json::to_vec(&body).expect("a value of JSON can be written");
    let send = async {
        let request = target
            .request()
            .create_subresource("binding", &target.name, &PostParams::default(), body)
            .map_err(kube::Error::BuildRequest)?;
        client.request_text(request).await.map(drop)
    };
    let bound = match tokio::time::timeout(PATIENCE, send).await {
        Ok(Ok(())) => {
            let message = format!("Successfully assigned {}/{} to {node}", target.namespace, target.name);
            recorder.publish(target.reference(), EventType::Normal, "Scheduled", message);
            Bound::Yes
        }
        Ok(Err(error)) => {
            debug!(error = %Chain(&error), "the binding was refused");
            // A pod that is gone or bound already needs no word.
            if !is_not_found(&error) && !is_conflict(&error) {
                let message = format!("binding rejected: {}", Chain(&error));
                recorder.publish(target.reference(), EventType::Warning, "FailedScheduling", message);
            }
            Bound::No
        }
        Err(_) => Bound::No,
    };
    (target.uid, bound)
}

/// Says why a pod has no node: in an event, and in its condition `PodScheduled`.
pub(crate) async fn tell(client: Client, recorder: Recorder, target: Target, why: String, first: First) {
    recorder.publish(target.reference(), EventType::Warning, "FailedScheduling", why.as_str());
    let mut condition =
        json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why});
    if first == First::Yes {
        condition["lastTransitionTime"] = json!(Time(Timestamp::now()));
    }
    let patch = json!({"metadata": {"uid": &*target.uid}, "status": {"conditions": [condition]}});
    let send = async {
        let request = target
            .request()
            .patch_subresource("status", &target.name, &PatchParams::default(), &Patch::Strategic(patch))
            .map_err(kube::Error::BuildRequest)?;
        client.request_text(request).await.map(drop)
    };
    match tokio::time::timeout(PATIENCE, send).await {
        Ok(Err(error)) if !is_not_found(&error) => {
            debug!(error = %Chain(&error), "the condition of a pod could not be written");
        }
        _ => {}
    }
}
