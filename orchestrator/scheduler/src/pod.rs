//! What the scheduler reads of a pod (a slim form, decoded straight from the wire), and what it makes of it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Affinity, NodeAffinity, NodeSelector, PreferredSchedulingTerm, Toleration};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::Deserialize;

use crate::resources::Resources;

/// The part of a Pod that scheduling depends on.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// Name, labels, owner, deletion.
    pub metadata: ObjectMeta,
    /// What it wants.
    pub spec: Spec,
    /// Whether it is over.
    pub status: Status,
}

/// Part of `PodSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Spec {
    pub node_name: String,
    pub scheduler_name: String,
    pub scheduling_gates: Vec<serde::de::IgnoredAny>,
    pub node_selector: BTreeMap<String, String>,
    pub affinity: Option<Affinity>,
    pub tolerations: Vec<Toleration>,
    pub runtime_class_name: Option<String>,
    pub priority: i32,
    pub host_network: bool,
    pub containers: Vec<Container>,
    pub init_containers: Vec<Container>,
    pub overhead: BTreeMap<String, Quantity>,
}

/// Part of `Container`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Container {
    pub image: String,
    pub resources: Requirements,
    pub ports: Vec<Port>,
    pub restart_policy: Option<String>,
}

/// Part of `ResourceRequirements`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Requirements {
    pub requests: BTreeMap<String, Quantity>,
}

/// Part of `ContainerPort`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Port {
    pub host_port: i32,
    pub protocol: String,
    #[serde(rename = "hostIP")]
    pub host_ip: String,
}

/// Part of `PodStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Status {
    pub phase: String,
    pub conditions: Vec<Condition>,
}

/// Part of `PodCondition`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Condition {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: String,
    pub message: String,
}

impl Resource for Pod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        "".into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Pod {
    /// Waits for us: ours, not bound, not over, not on its way out, no gate closed.
    #[must_use]
    pub fn waits_for(&self, scheduler: &str) -> bool {
        self.spec.node_name.is_empty()
            && self.spec.scheduler_name == scheduler
            && self.spec.scheduling_gates.is_empty()
            && self.metadata.deletion_timestamp.is_none()
            && !self.is_over()
    }

    /// Its status says already that it cannot be scheduled, with this message.
    #[must_use]
    pub fn says_unschedulable(&self, message: &str) -> bool {
        let mut conditions = self.status.conditions.iter();
        conditions.any(|c| c.type_ == "PodScheduled" && c.status == "False" && c.message == message)
    }

    /// It has ended and holds no resources any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// Which runtime a pod asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    /// No RuntimeClass: any node.
    #[default]
    Any,
    /// The handler that the RuntimeClass names.
    Handler(String),
    /// A RuntimeClass that does not exist.
    UnknownClass(String),
}

/// What a pod asks of a node, worked out once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// `namespace/name`, the pod's key.
    pub key: (String, String),
    /// The controller's uid: pods of one owner are spread.
    pub owner: Option<String>,
    /// What it takes.
    pub resources: Resources,
    /// Ports on the node.
    pub host_ports: BTreeSet<Port>,
    /// Labels that the node must have, the RuntimeClass's included.
    pub node_selector: BTreeMap<String, String>,
    /// Terms of which one must match.
    pub required: Option<NodeSelector>,
    /// Terms that make a node better.
    pub preferred: Vec<PreferredSchedulingTerm>,
    /// Taints it bears, the RuntimeClass's included.
    pub tolerations: Vec<Toleration>,
    /// Which runtime.
    pub runtime: Runtime,
    /// Images: a node that has them starts it sooner.
    pub images: Vec<String>,
}

impl Request {
    /// Works out what `pod` asks for. `class` is its RuntimeClass, if it names one and it exists.
    #[must_use]
    pub fn of(pod: &Pod, class: Option<&RuntimeClass>) -> Self {
        let spec = &pod.spec;
        let meta = &pod.metadata;
        let mut node_selector = spec.node_selector.clone();
        let mut tolerations = spec.tolerations.clone();
        if let Some(scheduling) = class.and_then(|class| class.scheduling.as_ref()) {
            node_selector.extend(scheduling.node_selector.clone().unwrap_or_default());
            tolerations.extend(scheduling.tolerations.clone().unwrap_or_default());
        }
        let runtime = match (&spec.runtime_class_name, class) {
            (None, _) => Runtime::Any,
            (Some(_), Some(class)) => Runtime::Handler(class.handler.clone()),
            (Some(name), None) => Runtime::UnknownClass(name.clone()),
        };
        let affinity: Option<&NodeAffinity> = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let owners = meta.owner_references.iter().flatten();
        let ports = spec.containers.iter().flat_map(|container| &container.ports);
        Request {
            key: (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default()),
            owner: owners.filter(|o| o.controller == Some(true)).map(|o| o.uid.clone()).next(),
            resources: requested(spec),
            host_ports: ports.filter(|port| port.host_port > 0).cloned().collect(),
            node_selector,
            required: affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.clone()),
            preferred: affinity
                .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.clone())
                .unwrap_or_default(),
            tolerations,
            runtime,
            images: spec.containers.iter().map(|container| container.image.clone()).collect(),
        }
    }
}

/// A pod's request: its containers and sidecars together, or what initialization takes if that is more
/// (KEP-753: an init container runs beside the sidecars before it), and the overhead.
fn requested(spec: &Spec) -> Resources {
    let of = |container: &Container| Resources::from_list(&container.resources.requests);
    let mut sidecars = Resources::default();
    let mut initialization = Resources::default();
    for container in &spec.init_containers {
        let mut now = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&now);
            now = sidecars.clone();
        } else {
            now.add(&sidecars);
        }
        initialization.raise_to(&now);
    }
    let mut total = sidecars;
    spec.containers.iter().for_each(|container| total.add(&of(container)));
    total.raise_to(&initialization);
    total.add(&Resources::from_list(&spec.overhead));
    total.pods = 1;
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "n" }, "spec": spec }))
            .unwrap()
    }

    fn container(cpu: &str, sidecar: bool) -> serde_json::Value {
        let policy = if sidecar { json!("Always") } else { json!(null) };
        json!({ "image": "i", "resources": { "requests": { "cpu": cpu } }, "restartPolicy": policy })
    }

    #[test]
    fn the_request_is_the_larger_of_running_and_initialization() {
        let cpu = |init: Vec<serde_json::Value>| {
            let spec = json!({ "containers": [container("100m", false), container("200m", false)], "initContainers": init });
            Request::of(&pod(spec), None).resources.cpu_milli
        };
        assert_eq!(cpu(vec![]), 300);
        assert_eq!(cpu(vec![container("250m", false)]), 300);
        assert_eq!(cpu(vec![container("1", false)]), 1000);
        assert_eq!(cpu(vec![container("100m", true)]), 400, "a sidecar runs on beside the containers");
        assert_eq!(cpu(vec![container("100m", true), container("350m", false)]), 450);
        assert_eq!(cpu(vec![container("350m", false), container("100m", true)]), 400);
    }

    #[test]
    fn only_pods_that_wait_for_us_are_taken() {
        let waits = |spec: serde_json::Value| pod(spec).waits_for("s");
        assert!(waits(json!({ "schedulerName": "s" })));
        assert!(!waits(json!({ "schedulerName": "other" })));
        assert!(!waits(json!({ "schedulerName": "s", "nodeName": "n" })));
        assert!(!waits(json!({ "schedulerName": "s", "schedulingGates": [{ "name": "g" }] })));
    }

    #[test]
    fn a_runtime_class_brings_its_selector_and_tolerations() {
        let class: RuntimeClass = serde_json::from_value(json!({
            "metadata": { "name": "wasm" }, "handler": "wasm",
            "scheduling": { "nodeSelector": { "kind": "w" }, "tolerations": [{ "operator": "Exists" }] },
        }))
        .unwrap();
        let with = pod(json!({ "runtimeClassName": "wasm" }));
        let request = Request::of(&with, Some(&class));
        assert_eq!(request.runtime, Runtime::Handler("wasm".to_owned()));
        assert_eq!(request.node_selector["kind"], "w");
        assert_eq!(request.tolerations.len(), 1);
        assert_eq!(Request::of(&with, None).runtime, Runtime::UnknownClass("wasm".to_owned()));
    }
}
