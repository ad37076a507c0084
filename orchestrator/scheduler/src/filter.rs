//! Can a pod be on a node? Each filter is one small function that says why not; they are tried in the order of
//! their cost, and the words are Kubernetes'.

mod node_name;
mod ports;
mod resources;
mod runtime_class;
mod selector;
mod taints;
mod unschedulable;
mod volumes;

use std::collections::BTreeMap;
use std::fmt;

use crate::shape::Shape;
use crate::snapshot::{Detail, NodeId, Room, Snapshot};
use crate::volumes::Need;

pub(crate) use selector::matches as term_matches;
pub(crate) use taints::tolerates;

/// A shape with what must be looked up for it first.
#[derive(Clone, Debug)]
pub(crate) struct Demand<'a> {
    pub(crate) shape: &'a Shape,
    /// The handler of its RuntimeClass; absent when it asks for none.
    pub(crate) handler: Option<&'a str>,
    /// What its claims ask.
    pub(crate) volumes: &'a [Need],
}

/// A node as filters see it.
pub(crate) struct View<'a> {
    pub(crate) room: &'a Room,
    pub(crate) detail: &'a Detail,
}

/// Why a pod cannot be on a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reason {
    NodeName,
    Unschedulable,
    TooManyPods,
    Insufficient(String),
    Taint { key: String, value: String },
    Selector,
    Ports,
    Handler { wanted: String, there: String },
    VolumeAffinity,
    NoVolume,
}

impl Reason {
    /// Would the node do if pods on it went away?
    pub(crate) fn is_curable(&self) -> bool {
        matches!(self, Self::TooManyPods | Self::Insufficient(_) | Self::Ports)
    }

    /// Would the node do if there were other volumes?
    pub(crate) fn is_of_volumes(&self) -> bool {
        matches!(self, Self::VolumeAffinity | Self::NoVolume)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeName => f.write_str("node(s) didn't match the requested node name"),
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::TooManyPods => f.write_str("Too many pods"),
            Self::Insufficient(resource) => write!(f, "Insufficient {resource}"),
            Self::Taint { key, value } => write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Self::Selector => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::VolumeAffinity => f.write_str("node(s) had volume node affinity conflict"),
            Self::NoVolume => f.write_str("node(s) didn't find available persistent volumes to bind"),
            Self::Ports => f.write_str("node(s) didn't have free ports for the requested pod ports"),
            Self::Handler { wanted, there } => {
                write!(f, "node(s) didn't have the runtime handler \"{wanted}\" (there are: {there})")
            }
        }
    }
}

type Filter = fn(&Demand<'_>, &View<'_>) -> Option<Reason>;

/// All filters but that of resources, cheap ones first.
const FILTERS: [Filter; 7] = [
    unschedulable::filter,
    node_name::filter,
    taints::filter,
    selector::filter,
    runtime_class::filter,
    ports::filter,
    volumes::filter,
];

/// Can a pod be on the node?
pub(crate) fn fits(demand: &Demand<'_>, snapshot: &Snapshot, node: NodeId) -> bool {
    let room = &snapshot.rooms[node];
    // What most often says no is asked first, and only looks at the dense table.
    if !room.exists || !resources::has_room(demand.shape, room) {
        return false;
    }
    let view = View { room, detail: &snapshot.details[node] };
    resources::has_others(demand.shape, view.detail, 1)
        && FILTERS.iter().all(|filter| filter(demand, &view).is_none())
}

/// Would one more pod of the shape fit where `placed` of it have just been placed? Only what they take of each
/// other is asked.
pub(crate) fn fits_again(shape: &Shape, room: &Room, detail: &Detail, placed: i64) -> bool {
    shape.ports.is_empty()
        && resources::has_room(shape, room)
        && resources::has_others(shape, detail, placed + 1)
}

/// Why a pod cannot be on the node; empty when it can. As in Kubernetes, the first filter that refuses is
/// heard, and resources name everything that is missing.
pub(crate) fn reasons(demand: &Demand<'_>, snapshot: &Snapshot, node: NodeId) -> Vec<Reason> {
    let view = View { room: &snapshot.rooms[node], detail: &snapshot.details[node] };
    match FILTERS.iter().find_map(|filter| filter(demand, &view)) {
        Some(reason) => vec![reason],
        None => resources::missing(demand.shape, &view),
    }
}

/// Why no node will do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Refusal {
    nodes: usize,
    /// How many nodes say so.
    pub(crate) reasons: BTreeMap<Reason, usize>,
    /// Nodes that would do if pods on them went away.
    curable: usize,
}

/// Asks every node for its reason.
pub(crate) fn explain(demand: &Demand<'_>, snapshot: &Snapshot) -> Refusal {
    let mut refusal = Refusal { nodes: snapshot.len(), ..Refusal::default() };
    for node in (0..snapshot.rooms.len()).filter(|node| snapshot.rooms[*node].exists) {
        let reasons = reasons(demand, snapshot, node);
        refusal.curable += usize::from(!reasons.is_empty() && reasons.iter().all(Reason::is_curable));
        for reason in reasons {
            *refusal.reasons.entry(reason).or_insert(0) += 1;
        }
    }
    refusal
}

/// The words for a pod that no node was asked about.
pub(crate) fn explain_all(nodes: usize, why: &str) -> String {
    let head = format!("0/{nodes} nodes are available");
    format!("{head}: {why}. preemption: {head}: {nodes} Preemption is not helpful for scheduling.")
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let count = |reasons: Vec<(String, usize)>| {
            let mut lines: Vec<String> = reasons
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| format!("{count} {reason}"))
                .collect();
            lines.sort();
            lines.join(", ")
        };
        let reasons =
            count(self.reasons.iter().map(|(reason, count)| (reason.to_string(), *count)).collect());
        let preemption = count(vec![
            ("No preemption victims found for incoming pod".to_owned(), self.curable),
            ("Preemption is not helpful for scheduling".to_owned(), self.nodes - self.curable),
        ]);
        let head = format!("0/{} nodes are available", self.nodes);
        write!(f, "{head}: {reasons}. preemption: {head}: {preemption}.")
    }
}

#[cfg(test)]
mod tests;
