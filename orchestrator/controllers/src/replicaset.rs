//! ReplicaSets and ReplicationControllers: as many pods of one template as are wanted.
//!
//! observe (`own.rs`) → plan (`replicaset/plan.rs`, pure) → apply (`own.rs`) → report (`report`).

mod kind;
mod plan;
mod template;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use tracing::warn;

use catamaran_client::{Cache, Key, Outcome, Queue, Recorder, Tasks, object, runner};

use crate::caches::{self, Caches};
use crate::claim::selector_of;
use crate::own::{CACHE_PATIENCE, Done, Failure, OwnError, OwnPods, wake_owners};
use crate::pod::Pod;
use crate::write::{Written, status_patch};
use kind::Replicated;
use plan::{Observed, Step};

/// Keys that are worked on at a time.
const WORKERS: usize = 16;

/// Why a ReplicaSet could not be brought further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicaSetError {
    /// Its pods could not be dealt with.
    #[error("cannot manage the pods")]
    Pods(#[from] OwnError),
    /// The status could not be written.
    #[error("cannot write the status")]
    Status(#[source] kube::Error),
}

/// What the calls share.
struct Context<T> {
    own: Arc<OwnPods>,
    sets: Cache<T>,
    /// Revisions of the sets written.
    status_written: Written<Key>,
}

/// Starts the cache of ReplicationControllers in `tasks`.
pub(crate) fn controllers(client: &Client, tasks: &mut Tasks) -> Cache<ReplicationController> {
    let controllers = caches::all(client);
    tasks.spawn("cache of replicationcontrollers", controllers.clone().run());
    controllers
}

/// Runs the controller of one of the kinds for ever.
pub(crate) async fn run<T: Replicated>(client: Client, caches: Caches, sets: Cache<T>, recorder: Recorder) {
    let queue = Queue::new();
    let own = OwnPods::new(client, caches, recorder, T::KIND);
    let context = Arc::new(Context { own, sets, status_written: Written::default() });
    let wake = queue.clone();
    context.sets.on_change(move |change| wake.add(Key::of(&**change.object())));
    wake_owners(&context.own, &context.sets, T::selector, &queue);
    context.sets.ready().await;
    context.own.caches.replica_sets.ready().await;
    context.own.caches.pods.ready().await;
    runner::run(T::CONTROLLER, queue, WORKERS, move |key| reconcile(Arc::clone(&context), key)).await;
}

async fn reconcile<T: Replicated>(context: Arc<Context<T>>, key: Key) -> Result<Outcome, ReplicaSetError> {
    let Some(owner) = context.sets.get(&key) else {
        context.own.forget(&key);
        return Ok(Outcome::Done);
    };
    let set = owner.as_set();
    let Some(selector) = owner.selector().filter(|selector| selector_of(selector).is_some()) else {
        warn!(%key, "the selector is empty or malformed: the object is left alone");
        return Ok(Outcome::Done);
    };
    let Some(active) = context.own.observe(&key, &set.metadata, &selector, &Pod::is_active).await? else {
        return Ok(Outcome::After(CACHE_PATIENCE));
    };
    let related = || related_pods(&context.own.caches, &set);
    let observed = Observed { set: &set, active: &active, related: &related, now: Timestamp::now() };
    let done = match plan::plan(&observed) {
        Step::Nothing => Done::default(),
        Step::Create(count) => {
            let bodies = vec![template::pod(&T::KIND, &set); count];
            context.own.create(&key, &*owner, bodies).await
        }
        Step::Delete(pods) => context.own.delete(&key, &*owner, pods).await,
    };
    let next = report(&context, &key, &observed, done.failure.as_ref()).await?;
    match done.failure {
        Some(failure) => Err(OwnError::from(failure).into()),
        None => Ok(next.map_or(Outcome::Done, Outcome::After)),
    }
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
async fn report<T: Replicated>(
    context: &Context<T>,
    key: &Key,
    observed: &Observed<'_>,
    failure: Option<&Failure>,
) -> Result<Option<Duration>, ReplicaSetError> {
    let (status, next) = plan::status(observed, failure);
    let before = observed.set.status.clone().unwrap_or_default();
    if context.status_written.is_ahead_of(key, context.sets.progress().revision) {
        // Our own last status is not in the cache yet: its event brings us here again.
        return Ok(next);
    }
    let Some(patch) = status_patch(&observed.set.metadata, &before, &status) else { return Ok(next) };
    let api: Api<T> = Api::namespaced(context.own.client.clone(), &key.namespace);
    let written = api
        .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(ReplicaSetError::Status)?;
    context.status_written.note(key, object::revision(written.meta()));
    Ok(next)
}
