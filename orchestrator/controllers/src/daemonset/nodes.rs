//! Which nodes a DaemonSet wants a pod on.

use k8s_openapi::api::core::v1::{Node, PodSpec, Taint, Toleration};

use catamaran_client::object;

use crate::node_selector::matches;

/// May a pod be on a node?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// One must be there.
    Wanted,
    /// One that is there may stay, but none is made.
    Borne,
    /// None may be there.
    Refused,
}

/// Does `spec`, with the tolerations that its pods get, fit to `node`?
pub(super) fn fit(spec: &PodSpec, node: &Node) -> Fit {
    let name = object::name(&node.metadata);
    let named = spec.node_name.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == name);
    if !named || !is_selected(spec, node) {
        return Fit::Refused;
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let refuses = |effect: &str| {
        let mut taints = taints.iter().filter(|taint| taint.effect == effect);
        taints.any(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    };
    match (refuses("NoExecute"), refuses("NoSchedule")) {
        (true, _) => Fit::Refused,
        (false, true) => Fit::Borne,
        (false, false) => Fit::Wanted,
    }
}

fn is_selected(spec: &PodSpec, node: &Node) -> bool {
    let label = |key: &str| object::label(&node.metadata, key);
    let selector = spec.node_selector.iter().flatten();
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selector.into_iter().all(|(key, value)| label(key) == Some(value))
        && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches(term, node)))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let any = |wanted: &Option<String>, value: &str| {
        wanted.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == value)
    };
    let exists = toleration.operator.as_deref() == Some("Exists");
    let value = toleration.value.as_deref().unwrap_or_default();
    any(&toleration.effect, &taint.effect)
        && any(&toleration.key, &taint.key)
        && (exists || value == taint.value.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn who_fits_where() {
        let taint = |effect: &str| json!([{"key": "t", "value": "v", "effect": effect}]);
        let bears = json!([{"key": "t", "operator": "Exists"}]);
        let affinity = |terms: Value| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
        let zone = json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}]);
        let name = |name: &str| json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]);
        // (pod, taints, fit); the node is `n`, in zone `a`
        let table = [
            (json!({}), json!([]), Fit::Wanted),
            (json!({"nodeName": "m"}), json!([]), Fit::Refused),
            (json!({"nodeSelector": {"zone": "a"}}), json!([]), Fit::Wanted),
            (json!({"nodeSelector": {"zone": "c"}}), json!([]), Fit::Refused),
            (json!({"affinity": affinity(zone)}), json!([]), Fit::Wanted),
            (json!({"affinity": affinity(name("n"))}), json!([]), Fit::Wanted),
            (json!({"affinity": affinity(name("m"))}), json!([]), Fit::Refused),
            (json!({"affinity": affinity(json!([{}]))}), json!([]), Fit::Refused),
            (json!({}), taint("NoSchedule"), Fit::Borne),
            (json!({}), taint("NoExecute"), Fit::Refused),
            (json!({}), taint("PreferNoSchedule"), Fit::Wanted),
            (json!({"tolerations": bears}), taint("NoExecute"), Fit::Wanted),
        ];
        for (spec, taints, expected) in table {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let node: Node = serde_json::from_value(json!({
                "metadata": {"name": "n", "labels": {"zone": "a"}}, "spec": {"taints": taints}}))
            .unwrap();
            let pod: PodSpec = serde_json::from_value(spec.clone()).unwrap();
            assert_eq!(fit(&pod, &node), expected, "{spec} {taints}");
        }
    }
}
