//! How many pods of a PodDisruptionBudget may be disrupted, given its pods: a function of values.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::fraction::{Rounding, scaled};
use crate::pod::Pod;
use catamaran_client::object;

/// How long an evicted pod may take to be seen as deleted, before it counts as healthy again.
const EVICTION: SignedDuration = SignedDuration::from_secs(120);

/// What controls a pod, and how many pods that wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// Nothing controls it.
    Unmanaged,
    /// Its controller is of a kind that has no scale that we know, or is not known.
    Unknown(String),
    /// The uid of the outermost controller, and the number.
    Of(String, i32),
}

/// What is observed.
pub(super) struct Observed<'a> {
    pub(super) budget: &'a PodDisruptionBudget,
    /// The pods that it selects.
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) scale: &'a dyn Fn(&Pod) -> Scale,
    pub(super) now: Timestamp,
}

/// What is to be reported.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: PodDisruptionBudgetStatus,
    /// Pods that were evicted and are not deleted.
    pub(super) survivors: Vec<Arc<Pod>>,
    /// Why the numbers cannot be found; nothing may be disrupted then.
    pub(super) failure: Option<String>,
    pub(super) look_again: Option<Duration>,
}

/// Plans the status of a budget.
pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let before = observed.budget.status.clone().unwrap_or_default();
    let mut plan = Plan::default();
    let disrupted = disrupted(observed, &before, &mut plan);
    let healthy = observed.pods.iter().filter(|pod| {
        pod.is_active() && pod.is_ready() && !disrupted.contains_key(object::name(&pod.metadata))
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let (allowed, expected, desired) = match numbers(observed) {
        Ok((expected, desired)) if expected > 0 => ((healthy - desired).max(0), expected, desired),
        Ok((expected, desired)) => (0, expected, desired),
        Err(reason) => {
            plan.failure = Some(reason);
            (0, before.expected_pods, before.desired_healthy)
        }
    };
    plan.status = PodDisruptionBudgetStatus {
        current_healthy: healthy,
        desired_healthy: desired,
        disruptions_allowed: allowed,
        expected_pods: expected,
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: observed.budget.metadata.generation,
        conditions: Some(conditions(observed, before.conditions, allowed, plan.failure.as_deref())),
    };
    plan
}

/// Evicted pods of which it is not yet seen that they are deleted.
fn disrupted(
    observed: &Observed<'_>,
    before: &PodDisruptionBudgetStatus,
    plan: &mut Plan,
) -> BTreeMap<String, Time> {
    let mut kept = BTreeMap::new();
    for (name, time) in before.disrupted_pods.iter().flatten() {
        let pod = observed.pods.iter().find(|pod| object::name(&pod.metadata) == name);
        let Some(pod) = pod.filter(|pod| !pod.is_terminating()) else { continue };
        let due = time.0.checked_add(EVICTION).unwrap_or(Timestamp::MAX);
        match Duration::try_from(observed.now.duration_until(due)) {
            Ok(left) if !left.is_zero() => {
                plan.look_again = Some(plan.look_again.map_or(left, |known| known.min(left)));
                kept.insert(name.clone(), time.clone());
            }
            _ => plan.survivors.push(Arc::clone(pod)),
        }
    }
    kept
}

/// Pods that are expected, and pods that must be healthy.
fn numbers(observed: &Observed<'_>) -> Result<(i32, i32), String> {
    let spec = observed.budget.spec.clone().unwrap_or_default();
    match (spec.max_unavailable, spec.min_available) {
        (Some(most), _) => {
            let expected = expected(observed)?;
            Ok((expected, (expected - scaled(&most, expected, Rounding::Up)).max(0)))
        }
        (None, Some(least @ IntOrString::String(_))) => {
            let expected = expected(observed)?;
            Ok((expected, scaled(&least, expected, Rounding::Up)))
        }
        (None, Some(IntOrString::Int(least))) => {
            Ok((i32::try_from(observed.pods.len()).unwrap_or(i32::MAX), least.max(0)))
        }
        (None, None) => Ok((0, 0)),
    }
}

/// The pods that all controllers of these pods want together.
fn expected(observed: &Observed<'_>) -> Result<i32, String> {
    let mut scales: HashMap<String, i32> = HashMap::new();
    for pod in observed.pods {
        match (observed.scale)(pod) {
            Scale::Unmanaged => {}
            Scale::Unknown(reason) => return Err(reason),
            Scale::Of(uid, replicas) => drop(scales.insert(uid, replicas)),
        }
    }
    Ok(scales.values().sum())
}

fn conditions(
    observed: &Observed<'_>,
    before: Option<Vec<Condition>>,
    allowed: i32,
    failure: Option<&str>,
) -> Vec<Condition> {
    const TYPE: &str = "DisruptionAllowed";
    let mut conditions = before.unwrap_or_default();
    let old = conditions.iter().position(|condition| condition.type_ == TYPE).map(|n| conditions.remove(n));
    let (status, reason) = match (failure, allowed) {
        (Some(_), _) => ("False", "SyncFailed"),
        (None, 0) => ("False", "InsufficientPods"),
        (None, _) => ("True", "SufficientPods"),
    };
    let same = old.filter(|old| old.status == status);
    conditions.push(Condition {
        type_: TYPE.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: failure.unwrap_or_default().to_owned(),
        observed_generation: observed.budget.metadata.generation,
        last_transition_time: same.map_or(Time(observed.now), |old| old.last_transition_time),
    });
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        serde_json::from_value(
            json!({"metadata": {"name": "b", "generation": 3}, "spec": spec, "status": status}),
        )
        .unwrap()
    }

    fn pods(ready: usize, sick: usize) -> Vec<Arc<Pod>> {
        (0..ready + sick)
            .map(|n| {
                let status = if n < ready { "True" } else { "False" };
                let json = json!({"metadata": {"name": format!("p{n}"), "uid": format!("p{n}")},
                    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]}});
                Arc::new(serde_json::from_value(json).unwrap())
            })
            .collect()
    }

    fn pass(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], scale: &dyn Fn(&Pod) -> Scale) -> Plan {
        plan(&Observed { budget, pods, scale, now: NOW.parse().unwrap() })
    }

    #[test]
    fn how_many_may_go() {
        let none = json!({});
        // (spec, ready, sick, wanted by the controller; allowed, healthy, desired, expected)
        let table = [
            (json!({"minAvailable": 2}), 3, 0, 3, (1, 3, 2, 3)),
            (json!({"minAvailable": 2}), 2, 1, 3, (0, 2, 2, 3)),
            (json!({"minAvailable": 2}), 1, 2, 3, (0, 1, 2, 3)),
            (json!({"minAvailable": "28%"}), 10, 0, 10, (7, 10, 3, 10)),
            (json!({"maxUnavailable": 1}), 3, 0, 3, (1, 3, 2, 3)),
            (json!({"maxUnavailable": 1}), 3, 0, 5, (0, 3, 4, 5)),
            (json!({"maxUnavailable": "30%"}), 4, 0, 4, (2, 4, 2, 4)),
            (json!({"maxUnavailable": 9}), 2, 0, 2, (2, 2, 0, 2)),
            (json!({"minAvailable": 0}), 0, 0, 0, (0, 0, 0, 0)),
        ];
        for (spec, ready, sick, wanted, expected) in table {
            let scale = move |_: &Pod| Scale::Of("set".to_owned(), wanted);
            let status = pass(&budget(spec.clone(), none.clone()), &pods(ready, sick), &scale).status;
            let numbers = (
                status.disruptions_allowed,
                status.current_healthy,
                status.desired_healthy,
                status.expected_pods,
            );
            assert_eq!(numbers, expected, "{spec} {ready} {sick}");
            let condition = &status.conditions.unwrap()[0];
            assert_eq!(condition.reason == "SufficientPods", expected.0 > 0);
            assert_eq!(status.observed_generation, Some(3));
        }
    }

    #[test]
    fn controllers_are_counted_once_and_unknown_ones_forbid_everything() {
        let spec = json!({"maxUnavailable": 1});
        let two = |pod: &Pod| match object::name(&pod.metadata) {
            "p0" => Scale::Of("a".to_owned(), 4),
            "p1" => Scale::Of("b".to_owned(), 2),
            _ => Scale::Unmanaged,
        };
        assert_eq!(pass(&budget(spec.clone(), json!({})), &pods(4, 0), &two).status.expected_pods, 6);
        let unknown = |_: &Pod| Scale::Unknown("no scale".to_owned());
        let failed = pass(&budget(spec, json!({})), &pods(4, 0), &unknown);
        assert_eq!((failed.status.disruptions_allowed, failed.failure.as_deref()), (0, Some("no scale")));
        assert_eq!(failed.status.conditions.unwrap()[0].reason, "SyncFailed");
    }

    #[test]
    fn an_evicted_pod_counts_no_more() {
        let status = |time: &str| json!({"disruptedPods": {"p0": time, "gone": time}});
        let scale = |_: &Pod| Scale::Of("set".to_owned(), 3);
        let spec = json!({"minAvailable": 2});
        let fresh = pass(&budget(spec.clone(), status("2026-01-01T00:59:00Z")), &pods(3, 0), &scale);
        assert_eq!((fresh.status.current_healthy, fresh.status.disruptions_allowed), (2, 0));
        assert_eq!(fresh.status.disrupted_pods.unwrap().len(), 1);
        assert_eq!(fresh.look_again, Some(Duration::from_secs(60)));
        let late = pass(&budget(spec, status("2026-01-01T00:58:00Z")), &pods(3, 0), &scale);
        assert_eq!((late.status.disruptions_allowed, late.survivors.len()), (1, 1));
        assert_eq!(late.status.disrupted_pods, None);
    }
}
