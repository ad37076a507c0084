//! The pods that an object owns: which they are, and how they are made, changed and removed.
//!
//! Nothing is created twice, and no expectations are kept: a pass waits until the cache has seen the last write
//! that an earlier pass made, and after a request without an answer it reads the pods from the server.

mod batch;
mod leaving;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time};
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::{Selector, SelectorExt};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::debug;

use catamaran_client::cache::Cached;
use catamaran_client::{Cache, Change, Index, Key, Queue, Recorder, object};

pub(crate) use batch::Done;
use leaving::Leaving;

use crate::caches::{Caches, LabelKey, label_keys, selected_key};
use crate::claim::{Claim, adopt_patch, claim, release_patch, selector_of};
use crate::pod::Pod;
use crate::write::Written;

/// How long a pass waits for the cache before it reads from the server.
pub(crate) const CACHE_PATIENCE: Duration = Duration::from_secs(5);

/// Why the pods of an object could not be dealt with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnError {
    /// A pod could not be adopted or let go.
    #[error("cannot adopt or release the pod {name}")]
    Claim {
        /// The pod.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// A pod could not be changed.
    #[error("cannot change the pod {name}")]
    Patch {
        /// The pod.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// The pods could not be read from the server.
    #[error("cannot list the pods")]
    List(#[source] kube::Error),
    /// Pods could not be created or deleted.
    #[error("{reason}: {message}")]
    Pods {
        /// `FailedCreate` or `FailedDelete`.
        reason: &'static str,
        /// What the server said.
        message: String,
    },
}

/// Why pods could not be created or deleted, in the words of conditions and events.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub(crate) reason: &'static str,
    /// What the server said.
    pub(crate) message: String,
}

impl From<Failure> for OwnError {
    fn from(failure: Failure) -> Self {
        Self::Pods { reason: failure.reason, message: failure.message }
    }
}

/// The kind of the owners.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnerKind {
    /// As in an owner reference.
    pub(crate) api_version: &'static str,
    /// As in an owner reference.
    pub(crate) kind: &'static str,
    /// A finalizer that each of its pods has until its end is counted.
    pub(crate) finalizer: Option<&'static str>,
    /// How its events name a pod.
    pub(crate) wording: Wording,
}

/// The two ways in which Kubernetes' controllers speak of a pod that was made or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wording {
    /// `Created pod: web-1`
    Plain,
    /// `create Pod web-1 in StatefulSet web successful`
    InOwner,
}

impl OwnerKind {
    /// The reference that makes `owner` the controller of a pod.
    pub(crate) fn reference(&self, owner: &ObjectMeta) -> OwnerReference {
        object::controller_reference(self.api_version, self.kind, owner)
    }
}

/// The pods of the objects of one kind, as a controller needs them.
pub(crate) struct OwnPods {
    pub(crate) client: Client,
    pub(crate) caches: Caches,
    pub(crate) recorder: Recorder,
    pub(crate) kind: OwnerKind,
    /// Revisions of pods written for an owner.
    written: Written<Key>,
    leaving: Leaving,
    /// When the pods of an owner must be read from the server: at once after a request without an answer,
    /// later when the cache does not show a write.
    live: Mutex<HashMap<Key, Instant>>,
}

impl OwnPods {
    pub(crate) fn new(client: Client, caches: Caches, recorder: Recorder, kind: OwnerKind) -> Arc<Self> {
        let leaving = Leaving::default();
        leaving.follow(&caches.pods);
        Arc::new(Self {
            client,
            caches,
            recorder,
            kind,
            written: Written::default(),
            leaving,
            live: Mutex::default(),
        })
    }

    fn live(&self) -> MutexGuard<'_, HashMap<Key, Instant>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pods of `owner` that are `wanted`, after adopting and releasing; `None` while the cache is behind our
    /// own writes. A pod that we deleted is to be deleted here even while the cache does not show it.
    pub(crate) async fn observe(
        &self,
        key: &Key,
        owner: &ObjectMeta,
        selector: &LabelSelector,
        wanted: &(dyn Fn(&Pod) -> bool + Sync),
    ) -> Result<Option<Vec<Arc<Pod>>>, OwnError> {
        let Some(parsed) = selector_of(selector) else { return Ok(Some(Vec::new())) };
        let now = Instant::now();
        let must_ask = self.live().get(key).is_some_and(|due| *due <= now);
        let (candidates, orphans) = if must_ask {
            (self.live_pods(key).await?, Vec::new())
        } else if self.written.is_ahead_of(key, self.caches.pods.progress().revision) {
            debug!("waits until the cache shows the last write");
            self.live().entry(key.clone()).or_insert(now + CACHE_PATIENCE);
            return Ok(None);
        } else {
            let orphans = self.caches.orphan_pods.get(&selected_key(&key.namespace, selector));
            (self.caches.pods_by_owner.get(object::uid(owner)), orphans)
        };
        self.live().remove(key);
        let mut mine = Vec::with_capacity(candidates.len());
        for pod in candidates.into_iter().chain(orphans).filter(|pod| wanted(pod)) {
            if let Some(pod) = self.claim_pod(key, owner, &parsed, pod).await? {
                mine.push(self.as_left(pod));
            }
        }
        mine.retain(|pod| wanted(pod));
        Ok(Some(mine))
    }

    /// The pod, marked as to be deleted if it is so already.
    fn as_left(&self, pod: Arc<Pod>) -> Arc<Pod> {
        if pod.is_terminating() || !self.leaving.contains(object::uid(&pod.metadata)) {
            return pod;
        }
        let mut left = (*pod).clone();
        left.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::now()));
        Arc::new(left)
    }

    /// Reads the pods of the namespace from the server; what is newest in them must then show in the cache.
    async fn live_pods(&self, key: &Key) -> Result<Vec<Arc<Pod>>, OwnError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let list = api.list(&ListParams::default()).await.map_err(OwnError::List)?;
        self.written.forget(key);
        let newest = list.items.iter().map(|pod| object::revision(&pod.metadata)).max().unwrap_or(0);
        self.written.note(key, newest);
        Ok(list.items.into_iter().map(Arc::new).collect())
    }

    async fn claim_pod(
        &self,
        key: &Key,
        owner: &ObjectMeta,
        selector: &Selector,
        pod: Arc<Pod>,
    ) -> Result<Option<Arc<Pod>>, OwnError> {
        let uid = object::uid(&pod.metadata);
        let patch = match claim(owner, selector, &pod.metadata) {
            Claim::Keep => return Ok(Some(pod)),
            Claim::Ignore => return Ok(None),
            Claim::Adopt => {
                let mut patch = adopt_patch(&self.kind.reference(owner), uid);
                if let Some(finalizer) = self.kind.finalizer {
                    patch["metadata"]["finalizers"] = json!([finalizer]);
                }
                patch
            }
            Claim::Release => {
                let mut patch = release_patch(object::uid(owner), uid);
                if let Some(finalizer) = self.kind.finalizer {
                    patch["metadata"][WITHOUT_FINALIZERS] = json!([finalizer]);
                }
                patch
            }
        };
        let patched = self
            .send_patch(key, &pod, patch)
            .await
            .map_err(|source| OwnError::Claim { name: object::name(&pod.metadata).to_owned(), source })?;
        let mine =
            object::controller_of(&patched.metadata).is_some_and(|found| found.uid == object::uid(owner));
        Ok(mine.then(|| Arc::new(patched)))
    }

    /// A strategic merge patch of a pod on behalf of `key`.
    pub(crate) async fn patch(&self, key: &Key, pod: &Pod, patch: Value) -> Result<Pod, OwnError> {
        let failed = |source| OwnError::Patch { name: object::name(&pod.metadata).to_owned(), source };
        self.send_patch(key, pod, patch).await.map_err(failed)
    }

    async fn send_patch(&self, key: &Key, pod: &Pod, patch: Value) -> Result<Pod, kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), object::namespace(&pod.metadata));
        let name = object::name(&pod.metadata);
        let patched = api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
        // One that goes with its last finalizer tells so by an event of its own.
        if !object::is_being_deleted(&patched.metadata) {
            self.written.note(key, object::revision(&patched.metadata));
        }
        Ok(patched)
    }

    /// What an event says about something that was done to a pod.
    fn success_text(&self, verb: Verb, pod: &str, owner: &ObjectMeta) -> String {
        let (kind, owner) = (self.kind.kind, object::name(owner));
        match (self.kind.wording, verb) {
            (Wording::Plain, Verb::Create) => format!("Created pod: {pod}"),
            (Wording::Plain, Verb::Delete) => format!("Deleted pod: {pod}"),
            (Wording::InOwner, Verb::Create) => format!("create Pod {pod} in {kind} {owner} successful"),
            (Wording::InOwner, Verb::Delete) => format!("delete Pod {pod} in {kind} {owner} successful"),
        }
    }

    /// Forgets an owner that is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.written.forget(key);
        self.live().remove(key);
    }
}

/// What was done to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Create,
    Delete,
}

/// The directive of a strategic merge patch that takes values out of `metadata.finalizers`.
pub(crate) const WITHOUT_FINALIZERS: &str = "$deleteFromPrimitiveList/finalizers";

/// The selector of an owner.
pub(crate) type SelectorOf<T> = fn(&T) -> Option<Cow<'_, LabelSelector>>;

/// Wakes an owner when one of its pods changes, or a pod that it may adopt.
pub(crate) fn wake_owners<T: Cached>(
    own: &OwnPods,
    owners: &Cache<T>,
    selector: SelectorOf<T>,
    queue: &Queue<Key>,
) {
    let by_label = owners.index(move |owner: &T, add| {
        if let Some(selector) = selector(owner) {
            add(selected_key(object::namespace(owner.meta()), &selector));
        }
    });
    let (queue, kind) = (queue.clone(), own.kind.kind);
    own.caches.pods.on_change(move |change: &Change<'_, Pod>| {
        for pod in change.states() {
            match object::controller_of(&pod.metadata) {
                Some(owner) if owner.kind == kind => {
                    queue.add(Key::new(object::namespace(&pod.metadata), owner.name.as_str()));
                }
                Some(_) => {}
                None => wake_matching(&by_label, selector, &queue, pod),
            }
        }
    });
}

/// An orphan may belong to any owner of its namespace that selects it.
fn wake_matching<T: Cached>(
    owners: &Index<T, LabelKey>,
    selector: SelectorOf<T>,
    queue: &Queue<Key>,
    pod: &Pod,
) {
    let Some(labels) = pod.metadata.labels.as_ref().filter(|_| pod.is_active()) else { return };
    for owner in label_keys(&pod.metadata).flat_map(|key| owners.get(&key)) {
        let parsed = selector(&owner).and_then(|selector| selector_of(&selector));
        if parsed.is_some_and(|selector| selector.matches(labels)) {
            queue.add(Key::of(&*owner));
        }
    }
}

/// The metadata of a pod made of a template: its labels, annotations and finalizers, owned by `owner`.
pub(crate) fn pod_metadata(
    kind: &OwnerKind,
    owner: &ObjectMeta,
    template: Option<&ObjectMeta>,
) -> ObjectMeta {
    let mut finalizers = template.and_then(|meta| meta.finalizers.clone()).unwrap_or_default();
    finalizers.extend(kind.finalizer.map(str::to_owned));
    ObjectMeta {
        namespace: owner.namespace.clone(),
        labels: template.and_then(|meta| meta.labels.clone()),
        annotations: template.and_then(|meta| meta.annotations.clone()),
        finalizers: (!finalizers.is_empty()).then_some(finalizers),
        owner_references: Some(vec![kind.reference(owner)]),
        ..ObjectMeta::default()
    }
}

/// Sets one label.
pub(crate) fn set_label(meta: &mut ObjectMeta, key: &str, value: impl Into<String>) {
    meta.labels.get_or_insert_with(BTreeMap::new).insert(key.to_owned(), value.into());
}

/// Sets one annotation.
pub(crate) fn set_annotation(meta: &mut ObjectMeta, key: &str, value: impl Into<String>) {
    meta.annotations.get_or_insert_with(BTreeMap::new).insert(key.to_owned(), value.into());
}

/// A pod as the body of a request.
pub(crate) fn body<S: serde::Serialize>(metadata: &ObjectMeta, spec: &S) -> Vec<u8> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    serde_json::to_vec(&pod).expect("a value of JSON can be written")
}
