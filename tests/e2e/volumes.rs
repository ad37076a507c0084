//! Claims hold what is written: for the next pod, whatever it is made of, for the pods of a StatefulSet, and across a
//! restart of the cluster; and when they go their directories go.

use std::time::Duration;

use catamaran_tests::cluster::{Cluster, Demo};
use catamaran_tests::wait::until;
use serde_json::{Value, json};

use crate::pods::{BOTH, BUSYBOX, Kind, cluster, merged, run_to_end};

fn claim(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}})
}

/// A pod of one kind writes, one of the other reads, while the claim lives; then nothing is left.
pub(crate) fn claims_outlive_their_pods() {
    let cluster = cluster();
    let kubectl = &cluster.kubectl;
    for writer in BOTH {
        for reader in BOTH {
            kubectl.apply(&claim("data").to_string());
            let text = format!("{writer:?} for {reader:?}");
            let wasm = ["write", "/data/f", &text];
            run_with_claim(&cluster, writer.container(&wasm, &format!("printf '{text}' > /data/f")));
            let (_, said) = run_with_claim(&cluster, reader.container(&["cat", "/data/f"], "cat /data/f"));
            assert_eq!(said, text);
            let volume = kubectl.value(&["pvc", "data"], "{.spec.volumeName}");
            let directory = cluster.data().join("local-path").join(&volume);
            assert!(directory.join("f").exists(), "{}", directory.display());
            kubectl.ok(&["delete", "pvc", "data"]);
            until("the volume is gone", Duration::from_secs(20), || {
                let found = kubectl.ok(&["get", "pv", "--ignore-not-found", &volume, "-o", "yaml"]);
                if found.is_empty() && !directory.exists() { Ok(()) } else { Err(found) }
            });
        }
    }
}

fn run_with_claim(cluster: &Cluster, container: Value) -> (Value, String) {
    let container = merged(container, json!({"volumeMounts": [{"name": "d", "mountPath": "/data"}]}));
    let volumes = json!([{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]);
    let spec = json!({"restartPolicy": "Never", "containers": [container], "volumes": volumes});
    let (status, log) = run_to_end(cluster, &spec);
    assert_eq!(status["phase"], "Succeeded", "{status}\n{log}");
    (status, log)
}

/// Each pod of a StatefulSet finds what the one before it under its name has left, also after `down --keep-data`.
pub(crate) fn stateful_sets_keep_their_data() {
    let cluster = cluster();
    let kubectl = &cluster.kubectl;
    let container = merged(
        Kind::Container.container(&[], "sleep 1000000"),
        json!({"image": BUSYBOX, "volumeMounts": [{"name": "data", "mountPath": "/data"}]}),
    );
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {
        "replicas": 2, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
        "template": {"metadata": {"labels": {"app": "db"}}, "spec": {
            "terminationGracePeriodSeconds": 1, "containers": [container]}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim("x")["spec"]}]}});
    kubectl.apply(&set.to_string());
    kubectl.ok(&["rollout", "status", "statefulset/db", "--timeout=90s"]);
    for pod in ["db-0", "db-1"] {
        kubectl.ok(&["exec", pod, "--", "sh", "-c", &format!("echo of {pod} > /data/f")]);
    }
    let all_is_there = || {
        for pod in ["db-0", "db-1"] {
            assert_eq!(kubectl.ok(&["exec", pod, "--", "cat", "/data/f"]), format!("of {pod}\n"));
        }
    };
    kubectl.ok(&["delete", "pods", "db-0", "db-1"]);
    kubectl.ok(&["rollout", "status", "statefulset/db", "--timeout=90s"]);
    all_is_there();
    let down = cluster.run("down", &["--keep-data"]);
    assert_eq!(down.code, 0, "{}{}", down.stdout, down.stderr);
    cluster.start(Demo::Without, &[], &[]);
    until("the pods run again", Duration::from_secs(60), || {
        let ready = kubectl.value(&["statefulset", "db"], "{.status.readyReplicas}");
        let answers = ["db-0", "db-1"].iter().all(|pod| kubectl.run(&["exec", pod, "--", "true"]).code == 0);
        if ready == "2" && answers { Ok(()) } else { Err(ready) }
    });
    all_is_there();
}
