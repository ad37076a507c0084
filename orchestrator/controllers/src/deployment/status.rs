//! The status of a Deployment: counters and the conditions Available, Progressing and ReplicaFailure, with
//! the reasons and messages of Kubernetes (`kubectl rollout status` and `kubectl wait` read them).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSetCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::member::{Member, Wish};
use catamaran_client::object;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const DONE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// What `Progressing` is set to on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Milestone {
    Created,
    Found,
    CreateFailed,
}

/// Sets `Progressing` for a step with the new ReplicaSet `name`; `error` is what the server said.
pub(super) fn milestone(
    conditions: &mut Vec<DeploymentCondition>,
    milestone: Milestone,
    name: &str,
    error: &str,
    now: Timestamp,
) {
    let (status, reason, message) = match milestone {
        Milestone::Created => ("True", "NewReplicaSetCreated", format!("Created new replica set \"{name}\"")),
        Milestone::Found => ("True", "FoundNewReplicaSet", format!("Found new replica set \"{name}\"")),
        Milestone::CreateFailed => (
            "False",
            "ReplicaSetCreateError",
            format!("Failed to create new replica set \"{name}\": {error}"),
        ),
    };
    set(conditions, condition(PROGRESSING, status, reason, message, now));
}

/// Is there a progress deadline at all?
pub(super) fn has_deadline(wish: &Wish<'_>) -> bool {
    wish.spec.progress_deadline_seconds.is_some_and(|seconds| seconds != i32::MAX)
}

/// Says in `Progressing` that the Deployment is paused, or resumed. Time does not count meanwhile.
pub(super) fn note_pause(wish: &Wish<'_>, conditions: &mut Vec<DeploymentCondition>, now: Timestamp) {
    let reason = progressing(conditions).and_then(|condition| condition.reason.as_deref());
    if !has_deadline(wish) || reason == Some(TIMED_OUT) {
        return;
    }
    let paused = wish.spec.paused == Some(true);
    let change = match (paused, reason == Some(PAUSED)) {
        (true, false) => (PAUSED, "Deployment is paused"),
        (false, true) => ("DeploymentResumed", "Deployment is resumed"),
        _ => return,
    };
    set(conditions, condition(PROGRESSING, "Unknown", change.0, change.1.to_owned(), now));
}

/// The counters and `Available`; the other conditions as they are in `conditions`.
pub(super) fn counted(
    wish: &Wish<'_>,
    old: &[Member<'_>],
    new: Option<&Member<'_>>,
    mut conditions: Vec<DeploymentCondition>,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |count: fn(&Member<'_>) -> i32| -> i32 { old.iter().chain(new).map(count).sum() };
    let available = sum(|member| member.available());
    let unavailable = (sum(|member| member.replicas) - available).max(0);
    let enough = if available >= wish.floor() {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut conditions, condition(AVAILABLE, enough.0, enough.1, enough.2.to_owned(), now));
    let before = wish.deployment.status.as_ref();
    // Zero is written as absent, as Go's `omitempty` does.
    let some = |number: i32| (number != 0).then_some(number);
    DeploymentStatus {
        observed_generation: wish.deployment.metadata.generation,
        replicas: some(sum(|member| member.actual())),
        updated_replicas: some(new.map_or(0, Member::actual)),
        ready_replicas: some(sum(|member| member.ready())),
        available_replicas: some(available),
        unavailable_replicas: some(unavailable),
        collision_count: before.and_then(|status| status.collision_count),
        conditions: Some(conditions),
        ..DeploymentStatus::default()
    }
}

/// Brings `Progressing` and `ReplicaFailure` of a rollout up to date.
pub(super) fn judge(
    wish: &Wish<'_>,
    old: &[Member<'_>],
    new: Option<&Member<'_>>,
    status: &mut DeploymentStatus,
    now: Timestamp,
) {
    let mut conditions = status.conditions.take().unwrap_or_default();
    let finished_before = status.replicas == status.updated_replicas
        && progressing(&conditions).is_some_and(|condition| condition.reason.as_deref() == Some(DONE));
    if !has_deadline(wish) {
        conditions.retain(|condition| condition.type_ != PROGRESSING);
    } else if !finished_before {
        judge_progress(wish, new, status, &mut conditions, now);
    }
    match replica_failure(old, new) {
        Some(failure) => {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            set(
                &mut conditions,
                condition(
                    REPLICA_FAILURE,
                    &failure.status,
                    &text(&failure.reason),
                    text(&failure.message),
                    now,
                ),
            );
        }
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
    }
    status.conditions = Some(conditions);
}

fn judge_progress(
    wish: &Wish<'_>,
    new: Option<&Member<'_>>,
    status: &DeploymentStatus,
    conditions: &mut Vec<DeploymentCondition>,
    now: Timestamp,
) {
    let who = match new {
        Some(new) => format!("ReplicaSet \"{}\"", new.name),
        None => format!("Deployment \"{}\"", object::name(&wish.deployment.metadata)),
    };
    if is_complete(wish, status) {
        let message = format!("{who} has successfully progressed.");
        set(conditions, condition(PROGRESSING, "True", DONE, message, now));
    } else if has_progressed(wish, status) {
        let message = format!("{who} is progressing.");
        let mut fresh = condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
        // Always replaced: its lastUpdateTime is what the deadline counts from.
        if let Some(current) = progressing(conditions).filter(|current| current.status == "True") {
            fresh.last_transition_time.clone_from(&current.last_transition_time);
        }
        conditions.retain(|condition| condition.type_ != PROGRESSING);
        conditions.push(fresh);
    } else if has_timed_out(wish, conditions, now) {
        let message = format!("{who} has timed out progressing.");
        set(conditions, condition(PROGRESSING, "False", TIMED_OUT, message, now));
    }
}

/// Has every replica the new template, is it available, and is nothing old left?
pub(super) fn is_complete(wish: &Wish<'_>, status: &DeploymentStatus) -> bool {
    let is_all = |count: Option<i32>| count.unwrap_or(0) == wish.replicas;
    is_all(status.updated_replicas)
        && is_all(status.replicas)
        && is_all(status.available_replicas)
        && status.observed_generation >= wish.deployment.metadata.generation
}

fn has_progressed(wish: &Wish<'_>, new: &DeploymentStatus) -> bool {
    let before = wish.deployment.status.clone().unwrap_or_default();
    let count = |count: Option<i32>| count.unwrap_or(0);
    let old_pods = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(new.updated_replicas) > count(before.updated_replicas)
        || old_pods(new) < old_pods(&before)
        || count(new.ready_replicas) > count(before.ready_replicas)
        || count(new.available_replicas) > count(before.available_replicas)
}

fn has_timed_out(wish: &Wish<'_>, conditions: &[DeploymentCondition], now: Timestamp) -> bool {
    match progressing(conditions).and_then(|condition| condition.reason.as_deref()) {
        None | Some(DONE) => false,
        Some(TIMED_OUT) => true,
        Some(_) => deadline(wish, conditions).is_some_and(|deadline| deadline < now),
    }
}

fn deadline(wish: &Wish<'_>, conditions: &[DeploymentCondition]) -> Option<Timestamp> {
    let from = progressing(conditions)?.last_update_time.as_ref()?.0;
    from.checked_add(SignedDuration::from_secs(i64::from(wish.spec.progress_deadline_seconds?))).ok()
}

/// When the Deployment must be looked at again because its deadline may have passed.
pub(super) fn look_again(wish: &Wish<'_>, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let reason = progressing(conditions)?.reason.as_deref();
    if !has_deadline(wish)
        || wish.spec.paused == Some(true)
        || is_complete(wish, status)
        || matches!(reason, Some(TIMED_OUT | DONE))
    {
        return None;
    }
    let left = now.duration_until(deadline(wish, conditions)?);
    Some(Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1))
}

fn replica_failure<'a>(old: &[Member<'a>], new: Option<&Member<'a>>) -> Option<&'a ReplicaSetCondition> {
    // The new ReplicaSet's failure is what the user waits for; then anybody's.
    new.into_iter().chain(old).find_map(|member| {
        let conditions = member.status()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE)
    })
}

fn progressing(conditions: &[DeploymentCondition]) -> Option<&DeploymentCondition> {
    conditions.iter().find(|condition| condition.type_ == PROGRESSING)
}

/// Does the Deployment say how it progresses already?
pub(super) fn has_progressing(deployment: &Deployment) -> bool {
    let status = deployment.status.as_ref();
    progressing(status.and_then(|status| status.conditions.as_deref()).unwrap_or_default()).is_some()
}

fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Puts in a condition; one with the same status and reason stays as it is.
fn set(conditions: &mut Vec<DeploymentCondition>, mut fresh: DeploymentCondition) {
    if let Some(current) = conditions.iter().find(|current| current.type_ == fresh.type_) {
        if current.status == fresh.status && current.reason == fresh.reason {
            return;
        }
        if current.status == fresh.status {
            fresh.last_transition_time.clone_from(&current.last_transition_time);
        }
    }
    conditions.retain(|current| current.type_ != fresh.type_);
    conditions.push(fresh);
}
