//! Nodes with more left are better, and those whose CPU and memory are used alike.

use crate::shape::Shape;
use crate::snapshot::Room;

fn used(shape: &Shape, room: &Room) -> [(i64, i64); 2] {
    [(room.weight.0 + shape.weight.0, room.total.0), (room.weight.1 + shape.weight.1, room.total.1)]
}

/// The share of CPU and memory that is left with the pod on the node.
pub(super) fn least_allocated(shape: &Shape, room: &Room) -> i64 {
    let left = |(used, total): (i64, i64)| {
        if total <= 0 || used >= total { 0 } else { (total - used) * 100 / total }
    };
    used(shape, room).into_iter().map(left).sum::<i64>() / 2
}

/// 100 when CPU and memory are used to the same share, 50 when one is full and the other empty.
pub(super) fn balanced(shape: &Shape, room: &Room) -> i64 {
    let share = |(used, total): (i64, i64)| if total <= 0 { 1000 } else { (used * 1000 / total).min(1000) };
    let [cpu, memory] = used(shape, room).map(share);
    100 - (cpu - memory).abs() / 20
}
