//! How long a Job waits before it tries again, by the pods that failed: 10 s, doubled with each failure in a row.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::pod::{Phase, Pod};

/// The wait after the first failure.
const FIRST: SignedDuration = SignedDuration::from_secs(10);
/// The longest wait.
const LONGEST: SignedDuration = SignedDuration::from_secs(600);

/// What is left of the wait after the failures since the last success; `None` when there is nothing to wait for.
pub(super) fn remaining(pods: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    let times = |phase: Phase| {
        pods.iter().filter(move |pod| pod.status.phase == phase).filter_map(|pod| finished_at(pod))
    };
    let success = times(Phase::Succeeded).max().unwrap_or(Timestamp::MIN);
    let failures = times(Phase::Failed).filter(|time| *time > success);
    let (count, last) = failures
        .fold((0, None), |(count, last): (u32, Option<Timestamp>), time| (count + 1, last.max(Some(time))));
    left(count, last?, now)
}

/// What is left of the wait after a pod that was the `failures`th to fail for its index.
pub(super) fn remaining_of(pod: &Pod, failures: u32, now: Timestamp) -> Option<Duration> {
    left(failures, finished_at(pod)?, now)
}

fn left(failures: u32, last: Timestamp, now: Timestamp) -> Option<Duration> {
    let factor = 2i32.saturating_pow(failures.checked_sub(1)?.min(16));
    let due = last.checked_add(FIRST.saturating_mul(factor).min(LONGEST)).ok()?;
    Duration::try_from(now.duration_until(due)).ok().filter(|left| !left.is_zero())
}

/// When the last container ended; where no status says it, when the pod ceased to be ready, was to be deleted,
/// or was made.
fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let ends = pod.status.container_statuses.iter().filter_map(|status| status.state.terminated.as_ref());
    let ended = ends.filter_map(|end| end.finished_at.as_ref()).map(|time| time.0).max();
    let unready = || pod.condition("Ready")?.last_transition_time.as_ref().map(|time| time.0);
    let deleted = || pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    let made = || pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    ended.or_else(unready).or_else(deleted).or_else(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(phase: &str, second: i64) -> Arc<Pod> {
        let at = Timestamp::from_second(second).unwrap().to_string();
        Arc::new(
            serde_json::from_value(json!({"metadata": {}, "status": {"phase": phase, "containerStatuses": [
                {"name": "c", "state": {"terminated": {"exitCode": 1, "finishedAt": at}}}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn waits_double_and_end_with_a_success() {
        // (pods, now, seconds left)
        let table = [
            (vec![], 100, None),
            (vec![pod("Failed", 100)], 100, Some(10)),
            (vec![pod("Failed", 100)], 104, Some(6)),
            (vec![pod("Failed", 100)], 110, None),
            (vec![pod("Failed", 90), pod("Failed", 100)], 100, Some(20)),
            (vec![pod("Failed", 80), pod("Failed", 90), pod("Failed", 100)], 100, Some(40)),
            (vec![pod("Failed", 80), pod("Succeeded", 90), pod("Failed", 100)], 100, Some(10)),
            (vec![pod("Failed", 80), pod("Succeeded", 90)], 90, None),
            ((0..30).map(|second| pod("Failed", second)).collect(), 29, Some(600)),
        ];
        for (pods, now, expected) in table {
            let left = remaining(&pods, Timestamp::from_second(now).unwrap());
            assert_eq!(left, expected.map(Duration::from_secs), "{} pods at {now}", pods.len());
        }
    }
}
