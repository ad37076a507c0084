//! Watches the pods that are bound to this node and keeps one worker for each. When the first list is complete, what
//! is left on this node of pods that no longer exist is ended and removed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use catamaran_client::error::Chain;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::config::PodPaths;
use crate::context::Context;
use crate::members::{Desired, name, namespace, uid};
use crate::prepare::{self, STEPS};
use crate::shims::ShimError;
use crate::worker::Worker;

/// Pauses before the watch is begun again: short at first, since a server that restarts is back in a moment.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a container of no pod may take to end; it is tried again with the next list.
const STRANGER: Duration = Duration::from_secs(5);
/// A worker that died is replaced after this.
const NEW_WORKER: Duration = Duration::from_secs(1);

/// The workers, by pod UID.
struct Workers {
    context: Arc<Context>,
    updates: HashMap<String, watch::Sender<Desired>>,
    tasks: JoinSet<String>,
    /// What a list under way has named so far.
    listed: HashSet<String>,
}

/// Pauses that double.
struct Retry {
    next: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { next: FIRST_PAUSE }
    }
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST_PAUSE);
        Some(pause)
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        *self = Retry::default();
    }
}

/// Works until dropped.
pub(crate) async fn run(context: Arc<Context>) {
    let api: Api<Pod> = Api::all(context.client.clone());
    let mine = watcher::Config::default().fields(&format!("spec.nodeName={}", context.config.node_name));
    let mut events = Box::pin(watcher::watcher(api, mine).backoff(Retry::default()));
    let mut workers =
        Workers { context, updates: HashMap::new(), tasks: JoinSet::new(), listed: HashSet::new() };
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => workers.take(event).await,
                Some(Err(error)) => warn!(error = %Chain(&error), "the pods of this node cannot be watched; trying again"),
                None => return,
            },
            Some(ended) = workers.tasks.join_next() => match ended {
                Ok(uid) => workers.ended(&uid),
                Err(error) => {
                    warn!(%error, "a worker died; its pod gets a new one");
                    tokio::time::sleep(NEW_WORKER).await;
                    workers.replace_dead();
                }
            },
        }
    }
}

// === impl Workers ===

impl Workers {
    async fn take(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.insert(uid(&pod).to_owned());
                self.desire(Desired { pod: Arc::new(pod), gone: false });
            }
            Event::InitDone => self.sweep().await,
            Event::Apply(pod) => self.desire(Desired { pod: Arc::new(pod), gone: false }),
            Event::Delete(pod) => self.gone(pod),
        }
    }

    /// Tells the pod's worker, or starts one.
    fn desire(&mut self, desired: Desired) {
        let uid = uid(&desired.pod).to_owned();
        if !desired.gone {
            self.context.roster.put(desired.pod.clone());
        }
        let desired = match self.updates.get(&uid).filter(|updates| !updates.is_closed()) {
            Some(updates) => {
                updates.send_replace(desired);
                return;
            }
            None => desired,
        };
        let (updates, receiver) = watch::channel(desired);
        let worker = Worker::new(self.context.clone(), receiver);
        self.updates.insert(uid.clone(), updates);
        self.tasks.spawn(async move {
            worker.run().await;
            uid
        });
    }

    fn gone(&mut self, pod: Pod) {
        self.context.roster.remove(namespace(&pod), name(&pod), uid(&pod));
        if let Some(updates) = self.updates.get(uid(&pod)) {
            updates.send_modify(|desired| desired.gone = true);
        }
    }

    fn ended(&mut self, uid: &str) {
        if self.updates.get(uid).is_some_and(watch::Sender::is_closed) {
            self.updates.remove(uid);
        }
    }

    /// Gives a new worker to each pod whose worker is not there any more and did not end by itself.
    fn replace_dead(&mut self) {
        let dead: Vec<Desired> = self
            .updates
            .values()
            .filter(|updates| updates.is_closed())
            .map(|updates| updates.borrow().clone())
            .collect();
        for desired in dead {
            self.desire(desired);
        }
    }

    /// After a list: pods that it did not name are gone. The same for what lies on this node from earlier.
    async fn sweep(&mut self) {
        let listed = std::mem::take(&mut self.listed);
        for (uid, updates) in &self.updates {
            if !listed.contains(uid) {
                updates.send_modify(|desired| desired.gone = true);
            }
        }
        let left = std::fs::read_dir(self.context.paths.pods()).into_iter().flatten().flatten();
        let left = left.filter_map(|entry| entry.file_name().into_string().ok());
        let left: Vec<String> = left.filter(|uid| !self.updates.contains_key(uid)).collect();
        for uid in left {
            info!(uid, "a pod that no longer exists is removed from this node");
            self.remove_left_over(&uid).await;
        }
        let live: HashSet<String> = self.updates.keys().cloned().collect();
        if let Err(error) = self.context.network.collect(&live).await {
            warn!(error = %Chain(&error), "addresses of pods that are gone cannot be taken back");
        }
        self.end_strangers(&live).await;
    }

    /// A worker ends it as it ends every pod; where not even its specification is left, the steps are taken back.
    async fn remove_left_over(&mut self, uid: &str) {
        let paths: PodPaths = self.context.paths.pod(uid);
        let kept =
            std::fs::read(paths.spec()).ok().and_then(|bytes| serde_json::from_slice::<Pod>(&bytes).ok());
        if let Some(pod) = kept {
            return self.desire(Desired { pod: Arc::new(pod), gone: true });
        }
        let mut nameless = Pod::default();
        nameless.metadata.uid = Some(uid.to_owned());
        for step in STEPS.into_iter().rev() {
            if let Err(error) = prepare::down(step, &self.context, &nameless, &paths).await {
                warn!(uid, error = %Chain(&error), "what is left of a pod stays");
            }
        }
        prepare::remove_directory(&self.context, &nameless, &paths);
    }

    /// Containers that no pod of this node has: their record is lost.
    async fn end_strangers(&self, live: &HashSet<String>) {
        for shim in self.context.shims.known().await {
            let containers = match shim.status(&[]).await {
                Ok(containers) => containers,
                Err(error) => {
                    warn!(error = %Chain(&error), "a shim does not say what it runs");
                    continue;
                }
            };
            for container in containers.into_iter().filter(|container| !live.contains(&container.sandbox.0)) {
                info!(id = container.id.0, "a container of no pod is ended");
                let end = async {
                    shim.kill(&container.id, 9).await?;
                    shim.wait(&container.id).await?;
                    shim.delete(&container.id).await
                };
                let ended: Result<Result<(), ShimError>, _> = tokio::time::timeout(STRANGER, end).await;
                match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => warn!(id = container.id.0, error = %Chain(&error), "it does not end"),
                    Err(_) => warn!(id = container.id.0, "it does not end in time"),
                }
            }
        }
    }
}
