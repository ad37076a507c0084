//! Placement against an oracle written the slow and obvious way, and the texts.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::node::Node;
use crate::pod::Pod;

fn node(name: &str, cpu: i64, memory: i64, pods: i64, zone: u8) -> Node {
    serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "zone": zone.to_string() } },
        "status": { "allocatable": { "cpu": format!("{cpu}m"), "memory": memory.to_string(), "pods": pods.to_string() } },
    }))
    .unwrap()
}

fn request(number: usize, cpu: i64, memory: i64, zone: Option<u8>) -> Request {
    let selector = zone.map(|zone| json!({ "zone": zone.to_string() })).unwrap_or(json!({}));
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": format!("p{number}"), "namespace": "d" },
        "spec": { "nodeSelector": selector, "containers": [{ "resources": { "requests": { "cpu": format!("{cpu}m"), "memory": memory.to_string() } } }] },
    }))
    .unwrap();
    Request::of(&pod, None)
}

/// What a node has left, counted from nothing each time.
struct Oracle {
    nodes: Vec<(String, i64, i64, i64, u8)>,
    placed: Vec<(String, i64, i64)>,
}

impl Oracle {
    fn feasible(&self, cpu: i64, memory: i64, zone: Option<u8>) -> Vec<String> {
        let room = |(name, c, m, p, z): &&(String, i64, i64, i64, u8)| {
            let mine: Vec<_> = self.placed.iter().filter(|(node, ..)| node == name).collect();
            let used = mine.iter().fold((0, 0), |(a, b), (_, c, m)| (a + c, b + m));
            zone.is_none_or(|zone| zone == *z)
                && (mine.len() as i64) < *p
                && (cpu == 0 || used.0 + cpu <= *c)
                && (memory == 0 || used.1 + memory <= *m)
        };
        self.nodes.iter().filter(room).map(|(name, ..)| name.clone()).collect()
    }
}

proptest! {
    #[test]
    fn no_node_is_ever_overcommitted_and_a_pod_waits_only_when_none_fits(
        nodes in prop::collection::vec((0..3000_i64, 0..3000_i64, 0..6_i64, 0..3_u8), 1..8),
        pods in prop::collection::vec((0..1500_i64, 0..1500_i64, prop::option::of(0..3_u8), any::<u64>()), 1..40),
        gone in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let mut snapshot = Snapshot::default();
        let mut oracle = Oracle { nodes: Vec::new(), placed: Vec::new() };
        for (n, (cpu, memory, pods, zone)) in nodes.into_iter().enumerate() {
            let name = format!("n{n}");
            snapshot.set_node(&node(&name, cpu, memory, pods, zone));
            oracle.nodes.push((name, cpu, memory, pods, zone));
        }
        let mut keys = Vec::new();
        for (n, (cpu, memory, zone, dice)) in pods.into_iter().enumerate() {
            let wanted = request(n, cpu, memory, zone);
            let feasible = oracle.feasible(cpu, memory, zone);
            match place(&snapshot, &wanted, dice) {
                Ok(node) => {
                    prop_assert!(feasible.contains(&node), "{node} is not among {feasible:?}");
                    keys.push((wanted.key.clone(), node.clone(), cpu, memory));
                    snapshot.set_pod(wanted, &node);
                    oracle.placed.push((node, cpu, memory));
                }
                Err(_) => prop_assert!(feasible.is_empty(), "{feasible:?} would take it"),
            }
        }
        for index in gone {
            if keys.is_empty() { break; }
            let (key, node, cpu, memory) = keys.remove(index.index(keys.len()));
            prop_assert!(snapshot.remove_pod(&key));
            let at = oracle.placed.iter().position(|p| *p == (node.clone(), cpu, memory)).unwrap();
            oracle.placed.remove(at);
            let again = oracle.feasible(cpu, memory, None);
            prop_assert_eq!(place(&snapshot, &request(999, cpu, memory, None), 0).is_ok(), !again.is_empty());
        }
    }
}

#[test]
fn the_text_counts_nodes_by_reason() {
    let mut snapshot = Snapshot::default();
    assert_eq!(
        place(&snapshot, &request(0, 1, 1, None), 0).unwrap_err().to_string(),
        "no nodes available to schedule pods"
    );
    snapshot.set_node(&node("a", 100, 100, 10, 0));
    snapshot.set_node(&node("b", 100, 100, 10, 1));
    snapshot.set_node(&node("c", 100, 1000, 10, 1));
    let text = place(&snapshot, &request(0, 200, 500, Some(1)), 0).unwrap_err().to_string();
    assert_eq!(
        text,
        "0/3 nodes are available: 1 Insufficient memory, 1 node(s) didn't match Pod's node affinity/selector, \
         2 Insufficient cpu. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    );
}

#[test]
fn a_deleted_node_takes_nothing_and_remembers_its_pods() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(&node("a", 100, 100, 1, 0));
    snapshot.set_pod(request(1, 50, 0, None), "a");
    snapshot.remove_node("a");
    assert!(place(&snapshot, &request(2, 1, 0, None), 0).is_err());
    snapshot.set_node(&node("a", 100, 100, 2, 0));
    assert!(place(&snapshot, &request(2, 51, 0, None), 0).is_err(), "the bound pod still counts");
    assert!(place(&snapshot, &request(2, 50, 0, None), 0).is_ok());
}

#[test]
fn a_pod_seen_twice_counts_once() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(&node("a", 100, 100, 9, 0));
    snapshot.set_pod(request(1, 60, 0, None), "a");
    snapshot.set_pod(request(1, 60, 0, None), "a");
    assert!(place(&snapshot, &request(2, 40, 0, None), 0).is_ok());
    assert_eq!(snapshot.node_of(&("d".to_owned(), "p1".to_owned())), Some("a"));
}
