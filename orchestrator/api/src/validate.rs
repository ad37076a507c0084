//! Validation of whole objects on creation and update, with Kubernetes' rules and words, one module per family of
//! kinds. Objects come decoded and defaulted; an empty list of errors means a good object.

use serde_json::Value;

use crate::field_error::{FieldError, Path};
use crate::kind::Resource;

mod check;
mod cluster;
mod config;
mod csi;
mod job;
mod metadata;
mod network;
mod pod;
mod policy;
mod rbac;
mod service;
mod storage;
mod webhook;
mod workload;

pub use metadata::no_new_finalizers;
pub use service::NODE_PORTS;

/// What is wrong so far.
type Errors = Vec<FieldError>;

/// Which part of an object a write goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// The object itself.
    Main,
    /// `/status`.
    Status,
    /// `/ephemeralcontainers` of a pod.
    EphemeralContainers,
    /// `/resize` of a pod.
    Resize,
    /// Any other.
    Other,
}

impl Subresource {
    /// From the last part of a path; empty for the object itself.
    pub fn from_name(name: &str) -> Self {
        match name {
            "" => Subresource::Main,
            "status" => Subresource::Status,
            "ephemeralcontainers" => Subresource::EphemeralContainers,
            "resize" => Subresource::Resize,
            _ => Subresource::Other,
        }
    }
}

/// What is wrong with a new object. Its name is settled and its metadata filled in.
pub fn create(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = metadata::create(resource, object);
    spec(resource, object, &mut errors);
    errors
}

/// What is wrong with the new state of an object.
pub fn update(resource: &Resource, new: &Value, old: &Value, subresource: Subresource) -> Vec<FieldError> {
    let mut errors = metadata::update(resource, new, old);
    match subresource {
        Subresource::Main => {
            if (resource.group, resource.plural) == ("", "pods") {
                // An old pod may hold what newer rules refuse: only what changed is judged.
                pod::update(new, old, &mut errors);
            } else {
                spec(resource, new, &mut errors);
                transition(resource, new, old, &mut errors);
            }
        }
        Subresource::EphemeralContainers => pod::update_ephemeral(new, old, &mut errors),
        Subresource::Resize => pod::update_resources(new, old, &mut errors),
        Subresource::Status | Subresource::Other => {}
    }
    errors
}

/// The rules that hold for every state of an object.
fn spec(resource: &Resource, o: &Value, errors: &mut Errors) {
    match (resource.group, resource.plural) {
        ("", "pods") => pod::create(o, errors),
        ("", "podtemplates") => pod::template(&o["template"], &Path::root("template"), errors),
        ("", "namespaces" | "nodes" | "events") => cluster::validate(resource.plural, o, errors),
        ("", "configmaps" | "secrets" | "serviceaccounts") => config::validate(resource.plural, o, errors),
        ("", "services" | "endpoints") | ("discovery.k8s.io", _) => {
            service::validate(resource.plural, o, errors);
        }
        ("", "replicationcontrollers") | ("apps", _) => workload::validate(resource.plural, o, errors),
        ("", "limitranges" | "resourcequotas") | ("policy" | "autoscaling", _) => {
            policy::validate(resource, o, errors);
        }
        ("storage.k8s.io", "csidrivers" | "csinodes" | "csistoragecapacities" | "volumeattachments") => {
            csi::validate(resource.plural, o, errors);
        }
        ("", "persistentvolumeclaims" | "persistentvolumes") | ("storage.k8s.io", _) => {
            storage::validate(resource.plural, o, errors);
        }
        ("batch", _) => job::validate(resource.plural, o, errors),
        (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations" | "validatingwebhookconfigurations",
        ) => webhook::validate(o, errors),
        ("networking.k8s.io", _) => network::validate(resource.plural, o, errors),
        ("rbac.authorization.k8s.io", _) => rbac::validate(resource.plural, o, errors),
        ("coordination.k8s.io" | "node.k8s.io" | "scheduling.k8s.io", _) => {
            cluster::validate(resource.plural, o, errors);
        }
        _ => {}
    }
}

/// The rules about what may change.
fn transition(resource: &Resource, new: &Value, old: &Value, errors: &mut Errors) {
    match (resource.group, resource.plural) {
        ("", "configmaps" | "secrets") => config::update(resource.plural, new, old, errors),
        ("", "services") | ("discovery.k8s.io", _) => service::update(resource.plural, new, old, errors),
        ("apps", _) => workload::update(resource.plural, new, old, errors),
        ("batch", _) => job::update(resource.plural, new, old, errors),
        ("storage.k8s.io", "csidrivers" | "csinodes" | "csistoragecapacities" | "volumeattachments") => {
            csi::update(resource.plural, new, old, errors);
        }
        ("", "persistentvolumeclaims" | "persistentvolumes") | ("storage.k8s.io", _) => {
            storage::update(resource.plural, new, old, errors);
        }
        ("networking.k8s.io", _) => network::update(resource.plural, new, old, errors),
        ("", "resourcequotas") => policy::update(new, old, errors),
        ("rbac.authorization.k8s.io", _) => rbac::update(resource.plural, new, old, errors),
        ("", "nodes") | ("node.k8s.io" | "scheduling.k8s.io", _) => {
            cluster::update(resource.plural, new, old, errors);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
