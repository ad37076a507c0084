//! Which node needs which objects: kept up to date pod by pod, so that a question takes one look. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::references::{self, Kind, Reference};

/// The objects in one namespace that a node needs.
type Place = (Arc<str>, Arc<str>);

/// Nodes, their pods, and what those need.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// By the key of the pod.
    pods: HashMap<Arc<str>, (Place, Box<[Reference]>)>,
    /// How many pods of a node need an object.
    needed: HashMap<Place, HashMap<Reference, usize>>,
}

impl Graph {
    /// Takes in the present state of a pod; none when it is gone.
    pub(super) fn put(&mut self, key: &Arc<str>, pod: Option<&Value>) {
        let next = pod.and_then(|pod| {
            let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())?;
            let namespace = pod["metadata"]["namespace"].as_str()?;
            Some((node, namespace, references::of(pod)))
        });
        let unchanged = match (&next, self.pods.get(key)) {
            (None, None) => true,
            (Some((node, _, references)), Some(((old_node, _), old))) => {
                **old_node == **node && **old == **references
            }
            _ => false,
        };
        if unchanged {
            return;
        }
        self.forget(key);
        if let Some((node, namespace, references)) = next {
            self.add(key, (node, namespace), references);
        }
    }

    fn add(&mut self, key: &Arc<str>, (node, namespace): (&str, &str), references: Vec<Reference>) {
        // Names are kept once for all pods of a place.
        let wanted: Place = (node.into(), namespace.into());
        let place = self.needed.get_key_value(&wanted).map_or(wanted, |(place, _)| place.clone());
        let needed = self.needed.entry(place.clone()).or_default();
        for reference in &references {
            *needed.entry(reference.clone()).or_default() += 1;
        }
        self.pods.insert(key.clone(), (place, references.into_boxed_slice()));
    }

    fn forget(&mut self, key: &Arc<str>) {
        let Some((place, references)) = self.pods.remove(key) else { return };
        let Some(needed) = self.needed.get_mut(&place) else { return };
        for reference in &references {
            if let Some(count) = needed.get_mut(reference) {
                *count -= 1;
                if *count == 0 {
                    needed.remove(reference);
                }
            }
        }
        if needed.is_empty() {
            self.needed.remove(&place);
        }
    }

    /// Whether a pod that is bound to the node needs the object.
    pub(super) fn is_related(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let place: Place = (node.into(), namespace.into());
        self.needed
            .get(&place)
            .is_some_and(|needed| needed.contains_key(&Reference { kind, name: name.into() }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(node: &str, secret: &str) -> Value {
        json!({"metadata": {"namespace": "ns"}, "spec": {"nodeName": node, "imagePullSecrets": [{"name": secret}]}})
    }

    #[test]
    fn relations_come_and_go_with_pods() {
        let mut graph = Graph::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let is = |graph: &Graph, node: &str, name: &str| graph.is_related(node, Kind::Secret, "ns", name);
        graph.put(&a, Some(&pod("", "s")));
        assert!(!is(&graph, "", "s"), "a pod that is not bound needs nothing anywhere");
        graph.put(&a, Some(&pod("n1", "s")));
        graph.put(&b, Some(&pod("n1", "s")));
        assert!(is(&graph, "n1", "s") && !is(&graph, "n2", "s") && !is(&graph, "n1", "t"));
        assert!(!graph.is_related("n1", Kind::Secret, "other", "s"));
        assert!(!graph.is_related("n1", Kind::ConfigMap, "ns", "s"));
        graph.put(&a, Some(&pod("n1", "s")));
        graph.put(&a, None);
        assert!(is(&graph, "n1", "s"), "the other pod still needs it");
        graph.put(&b, Some(&pod("n1", "t")));
        assert!(!is(&graph, "n1", "s") && is(&graph, "n1", "t"));
        graph.put(&b, None);
        assert!(graph.needed.is_empty() && graph.pods.is_empty());
    }
}
