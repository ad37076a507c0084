//! A cordoned node takes only pods that tolerate that.

use super::{Demand, Reason, View, tolerates};
use crate::wire::Taint;

pub(super) fn filter(demand: &Demand<'_>, node: &View<'_>) -> Option<Reason> {
    if !node.detail.unschedulable {
        return None;
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        value: String::new(),
        effect: "NoSchedule".to_owned(),
    };
    (!tolerates(&demand.shape.tolerations, &taint)).then_some(Reason::Unschedulable)
}
