//! The loop: take in what was seen, decide, and hand the decisions to binds that run side by side.

use std::collections::HashSet;
use std::time::Duration;

use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{Instrument, info_span};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use catamaran_client::{Recorder, Tasks};

use crate::bind::{self, Bound, Target};
use crate::queue::Uid;
use crate::state::{Decision, State, Update};
use crate::volumes::{self, Change};
use crate::watch::{Updates, watch};
use crate::wire::{Node, Pod, RuntimeClass};

/// Updates that may wait; then the watches wait.
const WAITING: usize = 4096;
/// Binds under way at a time.
const BINDS: usize = 2048;
/// Kinds that are watched.
const LISTS: usize = 6;
/// How often forgotten pods are looked for.
const SWEEP: Duration = Duration::from_secs(30);

/// Starts the watches in `tasks` and returns what they see.
pub(crate) fn watches(client: &Client, tasks: &mut Tasks) -> mpsc::Receiver<Update> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let pods = Updates {
        applied: |pod: Pod| Update::Pod(Box::new(pod)),
        gone: |pod| Update::PodGone(Box::new(pod)),
        listed: Update::PodsListed,
        id: |pod| Uid::from(pod.metadata.uid.as_deref().unwrap_or_default()),
    };
    let nodes = Updates {
        applied: |node: Node| Update::Node(Box::new(node)),
        gone: |node| Update::NodeGone(node.metadata.name.unwrap_or_default()),
        listed: Update::NodesListed,
        id: |node| Uid::from(node.metadata.name.as_deref().unwrap_or_default()),
    };
    let classes = Updates {
        applied: |class: RuntimeClass| Update::RuntimeClass(Box::new(class)),
        gone: |class| Update::RuntimeClassGone(class.metadata.name.unwrap_or_default()),
        listed: Update::RuntimeClassesListed,
        id: |class| Uid::from(class.metadata.name.as_deref().unwrap_or_default()),
    };
    tasks.spawn("watch of pods", watch(Api::all(client.clone()), pods, sender.clone()));
    tasks.spawn("watch of nodes", watch(Api::all(client.clone()), nodes, sender.clone()));
    tasks.spawn("watch of runtimeclasses", watch(Api::all(client.clone()), classes, sender.clone()));
    watch_storage(client, tasks, sender);
    receiver
}

fn watch_storage(client: &Client, tasks: &mut Tasks, sender: mpsc::Sender<Update>) {
    let claims = Updates {
        applied: |claim: PersistentVolumeClaim| Update::Storage(Change::Claim(Box::new(claim))),
        gone: |claim| Update::Storage(Change::ClaimGone(Box::new(claim))),
        listed: |listed| Update::Storage(Change::ClaimsListed(listed)),
        id: volumes::id,
    };
    let volumes = Updates {
        applied: |volume: PersistentVolume| Update::Storage(Change::Volume(Box::new(volume))),
        gone: |volume| Update::Storage(Change::VolumeGone(Box::new(volume))),
        listed: |listed| Update::Storage(Change::VolumesListed(listed)),
        id: volumes::id,
    };
    let classes = Updates {
        applied: |class: StorageClass| Update::Storage(Change::Class(Box::new(class))),
        gone: |class| Update::Storage(Change::ClassGone(Box::new(class))),
        listed: |listed| Update::Storage(Change::ClassesListed(listed)),
        id: volumes::id,
    };
    tasks.spawn("watch of claims", watch(Api::all(client.clone()), claims, sender.clone()));
    tasks.spawn("watch of volumes", watch(Api::all(client.clone()), volumes, sender.clone()));
    tasks.spawn("watch of storageclasses", watch(Api::all(client.clone()), classes, sender));
}

/// Decides and binds for ever.
pub(crate) async fn run(client: Client, recorder: Recorder, mut updates: mpsc::Receiver<Update>) {
    let mut cycle = Cycle {
        client,
        recorder,
        state: State::default(),
        lists: HashSet::new(),
        binds: JoinSet::new(),
        tells: JoinSet::new(),
    };
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::with_capacity(WAITING);
    loop {
        let due = if cycle.may_decide() { cycle.state.next_due(Instant::now()) } else { None };
        tokio::select! {
            // What was seen comes first: a decision should know all there is to know.
            biased;
            count = updates.recv_many(&mut batch, WAITING) => {
                if count == 0 {
                    return;
                }
            }
            Some(result) = cycle.binds.join_next() => cycle.finish(result),
            Some(_) = cycle.tells.join_next() => {}
            _ = sweep.tick() => cycle.state.wake_forgotten(Instant::now()),
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        cycle.take_in(&mut batch);
        while let Some(result) = cycle.binds.try_join_next() {
            cycle.finish(result);
        }
        if cycle.may_decide() {
            cycle.decide();
        }
    }
}

struct Cycle {
    client: Client,
    recorder: Recorder,
    state: State,
    /// Which kinds have been listed whole. Before all are, nobody knows what room there is.
    lists: HashSet<&'static str>,
    binds: JoinSet<(Uid, Bound)>,
    tells: JoinSet<()>,
}

impl Cycle {
    fn may_decide(&self) -> bool {
        self.lists.len() == LISTS && self.binds.len() < BINDS && self.tells.len() < BINDS
    }

    fn take_in(&mut self, batch: &mut Vec<Update>) {
        let now = Instant::now();
        for update in batch.drain(..) {
            match &update {
                Update::PodsListed(_) => drop(self.lists.insert("pods")),
                Update::NodesListed(_) => drop(self.lists.insert("nodes")),
                Update::RuntimeClassesListed(_) => drop(self.lists.insert("runtimeclasses")),
                Update::Storage(Change::ClaimsListed(_)) => drop(self.lists.insert("claims")),
                Update::Storage(Change::VolumesListed(_)) => drop(self.lists.insert("volumes")),
                Update::Storage(Change::ClassesListed(_)) => drop(self.lists.insert("storageclasses")),
                _ => {}
            }
            self.state.apply(update, now);
        }
    }

    fn decide(&mut self) {
        for decision in self.state.decide(rand::random(), Instant::now()) {
            let (client, recorder) = (self.client.clone(), self.recorder.clone());
            match decision {
                Decision::Bind { uid, node, claims } => {
                    let Some(target) = self.target(&uid) else { continue };
                    let span =
                        info_span!("bind", namespace = %target.namespace, pod = %target.name, node = %node);
                    let bind = bind::bind(client, recorder, target, node.to_string(), claims);
                    self.binds.spawn(bind.instrument(span));
                }
                Decision::Tell { uid, why, first } => {
                    let Some(target) = self.target(&uid) else { continue };
                    self.tells.spawn(bind::tell(client, recorder, target, why, first));
                }
            }
        }
    }

    fn target(&self, uid: &Uid) -> Option<Target> {
        self.state.pod(uid).map(|row| Target::new(uid, row))
    }

    fn finish(&mut self, result: Result<(Uid, Bound), tokio::task::JoinError>) {
        match result {
            Ok((uid, Bound::Yes)) => self.state.bound(&uid),
            Ok((uid, Bound::No)) => self.state.not_bound(&uid, Instant::now()),
            // A bind that panicked leaves its pod assumed until an event about it comes.
            Err(error) => tracing::warn!(%error, "a binding panicked"),
        }
    }
}
