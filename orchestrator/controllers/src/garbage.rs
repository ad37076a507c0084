//! The garbage collector: objects whose owners are gone go too, owners in foreground deletion wait for their
//! dependents, owners that orphan let them go.
//!
//! observe (`monitor`: the metadata of every kind) → plan (`garbage/graph.rs`, pure) → apply (`work`).
//! Every write carries the uid and resourceVersion that the verdict was made from: if they are out of date the
//! server refuses, and the event that made them so leads to a new verdict.

mod graph;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, warn};

use catamaran_client::error::{Chain, is_not_found};
use catamaran_client::{Outcome, Queue, object, runner};

use crate::discovery::{self, Kind};
use graph::{Graph, KindRef, Node, ORPHAN, Policy, Task, Uid, Verdict, place_of};

/// Objects that are worked on at a time.
const WORKERS: usize = 32;
/// The time between two looks for new kinds.
const REFRESH: Duration = Duration::from_secs(30);
/// How long the start waits for the first list of every kind.
const SYNC: Duration = Duration::from_secs(30);

/// Why garbage could not be collected; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GarbageError {
    /// It is unknown whether an owner exists.
    #[error("cannot look for the owner {kind} {name}")]
    Look {
        /// The kind of the owner.
        kind: String,
        /// Its name.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// The kind of an owner is not one that the server has.
    #[error("an object has the owner {name} of kind {api_version} {kind}, which the server does not know")]
    UnknownKind {
        /// The apiVersion of the owner.
        api_version: String,
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// An object could not be deleted.
    #[error("cannot delete {kind} {name}")]
    Delete {
        /// The kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// Owners or finalizers of an object could not be changed.
    #[error("cannot change the metadata of {kind} {name}")]
    Change {
        /// The kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
}

struct Context {
    client: Client,
    graph: Mutex<Graph>,
    /// By apiVersion and kind.
    kinds: Mutex<HashMap<(String, String), Kind>>,
    queue: Queue<Task>,
    /// How many watches have their first list.
    synced: watch::Sender<usize>,
}

impl Context {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<(String, String), Kind>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, tasks: Vec<Task>) {
        for task in tasks {
            self.queue.add(task);
        }
    }
}

/// Runs the collector for ever.
pub(crate) async fn run(client: Client) {
    let context = Arc::new(Context {
        client,
        graph: Mutex::default(),
        kinds: Mutex::default(),
        queue: Queue::new(),
        synced: watch::Sender::new(0),
    });
    let mut monitors = Monitors::default();
    while !monitors.refresh(&context).await {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // Owners that wait or orphan need to know all their dependents. Should a kind not be listed at all, the
    // others do not wait for ever: an unknown owner is asked for anyway.
    let all = monitors.running.len();
    let mut synced = context.synced.subscribe();
    if tokio::time::timeout(SYNC, synced.wait_for(|synced| *synced >= all)).await.is_err() {
        warn!("not all kinds could be listed: the garbage collector starts without them");
    }
    let (shared, queue) = (Arc::clone(&context), context.queue.clone());
    let work = runner::run("garbage", queue, WORKERS, move |task| work(Arc::clone(&shared), task));
    let refresh = async {
        loop {
            tokio::time::sleep(REFRESH).await;
            monitors.refresh(&context).await;
        }
    };
    tokio::join!(work, refresh);
}

/// One watch for each kind.
#[derive(Default)]
struct Monitors {
    tasks: JoinSet<()>,
    running: HashMap<(String, String), AbortHandle>,
}

impl Monitors {
    /// Starts watches of new kinds and ends those of kinds that are gone. Did the server answer?
    async fn refresh(&mut self, context: &Arc<Context>) -> bool {
        let kinds = match discovery::kinds(&context.client).await {
            Ok(kinds) => kinds,
            Err(error) => {
                debug!(error = %Chain(&error), "cannot find out which kinds there are");
                return false;
            }
        };
        self.running.retain(|key, monitor| {
            let stays = kinds.contains_key(key);
            if !stays {
                monitor.abort();
            }
            stays
        });
        for (key, kind) in kinds.iter().filter(|(_, kind)| !discovery::is_event(&kind.resource)) {
            if !self.running.contains_key(key) {
                let monitor = self.tasks.spawn(monitor(Arc::clone(context), kind.clone()));
                self.running.insert(key.clone(), monitor);
            }
        }
        *context.kinds() = kinds;
        true
    }
}

/// Keeps the graph up to date with one kind.
async fn monitor(context: Arc<Context>, kind: Kind) {
    let of = Arc::new(KindRef { resource: kind.resource.clone(), namespaced: kind.is_namespaced() });
    // The type says that only metadata is asked for.
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(context.client.clone(), &kind.resource);
    let mut events = std::pin::pin!(watcher::watcher(api, watcher::Config::default()));
    let mut known: HashSet<Uid> = HashSet::new();
    let mut listed: HashSet<Uid> = HashSet::new();
    let mut synced = false;
    let mut pause = Duration::from_millis(50);
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                listed.insert(apply(&context, &of, object.metadata));
            }
            Ok(watcher::Event::InitDone) => {
                for gone in known.difference(&listed) {
                    let tasks = context.graph().remove(gone);
                    context.wake(tasks);
                }
                known = std::mem::take(&mut listed);
                if !std::mem::replace(&mut synced, true) {
                    context.synced.send_modify(|synced| *synced += 1);
                }
                pause = Duration::from_millis(50);
            }
            Ok(watcher::Event::Apply(object)) => {
                known.insert(apply(&context, &of, object.metadata));
            }
            Ok(watcher::Event::Delete(object)) => {
                let uid = object::uid(&object.metadata);
                known.remove(uid);
                let tasks = context.graph().remove(uid);
                context.wake(tasks);
            }
            Err(error) => {
                debug!(kind = of.resource.kind, error = %Chain(&error), "the watch failed and is tried again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
        }
    }
}

fn apply(
    context: &Context,
    kind: &Arc<KindRef>,
    meta: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
) -> Uid {
    let node = Node::new(kind, meta);
    let uid = Arc::clone(&node.uid);
    let tasks = context.graph().apply(node);
    context.wake(tasks);
    uid
}

async fn work(context: Arc<Context>, task: Task) -> Result<Outcome, GarbageError> {
    match task {
        Task::Check(uid) => check(&context, &uid).await?,
        Task::Orphan(uid) => orphan(&context, &uid).await?,
    }
    Ok(Outcome::Done)
}

/// Judges one object and does what the verdict says.
async fn check(context: &Context, uid: &str) -> Result<(), GarbageError> {
    let mut present = false;
    loop {
        let (node, verdict) = {
            let graph = context.graph();
            let Some(node) = graph.get(uid).cloned() else { return Ok(()) };
            (node, graph.judge(uid))
        };
        match verdict {
            Verdict::Keep => return Ok(()),
            // An owner that exists and is not in the graph yet: its event is on the way, and nothing is lost.
            Verdict::Ask(_) if present => return Ok(()),
            Verdict::Ask(questions) => {
                for (owner, namespace) in questions {
                    present |= !is_absent(context, &owner, &namespace).await?;
                }
            }
            Verdict::Delete(policy) => return delete(context, &node, policy).await,
            Verdict::SetOwners(owners) => {
                return change(context, &node, json!({"ownerReferences": owners})).await;
            }
            Verdict::Unblock(owners) => {
                return change(context, &node, json!({"ownerReferences": owners})).await;
            }
            Verdict::SetFinalizers(finalizers) => {
                return change(context, &node, json!({"finalizers": finalizers})).await;
            }
        }
    }
}

/// Asks the server whether an owner is gone, and notes it in the graph if so.
async fn is_absent(context: &Context, owner: &OwnerReference, namespace: &str) -> Result<bool, GarbageError> {
    let key = (owner.api_version.clone(), owner.kind.clone());
    let kind = context.kinds().get(&key).cloned().ok_or_else(|| GarbageError::UnknownKind {
        api_version: owner.api_version.clone(),
        kind: owner.kind.clone(),
        name: owner.name.clone(),
    })?;
    let namespace = if kind.is_namespaced() { namespace } else { "" };
    let found = api(&context.client, &kind.resource, namespace).get_metadata_opt(&owner.name).await.map_err(
        |source| GarbageError::Look { kind: owner.kind.clone(), name: owner.name.clone(), source },
    )?;
    if found.is_some_and(|found| object::uid(&found.metadata) == owner.uid) {
        return Ok(false);
    }
    context.graph().note_absent(place_of(owner, namespace));
    Ok(true)
}

fn api(client: &Client, resource: &kube::discovery::ApiResource, namespace: &str) -> Api<DynamicObject> {
    if namespace.is_empty() {
        Api::all_with(client.clone(), resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, resource)
    }
}

async fn delete(context: &Context, node: &Node, policy: Policy) -> Result<(), GarbageError> {
    let policy = match policy {
        Policy::Background => PropagationPolicy::Background,
        Policy::Foreground => PropagationPolicy::Foreground,
        Policy::Orphan => PropagationPolicy::Orphan,
    };
    let same = Preconditions {
        uid: Some(node.uid.to_string()),
        resource_version: Some(node.resource_version.clone()),
    };
    let params =
        DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() }.preconditions(same);
    debug!(kind = node.kind.resource.kind, namespace = node.namespace, name = node.name, "collected");
    match api(&context.client, &node.kind.resource, &node.namespace).delete(&node.name, &params).await {
        Err(error) if !is_not_found(&error) => Err(GarbageError::Delete {
            kind: node.kind.resource.kind.clone(),
            name: node.name.clone(),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Changes members of the metadata of an object, if it is as the graph knows it.
async fn change(context: &Context, node: &Node, members: Value) -> Result<(), GarbageError> {
    let mut metadata = members;
    metadata["uid"] = json!(&*node.uid);
    metadata["resourceVersion"] = json!(node.resource_version);
    let patch = json!({"metadata": metadata});
    let api = api(&context.client, &node.kind.resource, &node.namespace);
    match api.patch_metadata(&node.name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(error) if !is_not_found(&error) => Err(GarbageError::Change {
            kind: node.kind.resource.kind.clone(),
            name: node.name.clone(),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Lets all dependents of an owner go, then the owner itself.
async fn orphan(context: &Context, uid: &str) -> Result<(), GarbageError> {
    let (owner, dependents) = {
        let graph = context.graph();
        let Some(owner) = graph.get(uid).cloned() else { return Ok(()) };
        let dependents: Vec<Node> = graph.dependents(uid).cloned().collect();
        (owner, dependents)
    };
    if !owner.being_deleted || !owner.finalizers.iter().any(|finalizer| finalizer == ORPHAN) {
        return Ok(());
    }
    for dependent in &dependents {
        let left: Vec<&OwnerReference> = dependent.owners.iter().filter(|owner| owner.uid != uid).collect();
        change(context, dependent, json!({"ownerReferences": left})).await?;
    }
    let left: Vec<&String> = owner.finalizers.iter().filter(|finalizer| *finalizer != ORPHAN).collect();
    change(context, &owner, json!({"finalizers": left})).await
}
