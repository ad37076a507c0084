//! Counts the pods of a Job that have ended, each exactly once whatever is killed when.
//!
//! A pod carries a finalizer until it is counted. First its uid is written to `uncountedTerminatedPods`, then the
//! finalizer goes, and when the pod is seen without it (or not at all) the uid becomes a number. The succeeded
//! pods of an indexed Job are counted by their index, which needs no uid.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobStatus, UncountedTerminatedPods};

use super::index::Indexes;
use super::policy::{self, Verdict};
use super::view::{self, FINALIZER, View};
use crate::pod::{COMPLETION_INDEX, INDEX_FAILURES, INDEX_IGNORED_FAILURES, Phase, Pod};
use catamaran_client::object;

/// Uids that wait for their counting at a time, so that the status stays small.
const WAITING: usize = 500;

/// What is counted, including this pass.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Numbers that are final.
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    /// Uids on their way to a number.
    pub(super) uncounted: UncountedTerminatedPods,
    /// Of an indexed Job.
    pub(super) completed: Indexes,
    /// Of a Job with a back-off limit for each index.
    pub(super) failed_indexes: Option<Indexes>,
    /// Pods whose finalizer may go once this is written.
    pub(super) release: Vec<Arc<Pod>>,
    /// Why the failure policy says that the Job has failed.
    pub(super) fatal: Option<String>,
}

impl Tally {
    /// Pods, or indexes, that have succeeded.
    pub(super) fn all_succeeded(&self, view: &View<'_>) -> i32 {
        if view.indexed { self.completed.len() } else { self.succeeded + length(&self.uncounted.succeeded) }
    }

    /// Pods that have failed.
    pub(super) fn all_failed(&self) -> i32 {
        self.failed + length(&self.uncounted.failed)
    }

    /// Is there no uid left that is not counted?
    pub(super) fn is_settled(&self) -> bool {
        self.uncounted == UncountedTerminatedPods::default()
    }

    /// Is nothing more to be done for this index?
    pub(super) fn is_over(&self, index: i32) -> bool {
        self.completed.contains(index)
            || self.failed_indexes.as_ref().is_some_and(|failed| failed.contains(index))
    }
}

fn length(uids: &Option<Vec<String>>) -> i32 {
    uids.as_ref().map_or(0, |uids| i32::try_from(uids.len()).unwrap_or(i32::MAX))
}

/// The index in a pod's annotation.
pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    object::annotation(&pod.metadata, COMPLETION_INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// How often the index had failed before this pod: counted and ignored failures.
pub(super) fn earlier_failures(pod: &Pod) -> (i32, i32) {
    let number = |key| object::annotation(&pod.metadata, key).and_then(|text| text.parse().ok()).unwrap_or(0);
    (number(INDEX_FAILURES), number(INDEX_IGNORED_FAILURES))
}

/// Counts what `pods` show on top of what the status says.
pub(super) fn count(job: &Job, view: &View<'_>, pods: &[Arc<Pod>]) -> Tally {
    let status = job.status.clone().unwrap_or_default();
    let mut tally = settle(&status, view, pods);
    let waiting: HashSet<String> =
        tally.uncounted.succeeded.iter().chain(&tally.uncounted.failed).flatten().cloned().collect();
    let ended: Vec<(&Arc<Pod>, Verdict)> =
        pods.iter().filter(|pod| view.has_failed(pod)).map(|pod| (pod, policy::judge(job, pod))).collect();
    fail_indexes(&mut tally, view, &ended);
    let delayed = if view::decided(job).is_none() { delayed(&tally, view, pods) } else { HashSet::new() };
    for pod in pods.iter().filter(|pod| pod.has_finalizer(FINALIZER)) {
        let uid = object::uid(&pod.metadata);
        if waiting.contains(uid) {
            tally.release.push(Arc::clone(pod));
        } else if pod.status.phase == Phase::Succeeded {
            note_success(&mut tally, view, pod);
        }
    }
    for (pod, verdict) in ended {
        let uid = object::uid(&pod.metadata);
        if !pod.has_finalizer(FINALIZER) || waiting.contains(uid) {
            continue;
        }
        if let Verdict::FailJob(message) = &verdict {
            tally.fatal.get_or_insert_with(|| message.clone());
        }
        if delayed.contains(uid) {
            continue;
        }
        if verdict == Verdict::Ignore || push(&mut tally.uncounted.failed, uid) {
            tally.release.push(Arc::clone(pod));
        }
    }
    tally
}

/// Turns the uids whose pods have lost their finalizer into numbers.
fn settle(status: &JobStatus, view: &View<'_>, pods: &[Arc<Pod>]) -> Tally {
    let held: HashSet<&str> = pods
        .iter()
        .filter(|pod| pod.has_finalizer(FINALIZER))
        .map(|pod| object::uid(&pod.metadata))
        .collect();
    let before = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let split = |uids: Option<Vec<String>>| {
        let (left, counted): (Vec<String>, Vec<String>) =
            uids.unwrap_or_default().into_iter().partition(|uid| held.contains(uid.as_str()));
        ((!left.is_empty()).then_some(left), i32::try_from(counted.len()).unwrap_or(i32::MAX))
    };
    let (succeeded, more_succeeded) = split(before.succeeded);
    let (failed, more_failed) = split(before.failed);
    let parse = |text: &Option<String>| Indexes::parse(text.as_deref().unwrap_or_default(), view.limit());
    Tally {
        succeeded: status.succeeded.unwrap_or(0) + more_succeeded,
        failed: status.failed.unwrap_or(0) + more_failed,
        uncounted: UncountedTerminatedPods { succeeded, failed },
        completed: if view.indexed { parse(&status.completed_indexes) } else { Indexes::default() },
        failed_indexes: view.per_index.map(|_| parse(&status.failed_indexes)),
        ..Tally::default()
    }
}

fn note_success(tally: &mut Tally, view: &View<'_>, pod: &Arc<Pod>) {
    let counted = if view.indexed {
        // An index that does not exist any more counts for nothing.
        if let Some(index) = index_of(pod).filter(|index| *index < view.limit()) {
            tally.completed.insert(index);
        }
        true
    } else {
        push(&mut tally.uncounted.succeeded, object::uid(&pod.metadata))
    };
    if counted {
        tally.release.push(Arc::clone(pod));
    }
}

/// Adds a uid unless there are too many already.
fn push(uids: &mut Option<Vec<String>>, uid: &str) -> bool {
    let uids = uids.get_or_insert_default();
    let room = uids.len() < WAITING;
    if room {
        uids.push(uid.to_owned());
    }
    room
}

/// Indexes whose pod failed once too often, or in a way that the policy does not forgive.
fn fail_indexes(tally: &mut Tally, view: &View<'_>, ended: &[(&Arc<Pod>, Verdict)]) {
    let (Some(limit), Some(failed)) = (view.per_index, tally.failed_indexes.as_mut()) else { return };
    for (pod, verdict) in ended {
        let Some(index) = index_of(pod).filter(|index| *index < view.limit()) else { continue };
        let over = match verdict {
            Verdict::Ignore => false,
            Verdict::FailIndex => true,
            Verdict::Count | Verdict::FailJob(_) => earlier_failures(pod).0 >= limit,
        };
        if over && !tally.completed.contains(index) {
            failed.insert(index);
        }
    }
}

/// The last failed pod of each index that is tried again keeps its finalizer until its successor is there, which
/// takes over its number of failures.
fn delayed(tally: &Tally, view: &View<'_>, pods: &[Arc<Pod>]) -> HashSet<String> {
    if view.per_index.is_none() {
        return HashSet::new();
    }
    let mut last: HashMap<i32, &Arc<Pod>> = HashMap::new();
    let total = |pod: &Pod| {
        let (counted, ignored) = earlier_failures(pod);
        counted + ignored
    };
    for pod in pods {
        let Some(index) = index_of(pod).filter(|index| !tally.is_over(*index)) else { continue };
        let known = last.entry(index).or_insert(pod);
        if total(pod) > total(known) {
            *known = pod;
        }
    }
    let failed = last.values().filter(|pod| view.has_failed(pod));
    failed.map(|pod| object::uid(&pod.metadata).to_owned()).collect()
}
