//! Each check as a table.

use serde_json::{Value, json};

use super::*;
use crate::pod::Pod;

fn node(value: Value) -> NodeRow {
    let mut row = NodeRow::default();
    let mut object = json!({ "metadata": { "name": "n" }, "status": { "allocatable": { "cpu": "2", "memory": "1Gi", "pods": "2" } } });
    merge(&mut object, value);
    row.describe(&serde_json::from_value(object).unwrap());
    row
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from,
    }
}

fn request(spec: Value) -> Request {
    let pod: Pod =
        serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "d" }, "spec": spec }))
            .unwrap();
    Request::of(&pod, None)
}

fn why(spec: Value, on: Value) -> Vec<String> {
    feasible(&request(spec), &node(on)).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_pod_runs_on_an_empty_node() {
    assert_eq!(why(json!({}), json!({})), Vec::<String>::new());
}

#[test]
fn a_cordoned_node_takes_only_who_bears_it() {
    let cordoned = || json!({ "spec": { "unschedulable": true } });
    assert_eq!(why(json!({}), cordoned()), ["node(s) were unschedulable"]);
    let bears =
        json!({ "tolerations": [{ "key": "node.kubernetes.io/unschedulable", "operator": "Exists" }] });
    assert_eq!(why(bears, cordoned()), Vec::<String>::new());
}

#[test]
fn taints_need_a_toleration() {
    let tainted =
        |effect: &str| json!({ "spec": { "taints": [{ "key": "gpu", "value": "yes", "effect": effect }] } });
    let refused = ["node(s) had untolerated taint {gpu: yes}"];
    assert_eq!(why(json!({}), tainted("NoSchedule")), refused);
    assert_eq!(why(json!({}), tainted("NoExecute")), refused);
    assert_eq!(why(json!({}), tainted("PreferNoSchedule")), Vec::<String>::new());
    let cases = [
        (json!({ "key": "gpu", "operator": "Equal", "value": "yes" }), true),
        (json!({ "key": "gpu", "value": "yes", "effect": "NoSchedule" }), true),
        (json!({ "operator": "Exists" }), true),
        (json!({ "key": "gpu", "value": "no" }), false),
        (json!({ "key": "gpu", "operator": "Exists", "effect": "NoExecute" }), false),
        (json!({ "operator": "Equal", "value": "yes" }), false),
    ];
    for (toleration, borne) in cases {
        let spec = json!({ "tolerations": [toleration] });
        assert_eq!(why(spec.clone(), tainted("NoSchedule")).is_empty(), borne, "{spec}");
    }
}

#[test]
fn labels_must_match() {
    let labelled = || json!({ "metadata": { "labels": { "disk": "ssd", "size": "4" } } });
    let expression = |operator: &str, key: &str, values: Value| {
        json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms":
            [{ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] }] } } } })
    };
    let cases = [
        (json!({ "nodeSelector": { "disk": "ssd" } }), true),
        (json!({ "nodeSelector": { "disk": "hdd" } }), false),
        (expression("In", "disk", json!(["hdd", "ssd"])), true),
        (expression("NotIn", "disk", json!(["ssd"])), false),
        (expression("NotIn", "missing", json!(["x"])), true),
        (expression("Exists", "disk", json!(null)), true),
        (expression("DoesNotExist", "disk", json!(null)), false),
        (expression("Gt", "size", json!(["3"])), true),
        (expression("Lt", "size", json!(["4"])), false),
        (expression("Gt", "disk", json!(["3"])), false),
    ];
    for (spec, fits) in cases {
        assert_eq!(why(spec.clone(), labelled()).is_empty(), fits, "{spec}");
    }
}

#[test]
fn runtimes_must_be_there_and_those_that_are_get_named() {
    let handlers = json!({ "status": { "runtimeHandlers": [{ "name": "oci" }, { "name": "wasm" }] } });
    let row = node(handlers);
    let on = |runtime: Runtime| feasible(&Request { runtime, ..request(json!({})) }, &row);
    assert!(on(Runtime::Handler("wasm".to_owned())).is_ok());
    let kata = on(Runtime::Handler("kata".to_owned())).unwrap_err();
    assert_eq!(kata[0].to_string(), "node(s) have no runtime handler \"kata\" (they have: oci, wasm)");
    let unknown = on(Runtime::UnknownClass("x".to_owned())).unwrap_err();
    assert!(unknown[0].to_string().contains("RuntimeClass \"x\" does not exist (handlers there: oci, wasm)"));
}

#[test]
fn ports_of_the_node_are_held_once() {
    let with = |port: Value| request(json!({ "containers": [{ "ports": [port] }] }));
    let mut row = node(json!({}));
    row.add(&with(json!({ "hostPort": 80, "hostIP": "10.0.0.1" })));
    let free = |port: Value| feasible(&with(port), &row).is_ok();
    assert!(!free(json!({ "hostPort": 80 })));
    assert!(free(json!({ "hostPort": 80, "hostIP": "10.0.0.2" })));
    assert!(free(json!({ "hostPort": 80, "protocol": "UDP" })));
    assert!(free(json!({ "containerPort": 80 })));
}

#[test]
fn every_lacking_resource_is_named() {
    let much = json!({ "containers": [{ "resources": { "requests": { "cpu": "3", "memory": "2Gi" } } }] });
    assert_eq!(why(much, json!({})), ["Insufficient cpu", "Insufficient memory"]);
    let mut full = node(json!({}));
    full.add(&request(json!({})));
    full.add(&request(json!({})));
    assert_eq!(feasible(&request(json!({})), &full), Err(vec![Refusal::Pods]));
}
