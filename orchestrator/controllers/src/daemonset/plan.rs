//! What to do for a DaemonSet, given nodes and pods: a function of values.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, PodSpec};

use super::nodes::{Fit, fit};
use super::rollout::{self, Strategy};
use crate::history::REVISION_LABEL;
use crate::pod::{Availability, Phase, Pod};
use catamaran_client::{EventType, object};

/// Pods created or deleted in one pass at most.
pub(super) const BURST: usize = 250;

/// What is observed.
pub(super) struct Observed<'a> {
    pub(super) set: &'a DaemonSet,
    /// The spec of its pods, with their tolerations.
    pub(super) spec: &'a PodSpec,
    /// The hash of the newest revision.
    pub(super) hash: &'a str,
    pub(super) nodes: &'a [Arc<Node>],
    /// All its pods, also those that have ended.
    pub(super) pods: &'a [Arc<Pod>],
    /// How long a failed pod of a node must still be left where it is.
    pub(super) back_off: &'a (dyn Fn(&str) -> Option<Duration> + Sync),
    pub(super) now: Timestamp,
}

impl Observed<'_> {
    pub(super) fn min_ready(&self) -> i32 {
        self.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    pub(super) fn is_available(&self, pod: &Pod) -> bool {
        pod.availability(self.min_ready(), self.now) == Availability::Available
    }

    /// Is the pod made of the newest template?
    pub(super) fn is_updated(&self, pod: &Pod) -> bool {
        object::label(&pod.metadata, REVISION_LABEL) == Some(self.hash)
    }
}

/// A node and the pods that are there or meant for it.
pub(super) struct Place<'a> {
    pub(super) fit: Fit,
    pub(super) pods: Vec<&'a Arc<Pod>>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) event_type: EventType,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Nodes whose failed pod is among the deleted.
    pub(super) failed: Vec<String>,
    pub(super) status: DaemonSetStatus,
    pub(super) notes: Vec<Note>,
    pub(super) look_again: Option<Duration>,
}

/// Plans one pass over a DaemonSet.
pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let mut places: BTreeMap<&str, Place<'_>> = observed
        .nodes
        .iter()
        .map(|node| {
            let place = Place { fit: fit(observed.spec, node), pods: Vec::new() };
            (object::name(&node.metadata), place)
        })
        .collect();
    let mut plan = Plan::default();
    for pod in observed.pods {
        match pod.target_node().and_then(|node| places.get_mut(node)) {
            Some(place) => place.pods.push(pod),
            // Its node is gone before it got there.
            None if pod.node().is_none() && !pod.is_terminating() => plan.delete.push(Arc::clone(pod)),
            None => {}
        }
    }
    for place in places.values_mut() {
        place.pods.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (pod.status.phase == Phase::Pending, created, pod.metadata.uid.clone())
        });
    }
    status(observed, &places, &mut plan);
    if object::is_being_deleted(&observed.set.metadata) {
        return Plan { delete: Vec::new(), ..plan };
    }
    let strategy = Strategy::of(observed.set, plan.status.desired_number_scheduled);
    for (node, place) in &places {
        manage(observed, strategy, node, place, &mut plan);
    }
    rollout::roll(observed, strategy, &places, &mut plan);
    let mut seen = HashSet::new();
    plan.delete.retain(|pod| seen.insert(object::uid(&pod.metadata).to_owned()));
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan
}

/// One pod where one is wanted, none where none may be.
fn manage(observed: &Observed<'_>, strategy: Strategy, node: &str, place: &Place<'_>, plan: &mut Plan) {
    if place.fit == Fit::Refused {
        plan.delete.extend(place.pods.iter().filter(|pod| !pod.is_terminating()).map(|pod| Arc::clone(pod)));
        return;
    }
    if place.fit == Fit::Wanted && place.pods.is_empty() {
        plan.create.push(node.to_owned());
        return;
    }
    let mut running = Vec::new();
    for pod in place.pods.iter().filter(|pod| !pod.is_terminating()) {
        if pod.is_terminal() {
            remove_ended(observed, node, pod, plan);
        } else {
            running.push(*pod);
        }
    }
    // While a node is being rolled it has a pod of each template.
    let mut kept = HashSet::new();
    for pod in running {
        let kind = matches!(strategy, Strategy::Surge(_)) && observed.is_updated(pod);
        if !kept.insert(kind) {
            plan.delete.push(Arc::clone(pod));
        }
    }
}

/// A pod that has ended makes room for another one, after a while if it failed.
fn remove_ended(observed: &Observed<'_>, node: &str, pod: &Arc<Pod>, plan: &mut Plan) {
    let (namespace, name) = (object::namespace(&pod.metadata), object::name(&pod.metadata));
    let about = |how: &str| format!("Found {how} daemon pod {namespace}/{name} on node {node}, will try to ");
    if pod.status.phase == Phase::Succeeded {
        let message = about("succeeded") + "delete it";
        plan.notes.push(Note { event_type: EventType::Normal, reason: "SucceededDaemonPod", message });
    } else {
        if let Some(wait) = (observed.back_off)(node) {
            plan.look_again = Some(plan.look_again.map_or(wait, |known| known.min(wait)));
            return;
        }
        plan.failed.push(node.to_owned());
        let message = about("failed") + "kill it";
        plan.notes.push(Note { event_type: EventType::Warning, reason: "FailedDaemonPod", message });
    }
    plan.delete.push(Arc::clone(pod));
}

fn status(observed: &Observed<'_>, places: &BTreeMap<&str, Place<'_>>, plan: &mut Plan) {
    let before = observed.set.status.clone().unwrap_or_default();
    let (mut desired, mut current, mut misplaced) = (0, 0, 0);
    let (mut ready, mut available, mut updated) = (0, 0, 0);
    for place in places.values() {
        let wanted = place.fit == Fit::Wanted;
        desired += i32::from(wanted);
        let Some(pod) = place.pods.first() else { continue };
        if !wanted {
            misplaced += 1;
            continue;
        }
        current += 1;
        updated += i32::from(observed.is_updated(pod));
        match pod.availability(observed.min_ready(), observed.now) {
            Availability::NotReady => continue,
            Availability::Available => available += 1,
            Availability::ReadyFor(left) => {
                plan.look_again = Some(plan.look_again.map_or(left, |known| known.min(left)));
            }
        }
        ready += 1;
    }
    let some = |number: i32| (number != 0).then_some(number);
    plan.status = DaemonSetStatus {
        current_number_scheduled: current,
        desired_number_scheduled: desired,
        number_misscheduled: misplaced,
        number_ready: ready,
        number_available: some(available),
        number_unavailable: some(desired - available),
        updated_number_scheduled: some(updated),
        observed_generation: observed.set.metadata.generation,
        ..before
    };
}
