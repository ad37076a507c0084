//! Pods: the Status column sums up phase, reasons, init containers and deletion.

use jiff::Timestamp;
use serde_json::Value;

use super::Printer;
use super::cell::{self, at, integer, list, text, text_or};
use super::column::{self, text as text_column, wide};
use crate::{meta, time};

pub(super) static PODS: Printer = Printer {
    columns: &[
        column::NAME,
        text_column("Ready", "Containers that are ready, of all that should be."),
        text_column("Status", "What the pod is doing, summed up over its containers."),
        text_column("Restarts", "How often containers were restarted, and when the last one was."),
        column::AGE,
        wide("IP", "Address of the pod."),
        wide("Node", "Node that the pod is bound to."),
        wide("Nominated Node", "Node on which room is being made for the pod."),
        wide("Readiness Gates", "Further conditions that are true, of all that readiness waits for."),
    ],
    cells,
};

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarize(pod);
    let restarts = match summary.last_restart.filter(|_| summary.restarts != 0) {
        Some(last) => {
            let ago = time::human_duration(time::seconds_between(last, now));
            format!("{} ({ago} ago)", summary.restarts)
        }
        None => summary.restarts.to_string(),
    };
    vec![
        cell::name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.status.into(),
        restarts.into(),
        cell::age(pod, now),
        pod_ip(pod).into(),
        text_or(pod, "spec.nodeName", "<none>").into(),
        text_or(pod, "status.nominatedNodeName", "<none>").into(),
        readiness_gates(pod).into(),
    ]
}

fn pod_ip(pod: &Value) -> &str {
    let first = list(pod, "status.podIPs").first().map(|ip| text(ip, "ip")).filter(|ip| !ip.is_empty());
    first.unwrap_or_else(|| text_or(pod, "status.podIP", "<none>"))
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "spec.readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let open = gates.iter().filter(|gate| cell::is_true(pod, text(gate, "conditionType"))).count();
    format!("{open}/{}", gates.len())
}

#[derive(Default)]
struct Summary {
    status: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn count_restarts(&mut self, container: &Value) {
        self.restarts += integer(container, "restartCount");
        let ended = time::parse(text(container, "lastState.terminated.finishedAt"));
        self.last_restart = self.last_restart.max(ended);
    }
}

/// Whether an init container keeps running beside the others (a sidecar).
fn is_sidecar(pod: &Value, name: &str) -> bool {
    let specs = list(pod, "spec.initContainers");
    specs.iter().any(|c| text(c, "name") == name && text(c, "restartPolicy") == "Always")
}

fn summarize(pod: &Value) -> Summary {
    let phase = text(pod, "status.phase");
    let sidecars =
        list(pod, "spec.initContainers").iter().filter(|c| text(c, "restartPolicy") == "Always").count();
    let mut summary = Summary {
        status: text_or(pod, "status.reason", phase).to_owned(),
        total: list(pod, "spec.containers").len() + sidecars,
        ..Summary::default()
    };
    if cell::condition(pod, "PodScheduled").is_some_and(|c| text(c, "reason") == "SchedulingGated") {
        summary.status = "SchedulingGated".into();
    }
    let initializing = init_containers(pod, &mut summary);
    if !initializing || cell::is_true(pod, "Initialized") {
        main_containers(pod, &mut summary);
    }
    if meta::is_being_deleted(pod) {
        if text(pod, "status.reason") == "NodeLost" {
            summary.status = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.status = "Terminating".into();
        }
    }
    summary
}

/// Looks at init containers up to the first that has not ended well; returns whether there is one.
fn init_containers(pod: &Value, summary: &mut Summary) -> bool {
    let all = list(pod, "spec.initContainers").len();
    for (i, container) in list(pod, "status.initContainerStatuses").iter().enumerate() {
        summary.count_restarts(container);
        let terminated = at(container, "state.terminated");
        if terminated.is_some_and(|t| integer(t, "exitCode") == 0) {
            continue;
        }
        let started = at(container, "started").and_then(Value::as_bool).unwrap_or(false);
        if started && is_sidecar(pod, text(container, "name")) {
            summary.ready += usize::from(is_ready(container));
            continue;
        }
        summary.status = match (terminated, text(container, "state.waiting.reason")) {
            (Some(terminated), _) => format!("Init:{}", end_reason(terminated)),
            (None, "" | "PodInitializing") => format!("Init:{i}/{all}"),
            (None, reason) => format!("Init:{reason}"),
        };
        return true;
    }
    false
}

fn is_ready(container: &Value) -> bool {
    at(container, "ready").and_then(Value::as_bool).unwrap_or(false)
}

fn end_reason(terminated: &Value) -> String {
    match (text(terminated, "reason"), integer(terminated, "signal")) {
        ("", 0) => format!("ExitCode:{}", integer(terminated, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn main_containers(pod: &Value, summary: &mut Summary) {
    summary.restarts = 0;
    summary.last_restart = None;
    for sidecar in list(pod, "status.initContainerStatuses") {
        if is_sidecar(pod, text(sidecar, "name")) {
            summary.count_restarts(sidecar);
        }
    }
    let mut running = false;
    for container in list(pod, "status.containerStatuses").iter().rev() {
        summary.count_restarts(container);
        let waiting = text(container, "state.waiting.reason");
        if !waiting.is_empty() {
            summary.status = waiting.to_owned();
        } else if let Some(terminated) = at(container, "state.terminated") {
            summary.status = end_reason(terminated);
        } else if is_ready(container) && at(container, "state.running").is_some() {
            running = true;
            summary.ready += 1;
        }
    }
    if running && summary.status == "Completed" {
        summary.status = if cell::is_true(pod, "Ready") { "Running" } else { "NotReady" }.into();
    }
}
