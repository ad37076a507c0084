//! What the objects of a namespace use of a ResourceQuota: functions of values.

use std::collections::BTreeMap;

use catamaran_api::quantity::{Format, Quantity};
use serde_json::Value;

/// The objects that one name in a quota counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Counted {
    /// Empty for the core group.
    pub(super) group: String,
    pub(super) plural: String,
}

/// What is summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure<'a> {
    /// Each object that exists.
    Objects,
    /// Each pod that has not ended.
    Pods,
    /// `requests` or `limits` of the pods that have not ended.
    Containers(&'a str, &'a str),
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
/// Between a storage class and what is counted of it.
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";

fn measure(name: &str) -> Option<(Counted, Measure<'_>)> {
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
        "cpu" | "memory" | "ephemeral-storage" => Some((core("pods"), Measure::Containers("requests", name))),
        "services.nodeports" => Some((core("services"), Measure::NodePorts)),
        "services.loadbalancers" => Some((core("services"), Measure::LoadBalancers)),
        "requests.storage" => Some((claims(), Measure::Storage(None))),
        "persistentvolumeclaims" => Some((claims(), Measure::Claims(None))),
        plain if PLAIN.contains(&plain) => Some((core(plain), Measure::Objects)),
        _ => {
            let (kind, resource) = name.split_once('.')?;
            let kind = ["requests", "limits"].into_iter().find(|known| *known == kind)?;
            Some((core("pods"), Measure::Containers(kind, resource)))
        }
    }
}

/// Which objects must be known to say how much of `name` is used; `None` for a name that means nothing.
pub(super) fn counted(name: &str) -> Option<Counted> {
    measure(name).map(|(counted, _)| counted)
}

/// A scope of a quota with an operator and values.
pub(super) type Scope = (String, String, Vec<String>);

/// How much of `name` the objects use, of which only those in all `scopes` count.
pub(super) fn used(name: &str, objects: &[Value], scopes: &[Scope]) -> Quantity {
    let Some((counted, measure)) = measure(name) else { return Quantity::ZERO };
    // Scopes are about pods; nothing else is ever in one.
    let pods = counted.plural == "pods" && counted.group.is_empty();
    let in_scope = |object: &&Value| scopes.iter().all(|scope| pods && is_in(object, scope));
    let amounts = objects.iter().filter(in_scope).map(|object| amount(measure, object));
    // The first amount says how the sum is written.
    amounts.filter(|amount| !amount.is_zero()).reduce(|sum, amount| sum + amount).unwrap_or(Quantity::ZERO)
}

fn units(count: usize) -> Quantity {
    Quantity::from_units(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi)
}

fn amount(measure: Measure<'_>, object: &Value) -> Quantity {
    let ended = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let class = object["spec"]["storageClassName"].as_str();
    let service = object["spec"]["type"].as_str().unwrap_or_default();
    match measure {
        Measure::Objects => units(1),
        Measure::Pods | Measure::Containers(..) if ended => Quantity::ZERO,
        Measure::Pods => units(1),
        Measure::Containers(kind, resource) => of_pod(&object["spec"], kind, resource),
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

/// What a pod needs: all its containers together, or, if that is more, what one init container needs while those
/// run that were started before it and stay.
fn of_pod(spec: &Value, kind: &str, resource: &str) -> Quantity {
    let of = |container: &Value| quantity(&container["resources"][kind][resource]);
    let list = |name: &str| spec[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut staying = Quantity::ZERO;
    let mut most = Quantity::ZERO;
    for init in list("initContainers") {
        let need = of(init);
        if init["restartPolicy"] == "Always" {
            staying = add(staying, need);
            most = most.max(staying);
        } else {
            most = most.max(add(need, staying));
        }
    }
    let all = list("containers").iter().map(of).fold(staying, add);
    let most = if all >= most { all } else { most };
    // Overhead is a request, and part of a limit where there is one.
    let overhead = quantity(&spec["overhead"][resource]);
    if kind == "limits" && most.is_zero() { most } else { add(most, overhead) }
}

/// The sum, written as the first part that is not zero.
fn add(one: Quantity, other: Quantity) -> Quantity {
    if one.is_zero() { other } else { one + other }
}

fn is_in(pod: &Value, (scope, operator, values): &Scope) -> bool {
    let spec = &pod["spec"];
    let class = spec["priorityClassName"].as_str();
    let best_effort = pod["status"]["qosClass"] == "BestEffort";
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
pub(super) fn all_used<'a>(
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
            ("wishes", None),
        ];
        for (name, expected) in table {
            let found = counted(name).map(|counted| (counted.group, counted.plural));
            let expected = expected.map(|(group, plural)| (group.to_owned(), plural.to_owned()));
            assert_eq!(found, expected, "{name}");
        }
    }
}
