//! Which pods are given up first when there are too many, in Kubernetes' order: those that are worth least.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::pod::{DELETION_COST, Phase, Pod};
use catamaran_client::object;

/// Chooses `count` of `pods` to give up. `related` are the active pods of the same Deployment: a node that
/// has many of them can spare one.
pub(crate) fn choose(pods: &[Arc<Pod>], related: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let mut crowd: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| pod.is_active()) {
        *crowd.entry(pod.node().unwrap_or_default()).or_insert(0) += 1;
    }
    let mut ranked: Vec<(Worth, &Arc<Pod>)> = pods
        .iter()
        .map(|pod| {
            (Worth::of(pod, crowd.get(pod.node().unwrap_or_default()).copied().unwrap_or(0), now), pod)
        })
        .collect();
    ranked.sort_by(|one, other| one.0.cmp(&other.0));
    ranked.into_iter().take(count).map(|(_, pod)| Arc::clone(pod)).collect()
}

/// How much a pod is worth; the fields are compared in this order, the smallest goes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Worth {
    bound: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    crowd: Reverse<usize>,
    ready_for: Age,
    restarts: Reverse<i32>,
    alive_for: Age,
    uid: String,
}

/// A time on a logarithmic scale, so that among pods of about the same age it is chance (the uid) that decides
/// and not always the newest that goes. The youngest is the smallest.
#[derive(Debug, PartialEq, Eq)]
struct Age(Option<i64>);

impl Age {
    fn of(since: Option<Timestamp>, now: Timestamp) -> Self {
        let nanoseconds = since.map(|since| now.duration_since(since).as_nanos());
        Self(nanoseconds.map(|age| if age <= 0 { -1 } else { i64::from(age.ilog2()) }))
    }
}

impl PartialOrd for Age {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Age {
    fn cmp(&self, other: &Self) -> Ordering {
        // An unknown time counts as the youngest.
        self.0.unwrap_or(i64::MIN).cmp(&other.0.unwrap_or(i64::MIN))
    }
}

impl Worth {
    fn of(pod: &Pod, crowd: usize, now: Timestamp) -> Self {
        let ready = pod.is_ready();
        let restarts = pod.status.container_statuses.iter().map(|status| status.restart_count).max();
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        Self {
            bound: pod.node().is_some(),
            phase: match pod.status.phase {
                Phase::Pending => 0,
                Phase::Unknown => 1,
                Phase::Running | Phase::Succeeded | Phase::Failed => 2,
            },
            ready,
            cost: object::annotation(&pod.metadata, DELETION_COST)
                .and_then(|cost| cost.parse().ok())
                .unwrap_or(0),
            crowd: Reverse(crowd),
            ready_for: if ready { Age::of(pod.ready_since(), now) } else { Age(None) },
            restarts: Reverse(restarts.unwrap_or(0)),
            alive_for: Age::of(created, now),
            uid: object::uid(&pod.metadata).to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, change: serde_json::Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"uid": uid, "name": uid, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n1"},
            "status": {"phase": "Running", "containerStatuses": [{"restartCount": 0}],
                       "conditions": [{"type": "Ready", "status": "True",
                                       "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
        });
        json_merge(&mut pod, change);
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn json_merge(base: &mut serde_json::Value, over: serde_json::Value) {
        match (base, over) {
            (serde_json::Value::Object(base), serde_json::Value::Object(over)) => {
                for (key, value) in over {
                    json_merge(base.entry(key).or_insert(serde_json::Value::Null), value);
                }
            }
            (base, over) => *base = over,
        }
    }

    #[test]
    fn the_less_worth_goes_first() {
        // Each is worth less than the plain pod, for one reason.
        let table = [
            ("not bound", json!({"spec": {"nodeName": ""}})),
            ("pending", json!({"status": {"phase": "Pending"}})),
            ("unknown", json!({"status": {"phase": "Unknown"}})),
            ("not ready", json!({"status": {"conditions": []}})),
            ("cheap", json!({"metadata": {"annotations": {DELETION_COST: "-1"}}})),
            ("crowded", json!({"spec": {"nodeName": "n2"}})),
            (
                "ready for a shorter time",
                json!({"status": {"conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T23:59:00Z"}]}}),
            ),
            (
                "restarted",
                json!({"status": {"containerStatuses": [{"restartCount": 0}, {"restartCount": 3}]}}),
            ),
            ("younger", json!({"metadata": {"creationTimestamp": "2026-01-01T23:00:00Z"}})),
        ];
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        let others: Vec<Arc<Pod>> =
            (0..2).map(|n| pod(&format!("other-{n}"), json!({"spec": {"nodeName": "n2"}}))).collect();
        for (why, change) in table {
            let (plain, lesser) = (pod("plain", json!({})), pod("zz-lesser", change));
            let pods = [Arc::clone(&plain), Arc::clone(&lesser)];
            let related: Vec<Arc<Pod>> = pods.iter().chain(&others).cloned().collect();
            let chosen = choose(&pods, &related, 1, now);
            assert_eq!(object::uid(&chosen[0].metadata), "zz-lesser", "{why}");
        }
    }

    #[test]
    fn pods_of_about_the_same_age_are_told_apart_by_uid() {
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        let older = pod("a", json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}}));
        let newer = pod("b", json!({"metadata": {"creationTimestamp": "2026-01-01T00:10:00Z"}}));
        let chosen = choose(&[newer, older], &[], 1, now);
        assert_eq!(object::uid(&chosen[0].metadata), "a");
    }
}
