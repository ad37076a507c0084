//! When a Job is decided: it has failed, or enough of it has succeeded.

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::count::Tally;
use super::plan::Observed;
use super::policy;
use super::view::{self, View};
use crate::pod::{Phase, Pod};

/// How a Job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Failed,
    Complete,
}

/// How and why a Job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) end: End,
    pub(super) reason: String,
    pub(super) message: String,
}

fn failed(reason: &str, message: &str) -> Verdict {
    Verdict { end: End::Failed, reason: reason.to_owned(), message: message.to_owned() }
}

/// The verdict, once there is one; the first one stays.
pub(super) fn verdict(
    observed: &Observed<'_>,
    view: &View<'_>,
    tally: &Tally,
    active: &[Arc<Pod>],
    start: Option<&Time>,
) -> Option<Verdict> {
    if let Some(condition) = view::decided(observed.job) {
        let end = if condition.type_ == "FailureTarget" { End::Failed } else { End::Complete };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        return Some(Verdict { end, reason: text(&condition.reason), message: text(&condition.message) });
    }
    failure(observed, view, tally, active, start).or_else(|| success(observed, view, tally, active))
}

fn failure(
    observed: &Observed<'_>,
    view: &View<'_>,
    tally: &Tally,
    active: &[Arc<Pod>],
    start: Option<&Time>,
) -> Option<Verdict> {
    if let Some(message) = &tally.fatal {
        return Some(failed("PodFailurePolicy", message));
    }
    let limit = view.spec.backoff_limit.unwrap_or(6);
    if tally.all_failed() > limit || restarts_exceed(view, active, limit) {
        return Some(failed("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    let allowed = view.spec.active_deadline_seconds.filter(|_| !view.suspended);
    if let Some((allowed, start)) = allowed.zip(start)
        && observed.now.duration_since(start.0) >= SignedDuration::from_secs(allowed)
    {
        return Some(failed("DeadlineExceeded", "Job was active longer than specified deadline"));
    }
    let indexes = tally.failed_indexes.as_ref()?.len();
    if view.spec.max_failed_indexes.is_some_and(|most| indexes > most) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return Some(failed("MaxFailedIndexesExceeded", message));
    }
    if indexes > 0 && indexes + tally.completed.len() >= view.limit() {
        return Some(failed("FailedIndexes", "Job has failed indexes"));
    }
    None
}

/// Containers that are restarted in their pod count too.
fn restarts_exceed(view: &View<'_>, active: &[Arc<Pod>], limit: i32) -> bool {
    let policy = view.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let running = active.iter().filter(|pod| matches!(pod.status.phase, Phase::Running | Phase::Pending));
    let restarts: i32 = running
        .flat_map(|pod| pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses))
        .map(|status| status.restart_count)
        .sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

fn success(observed: &Observed<'_>, view: &View<'_>, tally: &Tally, active: &[Arc<Pod>]) -> Option<Verdict> {
    let complete = |reason: &str, message: String| {
        Some(Verdict { end: End::Complete, reason: reason.to_owned(), message })
    };
    if view.indexed
        && let Some(rule) = policy::succeeded(observed.job, view.limit(), &tally.completed)
    {
        return complete("SuccessPolicy", format!("Matched rules at index {rule}"));
    }
    let succeeded = tally.all_succeeded(view);
    let reached = match view.spec.completions {
        Some(completions) => succeeded >= completions,
        None => succeeded > 0 && active.is_empty(),
    };
    if reached {
        return complete("CompletionsReached", "Reached expected number of succeeded pods".to_owned());
    }
    None
}
