//! What the pod requests must be left on the node. What it does not request it needs not, even on a node that is
//! overcommitted already.

use super::{Reason, View};
use crate::shape::Shape;
use crate::snapshot::{Detail, Room};

/// Is there room for one more pod, as far as the dense table knows?
pub(super) fn has_room(shape: &Shape, room: &Room) -> bool {
    let has = |wanted: i64, left: i64| wanted == 0 || wanted <= left;
    let wanted = &shape.requests;
    room.pods > 0
        && has(wanted.cpu, room.cpu)
        && has(wanted.memory, room.memory)
        && has(wanted.storage, room.storage)
}

/// Is there enough of the other resources for `count` pods?
pub(super) fn has_others(shape: &Shape, detail: &Detail, count: i64) -> bool {
    shape
        .requests
        .others
        .iter()
        .all(|(name, wanted)| wanted.saturating_mul(count) <= detail.others.other(name))
}

/// Everything that is missing.
pub(super) fn missing(shape: &Shape, node: &View<'_>) -> Vec<Reason> {
    let mut missing = Vec::new();
    if node.room.pods <= 0 {
        missing.push(Reason::TooManyPods);
    }
    let wanted = &shape.requests;
    let table = [
        ("cpu", wanted.cpu, node.room.cpu),
        ("memory", wanted.memory, node.room.memory),
        ("ephemeral-storage", wanted.storage, node.room.storage),
    ];
    let others =
        wanted.others.iter().map(|(name, wanted)| (&**name, *wanted, node.detail.others.other(name)));
    for (name, wanted, left) in table.into_iter().chain(others) {
        if wanted > 0 && wanted > left {
            missing.push(Reason::Insufficient(name.to_owned()));
        }
    }
    missing
}
