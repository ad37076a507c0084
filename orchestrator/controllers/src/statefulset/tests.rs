//! Tables for the plan of a StatefulSet, and a model in which it lives.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::claims::ClaimStep;
use super::plan::{Observed, Plan, plan};
use super::template::POD_NAME;
use crate::history::REVISION_LABEL;
use crate::pod::Pod;
use catamaran_client::object;

const NOW: &str = "2026-01-01T01:00:00Z";

fn set(spec: Value) -> StatefulSet {
    let mut all = json!({"selector": {}, "serviceName": "db", "template": {}, "replicas": 3});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "ns", "uid": "u"}, "spec": all}))
        .unwrap()
}

/// A pod in the state `ready`, `pending`, `failed` or `leaving`.
fn pod(ordinal: i32, revision: &str, state: &str) -> Arc<Pod> {
    let name = format!("db-{ordinal}");
    let (phase, ready) = match state {
        "ready" | "leaving" => ("Running", "True"),
        "pending" => ("Pending", "False"),
        _ => ("Failed", "False"),
    };
    let mut pod = json!({
        "metadata": {"name": name, "uid": format!("{name}-{revision}"), "namespace": "ns",
                     "labels": {REVISION_LABEL: revision, POD_NAME: name}},
        "status": {"phase": phase, "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
    });
    if state == "leaving" {
        pod["metadata"]["deletionTimestamp"] = json!(NOW);
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn pass(set: &StatefulSet, pods: &[Arc<Pod>]) -> Plan {
    let now = NOW.parse().unwrap();
    plan(&Observed { set, pods, current: "old", update: "new", claims: &|_| None, now })
}

/// The ordinals that are made and deleted, in this order.
fn ordinals(plan: &Plan) -> (Vec<i32>, Vec<&str>) {
    let made = plan.create.iter().map(|new| new.ordinal).collect();
    (made, plan.delete.iter().map(|pod| object::name(&pod.metadata)).collect())
}

/// A spec, the pods, the ordinals that are made, the pods that are deleted.
type Case = (Value, Vec<Arc<Pod>>, &'static [i32], &'static [&'static str]);

#[test]
fn one_after_the_other_or_all_at_once() {
    let ordered = json!({});
    let parallel = json!({"podManagementPolicy": "Parallel"});
    let ready = |ordinals: std::ops::Range<i32>| ordinals.map(|n| pod(n, "new", "ready")).collect::<Vec<_>>();
    let with = |mut pods: Vec<Arc<Pod>>, more: Arc<Pod>| {
        pods.push(more);
        pods
    };
    let table: [Case; 13] = [
        (ordered.clone(), vec![], &[0], &[]),
        (ordered.clone(), ready(0..1), &[1], &[]),
        (ordered.clone(), vec![pod(0, "new", "pending")], &[], &[]),
        (ordered.clone(), vec![pod(0, "new", "leaving")], &[], &[]),
        (ordered.clone(), ready(1..3), &[0], &[]),
        (ordered.clone(), vec![pod(0, "new", "failed")], &[], &["db-0"]),
        (ordered.clone(), ready(0..6), &[], &["db-5"]),
        (ordered.clone(), with(ready(0..4), pod(4, "new", "leaving")), &[], &[]),
        (ordered.clone(), with(ready(1..4), pod(0, "new", "pending")), &[], &[]),
        (json!({"ordinals": {"start": 5}}), ready(5..6), &[6], &[]),
        (parallel.clone(), vec![], &[0, 1, 2], &[]),
        (parallel.clone(), vec![pod(1, "new", "pending")], &[0, 2], &[]),
        (parallel, ready(0..6), &[], &["db-5", "db-4", "db-3"]),
    ];
    for (spec, pods, made, deleted) in table {
        let plan = pass(&set(spec.clone()), &pods);
        assert_eq!(ordinals(&plan), (made.to_vec(), deleted.to_vec()), "{spec} {}", pods.len());
    }
}

#[test]
fn sick_pods_that_are_too_many() {
    let pods =
        |four: &str, three: &str| vec![pod(0, "new", "ready"), pod(3, "new", three), pod(4, "new", four)];
    let one = set(json!({"replicas": 1}));
    assert_eq!(ordinals(&pass(&one, &pods("pending", "ready"))).1, ["db-4"], "the only sick one may go");
    assert!(ordinals(&pass(&one, &pods("pending", "pending"))).1.is_empty());
    assert_eq!(ordinals(&pass(&one, &pods("ready", "pending"))).1, ["db-4"]);
}

#[test]
fn a_rollout_goes_down_the_ordinals() {
    let with = |states: [(&str, &str); 3]| -> Vec<Arc<Pod>> {
        states.iter().zip(0..).map(|((revision, state), n)| pod(n, revision, state)).collect()
    };
    let (old, new) = (("old", "ready"), ("new", "ready"));
    let partition =
        |n: i32| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": n}}});
    let table: [(Value, _, &[&str]); 7] = [
        (json!({}), [old, old, old], &["db-2"]),
        (json!({}), [old, old, new], &["db-1"]),
        (json!({}), [old, old, ("new", "pending")], &[]),
        (partition(2), [old, old, old], &["db-2"]),
        (partition(2), [old, old, new], &[]),
        (partition(9), [old, old, old], &[]),
        (json!({"updateStrategy": {"type": "OnDelete"}}), [old, old, old], &[]),
    ];
    for (spec, states, deleted) in table {
        let plan = pass(&set(spec.clone()), &with(states));
        assert_eq!(ordinals(&plan).1, deleted, "{spec} {states:?}");
    }
    let revision = |spec: Value, ordinal: usize| {
        let plan = pass(&set(spec), &[]);
        plan.create[ordinal].revision.clone()
    };
    let both = |n: i32| {
        let mut spec = partition(n);
        spec["podManagementPolicy"] = json!("Parallel");
        spec
    };
    assert_eq!((revision(both(1), 0), revision(both(1), 1)), ("old".into(), "new".into()));
}

#[test]
fn the_numbers() {
    let pods = [pod(0, "old", "ready"), pod(1, "new", "ready"), pod(2, "new", "pending")];
    let status = pass(&set(json!({})), &pods).status;
    assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (3, Some(2), Some(2)));
    assert_eq!((status.current_replicas, status.updated_replicas), (Some(1), Some(2)));
    assert_eq!(status.current_revision.as_deref(), Some("old"));
    let all: Vec<Arc<Pod>> = (0..3).map(|n| pod(n, "new", "ready")).collect();
    let done = pass(&set(json!({})), &all).status;
    assert_eq!((done.current_revision.as_deref(), done.current_replicas), (Some("new"), Some(3)));
    let waits = pass(&set(json!({"minReadySeconds": 7200})), &all);
    assert_eq!((waits.status.ready_replicas, waits.status.available_replicas), (Some(3), Some(0)));
    assert_eq!(waits.look_again.map(|left| left.as_secs()), Some(3600));
}

#[test]
fn a_pod_waits_for_its_claims() {
    let set = set(json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}));
    let made = pass(&set, &[]);
    assert!(
        matches!(made.claims.as_slice(), [ClaimStep::Create(claim)] if object::name(&claim.metadata) == "data-db-0")
    );
    let leaving = json!({"metadata": {"name": "data-db-0", "deletionTimestamp": NOW}});
    let find = move |_: &str| Some(Arc::new(serde_json::from_value(leaving.clone()).unwrap()));
    let now = NOW.parse().unwrap();
    let waits = plan(&Observed { set: &set, pods: &[], current: "old", update: "new", claims: &find, now });
    assert!(waits.create.is_empty() && waits.look_again.is_some());
}

proptest! {
    /// Whatever happens to pods on the way, an ordered set is filled from below, a rollout never takes a pod while
    /// another one is not available, and all ends with the new template.
    #[test]
    fn order_is_kept(replicas in 1..5i32, extra in 0..3i32, steps in proptest::collection::vec((0..4usize, 0..8usize), 0..60)) {
        let set = set(json!({"replicas": replicas}));
        let mut pods: Vec<Arc<Pod>> = (0..replicas + extra).map(|n| pod(n, "old", "ready")).collect();
        let calm = (0..200).map(|n| (n % 2, 0));
        for (what, which) in steps.into_iter().chain(calm) {
            let ordinal = |pod: &Pod| super::name::ordinal("db", object::name(&pod.metadata)).unwrap();
            let revision = |pod: &Pod| object::label(&pod.metadata, REVISION_LABEL).unwrap().to_owned();
            let sick: Vec<usize> = (0..pods.len()).filter(|n| !pods[*n].is_ready()).collect();
            match what {
                0 => {
                    let plan = pass(&set, &pods);
                    prop_assert!(plan.create.len() + plan.delete.len() <= 1);
                    if let Some(new) = plan.create.first() {
                        let below = pods.iter().filter(|pod| ordinal(pod) < new.ordinal && pod.is_ready());
                        prop_assert_eq!(i32::try_from(below.count()).unwrap(), new.ordinal);
                    }
                    if let Some(gone) = plan.delete.first().filter(|pod| pod.is_active()) {
                        let others = pods.iter().filter(|pod| ordinal(pod) < replicas && pod.metadata.uid != gone.metadata.uid);
                        prop_assert!(others.into_iter().all(|pod| pod.is_ready()));
                    }
                    pods.retain(|pod| !plan.delete.iter().any(|gone| gone.metadata.uid == pod.metadata.uid));
                    pods.extend(plan.create.iter().map(|new| pod(new.ordinal, &new.revision, "pending")));
                }
                1 if !sick.is_empty() => {
                    let n = sick[which % sick.len()];
                    pods[n] = pod(ordinal(&pods[n]), &revision(&pods[n]), "ready");
                }
                2 if !pods.is_empty() => drop(pods.swap_remove(which % pods.len())),
                3 if !pods.is_empty() => {
                    let n = which % pods.len();
                    pods[n] = pod(ordinal(&pods[n]), &revision(&pods[n]), "failed");
                }
                _ => {}
            }
        }
        prop_assert_eq!(i32::try_from(pods.len()).unwrap(), replicas);
        prop_assert!(pods.iter().all(|pod| object::label(&pod.metadata, REVISION_LABEL) == Some("new")));
    }
}
