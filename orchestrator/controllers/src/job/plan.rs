//! What to do for a Job, given its pods: a function of values.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::backoff;
use super::count::{self, Tally, earlier_failures, index_of};
use super::decide::{self, Verdict};
use super::policy;
use super::status::{self, Note};
use super::view::{self, FINALIZER, View};
use crate::pod::{Phase, Pod};
use crate::rank;
use catamaran_client::object;

/// Pods created or deleted in one pass at most.
pub(super) const BURST: usize = 500;

/// What is observed.
pub(super) struct Observed<'a> {
    pub(super) job: &'a Job,
    /// All its pods, also those that have ended.
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) now: Timestamp,
}

/// A pod that is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NewPod {
    /// Of an indexed Job.
    pub(super) index: Option<i32>,
    /// Counted and ignored failures of the index, for a Job that counts them.
    pub(super) failures: Option<(i32, i32)>,
}

/// What is to be done. The order is: delete, create, write the status, release.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Pods that are too many; they do not count as failed.
    pub(super) withdraw: Vec<Arc<Pod>>,
    /// Pods that run on although the Job is decided; they count as failed.
    pub(super) stop: Vec<Arc<Pod>>,
    pub(super) create: Vec<NewPod>,
    /// The status if all of this succeeds.
    pub(super) status: JobStatus,
    /// Pods that lose their finalizer once the status is written.
    pub(super) release: Vec<Arc<Pod>>,
    pub(super) notes: Vec<Note>,
    pub(super) look_again: Option<Duration>,
}

/// Plans one pass over a Job.
pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let job = observed.job;
    let Some(spec) = &job.spec else { return Plan::default() };
    let status = job.status.clone().unwrap_or_default();
    if view::finished(job).is_some() {
        let ended = observed.pods.iter().filter(|pod| pod.has_finalizer(FINALIZER) && !pod.is_active());
        return Plan { release: ended.cloned().collect(), status, ..Plan::default() };
    }
    let view = View::of(spec);
    let mut tally = count::count(job, &view, observed.pods);
    let mut plan = Plan { status, release: std::mem::take(&mut tally.release), ..Plan::default() };
    let active: Vec<Arc<Pod>> = observed.pods.iter().filter(|pod| pod.is_active()).cloned().collect();
    if plan.status.start_time.is_none() && !view.suspended {
        plan.status.start_time = Some(Time(observed.now));
    }
    let verdict = decide::verdict(observed, &view, &tally, &active, plan.status.start_time.as_ref());
    match verdict {
        Some(verdict) => finish(observed, &mut plan, &tally, &active, &verdict),
        None => {
            if !object::is_being_deleted(&job.metadata) {
                manage(observed, &view, &tally, &active, &mut plan);
            }
            status::suspension(&mut plan, &view, observed.now);
            plan.look_again = earliest(plan.look_again, deadline(&view, &plan.status, observed.now));
        }
    }
    status::fill(&mut plan, observed, &view, &tally, &active);
    plan
}

/// When the Job has run for too long.
fn deadline(view: &View<'_>, status: &JobStatus, now: Timestamp) -> Option<Duration> {
    let start = status.start_time.as_ref()?.0;
    let due = start.checked_add(SignedDuration::from_secs(view.spec.active_deadline_seconds?)).ok()?;
    Duration::try_from(now.duration_until(due)).ok()
}

pub(super) fn earliest(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

/// The Job is decided: what still runs is stopped, and when nothing is left the last condition comes.
fn finish(observed: &Observed<'_>, plan: &mut Plan, tally: &Tally, active: &[Arc<Pod>], verdict: &Verdict) {
    plan.stop = active.to_vec();
    let waits = observed
        .pods
        .iter()
        .any(|pod| pod.is_active() || view::is_ending(pod) || pod.has_finalizer(FINALIZER));
    status::decide(plan, verdict, observed.now);
    if !waits && tally.is_settled() {
        status::end(plan, verdict, observed.now);
    }
}

/// As many active pods as the Job wants now.
fn manage(observed: &Observed<'_>, view: &View<'_>, tally: &Tally, active: &[Arc<Pod>], plan: &mut Plan) {
    if view.suspended {
        plan.withdraw = active.to_vec();
        return;
    }
    let there = i32::try_from(active.len()).unwrap_or(i32::MAX);
    let succeeded = tally.all_succeeded(view);
    let wanted = match view.spec.completions {
        Some(completions) => (completions - succeeded).min(view.parallelism).max(0),
        // A work queue: once a pod has succeeded no new one is started.
        None if succeeded > 0 => there,
        None => view.parallelism,
    };
    plan.withdraw = too_many(observed, view, tally, active, wanted);
    if !plan.withdraw.is_empty() {
        plan.withdraw.truncate(BURST);
        return;
    }
    let ending = if view.replaces_ended_only {
        observed
            .pods
            .iter()
            .filter(|pod| pod.is_terminating() && !view.has_failed(pod) && !pod.is_terminal())
            .count()
    } else {
        0
    };
    let missing = wanted - there - i32::try_from(ending).unwrap_or(i32::MAX);
    if missing <= 0 {
        return;
    }
    let count = usize::try_from(missing).unwrap_or(0).min(BURST);
    if view.indexed {
        add_indexed(observed, view, tally, active, count, plan);
    } else {
        plan.create = vec![NewPod::default(); count];
    }
    if view.per_index.is_none()
        && let Some(wait) =
            backoff::remaining(observed.pods, observed.now).filter(|_| !plan.create.is_empty())
    {
        plan.create.clear();
        plan.look_again = earliest(plan.look_again, Some(wait));
    }
}

/// Pods that must go: first those of an index that is over, gone or taken, then those that are worth least.
fn too_many(
    observed: &Observed<'_>,
    view: &View<'_>,
    tally: &Tally,
    active: &[Arc<Pod>],
    wanted: i32,
) -> Vec<Arc<Pod>> {
    let mut gone = Vec::new();
    let mut kept = active.to_vec();
    if view.indexed {
        let mut oldest_first = active.to_vec();
        oldest_first.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (!pod.is_ready(), created, pod.metadata.uid.clone())
        });
        let mut taken = HashSet::new();
        let fits = |index: &i32| *index < view.limit() && !tally.is_over(*index);
        (kept, gone) = oldest_first
            .into_iter()
            .partition(|pod| index_of(pod).filter(fits).is_some_and(|index| taken.insert(index)));
    }
    let excess = kept.len().saturating_sub(usize::try_from(wanted).unwrap_or(0));
    if excess > 0 {
        gone.extend(rank::choose(&kept, &kept, excess, observed.now));
    }
    gone
}

/// The first `count` indexes that nobody works on, as far as their back-off lets them.
fn add_indexed(
    observed: &Observed<'_>,
    view: &View<'_>,
    tally: &Tally,
    active: &[Arc<Pod>],
    count: usize,
    plan: &mut Plan,
) {
    let mut busy: HashSet<i32> = active.iter().filter_map(|pod| index_of(pod)).collect();
    if view.replaces_ended_only {
        let ending = observed.pods.iter().filter(|pod| pod.is_terminating() && !view.has_failed(pod));
        busy.extend(
            ending.filter(|pod| pod.status.phase != Phase::Succeeded).filter_map(|pod| index_of(pod)),
        );
    }
    let failed = view.per_index.map(|_| last_failures(observed, view)).unwrap_or_default();
    for index in (0..view.limit()).filter(|index| !tally.is_over(*index) && !busy.contains(index)) {
        if plan.create.len() == count {
            break;
        }
        let last = failed.get(&index);
        let failures = last.map(|(_, failures)| *failures);
        let wait = last.and_then(|(pod, (counted, ignored))| {
            backoff::remaining_of(pod, u32::try_from(counted + ignored).unwrap_or(0), observed.now)
        });
        if wait.is_some() {
            plan.look_again = earliest(plan.look_again, wait);
            continue;
        }
        let failures = view.per_index.map(|_| failures.unwrap_or((0, 0)));
        plan.create.push(NewPod { index: Some(index), failures });
    }
}

/// The last failed pod of each index, and how often the index has failed with it: counted and ignored.
fn last_failures<'a>(observed: &'a Observed<'_>, view: &View<'_>) -> HashMap<i32, (&'a Pod, (i32, i32))> {
    let mut last: HashMap<i32, (&Pod, (i32, i32))> = HashMap::new();
    for pod in observed.pods.iter().filter(|pod| view.has_failed(pod)) {
        let Some(index) = index_of(pod) else { continue };
        let (mut counted, mut ignored) = earlier_failures(pod);
        match policy::judge(observed.job, pod) {
            policy::Verdict::Ignore => ignored += 1,
            _ => counted += 1,
        }
        let known = last.get(&index).map_or(0, |(_, (counted, ignored))| counted + ignored);
        if counted + ignored > known {
            last.insert(index, (pod, (counted, ignored)));
        }
    }
    last
}
