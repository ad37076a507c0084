//! A row of the table of nodes: what a node offers, and what the pods on it take.

use std::collections::{BTreeMap, BTreeSet, HashMap};

pub use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::core::v1::Taint;

use crate::pod::{Port, Request};
use crate::resources::Resources;

/// A node as the scheduler sees it.
#[derive(Clone, Debug, Default)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints; an unschedulable node has one for that.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub cordoned: bool,
    /// What pods may take in all.
    pub allocatable: Resources,
    /// What the pods on it take, assumed ones included.
    pub used: Resources,
    /// Ports of the node that pods hold.
    pub host_ports: BTreeMap<Port, u32>,
    /// Handlers of the runtimes it has.
    pub handlers: BTreeSet<String>,
    /// Images it has, by every name.
    pub images: HashMap<String, i64>,
    /// Pods on it by their owner's uid.
    pub owners: HashMap<String, u32>,
    /// Whether the Node object exists; pods may be seen before it is.
    pub exists: bool,
}

impl NodeRow {
    /// Takes over what a Node object says; what pods take stays.
    pub fn describe(&mut self, node: &Node) {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let handlers = status.and_then(|s| s.runtime_handlers.as_ref()).into_iter().flatten();
        let images = status.and_then(|s| s.images.as_ref()).into_iter().flatten();
        self.name = node.metadata.name.clone().unwrap_or_default();
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        self.taints = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
        self.cordoned = spec.and_then(|s| s.unschedulable).unwrap_or(false);
        self.allocatable = allocatable.map(Resources::from_list).unwrap_or_default();
        self.handlers = handlers.filter_map(|handler| handler.name.clone()).collect();
        self.images = images
            .flat_map(|image| {
                let size = image.size_bytes.unwrap_or(0);
                image.names.iter().flatten().map(move |name| (name.clone(), size))
            })
            .collect();
        self.exists = true;
    }

    /// Counts a pod in.
    pub fn add(&mut self, request: &Request) {
        self.used.add(&request.resources);
        for port in &request.host_ports {
            *self.host_ports.entry(port.clone()).or_default() += 1;
        }
        if let Some(owner) = &request.owner {
            *self.owners.entry(owner.clone()).or_default() += 1;
        }
    }

    /// Counts a pod out.
    pub fn remove(&mut self, request: &Request) {
        self.used.subtract(&request.resources);
        for port in &request.host_ports {
            if let Some(count) = self.host_ports.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.host_ports.remove(port);
                }
            }
        }
        if let Some(owner) = &request.owner
            && let Some(count) = self.owners.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(owner);
            }
        }
    }
}
