//! A pod that names its node in a field of its affinity is checked there; one that names it in `spec.nodeName`
//! never comes here. This filter keeps rows of nodes that do not exist out.

use super::{Demand, Reason, View};

pub(super) fn filter(_: &Demand<'_>, node: &View<'_>) -> Option<Reason> {
    (!node.room.exists).then_some(Reason::NodeName)
}
