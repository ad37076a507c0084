//! The table of nodes with the pods counted in, kept up to date change by change: never rebuilt.

use std::collections::HashMap;

use crate::node::{Node, NodeRow};
use crate::pod::Request;

/// Namespace and name of a pod.
pub type PodKey = (String, String);

/// All nodes, and where each bound or assumed pod counts.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    rows: Vec<NodeRow>,
    by_name: HashMap<String, usize>,
    placed: HashMap<PodKey, (String, Request)>,
}

impl Snapshot {
    /// The rows of nodes that exist.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRow> {
        self.rows.iter().filter(|row| row.exists)
    }

    /// Number of nodes that exist.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes().count()
    }

    /// Is there no node?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes().next().is_none()
    }

    fn row(&mut self, name: &str) -> &mut NodeRow {
        let next = self.rows.len();
        let at = *self.by_name.entry(name.to_owned()).or_insert(next);
        if at == next {
            self.rows.push(NodeRow { name: name.to_owned(), ..NodeRow::default() });
        }
        &mut self.rows[at]
    }

    /// A node came or changed.
    pub fn set_node(&mut self, node: &Node) {
        let name = node.metadata.name.clone().unwrap_or_default();
        self.row(&name).describe(node);
    }

    /// A node went. Pods that are still bound to it keep counting, should it come back.
    pub fn remove_node(&mut self, name: &str) {
        self.row(name).exists = false;
    }

    /// A pod is on a node, as observed or as assumed. Placing it again moves it.
    pub fn set_pod(&mut self, request: Request, node: &str) {
        self.remove_pod(&request.key);
        self.row(node).add(&request);
        self.placed.insert(request.key.clone(), (node.to_owned(), request));
    }

    /// A pod ended or was deleted, or its binding failed. Returns whether it counted anywhere.
    pub fn remove_pod(&mut self, key: &PodKey) -> bool {
        let Some((node, request)) = self.placed.remove(key) else { return false };
        self.row(&node).remove(&request);
        true
    }

    /// Where a pod counts.
    #[must_use]
    pub fn node_of(&self, key: &PodKey) -> Option<&str> {
        self.placed.get(key).map(|(node, _)| node.as_str())
    }
}
