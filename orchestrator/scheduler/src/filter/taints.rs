//! A pod must tolerate the taints that forbid scheduling.

use super::{Demand, Reason, View};
use crate::wire::{Taint, Toleration};

pub(super) fn filter(demand: &Demand<'_>, node: &View<'_>) -> Option<Reason> {
    let forbids = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    let refused = |taint: &&Taint| forbids(taint) && !tolerates(&demand.shape.tolerations, taint);
    let taint = node.detail.taints.iter().find(refused)?;
    Some(Reason::Taint { key: taint.key.clone(), value: taint.value.clone() })
}

/// Does one of the tolerations bear the taint?
pub(crate) fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| {
        let effect = toleration.effect.is_empty() || toleration.effect == taint.effect;
        let key = toleration.key.is_empty() || toleration.key == taint.key;
        effect && key && (toleration.operator == "Exists" || toleration.value == taint.value)
    })
}
