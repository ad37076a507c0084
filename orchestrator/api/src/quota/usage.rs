//! What the objects of a namespace use of a ResourceQuota.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::defaults;
use crate::quantity::{Format, Quantity};
use crate::resources::{self, Side};

/// The objects that one name in a quota counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Counted {
    /// API group, empty for the core group.
    pub group: String,
    /// Plural of the kind.
    pub plural: String,
}

/// What is summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure<'a> {
    /// Each object that exists.
    Objects,
    /// Each pod that has not ended.
    Pods,
    /// Requests or limits of the pods that have not ended.
    Containers(Side, &'a str),
    NodePorts,
    LoadBalancers,
    /// Claims of a storage class, or of any.
    Claims(Option<&'a str>),
    Storage(Option<&'a str>),
}

/// Kinds of the core group that are counted by their name alone.
const PLAIN: [&str; 6] = [
    "configmaps",
    "persistentvolumeclaims",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];
/// What containers have by themselves.
const NATIVE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const HUGE_PAGES: &str = "hugepages-";
/// Between a storage class and what is counted of it.
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";

pub(super) fn measure(name: &str) -> Option<(Counted, Measure<'_>)> {
    let core = |plural: &str| Counted { group: String::new(), plural: plural.to_owned() };
    let claims = || core("persistentvolumeclaims");
    if let Some(counted) = name.strip_prefix("count/") {
        let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
        return Some((Counted { group: group.to_owned(), plural: plural.to_owned() }, Measure::Objects));
    }
    if let Some((class, what)) = name.split_once(OF_CLASS) {
        return match what {
            "requests.storage" => Some((claims(), Measure::Storage(Some(class)))),
            "persistentvolumeclaims" => Some((claims(), Measure::Claims(Some(class)))),
            _ => None,
        };
    }
    match name {
        "pods" => Some((core("pods"), Measure::Pods)),
        _ if NATIVE.contains(&name) || name.starts_with(HUGE_PAGES) => {
            Some((core("pods"), Measure::Containers(Side::Requests, name)))
        }
        "services.nodeports" => Some((core("services"), Measure::NodePorts)),
        "services.loadbalancers" => Some((core("services"), Measure::LoadBalancers)),
        "requests.storage" => Some((claims(), Measure::Storage(None))),
        "persistentvolumeclaims" => Some((claims(), Measure::Claims(None))),
        plain if PLAIN.contains(&plain) => Some((core(plain), Measure::Objects)),
        _ => of_containers(name).map(|measure| (core("pods"), measure)),
    }
}

/// Requests of anything that containers ask for; limits only of what there is more of than is set aside.
fn of_containers(name: &str) -> Option<Measure<'_>> {
    if let Some(resource) = name.strip_prefix("limits.") {
        return NATIVE.contains(&resource).then_some(Measure::Containers(Side::Limits, resource));
    }
    let resource = name.strip_prefix("requests.")?;
    let known = NATIVE.contains(&resource) || resource.starts_with(HUGE_PAGES);
    // Others are extended resources, whose names have a domain that is not Kubernetes' own.
    let extended = resource.split_once('/').is_some_and(|(domain, _)| !domain.ends_with("kubernetes.io"));
    (known || extended).then_some(Measure::Containers(Side::Requests, resource))
}

/// Which objects must be known to say how much of `name` is used; `None` for a name that means nothing.
pub fn counted(name: &str) -> Option<Counted> {
    measure(name).map(|(counted, _)| counted)
}

/// A scope of a quota with an operator and values.
pub type Scope = (String, String, Vec<String>);

/// The scopes that objects must be in, in both forms in which a quota's spec can write them.
pub fn scopes(spec: &Value) -> Vec<Scope> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let plain = spec["scopes"].as_array().into_iter().flatten();
    let chosen = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten().map(|one| {
        let values = one["values"].as_array().into_iter().flatten().map(text).collect();
        (text(&one["scopeName"]), text(&one["operator"]), values)
    });
    plain.map(|name| (text(name), "Exists".to_owned(), Vec::new())).chain(chosen).collect()
}

/// How much of `name` the objects use, of which only those in all `scopes` count.
pub fn used(name: &str, objects: &[Value], scopes: &[Scope]) -> Quantity {
    let Some((counted, measure)) = measure(name) else { return Quantity::ZERO };
    let in_scope = |object: &&Value| in_scopes(&counted, object, scopes);
    let amounts = objects.iter().filter(in_scope).map(|object| amount(measure, object));
    // The first amount says how the sum is written.
    amounts.filter(|amount| !amount.is_zero()).reduce(|sum, amount| sum + amount).unwrap_or(Quantity::ZERO)
}

/// Whether an object of a kind is in all `scopes`. They are about pods; nothing else is ever in one.
pub(super) fn in_scopes(kind: &Counted, object: &Value, scopes: &[Scope]) -> bool {
    let pods = kind.plural == "pods" && kind.group.is_empty();
    scopes.iter().all(|scope| pods && is_in(object, scope))
}

fn units(count: usize) -> Quantity {
    Quantity::from_units(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi)
}

pub(super) fn amount(measure: Measure<'_>, object: &Value) -> Quantity {
    let ended = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let class = object["spec"]["storageClassName"].as_str();
    let service = object["spec"]["type"].as_str().unwrap_or_default();
    match measure {
        Measure::Objects => units(1),
        Measure::Pods | Measure::Containers(..) if ended => Quantity::ZERO,
        Measure::Pods => units(1),
        Measure::Containers(side, resource) => of_pod(&object["spec"], side, resource),
        Measure::NodePorts => {
            let ports = object["spec"]["ports"].as_array().map_or(0, Vec::len);
            let allocated = service == "NodePort"
                || (service == "LoadBalancer" && object["spec"]["allocateLoadBalancerNodePorts"] != false);
            units(if allocated { ports } else { 0 })
        }
        Measure::LoadBalancers => units(usize::from(service == "LoadBalancer")),
        Measure::Claims(wanted) => units(usize::from(wanted.is_none() || wanted == class)),
        Measure::Storage(wanted) if wanted.is_none() || wanted == class => {
            quantity(&object["spec"]["resources"]["requests"]["storage"])
        }
        Measure::Storage(_) => Quantity::ZERO,
    }
}

fn quantity(value: &Value) -> Quantity {
    Quantity::from_value(value).unwrap_or(Quantity::ZERO)
}

/// What a pod needs of one resource.
fn of_pod(spec: &Value, side: Side, resource: &str) -> Quantity {
    resources::of_pod_with_overhead(spec, side).remove(resource).unwrap_or(Quantity::ZERO)
}

fn is_in(pod: &Value, (scope, operator, values): &Scope) -> bool {
    let spec = &pod["spec"];
    let class = spec["priorityClassName"].as_str().filter(|class| !class.is_empty());
    let quality = pod["status"]["qosClass"].as_str().unwrap_or_else(|| defaults::qos_class(spec));
    let best_effort = quality == "BestEffort";
    let terminating = spec["activeDeadlineSeconds"].is_i64() || spec["activeDeadlineSeconds"].is_u64();
    match scope.as_str() {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => {
            let among = class.is_some_and(|class| values.iter().any(|value| value == class));
            match operator.as_str() {
                "In" => among,
                "NotIn" => !among,
                "DoesNotExist" => class.is_none(),
                _ => class.is_some(),
            }
        }
        "CrossNamespacePodAffinity" => ["podAffinity", "podAntiAffinity"].iter().any(|name| {
            let terms = spec["affinity"][name].to_string();
            terms.contains("\"namespaces\":[\"") || terms.contains("\"namespaceSelector\":")
        }),
        _ => false,
    }
}

/// How much of each name is used. `objects` gives those that a name counts; a name whose objects are not known is
/// left out.
pub fn all_used<'a>(
    names: impl Iterator<Item = &'a String>,
    objects: impl Fn(&Counted) -> Option<&'a [Value]>,
    scopes: &[Scope],
) -> BTreeMap<String, String> {
    let one = |name: &'a String| {
        let found = objects(&counted(name)?)?;
        Some((name.clone(), used(name, found, scopes).to_string()))
    };
    names.filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(cpu: &str, memory: &str) -> Value {
        json!({"resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu}}})
    }

    #[test]
    fn what_pods_use() {
        let pods = [
            json!({"spec": {"containers": [container("100m", "64Mi"), container("1", "64Mi")]}}),
            json!({"spec": {"containers": [container("100m", "1Mi")], "overhead": {"cpu": "50m"}, "activeDeadlineSeconds": 5,
                            "initContainers": [container("3", "1Mi")]}, "status": {"qosClass": "BestEffort"}}),
            json!({"spec": {"containers": [container("9", "9Gi")], "priorityClassName": "high"}, "status": {"phase": "Failed"}}),
        ];
        let scope = |name: &str| vec![(name.to_owned(), "Exists".to_owned(), Vec::new())];
        let table = [
            ("pods", vec![], "2"),
            ("count/pods", vec![], "3"),
            ("cpu", vec![], "4150m"),
            ("requests.cpu", vec![], "4150m"),
            ("limits.cpu", vec![], "4150m"),
            ("memory", vec![], "129Mi"),
            ("limits.memory", vec![], "0"),
            ("pods", scope("Terminating"), "1"),
            ("pods", scope("NotTerminating"), "1"),
            ("cpu", scope("BestEffort"), "3050m"),
            ("count/pods", scope("PriorityClass"), "1"),
        ];
        for (name, scopes, expected) in table {
            assert_eq!(used(name, &pods, &scopes).to_string(), expected, "{name} {scopes:?}");
        }
    }

    #[test]
    fn what_other_objects_use() {
        let services = [
            json!({"spec": {"type": "NodePort", "ports": [{}, {}]}}),
            json!({"spec": {"type": "LoadBalancer", "ports": [{}]}}),
            json!({"spec": {"type": "LoadBalancer", "ports": [{}], "allocateLoadBalancerNodePorts": false}}),
            json!({"spec": {"type": "ClusterIP", "ports": [{}]}}),
        ];
        let claim = |class: &str, size: &str| json!({"spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}});
        let claims = [claim("fast", "1Gi"), claim("slow", "512Mi")];
        let table = [
            ("services", &services[..], "4"),
            ("services.nodeports", &services[..], "3"),
            ("services.loadbalancers", &services[..], "2"),
            ("persistentvolumeclaims", &claims[..], "2"),
            ("requests.storage", &claims[..], "1536Mi"),
            ("fast.storageclass.storage.k8s.io/requests.storage", &claims[..], "1Gi"),
            ("fast.storageclass.storage.k8s.io/persistentvolumeclaims", &claims[..], "1"),
            ("count/deployments.apps", &claims[..], "2"),
        ];
        for (name, objects, expected) in table {
            assert_eq!(used(name, objects, &[]).to_string(), expected, "{name}");
        }
    }

    #[test]
    fn what_a_name_counts() {
        let table = [
            ("count/deployments.apps", Some(("apps", "deployments"))),
            ("secrets", Some(("", "secrets"))),
            ("requests.example.com/gpu", Some(("", "pods"))),
            ("services.loadbalancers", Some(("", "services"))),
            ("requests.hugepages-2Mi", Some(("", "pods"))),
            ("hugepages-2Mi", Some(("", "pods"))),
            ("limits.memory", Some(("", "pods"))),
            ("limits.example.com/gpu", None),
            ("requests.wishes", None),
            ("wishes", None),
        ];
        for (name, expected) in table {
            let found = counted(name).map(|counted| (counted.group, counted.plural));
            let expected = expected.map(|(group, plural)| (group.to_owned(), plural.to_owned()));
            assert_eq!(found, expected, "{name}");
        }
    }
}
