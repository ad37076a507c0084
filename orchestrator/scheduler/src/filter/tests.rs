//! Filters as tables: each reason, and the words a user reads.

use serde_json::{Value, json};

use super::*;

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

fn snapshot(changes: &[Value]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (at, change) in changes.iter().enumerate() {
        let mut node = json!({
            "metadata": {"name": format!("n{at}"), "labels": {"zone": "a", "size": "5"}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3", "ephemeral-storage": "10Gi"},
                       "runtimeHandlers": [{"name": "oci"}, {"name": "wasm"}]}
        });
        merge(&mut node, change.clone());
        snapshot.set_node(serde_json::from_value(node).unwrap());
    }
    snapshot
}

fn shape(spec: Value) -> Shape {
    Shape::new(&serde_json::from_value(spec).unwrap(), None)
}

fn requests(resources: Value) -> Value {
    json!({"containers": [{"resources": {"requests": resources}}]})
}

fn refusal(spec: Value, handler: Option<&str>, nodes: &[Value]) -> String {
    let shape = shape(spec);
    let demand = Demand { shape: &shape, handler, volumes: &[] };
    let snapshot = snapshot(nodes);
    let refused = (0..nodes.len()).all(|node| !fits(&demand, &snapshot, node));
    assert!(refused, "some node would do");
    explain(&demand, &snapshot).to_string()
}

#[test]
fn the_words_of_a_refusal() {
    let curable = "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    let hopeless = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    let plain = json!({});
    let affinity = |operator: &str, values: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "size", "operator": operator, "values": values}]}]}}}})
    };
    let table = [
        (requests(json!({"cpu": "3"})), None, plain.clone(), "1 Insufficient cpu.", curable),
        (
            requests(json!({"cpu": "3", "memory": "2Gi"})),
            None,
            plain.clone(),
            "1 Insufficient cpu, 1 Insufficient memory.",
            curable,
        ),
        (
            requests(json!({"example.com/gpu": "1"})),
            None,
            plain.clone(),
            "1 Insufficient example.com/gpu.",
            curable,
        ),
        (json!({}), None, json!({"status": {"allocatable": {"pods": "0"}}}), "1 Too many pods.", curable),
        (
            json!({"nodeSelector": {"zone": "b"}}),
            None,
            plain.clone(),
            "1 node(s) didn't match Pod's node affinity/selector.",
            hopeless,
        ),
        (
            affinity("Gt", json!(["5"])),
            None,
            plain.clone(),
            "1 node(s) didn't match Pod's node affinity/selector.",
            hopeless,
        ),
        (
            json!({}),
            None,
            json!({"spec": {"unschedulable": true}}),
            "1 node(s) were unschedulable.",
            hopeless,
        ),
        (
            json!({"tolerations": [{"key": "other", "operator": "Exists"}]}),
            None,
            json!({"spec": {"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]}}),
            "1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }.",
            hopeless,
        ),
        (
            json!({}),
            Some("kata"),
            plain,
            "1 node(s) didn't have the runtime handler \"kata\" (there are: oci, wasm).",
            hopeless,
        ),
    ];
    for (spec, handler, node, reasons, preemption) in table {
        let expected = format!("0/1 nodes are available: {reasons} {preemption}");
        assert_eq!(refusal(spec, handler, &[node]), expected);
    }
}

#[test]
fn reasons_are_counted_over_nodes() {
    let text = refusal(
        requests(json!({"cpu": "3"})),
        None,
        &[
            json!({}),
            json!({}),
            json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoExecute"}]}}),
        ],
    );
    assert_eq!(
        text,
        "0/3 nodes are available: 1 node(s) had untolerated taint {k: v}, 2 Insufficient cpu. preemption: 0/3 \
         nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for \
         incoming pod."
    );
    assert_eq!(refusal(json!({}), None, &[]), "no nodes available to schedule pods");
}

#[test]
fn a_port_is_taken_once() {
    let wants = shape(json!({"containers": [{"ports": [{"hostPort": 80}]}]}));
    let mut snapshot = snapshot(&[json!({})]);
    let demand = Demand { shape: &wants, handler: None, volumes: &[] };
    assert!(fits(&demand, &snapshot, 0));
    snapshot.add_pod("n0", &wants);
    assert_eq!(reasons(&demand, &snapshot, 0), [Reason::Ports]);
    snapshot.remove_pod("n0", &wants);
    assert!(fits(&demand, &snapshot, 0));
}

#[test]
fn what_bears_everything_goes_anywhere() {
    let node = json!({"spec": {"unschedulable": true, "taints": [{"key": "k", "effect": "NoExecute"}]}});
    let tolerant = shape(json!({"tolerations": [{"operator": "Exists"}]}));
    let snapshot = snapshot(&[node]);
    assert!(fits(&Demand { shape: &tolerant, handler: Some("wasm"), volumes: &[] }, &snapshot, 0));
}

#[test]
fn requirements_of_affinity() {
    let detail = &snapshot(&[json!({})]).details[0];
    let table = [
        ("zone", "In", json!(["a", "b"]), true),
        ("zone", "NotIn", json!(["a"]), false),
        ("none", "NotIn", json!(["a"]), true),
        ("none", "In", json!(["a"]), false),
        ("zone", "Exists", json!([]), true),
        ("none", "DoesNotExist", json!([]), true),
        ("size", "Gt", json!(["4"]), true),
        ("size", "Lt", json!(["5"]), false),
        ("zone", "Gt", json!(["4"]), false),
    ];
    for (key, operator, values, expected) in table {
        let term = json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let term: crate::wire::Term = serde_json::from_value(term).unwrap();
        assert_eq!(term_matches(&term, detail), expected, "{key} {operator} {values}");
    }
    let by_name = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n0"]}]});
    assert!(term_matches(&serde_json::from_value(by_name).unwrap(), detail));
    assert!(!term_matches(&crate::wire::Term::default(), detail), "no requirement, no match");
}
