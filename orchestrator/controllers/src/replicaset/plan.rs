//! What to do for a ReplicaSet, given its pods: a function of values.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::own::Failure;
use crate::pod::{Availability, Pod};
use crate::rank;
use catamaran_client::object;

/// Pods created or deleted in one pass at most.
pub(super) const BURST: usize = 500;

/// What is observed.
pub(super) struct Observed<'a> {
    pub(super) set: &'a ReplicaSet,
    /// Its pods that count: neither ended nor to be deleted.
    pub(super) active: &'a [Arc<Pod>],
    /// The pods of all ReplicaSets of the same Deployment; only looked at when pods must go.
    pub(super) related: &'a (dyn Fn() -> Vec<Arc<Pod>> + Sync),
    pub(super) now: Timestamp,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Step {
    /// As many pods as wanted.
    Nothing,
    /// Pods are missing.
    Create(usize),
    /// There are too many.
    Delete(Vec<Arc<Pod>>),
}

/// Plans one pass over a ReplicaSet.
pub(super) fn plan(observed: &Observed<'_>) -> Step {
    if object::is_being_deleted(&observed.set.metadata) {
        return Step::Nothing;
    }
    let wanted = observed.set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let wanted = usize::try_from(wanted).unwrap_or(0);
    let there = observed.active.len();
    if there < wanted {
        Step::Create((wanted - there).min(BURST))
    } else if there > wanted {
        let excess = (there - wanted).min(BURST);
        // Nobody to compare with when all must go.
        let related = if wanted > 0 { (observed.related)() } else { Vec::new() };
        Step::Delete(rank::choose(observed.active, &related, excess, observed.now))
    } else {
        Step::Nothing
    }
}

/// The status, and when a pod becomes available just by the passing of time.
pub(super) fn status(
    observed: &Observed<'_>,
    failure: Option<&Failure>,
) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = observed.set.spec.as_ref();
    let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let template = spec.and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.as_ref());
    let (mut labeled, mut ready, mut available) = (0, 0, 0);
    let mut next: Option<Duration> = None;
    for pod in observed.active {
        let labels = pod.metadata.labels.as_ref();
        let has =
            |(key, value): (&String, &String)| labels.is_some_and(|labels| labels.get(key) == Some(value));
        labeled += i32::from(template.is_none_or(|template| template.iter().all(has)));
        match pod.availability(min_ready, observed.now) {
            Availability::NotReady => continue,
            Availability::ReadyFor(time) => next = Some(next.map_or(time, |next| next.min(time))),
            Availability::Available => available += 1,
        }
        ready += 1;
    }
    let before = observed.set.status.clone().unwrap_or_default();
    let some = |number: i32| (number != 0).then_some(number);
    let status = ReplicaSetStatus {
        replicas: i32::try_from(observed.active.len()).unwrap_or(i32::MAX),
        fully_labeled_replicas: some(labeled),
        ready_replicas: some(ready),
        available_replicas: some(available),
        observed_generation: observed.set.metadata.generation,
        conditions: conditions(before.conditions, failure, observed.now),
        ..ReplicaSetStatus::default()
    };
    (status, next)
}

fn conditions(
    before: Option<Vec<ReplicaSetCondition>>,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = before.unwrap_or_default();
    let is_failure = |condition: &ReplicaSetCondition| condition.type_ == "ReplicaFailure";
    match failure {
        None => conditions.retain(|condition| !is_failure(condition)),
        Some(failure) => {
            let same = |condition: &&ReplicaSetCondition| {
                is_failure(condition) && condition.reason.as_deref() == Some(failure.reason)
            };
            if conditions.iter().find(same).is_none() {
                conditions.retain(|condition| !is_failure(condition));
                conditions.push(ReplicaSetCondition {
                    type_: "ReplicaFailure".to_owned(),
                    status: "True".to_owned(),
                    reason: Some(failure.reason.to_owned()),
                    message: Some(failure.message.clone()),
                    last_transition_time: Some(Time(now)),
                });
            }
        }
    }
    (!conditions.is_empty()).then_some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(replicas: i32, min_ready: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "uid": "rs", "generation": 3},
            "spec": {"replicas": replicas, "minReadySeconds": min_ready,
                     "selector": {"matchLabels": {"app": "web"}},
                     "template": {"metadata": {"labels": {"app": "web", "tier": "x"}},
                                  "spec": {"containers": []}}}
        }))
        .unwrap()
    }

    fn pod(uid: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": uid, "uid": uid, "labels": {"app": "web", "tier": "x"}},
                "spec": {"nodeName": "n"},
                "status": {"phase": "Running", "conditions": [
                    {"type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
            }))
            .unwrap(),
        )
    }

    fn observed<'a>(set: &'a ReplicaSet, active: &'a [Arc<Pod>], now: &str) -> Observed<'a> {
        Observed { set, active, related: &Vec::new, now: now.parse().unwrap() }
    }

    const NOW: &str = "2026-01-01T00:00:10Z";

    #[test]
    fn as_many_pods_as_wanted() {
        let pods: Vec<Arc<Pod>> = (0..3).map(|n| pod(&format!("p{n}"), n != 1)).collect();
        let created = |wanted| match plan(&observed(&set(wanted, 0), &pods, NOW)) {
            Step::Create(count) => i64::try_from(count).unwrap(),
            Step::Delete(gone) => -i64::try_from(gone.len()).unwrap(),
            Step::Nothing => 0,
        };
        assert_eq!((created(3), created(5), created(1), created(0)), (0, 2, -2, -3));
        assert_eq!(created(10_000), 500, "a burst at a time");
        let Step::Delete(gone) = plan(&observed(&set(2, 0), &pods, NOW)) else { panic!("one must go") };
        assert_eq!(object::name(&gone[0].metadata), "p1", "the one that is not ready");
    }

    #[test]
    fn a_set_that_leaves_does_nothing() {
        let mut set = set(5, 0);
        set.metadata.deletion_timestamp = Some(Time(NOW.parse().unwrap()));
        assert!(matches!(plan(&observed(&set, &[], NOW)), Step::Nothing));
    }

    #[test]
    fn counters_and_availability_in_time() {
        let pods = [pod("a", true), pod("b", false)];
        let set_now = set(2, 30);
        let (status, next) = status(&observed(&set_now, &pods, NOW), None);
        assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (2, Some(1), None));
        assert_eq!((status.fully_labeled_replicas, status.observed_generation), (Some(2), Some(3)));
        assert_eq!(next, Some(Duration::from_secs(20)));
        let (later, next) = super::status(&observed(&set_now, &pods, "2026-01-01T00:00:30Z"), None);
        assert_eq!((later.available_replicas, next), (Some(1), None));
    }

    #[test]
    fn a_failure_comes_and_goes() {
        let mut set = set(1, 0);
        let failure = Failure { reason: "FailedCreate", message: "quota".into() };
        let (failed, _) = status(&observed(&set, &[], NOW), Some(&failure));
        assert_eq!(failed.conditions.as_ref().unwrap()[0].message.as_deref(), Some("quota"));
        set.status = Some(failed.clone());
        let (again, _) = status(&observed(&set, &[], "2026-01-01T00:01:00Z"), Some(&failure));
        assert_eq!(again.conditions, failed.conditions, "the transition time stays");
        let (cured, _) = status(&observed(&set, &[], NOW), None);
        assert_eq!(cured.conditions, None);
    }
}
