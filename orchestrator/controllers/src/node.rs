//! Node lifecycle: a node that gives no sign of life becomes Unknown, its pods not ready, and after their
//! tolerations those that cannot bear it are evicted.
//!
//! observe (`node/signs.rs`: leases) → plan (`node/plan.rs` and `node/eviction.rs`, pure) → apply.

mod eviction;
mod plan;
mod signs;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher;
use serde_json::json;
use tokio::time::Instant;

use catamaran_client::error::is_not_found;
use catamaran_client::{Cache, Change, EventType, Key, Outcome, Queue, Recorder, Tasks, object, runner};

use crate::caches::Caches;
use crate::pod::Pod;
use crate::write::{Written, preconditions};
use signs::Signs;

/// Where nodes renew their leases.
const LEASES: &str = "kube-node-lease";
/// Nodes that are worked on at a time.
const WORKERS: usize = 8;

/// Why a node could not be dealt with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// Its conditions could not be written.
    #[error("cannot write the conditions of the node")]
    Status(#[source] kube::Error),
    /// Its taints could not be written.
    #[error("cannot write the taints of the node")]
    Taints(#[source] kube::Error),
    /// A pod on it could not be marked as not ready.
    #[error("cannot mark the pod {name} as not ready")]
    NotReady {
        /// The pod.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// A pod on it could not be evicted.
    #[error("cannot evict the pod {name}")]
    Evict {
        /// The pod.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
}

struct Context {
    client: Client,
    caches: Caches,
    recorder: Recorder,
    signs: Signs,
    grace: Duration,
    written: Written<Key>,
}

/// Starts the cache of node leases in `tasks`.
pub(crate) fn leases(client: &Client, tasks: &mut Tasks) -> Cache<Lease> {
    let leases = Cache::new(Api::namespaced(client.clone(), LEASES), watcher::Config::default());
    tasks.spawn("cache of node leases", leases.clone().run());
    leases
}

/// Runs the controller for ever. A node is given up after `grace` without a sign of life.
pub(crate) async fn run(
    client: Client,
    caches: Caches,
    leases: Cache<Lease>,
    recorder: Recorder,
    grace: Duration,
) {
    let queue: Queue<Key> = Queue::new();
    leases.ready().await;
    caches.nodes.ready().await;
    caches.pods.ready().await;
    // Signs count from now: that we were away is not the nodes' fault.
    let context = Arc::new(Context {
        client,
        caches,
        recorder,
        signs: Signs::default(),
        grace,
        written: Written::default(),
    });
    feed(&context, &leases, &queue);
    runner::run("node", queue, WORKERS, move |key| reconcile(Arc::clone(&context), key)).await;
}

fn feed(context: &Arc<Context>, leases: &Cache<Lease>, queue: &Queue<Key>) {
    let (wake, of) = (queue.clone(), Arc::downgrade(context));
    leases.on_change(move |change: &Change<'_, Lease>| {
        let Some(context) = of.upgrade() else { return };
        let lease = change.object();
        let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
        let name = object::name(&lease.metadata);
        if context.signs.lease(name, renewed, Instant::now()) {
            wake.add(Key::new("", name));
        }
    });
    let (wake, of) = (queue.clone(), Arc::downgrade(context));
    context.caches.nodes.on_change(move |change: &Change<'_, Node>| {
        let Some(context) = of.upgrade() else { return };
        let node = change.object();
        let name = object::name(&node.metadata);
        match change {
            Change::Deleted { .. } => context.signs.forget(name),
            Change::Applied { .. } => drop(context.signs.node(name, plan::heartbeat(node), Instant::now())),
        }
        wake.add(Key::new("", name));
    });
    // A pod that comes to a tainted node must be judged too.
    let (wake, nodes) = (queue.clone(), context.caches.nodes.clone());
    context.caches.pods.on_change(move |change: &Change<'_, Pod>| {
        let Change::Applied { old, new } = change else { return };
        let Some(node) = new.node().filter(|_| old.is_none_or(|old| old.node().is_none())) else { return };
        let key = Key::new("", node);
        if nodes.get(&key).is_some_and(|node| eviction::has_no_execute(&node)) {
            wake.add(key);
        }
    });
}

async fn reconcile(context: Arc<Context>, key: Key) -> Result<Outcome, NodeError> {
    if context.written.is_ahead_of(&key, context.caches.nodes.progress().revision) {
        return Ok(Outcome::After(Duration::from_secs(1)));
    }
    let Some(node) = context.caches.nodes.get(&key) else { return Ok(Outcome::Done) };
    let now = Timestamp::now();
    let silence = context.signs.silence(&key.name, Instant::now());
    let plan = plan::plan(&node, silence, context.grace, now);
    let mut fresh = (*node).clone();
    if let Some(conditions) = plan.conditions {
        fresh = write_conditions(&context, &key, &node, conditions).await?;
    }
    if let Some(taints) = plan.taints {
        fresh = write_taints(&context, &key, &fresh, taints).await?;
    }
    if matches!(plan.ready, plan::Ready::False | plan::Ready::Unknown) {
        mark_pods(&context, &node, now).await?;
    }
    let next = evict(&context, &fresh, now).await?;
    let look = plan.look_again.into_iter().chain(next).min();
    Ok(look.map_or(Outcome::Done, Outcome::After))
}

async fn write_conditions(
    context: &Context,
    key: &Key,
    node: &Node,
    conditions: Vec<k8s_openapi::api::core::v1::NodeCondition>,
) -> Result<Node, NodeError> {
    let api: Api<Node> = Api::all(context.client.clone());
    let patch = json!({"metadata": preconditions(&node.metadata), "status": {"conditions": conditions}});
    let written = api
        .patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .map_err(NodeError::Status)?;
    context.written.note(key, object::revision(&written.metadata));
    let message = format!("Node {} status is now: NodeNotReady", key.name);
    context.recorder.event(node, EventType::Normal, "NodeNotReady", message);
    Ok(written)
}

async fn write_taints(
    context: &Context,
    key: &Key,
    node: &Node,
    taints: Vec<k8s_openapi::api::core::v1::Taint>,
) -> Result<Node, NodeError> {
    let api: Api<Node> = Api::all(context.client.clone());
    let patch = json!({"metadata": preconditions(&node.metadata), "spec": {"taints": taints}});
    let written = api
        .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(NodeError::Taints)?;
    context.written.note(key, object::revision(&written.metadata));
    Ok(written)
}

/// The pods of a node that does not answer are not ready, whatever they last said: no Service sends to them.
async fn mark_pods(context: &Context, node: &Node, now: Timestamp) -> Result<(), NodeError> {
    for pod in context.caches.pods_by_node.get(object::name(&node.metadata)) {
        let Some(ready) = pod.condition("Ready").filter(|ready| ready.status == "True") else { continue };
        let condition = PodCondition {
            status: "False".to_owned(),
            last_transition_time: Some(Time(now)),
            ..ready.clone()
        };
        let name = object::name(&pod.metadata);
        let api: Api<Pod> = Api::namespaced(context.client.clone(), object::namespace(&pod.metadata));
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Err(error) if !is_not_found(&error) => {
                return Err(NodeError::NotReady { name: name.to_owned(), source: error });
            }
            _ => context.recorder.event(&*pod, EventType::Warning, "NodeNotReady", "Node is not ready"),
        }
    }
    Ok(())
}

/// Evicts the pods that do not tolerate the taints of the node any longer. Returns when the next one's time is.
async fn evict(context: &Context, node: &Node, now: Timestamp) -> Result<Option<Duration>, NodeError> {
    if !eviction::has_no_execute(node) {
        return Ok(None);
    }
    let mut next: Option<Duration> = None;
    for pod in context.caches.pods_by_node.get(object::name(&node.metadata)) {
        match eviction::judge(node, &pod, now) {
            eviction::Fate::Stays => {}
            eviction::Fate::GoesAfter(left) => next = Some(next.map_or(left, |next| next.min(left))),
            eviction::Fate::Goes => evict_pod(context, &pod, now).await.map_err(|source| {
                NodeError::Evict { name: object::name(&pod.metadata).to_owned(), source }
            })?,
        }
    }
    Ok(next)
}

async fn evict_pod(context: &Context, pod: &Pod, now: Timestamp) -> Result<(), kube::Error> {
    let (namespace, name) = (object::namespace(&pod.metadata), object::name(&pod.metadata));
    let message = format!("Marking for deletion Pod {namespace}/{name}");
    context.recorder.event(pod, EventType::Normal, "TaintManagerEviction", message);
    let api: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let patch = json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": Time(now)}]},
    });
    match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Err(error) if !is_not_found(&error) => return Err(error),
        _ => {}
    }
    let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    match api.delete(name, &DeleteParams::default().preconditions(same)).await {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}
