//! Tables for the plan of a DaemonSet, and a rollout in a model.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{Observed, Plan, plan};
use super::template::tolerant;
use crate::history::REVISION_LABEL;
use crate::pod::Pod;
use catamaran_client::object;

const NOW: &str = "2026-01-01T01:00:00Z";

fn set(strategy: Value) -> DaemonSet {
    serde_json::from_value(json!({
        "metadata": {"name": "log", "uid": "u", "generation": 2},
        "spec": {"selector": {}, "updateStrategy": strategy,
                 "template": {"spec": {"containers": [], "nodeSelector": {"pool": "a"}}}}
    }))
    .unwrap()
}

fn node(name: &str, pool: &str) -> Arc<Node> {
    Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "labels": {"pool": pool}}})).unwrap())
}

fn nodes(count: usize) -> Vec<Arc<Node>> {
    (0..count).map(|n| node(&format!("n{n}"), "a")).collect()
}

fn pod(name: &str, node: &str, hash: &str, phase: &str) -> Arc<Pod> {
    let ready = if phase == "Running" { "True" } else { "False" };
    let created = "2026-01-01T00:00:00Z";
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "namespace": "ns", "labels": {REVISION_LABEL: hash},
                         "creationTimestamp": created},
            "spec": {"nodeName": node},
            "status": {"phase": phase, "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": created}]}
        }))
        .unwrap(),
    )
}

fn pass(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>], wait: Option<u64>) -> Plan {
    plan(&Observed {
        set,
        spec: &tolerant(set),
        hash: "new",
        nodes,
        pods,
        back_off: &move |_| wait.map(Duration::from_secs),
        now: NOW.parse().unwrap(),
    })
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().map(|pod| object::name(&pod.metadata)).collect()
}

#[test]
fn one_pod_on_each_node_that_fits() {
    let nodes = [node("n0", "a"), node("n1", "a"), node("n2", "b"), node("n3", "a")];
    let pods = [
        pod("a", "n1", "new", "Running"),
        pod("b", "n2", "new", "Running"),
        pod("c", "n3", "new", "Running"),
        pod("d", "n3", "new", "Running"),
    ];
    let plan = pass(&set(json!({"type": "OnDelete"})), &nodes, &pods, None);
    assert_eq!((plan.create.as_slice(), names(&plan.delete)), (["n0".to_owned()].as_slice(), vec!["b", "d"]));
    let status = plan.status;
    let numbers =
        (status.desired_number_scheduled, status.current_number_scheduled, status.number_misscheduled);
    assert_eq!(numbers, (3, 2, 1));
    assert_eq!(
        (status.number_ready, status.number_available, status.number_unavailable),
        (2, Some(2), Some(1))
    );
    assert_eq!((status.updated_number_scheduled, status.observed_generation), (Some(2), Some(2)));
}

#[test]
fn what_has_ended_makes_room() {
    let nodes = nodes(1);
    let on_delete = set(json!({"type": "OnDelete"}));
    let failed = [pod("a", "n0", "new", "Failed")];
    let plan = pass(&on_delete, &nodes, &failed, None);
    assert_eq!((names(&plan.delete), plan.notes[0].reason), (vec!["a"], "FailedDaemonPod"));
    assert!(plan.create.is_empty(), "the next one is made when this one is gone");
    let waits = pass(&on_delete, &nodes, &failed, Some(7));
    assert_eq!((waits.delete.len(), waits.look_again), (0, Some(Duration::from_secs(7))));
    let done = pass(&on_delete, &nodes, &[pod("a", "n0", "new", "Succeeded")], None);
    assert_eq!((names(&done.delete), done.notes[0].reason), (vec!["a"], "SucceededDaemonPod"));
}

#[test]
fn a_pod_for_a_node_that_is_gone() {
    let mut lost = (*pod("a", "", "new", "Pending")).clone();
    lost.spec.affinity = serde_json::from_value(json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gone"]}]}]}}}))
    .unwrap();
    let bound = pod("b", "gone", "new", "Running");
    let plan = pass(&set(json!({"type": "OnDelete"})), &nodes(1), &[Arc::new(lost), bound], None);
    assert_eq!(names(&plan.delete), ["a"], "one that is bound is the pod garbage collector's");
}

#[test]
fn rolling_updates_keep_their_bounds() {
    let rolling = |rolling: Value| set(json!({"type": "RollingUpdate", "rollingUpdate": rolling}));
    let old = |count: usize| -> Vec<Arc<Pod>> {
        (0..count).map(|n| pod(&format!("old{n}"), &format!("n{n}"), "old", "Running")).collect()
    };
    let with = |mut pods: Vec<Arc<Pod>>, more: Arc<Pod>| {
        pods.push(more);
        pods
    };
    // (strategy, pods, created, deleted)
    let table = [
        (json!({"maxUnavailable": 1}), old(4), 0, 1),
        (json!({"maxUnavailable": "50%"}), old(4), 0, 2),
        (json!({"maxUnavailable": "10%"}), old(4), 0, 1),
        (json!({"maxUnavailable": 1}), with(old(3), pod("new", "n3", "new", "Pending")), 0, 0),
        (json!({"maxUnavailable": 1}), with(old(3), pod("new", "n3", "new", "Running")), 0, 1),
        (json!({"maxUnavailable": 1}), with(old(3), pod("sick", "n3", "old", "Pending")), 0, 1),
        (json!({"maxUnavailable": 0, "maxSurge": 1}), old(4), 1, 0),
        (json!({"maxUnavailable": 0, "maxSurge": "50%"}), old(4), 2, 0),
        (json!({"maxUnavailable": 0, "maxSurge": 1}), with(old(4), pod("new", "n3", "new", "Pending")), 0, 0),
        (json!({"maxUnavailable": 0, "maxSurge": 1}), with(old(4), pod("new", "n3", "new", "Running")), 1, 1),
    ];
    for (strategy, pods, created, deleted) in table {
        let plan = pass(&rolling(strategy.clone()), &nodes(4), &pods, None);
        assert_eq!(
            (plan.create.len(), plan.delete.len()),
            (created, deleted),
            "{strategy} {:?}",
            names(&pods)
        );
    }
    let untouched = pass(&set(json!({"type": "OnDelete"})), &nodes(4), &old(4), None);
    assert!(untouched.create.is_empty() && untouched.delete.is_empty());
}

proptest! {
    /// Whatever becomes ready when, a rollout ends, and available pods are never fewer than promised.
    #[test]
    fn a_rollout_ends(count in 1..7usize, number in 1..4i32, surges: bool, order in proptest::collection::vec(0..20usize, 200)) {
        let bounds = if surges { json!({"maxUnavailable": 0, "maxSurge": number}) } else { json!({"maxUnavailable": number}) };
        let set = set(json!({"type": "RollingUpdate", "rollingUpdate": bounds}));
        let nodes = nodes(count);
        let mut pods: Vec<Arc<Pod>> =
            (0..count).map(|n| pod(&format!("old{n}"), &format!("n{n}"), "old", "Running")).collect();
        let least = count - if surges { 0 } else { count.min(usize::try_from(number).unwrap()) };
        for (made, step) in order.into_iter().enumerate() {
            let pending: Vec<usize> = (0..pods.len()).filter(|n| !pods[*n].is_ready()).collect();
            if step % 2 == 0 && !pending.is_empty() {
                let ready = pending[step % pending.len()];
                let (name, node) = (object::name(&pods[ready].metadata).to_owned(), pods[ready].node().unwrap().to_owned());
                pods[ready] = pod(&name, &node, "new", "Running");
            } else {
                let plan = pass(&set, &nodes, &pods, None);
                pods.retain(|pod| !plan.delete.iter().any(|gone| gone.metadata.uid == pod.metadata.uid));
                pods.extend(plan.create.iter().map(|node| pod(&format!("new-{made}-{node}"), node, "new", "Pending")));
            }
            let covered = nodes.iter().filter(|node| {
                pods.iter().any(|pod| pod.is_ready() && pod.node() == Some(object::name(&node.metadata)))
            });
            prop_assert!(covered.count() >= least);
        }
        prop_assert!(pods.iter().all(|pod| object::label(&pod.metadata, REVISION_LABEL) == Some("new")));
        prop_assert_eq!(pods.len(), count);
    }
}
