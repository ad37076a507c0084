//! Nodes, namespaces, events, component statuses, leases and classes.

use jiff::Timestamp;
use serde_json::Value;

use super::Printer;
use super::cell::{self, at, integer, list, scalar, text, text_or};
use super::column::{AGE, Column, NAME, boolean, integer as number, text as text_column, wide};
use crate::{meta, time};

pub(super) fn printer(plural: &str) -> Option<&'static Printer> {
    Some(match plural {
        "nodes" => &NODES,
        "namespaces" => &NAMESPACES,
        "events" => &EVENTS,
        "componentstatuses" => &COMPONENT_STATUSES,
        _ => return None,
    })
}

pub(super) fn class_printer(plural: &str) -> Option<&'static Printer> {
    Some(match plural {
        "leases" => &LEASES,
        "runtimeclasses" => &RUNTIME_CLASSES,
        "priorityclasses" => &PRIORITY_CLASSES,
        _ => return None,
    })
}

static NODES: Printer = Printer {
    columns: &[
        NAME,
        text_column("Status", "Whether the node is ready and takes pods."),
        text_column("Roles", "Its roles."),
        AGE,
        text_column("Version", "Version of its agent."),
        wide("Internal-IP", "Address inside the cluster."),
        wide("External-IP", "Address outside."),
        wide("OS-Image", "Operating system."),
        wide("Kernel-Version", "Kernel."),
        wide("Container-Runtime", "Runtime of its containers."),
    ],
    cells: |o, now| {
        vec![
            cell::name(o),
            node_status(o).into(),
            node_roles(o).into(),
            cell::age(o, now),
            text(o, "status.nodeInfo.kubeletVersion").into(),
            node_address(o, "InternalIP").into(),
            node_address(o, "ExternalIP").into(),
            text_or(o, "status.nodeInfo.osImage", "<unknown>").into(),
            text_or(o, "status.nodeInfo.kernelVersion", "<unknown>").into(),
            text_or(o, "status.nodeInfo.containerRuntimeVersion", "<unknown>").into(),
        ]
    },
};

fn node_status(node: &Value) -> String {
    let ready = match cell::condition(node, "Ready") {
        Some(condition) if text(condition, "status") == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let off = at(node, "spec.unschedulable").and_then(Value::as_bool).unwrap_or(false);
    if off { format!("{ready},SchedulingDisabled") } else { ready.into() }
}

fn node_roles(node: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in meta::labels(node).into_iter().flatten() {
        let role = match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => role,
            None if key == "kubernetes.io/role" => value.as_str().unwrap_or_default(),
            None => "",
        };
        if !role.is_empty() {
            roles.push(role);
        }
    }
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".into() } else { roles.join(",") }
}

fn node_address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let found = list(node, "status.addresses").iter().find(|a| text(a, "type") == kind);
    found.map_or("<none>", |a| text(a, "address"))
}

static NAMESPACES: Printer = Printer {
    columns: &[NAME, text_column("Status", "Whether the namespace is active or going."), AGE],
    cells: |o, now| vec![cell::name(o), text(o, "status.phase").into(), cell::age(o, now)],
};

pub(super) static EVENTS: Printer = Printer {
    columns: &[
        text_column("Last Seen", "Time since it happened last."),
        text_column("Type", "Normal or Warning."),
        text_column("Reason", "What happened, in one word."),
        text_column("Object", "What it happened to."),
        wide("Subobject", "Which part of the object."),
        wide("Source", "Who reported it."),
        text_column("Message", "What happened, in words."),
        wide("First Seen", "Time since it happened first."),
        wide("Count", "How often it happened."),
        Column { priority: 1, ..NAME },
    ],
    cells: event_cells,
};

/// Events come as `v1` (involvedObject, message) and as `events.k8s.io/v1` (regarding, note, deprecated fields).
fn event_cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let either = |a: &str, b: &str| at(event, a).or_else(|| at(event, b));
    let word = |a: &str, b: &str| either(a, b).and_then(Value::as_str).unwrap_or_default();
    let object = either("involvedObject", "regarding").unwrap_or(&Value::Null);
    let first = [word("firstTimestamp", "deprecatedFirstTimestamp"), text(event, "eventTime")];
    let first = first.into_iter().find(|t| !t.is_empty());
    let last = [text(event, "series.lastObservedTime"), word("lastTimestamp", "deprecatedLastTimestamp")];
    let last = last.into_iter().find(|t| !t.is_empty()).or(first);
    let count = match (integer(event, "series.count"), either("count", "deprecatedCount")) {
        (0, count) => count.and_then(Value::as_i64).filter(|c| *c > 0).unwrap_or(1),
        (series, _) => series,
    };
    let kind = text(object, "kind").to_lowercase();
    let target = match text(object, "name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        time::age(last, now).into(),
        text(event, "type").into(),
        text(event, "reason").into(),
        target.into(),
        text(object, "fieldPath").into(),
        event_source(event).into(),
        word("message", "note").trim().into(),
        time::age(first, now).into(),
        count.into(),
        cell::name(event),
    ]
}

fn event_source(event: &Value) -> String {
    let source = at(event, "source").or_else(|| at(event, "deprecatedSource")).unwrap_or(&Value::Null);
    let reporter = text_or(event, "reportingComponent", text(event, "reportingController"));
    let component = text_or(source, "component", reporter);
    match text_or(source, "host", text(event, "reportingInstance")) {
        "" => component.into(),
        host => format!("{component}, {host}"),
    }
}

static COMPONENT_STATUSES: Printer = Printer {
    columns: &[
        NAME,
        text_column("Status", "Healthy or not."),
        text_column("Message", "What the component says."),
        text_column("Error", "What is wrong."),
    ],
    cells: |o, _| {
        let healthy = list(o, "conditions").iter().find(|c| text(c, "type") == "Healthy");
        let status = healthy.map_or("Unknown", |c| match text(c, "status") {
            "True" => "Healthy",
            "False" => "Unhealthy",
            _ => "Unknown",
        });
        let part = |field: &str| Value::from(healthy.map_or("", |c| text(c, field)));
        vec![cell::name(o), status.into(), part("message"), part("error")]
    },
};

static LEASES: Printer = Printer {
    columns: &[NAME, text_column("Holder", "Who holds the lease."), AGE],
    cells: |o, now| vec![cell::name(o), text(o, "spec.holderIdentity").into(), cell::age(o, now)],
};

static RUNTIME_CLASSES: Printer = Printer {
    columns: &[NAME, text_column("Handler", "Configuration of the runtime."), AGE],
    cells: |o, now| vec![cell::name(o), text(o, "handler").into(), cell::age(o, now)],
};

static PRIORITY_CLASSES: Printer = Printer {
    columns: &[
        NAME,
        number("Value", "Priority of pods of the class."),
        boolean("Global-Default", "Whether pods without a class have it."),
        AGE,
        text_column("PreemptionPolicy", "Whether its pods push others out."),
    ],
    cells: |o, now| {
        vec![
            cell::name(o),
            integer(o, "value").into(),
            at(o, "globalDefault").and_then(Value::as_bool).unwrap_or(false).into(),
            cell::age(o, now),
            scalar(at(o, "preemptionPolicy"), "").into(),
        ]
    },
};
