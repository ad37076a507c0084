//! The handler of a pod's RuntimeClass must be one that the node has.

use super::{Demand, Reason, View};

pub(super) fn filter(demand: &Demand<'_>, node: &View<'_>) -> Option<Reason> {
    let wanted = demand.handler?;
    let there = &node.detail.handlers;
    // A node that does not say which handlers it has is believed to have all.
    if there.is_empty() || there.iter().any(|handler| handler == wanted) {
        return None;
    }
    let mut there: Vec<&str> = there.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    there.sort_unstable();
    Some(Reason::Handler { wanted: wanted.to_owned(), there: there.join(", ") })
}
