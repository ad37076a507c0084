//! Jobs, StatefulSets and DaemonSets with real pods of both kinds: what their contract tests say of played pods holds
//! where the pods run.

use std::time::Duration;

use catamaran_tests::cluster::Cluster;
use catamaran_tests::kubectl::Kubectl;
use catamaran_tests::wait::until;
use serde_json::{Value, json};

use crate::pods::{self, BOTH, BUSYBOX, Kind, merged};

const LIMIT: Duration = Duration::from_secs(60);

/// Every index of a Job is worked on; a Job that always fails ends as failed; a CronJob's template makes a Job.
pub(crate) fn jobs_run_to_their_end() {
    let cluster = pods::cluster();
    for kind in BOTH {
        indexes_are_worked_on(&cluster.kubectl, kind);
        failures_end_a_job(&cluster.kubectl, kind);
        cron_jobs_make_jobs(&cluster.kubectl, kind);
    }
}

fn apply(kubectl: &Kubectl, (version, kind): (&str, &str), name: &str, spec: Value) {
    let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec});
    kubectl.apply(&object.to_string());
}

fn indexes_are_worked_on(kubectl: &Kubectl, kind: Kind) {
    let container = kind.container(&["env"], "env");
    apply(
        kubectl,
        ("batch/v1", "Job"),
        "indexed",
        json!({
            "completions": 3, "parallelism": 2, "completionMode": "Indexed",
            "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
        }),
    );
    kubectl.ok(&["wait", "--for=condition=complete", "job/indexed", "--timeout=60s"]);
    let mut logs = kubectl.ok(&["logs", "-l", "job-name=indexed", "--tail=-1"]);
    logs.retain(|c| c != '\r');
    for index in 0..3 {
        let line = format!("JOB_COMPLETION_INDEX={index}");
        assert_eq!(logs.lines().filter(|found| **found == line).count(), 1, "{kind:?} {line} in\n{logs}");
    }
    assert_eq!(kubectl.value(&["job", "indexed"], "{.status.succeeded} {.status.completedIndexes}"), "3 0-2");
    kubectl.ok(&["delete", "job", "indexed"]);
    until("the pods go with their Job", LIMIT, || {
        let pods = kubectl.ok(&["get", "pods", "-l", "job-name=indexed", "-o", "name"]);
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
}

fn failures_end_a_job(kubectl: &Kubectl, kind: Kind) {
    let container = kind.container(&["exit", "3"], "exit 3");
    apply(
        kubectl,
        ("batch/v1", "Job"),
        "failing",
        json!({
            "backoffLimit": 0,
            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3]}}]},
            "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
        }),
    );
    kubectl.ok(&["wait", "--for=condition=failed", "job/failing", "--timeout=60s"]);
    let reason = kubectl.value(&["job", "failing"], "{.status.conditions[?(@.type=='Failed')].reason}");
    assert_eq!(reason, "PodFailurePolicy", "{kind:?}");
    kubectl.ok(&["delete", "job", "failing"]);
}

fn cron_jobs_make_jobs(kubectl: &Kubectl, kind: Kind) {
    let container = kind.container(&["args", "tick"], "echo tick");
    let pod = json!({"spec": {"restartPolicy": "OnFailure", "containers": [container]}});
    let spec = json!({"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": pod}}});
    apply(kubectl, ("batch/v1", "CronJob"), "yearly", spec);
    kubectl.ok(&["create", "job", "by-hand", "--from=cronjob/yearly"]);
    kubectl.ok(&["wait", "--for=condition=complete", "job/by-hand", "--timeout=60s"]);
    assert_eq!(kubectl.ok(&["logs", "job/by-hand"]).trim(), "tick", "{kind:?}");
    kubectl.ok(&["delete", "cronjob", "yearly"]);
    kubectl.ok(&["delete", "job", "by-hand", "--ignore-not-found"]);
}

/// Pods of a StatefulSet come in order, have names of their own in the cluster's DNS, and come back under them.
pub(crate) fn stateful_sets_keep_names() {
    let cluster = pods::cluster();
    let kubectl = &cluster.kubectl;
    kubectl.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: shell}}, spec: {{containers: [{{name: c, image: '{BUSYBOX}', command: [sleep, '600']}}]}}}}"
    ));
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/shell", "--timeout=60s"]);
    for kind in BOTH {
        pods_are_known_by_name(&cluster, kind);
    }
}

/// A container of the sample, which answers with its pod's name once it is ready.
fn server(kind: Kind) -> Value {
    let program = match kind {
        Kind::Wasm => json!({"image": "localhost:5000/hello-wasm:1"}),
        Kind::Container => json!({"image": "localhost:5000/hello-container:1", "command": ["/hello"]}),
    };
    let common = json!({
        "name": "c", "ports": [{"containerPort": 8080}],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
    });
    merged(program, common)
}

fn pods_are_known_by_name(cluster: &Cluster, kind: Kind) {
    let kubectl = &cluster.kubectl;
    let selector = json!({"matchLabels": {"app": "web"}});
    apply(
        kubectl,
        ("v1", "Service"),
        "web",
        json!({"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 8080}]}),
    );
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [server(kind)], "terminationGracePeriodSeconds": 1}});
    apply(
        kubectl,
        ("apps/v1", "StatefulSet"),
        "web",
        json!({"serviceName": "web", "replicas": 3, "selector": selector, "template": template}),
    );
    kubectl.ok(&["rollout", "status", "statefulset/web", "--timeout=60s"]);
    let born = kubectl.ok(&[
        "get",
        "pods",
        "-l",
        "app=web",
        "--sort-by=.metadata.creationTimestamp",
        "-o",
        "jsonpath={.items[*].metadata.name}",
    ]);
    assert_eq!(born, "web-0 web-1 web-2", "{kind:?}");
    for pod in ["web-0", "web-2"] {
        answers_by_name(kubectl, kind, pod);
    }
    let old = kubectl.value(&["pod", "web-1"], "{.metadata.uid}");
    kubectl.ok(&["delete", "pod", "web-1"]);
    until("web-1 comes back", LIMIT, || {
        let path = "{.metadata.uid} {.status.conditions[?(@.type=='Ready')].status}";
        let found = kubectl.run(&["get", "pod", "web-1", &format!("-ojsonpath={path}")]).stdout;
        if found.ends_with("True") && !found.starts_with(&old) { Ok(()) } else { Err(found) }
    });
    answers_by_name(kubectl, kind, "web-1");
    kubectl.ok(&["scale", "statefulset", "web", "--replicas=1"]);
    until("the last go first", LIMIT, || {
        let pods = kubectl.ok(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"]);
        if pods == "web-0" { Ok(()) } else { Err(pods) }
    });
    kubectl.ok(&["delete", "statefulset/web", "service/web"]);
    kubectl.ok(&["wait", "--for=delete", "pod", "-l", "app=web", "--timeout=60s"]);
}

fn answers_by_name(kubectl: &Kubectl, kind: Kind, pod: &str) {
    let url = format!("http://{pod}.web.default.svc.cluster.local:8080/");
    until(&format!("{pod} by its name"), LIMIT, || {
        let got = kubectl.run(&["exec", "shell", "--", "wget", "-qO-", &url]);
        if got.stdout.contains(pod) { Ok(()) } else { Err(format!("{kind:?} {}{}", got.stdout, got.stderr)) }
    });
}

/// A DaemonSet has one pod on the node, and a new one when its template changes.
pub(crate) fn daemon_sets_have_a_pod_on_the_node() {
    let cluster = pods::cluster();
    let kubectl = &cluster.kubectl;
    for kind in BOTH {
        let selector = json!({"matchLabels": {"app": "agent"}});
        let template = json!({"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [server(kind)], "terminationGracePeriodSeconds": 1}});
        apply(
            kubectl,
            ("apps/v1", "DaemonSet"),
            "agent",
            json!({"selector": selector, "template": template}),
        );
        kubectl.ok(&["rollout", "status", "daemonset/agent", "--timeout=60s"]);
        let node =
            kubectl.ok(&["get", "pods", "-l", "app=agent", "-o", "jsonpath={.items[*].spec.nodeName}"]);
        assert_eq!(node, "node-1", "{kind:?}");
        kubectl.ok(&["set", "env", "daemonset/agent", "ROUND=2"]);
        kubectl.ok(&["rollout", "status", "daemonset/agent", "--timeout=60s"]);
        let round = "jsonpath={.items[*].spec.containers[0].env[?(@.name=='ROUND')].value}";
        until("the pod of the second round alone", LIMIT, || {
            let found = kubectl.ok(&["get", "pods", "-l", "app=agent", "-o", round]);
            if found == "2" { Ok(()) } else { Err(found) }
        });
        kubectl.ok(&["delete", "daemonset", "agent"]);
        kubectl.ok(&["wait", "--for=delete", "pod", "-l", "app=agent", "--timeout=60s"]);
    }
}

/// A HorizontalPodAutoscaler gives a Deployment whose pods are busy more of them, by what the agent counts.
pub(crate) fn autoscalers_follow_what_pods_use() {
    let cluster = pods::cluster();
    let kubectl = &cluster.kubectl;
    let name = |kind: Kind| format!("busy-{}", if kind == Kind::Wasm { "wasm" } else { "container" });
    for kind in BOTH {
        let container = kind.container(&["spin", "600000"], "while :; do :; done");
        let resources = json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "150m"}});
        let container = merged(container, json!({"resources": resources}));
        let (name, labels) = (name(kind), json!({"busy": name(kind)}));
        let spec = json!({"containers": [container], "terminationGracePeriodSeconds": 0});
        let template = json!({"metadata": {"labels": labels}, "spec": spec});
        apply(
            kubectl,
            ("apps/v1", "Deployment"),
            &name,
            json!({"selector": {"matchLabels": labels}, "template": template}),
        );
        kubectl.ok(&["autoscale", "deployment", &name, "--min=1", "--max=2", "--cpu-percent=100"]);
    }
    for kind in BOTH {
        let name = name(kind);
        until(&format!("{name} grows"), Duration::from_secs(150), || {
            let replicas = kubectl.value(&["deployment", &name], "{.spec.replicas}");
            if replicas == "2" { Ok(()) } else { Err(kubectl.ok(&["describe", "hpa", &name])) }
        });
        let condition = "{.status.conditions[?(@.type=='ScalingActive')].reason}";
        assert_eq!(kubectl.value(&["hpa", &name], condition), "ValidMetricFound", "{name}");
    }
    assert!(kubectl.ok(&["top", "pods"]).contains("busy-wasm"));
}
