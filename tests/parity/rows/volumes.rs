//! Volumes of every kind, sub-paths, claims, limits.

use serde_json::{Value, json};

use crate::row::{Check, Row, once, row, run, with};
use crate::run::{Look, same};

const AREA: &str = "volumes";

/// A container that sees the volume `v` at `/v`.
fn mounted(words: &[&str], mount: Value) -> Value {
    let mount = with(json!({"name": "v", "mountPath": "/v"}), mount);
    with(run(words), json!({"volumeMounts": [mount]}))
}

fn volume(container: Value, source: Value) -> Value {
    with(once(container), json!({"spec": {"volumes": [with(json!({"name": "v"}), source)]}}))
}

fn read(path: &str, source: Value) -> Value {
    volume(mounted(&["cat", path], json!({})), source)
}

/// An init container writes, the main one reads.
fn passed_on(written: &str, read: &str, mount: Value, source: Value) -> Value {
    let first = with(mounted(&["write", written, "passed on"], json!({})), json!({"name": "first"}));
    let pod = volume(mounted(&["cat", read], mount), source);
    with(pod, json!({"spec": {"initContainers": [first]}}))
}

fn claim(more: Value) -> Value {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}});
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "$POD"}, "spec": with(spec, more)})
}

fn claimed() -> Value {
    json!({"persistentVolumeClaim": {"claimName": "$POD"}})
}

pub(crate) fn rows() -> Vec<Row> {
    [written_by_the_node(), plain(), sub_paths(), claims(), limits()].into_iter().flatten().collect()
}

fn written_by_the_node() -> Vec<Row> {
    let downward =
        json!({"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}});
    let projected = json!({"projected": {"sources": [
        {"configMap": {"name": "conf"}}, {"secret": {"name": "pass", "items": [{"key": "word", "path": "deep/word"}]}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}});
    let token = run(&["cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"]);
    let none = with(once(token.clone()), json!({"spec": {"automountServiceAccountToken": false}}));
    let conf = || json!({"configMap": {"name": "conf"}});
    let renamed = json!({"configMap": {"name": "conf", "items": [{"key": "colour", "path": "a/b"}]}});
    let relative = with(mounted(&["cat", "colour"], json!({})), json!({"workingDir": "/v"}));
    vec![
        row(AREA, "`configMap`", read("/v/colour", conf()), Check::Log("blue")),
        row(AREA, "`configMap` with `items`", read("/v/a/b", renamed), Check::Log("blue")),
        row(
            AREA,
            "`configMap` that is optional",
            volume(
                mounted(&["list", "/v"], json!({})),
                json!({"configMap": {"name": "none", "optional": true}}),
            ),
            Check::Phase("Succeeded"),
        ),
        row(
            AREA,
            "`configMap` that is not there",
            read("/v/x", json!({"configMap": {"name": "none"}})),
            Check::Shows(|look| look.told("configmap \"none\" not found")),
        ),
        row(
            AREA,
            "what the node writes is read-only",
            volume(mounted(&["write", "/v/colour", "red"], json!({})), conf()),
            Check::Phase("Failed"),
        ),
        row(
            AREA,
            "`secret`",
            read("/v/word", json!({"secret": {"secretName": "pass"}})),
            Check::Log("hidden"),
        ),
        row(AREA, "`downwardAPI`", read("/v/labels", downward), Check::Log("row=\"one\"")),
        row(AREA, "`projected`: ConfigMap", read("/v/size", projected.clone()), Check::Log("7")),
        row(
            AREA,
            "`projected`: Secret in a deeper directory",
            read("/v/deep/word", projected.clone()),
            Check::Log("hidden"),
        ),
        row(AREA, "`projected`: downward API", read("/v/name", projected), Check::Log("$POD")),
        row(
            AREA,
            "a service-account token",
            once(token),
            Check::Shows(|look| same(look.log(&[]).split('.').count(), 3)),
        ),
        row(AREA, "no token where none is wanted", none, Check::Phase("Failed")),
        row(AREA, "`workingDir`", volume(relative, conf()), Check::Log("blue")),
    ]
}

fn plain() -> Vec<Row> {
    let empty = || json!({"emptyDir": {}});
    let memory = json!({"emptyDir": {"medium": "Memory"}});
    let here = || json!({"hostPath": {"path": "$DATA/of-$POD", "type": "DirectoryOrCreate"}});
    let read_only = volume(mounted(&["write", "/v/f", "x"], json!({"readOnly": true})), empty());
    let wrong = json!({"hostPath": {"path": "/etc/hostname", "type": "Directory"}});
    vec![
        row(
            AREA,
            "`emptyDir` is shared by the containers of a pod",
            passed_on("/v/f", "/v/f", json!({}), empty()),
            Check::Log("passed on"),
        ),
        row(
            AREA,
            "`emptyDir` in memory",
            passed_on("/v/f", "/v/f", json!({}), memory),
            Check::Log("passed on"),
        ),
        row(AREA, "`hostPath`", passed_on("/v/f", "/v/f", json!({}), here()), Check::Log("passed on")),
        row(
            AREA,
            "`hostPath` of another type",
            read("/v", wrong),
            Check::Shows(|look| look.told("hostPath type check failed")),
        ),
        row(AREA, "`readOnly`", read_only, Check::Phase("Failed")),
    ]
}

fn sub_paths() -> Vec<Row> {
    let empty = || json!({"emptyDir": {}});
    let first =
        with(mounted(&["write", "/v/f", "passed on"], json!({"subPath": "a/b"})), json!({"name": "first"}));
    let nested = with(
        volume(mounted(&["cat", "/v/a/b/f"], json!({})), empty()),
        json!({"spec": {"initContainers": [first]}}),
    );
    let env = json!({"env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]});
    let first = with(
        mounted(&["write", "/v/f", "passed on"], json!({"subPathExpr": "of-$(WHO)"})),
        json!({"name": "first"}),
    );
    let expression = with(
        volume(mounted(&["cat", "/v/of-$POD/f"], json!({})), empty()),
        json!({"spec": {"initContainers": [with(first, env)]}}),
    );
    vec![
        row(AREA, "`subPath`", nested, Check::Log("passed on")),
        row(AREA, "`subPathExpr`", expression, Check::Log("passed on")),
    ]
}

fn claims() -> Vec<Row> {
    let keeps: fn(&Look<'_>) -> Result<(), String> = |look| {
        let volume = look.kubectl.value(&["pvc", look.name], "{.spec.volumeName}");
        let reached = look.kubectl.value(&["pv", &volume], "{.spec.nodeAffinity}");
        if reached.contains("node-1") { same(look.log(&[]).trim_end(), "passed on") } else { Err(reached) }
    };
    let read_only = json!({"persistentVolumeClaim": {"claimName": "$POD", "readOnly": true}});
    let template =
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
    let ephemeral = json!({"ephemeral": {"volumeClaimTemplate": template}});
    let waits: fn(&Look<'_>) -> Result<(), String> =
        |look| look.told(&format!("persistentvolumeclaim \"{}\" not found", look.name));
    let many = claim(json!({"accessModes": ["ReadWriteMany"]}));
    let first =
        with(mounted(&["write", "/v/f", "passed on"], json!({"subPath": "deep"})), json!({"name": "first"}));
    let nested = with(
        volume(mounted(&["cat", "/v/deep/f"], json!({})), claimed()),
        json!({"spec": {"initContainers": [first]}}),
    );
    vec![
        row(
            AREA,
            "a claim of the default class",
            passed_on("/v/f", "/v/f", json!({}), claimed()),
            Check::Shows(keeps),
        )
        .after(claim(json!({}))),
        row(AREA, "a claim with `subPath`", nested, Check::Log("passed on")).after(claim(json!({}))),
        row(
            AREA,
            "a claim that is mounted read-only",
            volume(mounted(&["write", "/v/f", "x"], json!({})), read_only),
            Check::Phase("Failed"),
        )
        .after(claim(json!({}))),
        row(
            AREA,
            "an `ephemeral` volume",
            passed_on("/v/f", "/v/f", json!({}), ephemeral),
            Check::Log("passed on"),
        ),
        row(AREA, "a claim that is not there", read("/v/f", claimed()), Check::Shows(waits)),
        row(
            AREA,
            "an access mode that cannot be had",
            read("/v/f", claimed()),
            Check::Shows(|look| {
                let events = look.kubectl.ok(&["events", "--for", &format!("pvc/{}", look.name)]);
                if events.contains("access mode ReadWriteMany cannot be had") { Ok(()) } else { Err(events) }
            }),
        )
        .after(many),
    ]
}

fn limits() -> Vec<Row> {
    let large = "x".repeat(100_000);
    let first = with(mounted(&["write", "/v/f", &large], json!({})), json!({"name": "first"}));
    let pod = volume(mounted(&["sleep", "600000"], json!({})), json!({"emptyDir": {"sizeLimit": "64Ki"}}));
    let too_large = with(pod, json!({"spec": {"initContainers": [first]}}));
    let loud =
        with(run(&["flood", "40000", "100"]), json!({"resources": {"limits": {"ephemeral-storage": "1Mi"}}}));
    let waits = json!({"name": "waits", "image": "$PROBE", "args": ["sleep", "600000"]});
    let loud = json!({"spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [loud, waits]}});
    vec![
        row(
            AREA,
            "`sizeLimit` of an `emptyDir`: the pod is evicted",
            too_large,
            Check::Shows(|look| {
                is_evicted(look, "Usage of EmptyDir volume \"v\" exceeds the limit \"64Ki\".")
            }),
        ),
        row(
            AREA,
            "limit of `ephemeral-storage`, by logs: the pod is evicted",
            loud,
            Check::Shows(|look| {
                is_evicted(
                    look,
                    "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi.",
                )
            }),
        ),
    ]
}

fn is_evicted(look: &Look<'_>, text: &str) -> Result<(), String> {
    let status = &look.pod["status"];
    same((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("Evicted")))?;
    same(&look.condition("DisruptionTarget")["reason"], &json!("TerminationByKubelet"))?;
    let message = status["message"].as_str().unwrap_or_default();
    if message.contains(text) { look.told(text) } else { Err(message.to_owned()) }
}
