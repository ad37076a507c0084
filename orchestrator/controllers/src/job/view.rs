//! What a Job asks for, and how its pods are to be read for that.

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec};

use crate::pod::{Phase, Pod};

/// The finalizer of a pod that is not counted yet.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

/// The parts of a Job's spec, with what absence means.
pub(super) struct View<'a> {
    pub(super) spec: &'a JobSpec,
    pub(super) indexed: bool,
    /// `backoffLimitPerIndex`, which only an indexed Job has.
    pub(super) per_index: Option<i32>,
    pub(super) suspended: bool,
    pub(super) parallelism: i32,
    /// Only a pod that has ended is replaced, not one that is about to.
    pub(super) replaces_ended_only: bool,
}

impl<'a> View<'a> {
    pub(super) fn of(spec: &'a JobSpec) -> Self {
        let indexed = spec.completion_mode.as_deref() == Some("Indexed");
        Self {
            spec,
            indexed,
            per_index: spec.backoff_limit_per_index.filter(|_| indexed),
            suspended: spec.suspend == Some(true),
            parallelism: spec.parallelism.unwrap_or(1),
            replaces_ended_only: spec.pod_failure_policy.is_some()
                || spec.pod_replacement_policy.as_deref() == Some("Failed"),
        }
    }

    /// The number of indexes of an indexed Job.
    pub(super) fn limit(&self) -> i32 {
        self.spec.completions.unwrap_or(0)
    }

    /// Does the pod count as failed? One that is to be deleted does so at once, unless only ended pods are
    /// replaced; then it does when no node runs it any more.
    pub(super) fn has_failed(&self, pod: &Pod) -> bool {
        match pod.status.phase {
            Phase::Succeeded => false,
            Phase::Failed => true,
            Phase::Pending | Phase::Running | Phase::Unknown => {
                pod.is_terminating() && (!self.replaces_ended_only || is_let_go(pod))
            }
        }
    }
}

/// Was the pod told to end, and did everything that ran of it end?
fn is_let_go(pod: &Pod) -> bool {
    pod.is_terminating() && pod.metadata.deletion_grace_period_seconds == Some(0)
}

/// Is the pod to be deleted, and may something of it still run?
pub(super) fn is_ending(pod: &Pod) -> bool {
    pod.is_terminating() && !pod.is_terminal() && !is_let_go(pod)
}

/// The condition `Complete` or `Failed` that is `True`.
pub(crate) fn finished(job: &Job) -> Option<&JobCondition> {
    true_condition(job, &["Complete", "Failed"])
}

/// The condition that says how the Job will end.
pub(super) fn decided(job: &Job) -> Option<&JobCondition> {
    true_condition(job, &["FailureTarget", "SuccessCriteriaMet"])
}

fn true_condition<'a>(job: &'a Job, types: &[&str]) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.status == "True" && types.contains(&condition.type_.as_str()))
}
