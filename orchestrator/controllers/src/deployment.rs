//! Deployments: a ReplicaSet for each pod template, and a controlled way from one to the next.
//!
//! observe (`observe`) → plan (`deployment/plan.rs`, pure) → apply (`deployment/apply.rs`) → report (the status
//! at its end).

mod apply;
mod member;
mod plan;
mod revision;
mod scale;
mod status;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use tracing::debug;

use catamaran_client::{Cache, Change, EventType, Key, Outcome, Queue, Recorder, object, runner};

use crate::caches::Caches;
use crate::claim::{Claim, adopt_patch, claim, release_patch, selector_of};
use crate::hash;
use crate::write::Written;

/// Keys that are worked on at a time.
const WORKERS: usize = 8;

/// Why a Deployment could not be brought further; the next try starts from what is observed then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeploymentError {
    /// A ReplicaSet could not be adopted or let go.
    #[error("cannot adopt or release the ReplicaSet {name}")]
    Claim {
        /// The ReplicaSet.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// The new ReplicaSet could not be created.
    #[error("cannot create the ReplicaSet {name}")]
    Create {
        /// The ReplicaSet.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// A ReplicaSet could not be scaled or annotated.
    #[error("cannot update the ReplicaSet {name}")]
    Update {
        /// The ReplicaSet.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// An old ReplicaSet could not be deleted.
    #[error("cannot delete the old ReplicaSet {name}")]
    Delete {
        /// The ReplicaSet.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// The revision could not be written on the Deployment.
    #[error("cannot annotate the Deployment with its revision")]
    Annotate(#[source] kube::Error),
    /// The status could not be written.
    #[error("cannot write the status of the Deployment")]
    Status(#[source] kube::Error),
}

/// What the calls share.
struct Context {
    client: Client,
    caches: Caches,
    recorder: Recorder,
    /// Revisions of ReplicaSets written for a Deployment.
    sets_written: Written<Key>,
    /// Revisions of Deployments written.
    written: Written<Key>,
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, caches: Caches, recorder: Recorder) {
    let queue = Queue::new();
    feed(&caches, &queue);
    caches.deployments.ready().await;
    caches.replica_sets.ready().await;
    caches.pods.ready().await;
    let context = Arc::new(Context {
        client,
        caches,
        recorder,
        sets_written: Written::default(),
        written: Written::default(),
    });
    runner::run("deployment", queue, WORKERS, move |key| reconcile(Arc::clone(&context), key)).await;
}

/// Wakes a Deployment when it or something of its own changes.
fn feed(caches: &Caches, queue: &Queue<Key>) {
    let wake = queue.clone();
    caches.deployments.on_change(move |change| wake.add(Key::of(&**change.object())));
    let (wake, deployments) = (queue.clone(), caches.deployments.clone());
    caches.replica_sets.on_change(move |change: &Change<'_, ReplicaSet>| {
        for set in change.states() {
            match object::controller_of(&set.metadata) {
                Some(owner) if owner.kind == "Deployment" => {
                    wake.add(Key::new(object::namespace(&set.metadata), owner.name.as_str()));
                }
                Some(_) => {}
                None => wake_matching(&deployments, &wake, set),
            }
        }
    });
    // Recreate waits for the last old pod to go.
    let (wake, sets) = (queue.clone(), caches.replica_sets.clone());
    caches.pods.on_change(move |change| {
        let ended = match change {
            Change::Deleted { old } => Some(old),
            Change::Applied { new, .. } => Some(new).filter(|pod| pod.is_terminal()),
        };
        let owner = ended.and_then(|pod| object::controller_of(&pod.metadata).map(|owner| (pod, owner)));
        let Some((pod, owner)) = owner.filter(|(_, owner)| owner.kind == "ReplicaSet") else { return };
        let set = sets.get(&Key::new(object::namespace(&pod.metadata), owner.name.as_str()));
        if let Some(owner) = set.as_ref().and_then(|set| object::controller_of(&set.metadata)) {
            wake.add(Key::new(object::namespace(&pod.metadata), owner.name.as_str()));
        }
    });
}

/// An orphan may belong to any Deployment of its namespace that selects it.
fn wake_matching(deployments: &Cache<Deployment>, queue: &Queue<Key>, set: &ReplicaSet) {
    use kube::core::SelectorExt;
    let empty = std::collections::BTreeMap::new();
    let labels = set.metadata.labels.as_ref().unwrap_or(&empty);
    deployments.for_each(|key, deployment| {
        let selector = deployment.spec.as_ref().and_then(|spec| selector_of(&spec.selector));
        if key.namespace == object::namespace(&set.metadata)
            && selector.is_some_and(|selector| selector.matches(labels))
        {
            queue.add(key.clone());
        }
    });
}

async fn reconcile(context: Arc<Context>, key: Key) -> Result<Outcome, DeploymentError> {
    let caches = &context.caches;
    if context.sets_written.is_ahead_of(&key, caches.replica_sets.progress().revision)
        || context.written.is_ahead_of(&key, caches.deployments.progress().revision)
    {
        debug!("waits until the cache shows the last write");
        return Ok(Outcome::After(Duration::from_secs(1)));
    }
    let Some(deployment) = caches.deployments.get(&key) else { return Ok(Outcome::Done) };
    let sets = claim_sets(&context, &deployment).await?;
    let busy = busy_sets(caches, &deployment, &sets);
    let observed =
        plan::Observed { deployment: &deployment, sets: &sets, busy: &busy, now: Timestamp::now() };
    let plan = plan::plan(&observed);
    if plan.selects_all {
        context.recorder.event(
            &*deployment,
            EventType::Warning,
            "SelectingAll",
            "This deployment is selecting all pods. A non-empty selector is required.",
        );
    }
    let outcome = plan.look_again.map_or(Outcome::Done, Outcome::After);
    apply::apply(&context, &key, &deployment, plan).await?;
    Ok(outcome)
}

/// The ReplicaSets that belong to the Deployment, after adopting and releasing.
async fn claim_sets(
    context: &Context,
    deployment: &Deployment,
) -> Result<Vec<Arc<ReplicaSet>>, DeploymentError> {
    let Some(selector) = deployment.spec.as_ref().and_then(|spec| selector_of(&spec.selector)) else {
        return Ok(Vec::new());
    };
    let owner = object::controller_reference("apps/v1", "Deployment", &deployment.metadata);
    let namespace = object::namespace(&deployment.metadata);
    let api: Api<ReplicaSet> = Api::namespaced(context.client.clone(), namespace);
    let mut mine = Vec::new();
    for set in context.caches.sets_by_owner.get(&owner.uid) {
        match claim(&deployment.metadata, &selector, &set.metadata) {
            Claim::Release => {
                patch_owner(&api, &set, release_patch(&owner.uid, object::uid(&set.metadata))).await?;
            }
            Claim::Keep => mine.push(set),
            Claim::Adopt | Claim::Ignore => {}
        }
    }
    for set in context.caches.orphan_sets.get(namespace) {
        if claim(&deployment.metadata, &selector, &set.metadata) == Claim::Adopt {
            let adopted = patch_owner(&api, &set, adopt_patch(&owner, object::uid(&set.metadata))).await?;
            mine.push(Arc::new(adopted));
        }
    }
    Ok(mine)
}

async fn patch_owner(
    api: &Api<ReplicaSet>,
    set: &ReplicaSet,
    patch: serde_json::Value,
) -> Result<ReplicaSet, DeploymentError> {
    let name = object::name(&set.metadata);
    api.patch(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .map_err(|source| DeploymentError::Claim { name: name.to_owned(), source })
}

/// The uids of ReplicaSets that have pods which have not ended; only asked for where it matters.
fn busy_sets(caches: &Caches, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> HashSet<String> {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    if strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("Recreate") {
        return HashSet::new();
    }
    let uids = sets.iter().map(|set| object::uid(&set.metadata));
    let has_pods = |uid: &&str| caches.pods_by_owner.get(*uid).iter().any(|pod| !pod.is_terminal());
    uids.filter(has_pods).map(str::to_owned).collect()
}
