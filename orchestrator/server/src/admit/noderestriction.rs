//! NodeRestriction: a node changes itself, its lease, its CSINode, and the pods that are bound to it; of those only
//! status, deletion, eviction and mirrors of its own static pods. The words are those of Kubernetes.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use catamaran_api::meta;
use catamaran_api::status::{Status, quoted};

use super::look_up;
use crate::context::Context;
use crate::node::{self, references};
use crate::strategy::Part;

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Leases with which a node claims a block of the pod range.
const BLOCK: &str = "catamaran.dev/pod-block";
/// Labels of Kubernetes' own domains that a node may set on itself.
const LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "node.kubernetes.io/windows-build",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];
/// Domains below which a node may set any label.
const DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// What a node does.
#[derive(Clone, Copy)]
pub(super) enum Doing<'a> {
    Create(&'a Value),
    /// The new and the old state.
    Update(Part, &'a Value, &'a Value),
    Delete(&'a Value),
}

/// Refuses what a node may not do; everybody else may, as far as this is concerned.
pub(super) async fn check(context: &Context, doing: Doing<'_>) -> Result<(), Status> {
    let Some(node) = node::name_of(&context.user) else { return Ok(()) };
    let verdict = match (context.stored.group, context.stored.plural) {
        ("", "pods") => {
            if let Doing::Create(pod) = doing {
                owner_exists(context, node, pod).await?;
            }
            pod(node, doing)
        }
        ("", "nodes") => of_node(node, context, doing),
        ("", "persistentvolumeclaims") => claim(node, doing),
        ("coordination.k8s.io", "leases") => lease(node, context, doing),
        ("storage.k8s.io", "csinodes") => named_after(node, doing, "CSINode"),
        _ => Ok(()),
    };
    verdict.map_err(|why| {
        let (Doing::Create(object) | Doing::Update(_, _, object) | Doing::Delete(object)) = doing;
        Status::forbidden(context.group_resource(), meta::name(object), &why)
    })
}

fn is_on(node: &str, pod: &Value) -> bool {
    pod["spec"]["nodeName"].as_str() == Some(node)
}

fn pod(node: &str, doing: Doing<'_>) -> Result<(), String> {
    let own = quoted(node);
    match doing {
        Doing::Create(pod) => mirror(node, pod),
        Doing::Delete(pod) if is_on(node, pod) => Ok(()),
        Doing::Delete(_) => Err(format!("node {own} can only delete pods with spec.nodeName set to itself")),
        Doing::Update(Part::Status, new, old) => {
            if !is_on(node, old) {
                return Err(format!(
                    "node {own} can only update pod status for pods with spec.nodeName set to itself"
                ));
            }
            if meta::labels(new) != meta::labels(old) {
                return Err(format!("node {own} cannot update labels through pod status"));
            }
            let claims = |pod: &Value| pod["status"]["resourceClaimStatuses"].clone();
            if claims(new) != claims(old) {
                return Err(format!("node {own} cannot update resource claim statues"));
            }
            Ok(())
        }
        Doing::Update(..) => {
            Err(format!("unexpected operation \"UPDATE\", node {own} can only create and delete mirror pods"))
        }
    }
}

/// A node may make only a pod that mirrors one of its own static pods, and that reaches nothing by being made.
fn mirror(node: &str, pod: &Value) -> Result<(), String> {
    let own = quoted(node);
    if meta::annotation(pod, MIRROR).is_none() {
        return Err(format!(
            "pod does not have {} annotation, node {own} can only create mirror pods",
            quoted(MIRROR)
        ));
    }
    if !is_on(node, pod) {
        return Err(format!("node {own} can only create pods with spec.nodeName set to itself"));
    }
    let owners: Vec<_> = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten().collect();
    let [owner] = owners.as_slice() else {
        let which = if owners.is_empty() { "an" } else { "a single" };
        return Err(format!("node {own} can only create pods with {which} owner reference set to itself"));
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return Err(format!("node {own} can only create pods with an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return Err(format!(
            "node {own} can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner["blockOwnerDeletion"] == true {
        return Err(format!("node {own} must not set blockOwnerDeletion on an owner reference"));
    }
    if pod["spec"]["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Err(format!("node {own} can not create pods that reference a service account"));
    }
    let referenced = references::of(pod);
    let kinds = [
        (references::Kind::Secret, "secrets"),
        (references::Kind::ConfigMap, "configmaps"),
        (references::Kind::Claim, "persistentvolumeclaims"),
    ];
    for (kind, plural) in kinds {
        if referenced.iter().any(|reference| reference.kind == kind) {
            return Err(format!("node {own} can not create pods that reference {plural}"));
        }
    }
    Ok(())
}

/// The node that a mirror pod names as its owner is the one that exists.
async fn owner_exists(context: &Context, node: &str, pod: &Value) -> Result<(), Status> {
    let wanted = pod["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap_or_default();
    let found = look_up(context, ("", "v1", "nodes"), None, node).await?;
    let found = found.as_ref().map(meta::uid).unwrap_or_default();
    if found == wanted || wanted.is_empty() {
        return Ok(());
    }
    let why = format!("node {node} UID mismatch: expected {wanted} got {found}");
    Err(Status::forbidden(context.group_resource(), meta::name(pod), &why))
}

fn of_node(node: &str, context: &Context, doing: Doing<'_>) -> Result<(), String> {
    let own = quoted(node);
    let (Doing::Create(object) | Doing::Update(_, _, object) | Doing::Delete(object)) = doing;
    let name = if context.name().is_empty() { meta::name(object) } else { context.name() };
    if name != node {
        return Err(format!("node {own} is not allowed to modify node {}", quoted(name)));
    }
    match doing {
        Doing::Create(new) => {
            let forbidden = forbidden_labels(meta::labels(new), None);
            if forbidden.is_empty() {
                return Ok(());
            }
            Err(format!("node {own} is not allowed to set the following labels: {}", forbidden.join(", ")))
        }
        Doing::Update(_, new, old) => {
            let taints = |node: &Value| node["spec"]["taints"].as_array().cloned().unwrap_or_default();
            if taints(new) != taints(old) {
                return Err(format!("node {own} is not allowed to modify taints"));
            }
            let forbidden = forbidden_labels(meta::labels(new), meta::labels(old));
            if forbidden.is_empty() {
                return Ok(());
            }
            Err(format!("is not allowed to modify labels: {}", forbidden.join(", ")))
        }
        Doing::Delete(_) => Ok(()),
    }
}

/// The labels that differ and that would let a node draw to itself what is not meant for it.
fn forbidden_labels(new: Option<&Map<String, Value>>, old: Option<&Map<String, Value>>) -> Vec<String> {
    let keys = |labels: Option<&Map<String, Value>>| -> BTreeSet<String> {
        labels.into_iter().flatten().map(|(key, _)| key.clone()).collect()
    };
    let value = |labels: Option<&Map<String, Value>>, key: &str| labels.and_then(|l| l.get(key)).cloned();
    let all = &keys(new) | &keys(old);
    let changed = all.into_iter().filter(|key| value(new, key) != value(old, key));
    changed.filter(|key| is_forbidden(key)).collect()
}

fn is_forbidden(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    let within = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    if within(RESTRICTED) {
        return true;
    }
    let kubernetes = within("kubernetes.io") || within("k8s.io");
    kubernetes && !LABELS.contains(&key) && !DOMAINS.iter().any(|allowed| within(allowed))
}

/// A node says how large a claim has become, and nothing else.
fn claim(node: &str, doing: Doing<'_>) -> Result<(), String> {
    let Doing::Update(Part::Status, new, old) = doing else {
        return Err("may only update PVC status".to_owned());
    };
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        for field in ["resourceVersion", "managedFields"] {
            meta::metadata_mut(&mut claim).remove(field);
        }
        if let Some(status) = claim.get_mut("status").and_then(Value::as_object_mut) {
            for field in ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"] {
                status.remove(field);
            }
        }
        claim
    };
    if rest(new) == rest(old) {
        return Ok(());
    }
    let own = quoted(node);
    Err(format!(
        "node {own} is not allowed to update fields other than status.quantity and status.conditions"
    ))
}

fn lease(node: &str, context: &Context, doing: Doing<'_>) -> Result<(), String> {
    // A block of the pod range is claimed by whoever creates its lease; nobody changes it.
    if let Doing::Create(lease) = doing
        && meta::label(lease, BLOCK).is_some()
        && lease["spec"]["holderIdentity"] == node
    {
        return Ok(());
    }
    if context.namespace() != Some(LEASES) {
        return Err(format!("can only access leases in the {} system namespace", quoted(LEASES)));
    }
    named_after(node, doing, "node lease")
}

fn named_after(node: &str, doing: Doing<'_>, called: &str) -> Result<(), String> {
    let (Doing::Create(object) | Doing::Update(_, _, object) | Doing::Delete(object)) = doing;
    if meta::name(object) == node {
        return Ok(());
    }
    Err(format!("can only access {called} with the same name as the requesting node"))
}

/// Whether a node may evict a pod.
pub(crate) fn eviction(context: &Context, pod: &Value) -> Result<(), Status> {
    match node::name_of(&context.user) {
        Some(node) if !is_on(node, pod) => {
            let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
            Err(Status::forbidden(context.group_resource(), context.name(), &why))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels() {
        let table = [
            ("color", false),
            ("example.com/color", false),
            ("kubernetes.io/hostname", false),
            ("topology.kubernetes.io/zone", false),
            ("foo.node.kubernetes.io/x", false),
            ("kubelet.kubernetes.io/x", false),
            ("node-restriction.kubernetes.io/x", true),
            ("a.node-restriction.kubernetes.io/x", true),
            ("node-role.kubernetes.io/control-plane", true),
            ("kubernetes.io/x", true),
            ("x.k8s.io/y", true),
        ];
        for (label, expected) in table {
            assert_eq!(is_forbidden(label), expected, "{label}");
        }
        let labels = |value: Value| value.as_object().cloned().unwrap();
        let (new, old) = (
            labels(json!({"k8s.io/a": "1", "k8s.io/b": "1", "c": "1"})),
            labels(json!({"k8s.io/a": "1", "k8s.io/d": "1"})),
        );
        assert_eq!(forbidden_labels(Some(&new), Some(&old)), ["k8s.io/b", "k8s.io/d"]);
    }

    #[test]
    fn pods() {
        let mine = json!({"spec": {"nodeName": "n1"}, "metadata": {"labels": {"a": "b"}}});
        let other = json!({"spec": {"nodeName": "n2"}});
        let mut relabelled = mine.clone();
        relabelled["metadata"]["labels"]["a"] = "c".into();
        let table = [
            (Doing::Delete(&mine), ""),
            (Doing::Delete(&other), "node \"n1\" can only delete pods with spec.nodeName set to itself"),
            (Doing::Update(Part::Status, &mine, &mine), ""),
            (
                Doing::Update(Part::Status, &other, &other),
                "node \"n1\" can only update pod status for pods with spec.nodeName set to itself",
            ),
            (
                Doing::Update(Part::Status, &relabelled, &mine),
                "node \"n1\" cannot update labels through pod status",
            ),
            (
                Doing::Update(Part::Main, &mine, &mine),
                "unexpected operation \"UPDATE\", node \"n1\" can only create and delete mirror pods",
            ),
            (
                Doing::Create(&mine),
                "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods",
            ),
        ];
        for (doing, expected) in table {
            assert_eq!(pod("n1", doing).err().unwrap_or_default(), expected);
        }
    }

    #[test]
    fn mirror_pods() {
        let good = json!({
            "metadata": {
                "annotations": {"kubernetes.io/config.mirror": "x"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u", "controller": true}],
            },
            "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
        });
        assert_eq!(mirror("n1", &good), Ok(()));
        let table: [(&str, Value, &str); 6] = [
            ("/spec/nodeName", json!("n2"), "with spec.nodeName set to itself"),
            ("/metadata/ownerReferences", json!([]), "with an owner reference set to itself"),
            (
                "/metadata/ownerReferences/0/controller",
                json!(false),
                "with a controller owner reference set to itself",
            ),
            ("/metadata/ownerReferences/0/name", json!("n2"), "with an owner reference set to itself"),
            (
                "/spec/containers/0",
                json!({"name": "c", "envFrom": [{"secretRef": {"name": "s"}}]}),
                "that reference secrets",
            ),
            (
                "/spec/containers/0",
                json!({"name": "c", "env": [{"name": "e", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]}),
                "that reference configmaps",
            ),
        ];
        for (pointer, value, expected) in table {
            let mut pod = good.clone();
            *pod.pointer_mut(pointer).unwrap() = value;
            let why = mirror("n1", &pod).unwrap_err();
            assert!(why.ends_with(expected), "{pointer}: {why}");
        }
    }
}
