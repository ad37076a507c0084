//! Tells the server what was decided: a Binding, or the condition and the event that say why there is none.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Request;
use kube::{Api, Client};
use serde_json::json;
use tracing::debug;

use catamaran_api::local_path::{BIND_COMPLETED, SELECTED_NODE};
use catamaran_client::error::{Chain, is_conflict, is_not_found};
use catamaran_client::{EventType, Recorder, object};

use crate::queue::Uid;
use crate::state::{First, Row};
use crate::volumes::ClaimId;

/// After this long nobody knows whether a binding happened; the pod's next event tells.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long volumes may take to be made and bound (Kubernetes' `bindTimeoutSeconds`).
const VOLUME_PATIENCE: Duration = Duration::from_secs(600);
/// Pauses between looks at a claim that is to be bound.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_secs(1);

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

/// Binds a pod to a node, once `claims` know that node and are bound themselves.
pub(crate) async fn bind(
    client: Client,
    recorder: Recorder,
    target: Target,
    node: String,
    claims: Vec<ClaimId>,
) -> (Uid, Bound) {
    if let Err(why) = choose(&client, &claims, &node).await {
        debug!(why, "the volumes of a pod are not bound");
        let message = format!("running PreBind plugin \"VolumeBinding\": binding volumes: {why}");
        recorder.publish(target.reference(), EventType::Warning, "FailedScheduling", message);
        return (target.uid, Bound::No);
    }
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

/// Tells claims the node and waits until they are bound.
async fn choose(client: &Client, claims: &[ClaimId], node: &str) -> Result<(), String> {
    for (namespace, name) in claims {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
        let patch = Patch::Merge(json!({"metadata": {"annotations": {SELECTED_NODE: node}}}));
        let written = api.patch(name, &PatchParams::default(), &patch).await;
        written.map_err(|error| Chain(&error).to_string())?;
    }
    for (namespace, name) in claims {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
        let bound = tokio::time::timeout(VOLUME_PATIENCE, wait_for(&api, name, node)).await;
        bound.map_err(|_| format!("claim {name:?} is not bound in time"))??;
    }
    Ok(())
}

/// Waits until the claim is bound. Whoever cannot make a volume on the node takes the node away from the claim.
async fn wait_for(api: &Api<PersistentVolumeClaim>, name: &str, node: &str) -> Result<(), String> {
    let mut pause = FIRST_LOOK;
    loop {
        let claim = api.get(name).await.map_err(|error| Chain(&error).to_string())?;
        if object::annotation(&claim.metadata, BIND_COMPLETED).is_some() {
            return Ok(());
        }
        if object::annotation(&claim.metadata, SELECTED_NODE) != Some(node) {
            return Err(format!("claim {name:?} cannot have a volume on node {node:?}"));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
    }
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
