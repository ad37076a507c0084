//! Claims out of the `ephemeral` volumes of pods: each pod gets claims of its own, which go when it goes.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};

use catamaran_client::error::{is_already_exists, is_namespace_terminating};
use catamaran_client::{Change, EventType, Key, Outcome, Queue, Recorder, object, runner};

use crate::caches::Caches;
use crate::pod::{Pod, Volume};

/// Keys that are worked on at a time.
const WORKERS: usize = 4;

/// Why a claim could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot create the PersistentVolumeClaim {name}")]
pub(crate) struct EphemeralError {
    name: String,
    #[source]
    source: kube::Error,
}

struct Context {
    client: Client,
    caches: Caches,
    recorder: Recorder,
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, caches: Caches, recorder: Recorder) {
    let queue = Queue::new();
    let wake = queue.clone();
    caches.pods.on_change(move |change: &Change<'_, Pod>| {
        if let Change::Applied { new, .. } = change
            && new.spec.volumes.iter().any(|volume| volume.ephemeral.is_some())
        {
            wake.add(Key::of(&***new));
        }
    });
    caches.pods.ready().await;
    caches.claims.ready().await;
    let context = Arc::new(Context { client, caches, recorder });
    runner::run("ephemeral-volume", queue, WORKERS, move |key| reconcile(Arc::clone(&context), key)).await;
}

async fn reconcile(context: Arc<Context>, key: Key) -> Result<Outcome, EphemeralError> {
    let Some(pod) = context.caches.pods.get(&key).filter(|pod| pod.is_active()) else {
        return Ok(Outcome::Done);
    };
    for volume in &pod.spec.volumes {
        let Some(claim) = wanted(&pod, volume) else { continue };
        let name = object::name(&claim.metadata).to_owned();
        if let Some(known) = context.caches.claims.get(&Key::new(key.namespace.as_str(), name.as_str())) {
            if !is_for(&known, &pod) {
                let message = format!("PVC \"{}/{name}\" was not created for pod \"{key}\"", key.namespace);
                context.recorder.event(&*pod, EventType::Warning, "FailedBinding", message);
            }
            continue;
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &key.namespace);
        match api.create(&PostParams::default(), &claim).await {
            Err(error) if !is_already_exists(&error) && !is_namespace_terminating(&error) => {
                let message = format!("ephemeral volume {:?}: create PVC: {error}", volume.name);
                context.recorder.event(&*pod, EventType::Warning, "FailedBinding", message);
                return Err(EphemeralError { name, source: error });
            }
            _ => {}
        }
    }
    Ok(Outcome::Done)
}

/// The claim of an `ephemeral` volume.
fn wanted(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let meta = template.metadata.clone().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            annotations: meta.annotations,
            labels: meta.labels,
            name: Some(format!("{}-{}", object::name(&pod.metadata), volume.name)),
            namespace: pod.metadata.namespace.clone(),
            owner_references: Some(vec![object::controller_reference("v1", "Pod", &pod.metadata)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

/// Was the claim made for this pod?
fn is_for(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    object::controller_of(&claim.metadata).is_some_and(|owner| owner.uid == object::uid(&pod.metadata))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_of_the_pods_own() {
        let template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns", "uid": "7"},
            "spec": {"volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}, {"name": "x", "emptyDir": {}}]}}))
        .unwrap();
        let claim = wanted(&pod, &pod.spec.volumes[0]).unwrap();
        assert_eq!(claim.metadata.name.as_deref(), Some("web-scratch"));
        assert_eq!(claim.metadata.labels.as_ref().unwrap()["a"], "b");
        assert!(is_for(&claim, &pod));
        assert_eq!(wanted(&pod, &pod.spec.volumes[1]), None);
        assert_eq!(pod.claims().collect::<Vec<_>>(), ["web-scratch"]);
        assert!(!is_for(&PersistentVolumeClaim::default(), &pod));
    }
}
