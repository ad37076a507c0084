//! The pods that a DaemonSet makes of its template: each for one node, and patient with the troubles of nodes.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Toleration,
};

use crate::history::REVISION_LABEL;
use crate::own::{OwnerKind, body, pod_metadata, set_label};
use catamaran_client::object;

/// The spec of the template with the tolerations that its pods get.
pub(super) fn tolerant(set: &DaemonSet) -> PodSpec {
    let template = set.spec.as_ref().map(|spec| &spec.template);
    let mut spec = template.and_then(|template| template.spec.clone()).unwrap_or_default();
    let mut troubles = vec![
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        troubles.push(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in troubles {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    spec
}

/// The pod for `node`, as the body of a request.
pub(super) fn pod(kind: &OwnerKind, set: &DaemonSet, spec: &PodSpec, hash: &str, node: &str) -> Vec<u8> {
    let template = set.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref());
    let mut metadata = pod_metadata(kind, &set.metadata, template);
    metadata.generate_name = Some(format!("{}-", object::name(&set.metadata)));
    set_label(&mut metadata, REVISION_LABEL, hash);
    let mut spec = spec.clone();
    let by_name = NodeSelectorTerm {
        match_fields: Some(vec![NodeSelectorRequirement {
            key: "metadata.name".to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![node.to_owned()]),
        }]),
        ..NodeSelectorTerm::default()
    };
    // What the template requires was checked already; the scheduler is left no choice.
    spec.affinity
        .get_or_insert_default()
        .node_affinity
        .get_or_insert_default()
        .required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![by_name] });
    body(&metadata, &spec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemonset::KIND;
    use crate::pod::Pod;
    use serde_json::json;

    #[test]
    fn a_pod_is_made_for_a_node() {
        let set: DaemonSet = serde_json::from_value(json!({
            "metadata": {"name": "log", "namespace": "ns", "uid": "u"},
            "spec": {"selector": {}, "template": {"metadata": {"labels": {"app": "log"}}, "spec": {"containers": []}}}
        }))
        .unwrap();
        let pod: Pod = serde_json::from_slice(&pod(&KIND, &set, &tolerant(&set), "h", "n1")).unwrap();
        assert_eq!((pod.target_node(), pod.node()), (Some("n1"), None));
        assert_eq!(pod.spec.tolerations.len(), 6);
        assert_eq!(object::label(&pod.metadata, REVISION_LABEL), Some("h"));
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("log-"));
    }
}
