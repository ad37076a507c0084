//! The levels and schemas of every cluster (Kubernetes 1.33), from two tables. Pure.

use serde_json::{Value, json};

use super::GROUP;

/// Whoever sets this to `false` keeps an object as he changed it.
pub(super) const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

const EVERYBODY: &[&str] = &["g:system:unauthenticated", "g:system:authenticated"];
const CONTROLLERS: &str = "u:system:kube-controller-manager";
const SCHEDULER: &str = "u:system:kube-scheduler";
const OWN_ACCOUNTS: &str = "a:kube-system/*";

/// Name, shares, lendable percent, and queues with hand and length.
type LevelRow = (&'static str, u32, u32, Option<(u32, u32, u32)>);

const LEVELS: &[LevelRow] = &[
    ("catch-all", 5, 0, None),
    ("global-default", 20, 50, Some((128, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("system", 30, 33, Some((64, 6, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
];

/// Name, precedence, level, distinguisher, subjects, rules.
type SchemaRow = (&'static str, u32, &'static str, &'static str, &'static [&'static str], Rules);

#[derive(Clone, Copy)]
enum Rules {
    All,
    Probes,
    Leases,
    Endpoints,
    Nodes,
}

const SCHEMAS: &[SchemaRow] = &[
    ("exempt", 1, "exempt", "", &["g:system:masters"], Rules::All),
    ("probes", 2, "exempt", "", EVERYBODY, Rules::Probes),
    (
        "system-leader-election",
        100,
        "leader-election",
        "ByUser",
        &[CONTROLLERS, SCHEDULER, OWN_ACCOUNTS],
        Rules::Leases,
    ),
    (
        "endpoint-controller",
        150,
        "workload-high",
        "ByUser",
        &[
            CONTROLLERS,
            "a:kube-system/endpoint-controller",
            "a:kube-system/endpointslicemirroring-controller",
        ],
        Rules::Endpoints,
    ),
    ("workload-leader-election", 200, "leader-election", "ByUser", &[OWN_ACCOUNTS], Rules::Leases),
    ("system-node-high", 400, "node-high", "ByUser", &["g:system:nodes"], Rules::Nodes),
    ("system-nodes", 500, "system", "ByUser", &["g:system:nodes"], Rules::All),
    ("kube-controller-manager", 800, "workload-high", "ByNamespace", &[CONTROLLERS], Rules::All),
    ("kube-scheduler", 800, "workload-high", "ByNamespace", &[SCHEDULER], Rules::All),
    ("kube-system-service-accounts", 900, "workload-high", "ByNamespace", &[OWN_ACCOUNTS], Rules::All),
    ("service-accounts", 9000, "workload-low", "ByUser", &["g:system:serviceaccounts"], Rules::All),
    ("global-default", 9900, "global-default", "ByUser", EVERYBODY, Rules::All),
    ("catch-all", 10_000, "catch-all", "ByUser", EVERYBODY, Rules::All),
];

/// All objects: levels before the schemas that refer to them.
pub(super) fn objects() -> Vec<Value> {
    let mut objects = vec![exempt()];
    objects.extend(LEVELS.iter().map(level));
    objects.extend(SCHEMAS.iter().map(schema));
    objects
}

/// Those that cannot be without.
pub(super) fn mandatory() -> Vec<Value> {
    let must = |object: &Value| is_mandatory(object["metadata"]["name"].as_str().unwrap_or_default());
    objects().into_iter().filter(must).collect()
}

/// Whether an object of that name is always there.
pub(super) fn is_mandatory(name: &str) -> bool {
    matches!(name, "exempt" | "catch-all")
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": {"name": name, "annotations": {AUTOUPDATE: "true"}},
        "spec": spec,
    })
}

fn exempt() -> Value {
    let exempt = json!({"nominalConcurrencyShares": 0, "lendablePercent": 0});
    object("PriorityLevelConfiguration", "exempt", json!({"type": "Exempt", "exempt": exempt}))
}

fn level((name, shares, lendable, queuing): &LevelRow) -> Value {
    let response = match queuing {
        Some((queues, hand, length)) => json!({
            "type": "Queue",
            "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length},
        }),
        None => json!({"type": "Reject"}),
    };
    let limited = json!({
        "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response,
    });
    object("PriorityLevelConfiguration", name, json!({"type": "Limited", "limited": limited}))
}

fn schema((name, precedence, level, distinguisher, subjects, rules): &SchemaRow) -> Value {
    let mut rule = rules.value();
    rule["subjects"] = subjects.iter().filter_map(|text| subject(text)).collect();
    let mut spec = json!({
        "matchingPrecedence": precedence,
        "priorityLevelConfiguration": {"name": level},
        "rules": [rule],
    });
    if !distinguisher.is_empty() {
        spec["distinguisherMethod"] = json!({"type": distinguisher});
    }
    object("FlowSchema", name, spec)
}

fn subject(text: &str) -> Option<Value> {
    let (kind, name) = text.split_once(':')?;
    Some(match (kind, name.split_once('/')) {
        ("a", Some((namespace, name))) => {
            json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}})
        }
        ("u", _) => json!({"kind": "User", "user": {"name": name}}),
        _ => json!({"kind": "Group", "group": {"name": name}}),
    })
}

impl Rules {
    fn value(self) -> Value {
        let everywhere = |verbs: &[&str], group: &str, resources: &[&str]| json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
        let cluster = |mut rule: Value| {
            rule["clusterScope"] = true.into();
            rule
        };
        let change = &["get", "create", "update"];
        match self {
            Rules::All => json!({
                "resourceRules": [cluster(everywhere(&["*"], "*", &["*"]))],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            }),
            Rules::Probes => json!({
                "nonResourceRules": [
                    {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]},
                ],
            }),
            Rules::Leases => {
                json!({"resourceRules": [everywhere(change, "coordination.k8s.io", &["leases"])]})
            }
            Rules::Endpoints => json!({"resourceRules": [everywhere(change, "", &["endpoints"])]}),
            Rules::Nodes => json!({
                "resourceRules": [
                    cluster(everywhere(&["*"], "", &["nodes", "nodes/status"])),
                    everywhere(&["*"], "coordination.k8s.io", &["leases"]),
                ],
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_has_its_level() {
        let objects = objects();
        let named = |kind: &str| -> Vec<&str> {
            let of_kind = objects.iter().filter(|object| object["kind"] == kind);
            of_kind.filter_map(|object| object["metadata"]["name"].as_str()).collect()
        };
        let levels = named("PriorityLevelConfiguration");
        assert_eq!(levels.len(), 8);
        assert_eq!(named("FlowSchema").len(), 13);
        for object in objects.iter().filter(|object| object["kind"] == "FlowSchema") {
            let level = object["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap();
            assert!(levels.contains(&level), "{level}");
            assert!(!object["spec"]["rules"][0]["subjects"].as_array().unwrap().is_empty());
        }
        assert_eq!(mandatory().len(), 4);
        let nodes = objects.iter().find(|object| object["metadata"]["name"] == "system-nodes").unwrap();
        assert_eq!(nodes["spec"]["rules"][0]["subjects"][0]["group"]["name"], "system:nodes");
    }
}
