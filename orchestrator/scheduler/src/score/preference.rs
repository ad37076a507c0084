//! What the pod and the node would rather have: preferred node affinity and `PreferNoSchedule` taints.

use crate::filter::{term_matches, tolerates};
use crate::shape::Shape;
use crate::snapshot::Detail;

/// The weights of the preferred terms that the node matches, 100 at most.
pub(super) fn affinity(shape: &Shape, detail: &Detail) -> i64 {
    let Some(affinity) = &shape.affinity else { return 0 };
    let matching = affinity.preferred.iter().filter(|term| term_matches(&term.preference, detail));
    matching.map(|term| i64::from(term.weight)).sum::<i64>().clamp(0, 100)
}

/// 100 when the pod tolerates all taints of the node that only ask, less with each that it does not.
pub(super) fn taints(shape: &Shape, detail: &Detail) -> i64 {
    if detail.taints.is_empty() {
        return 100;
    }
    let borne = |taint: &&crate::wire::Taint| {
        taint.effect == "PreferNoSchedule" && !tolerates(&shape.tolerations, taint)
    };
    100 / (1 + i64::try_from(detail.taints.iter().filter(borne).count()).unwrap_or(99))
}
