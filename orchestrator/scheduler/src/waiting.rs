//! Pods that no node takes now. They are tried again when something happens that can help, and once in a while.

use std::collections::HashMap;

use catamaran_client::Key;

use crate::filter::Refusal;
use crate::place::Unschedulable;

/// Something that may make a node take a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// A node came or changed.
    Node,
    /// A pod ended, was deleted, or its binding failed: room was made.
    Room,
    /// A RuntimeClass came or changed.
    RuntimeClass,
}

/// Who waits, and for what.
#[derive(Default)]
pub(crate) struct Waiting {
    pods: HashMap<Key, Unschedulable>,
}

impl Waiting {
    /// A pod found no node.
    pub(crate) fn insert(&mut self, key: Key, why: Unschedulable) {
        self.pods.insert(key, why);
    }

    /// A pod was placed or is gone.
    pub(crate) fn remove(&mut self, key: &Key) {
        self.pods.remove(key);
    }

    /// Takes out those that `happening` can help.
    pub(crate) fn helped_by(&mut self, happening: Happening) -> Vec<Key> {
        let helped = |why: &Unschedulable| why.nodes == 0 || why.reasons.keys().any(|r| helps(happening, r));
        let keys: Vec<_> =
            self.pods.iter().filter(|(_, why)| helped(why)).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.remove(key));
        keys
    }
}

fn helps(happening: Happening, refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Pods | Refusal::Insufficient(_) | Refusal::Ports => happening != Happening::RuntimeClass,
        Refusal::RuntimeClass { .. } => happening == Happening::RuntimeClass,
        Refusal::Handler { .. } => happening != Happening::Room,
        Refusal::Unschedulable | Refusal::Taint { .. } | Refusal::Selector => happening == Happening::Node,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_help_wakes_a_pod() {
        let mut waiting = Waiting::default();
        let why = |reason| Unschedulable { nodes: 1, reasons: [(reason, 1)].into() };
        waiting.insert(Key::new("n", "cpu"), why(Refusal::Insufficient("cpu".to_owned())));
        waiting.insert(Key::new("n", "label"), why(Refusal::Selector));
        assert_eq!(waiting.helped_by(Happening::RuntimeClass), []);
        assert_eq!(waiting.helped_by(Happening::Room), [Key::new("n", "cpu")]);
        assert_eq!(waiting.helped_by(Happening::Room), []);
        assert_eq!(waiting.helped_by(Happening::Node), [Key::new("n", "label")]);
        waiting.insert(Key::new("n", "early"), Unschedulable::default());
        assert_eq!(waiting.helped_by(Happening::Node), [Key::new("n", "early")]);
    }
}
