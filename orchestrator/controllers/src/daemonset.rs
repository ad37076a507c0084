//! DaemonSets: a pod on each node that fits.
//!
//! observe (caches, `own.rs`, `history.rs`) → plan (`daemonset/plan.rs`, pure) → apply → report (the status).

mod backoff;
mod nodes;
mod plan;
mod rollout;
mod template;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use tokio::time::Instant;
use tracing::debug;

use catamaran_client::{Cache, Change, Key, Outcome, Queue, Recorder, Tasks, object, runner};

use crate::caches::{self, Caches};
use crate::history::{Current, History, HistoryError, REVISION_LABEL, hash_of};
use crate::own::{CACHE_PATIENCE, OwnError, OwnPods, OwnerKind, Wording, wake_owners};
use crate::pod::Pod;
use crate::write::{Written, status_patch};
use backoff::BackOff;
use plan::{Observed, Plan};

/// Keys that are worked on at a time.
const WORKERS: usize = 8;

const KIND: OwnerKind =
    OwnerKind { api_version: "apps/v1", kind: "DaemonSet", finalizer: None, wording: Wording::Plain };

/// Why a DaemonSet could not be brought further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonSetError {
    /// Its pods could not be dealt with.
    #[error("cannot manage the pods of the DaemonSet")]
    Pods(#[from] OwnError),
    /// Its revisions could not be dealt with.
    #[error("cannot keep the history of the DaemonSet")]
    History(#[from] HistoryError),
    /// The status could not be written.
    #[error("cannot write the status of the DaemonSet")]
    Status(#[source] kube::Error),
}

/// What the calls share.
struct Context {
    own: Arc<OwnPods>,
    sets: Cache<DaemonSet>,
    history: History,
    back_off: BackOff,
    /// Revisions of DaemonSets written.
    written: Written<Key>,
}

/// Starts the cache of DaemonSets in `tasks`.
pub(crate) fn cache(client: &Client, tasks: &mut Tasks) -> Cache<DaemonSet> {
    let sets = caches::all(client);
    tasks.spawn("cache of daemonsets", sets.clone().run());
    sets
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, caches: Caches, sets: Cache<DaemonSet>, recorder: Recorder) {
    let queue = Queue::new();
    let history = History::new(client.clone(), caches.clone(), KIND, REVISION_LABEL);
    let own = OwnPods::new(client, caches.clone(), recorder, KIND);
    let context =
        Arc::new(Context { own, sets, history, back_off: BackOff::default(), written: Written::default() });
    feed(&context, &queue);
    context.sets.ready().await;
    caches.nodes.ready().await;
    caches.pods.ready().await;
    caches.revisions.ready().await;
    runner::run("daemonset", queue, WORKERS, move |key| reconcile(Arc::clone(&context), key)).await;
}

fn selector(set: &DaemonSet) -> Option<Cow<'_, LabelSelector>> {
    set.spec.as_ref().map(|spec| Cow::Borrowed(&spec.selector))
}

/// Wakes a DaemonSet when it or one of its pods changes, and all of them when a node does.
fn feed(context: &Arc<Context>, queue: &Queue<Key>) {
    let (wake, of) = (queue.clone(), Arc::downgrade(context));
    context.sets.on_change(move |change: &Change<'_, DaemonSet>| {
        let key = Key::of(&**change.object());
        let renewed = match change {
            Change::Deleted { .. } => true,
            Change::Applied { old, new } => {
                old.is_some_and(|old| old.metadata.generation != new.metadata.generation)
            }
        };
        if renewed && let Some(context) = of.upgrade() {
            context.back_off.forget(&key);
        }
        wake.add(key);
    });
    wake_owners(&context.own, &context.sets, selector, queue);
    let (wake, sets) = (queue.clone(), context.sets.clone());
    context.own.caches.nodes.on_change(move |change: &Change<'_, Node>| {
        // A heartbeat changes nothing for us.
        if let Change::Applied { old: Some(old), new } = change
            && old.metadata.labels == new.metadata.labels
            && old.spec == new.spec
        {
            return;
        }
        sets.for_each(|key, _| wake.add(key.clone()));
    });
}

async fn reconcile(context: Arc<Context>, key: Key) -> Result<Outcome, DaemonSetError> {
    if context.written.is_ahead_of(&key, context.sets.progress().revision) {
        debug!("waits until the cache shows the last status");
        return Ok(Outcome::After(Duration::from_secs(1)));
    }
    let Some(set) = context.sets.get(&key) else {
        context.own.forget(&key);
        return Ok(Outcome::Done);
    };
    let Some(spec) = &set.spec else { return Ok(Outcome::Done) };
    let Some(pods) = context.own.observe(&key, &set.metadata, &spec.selector, &|_| true).await? else {
        return Ok(Outcome::After(CACHE_PATIENCE));
    };
    let Some((current, revisions)) = history(&context, &key, &set).await? else {
        return Ok(Outcome::After(Duration::from_secs(1)));
    };
    let tolerant = template::tolerant(&set);
    let nodes = context.own.caches.nodes.list();
    let hash = hash_of(&current, REVISION_LABEL);
    let back_off = |node: &str| context.back_off.left(&key, node, Instant::now());
    let observed = Observed {
        set: &set,
        spec: &tolerant,
        hash,
        nodes: &nodes,
        pods: &pods,
        back_off: &back_off,
        now: Timestamp::now(),
    };
    let plan = plan::plan(&observed);
    let look_again = plan.look_again;
    apply(&context, &key, &observed, plan).await?;
    sweep(&context, &set, &current, &revisions, &pods).await?;
    Ok(look_again.map_or(Outcome::Done, Outcome::After))
}

type Revisions = Vec<Arc<ControllerRevision>>;

/// The newest revision and all of them; `None` when the pass must be done again.
async fn history(
    context: &Context,
    key: &Key,
    set: &DaemonSet,
) -> Result<Option<(Arc<ControllerRevision>, Revisions)>, DaemonSetError> {
    let Some(mut revisions) = context.history.list(key, &set.metadata) else { return Ok(None) };
    let Some(spec) = &set.spec else { return Ok(None) };
    let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let owner = &set.metadata;
    match context.history.current(key, owner, &spec.template, collisions, &mut revisions).await? {
        Current::There(current) => Ok(Some((current, revisions))),
        Current::Collision => {
            let status = DaemonSetStatus {
                collision_count: Some(collisions + 1),
                ..set.status.clone().unwrap_or_default()
            };
            write_status(context, key, set, &status).await?;
            Ok(None)
        }
    }
}

async fn apply(
    context: &Context,
    key: &Key,
    observed: &Observed<'_>,
    plan: Plan,
) -> Result<(), DaemonSetError> {
    let set = observed.set;
    for note in &plan.notes {
        context.own.recorder.event(set, note.event_type, note.reason, note.message.clone());
    }
    for node in &plan.failed {
        context.back_off.note(key, node, Instant::now());
    }
    let bodies = plan
        .create
        .iter()
        .map(|node| template::pod(&KIND, set, observed.spec, observed.hash, node))
        .collect();
    let created = context.own.create(key, set, bodies).await;
    let deleted = context.own.delete(key, set, plan.delete).await;
    write_status(context, key, set, &plan.status).await?;
    match created.failure.or(deleted.failure) {
        Some(failure) => Err(OwnError::from(failure).into()),
        None => Ok(()),
    }
}

async fn write_status(
    context: &Context,
    key: &Key,
    set: &DaemonSet,
    status: &DaemonSetStatus,
) -> Result<(), DaemonSetError> {
    let before = set.status.clone().unwrap_or_default();
    let Some(patch) = status_patch(&set.metadata, &before, status) else { return Ok(()) };
    let api: Api<DaemonSet> = Api::namespaced(context.own.client.clone(), &key.namespace);
    let written = api
        .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(DaemonSetError::Status)?;
    context.written.note(key, object::revision(&written.metadata));
    Ok(())
}

/// Deletes revisions that no pod is of and that are more than the history may hold.
async fn sweep(
    context: &Context,
    set: &DaemonSet,
    current: &ControllerRevision,
    revisions: &Revisions,
    pods: &[Arc<Pod>],
) -> Result<(), DaemonSetError> {
    let used: HashSet<&str> =
        pods.iter().filter_map(|pod| object::label(&pod.metadata, REVISION_LABEL)).collect();
    let live = revisions
        .iter()
        .filter(|one| one.metadata.uid == current.metadata.uid || used.contains(hash_of(one, REVISION_LABEL)))
        .map(|one| object::name(&one.metadata).to_owned())
        .collect();
    let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
    Ok(context.history.sweep(revisions, &live, limit).await?)
}
