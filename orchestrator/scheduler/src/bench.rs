//! Scheduling without a server, to be measured: see `examples/throughput.rs`.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::state::{Decision, State, Update};

/// How long it took to schedule pods.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Pods that got a node.
    pub placed: usize,
    /// Taking in the pods' events, JSON already decoded.
    pub taking_in: Duration,
    /// Deciding.
    pub deciding: Duration,
}

/// Schedules `pods` pods of `shapes` different shapes on `nodes` equal, large nodes.
///
/// # Panics
/// Never: the objects are well formed.
#[must_use]
pub fn measure(nodes: usize, pods: usize, shapes: usize) -> Measured {
    let now = tokio::time::Instant::now();
    let mut state = State::default();
    for number in 0..nodes {
        let node = json!({
            "metadata": {"name": format!("node-{number}"), "labels": {"zone": format!("z{}", number % 3)}},
            "status": {"allocatable": {"cpu": "64", "memory": "256Gi", "pods": "2000"}}
        });
        let node = serde_json::from_value(node).expect("this is a node");
        state.apply(Update::Node(Box::new(node)), now);
    }
    let updates: Vec<Update> = (0..pods).map(|number| pod(number, shapes)).collect();
    let start = Instant::now();
    for update in updates {
        state.apply(update, now);
    }
    let taking_in = start.elapsed();
    let start = Instant::now();
    let mut placed = 0;
    for seed in 0.. {
        let decisions = state.decide(seed, now);
        if decisions.is_empty() {
            break;
        }
        for decision in decisions {
            if let Decision::Bind { uid, .. } = decision {
                state.bound(&uid);
                placed += 1;
            }
        }
    }
    Measured { placed, taking_in, deciding: start.elapsed() }
}

fn pod(number: usize, shapes: usize) -> Update {
    let shape = number % shapes;
    let pod = json!({
        "metadata": {"name": format!("pod-{number}"), "namespace": "default", "uid": format!("uid-{number}"),
                     "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("rs-{shape}"),
                                          "uid": format!("rs-{shape}"), "controller": true}]},
        "spec": {"schedulerName": "default-scheduler", "containers": [{"image": "web:1", "resources": {
                    "requests": {"cpu": "10m", "memory": format!("{}Mi", 16 + shape % 7)}}}],
                 "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}]}
    });
    Update::Pod(Box::new(serde_json::from_value(pod).expect("this is a pod")))
}
