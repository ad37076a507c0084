//! Probes, hooks, readiness, stopping.

use std::time::Instant;

use serde_json::{Value, json};

use crate::row::{Check, Row, always, once, row, run, web, with};
use crate::run::{Look, same};

const AREA: &str = "probes and hooks";

fn probed(probes: Value) -> Value {
    always(with(web(), probes))
}

fn ready(look: &Look<'_>) -> Result<(), String> {
    same((look.is_ready(), &look.container()["restartCount"]), (true, &json!(0)))
}

fn restarted(look: &Look<'_>) -> Result<(), String> {
    same(look.container()["restartCount"].as_i64() >= Some(1), true)
}

pub(crate) fn rows() -> Vec<Row> {
    [readiness(), restarts(), hooks(), stopping()].into_iter().flatten().collect()
}

/// What asks over HTTP, once a second.
fn get(path: &str) -> Value {
    json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": 1})
}

/// Opens the gate once the container is ready, and sees that the pod was not ready before.
fn gate_opens(look: &Look<'_>) -> Result<(), String> {
    if look.condition("ContainersReady")["status"] != "True" {
        return Err("its container is not ready".into());
    }
    if look.condition("example.com/open")["status"] != "True" {
        same(look.is_ready(), false)?;
        let patch = r#"{"status": {"conditions": [{"type": "example.com/open", "status": "True"}]}}"#;
        look.kubectl.ok(&["patch", "pod", look.name, "--subresource=status", "-p", patch]);
        return Err("the gate was opened just now".into());
    }
    same(look.is_ready(), true)
}

fn readiness() -> Vec<Row> {
    let tcp = |port: Value| json!({"tcpSocket": {"port": port}, "periodSeconds": 1});
    let exec = json!({"exec": {"command": ["/probe", "exit", "0"]}, "periodSeconds": 1});
    let gates = json!({"spec": {"readinessGates": [{"conditionType": "example.com/open"}]}});
    let answers = always(with(run(&["sleep", "600000"]), json!({"readinessProbe": exec})));
    vec![
        row(
            AREA,
            "readiness by `httpGet`",
            probed(json!({"readinessProbe": get("/healthz")})),
            Check::Shows(ready),
        ),
        row(
            AREA,
            "readiness that fails",
            probed(json!({"readinessProbe": get("/missing")})),
            Check::Shows(|look| {
                look.told("Readiness probe failed: HTTP probe failed with statuscode: 404")?;
                same((look.is_ready(), look.phase()), (false, "Running"))
            }),
        ),
        row(
            AREA,
            "readiness by `tcpSocket`",
            probed(json!({"readinessProbe": tcp(json!("http"))})),
            Check::Shows(ready),
        ),
        row(
            AREA,
            "a port that nobody answers on",
            probed(json!({"readinessProbe": tcp(json!(81))})),
            Check::Shows(|look| look.told("Readiness probe failed")),
        ),
        row(AREA, "readiness by `exec`", answers, Check::Shows(ready))
            .forbidden("Readiness probe errored: a wasm sandbox"),
        row(AREA, "readiness gates", with(probed(json!({})), gates), Check::Shows(gate_opens)),
    ]
}

fn restarts() -> Vec<Row> {
    let fragile = |probe: Value| with(probe, json!({"failureThreshold": 1}));
    vec![
        row(
            AREA,
            "liveness that fails restarts",
            probed(json!({"livenessProbe": fragile(get("/missing"))})),
            Check::Shows(|look| {
                look.told("Container c failed liveness probe, will be restarted")?;
                restarted(look)
            }),
        ),
        row(
            AREA,
            "startup comes before the others",
            probed(json!({"startupProbe": get("/healthz"), "livenessProbe": get("/healthz")})),
            Check::Shows(|look| {
                same(&look.container()["started"], &json!(true))?;
                ready(look)
            }),
        ),
        row(
            AREA,
            "startup that fails restarts",
            probed(json!({"startupProbe": fragile(get("/missing"))})),
            Check::Shows(restarted),
        ),
    ]
}

fn hooks() -> Vec<Row> {
    let hook = |which: &str, what: Value| probed(json!({"lifecycle": {which: what}}));
    let exec = json!({"exec": {"command": ["/probe", "exit", "0"]}});
    let after = always(with(run(&["sleep", "600000"]), json!({"lifecycle": {"postStart": exec}})));
    vec![
        row(
            AREA,
            "`postStart` with `httpGet`",
            hook("postStart", json!({"httpGet": {"path": "/healthz", "port": "http"}})),
            // A program that listens later than the hook asks is started again, as in Kubernetes.
            Check::Shows(|look| same(look.is_ready(), true)),
        ),
        row(
            AREA,
            "`postStart` with `sleep`",
            hook("postStart", json!({"sleep": {"seconds": 1}})),
            Check::Shows(ready),
        ),
        row(
            AREA,
            "`postStart` that fails",
            hook("postStart", json!({"httpGet": {"path": "/missing", "port": "http"}})),
            Check::Shows(|look| {
                look.told("FailedPostStartHook")?;
                restarted(look)
            }),
        ),
        row(AREA, "`postStart` with `exec`", after, Check::Shows(ready))
            .forbidden("a wasm container has no processes"),
        row(
            AREA,
            "`preStop` with `httpGet` is asked before the end",
            hook("preStop", json!({"httpGet": {"path": "/missing", "port": "http"}})),
            Check::Shows(|look| {
                if look.phase() == "Running" {
                    look.kubectl.ok(&["delete", "pod", look.name]);
                }
                look.told("FailedPreStopHook")
            }),
        ),
    ]
}

fn stopping() -> Vec<Row> {
    let slow = with(
        probed(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 3}}}})),
        json!({"spec": {"terminationGracePeriodSeconds": 20}}),
    );
    let deaf = with(once(run(&["sleep", "600000"])), json!({"spec": {"terminationGracePeriodSeconds": 2}}));
    vec![
        row(
            AREA,
            "`preStop` with `sleep` holds the end up",
            slow,
            Check::Shows(|look| {
                if !look.is_ready() {
                    return Err("it is not ready".into());
                }
                let begun = Instant::now();
                look.kubectl.ok(&["delete", "pod", look.name]);
                let took = begun.elapsed().as_secs();
                if (3..15).contains(&took) { Ok(()) } else { Err(format!("it took {took} s")) }
            }),
        ),
        row(
            AREA,
            "a program that does not end is killed after the grace period",
            deaf,
            Check::Shows(|look| {
                if look.phase() != "Running" {
                    return Err("it does not run".into());
                }
                let begun = Instant::now();
                look.kubectl.ok(&["delete", "pod", look.name]);
                let took = begun.elapsed().as_secs();
                if took < 15 { Ok(()) } else { Err(format!("it took {took} s")) }
            }),
        ),
    ]
}
