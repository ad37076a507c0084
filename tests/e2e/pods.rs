//! Points 7 to 9: what a pod's spec says holds for a wasm container and for an OCI container alike; each row is run
//! with both images, and the same assertion must hold.

use std::time::Duration;

use catamaran_tests::cluster::{Cluster, Demo};
use catamaran_tests::images;
use catamaran_tests::wait::until;
use serde_json::{Value, json};

pub(crate) const BUSYBOX: &str = "localhost:5000/busybox:1";
const PROBE: &str = "localhost:5000/probe:1";
const MODULE: &str = "localhost:5000/module:1";

/// A kind of container, by what runs in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Wasm,
    Container,
}

pub(crate) const BOTH: [Kind; 2] = [Kind::Wasm, Kind::Container];

impl Kind {
    /// A container named `c` that runs the words: of the probe guest, or of a shell.
    pub(crate) fn container(self, wasm: &[&str], shell: &str) -> Value {
        match self {
            Kind::Wasm => json!({"name": "c", "image": PROBE, "args": wasm}),
            Kind::Container => json!({"name": "c", "image": BUSYBOX, "command": ["sh", "-c", shell]}),
        }
    }
}

/// A cluster with the demo, and the images that the rows use.
pub(crate) fn cluster() -> Cluster {
    let cluster = Cluster::up(Demo::With);
    images::busybox().push(BUSYBOX);
    images::push_wasm(PROBE, bytes::Bytes::from_static(include_bytes!("../guests/prebuilt/probe-p2.wasm")));
    images::push_wasm(MODULE, bytes::Bytes::from_static(include_bytes!("../guests/prebuilt/probe-p1.wasm")));
    cluster
}

/// Runs a pod named `pod` to its end; returns its status and its log, and removes it.
#[track_caller]
fn run_to_end(cluster: &Cluster, spec: &Value) -> (Value, String) {
    let kubectl = &cluster.kubectl;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "labels": {"row": "one"}}, "spec": spec});
    kubectl.apply(&pod.to_string());
    let status = until("the pod ends", Duration::from_secs(40), || {
        let pod: Value = serde_json::from_str(&kubectl.ok(&["get", "pod", "pod", "-o", "json"])).unwrap();
        match pod["status"]["phase"].as_str() {
            Some("Succeeded" | "Failed") => Ok(pod["status"].clone()),
            _ => Err(format!("{}\n{}", pod["status"], kubectl.ok(&["events", "--for", "pod/pod"]))),
        }
    });
    // A last line that was not ended is ended in the log.
    let log = kubectl.ok(&["logs", "pod", "-c", "c"]).trim_end_matches('\n').to_owned();
    kubectl.ok(&["delete", "pod", "pod", "--grace-period=0", "--force"]);
    (status, log)
}

/// The container with these fields added or replaced.
pub(crate) fn merged(mut container: Value, more: Value) -> Value {
    let fields = container.as_object_mut().expect("a container is an object");
    fields.extend(more.as_object().expect("fields").clone());
    container
}

/// ConfigMap, Secret, downward API, token, emptyDir, working directory, init containers.
pub(crate) fn configuration_reaches_both_kinds() {
    let cluster = cluster();
    let kubectl = &cluster.kubectl;
    kubectl.ok(&["create", "configmap", "conf", "--from-literal=colour=blue"]);
    kubectl.ok(&["create", "secret", "generic", "pass", "--from-literal=word=hidden"]);
    for kind in BOTH {
        environment(&cluster, kind);
        files(&cluster, kind);
        init_container_fills_a_volume(&cluster, kind);
    }
}

fn environment(cluster: &Cluster, kind: Kind) {
    let container = merged(
        kind.container(&["env"], "env"),
        json!({
            "env": [
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "ROW", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['row']"}}},
                {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "pass", "key": "word"}}},
                {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
                {"name": "JOINED", "value": "$(POD)-$(WORD)"},
            ],
            "envFrom": [{"prefix": "C_", "configMapRef": {"name": "conf"}}],
            "resources": {"limits": {"memory": "64Mi"}},
        }),
    );
    let (status, log) = run_to_end(cluster, &json!({"restartPolicy": "Never", "containers": [container]}));
    assert_eq!(status["phase"], "Succeeded", "{kind:?} {log}");
    for line in ["POD=pod", "ROW=one", "WORD=hidden", "LIMIT=67108864", "JOINED=pod-hidden", "C_colour=blue"]
    {
        assert!(log.lines().any(|found| found == line), "{kind:?}: {line} is not in\n{log}");
    }
    assert!(log.contains("KUBERNETES_SERVICE_HOST=10.96.0.1"), "{kind:?}: {log}");
}

fn files(cluster: &Cluster, kind: Kind) {
    let volumes = json!([
        {"name": "conf", "configMap": {"name": "conf"}},
        {"name": "pass", "secret": {"secretName": "pass", "items": [{"key": "word", "path": "deep/word"}]}},
    ]);
    let mounts = json!([
        {"name": "conf", "mountPath": "/conf", "readOnly": true},
        {"name": "pass", "mountPath": "/pass", "readOnly": true},
    ]);
    for (path, expected) in [("/conf/colour", "blue"), ("/pass/deep/word", "hidden")] {
        let container =
            merged(kind.container(&["cat", path], &format!("cat {path}")), json!({"volumeMounts": mounts}));
        let spec = json!({"restartPolicy": "Never", "containers": [container], "volumes": volumes});
        let (_, log) = run_to_end(cluster, &spec);
        assert_eq!(log, expected, "{kind:?} {path}");
    }
    let relative = merged(
        kind.container(&["cat", "colour"], "cat colour"),
        json!({"volumeMounts": mounts, "workingDir": "/conf"}),
    );
    let spec = json!({"restartPolicy": "Never", "containers": [relative], "volumes": volumes});
    assert_eq!(run_to_end(cluster, &spec).1, "blue", "{kind:?}: a path relative to workingDir");
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let container = kind.container(&["cat", token], &format!("cat {token}"));
    let (_, log) = run_to_end(cluster, &json!({"restartPolicy": "Never", "containers": [container]}));
    assert_eq!(log.split('.').count(), 3, "{kind:?}: a token has three parts: {log}");
    let refused = merged(
        kind.container(&["write", "/conf/colour", "red"], "echo red > /conf/colour"),
        json!({"volumeMounts": mounts}),
    );
    let spec = json!({"restartPolicy": "Never", "containers": [refused], "volumes": volumes});
    assert_eq!(run_to_end(cluster, &spec).0["phase"], "Failed", "{kind:?}: a read-only mount was written");
}

fn init_container_fills_a_volume(cluster: &Cluster, kind: Kind) {
    let mounts = json!({"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]});
    let writer = merged(
        kind.container(&["write", "/shared/f", "from", "init"], "printf 'from init' > /shared/f"),
        mounts.clone(),
    );
    let writer = merged(writer, json!({"name": "first"}));
    let reader = merged(kind.container(&["cat", "/shared/f"], "cat /shared/f"), mounts);
    let spec = json!({
        "restartPolicy": "Never", "initContainers": [writer], "containers": [reader],
        "volumes": [{"name": "shared", "emptyDir": {}}],
    });
    let (status, log) = run_to_end(cluster, &spec);
    assert_eq!(log, "from init", "{kind:?}");
    assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
}

/// Exit codes, out of memory, traps with their backtrace, deadlines.
pub(crate) fn ends_are_told() {
    let cluster = cluster();
    for kind in BOTH {
        let container = kind.container(&["exit", "7"], "exit 7");
        let (status, _) = run_to_end(&cluster, &json!({"restartPolicy": "Never", "containers": [container]}));
        let end = &status["containerStatuses"][0]["state"]["terminated"];
        assert_eq!((&end["exitCode"], &end["reason"]), (&json!(7), &json!("Error")), "{kind:?} {status}");
        assert_eq!(status["phase"], "Failed");
        let hungry = merged(
            kind.container(&["alloc", "256", "0"], "tail /dev/zero"),
            json!({"resources": {"limits": {"memory": "24Mi"}}}),
        );
        let (status, _) = run_to_end(&cluster, &json!({"restartPolicy": "Never", "containers": [hungry]}));
        let end = &status["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(end["reason"], "OOMKilled", "{kind:?} {status}");
        let slow = kind.container(&["sleep", "60000"], "sleep 60");
        let spec = json!({"restartPolicy": "Never", "activeDeadlineSeconds": 1, "terminationGracePeriodSeconds": 1, "containers": [slow]});
        let (status, _) = run_to_end(&cluster, &spec);
        assert_eq!(status["reason"], "DeadlineExceeded", "{kind:?} {status}");
    }
    let trap = json!({"name": "c", "image": PROBE, "args": ["trap"]});
    let (status, _) = run_to_end(&cluster, &json!({"restartPolicy": "Never", "containers": [trap]}));
    let message = status["containerStatuses"][0]["state"]["terminated"]["message"].to_string();
    assert!(message.contains("unreachable") && message.contains("deliberate_trap"), "{status}");
    let module = json!({"name": "c", "image": MODULE, "args": ["args", "a", "b"]});
    let (status, log) = run_to_end(&cluster, &json!({"restartPolicy": "Never", "containers": [module]}));
    assert_eq!((status["phase"].as_str(), log.as_str()), (Some("Succeeded"), "a|b"), "a WASI p1 module");
}

/// Probes of each type decide about readiness and restarts; crashes back off; stopping is graceful.
pub(crate) fn probes_restarts_and_termination() {
    let cluster = cluster();
    for kind in BOTH {
        crashes_back_off(&cluster, kind);
        probes_decide(&cluster, kind);
    }
    termination_waits_for_the_grace_period(&cluster);
}

fn crashes_back_off(cluster: &Cluster, kind: Kind) {
    let kubectl = &cluster.kubectl;
    let container = kind.container(&["exit", "1"], "exit 1");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "crash"}, "spec": {"containers": [container]}});
    kubectl.apply(&pod.to_string());
    until("the back-off", Duration::from_secs(30), || {
        let status = kubectl.value(&["pod", "crash"], "{.status.containerStatuses[0]}");
        let status: Value = serde_json::from_str(&status).unwrap_or_default();
        let waits = status["state"]["waiting"]["reason"] == "CrashLoopBackOff";
        let last = status["lastState"]["terminated"]["exitCode"] == 1;
        if waits && last && status["restartCount"].as_i64() >= Some(1) {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    assert!(kubectl.ok(&["get", "pod", "crash"]).contains("CrashLoopBackOff"), "{kind:?}");
    kubectl.ok(&["delete", "pod", "crash", "--now"]);
}

fn probes_decide(cluster: &Cluster, kind: Kind) {
    let kubectl = &cluster.kubectl;
    let image = match kind {
        Kind::Wasm => json!({"name": "c", "image": "localhost:5000/hello-wasm:1"}),
        Kind::Container => json!({"name": "c", "image": "localhost:5000/hello-container:1"}),
    };
    let image = merged(image, json!({"ports": [{"name": "http", "containerPort": 8080}]}));
    let pod = |name: &str, probes: Value| {
        let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [merged(image.clone(), probes)]});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
    };
    let good = json!({
        "startupProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1},
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    });
    kubectl.apply(&pod("good", good));
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/good", "--timeout=30s"]);
    let unready =
        json!({"readinessProbe": {"httpGet": {"path": "/missing", "port": "http"}, "periodSeconds": 1}});
    kubectl.apply(&pod("unready", unready));
    let sick = json!({"livenessProbe": {"httpGet": {"path": "/missing", "port": "http"}, "periodSeconds": 1, "failureThreshold": 2}});
    kubectl.apply(&pod("sick", sick));
    until("a failed liveness probe restarts", Duration::from_secs(30), || {
        let count = kubectl.value(&["pod", "sick"], "{.status.containerStatuses[0].restartCount}");
        let events = kubectl.ok(&["events", "--for", "pod/sick"]);
        let told = events.contains("Liveness probe failed: HTTP probe failed with statuscode: 404")
            && events.contains("Container c failed liveness probe, will be restarted");
        if count.parse::<u32>().is_ok_and(|count| count > 0) && told {
            Ok(())
        } else {
            Err(format!("{count}\n{events}"))
        }
    });
    let ready = kubectl.value(&["pod", "unready"], "{.status.containerStatuses[0].ready} {.status.phase}");
    assert_eq!(ready, "false Running", "{kind:?}");
    let restarts = kubectl.value(&["pod", "good"], "{.status.containerStatuses[0].restartCount}");
    assert_eq!(restarts, "0", "{kind:?}");
    kubectl.ok(&["delete", "pods", "good", "unready", "sick", "--now"]);
}

fn termination_waits_for_the_grace_period(cluster: &Cluster) {
    let kubectl = &cluster.kubectl;
    let shell = "trap 'sleep 1; echo bye > /out/said; exit 0' TERM; while true; do sleep 0.1; done";
    let reader = "while true; do test -f /out/said && cat /out/said; sleep 0.1; done";
    let mounts = json!({"volumeMounts": [{"name": "out", "mountPath": "/out"}]});
    let polite = merged(Kind::Container.container(&[], shell), mounts.clone());
    let stubborn =
        merged(Kind::Container.container(&[], reader), merged(mounts, json!({"name": "stubborn"})));
    let ready = json!({"readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "polite"}, "spec": {
        "terminationGracePeriodSeconds": 3, "containers": [merged(polite, ready), stubborn],
        "volumes": [{"name": "out", "emptyDir": {}}]}});
    kubectl.apply(&pod.to_string());
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/polite", "--timeout=30s"]);
    let mut logs = kubectl.spawn(&["logs", "-f", "polite", "-c", "stubborn"]);
    let start = std::time::Instant::now();
    kubectl.ok(&["delete", "pod", "polite"]);
    let took = start.elapsed();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut logs.stdout.take().unwrap(), &mut said).unwrap();
    logs.wait().unwrap();
    assert!(said.contains("bye"), "the first container handled TERM: {said:?}");
    assert!(took >= Duration::from_secs(3), "the other one had its grace period: {took:?}");
    assert!(took < Duration::from_secs(8), "and was killed then: {took:?}");
}

/// Point 6: a pod that fits nowhere says why and is placed once something changes; so does one that asks too much.
pub(crate) fn unschedulable_pods_say_why_and_try_again() {
    let cluster = Cluster::up(Demo::With);
    let kubectl = &cluster.kubectl;
    let image = "localhost:5000/hello-wasm:1";
    let pod = |name: &str, more: Value| {
        let spec = merged(json!({"containers": [{"name": "c", "image": image}]}), more);
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
    };
    let greedy =
        json!({"containers": [{"name": "c", "image": image, "resources": {"requests": {"cpu": "1000"}}}]});
    let rows = [
        ("picky", json!({"nodeSelector": {"disk": "fast"}}), "didn't match Pod's node affinity/selector"),
        ("greedy", greedy, "Insufficient cpu"),
    ];
    for (name, more, reason) in rows {
        kubectl.apply(&pod(name, more));
        until("the reason", Duration::from_secs(10), || {
            let told = kubectl.value(&["pod", name], "{.status.conditions[?(@.type=='PodScheduled')]}");
            let events = kubectl.ok(&["events", "--for", &format!("pod/{name}")]);
            let both = told.contains(reason)
                && told.contains("Unschedulable")
                && events.contains("FailedScheduling");
            if both { Ok(()) } else { Err(format!("{told}\n{events}")) }
        });
        assert!(kubectl.ok(&["get", "pod", name]).contains("Pending"));
    }
    kubectl.ok(&["label", "node", "node-1", "disk=fast"]);
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/picky", "--timeout=20s"]);
    kubectl.ok(&["cordon", "node-1"]);
    kubectl.apply(&pod("later", json!({})));
    until("a cordoned node takes none", Duration::from_secs(10), || {
        let told =
            kubectl.value(&["pod", "later"], "{.status.conditions[?(@.type=='PodScheduled')].message}");
        if told.contains("unschedulable") { Ok(()) } else { Err(told) }
    });
    kubectl.ok(&["uncordon", "node-1"]);
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/later", "--timeout=20s"]);
}
