//! StatefulSets: pods with a name and volumes of their own, made and replaced in order.
//!
//! observe (`own.rs`, `history.rs`) → plan (`statefulset/plan.rs`, pure) → apply (`statefulset/apply.rs`) → report.

mod apply;
mod claims;
mod name;
mod plan;
mod template;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use tracing::debug;

use catamaran_client::{Key, Outcome, Queue, Recorder, object, runner};

use crate::caches::Caches;
use crate::history::{Current, History, HistoryError};
use crate::own::{CACHE_PATIENCE, OwnError, OwnPods, OwnerKind, Wording, wake_owners};
use crate::write::Written;

/// Keys that are worked on at a time.
const WORKERS: usize = 8;
/// The label of a revision with its hash; pods are labelled with the revision's name.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";

const KIND: OwnerKind =
    OwnerKind { api_version: "apps/v1", kind: "StatefulSet", finalizer: None, wording: Wording::InOwner };

/// Why a StatefulSet could not be brought further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StatefulSetError {
    /// Its pods could not be dealt with.
    #[error("cannot manage the pods of the StatefulSet")]
    Pods(#[from] OwnError),
    /// Its revisions could not be dealt with.
    #[error("cannot keep the history of the StatefulSet")]
    History(#[from] HistoryError),
    /// A claim could not be created or given another owner.
    #[error("cannot write the PersistentVolumeClaim {name}")]
    Claim {
        /// The claim.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// The status could not be written.
    #[error("cannot write the status of the StatefulSet")]
    Status(#[source] kube::Error),
}

/// What the calls share.
struct Context {
    own: Arc<OwnPods>,
    history: History,
    /// Revisions of StatefulSets written.
    written: Written<Key>,
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, caches: Caches, recorder: Recorder) {
    let queue = Queue::new();
    let history = History::new(client.clone(), caches.clone(), KIND, HASH_LABEL);
    let own = OwnPods::new(client, caches.clone(), recorder, KIND);
    let context = Arc::new(Context { own, history, written: Written::default() });
    let wake = queue.clone();
    caches.stateful_sets.on_change(move |change| wake.add(Key::of(&**change.object())));
    wake_owners(&context.own, &caches.stateful_sets, selector, &queue);
    caches.stateful_sets.ready().await;
    caches.pods.ready().await;
    caches.revisions.ready().await;
    caches.claims.ready().await;
    runner::run("statefulset", queue, WORKERS, move |key| reconcile(Arc::clone(&context), key)).await;
}

fn selector(set: &StatefulSet) -> Option<Cow<'_, LabelSelector>> {
    set.spec.as_ref().map(|spec| Cow::Borrowed(&spec.selector))
}

async fn reconcile(context: Arc<Context>, key: Key) -> Result<Outcome, StatefulSetError> {
    let caches = &context.own.caches;
    if context.written.is_ahead_of(&key, caches.stateful_sets.progress().revision) {
        debug!("waits until the cache shows the last status");
        return Ok(Outcome::After(Duration::from_secs(1)));
    }
    let Some(set) = caches.stateful_sets.get(&key) else {
        context.own.forget(&key);
        return Ok(Outcome::Done);
    };
    let Some(spec) = &set.spec else { return Ok(Outcome::Done) };
    let set_name = key.name.as_str();
    let member = |pod: &crate::pod::Pod| name::ordinal(set_name, object::name(&pod.metadata)).is_some();
    let Some(pods) = context.own.observe(&key, &set.metadata, &spec.selector, &member).await? else {
        return Ok(Outcome::After(CACHE_PATIENCE));
    };
    let Some(revisions) = history(&context, &key, &set).await? else {
        return Ok(Outcome::After(Duration::from_secs(1)));
    };
    let find = |name: &str| caches.claims.get(&Key::new(key.namespace.as_str(), name));
    let observed = plan::Observed {
        set: &set,
        pods: &pods,
        current: object::name(&revisions.current.metadata),
        update: object::name(&revisions.update.metadata),
        claims: &find,
        now: Timestamp::now(),
    };
    let plan = plan::plan(&observed);
    let look_again = plan.look_again;
    apply::apply(&context, &key, &observed, &revisions, plan).await?;
    Ok(look_again.map_or(Outcome::Done, Outcome::After))
}

/// The revisions of a set.
struct Revisions {
    /// That which the set comes from.
    current: Arc<ControllerRevision>,
    /// That which it goes to.
    update: Arc<ControllerRevision>,
    all: Vec<Arc<ControllerRevision>>,
}

/// `None` when the pass must be done again.
async fn history(
    context: &Context,
    key: &Key,
    set: &StatefulSet,
) -> Result<Option<Revisions>, StatefulSetError> {
    let Some(mut all) = context.history.list(key, &set.metadata) else { return Ok(None) };
    let Some(spec) = &set.spec else { return Ok(None) };
    let status = set.status.clone().unwrap_or_default();
    let collisions = status.collision_count.unwrap_or(0);
    let owner = &set.metadata;
    match context.history.current(key, owner, &spec.template, collisions, &mut all).await? {
        Current::There(update) => {
            let named = |one: &&Arc<ControllerRevision>| one.metadata.name == status.current_revision;
            let current = all.iter().find(named).unwrap_or(&update);
            Ok(Some(Revisions { current: Arc::clone(current), update, all }))
        }
        Current::Collision => {
            let salted = StatefulSetStatus { collision_count: Some(collisions + 1), ..status };
            apply::write_status(context, key, set, &salted).await?;
            Ok(None)
        }
    }
}
