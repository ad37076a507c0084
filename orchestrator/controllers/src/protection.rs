//! Claims and volumes that are to be deleted stay while they are in use: admission gives each a finalizer, this takes
//! it away again.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod as WholePod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use catamaran_client::error::is_not_found;
use catamaran_client::{Cache, Change, Index, Key, Outcome, Queue, Tasks, object, runner};

use crate::caches::{self, Caches};
use crate::pod::Pod;
use crate::write::preconditions;

const WORKERS: usize = 2;
const OF_CLAIMS: &str = "kubernetes.io/pvc-protection";
const OF_VOLUMES: &str = "kubernetes.io/pv-protection";
/// How often pods are looked at again while they use a claim that is to go, besides whenever one goes.
const AGAIN: Duration = Duration::from_secs(30);

/// Why a finalizer stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtectionError {
    /// Nobody knows who uses the claim.
    #[error("cannot list the pods that may use a PersistentVolumeClaim")]
    Pods(#[source] kube::Error),
    /// The finalizer could not be removed.
    #[error("cannot remove the finalizer {finalizer}")]
    Remove {
        /// Which one.
        finalizer: &'static str,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
}

/// Starts the cache of volumes in `tasks`.
pub(crate) fn volumes(client: &Client, tasks: &mut Tasks) -> Cache<PersistentVolume> {
    let volumes = caches::all(client);
    tasks.spawn("cache of persistentvolumes", volumes.clone().run());
    volumes
}

/// Runs the controller of claims for ever.
pub(crate) async fn run_claims(client: Client, caches: Caches, claims: Cache<PersistentVolumeClaim>) {
    let queue: Queue<Key> = Queue::new();
    let wake = queue.clone();
    claims.on_change(move |change| wake.add(Key::of(&**change.object())));
    let leaving: Index<PersistentVolumeClaim, String> = claims.index(|claim: &PersistentVolumeClaim, add| {
        if is_held(&claim.metadata, OF_CLAIMS) {
            add(object::namespace(&claim.metadata).to_owned());
        }
    });
    let wake = queue.clone();
    caches.pods.on_change(move |change: &Change<'_, Pod>| {
        if let Change::Applied { .. } = change {
            return;
        }
        for claim in leaving.get(object::namespace(&change.object().metadata)) {
            wake.add(Key::of(&*claim));
        }
    });
    claims.ready().await;
    let context = Arc::new((client, claims));
    runner::run("pvcprotection", queue, WORKERS, move |key| release_claim(Arc::clone(&context), key)).await;
}

/// Runs the controller of volumes for ever.
pub(crate) async fn run_volumes(client: Client, volumes: Cache<PersistentVolume>) {
    let queue: Queue<Key> = Queue::new();
    let wake = queue.clone();
    volumes.on_change(move |change| wake.add(Key::of(&**change.object())));
    volumes.ready().await;
    let context = Arc::new((client, volumes));
    runner::run("pvprotection", queue, WORKERS, move |key| release_volume(Arc::clone(&context), key)).await;
}

/// Whether an object is to be deleted and has a finalizer.
fn is_held(meta: &ObjectMeta, finalizer: &str) -> bool {
    object::is_being_deleted(meta) && meta.finalizers.iter().flatten().any(|own| own == finalizer)
}

async fn release_claim(
    context: Arc<(Client, Cache<PersistentVolumeClaim>)>,
    key: Key,
) -> Result<Outcome, ProtectionError> {
    let (client, claims) = &*context;
    let Some(claim) = claims.get(&key).filter(|claim| is_held(&claim.metadata, OF_CLAIMS)) else {
        return Ok(Outcome::Done);
    };
    // Asked of the server, not of a cache: a pod that was bound a moment ago counts.
    let pods: Api<WholePod> = Api::namespaced(client.clone(), &key.namespace);
    let pods = pods.list(&ListParams::default()).await.map_err(ProtectionError::Pods)?;
    if pods.iter().any(|pod| uses(pod, &key.name)) {
        return Ok(Outcome::After(AGAIN));
    }
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &key.namespace);
    let patch = Patch::Merge(without(&claim.metadata, OF_CLAIMS));
    done(api.patch(&key.name, &PatchParams::default(), &patch).await.map(drop), OF_CLAIMS)
}

async fn release_volume(
    context: Arc<(Client, Cache<PersistentVolume>)>,
    key: Key,
) -> Result<Outcome, ProtectionError> {
    let (client, volumes) = &*context;
    let Some(volume) = volumes.get(&key).filter(|volume| is_held(&volume.metadata, OF_VOLUMES)) else {
        return Ok(Outcome::Done);
    };
    // A change of the phase brings us here again.
    if volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound") {
        return Ok(Outcome::Done);
    }
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let patch = Patch::Merge(without(&volume.metadata, OF_VOLUMES));
    done(api.patch(&key.name, &PatchParams::default(), &patch).await.map(drop), OF_VOLUMES)
}

fn done(removed: Result<(), kube::Error>, finalizer: &'static str) -> Result<Outcome, ProtectionError> {
    match removed {
        Err(error) if !is_not_found(&error) => Err(ProtectionError::Remove { finalizer, source: error }),
        _ => Ok(Outcome::Done),
    }
}

/// A merge patch that takes a finalizer away from the object as it was seen.
fn without(meta: &ObjectMeta, finalizer: &str) -> Value {
    let rest: Vec<&String> = meta.finalizers.iter().flatten().filter(|own| *own != finalizer).collect();
    let mut metadata = preconditions(meta);
    metadata["finalizers"] = json!(rest);
    json!({"metadata": metadata})
}

/// Whether a pod that is on a node, ended or not, has a claim. One that is on none cannot get it any more: its node
/// refuses claims that are to go.
fn uses(pod: &WholePod, claim: &str) -> bool {
    let Some(spec) =
        pod.spec.as_ref().filter(|spec| spec.node_name.as_deref().is_some_and(|n| !n.is_empty()))
    else {
        return false;
    };
    spec.volumes.iter().flatten().any(|volume| {
        let named = volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == claim);
        let own = || format!("{}-{}", object::name(&pod.metadata), volume.name) == claim;
        named || (volume.ephemeral.is_some() && own())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_uses_a_claim() {
        let pod = |node: &str, volume: Value| -> WholePod {
            let spec = json!({"nodeName": node, "containers": [], "volumes": [volume]});
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
        };
        let of = |name: &str| json!({"name": "v", "persistentVolumeClaim": {"claimName": name}});
        let table = [
            (pod("n", of("c")), "c", true),
            (pod("", of("c")), "c", false),
            (pod("n", of("d")), "c", false),
            (pod("n", json!({"name": "v", "ephemeral": {}})), "p-v", true),
            (pod("n", json!({"name": "v", "emptyDir": {}})), "p-v", false),
        ];
        for (pod, claim, expected) in table {
            assert_eq!(uses(&pod, claim), expected, "{claim} {pod:?}");
        }
    }

    #[test]
    fn only_the_one_finalizer_goes() {
        let meta: ObjectMeta = serde_json::from_value(json!({
            "uid": "u", "resourceVersion": "7", "finalizers": ["a/b", OF_CLAIMS], "deletionTimestamp": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        assert!(is_held(&meta, OF_CLAIMS) && !is_held(&meta, OF_VOLUMES));
        assert_eq!(
            without(&meta, OF_CLAIMS),
            json!({"metadata": {"uid": "u", "resourceVersion": "7", "finalizers": ["a/b"]}})
        );
    }
}
