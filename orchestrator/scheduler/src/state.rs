//! What the scheduler knows: pods, nodes, RuntimeClasses and who waits. Changes go in, decisions come out; no IO.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::time::Instant;

use crate::filter::{self, Demand};
use crate::place::place;
use crate::queue::{Help, Queue, Uid, Waits};
use crate::shape::{self, Shape, Shapes};
use crate::snapshot::{NodeChange, Snapshot};
use crate::volumes::{Change, ClaimId, Needs, Volumes};
use crate::wire::{Node, Pod, RuntimeClass};

/// Pods that are decided on in one pass.
const BATCH: usize = 1024;
/// Only pods that ask for this scheduler concern us.
const SCHEDULER: &str = "default-scheduler";

/// Something that was seen.
#[derive(Debug)]
pub(crate) enum Update {
    Pod(Box<Pod>),
    PodGone(Box<Pod>),
    /// A list is complete: pods with other uids are gone.
    PodsListed(HashSet<Uid>),
    Node(Box<Node>),
    NodeGone(String),
    /// A list is complete: nodes with other names are gone.
    NodesListed(HashSet<Uid>),
    RuntimeClass(Box<RuntimeClass>),
    RuntimeClassGone(String),
    /// A list is complete: classes with other names are gone.
    RuntimeClassesListed(HashSet<Uid>),
    /// Something about claims, volumes or storage classes.
    Storage(Change),
}

/// A pod, as far as it matters here.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Box<str>,
    pub(crate) shape: Arc<Shape>,
    /// Where it is bound, or assumed to be soon.
    node: Option<Arc<str>>,
    assumed: bool,
    /// What it was last told when it found no node.
    told: Option<Box<str>>,
}

/// What was decided for a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// It goes to this node.
    Bind {
        uid: Uid,
        node: Arc<str>,
        /// Claims that are told the node first, and bound.
        claims: Vec<ClaimId>,
    },
    /// No node will do; it is told why, unless that is what it was told before.
    Tell { uid: Uid, why: String, first: First },
}

/// Has a pod found no node for the first time?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    Yes,
    No,
}

/// All that is known.
#[derive(Default)]
pub(crate) struct State {
    pods: HashMap<Uid, Row>,
    shapes: Shapes,
    snapshot: Snapshot,
    queue: Queue,
    /// Names of RuntimeClasses and their handlers.
    classes: HashMap<String, String>,
    volumes: Volumes,
    /// One copy of each name.
    namespaces: HashSet<Arc<str>>,
}

impl State {
    /// The pod with this uid.
    pub(crate) fn pod(&self, uid: &Uid) -> Option<&Row> {
        self.pods.get(uid)
    }

    /// When there is something to decide by the passing of time.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.queue.has_ready() { Some(now) } else { self.queue.next_due() }
    }

    /// Tries those again that have waited for very long.
    pub(crate) fn wake_forgotten(&mut self, now: Instant) {
        self.queue.wake_forgotten(now);
    }

    /// Takes in what was seen.
    pub(crate) fn apply(&mut self, update: Update, now: Instant) {
        match update {
            Update::Pod(pod) => self.set_pod(*pod, now),
            Update::PodGone(pod) => self.remove_pod(&uid(&pod), now),
            Update::PodsListed(listed) => {
                let gone: Vec<Uid> = self.pods.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
                for uid in gone {
                    self.remove_pod(&uid, now);
                }
            }
            Update::Node(node) => self.set_node(*node, now),
            Update::NodeGone(name) => self.snapshot.remove_node(&name),
            Update::NodesListed(listed) => {
                let names = self.snapshot.details.iter().map(|node| Arc::clone(&node.name));
                let gone: Vec<Arc<str>> = names.filter(|name| !listed.contains(name)).collect();
                for name in gone {
                    self.snapshot.remove_node(&name);
                }
            }
            Update::RuntimeClass(class) => self.set_class(*class, now),
            Update::RuntimeClassGone(name) => drop(self.classes.remove(&name)),
            Update::RuntimeClassesListed(listed) => {
                self.classes.retain(|name, _| listed.contains(name.as_str()));
            }
            Update::Storage(change) => {
                self.volumes.apply(change);
                self.queue.help(Help::Volume, now);
            }
        }
    }

    fn set_node(&mut self, node: Node, now: Instant) {
        // A heartbeat alone helps nobody.
        if self.snapshot.set_node(node) == NodeChange::Relevant {
            self.queue.help(Help::Node, now);
        }
    }

    fn set_class(&mut self, class: RuntimeClass, now: Instant) {
        self.classes.insert(class.metadata.name.unwrap_or_default(), class.handler);
        self.queue.help(Help::RuntimeClass, now);
    }

    fn set_pod(&mut self, pod: Pod, now: Instant) {
        let uid = uid(&pod);
        if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
            return self.remove_pod(&uid, now);
        }
        let owner = catamaran_client::object::controller_of(&pod.metadata).map(|owner| owner.uid.as_str());
        let claims = shape::claims(&pod);
        let shape = self.shapes.intern(Shape { claims, ..Shape::new(&pod.spec, owner) });
        let node = (!pod.spec.node_name.is_empty()).then(|| Arc::from(pod.spec.node_name.as_str()));
        let changed = self.pods.get(&uid).is_some_and(|row| !Arc::ptr_eq(&row.shape, &shape));
        let row = match self.pods.remove(&uid) {
            Some(mut row) => {
                self.move_pod(&mut row, node, shape);
                row
            }
            None => {
                if let Some(node) = &node {
                    self.snapshot.add_pod(node, &shape);
                }
                let namespace = self.namespace(pod.metadata.namespace.as_deref().unwrap_or_default());
                let name = pod.metadata.name.unwrap_or_default().into_boxed_str();
                Row { namespace, name, shape, node, assumed: false, told: None }
            }
        };
        let scheduler = pod.spec.scheduler_name.as_str();
        let ours = scheduler.is_empty() || scheduler == SCHEDULER;
        let waits = row.node.is_none()
            && ours
            && pod.spec.scheduling_gates.is_empty()
            && pod.metadata.deletion_timestamp.is_none();
        if waits {
            self.queue.add(&uid, row.shape.priority, changed, now);
        } else if !row.assumed {
            self.queue.remove(&uid);
        }
        self.pods.insert(uid, row);
    }

    /// Takes over where a known pod is and what it asks for. A pod that has a node keeps it: an event without
    /// one is older than the binding.
    fn move_pod(&mut self, row: &mut Row, node: Option<Arc<str>>, shape: Arc<Shape>) {
        row.assumed &= node.is_none();
        let node = node.or_else(|| row.node.clone());
        if row.node == node && Arc::ptr_eq(&row.shape, &shape) {
            return;
        }
        if let Some(old) = &row.node {
            self.snapshot.remove_pod(old, &row.shape);
        }
        if let Some(new) = &node {
            self.snapshot.add_pod(new, &shape);
        }
        row.node = node;
        row.shape = shape;
    }

    fn remove_pod(&mut self, uid: &Uid, now: Instant) {
        let Some(row) = self.pods.remove(uid) else { return };
        self.queue.remove(uid);
        if let Some(node) = &row.node {
            self.snapshot.remove_pod(node, &row.shape);
            self.queue.help(Help::Room, now);
        }
    }

    fn namespace(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.namespaces.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = Arc::from(name);
        self.namespaces.insert(Arc::clone(&name));
        name
    }

    /// Decides on the pods that are ready. Those with a node are assumed to be there from now on.
    pub(crate) fn decide(&mut self, seed: u64, now: Instant) -> Vec<Decision> {
        let mut groups: Vec<(Arc<Shape>, Vec<Uid>)> = Vec::new();
        let mut group_of: HashMap<*const Shape, usize> = HashMap::new();
        for uid in self.queue.take(BATCH, now) {
            let Some(row) = self.pods.get(&uid) else { continue };
            let at = *group_of.entry(Arc::as_ptr(&row.shape)).or_insert(groups.len());
            if at == groups.len() {
                groups.push((Arc::clone(&row.shape), Vec::new()));
            }
            groups[at].1.push(uid);
        }
        let mut decisions = Vec::new();
        for (shape, uids) in groups {
            self.decide_group(&shape, uids, seed, now, &mut decisions);
        }
        decisions
    }

    /// Decides on pods of one shape, of which each is as good as the other.
    fn decide_group(
        &mut self,
        shape: &Arc<Shape>,
        uids: Vec<Uid>,
        seed: u64,
        now: Instant,
        decisions: &mut Vec<Decision>,
    ) {
        let first = self.pods.get(&uids[0]).expect("it was found a moment ago");
        let span =
            tracing::info_span!("place", namespace = %first.namespace, pod = %first.name, pods = uids.len());
        let _entered = span.enter();
        let class = shape.runtime_class.as_deref();
        let handler = match class.map(|class| self.classes.get(class).cloned()) {
            None => None,
            Some(Some(handler)) => Some(handler),
            Some(None) => {
                let why = self.unknown_class(class.unwrap_or_default());
                return self.refuse(&uids, &why, &Waits::for_runtime_class(), now, decisions);
            }
        };
        let mut left = uids.as_slice();
        loop {
            let needs = match self.needs(shape) {
                Ok(needs) => needs,
                Err(why) => {
                    let why = filter::explain_all(self.snapshot.len(), &why);
                    return self.refuse(left, &why, &Waits::for_volumes(), now, decisions);
                }
            };
            let demand = Demand { shape, handler: handler.as_deref(), volumes: &needs.of_node };
            // What one pod chooses for its claims holds for the next.
            let alone = needs.exclusive || !needs.choose.is_empty();
            let count = if alone { 1 } else { left.len() };
            let places = place(&demand, &self.snapshot, count, seed);
            if places.is_empty() {
                let refusal = filter::explain(&demand, &self.snapshot);
                let waits = Waits::of(refusal.reasons.keys());
                return self.refuse(left, &refusal.to_string(), &waits, now, decisions);
            }
            let (placed, rest) = left.split_at(places.len());
            for (uid, id) in placed.iter().zip(places) {
                let node = Arc::clone(&self.snapshot.details[id].name);
                self.assume(uid, shape, &node, &needs);
                decisions.push(Decision::Bind { uid: uid.clone(), node, claims: needs.choose.clone() });
            }
            left = rest;
            if left.is_empty() {
                return;
            }
        }
    }

    /// What the claims of a shape ask; or why its pods can be nowhere.
    fn needs(&self, shape: &Shape) -> Result<Needs, String> {
        if shape.claims.is_empty() {
            return Ok(Needs::default());
        }
        let uses = |row: &Row, claim: &ClaimId| row.node.is_some() && row.shape.claims.contains(claim);
        self.volumes.needs(&shape.claims, |claim| self.pods.values().any(|row| uses(row, claim)))
    }

    /// The pod is on the node from now on, and so are the claims that it chose.
    fn assume(&mut self, uid: &Uid, shape: &Shape, node: &Arc<str>, needs: &Needs) {
        self.snapshot.add_pod(node, shape);
        self.volumes.assume(&needs.choose, node);
        let row = self.pods.get_mut(uid).expect("it was found a moment ago");
        row.node = Some(Arc::clone(node));
        row.assumed = true;
    }

    /// What a pod is told whose RuntimeClass there is not.
    fn unknown_class(&self, class: &str) -> String {
        let handlers = self.snapshot.handlers();
        let mut classes: Vec<&str> = self.classes.keys().map(String::as_str).collect();
        classes.sort_unstable();
        let list = |names: &[&str]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        format!(
            "0/{} nodes are available: RuntimeClass \"{class}\" not found. RuntimeClasses: {}. Handlers of the \
             nodes: {}.",
            self.snapshot.len(),
            list(&classes),
            list(&handlers)
        )
    }

    fn refuse(
        &mut self,
        uids: &[Uid],
        why: &str,
        waits: &Waits,
        now: Instant,
        decisions: &mut Vec<Decision>,
    ) {
        for uid in uids {
            self.queue.refused(uid, waits.clone(), now);
            let row = self.pods.get_mut(uid).expect("it was found a moment ago");
            if row.told.as_deref() != Some(why) {
                let first = if row.told.is_none() { First::Yes } else { First::No };
                row.told = Some(why.into());
                decisions.push(Decision::Tell { uid: uid.clone(), why: why.to_owned(), first });
            }
        }
    }

    /// The binding of a pod was accepted.
    pub(crate) fn bound(&mut self, uid: &Uid) {
        if let Some(row) = self.pods.get_mut(uid) {
            row.assumed = false;
            self.queue.remove(uid);
        }
    }

    /// The binding of a pod was refused, or nobody knows: it is no longer assumed to be there.
    pub(crate) fn not_bound(&mut self, uid: &Uid, now: Instant) {
        let Some(row) = self.pods.get_mut(uid) else { return };
        if !std::mem::take(&mut row.assumed) {
            return;
        }
        if let Some(node) = row.node.take() {
            self.snapshot.remove_pod(&node, &row.shape);
        }
        self.volumes.forget(&row.shape.claims);
        self.queue.failed(uid, now);
        self.queue.help(Help::Room, now);
    }
}

fn uid(pod: &Pod) -> Uid {
    Uid::from(pod.metadata.uid.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests;
