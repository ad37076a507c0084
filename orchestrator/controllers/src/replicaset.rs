//! ReplicaSets: as many pods of one template as are wanted.
//!
//! observe (`own_pods`) → plan (`replicaset/plan.rs`, pure) → apply (`replicaset/apply.rs`) → report (`report`).
//!
//! Nothing is created twice, and no expectations are kept: a pass waits until the cache has seen the last write
//! that an earlier pass made, and after a request without an answer it reads the pods from the server.

mod apply;
mod plan;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::{Selector, SelectorExt};
use tokio::time::Instant;
use tracing::{debug, warn};

use catamaran_client::{Change, Index, Key, Outcome, Queue, Recorder, object, runner};

use crate::caches::{Caches, LabelKey, label_keys, selector_key};
use crate::claim::{Claim, adopt_patch, claim, release_patch, selector_of};
use crate::pod::Pod;
use crate::write::{Written, status_patch};
use plan::{Failure, Observed, Step};

/// Keys that are worked on at a time.
const WORKERS: usize = 16;
/// How long a pass waits for the cache before it reads from the server.
const CACHE_PATIENCE: Duration = Duration::from_secs(5);

/// Why a ReplicaSet could not be brought further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicaSetError {
    /// A pod could not be adopted or let go.
    #[error("cannot adopt or release the pod {name}")]
    Claim {
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
    /// The status could not be written.
    #[error("cannot write the status of the ReplicaSet")]
    Status(#[source] kube::Error),
}

/// What the calls share.
struct Context {
    client: Client,
    caches: Caches,
    recorder: Recorder,
    /// Revisions of pods written for a ReplicaSet.
    written: Written<Key>,
    /// Revisions of ReplicaSets written.
    status_written: Written<Key>,
    leaving: Leaving,
    /// When the pods of a ReplicaSet must be read from the server: at once after a request without an answer,
    /// later when the cache does not show a write.
    live: Mutex<HashMap<Key, Instant>>,
}

impl Context {
    fn live(&self) -> MutexGuard<'_, HashMap<Key, Instant>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Uids of pods that were deleted and that the cache may still show.
#[derive(Default)]
struct Leaving {
    uids: Mutex<HashSet<String>>,
}

impl Leaving {
    fn add(&self, uid: &str) {
        self.uids.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned());
    }

    fn remove(&self, uid: &str) {
        let mut uids = self.uids.lock().unwrap_or_else(PoisonError::into_inner);
        if !uids.is_empty() {
            uids.remove(uid);
        }
    }

    fn contains(&self, uid: &str) -> bool {
        self.uids.lock().unwrap_or_else(PoisonError::into_inner).contains(uid)
    }
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, caches: Caches, recorder: Recorder) {
    let queue = Queue::new();
    let context = Arc::new(Context {
        client,
        caches,
        recorder,
        written: Written::default(),
        status_written: Written::default(),
        leaving: Leaving::default(),
        live: Mutex::default(),
    });
    feed(&context, &queue);
    context.caches.replica_sets.ready().await;
    context.caches.pods.ready().await;
    runner::run("replicaset", queue, WORKERS, move |key| reconcile(Arc::clone(&context), key)).await;
}

/// Wakes a ReplicaSet when it or one of its pods changes.
fn feed(context: &Arc<Context>, queue: &Queue<Key>) {
    let wake = queue.clone();
    context.caches.replica_sets.on_change(move |change| wake.add(Key::of(&**change.object())));
    let (wake, sets, context_of) =
        (queue.clone(), context.caches.sets_by_label.clone(), Arc::downgrade(context));
    context.caches.pods.on_change(move |change: &Change<'_, Pod>| {
        if let Change::Deleted { old } = change
            && let Some(context) = context_of.upgrade()
        {
            context.leaving.remove(object::uid(&old.metadata));
        }
        for pod in change.states() {
            match object::controller_of(&pod.metadata) {
                Some(owner) if owner.kind == "ReplicaSet" => {
                    wake.add(Key::new(object::namespace(&pod.metadata), owner.name.as_str()));
                }
                Some(_) => {}
                None => wake_matching(&sets, &wake, pod),
            }
        }
    });
}

/// An orphan may belong to any ReplicaSet of its namespace that selects it.
fn wake_matching(sets: &Index<ReplicaSet, LabelKey>, queue: &Queue<Key>, pod: &Pod) {
    let Some(labels) = pod.metadata.labels.as_ref().filter(|_| pod.is_active()) else { return };
    for set in label_keys(&pod.metadata).flat_map(|key| sets.get(&key)) {
        if selector(&set).is_some_and(|selector| selector.matches(labels)) {
            queue.add(Key::of(&*set));
        }
    }
}

fn selector(set: &ReplicaSet) -> Option<Selector> {
    set.spec.as_ref().and_then(|spec| selector_of(&spec.selector))
}

async fn reconcile(context: Arc<Context>, key: Key) -> Result<Outcome, ReplicaSetError> {
    let caches = &context.caches;
    let Some(set) = caches.replica_sets.get(&key) else {
        context.written.forget(&key);
        return Ok(Outcome::Done);
    };
    let Some(selector) = selector(&set) else {
        warn!(%key, "the selector of the ReplicaSet is empty or malformed: it is left alone");
        return Ok(Outcome::Done);
    };
    let active = match own_pods(&context, &key, &set, &selector).await? {
        Some(pods) => pods,
        None => return Ok(Outcome::After(CACHE_PATIENCE)),
    };
    let related = || related_pods(caches, &set);
    let observed = Observed { set: &set, active: &active, related: &related, now: Timestamp::now() };
    let done = match plan::plan(&observed) {
        Step::Nothing => apply::Done::default(),
        Step::Create(count) => apply::create(&context, &key, &set, count).await,
        Step::Delete(pods) => apply::delete(&context, &key, &set, pods).await,
    };
    if done.unsure {
        context.live().insert(key.clone(), Instant::now());
    }
    let next = report(&context, &key, &observed, done.failure.as_ref()).await?;
    match done.failure {
        Some(Failure { reason, message }) => Err(ReplicaSetError::Pods { reason, message }),
        None => Ok(next.map_or(Outcome::Done, Outcome::After)),
    }
}

/// The active pods of the set, after adopting and releasing; `None` while the cache is behind our own writes.
async fn own_pods(
    context: &Context,
    key: &Key,
    set: &ReplicaSet,
    selector: &Selector,
) -> Result<Option<Vec<Arc<Pod>>>, ReplicaSetError> {
    let now = Instant::now();
    let must_ask = context.live().get(key).is_some_and(|due| *due <= now);
    let (candidates, orphans) = if must_ask {
        (live_pods(context, key).await?, Vec::new())
    } else if context.written.is_ahead_of(key, context.caches.pods.progress().revision) {
        debug!("waits until the cache shows the last write");
        context.live().entry(key.clone()).or_insert(now + CACHE_PATIENCE);
        return Ok(None);
    } else {
        let caches = &context.caches;
        (caches.pods_by_owner.get(object::uid(&set.metadata)), caches.orphan_pods.get(&selector_key(set)))
    };
    context.live().remove(key);
    let mut active = Vec::with_capacity(candidates.len());
    for pod in candidates.into_iter().chain(orphans).filter(|pod| pod.is_active()) {
        if let Some(pod) = claim_pod(context, key, set, selector, pod).await? {
            active.push(pod);
        }
    }
    active.retain(|pod| !context.leaving.contains(object::uid(&pod.metadata)));
    Ok(Some(active))
}

/// Reads the pods of the namespace from the server; what is newest in them must then show in the cache.
async fn live_pods(context: &Context, key: &Key) -> Result<Vec<Arc<Pod>>, ReplicaSetError> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let list = api.list(&ListParams::default()).await.map_err(ReplicaSetError::List)?;
    context.written.forget(key);
    let newest = list.items.iter().map(|pod| object::revision(&pod.metadata)).max().unwrap_or(0);
    context.written.note(key, newest);
    Ok(list.items.into_iter().map(Arc::new).collect())
}

async fn claim_pod(
    context: &Context,
    key: &Key,
    set: &ReplicaSet,
    selector: &Selector,
    pod: Arc<Pod>,
) -> Result<Option<Arc<Pod>>, ReplicaSetError> {
    let uid = object::uid(&pod.metadata);
    let patch = match claim(&set.metadata, selector, &pod.metadata) {
        Claim::Keep => return Ok(Some(pod)),
        Claim::Ignore => return Ok(None),
        Claim::Adopt => {
            adopt_patch(&object::controller_reference("apps/v1", "ReplicaSet", &set.metadata), uid)
        }
        Claim::Release => release_patch(object::uid(&set.metadata), uid),
    };
    let name = object::name(&pod.metadata);
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let patched = api
        .patch(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .map_err(|source| ReplicaSetError::Claim { name: name.to_owned(), source })?;
    context.written.note(key, object::revision(&patched.metadata));
    let mine =
        object::controller_of(&patched.metadata).is_some_and(|owner| owner.uid == object::uid(&set.metadata));
    Ok(mine.then(|| Arc::new(patched)))
}

/// The pods of all ReplicaSets with the same controller.
fn related_pods(caches: &Caches, set: &ReplicaSet) -> Vec<Arc<Pod>> {
    let siblings = match object::controller_of(&set.metadata) {
        Some(owner) => caches.sets_by_owner.get(&owner.uid),
        None => return caches.pods_by_owner.get(object::uid(&set.metadata)),
    };
    siblings.iter().flat_map(|set| caches.pods_by_owner.get(object::uid(&set.metadata))).collect()
}

/// Writes the status if it changed. Returns when a pod becomes available by the passing of time alone.
async fn report(
    context: &Context,
    key: &Key,
    observed: &Observed<'_>,
    failure: Option<&Failure>,
) -> Result<Option<Duration>, ReplicaSetError> {
    let (status, next) = plan::status(observed, failure);
    let before = observed.set.status.clone().unwrap_or_default();
    let seen = context.caches.replica_sets.progress().revision;
    if context.status_written.is_ahead_of(key, seen) {
        // Our own last status is not in the cache yet: its event brings us here again.
        return Ok(next);
    }
    let Some(patch) = status_patch(&observed.set.metadata, &before, &status) else { return Ok(next) };
    let api: Api<ReplicaSet> = Api::namespaced(context.client.clone(), &key.namespace);
    let written = api
        .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(ReplicaSetError::Status)?;
    context.status_written.note(key, object::revision(&written.metadata));
    Ok(next)
}
