//! Pods of one controller are spread over nodes.

use crate::shape::Shape;
use crate::snapshot::Detail;

/// 100 for a node without a sibling, less with each.
pub(super) fn score(shape: &Shape, detail: &Detail, placed: i64) -> i64 {
    let Some(owner) = &shape.owner else { return 100 };
    let there = detail.owners.get(owner).copied().unwrap_or(0);
    100 / (1 + i64::from(there) + placed)
}
