//! Tables: every kind fills its columns; the long rules (pod, job, node, service, event) case by case.

use super::*;
use crate::kind::{self, resources};
use crate::time;
use serde_json::json;

fn now() -> Timestamp {
    time::parse("2024-05-01T10:00:00Z").unwrap()
}

fn cells(group: &str, plural: &str, object: Value) -> Vec<Value> {
    let version = resources().iter().find(|r| r.group == group && r.plural == plural).unwrap().version;
    row(kind::find(group, version, plural).unwrap(), &object, now())
}

fn cell_of(group: &str, plural: &str, column: &str, object: Value) -> Value {
    let resource = resources().iter().find(|r| r.group == group && r.plural == plural).unwrap();
    let index = columns(resource).iter().position(|c| c.name == column).unwrap();
    row(resource, &object, now())[index].clone()
}

#[test]
fn every_kind_has_as_many_cells_as_columns() {
    for resource in resources() {
        let columns = columns(resource);
        let cells = row(resource, &json!({"metadata": {"name": "x"}}), now());
        assert_eq!(cells.len(), columns.len(), "{}", resource.plural);
        let name = columns.iter().position(|c| c.format == "name").unwrap();
        assert_eq!(cells[name], json!("x"), "{}", resource.plural);
        assert_eq!(columns.iter().filter(|c| c.format == "name").count(), 1);
    }
}

#[test]
fn definitions_carry_all_fields() {
    let pods = kind::find("", "v1", "pods").unwrap();
    let definitions = column_definitions(pods);
    assert_eq!(definitions[0]["format"], "name");
    assert_eq!(definitions[5]["name"], "IP");
    assert_eq!(definitions[5]["priority"], 1);
    assert_eq!(definitions[3]["type"], "string");
}

fn pod_row(pod: Value) -> (String, String, String) {
    let cells = cells("", "pods", pod);
    let text = |i: usize| cells[i].as_str().unwrap().to_owned();
    (text(1), text(2), text(3))
}

fn pod(init: &[Value], init_statuses: &[Value], statuses: &[Value], more: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": "p", "creationTimestamp": "2024-05-01T09:00:00Z"},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": init},
        "status": {"phase": "Running", "initContainerStatuses": init_statuses, "containerStatuses": statuses},
    });
    json_patch::merge(&mut pod, &more);
    pod
}

fn running(name: &str) -> Value {
    json!({"name": name, "ready": true, "restartCount": 0, "state": {"running": {}}})
}

fn ended(name: &str) -> Value {
    let state = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    json!({"name": name, "ready": false, "restartCount": 0, "state": state})
}

fn waiting(name: &str, reason: &str) -> Value {
    json!({
        "name": name, "ready": false, "restartCount": 3, "state": {"waiting": {"reason": reason}},
        "lastState": {"terminated": {"finishedAt": "2024-05-01T09:55:00Z"}},
    })
}

fn failed(exit: i64, signal: i64) -> Value {
    json!({"name": "a", "restartCount": 0, "state": {"terminated": {"exitCode": exit, "signal": signal}}})
}

#[track_caller]
fn shows(pod: Value, ready: &str, status: &str, restarts: &str) {
    assert_eq!(pod_row(pod.clone()), (ready.into(), status.into(), restarts.into()), "{pod}");
}

#[test]
fn status_of_running_and_ended_pods() {
    let none = json!({});
    let main = |statuses: &[Value], more: &Value| pod(&[], &[], statuses, more.clone());
    let phase = |phase: &str| json!({"status": {"phase": phase}});
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    shows(main(&[], &phase("Pending")), "0/2", "Pending", "0");
    shows(main(&[running("a"), running("b")], &none), "2/2", "Running", "0");
    let crashing = [waiting("a", "CrashLoopBackOff"), running("b")];
    shows(main(&crashing, &none), "1/2", "CrashLoopBackOff", "3 (5m ago)");
    shows(main(&[ended("a"), ended("b")], &phase("Succeeded")), "0/2", "Completed", "0");
    shows(main(&[ended("a"), running("b")], &none), "1/2", "NotReady", "0");
    shows(main(&[ended("a"), running("b")], &ready), "1/2", "Running", "0");
    shows(main(&[failed(7, 0)], &phase("Failed")), "0/2", "ExitCode:7", "0");
    shows(main(&[failed(137, 9)], &none), "0/2", "Signal:9", "0");
    let gone = json!({"metadata": {"deletionTimestamp": "2024-05-01T10:00:00Z"}});
    shows(main(&[running("a"), running("b")], &gone), "2/2", "Terminating", "0");
    let mut lost = gone;
    lost["status"] = json!({"reason": "NodeLost"});
    shows(main(&[], &lost), "0/2", "Unknown", "0");
    shows(main(&[], &json!({"status": {"phase": "Failed", "reason": "Evicted"}})), "0/2", "Evicted", "0");
    let gated = json!([{"type": "PodScheduled", "reason": "SchedulingGated"}]);
    shows(main(&[], &json!({"status": {"conditions": gated}})), "0/2", "SchedulingGated", "0");
}

#[test]
fn status_while_initializing() {
    let none = json!({});
    let init = |statuses: &[Value]| pod(&[json!({"name": "i"})], statuses, &[], none.clone());
    shows(init(&[waiting("i", "PodInitializing")]), "0/2", "Init:0/1", "3 (5m ago)");
    shows(init(&[waiting("i", "ImagePullBackOff")]), "0/2", "Init:ImagePullBackOff", "3 (5m ago)");
    let error = json!({"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}});
    shows(init(&[error]), "0/2", "Init:Error", "0");
    let main = [waiting("a", "PodInitializing"), waiting("b", "PodInitializing")];
    let plain = [json!({"name": "i"})];
    shows(pod(&plain, &[ended("i")], &main, none.clone()), "0/2", "PodInitializing", "6 (5m ago)");
    let mut started = running("i");
    started["started"] = json!(true);
    let sidecar = [json!({"name": "i", "restartPolicy": "Always"})];
    shows(pod(&sidecar, &[started], &[running("a"), running("b")], none.clone()), "3/3", "Running", "0");
}

#[test]
fn wide_pod_cells() {
    let object = json!({
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "readinessGates": [{"conditionType": "x/y"}, {"conditionType": "z"}]},
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "x/y", "status": "True"}]},
    });
    assert_eq!(
        cells("", "pods", object)[5..],
        [json!("10.0.0.1"), json!("n"), json!("<none>"), json!("1/2")]
    );
}

#[test]
fn job_rows() {
    let job =
        |status: Value| json!({"metadata": {"name": "j"}, "spec": {"completions": 3}, "status": status});
    let condition = |kind: &str| json!({"conditions": [{"type": kind, "status": "True"}]});
    for kind in ["Complete", "Failed", "Suspended", "FailureTarget", "SuccessCriteriaMet"] {
        assert_eq!(cell_of("batch", "jobs", "Status", job(condition(kind))), kind);
    }
    assert_eq!(cell_of("batch", "jobs", "Status", job(json!({}))), "Running");
    assert_eq!(cell_of("batch", "jobs", "Completions", job(json!({"succeeded": 2}))), "2/3");
    let times = json!({"startTime": "2024-05-01T09:00:00Z", "completionTime": "2024-05-01T09:00:42Z"});
    assert_eq!(cell_of("batch", "jobs", "Duration", job(times)), "42s");
    let parallel = json!({"metadata": {}, "spec": {"parallelism": 4}, "status": {"succeeded": 1}});
    assert_eq!(cell_of("batch", "jobs", "Completions", parallel), "1/1 of 4");
}

#[test]
fn node_rows() {
    let node = json!({
        "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "worker"}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "Unknown"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
    });
    assert_eq!(cell_of("", "nodes", "Status", node.clone()), "NotReady,SchedulingDisabled");
    assert_eq!(cell_of("", "nodes", "Roles", node.clone()), "control-plane,worker");
    assert_eq!(cell_of("", "nodes", "Internal-IP", node.clone()), "10.0.0.1");
    assert_eq!(cell_of("", "nodes", "External-IP", node), "<none>");
    assert_eq!(cell_of("", "nodes", "Status", json!({})), "Unknown");
}

#[test]
fn service_rows() {
    let service = json!({
        "metadata": {"name": "s"},
        "spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "selector": {"b": "2", "a": "1"},
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]},
    });
    assert_eq!(cell_of("", "services", "Port(s)", service.clone()), "80:30080/TCP,53/UDP");
    assert_eq!(cell_of("", "services", "External-IP", service.clone()), "<none>");
    assert_eq!(cell_of("", "services", "Selector", service), "a=1,b=2");
    let external = json!({"spec": {"type": "ExternalName", "externalName": "x.io"}});
    assert_eq!(cell_of("", "services", "External-IP", external.clone()), "x.io");
    assert_eq!(cell_of("", "services", "Cluster-IP", external), "<none>");
    assert_eq!(
        cell_of("", "services", "External-IP", json!({"spec": {"type": "LoadBalancer"}})),
        "<pending>"
    );
}

#[test]
fn endpoints_show_three() {
    let addresses: Vec<Value> = (1..=5).map(|i| json!({"ip": format!("10.0.0.{i}")})).collect();
    let endpoints = json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
    let expected = "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...";
    assert_eq!(cell_of("", "endpoints", "Endpoints", endpoints), expected);
    assert_eq!(cell_of("", "endpoints", "Endpoints", json!({})), "<none>");
    let slice = json!({"ports": [{"port": 80}, {"name": "x"}], "endpoints": [{"addresses": ["10.0.0.1"]}]});
    assert_eq!(cell_of("discovery.k8s.io", "endpointslices", "Ports", slice.clone()), "80,x");
    assert_eq!(cell_of("discovery.k8s.io", "endpointslices", "Endpoints", slice), "10.0.0.1");
}

#[test]
fn both_forms_of_events() {
    let core = json!({
        "metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "message": " hi ",
        "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{a}"},
        "source": {"component": "kubelet", "host": "n"}, "count": 4,
        "firstTimestamp": "2024-05-01T09:50:00Z", "lastTimestamp": "2024-05-01T09:59:30Z",
    });
    let expected =
        json!(["30s", "Normal", "Started", "pod/p", "spec.containers{a}", "kubelet, n", "hi", "10m", 4, "e"]);
    assert_eq!(Value::from(cells("", "events", core)), expected);
    let new = json!({
        "metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "note": "hi",
        "regarding": {"kind": "Pod", "name": "p"}, "reportingController": "c", "reportingInstance": "i",
        "eventTime": "2024-05-01T09:59:30.000000Z",
    });
    let expected = json!(["30s", "Normal", "Started", "pod/p", "", "c, i", "hi", "30s", 1, "e"]);
    assert_eq!(Value::from(cells("events.k8s.io", "events", new)), expected);
}

#[test]
fn other_rows() {
    let deployment = json!({
        "metadata": {"name": "d", "creationTimestamp": "2024-04-30T10:00:00Z"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "d"}}, "template": {"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y"}]}}},
        "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1},
    });
    let expected = json!(["d", "1/3", 2, 1, "24h", "a,b", "x:1,y", "app=d"]);
    assert_eq!(Value::from(cells("apps", "deployments", deployment)), expected);
    let quota = json!({"metadata": {"name": "q"}, "status": {"hard": {"pods": "5", "limits.cpu": "2"}, "used": {"pods": "1"}}});
    assert_eq!(cell_of("", "resourcequotas", "Request", quota.clone()), "pods: 1/5");
    assert_eq!(cell_of("", "resourcequotas", "Limit", quota), "limits.cpu: 0/2");
    let autoscaler = json!({"metadata": {}, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 3,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]}});
    assert_eq!(
        cell_of("autoscaling", "horizontalpodautoscalers", "Targets", autoscaler),
        "cpu: <unknown>/80%"
    );
    let class = json!({"metadata": {"name": "s", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
    assert_eq!(cell_of("storage.k8s.io", "storageclasses", "Name", class), "s (default)");
    let conditions =
        row_conditions(kind::find("", "v1", "pods").unwrap(), &json!({"status": {"phase": "Failed"}}));
    assert_eq!(conditions.unwrap()[0]["reason"], "Failed");
}
