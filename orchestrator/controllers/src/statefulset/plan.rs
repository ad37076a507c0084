//! What to do for a StatefulSet, given its pods: a function of values.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};

use super::claims::{self, ClaimStep, Fate, Find};
use super::name;
use super::template::POD_NAME;
use crate::history::REVISION_LABEL;
use crate::pod::{Availability, Phase, Pod};
use catamaran_client::{EventType, object};

/// Pods created or deleted in one pass at most.
pub(super) const BURST: usize = 500;
/// How long until a claim that is in the way is looked at again.
const CLAIM_WAIT: Duration = Duration::from_secs(1);

/// What is observed.
pub(super) struct Observed<'a> {
    pub(super) set: &'a StatefulSet,
    /// Its pods, those that have ended too.
    pub(super) pods: &'a [Arc<Pod>],
    /// The names of the revision that the set comes from, and of that which it goes to.
    pub(super) current: &'a str,
    pub(super) update: &'a str,
    pub(super) claims: Find<'a>,
    pub(super) now: Timestamp,
}

/// A pod that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NewPod {
    pub(super) ordinal: i32,
    /// The name of the revision that it is made of.
    pub(super) revision: String,
}

/// What is to be done, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) claims: Vec<ClaimStep>,
    pub(super) create: Vec<NewPod>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods that lack the labels of their identity.
    pub(super) relabel: Vec<(Arc<Pod>, i32)>,
    pub(super) status: StatefulSetStatus,
    /// Reasons and messages of warnings.
    pub(super) notes: Vec<(EventType, &'static str, String)>,
    pub(super) look_again: Option<Duration>,
}

/// The parts of the spec, with what absence means.
struct Wish {
    start: i32,
    replicas: i32,
    /// One after the other, and only when those before are available.
    ordered: bool,
    rolls: bool,
    partition: i32,
    min_ready: i32,
}

impl Wish {
    fn of(set: &StatefulSet) -> Self {
        let spec = set.spec.as_ref();
        let strategy = spec.and_then(|spec| spec.update_strategy.as_ref());
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        Self {
            start: spec.and_then(|spec| spec.ordinals.as_ref()?.start).unwrap_or(0),
            replicas: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            ordered: spec.and_then(|spec| spec.pod_management_policy.as_deref()) != Some("Parallel"),
            rolls: strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete"),
            partition: rolling.and_then(|rolling| rolling.partition).unwrap_or(0),
            min_ready: spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0),
        }
    }

    fn wants(&self, ordinal: i32) -> bool {
        (self.start..self.start.saturating_add(self.replicas)).contains(&ordinal)
    }
}

/// May the rest of the pass go on?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Go,
    Stop,
}

/// Plans one pass over a StatefulSet.
pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let set = observed.set;
    let wish = Wish::of(set);
    let mut wanted: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
    let mut condemned: Vec<(i32, &Arc<Pod>)> = Vec::new();
    for pod in observed.pods {
        match name::ordinal(object::name(&set.metadata), object::name(&pod.metadata)) {
            Some(ordinal) if wish.wants(ordinal) => drop(wanted.insert(ordinal, pod)),
            Some(ordinal) => condemned.push((ordinal, pod)),
            None => {}
        }
    }
    condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
    let mut plan = Plan::default();
    status(observed, &wish, &mut plan);
    if object::is_being_deleted(&set.metadata) {
        return plan;
    }
    for (ordinal, pod) in &wanted {
        plan.claims.extend(claim_steps(observed, *ordinal, pod));
    }
    for (ordinal, pod) in &condemned {
        plan.claims.extend(claims::steps(set, *ordinal, Fate::Condemned(pod), observed.claims));
    }
    let grown = grow(observed, &wish, &wanted, &mut plan);
    if grown == Flow::Go && shrink(observed, &wish, &condemned, &mut plan) == Flow::Go && wish.rolls {
        roll(observed, &wish, &wanted, &mut plan);
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan
}

/// The claims of a pod that is there: a new one is made only for a pod that still waits for it.
fn claim_steps(observed: &Observed<'_>, ordinal: i32, pod: &Pod) -> Vec<ClaimStep> {
    let mut steps = claims::steps(observed.set, ordinal, Fate::Kept, observed.claims);
    let waits = pod.status.phase == Phase::Pending && !pod.is_terminating();
    steps.retain(|step| waits || !matches!(step, ClaimStep::Create(_)));
    steps
}

fn is_available(observed: &Observed<'_>, wish: &Wish, pod: &Pod) -> bool {
    pod.is_active() && pod.availability(wish.min_ready, observed.now) == Availability::Available
}

/// A pod for each ordinal, in their order.
fn grow(observed: &Observed<'_>, wish: &Wish, wanted: &BTreeMap<i32, &Arc<Pod>>, plan: &mut Plan) -> Flow {
    let mut flow = Flow::Go;
    for ordinal in wish.start..wish.start.saturating_add(wish.replicas) {
        let step = match wanted.get(&ordinal) {
            None => add(observed, wish, ordinal, plan),
            Some(pod) => keep(observed, wish, ordinal, pod, plan),
        };
        if step == Flow::Stop {
            flow = Flow::Stop;
            if wish.ordered {
                break;
            }
        }
        if plan.create.len() >= BURST {
            break;
        }
    }
    // Without an order nothing waits for anything.
    if wish.ordered { flow } else { Flow::Go }
}

fn add(observed: &Observed<'_>, wish: &Wish, ordinal: i32, plan: &mut Plan) -> Flow {
    let steps = claims::steps(observed.set, ordinal, Fate::New, observed.claims);
    if steps.contains(&ClaimStep::Wait) {
        plan.look_again = Some(plan.look_again.map_or(CLAIM_WAIT, |known| known.min(CLAIM_WAIT)));
        return Flow::Stop;
    }
    plan.claims.extend(steps);
    // Below the partition the old template stays, also for a pod that is made anew.
    let old = wish.rolls && ordinal < wish.start.saturating_add(wish.partition);
    let revision = if old { observed.current } else { observed.update };
    plan.create.push(NewPod { ordinal, revision: revision.to_owned() });
    Flow::Stop
}

fn keep(observed: &Observed<'_>, wish: &Wish, ordinal: i32, pod: &Arc<Pod>, plan: &mut Plan) -> Flow {
    if pod.is_terminal() {
        if !pod.is_terminating() {
            let (set, name) = (&observed.set.metadata, object::name(&pod.metadata));
            let (how, reason) = match pod.status.phase {
                Phase::Failed => ("failed", "RecreatingFailedPod"),
                _ => ("terminated", "RecreatingTerminatedPod"),
            };
            let (namespace, owner) = (object::namespace(set), object::name(set));
            let message = format!("StatefulSet {namespace}/{owner} is recreating {how} Pod {name}");
            plan.notes.push((EventType::Warning, reason, message));
            plan.delete.push(Arc::clone(pod));
        }
        return Flow::Stop;
    }
    if object::label(&pod.metadata, POD_NAME) != Some(object::name(&pod.metadata)) {
        plan.relabel.push((Arc::clone(pod), ordinal));
    }
    if is_available(observed, wish, pod) { Flow::Go } else { Flow::Stop }
}

/// Pods that are too many go, the last first.
fn shrink(observed: &Observed<'_>, wish: &Wish, condemned: &[(i32, &Arc<Pod>)], plan: &mut Plan) -> Flow {
    let sick = condemned.iter().rev().find(|(_, pod)| !is_available(observed, wish, pod));
    for (ordinal, pod) in condemned {
        if pod.is_terminating() {
            if wish.ordered {
                return Flow::Stop;
            }
            continue;
        }
        // Among several that are not available the first is left to recover.
        let first_sick = sick.is_some_and(|(sick, _)| sick == ordinal);
        if wish.ordered && !is_available(observed, wish, pod) && !first_sick {
            return Flow::Stop;
        }
        plan.delete.push(Arc::clone(pod));
        if wish.ordered {
            return Flow::Stop;
        }
    }
    Flow::Go
}

/// Replaces the last pod that is of an old revision, when all after it are available.
fn roll(observed: &Observed<'_>, wish: &Wish, wanted: &BTreeMap<i32, &Arc<Pod>>, plan: &mut Plan) {
    let first = wish.start.saturating_add(wish.partition);
    for ordinal in (first..wish.start.saturating_add(wish.replicas)).rev() {
        let Some(pod) = wanted.get(&ordinal) else { return };
        let updated = object::label(&pod.metadata, REVISION_LABEL) == Some(observed.update);
        if !updated && !pod.is_terminating() {
            if !plan.delete.iter().any(|gone| gone.metadata.uid == pod.metadata.uid) {
                plan.delete.push(Arc::clone(pod));
            }
            return;
        }
        if !is_available(observed, wish, pod) {
            return;
        }
    }
}

fn status(observed: &Observed<'_>, wish: &Wish, plan: &mut Plan) {
    let before = observed.set.status.clone().unwrap_or_default();
    let (mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0);
    for pod in observed.pods {
        if !pod.is_terminating() {
            let revision = object::label(&pod.metadata, REVISION_LABEL);
            current += i32::from(revision == Some(observed.current));
            updated += i32::from(revision == Some(observed.update));
        }
        if pod.is_terminal() {
            continue;
        }
        match pod.availability(wish.min_ready, observed.now) {
            Availability::NotReady => continue,
            Availability::Available => available += 1,
            Availability::ReadyFor(left) => {
                plan.look_again = Some(plan.look_again.map_or(left, |known| known.min(left)));
            }
        }
        ready += 1;
    }
    let replicas = i32::try_from(observed.pods.len()).unwrap_or(i32::MAX);
    let mut revision = observed.current;
    let all = |number: i32| number == wish.replicas;
    if wish.rolls && all(updated) && all(ready) && all(replicas) {
        (revision, current) = (observed.update, updated);
    }
    let some = |number: i32| (number != 0).then_some(number);
    plan.status = StatefulSetStatus {
        replicas,
        ready_replicas: some(ready),
        available_replicas: Some(available),
        current_replicas: some(current),
        updated_replicas: some(updated),
        current_revision: Some(revision.to_owned()),
        update_revision: Some(observed.update.to_owned()),
        observed_generation: observed.set.metadata.generation,
        ..before
    };
}
