//! Budgets, quotas, limits, RBAC, certificates and flow control.

use serde_json::Value;

use super::Printer;
use super::cell::{self, at, integer, list, scalar, text, text_or};
use super::column::{AGE, CREATED_AT, NAME, integer as number, text as text_column, wide};
use crate::time;

pub(super) fn printer(plural: &str) -> Option<&'static Printer> {
    Some(match plural {
        "poddisruptionbudgets" => &BUDGETS,
        "resourcequotas" => &QUOTAS,
        "limitranges" | "roles" | "clusterroles" => &CREATED,
        "rolebindings" | "clusterrolebindings" => &BINDINGS,
        "certificatesigningrequests" => &SIGNING_REQUESTS,
        "flowschemas" => &FLOW_SCHEMAS,
        "prioritylevelconfigurations" => &PRIORITY_LEVELS,
        _ => return None,
    })
}

static CREATED: Printer =
    Printer { columns: &[NAME, CREATED_AT], cells: |o, _| vec![cell::name(o), cell::created_at(o)] };

static BUDGETS: Printer = Printer {
    columns: &[
        NAME,
        text_column("Min Available", "Pods that must be available."),
        text_column("Max Unavailable", "Pods that may be unavailable."),
        number("Allowed Disruptions", "Pods that may be disturbed now."),
        AGE,
    ],
    cells: |o, now| {
        vec![
            cell::name(o),
            scalar(at(o, "spec.minAvailable"), "N/A").into(),
            scalar(at(o, "spec.maxUnavailable"), "N/A").into(),
            integer(o, "status.disruptionsAllowed").into(),
            cell::age(o, now),
        ]
    },
};

static QUOTAS: Printer = Printer {
    columns: &[
        NAME,
        text_column("Request", "Requests and counts: used and allowed."),
        text_column("Limit", "Limits: used and allowed."),
        AGE,
    ],
    cells: |o, now| {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        let hard = at(o, "status.hard").or_else(|| at(o, "spec.hard")).and_then(Value::as_object);
        let mut entries: Vec<_> = hard.into_iter().flatten().collect();
        entries.sort_by_key(|(resource, _)| resource.as_str());
        for (resource, allowed) in entries {
            let used = at(o, "status.used").and_then(|used| used.get(resource));
            let entry = format!("{resource}: {}/{}", scalar(used, "0"), scalar(Some(allowed), "0"));
            let column = if resource.starts_with("limits") { &mut limits } else { &mut requests };
            column.push(entry);
        }
        vec![cell::name(o), requests.join(", ").into(), limits.join(", ").into(), cell::age(o, now)]
    },
};

static BINDINGS: Printer = Printer {
    columns: &[
        NAME,
        text_column("Role", "Role that is granted."),
        AGE,
        wide("Users", "Users that have it."),
        wide("Groups", "Groups that have it."),
        wide("ServiceAccounts", "Service accounts that have it."),
    ],
    cells: |o, now| {
        let of_kind = |kind: &str| -> String {
            let subjects = list(o, "subjects").iter().filter(|s| text(s, "kind") == kind);
            let names = subjects.map(|s| match (kind, text(s, "namespace")) {
                ("ServiceAccount", namespace) => format!("{namespace}/{}", text(s, "name")),
                _ => text(s, "name").to_owned(),
            });
            names.collect::<Vec<_>>().join(", ")
        };
        let role = format!("{}/{}", text(o, "roleRef.kind"), text(o, "roleRef.name"));
        vec![
            cell::name(o),
            role.into(),
            cell::age(o, now),
            of_kind("User").into(),
            of_kind("Group").into(),
            of_kind("ServiceAccount").into(),
        ]
    },
};

static SIGNING_REQUESTS: Printer = Printer {
    columns: &[
        NAME,
        AGE,
        text_column("SignerName", "Who signs."),
        text_column("Requestor", "Who asked."),
        text_column("RequestedDuration", "For how long."),
        text_column("Condition", "Whether it was approved and issued."),
    ],
    cells: |o, now| {
        let duration = at(o, "spec.expirationSeconds")
            .and_then(Value::as_i64)
            .map_or("<none>".to_owned(), time::human_duration);
        vec![
            cell::name(o),
            cell::age(o, now),
            text_or(o, "spec.signerName", "<none>").into(),
            text(o, "spec.username").into(),
            duration.into(),
            signing_state(o).into(),
        ]
    },
};

fn signing_state(request: &Value) -> String {
    let has = |kind: &str| cell::condition(request, kind).is_some();
    let mut words = Vec::new();
    words.push(match request {
        _ if has("Denied") => "Denied",
        _ if has("Approved") => "Approved",
        _ => "Pending",
    });
    if has("Failed") {
        words.push("Failed");
    }
    if !text(request, "status.certificate").is_empty() {
        words.push("Issued");
    }
    words.join(",")
}

static FLOW_SCHEMAS: Printer = Printer {
    columns: &[
        NAME,
        text_column("PriorityLevel", "Level that its requests have."),
        number("MatchingPrecedence", "Lower ones are tried first."),
        text_column("DistinguisherMethod", "How flows are told apart."),
        AGE,
        text_column("MissingPL", "Whether the level is absent."),
    ],
    cells: |o, now| {
        let dangling = cell::condition(o, "Dangling").map_or("?", |c| text(c, "status"));
        vec![
            cell::name(o),
            text(o, "spec.priorityLevelConfiguration.name").into(),
            integer(o, "spec.matchingPrecedence").into(),
            text_or(o, "spec.distinguisherMethod.type", "<none>").into(),
            cell::age(o, now),
            dangling.into(),
        ]
    },
};

static PRIORITY_LEVELS: Printer = Printer {
    columns: &[
        NAME,
        text_column("Type", "Limited or exempt."),
        text_column("NominalConcurrencyShares", "Its share of the server."),
        text_column("Queues", "Number of queues."),
        text_column("HandSize", "Queues that a flow may use."),
        text_column("QueueLengthLimit", "Requests that may wait in a queue."),
        AGE,
    ],
    cells: |o, now| {
        let shares = at(o, "spec.limited.nominalConcurrencyShares")
            .or_else(|| at(o, "spec.exempt.nominalConcurrencyShares"));
        let queuing = |field: &str| {
            scalar(at(o, "spec.limited.limitResponse.queuing").and_then(|q| at(q, field)), "<none>")
        };
        vec![
            cell::name(o),
            text(o, "spec.type").into(),
            scalar(shares, "<none>").into(),
            queuing("queues").into(),
            queuing("handSize").into(),
            queuing("queueLengthLimit").into(),
            cell::age(o, now),
        ]
    },
};
