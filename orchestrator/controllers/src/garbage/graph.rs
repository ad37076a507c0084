//! The graph of owner references over all objects, by uid, and what is to be done with one object of it.
//! Functions of values; what has to be asked from the server is returned as a question.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::discovery::ApiResource;

use catamaran_client::object;

/// Keeps an owner until its dependents are gone.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Keeps an owner until its dependents have been let go.
pub(super) const ORPHAN: &str = "orphan";
/// Owners that are remembered as absent.
const REMEMBERED: usize = 50_000;

/// An object's uid.
pub(super) type Uid = Arc<str>;

/// The kind of an object.
#[derive(Debug, PartialEq)]
pub(super) struct KindRef {
    pub(super) resource: ApiResource,
    pub(super) namespaced: bool,
}

/// What is known of an object.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Arc<KindRef>,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: Uid,
    pub(super) resource_version: String,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) finalizers: Vec<String>,
    pub(super) being_deleted: bool,
}

impl Node {
    /// The object of `meta`.
    pub(super) fn new(kind: &Arc<KindRef>, meta: ObjectMeta) -> Self {
        Self {
            kind: Arc::clone(kind),
            being_deleted: object::is_being_deleted(&meta),
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
            uid: Uid::from(meta.uid.unwrap_or_default()),
            resource_version: meta.resource_version.unwrap_or_default(),
            owners: meta.owner_references.unwrap_or_default(),
            finalizers: meta.finalizers.unwrap_or_default(),
        }
    }

    fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|finalizer| finalizer == name)
    }

    /// Does it wait for its dependents to go?
    fn waits_for_dependents(&self) -> bool {
        self.being_deleted && self.has_finalizer(FOREGROUND)
    }

    fn place(&self) -> Place {
        Place {
            uid: Arc::clone(&self.uid),
            group: self.kind.resource.group.clone(),
            kind: self.kind.resource.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// Where a reference points to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) uid: Uid,
    pub(super) group: String,
    pub(super) kind: String,
    /// The namespace to look in; empty when the owner has none.
    pub(super) namespace: String,
    pub(super) name: String,
}

/// Something to do, as a key of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Task {
    /// Should this object go, now that something around it changed?
    Check(Uid),
    /// Let the dependents of this object go before it does.
    Orphan(Uid),
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check(uid) => write!(f, "check {uid}"),
            Self::Orphan(uid) => write!(f, "orphan {uid}"),
        }
    }
}

/// How the dependents of a deleted object are dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Background,
    Foreground,
    Orphan,
}

/// What is to be done with an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Nothing.
    Keep,
    /// Ask the server whether these owners exist, then judge again.
    Ask(Vec<(OwnerReference, String)>),
    /// Delete it.
    Delete(Policy),
    /// It keeps only these owners.
    SetOwners(Vec<OwnerReference>),
    /// Stop holding up its owners (a cycle), then delete it.
    Unblock(Vec<OwnerReference>),
    /// It keeps only these finalizers.
    SetFinalizers(Vec<String>),
}

/// All objects.
#[derive(Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
    /// By the uid of an owner, whether that is known or not.
    dependents: HashMap<Uid, HashSet<Uid>>,
    absent: HashSet<Place>,
}

impl Graph {
    /// The object with this uid.
    pub(super) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The objects that name `uid` as an owner.
    pub(super) fn dependents(&self, uid: &str) -> impl Iterator<Item = &Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.nodes.get(uid))
    }

    /// The server says that there is nothing in this place.
    pub(super) fn note_absent(&mut self, place: Place) {
        if self.absent.len() >= REMEMBERED {
            self.absent.clear();
        }
        self.absent.insert(place);
    }

    /// Takes in an object that was added or changed.
    pub(super) fn apply(&mut self, node: Node) -> Vec<Task> {
        let uid = Arc::clone(&node.uid);
        let old = self.nodes.remove(&uid);
        let mut tasks = Vec::new();
        for owner in old.iter().flat_map(|old| &old.owners) {
            if !node.owners.contains(owner) {
                self.unlink(&owner.uid, &uid);
                // It may have been the last that held its owner up.
                if self.nodes.get(owner.uid.as_str()).is_some_and(Node::waits_for_dependents) {
                    tasks.push(Task::Check(Uid::from(owner.uid.as_str())));
                }
            }
        }
        for owner in &node.owners {
            self.dependents.entry(Uid::from(owner.uid.as_str())).or_default().insert(Arc::clone(&uid));
        }
        let owners_changed = old.as_ref().is_none_or(|old| old.owners != node.owners);
        if owners_changed && node.owners.iter().any(|owner| !self.is_firm(&node, owner)) {
            tasks.push(Task::Check(Arc::clone(&uid)));
        }
        if node.being_deleted && node.has_finalizer(ORPHAN) {
            tasks.push(Task::Orphan(Arc::clone(&uid)));
        }
        if node.waits_for_dependents() && old.is_none_or(|old| !old.waits_for_dependents()) {
            tasks.push(Task::Check(Arc::clone(&uid)));
            tasks.extend(self.dependents.get(&uid).into_iter().flatten().cloned().map(Task::Check));
        }
        self.absent.remove(&node.place());
        self.nodes.insert(uid, node);
        tasks
    }

    /// Takes out an object that is gone.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<Task> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut tasks = Vec::new();
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
            if self.nodes.get(owner.uid.as_str()).is_some_and(Node::waits_for_dependents) {
                tasks.push(Task::Check(Uid::from(owner.uid.as_str())));
            }
        }
        self.note_absent(node.place());
        tasks.extend(self.dependents.get(uid).into_iter().flatten().cloned().map(Task::Check));
        tasks
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    /// Is the owner known, and not about to take its dependents with it?
    fn is_firm(&self, node: &Node, owner: &OwnerReference) -> bool {
        self.nodes
            .get(owner.uid.as_str())
            .is_some_and(|found| is_match(found, node, owner) && !found.waits_for_dependents())
    }

    /// What is to be done with the object `uid`.
    pub(super) fn judge(&self, uid: &str) -> Verdict {
        let Some(node) = self.nodes.get(uid) else { return Verdict::Keep };
        if node.waits_for_dependents() {
            return self.judge_waiting(node);
        }
        if node.being_deleted || node.owners.is_empty() {
            return Verdict::Keep;
        }
        let (mut solid, mut waiting, mut ask) = (Vec::new(), Vec::new(), Vec::new());
        for owner in &node.owners {
            match self.nodes.get(owner.uid.as_str()) {
                Some(found) if !is_match(found, node, owner) => {}
                Some(found) if found.waits_for_dependents() => waiting.push(owner),
                Some(_) => solid.push(owner.clone()),
                None if self.is_absent(node, owner) => {}
                None => ask.push((owner.clone(), node.namespace.clone())),
            }
        }
        if !ask.is_empty() {
            Verdict::Ask(ask)
        } else if solid.len() == node.owners.len() {
            Verdict::Keep
        } else if !solid.is_empty() {
            Verdict::SetOwners(solid)
        } else if !waiting.is_empty() && self.dependents.contains_key(uid) {
            self.judge_between(node)
        } else {
            Verdict::Delete(policy_of(node))
        }
    }

    /// An object in foreground deletion goes when nobody holds it up any more.
    fn judge_waiting(&self, node: &Node) -> Verdict {
        let blocks = |dependent: &Node| {
            let is_blocking =
                |owner: &OwnerReference| *owner.uid == *node.uid && owner.block_owner_deletion == Some(true);
            dependent.owners.iter().any(is_blocking)
        };
        if self.dependents(&node.uid).any(blocks) {
            return Verdict::Keep;
        }
        let left = node.finalizers.iter().filter(|finalizer| *finalizer != FOREGROUND).cloned();
        Verdict::SetFinalizers(left.collect())
    }

    /// An object whose owner waits for it and that has dependents itself: they go first. When one of them waits
    /// as well, this may be a cycle, in which everybody would wait for ever.
    fn judge_between(&self, node: &Node) -> Verdict {
        let holds_up = node.owners.iter().any(|owner| owner.block_owner_deletion == Some(true));
        if holds_up && self.dependents(&node.uid).any(Node::waits_for_dependents) {
            let mut owners = node.owners.clone();
            for owner in &mut owners {
                owner.block_owner_deletion = Some(false);
            }
            return Verdict::Unblock(owners);
        }
        Verdict::Delete(Policy::Foreground)
    }

    /// Is it known that no owner is in the place, in the namespace of the object or without one?
    fn is_absent(&self, node: &Node, owner: &OwnerReference) -> bool {
        let place = |namespace: &str| place_of(owner, namespace);
        self.absent.contains(&place(&node.namespace)) || self.absent.contains(&place(""))
    }
}

/// Where the owner of an object in `namespace` would be.
pub(super) fn place_of(owner: &OwnerReference, namespace: &str) -> Place {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    Place {
        uid: Uid::from(owner.uid.as_str()),
        group: group.to_owned(),
        kind: owner.kind.clone(),
        namespace: namespace.to_owned(),
        name: owner.name.clone(),
    }
}

/// Is `found` what `node` refers to? An owner is in the same namespace or in none.
fn is_match(found: &Node, node: &Node, owner: &OwnerReference) -> bool {
    let namespace = if found.kind.namespaced { &node.namespace } else { "" };
    found.place() == place_of(owner, namespace)
}

fn policy_of(node: &Node) -> Policy {
    if node.has_finalizer(ORPHAN) {
        Policy::Orphan
    } else if node.has_finalizer(FOREGROUND) {
        Policy::Foreground
    } else {
        Policy::Background
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str, namespaced: bool) -> Arc<KindRef> {
        let resource = ApiResource {
            group: "apps".into(),
            version: "v1".into(),
            api_version: "apps/v1".into(),
            kind: name.into(),
            plural: format!("{}s", name.to_lowercase()),
        };
        Arc::new(KindRef { resource, namespaced })
    }

    fn owner(uid: &str, block: bool) -> OwnerReference {
        OwnerReference {
            api_version: "apps/v1".into(),
            kind: "Thing".into(),
            name: uid.into(),
            uid: uid.into(),
            controller: None,
            block_owner_deletion: Some(block),
        }
    }

    fn node(uid: &str, owners: &[OwnerReference]) -> Node {
        Node {
            kind: kind("Thing", true),
            namespace: "ns".into(),
            name: uid.into(),
            uid: uid.into(),
            resource_version: "1".into(),
            owners: owners.to_vec(),
            finalizers: Vec::new(),
            being_deleted: false,
        }
    }

    fn leaving(mut node: Node, finalizer: &str) -> Node {
        node.being_deleted = true;
        node.finalizers = vec![finalizer.into(), "other".into()];
        node
    }

    fn check(uid: &str) -> Task {
        Task::Check(uid.into())
    }

    #[test]
    fn what_an_owner_leaves_behind_goes() {
        let mut graph = Graph::default();
        assert_eq!(graph.apply(node("a", &[])), []);
        assert_eq!(graph.apply(node("b", &[owner("a", true)])), []);
        assert_eq!(graph.judge("b"), Verdict::Keep);
        assert_eq!(graph.remove("a"), [check("b")]);
        assert_eq!(graph.judge("b"), Verdict::Delete(Policy::Background));
    }

    #[test]
    fn an_unknown_owner_is_asked_for() {
        let mut graph = Graph::default();
        assert_eq!(graph.apply(node("b", &[owner("a", true)])), [check("b")]);
        let Verdict::Ask(questions) = graph.judge("b") else { panic!("nothing is known of a") };
        graph.note_absent(place_of(&questions[0].0, &questions[0].1));
        assert_eq!(graph.judge("b"), Verdict::Delete(Policy::Background));
        graph.apply(node("a", &[]));
        assert_eq!(graph.judge("b"), Verdict::Keep, "it came after all");
    }

    #[test]
    fn one_owner_is_enough() {
        let mut graph = Graph::default();
        graph.apply(node("a", &[]));
        graph.apply(node("c", &[]));
        graph.apply(node("b", &[owner("a", true), owner("c", true)]));
        graph.remove("a");
        assert_eq!(graph.judge("b"), Verdict::SetOwners(vec![owner("c", true)]));
    }

    #[test]
    fn an_owner_elsewhere_is_none() {
        let mut graph = Graph::default();
        let mut elsewhere = node("a", &[]);
        elsewhere.namespace = "other".into();
        graph.apply(elsewhere);
        assert_eq!(graph.apply(node("b", &[owner("a", true)])), [check("b")]);
        assert_eq!(graph.judge("b"), Verdict::Delete(Policy::Background));
        let mut cluster = node("a", &[]);
        cluster.namespace = String::new();
        cluster.kind = kind("Thing", false);
        graph.apply(cluster);
        assert_eq!(graph.judge("b"), Verdict::Keep, "an owner without a namespace may own anything");
    }

    #[test]
    fn foreground_waits_for_those_that_block() {
        let mut graph = Graph::default();
        graph.apply(node("a", &[]));
        graph.apply(node("b", &[owner("a", true)]));
        graph.apply(node("c", &[owner("a", false)]));
        let mut tasks = graph.apply(leaving(node("a", &[]), FOREGROUND));
        tasks.sort_by_key(ToString::to_string);
        assert_eq!(tasks, [check("a"), check("b"), check("c")]);
        assert_eq!(graph.judge("a"), Verdict::Keep);
        assert_eq!(graph.judge("b"), Verdict::Delete(Policy::Background));
        assert_eq!(graph.judge("c"), Verdict::Delete(Policy::Background));
        assert_eq!(graph.remove("b"), [check("a")]);
        assert_eq!(graph.judge("a"), Verdict::SetFinalizers(vec!["other".into()]));
    }

    #[test]
    fn foreground_goes_down_level_by_level_and_cycles_end() {
        let mut graph = Graph::default();
        graph.apply(node("a", &[owner("c", true)]));
        graph.apply(node("b", &[owner("a", true)]));
        graph.apply(node("c", &[owner("b", true)]));
        graph.apply(leaving(node("a", &[owner("c", true)]), FOREGROUND));
        assert_eq!(graph.judge("b"), Verdict::Delete(Policy::Foreground));
        graph.apply(leaving(node("b", &[owner("a", true)]), FOREGROUND));
        assert_eq!(
            graph.judge("c"),
            Verdict::Unblock(vec![owner("b", false)]),
            "c is between b and a, which wait"
        );
    }

    #[test]
    fn orphans_are_asked_for_when_their_owner_leaves() {
        let mut graph = Graph::default();
        graph.apply(node("b", &[owner("a", true)]));
        let tasks = graph.apply(leaving(node("a", &[]), ORPHAN));
        assert_eq!(tasks, [Task::Orphan("a".into())]);
        assert_eq!(graph.dependents("a").count(), 1);
        graph.apply(node("b", &[]));
        assert_eq!(graph.dependents("a").count(), 0);
    }
}
