//! How good is a node for a pod? Each score is 0 to 100 and looks at that node alone, so that placing a pod
//! changes the score of one node only; the sum is weighted.

mod balance;
mod locality;
mod preference;
mod spread;

use crate::filter::Demand;
use crate::snapshot::{NodeId, Room, Snapshot};

/// The score of a node; the highest wins. `room` is what the node has left and `placed` how many pods of the
/// shape this pass has put there already.
pub(crate) fn score(demand: &Demand<'_>, snapshot: &Snapshot, node: NodeId, room: &Room, placed: i64) -> i64 {
    let (shape, detail) = (demand.shape, &snapshot.details[node]);
    balance::least_allocated(shape, room)
        + balance::balanced(shape, room)
        + 2 * spread::score(shape, detail, placed)
        + locality::score(shape, snapshot, detail)
        + 2 * preference::affinity(shape, detail)
        + 3 * preference::taints(shape, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;
    use serde_json::json;

    fn demand(spec: serde_json::Value) -> Shape {
        Shape::new(&serde_json::from_value(spec).unwrap(), Some("rs"))
    }

    fn snapshot(change: serde_json::Value) -> Snapshot {
        let mut plain = json!({"metadata": {"name": "plain", "labels": {"disk": "slow"}}, "spec": {},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "100"}}});
        let mut snapshot = Snapshot::default();
        snapshot.set_node(serde_json::from_value(plain.clone()).unwrap());
        plain["metadata"]["name"] = json!("other");
        for (key, value) in change.as_object().unwrap() {
            for (inner, value) in value.as_object().unwrap() {
                plain[key][inner] = value.clone();
            }
        }
        snapshot.set_node(serde_json::from_value(plain).unwrap());
        snapshot
    }

    #[test]
    fn the_better_node_has_the_higher_score() {
        let pod = json!({"containers": [{"image": "web", "resources": {"requests": {"cpu": "1", "memory": "2Gi"}}}]});
        let mut picky = pod.clone();
        picky["affinity"] = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 80, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["fast"]}]}}]}});
        // Each makes the other node better or worse than the plain one.
        let table = [
            (
                "larger",
                &pod,
                json!({"status": {"allocatable": {"cpu": "8", "memory": "16Gi", "pods": "100"}}}),
                true,
            ),
            (
                "lopsided",
                &pod,
                json!({"status": {"allocatable": {"cpu": "1", "memory": "8Gi", "pods": "100"}}}),
                false,
            ),
            (
                "has the image",
                &pod,
                json!({"status": {"images": [{"names": ["web:latest"], "sizeBytes": 900_000_000}]}}),
                true,
            ),
            ("is preferred", &picky, json!({"metadata": {"labels": {"disk": "fast"}}}), true),
            (
                "is tainted",
                &pod,
                json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}}),
                false,
            ),
        ];
        for (why, pod, change, better) in table {
            let (shape, snapshot) = (demand(pod.clone()), snapshot(change));
            let demand = Demand { shape: &shape, handler: None, volumes: &[] };
            let of = |node: usize| score(&demand, &snapshot, node, &snapshot.rooms[node], 0);
            assert_ne!(of(0), of(1), "{why}");
            assert_eq!(of(1) > of(0), better, "{why}: {} against {}", of(1), of(0));
        }
    }

    #[test]
    fn siblings_keep_apart() {
        let shape = demand(json!({"containers": [{"image": "web"}]}));
        let mut snapshot = snapshot(json!({}));
        snapshot.add_pod("plain", &shape);
        let demand = Demand { shape: &shape, handler: None, volumes: &[] };
        let of = |node: usize, placed| score(&demand, &snapshot, node, &snapshot.rooms[node], placed);
        assert!(of(1, 0) > of(0, 0));
        assert!(of(1, 0) > of(1, 1), "also from those placed a moment ago");
    }
}
