//! The loop: next pod → place → assume → bind. Placing is one pod at a time on one table; binding runs beside it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use catamaran_client::error::{Chain, is_not_found};
use catamaran_client::runner::TaskEnded;
use catamaran_client::{Cache, Change, Key, Queue, Recorder, Tasks};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::api::Api;
use kube::runtime::watcher;
use kube::{Client, Resource};
use tokio::task::JoinSet;
use tracing::{info_span, warn};

use crate::bind;
use crate::node::Node;
use crate::place::{Unschedulable, place};
use crate::pod::{Pod, Request};
use crate::snapshot::{PodKey, Snapshot};
use crate::waiting::{Happening, Waiting};

/// Bindings on their way at the same time.
const BINDINGS: usize = 256;
/// A pod that no node takes is tried again after this, whatever happened.
const AT_LATEST: Duration = Duration::from_secs(300);

/// Everything the loop and the watches share.
struct Scheduler {
    name: String,
    client: Client,
    recorder: Recorder,
    pods: Cache<Pod>,
    classes: Cache<RuntimeClass>,
    queue: Queue<Key>,
    snapshot: Mutex<Snapshot>,
    waiting: Mutex<Waiting>,
}

/// Schedules the pods whose `schedulerName` is `name`, until `stop`.
///
/// # Errors
/// A task of the scheduler ended by itself.
pub async fn run(client: Client, name: &str, stop: impl Future<Output = ()>) -> Result<(), TaskEnded> {
    let mut tasks = Tasks::new();
    let (recorder, events) = Recorder::new(client.clone(), name, None);
    tasks.spawn("events", events);
    let config = watcher::Config::default;
    let nodes: Cache<Node> = Cache::new(Api::all(client.clone()), config());
    let scheduler = Arc::new(Scheduler {
        name: name.to_owned(),
        recorder,
        pods: Cache::new(Api::all(client.clone()), config()).trimmed(trim),
        classes: Cache::new(Api::all(client.clone()), config()),
        client,
        queue: Queue::new(),
        snapshot: Mutex::default(),
        waiting: Mutex::default(),
    });
    scheduler.watch(&nodes);
    tasks.spawn("nodes", nodes.clone().run());
    tasks.spawn("runtime classes", scheduler.classes.clone().run());
    tasks.spawn("pods", scheduler.pods.clone().run());
    tasks.spawn("cycle", async move {
        nodes.ready().await;
        scheduler.classes.ready().await;
        scheduler.pods.ready().await;
        scheduler.cycle().await;
    });
    tasks.run(stop).await
}

/// What only other components read is not kept.
fn trim(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.metadata.annotations = None;
}

impl Scheduler {
    fn snapshot(&self) -> MutexGuard<'_, Snapshot> {
        self.snapshot.lock().expect("no change of the table panics")
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no change of the list panics")
    }

    /// Keeps table and queue in step with what is watched.
    fn watch(self: &Arc<Self>, nodes: &Cache<Node>) {
        let me = Arc::downgrade(self);
        nodes.on_change(move |change| {
            let Some(me) = me.upgrade() else { return };
            match change {
                Change::Deleted { .. } => me.snapshot().remove_node(node_name(change.object())),
                _ => me.snapshot().set_node(change.object()),
            }
            me.wake(Happening::Node);
        });
        let me = Arc::downgrade(self);
        self.classes.on_change(move |_| {
            if let Some(me) = me.upgrade() {
                me.wake(Happening::RuntimeClass);
            }
        });
        let me = Arc::downgrade(self);
        self.pods.on_change(move |change| {
            if let Some(me) = me.upgrade() {
                me.pod_changed(change);
            }
        });
    }

    fn wake(&self, happening: Happening) {
        self.waiting().helped_by(happening).into_iter().for_each(|key| self.queue.add(key));
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        let key = Key::of(&**pod);
        if matches!(change, Change::Deleted { .. }) || pod.is_over() {
            self.waiting().remove(&key);
            if self.snapshot().remove_pod(&pod_key(&key)) {
                self.wake(Happening::Room);
            }
        } else if !pod.spec.node_name.is_empty() {
            self.waiting().remove(&key);
            let request = self.request(pod);
            self.snapshot().set_pod(request, &pod.spec.node_name);
        } else if pod.waits_for(&self.name) && self.asks_anew(change) {
            self.queue.add(key);
        }
    }

    /// A new pod, or one that asks for something else than before. The condition that we write ourselves is
    /// neither.
    fn asks_anew(&self, change: &Change<'_, Pod>) -> bool {
        match change {
            Change::Applied { old: Some(old), new } => {
                !old.waits_for(&self.name) || self.request(old) != self.request(new)
            }
            _ => true,
        }
    }

    fn request(&self, pod: &Pod) -> Request {
        let class =
            pod.spec.runtime_class_name.as_deref().and_then(|name| self.classes.get(&Key::new("", name)));
        Request::of(pod, class.as_deref())
    }

    async fn cycle(self: Arc<Self>) {
        let mut bindings = JoinSet::new();
        let mut dice = 0_u64;
        loop {
            while bindings.len() >= BINDINGS {
                bindings.join_next().await;
            }
            while bindings.try_join_next().is_some() {}
            let key = self.queue.next().await;
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let Some(pod) = self.pods.get(&key).filter(|pod| pod.waits_for(&self.name)) else {
                self.queue.done(&key);
                continue;
            };
            if self.snapshot().node_of(&pod_key(&key)).is_some() {
                // Assumed: the binding is on its way, or written and not yet seen.
                self.queue.done(&key);
                continue;
            }
            let placed = self.place(&pod, dice >> 33);
            bindings.spawn(self.clone().conclude(key, pod, placed));
        }
    }

    /// Places one pod and assumes that it will be bound.
    fn place(&self, pod: &Pod, dice: u64) -> Result<String, Unschedulable> {
        let request = self.request(pod);
        let span = info_span!("place", pod = %format_args!("{}/{}", request.key.0, request.key.1));
        let _in_span = span.enter();
        let mut snapshot = self.snapshot();
        match place(&snapshot, &request, dice) {
            Ok(node) => {
                snapshot.set_pod(request, &node);
                Ok(node)
            }
            Err(why) => {
                // Noted before the table is let go: a change that comes now finds the pod and wakes it.
                let (namespace, name) = request.key;
                self.waiting().insert(Key::new(namespace, name), why.clone());
                Err(why)
            }
        }
    }

    /// Writes the decision. A binding that was not taken is undone in the table and tried again.
    async fn conclude(self: Arc<Self>, key: Key, pod: Arc<Pod>, placed: Result<String, Unschedulable>) {
        let written = match &placed {
            Ok(node) => self.bind(&key, &pod, node).await,
            Err(why) => self.give_up(&key, &pod, why).await,
        };
        match written {
            Ok(()) => self.queue.done(&key),
            Err(error) if is_not_found(&error) => self.queue.done(&key),
            Err(error) => {
                warn!(pod = %key, error = %Chain(&error), "writing the decision");
                self.queue.failed(&key);
            }
        }
    }

    async fn bind(&self, key: &Key, pod: &Pod, node: &str) -> Result<(), kube::Error> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let bound = bind::bind(&self.client, key, uid, node).await;
        match &bound {
            Ok(()) => bind::report_scheduled(&self.recorder, pod, key, node),
            Err(_) => {
                let still_unbound = self.pods.get(key).is_none_or(|now| now.spec.node_name.is_empty());
                if still_unbound {
                    self.snapshot().remove_pod(&pod_key(key));
                    self.wake(Happening::Room);
                }
            }
        }
        bound
    }

    async fn give_up(&self, key: &Key, pod: &Pod, why: &Unschedulable) -> Result<(), kube::Error> {
        self.queue.add_after(key.clone(), AT_LATEST);
        bind::report_unschedulable(&self.client, &self.recorder, pod, key, why).await
    }
}

fn node_name(node: &Node) -> &str {
    node.meta().name.as_deref().unwrap_or_default()
}

fn pod_key(key: &Key) -> PodKey {
    (key.namespace.clone(), key.name.clone())
}
