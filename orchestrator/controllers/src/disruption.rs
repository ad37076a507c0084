//! PodDisruptionBudgets: how many of their pods may be evicted now. The eviction itself is the server's.
//!
//! observe (caches) → plan (`disruption/plan.rs`, pure) → report (the status).

mod plan;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, Patch, PatchParams};
use kube::core::{Selector, SelectorExt};
use kube::{Client, Resource};
use tracing::debug;

use catamaran_client::{
    Cache, Change, EventType, Index, Key, Outcome, Queue, Recorder, Tasks, object, runner,
};

use crate::caches::{self, Caches, LabelKey, label_keys, selected_key};
use crate::pod::Pod;
use crate::write::{Written, status_patch};
use plan::{Observed, Scale};

/// Keys that are worked on at a time.
const WORKERS: usize = 8;

/// Why a budget could not be reported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DisruptionError {
    /// The status could not be written.
    #[error("cannot write the status of the PodDisruptionBudget")]
    Status(#[source] kube::Error),
}

/// The caches that only this controller needs.
pub(crate) struct OwnCaches {
    pub(crate) budgets: Cache<PodDisruptionBudget>,
    pub(crate) controllers: Cache<ReplicationController>,
}

impl OwnCaches {
    /// Starts the cache of budgets in `tasks`; that of ReplicationControllers is shared with their controller.
    pub(crate) fn start(
        client: &Client,
        tasks: &mut Tasks,
        controllers: Cache<ReplicationController>,
    ) -> Self {
        let budgets = caches::all(client);
        tasks.spawn("cache of poddisruptionbudgets", budgets.clone().run());
        Self { budgets, controllers }
    }
}

/// What the calls share.
struct Context {
    client: Client,
    caches: Caches,
    own: OwnCaches,
    recorder: Recorder,
    /// Revisions of budgets written.
    written: Written<Key>,
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, caches: Caches, own: OwnCaches, recorder: Recorder) {
    let queue = Queue::new();
    feed(&caches, &own.budgets, &queue);
    own.budgets.ready().await;
    own.controllers.ready().await;
    caches.pods.ready().await;
    caches.deployments.ready().await;
    caches.replica_sets.ready().await;
    caches.stateful_sets.ready().await;
    let context = Arc::new(Context { client, caches, own, recorder, written: Written::default() });
    runner::run("disruption", queue, WORKERS, move |key| reconcile(Arc::clone(&context), key)).await;
}

/// Wakes a budget when it, or a pod that it selects or selected, changes.
fn feed(caches: &Caches, budgets: &Cache<PodDisruptionBudget>, queue: &Queue<Key>) {
    let wake = queue.clone();
    budgets.on_change(move |change| wake.add(Key::of(&**change.object())));
    let by_label: Index<PodDisruptionBudget, LabelKey> =
        budgets.index(|budget: &PodDisruptionBudget, add| {
            if let Some(selector) = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()) {
                add(selected_key(object::namespace(&budget.metadata), selector));
            }
        });
    let wake = queue.clone();
    caches.pods.on_change(move |change: &Change<'_, Pod>| {
        for pod in change.states() {
            for budget in label_keys(&pod.metadata).flat_map(|key| by_label.get(&key)) {
                if selects(&budget, pod) {
                    wake.add(Key::of(&*budget));
                }
            }
        }
    });
}

/// An empty selector selects every pod of the namespace, none at all selects none.
fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.clone());
    let empty = std::collections::BTreeMap::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
    selector.and_then(|selector| Selector::try_from(selector).ok()).is_some_and(|found| found.matches(labels))
}

async fn reconcile(context: Arc<Context>, key: Key) -> Result<Outcome, DisruptionError> {
    if context.written.is_ahead_of(&key, context.own.budgets.progress().revision) {
        debug!("waits until the cache shows the last status");
        return Ok(Outcome::After(Duration::from_secs(1)));
    }
    let Some(budget) = context.own.budgets.get(&key) else { return Ok(Outcome::Done) };
    let pods = pods(&context.caches, &budget);
    let scale = |pod: &Pod| scale(&context, pod);
    let plan = plan::plan(&Observed { budget: &budget, pods: &pods, scale: &scale, now: Timestamp::now() });
    let recorder = &context.recorder;
    if pods.is_empty() {
        recorder.event(&*budget, EventType::Normal, "NoPods", "No matching pods found");
    }
    for pod in &plan.survivors {
        let message = "Pod was expected by PDB to be deleted but it wasn't";
        recorder.event(&**pod, EventType::Warning, "NotDeleted", message);
    }
    if let Some(failure) = &plan.failure {
        let message = format!("Failed to calculate the number of expected pods: {failure}");
        recorder.event(&*budget, EventType::Warning, "CalculateExpectedPodCountFailed", message);
    }
    let before = budget.status.clone().unwrap_or_default();
    // The resourceVersion in the patch keeps an eviction that was granted meanwhile.
    if let Some(patch) = status_patch(&budget.metadata, &before, &plan.status) {
        let api: Api<PodDisruptionBudget> = Api::namespaced(context.client.clone(), &key.namespace);
        let written = api
            .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(DisruptionError::Status)?;
        context.written.note(&key, object::revision(&written.metadata));
    }
    Ok(plan.look_again.map_or(Outcome::Done, Outcome::After))
}

/// The pods that the budget selects.
fn pods(caches: &Caches, budget: &PodDisruptionBudget) -> Vec<Arc<Pod>> {
    let namespace = object::namespace(&budget.metadata);
    let Some(selector) = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else {
        return Vec::new();
    };
    let (_, label, value) = selected_key(namespace, selector);
    let candidates = if label.is_empty() {
        let mut all = Vec::new();
        caches.pods.for_each(|key, pod| {
            if key.namespace == namespace {
                all.push(Arc::clone(pod));
            }
        });
        all
    } else {
        caches.pods_by_label.get(&(namespace.to_owned(), label, value))
    };
    candidates.into_iter().filter(|pod| selects(budget, pod)).collect()
}

/// The number of pods that the outermost controller of `pod` wants.
fn scale(context: &Context, pod: &Pod) -> Scale {
    let Some(owner) = object::controller_of(&pod.metadata) else { return Scale::Unmanaged };
    let key = Key::new(object::namespace(&pod.metadata), owner.name.as_str());
    let caches = &context.caches;
    let found = match owner.kind.as_str() {
        "ReplicaSet" => caches.replica_sets.get(&key).and_then(|set| {
            match object::controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment") {
                Some(above) => {
                    let above = Key::new(key.namespace.as_str(), above.name.as_str());
                    let deployment = caches.deployments.get(&above)?;
                    of(&*deployment, deployment.spec.as_ref().and_then(|spec| spec.replicas))
                }
                None => of(&*set, set.spec.as_ref().and_then(|spec| spec.replicas)),
            }
        }),
        "StatefulSet" => caches
            .stateful_sets
            .get(&key)
            .and_then(|set| of(&*set, set.spec.as_ref().and_then(|spec| spec.replicas))),
        "ReplicationController" => context
            .own
            .controllers
            .get(&key)
            .and_then(|found| of(&*found, found.spec.as_ref().and_then(|spec| spec.replicas))),
        _ => None,
    };
    found.unwrap_or_else(|| Scale::Unknown(format!("found no scale of {} {}", owner.kind, key.name)))
}

fn of<T: Resource>(owner: &T, replicas: Option<i32>) -> Option<Scale> {
    Some(Scale::Of(object::uid(owner.meta()).to_owned(), replicas.unwrap_or(1)))
}
