//! The status of a Job: numbers, conditions, and what is said about them.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::count::Tally;
use super::decide::{End, Verdict};
use super::plan::{Observed, Plan};
use super::view::{self, View};
use crate::pod::Pod;
use catamaran_client::EventType;

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) event_type: EventType,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Note {
    fn normal(reason: &str, message: &str) -> Self {
        Self { event_type: EventType::Normal, reason: reason.to_owned(), message: message.to_owned() }
    }
}

/// Sets a condition; returns whether its status changed.
fn set_condition(
    status: &mut JobStatus,
    type_: &str,
    truth: bool,
    words: (&str, &str),
    now: Timestamp,
) -> bool {
    let truth = if truth { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    if conditions.iter().any(|condition| condition.type_ == type_ && condition.status == truth) {
        return false;
    }
    conditions.retain(|condition| condition.type_ != type_);
    conditions.push(JobCondition {
        type_: type_.to_owned(),
        status: truth.to_owned(),
        reason: Some(words.0.to_owned()),
        message: Some(words.1.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
    true
}

/// Says how the Job will end.
pub(super) fn decide(plan: &mut Plan, verdict: &Verdict, now: Timestamp) {
    let type_ = match verdict.end {
        End::Failed => "FailureTarget",
        End::Complete => "SuccessCriteriaMet",
    };
    set_condition(&mut plan.status, type_, true, (&verdict.reason, &verdict.message), now);
}

/// Says that the Job has ended.
pub(super) fn end(plan: &mut Plan, verdict: &Verdict, now: Timestamp) {
    let words = (verdict.reason.as_str(), verdict.message.as_str());
    match verdict.end {
        End::Failed => {
            set_condition(&mut plan.status, "Failed", true, words, now);
            plan.notes.push(Note {
                event_type: EventType::Warning,
                reason: verdict.reason.clone(),
                message: verdict.message.clone(),
            });
        }
        End::Complete => {
            set_condition(&mut plan.status, "Complete", true, words, now);
            plan.status.completion_time = Some(Time(now));
            plan.notes.push(Note::normal("Completed", "Job completed"));
        }
    }
}

/// The condition `Suspended`, and the start of the clock.
pub(super) fn suspension(plan: &mut Plan, view: &View<'_>, now: Timestamp) {
    if view.suspended {
        plan.status.start_time = None;
        if set_condition(&mut plan.status, "Suspended", true, ("JobSuspended", "Job suspended"), now) {
            plan.notes.push(Note::normal("Suspended", "Job suspended"));
        }
        return;
    }
    let known = plan.status.conditions.iter().flatten().any(|condition| condition.type_ == "Suspended");
    if known && set_condition(&mut plan.status, "Suspended", false, ("JobResumed", "Job resumed"), now) {
        plan.status.start_time = Some(Time(now));
        plan.notes.push(Note::normal("Resumed", "Job resumed"));
    }
}

/// The numbers.
pub(super) fn fill(
    plan: &mut Plan,
    observed: &Observed<'_>,
    view: &View<'_>,
    tally: &Tally,
    active: &[Arc<Pod>],
) {
    let some = |number: i32| (number != 0).then_some(number);
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let leaving = plan.withdraw.len() + plan.stop.len();
    let ending = observed.pods.iter().filter(|pod| view::is_ending(pod)).count();
    let ready = if leaving >= active.len() { 0 } else { active.iter().filter(|pod| pod.is_ready()).count() };
    let succeeded = if view.indexed { tally.completed.len() } else { tally.succeeded };
    let status = &mut plan.status;
    status.active = some(count((active.len() + plan.create.len()).saturating_sub(leaving)));
    status.ready = Some(count(ready));
    status.terminating = Some(count(ending));
    status.succeeded = some(succeeded);
    status.failed = some(tally.failed);
    status.uncounted_terminated_pods = Some(tally.uncounted.clone());
    status.completed_indexes =
        Some(tally.completed.to_string()).filter(|text| view.indexed && !text.is_empty());
    status.failed_indexes = tally.failed_indexes.as_ref().map(ToString::to_string);
}
