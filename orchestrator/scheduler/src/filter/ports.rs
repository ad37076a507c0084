//! Ports of the node that the pod wants must be free.

use super::{Demand, Reason, View};

pub(super) fn filter(demand: &Demand<'_>, node: &View<'_>) -> Option<Reason> {
    let taken = |wanted: &crate::shape::HostPort| node.detail.ports.iter().any(|used| used.collides(wanted));
    demand.shape.ports.iter().any(taken).then_some(Reason::Ports)
}
