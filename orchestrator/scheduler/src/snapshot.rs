//! The nodes as a compact table that is kept up to date by small changes. What every filter and score reads is
//! in one dense array (`Room`), the rest beside it (`Detail`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use catamaran_api::quantity::Quantity;

use crate::shape::{Amounts, HostPort, Shape, tagged};
use crate::wire::{Node, Taint};

/// The number of a node in the table.
pub(crate) type NodeId = usize;

/// What a node has left, and what it is used for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    pub(crate) cpu: i64,
    pub(crate) memory: i64,
    pub(crate) storage: i64,
    pub(crate) pods: i64,
    /// CPU and memory that pods may use in all.
    pub(crate) total: (i64, i64),
    /// CPU and memory as used pods count for scores.
    pub(crate) weight: (i64, i64),
    /// Is there such a node, or only pods that name it?
    pub(crate) exists: bool,
}

impl Room {
    /// Takes `factor` pods of a shape in (negative: out).
    pub(crate) fn take(&mut self, shape: &Shape, factor: i64) {
        self.cpu = self.cpu.saturating_sub(shape.requests.cpu.saturating_mul(factor));
        self.memory = self.memory.saturating_sub(shape.requests.memory.saturating_mul(factor));
        self.storage = self.storage.saturating_sub(shape.requests.storage.saturating_mul(factor));
        self.pods -= factor;
        self.weight.0 += shape.weight.0 * factor;
        self.weight.1 += shape.weight.1 * factor;
    }
}

/// What else is known of a node.
#[derive(Debug, Default)]
pub(crate) struct Detail {
    pub(crate) name: Arc<str>,
    pub(crate) labels: HashMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    /// Empty when the node does not say.
    pub(crate) handlers: Vec<String>,
    /// Resources other than CPU, memory and storage that are left.
    pub(crate) others: Amounts,
    pub(crate) ports: Vec<HostPort>,
    /// Sizes of the images that are there.
    pub(crate) images: HashMap<String, i64>,
    /// Pods by the uid of their controller.
    pub(crate) owners: HashMap<Arc<str>, u32>,
    allocatable: Amounts,
    pod_limit: i64,
    count: i64,
}

/// What is new about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeChange {
    /// A pod that found no node may find one now.
    Relevant,
    /// Nothing that matters to filters.
    Heartbeat,
}

/// All nodes.
#[derive(Default)]
pub(crate) struct Snapshot {
    pub(crate) rooms: Vec<Room>,
    pub(crate) details: Vec<Detail>,
    by_name: HashMap<Arc<str>, NodeId>,
    existing: usize,
    /// On how many nodes each image is.
    image_nodes: HashMap<String, u32>,
}

impl Snapshot {
    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.existing
    }

    /// The number of the node `name`.
    pub(crate) fn find(&self, name: &str) -> Option<NodeId> {
        self.by_name.get(name).copied()
    }

    /// On how many nodes an image is.
    pub(crate) fn image_nodes(&self, image: &str) -> u32 {
        self.image_nodes.get(image).copied().unwrap_or(0)
    }

    /// The runtime handlers that nodes have, sorted.
    pub(crate) fn handlers(&self) -> Vec<&str> {
        let existing = self.rooms.iter().zip(&self.details).filter(|(room, _)| room.exists);
        let all: HashSet<&str> = existing
            .flat_map(|(_, detail)| &detail.handlers)
            .map(String::as_str)
            .filter(|name| !name.is_empty())
            .collect();
        let mut all: Vec<&str> = all.into_iter().collect();
        all.sort_unstable();
        all
    }

    /// Takes in a node that was added or changed.
    pub(crate) fn set_node(&mut self, node: Node) -> NodeChange {
        let id = self.id(node.metadata.name.as_deref().unwrap_or_default());
        let allocatable = Amounts::parse(&node.status.allocatable);
        let pods = node.status.allocatable.get("pods").and_then(|pods| Quantity::parse(pods).ok());
        let pods = pods.map_or(0, Quantity::value);
        let handlers: Vec<String> =
            node.status.runtime_handlers.into_iter().map(|handler| handler.name).collect();
        let labels: HashMap<String, String> = node.metadata.labels.unwrap_or_default().into_iter().collect();
        let known = &self.details[id];
        let same = self.rooms[id].exists
            && known.allocatable == allocatable
            && known.pod_limit == pods
            && known.labels == labels
            && known.taints == node.spec.taints
            && known.unschedulable == node.spec.unschedulable
            && known.handlers == handlers;
        self.existing += usize::from(!self.rooms[id].exists);
        self.forget_images(id);
        let (room, detail) = (&mut self.rooms[id], &mut self.details[id]);
        room.exists = true;
        room.cpu += allocatable.cpu - detail.allocatable.cpu;
        room.memory += allocatable.memory - detail.allocatable.memory;
        room.storage += allocatable.storage - detail.allocatable.storage;
        room.pods += pods - detail.pod_limit;
        room.total = (allocatable.cpu, allocatable.memory);
        let old = std::mem::take(&mut detail.allocatable);
        detail.others.add(&only_others(&old), -1);
        detail.others.add(&only_others(&allocatable), 1);
        detail.allocatable = allocatable;
        detail.pod_limit = pods;
        detail.labels = labels;
        detail.taints = node.spec.taints;
        detail.unschedulable = node.spec.unschedulable;
        detail.handlers = handlers;
        for image in node.status.images {
            for name in image.names {
                let name = tagged(&name);
                if self.details[id].images.insert(name.clone(), image.size_bytes).is_none() {
                    *self.image_nodes.entry(name).or_insert(0) += 1;
                }
            }
        }
        if same { NodeChange::Heartbeat } else { NodeChange::Relevant }
    }

    /// A node is gone; pods that name it still count, should it come back.
    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(id) = self.find(name).filter(|id| self.rooms[*id].exists) else { return };
        self.forget_images(id);
        self.rooms[id].exists = false;
        self.existing -= 1;
    }

    /// A pod of this shape is on the node `name` now, in fact or by assumption.
    pub(crate) fn add_pod(&mut self, name: &str, shape: &Shape) {
        let id = self.id(name);
        self.rooms[id].take(shape, 1);
        let detail = &mut self.details[id];
        detail.count += 1;
        detail.others.add(&only_others(&shape.requests), -1);
        detail.ports.extend(shape.ports.iter().cloned());
        if let Some(owner) = &shape.owner {
            *detail.owners.entry(Arc::clone(owner)).or_insert(0) += 1;
        }
    }

    /// A pod of this shape is no longer on the node `name`.
    pub(crate) fn remove_pod(&mut self, name: &str, shape: &Shape) {
        let Some(id) = self.find(name) else { return };
        self.rooms[id].take(shape, -1);
        let detail = &mut self.details[id];
        detail.count -= 1;
        detail.others.add(&only_others(&shape.requests), 1);
        for port in &shape.ports {
            if let Some(at) = detail.ports.iter().position(|used| used == port) {
                detail.ports.swap_remove(at);
            }
        }
        if let Some(owner) = &shape.owner
            && let Some(count) = detail.owners.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                detail.owners.remove(owner);
            }
        }
    }

    /// The number of the node `name`, which need not exist.
    fn id(&mut self, name: &str) -> NodeId {
        if let Some(id) = self.find(name) {
            return id;
        }
        // A row of a node that is gone and that no pod names is used again.
        let free = (self.details.len() > 2 * self.existing + 16)
            .then(|| {
                self.rooms
                    .iter()
                    .zip(&self.details)
                    .position(|(room, detail)| !room.exists && detail.count == 0)
            })
            .flatten();
        let name: Arc<str> = Arc::from(name);
        let id = free.unwrap_or(self.rooms.len());
        if id == self.rooms.len() {
            self.rooms.push(Room::default());
            self.details.push(Detail::default());
        } else {
            self.by_name.remove(&self.details[id].name);
            self.rooms[id] = Room::default();
        }
        self.details[id] = Detail { name: Arc::clone(&name), ..Detail::default() };
        self.by_name.insert(name, id);
        id
    }

    fn forget_images(&mut self, id: NodeId) {
        for (name, _) in self.details[id].images.drain() {
            if let Some(count) = self.image_nodes.get_mut(&name) {
                *count -= 1;
                if *count == 0 {
                    self.image_nodes.remove(&name);
                }
            }
        }
    }
}

fn only_others(amounts: &Amounts) -> Amounts {
    Amounts { others: amounts.others.clone(), ..Amounts::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(cpu: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"zone": "a"}},
            "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10", "example.com/gpu": "2"},
                       "images": [{"names": ["web"], "sizeBytes": 7}]}
        }))
        .unwrap()
    }

    fn shape() -> Shape {
        Shape::new(
            &serde_json::from_value(json!({"containers": [{"resources": {"requests": {
                "cpu": "500m", "memory": "256Mi", "example.com/gpu": "1"}}, "ports": [{"hostPort": 80}]}]}))
            .unwrap(),
            Some("rs"),
        )
    }

    #[test]
    fn pods_and_nodes_come_in_any_order() {
        let mut snapshot = Snapshot::default();
        snapshot.add_pod("n", &shape());
        assert_eq!(snapshot.len(), 0);
        snapshot.set_node(node("2"));
        assert_eq!((snapshot.len(), snapshot.rooms[0].cpu, snapshot.rooms[0].pods), (1, 1500, 9));
        assert_eq!(snapshot.details[0].others.other("example.com/gpu"), 1);
        snapshot.set_node(node("1"));
        assert_eq!(snapshot.rooms[0].cpu, 500);
        snapshot.remove_node("n");
        assert_eq!((snapshot.len(), snapshot.image_nodes("web:latest")), (0, 0));
        snapshot.set_node(node("2"));
        assert_eq!(snapshot.rooms[0].cpu, 1500, "its pods still count");
        snapshot.remove_pod("n", &shape());
        assert_eq!((snapshot.rooms[0].cpu, snapshot.rooms[0].pods), (2000, 10));
        assert_eq!(snapshot.details[0].others.other("example.com/gpu"), 2);
        assert!(snapshot.details[0].ports.is_empty() && snapshot.details[0].owners.is_empty());
        assert_eq!(snapshot.rooms[0].weight, (0, 0));
    }

    #[test]
    fn rows_of_nodes_that_are_gone_are_used_again() {
        let mut snapshot = Snapshot::default();
        for number in 0..1000 {
            let mut node = node("1");
            let name = format!("n{number}");
            node.metadata.name = Some(name.clone());
            snapshot.set_node(node);
            snapshot.remove_node(&name);
        }
        assert!(snapshot.rooms.len() < 40, "{}", snapshot.rooms.len());
    }
}
