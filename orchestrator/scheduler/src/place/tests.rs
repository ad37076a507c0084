//! Placing checked against an obvious oracle: the same nodes will do, and none is ever overcommitted.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::shape::Shape;

/// A node of the oracle.
#[derive(Clone, Debug)]
struct Plain {
    cpu: i64,
    memory: i64,
    pods: i64,
    gpus: i64,
    zone: u8,
    tainted: bool,
    cordoned: bool,
    handler: bool,
    port_taken: bool,
}

/// A pod of the oracle.
#[derive(Clone, Debug)]
struct Ask {
    cpu: i64,
    memory: i64,
    gpus: i64,
    zone: Option<u8>,
    tolerant: bool,
    handler: bool,
    port: bool,
}

fn node() -> impl Strategy<Value = Plain> {
    (0..8i64, 0..8i64, 0..5i64, 0..3i64, 0..3u8, any::<[bool; 4]>()).prop_map(
        |(cpu, memory, pods, gpus, zone, [tainted, cordoned, handler, port_taken])| Plain {
            cpu,
            memory,
            pods,
            gpus,
            zone,
            tainted,
            cordoned: cordoned && tainted,
            handler,
            port_taken,
        },
    )
}

fn ask() -> impl Strategy<Value = Ask> {
    (0..4i64, 0..4i64, 0..2i64, proptest::option::of(0..3u8), any::<[bool; 3]>()).prop_map(
        |(cpu, memory, gpus, zone, [tolerant, handler, port])| Ask {
            cpu,
            memory,
            gpus,
            zone,
            tolerant,
            handler,
            port,
        },
    )
}

impl Plain {
    /// Would a pod do here, in as many words as it takes?
    fn takes(&self, ask: &Ask) -> bool {
        let resources =
            ask.cpu <= self.cpu && ask.memory <= self.memory && ask.gpus <= self.gpus && self.pods > 0;
        let zone = ask.zone.is_none_or(|zone| zone == self.zone);
        let borne = ask.tolerant || (!self.tainted && !self.cordoned);
        let handler = !ask.handler || self.handler;
        let port = !ask.port || !self.port_taken;
        resources && zone && borne && handler && port
    }

    fn take(&mut self, ask: &Ask) {
        self.cpu -= ask.cpu;
        self.memory -= ask.memory;
        self.gpus -= ask.gpus;
        self.pods -= 1;
        self.port_taken |= ask.port;
    }

    fn add_to(&self, snapshot: &mut Snapshot, name: &str) {
        let taints = if self.tainted { json!([{"key": "k", "effect": "NoSchedule"}]) } else { json!([]) };
        let handlers = if self.handler { json!([{"name": "h"}]) } else { json!([{"name": "other"}]) };
        let pods = self.pods + i64::from(self.port_taken);
        snapshot.set_node(
            serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {"zone": self.zone.to_string()}},
                "spec": {"unschedulable": self.cordoned, "taints": taints},
                "status": {"runtimeHandlers": handlers, "allocatable": {"cpu": self.cpu.to_string(),
                    "memory": self.memory.to_string(), "pods": pods.to_string(), "gpu": self.gpus.to_string()}}
            }))
            .unwrap(),
        );
        if self.port_taken {
            let holder = json!({"containers": [{"ports": [{"hostPort": 80}]}]});
            snapshot.add_pod(name, &Shape::new(&serde_json::from_value(holder).unwrap(), None));
        }
    }
}

fn shape(ask: &Ask) -> Shape {
    let ports = if ask.port { json!([{"hostPort": 80}]) } else { json!([]) };
    let mut spec = json!({"containers": [{"ports": ports, "resources": {"requests": {
        "cpu": ask.cpu.to_string(), "memory": ask.memory.to_string(), "gpu": ask.gpus.to_string()}}}]});
    if let Some(zone) = ask.zone {
        spec["nodeSelector"] = json!({"zone": zone.to_string()});
    }
    if ask.tolerant {
        spec["tolerations"] = json!([{"operator": "Exists"}]);
    }
    Shape::new(&serde_json::from_value(spec).unwrap(), Some("owner"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_same_nodes_will_do_and_none_is_overcommitted(
        mut nodes in prop::collection::vec(node(), 0..12),
        asks in prop::collection::vec((ask(), 1..8usize), 1..10),
        seed in any::<u64>(),
    ) {
        let mut snapshot = Snapshot::default();
        for (at, node) in nodes.iter().enumerate() {
            node.add_to(&mut snapshot, &format!("n{at}"));
        }
        for (ask, count) in asks {
            let shape = shape(&ask);
            let demand = Demand { shape: &shape, handler: ask.handler.then_some("h"), volumes: &[] };
            for (at, node) in nodes.iter().enumerate() {
                prop_assert_eq!(filter::fits(&demand, &snapshot, at), node.takes(&ask), "{:?} on {:?}", ask, node);
                prop_assert_eq!(filter::reasons(&demand, &snapshot, at).is_empty(), node.takes(&ask));
            }
            let places = place(&demand, &snapshot, count, seed);
            for id in &places {
                prop_assert!(nodes[*id].takes(&ask), "{:?} is overcommitted by {:?}", nodes[*id], ask);
                nodes[*id].take(&ask);
                snapshot.add_pod(&format!("n{id}"), &shape);
            }
            if places.len() < count {
                prop_assert!(nodes.iter().all(|node| !node.takes(&ask)), "there was room for {:?}", ask);
            }
        }
    }
}

#[test]
fn pods_of_one_controller_are_spread() {
    let mut snapshot = Snapshot::default();
    for at in 0..4 {
        let node = json!({"metadata": {"name": format!("n{at}")},
                          "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "100"}}});
        snapshot.set_node(serde_json::from_value(node).unwrap());
    }
    let shape =
        shape(&Ask { cpu: 0, memory: 0, gpus: 0, zone: None, tolerant: false, handler: false, port: false });
    let mut places = place(&Demand { shape: &shape, handler: None, volumes: &[] }, &snapshot, 8, 1);
    places.sort_unstable();
    assert_eq!(places, [0, 0, 1, 1, 2, 2, 3, 3]);
}

#[test]
fn among_very_many_nodes_a_sample_is_compared() {
    assert_eq!(
        (enough(10), enough(200), enough(1000), enough(5000), enough(100_000)),
        (10, 200, 420, 500, 5000)
    );
    let mut snapshot = Snapshot::default();
    for at in 0..3000 {
        // Only the last has room.
        let cpu = if at == 2999 { "4" } else { "1" };
        let node = json!({"metadata": {"name": format!("n{at}")},
                          "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "100"}}});
        snapshot.set_node(serde_json::from_value(node).unwrap());
    }
    let shape =
        shape(&Ask { cpu: 3, memory: 0, gpus: 0, zone: None, tolerant: false, handler: false, port: false });
    for seed in 0..20 {
        assert_eq!(place(&Demand { shape: &shape, handler: None, volumes: &[] }, &snapshot, 1, seed), [2999]);
    }
}
