//! Warnings: what is allowed and yet not wise, said beside the answer (`Warning` headers). The texts follow Kubernetes v1.33.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::field_error::Path;
use crate::fields::{at, list, map, number, text};
use crate::kind::Resource;
use crate::{meta, name};

/// What to say about every request for a resource that has had its day.
pub fn deprecated(resource: &Resource) -> Option<&'static str> {
    match (resource.group, resource.version, resource.plural) {
        ("", "v1", "endpoints") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        }
        ("", "v1", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        _ => None,
    }
}

/// What to say about an object that is about to be written; of a change only what it brings in.
pub fn object(resource: &Resource, new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(path) = template_path(resource) else { return warnings };
    let template = |object| if path.is_empty() { Some(object) } else { at(object, path) };
    let Some(pod) = template(new) else { return warnings };
    if old.and_then(template).is_some_and(|before| before["spec"] == pod["spec"]) {
        return warnings;
    }
    let spec_path = if path.is_empty() { "spec".to_owned() } else { format!("{path}.spec") };
    let metadata_path = if path.is_empty() { "metadata".to_owned() } else { format!("{path}.metadata") };
    if resource.plural == "pods" {
        host_name(pod, &mut warnings);
    }
    annotations(pod, &Path::root(&metadata_path), &mut warnings);
    spec(&pod["spec"], &Path::root(&spec_path), &mut warnings);
    warnings
}

/// Where the pod of a resource is: empty for the object itself.
fn template_path(resource: &Resource) -> Option<&'static str> {
    match (resource.group, resource.plural) {
        ("", "pods") => Some(""),
        ("", "podtemplates") => Some("template"),
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => Some("spec.template"),
        ("batch", "cronjobs") => Some("spec.jobTemplate.spec.template"),
        _ => None,
    }
}

fn host_name(pod: &Value, warnings: &mut Vec<String>) {
    let wrong = name::dns1123_label(meta::name(pod));
    if text(pod, "spec.hostname").is_empty() && !wrong.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
}

fn annotations(pod: &Value, metadata: &Path<'_>, warnings: &mut Vec<String>) {
    let path = metadata.child("annotations");
    for (key, _) in map(pod, "metadata.annotations") {
        if key.starts_with("container.apparmor.security.beta.kubernetes.io/") {
            let path = path.key(key);
            warnings
                .push(format!("{path}: deprecated since v1.30; use the \"appArmorProfile\" field instead"));
        } else if key == "seccomp.security.alpha.kubernetes.io/pod"
            || key.starts_with("container.seccomp.security.alpha.kubernetes.io/")
        {
            let path = path.key(key);
            warnings
                .push(format!("{path}: non-functional in v1.27+; use the \"seccompProfile\" field instead"));
        }
    }
}

/// Labels of nodes that have other names by now: old, new, since when.
const NODE_LABELS: [(&str, &str, &str); 5] = [
    ("beta.kubernetes.io/arch", "kubernetes.io/arch", "v1.14"),
    ("beta.kubernetes.io/os", "kubernetes.io/os", "v1.14"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type", "v1.17"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region", "v1.17"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone", "v1.17"),
];

/// Kinds of volumes that have gone.
const VOLUMES: [(&str, &str); 9] = [
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
];

fn spec(spec: &Value, path: &Path<'_>, warnings: &mut Vec<String>) {
    for (key, _) in map(spec, "nodeSelector") {
        node_label(key, &path.child("nodeSelector").key(key), warnings);
    }
    for (at, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let list = path.child("topologySpreadConstraints");
        let one = list.index(at);
        node_label(text(constraint, "topologyKey"), &one.child("topologyKey"), warnings);
    }
    for (at, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            let list = path.child("imagePullSecrets");
            warnings.push(format!("{}: invalid empty name \"\"", list.index(at)));
        }
    }
    for (at, volume) in list(spec, "volumes").iter().enumerate() {
        let list = path.child("volumes");
        let one = list.index(at);
        for (kind, why) in VOLUMES.iter().filter(|(kind, _)| volume.get(*kind).is_some_and(|v| !v.is_null()))
        {
            warnings.push(format!("{}: {why}", one.child(kind)));
        }
    }
    if number(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        warnings.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            path.child("terminationGracePeriodSeconds")
        ));
    }
    containers(spec, path, warnings);
}

fn node_label(key: &str, path: &Path<'_>, warnings: &mut Vec<String>) {
    if let Some((_, new, since)) = NODE_LABELS.iter().find(|(old, ..)| *old == key) {
        warnings.push(format!("{path}: deprecated since {since}; use \"{new}\" instead"));
    }
}

fn containers(spec: &Value, path: &Path<'_>, warnings: &mut Vec<String>) {
    // Containers that run at one time share the addresses of the pod, so their ports are compared as well.
    let mut ports: HashMap<(i64, String, String), String> = HashMap::new();
    for kind in ["initContainers", "containers"] {
        let list_path = path.child(kind);
        for (i, container) in list(spec, kind).iter().enumerate() {
            let one = list_path.index(i);
            let mut seen = HashSet::new();
            for (j, variable) in list(container, "env").iter().enumerate() {
                let name = text(variable, "name");
                if !seen.insert(name) {
                    let env = one.child("env");
                    warnings.push(format!(
                        "{}: hides previous definition of \"{name}\", which may be dropped when using apply",
                        env.index(j)
                    ));
                }
            }
            if kind == "initContainers" && text(container, "restartPolicy") != "Always" {
                continue;
            }
            for (j, port) in list(container, "ports").iter().enumerate() {
                let key = (
                    number(port, "containerPort").unwrap_or_default(),
                    text(port, "protocol").to_owned(),
                    text(port, "hostIP").to_owned(),
                );
                let all = one.child("ports");
                let place = all.index(j).to_string();
                if let Some(first) = ports.get(&key) {
                    warnings.push(format!("{place}: duplicate port definition with {first}"));
                } else {
                    ports.insert(key, place);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind;

    #[test]
    fn unwise_pods() {
        let pods = kind::find("", "v1", "pods").unwrap();
        let pod = json!({
            "metadata": {"name": "a.b", "annotations": {"seccomp.security.alpha.kubernetes.io/pod": "x"}},
            "spec": {
                "nodeSelector": {"beta.kubernetes.io/os": "linux"},
                "terminationGracePeriodSeconds": -1,
                "volumes": [{"name": "v", "gitRepo": {"repository": "r"}}],
                "containers": [
                    {"name": "c", "env": [{"name": "A"}, {"name": "A"}], "ports": [{"containerPort": 80, "protocol": "TCP"}]},
                    {"name": "d", "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}]},
                ],
            },
        });
        let warnings = object(pods, &pod, None);
        let expected = [
            "metadata.name: this is used in the Pod's hostname",
            "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional",
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            "spec.volumes[0].gitRepo: deprecated in v1.11",
            "spec.terminationGracePeriodSeconds: must be >= 0",
            "spec.containers[0].env[1]: hides previous definition of \"A\"",
            "spec.containers[1].ports[0]: duplicate port definition with spec.containers[0].ports[0]",
        ];
        assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
        for (got, wanted) in warnings.iter().zip(expected) {
            assert!(got.starts_with(wanted), "{got}");
        }
        assert!(object(pods, &pod, Some(&pod)).is_empty(), "an old pod is not complained of again");
        let deployments = kind::find("apps", "v1", "deployments").unwrap();
        let template =
            json!({"spec": {"template": {"spec": {"nodeSelector": {"beta.kubernetes.io/os": "linux"}}}}});
        let warnings = object(deployments, &template, None);
        assert!(warnings[0].starts_with("spec.template.spec.nodeSelector[beta"), "{warnings:?}");
    }

    #[test]
    fn old_resources() {
        assert!(deprecated(kind::find("", "v1", "endpoints").unwrap()).is_some());
        assert_eq!(deprecated(kind::find("", "v1", "pods").unwrap()), None);
    }
}
