//! The volumes of the pod must be there, or be made there.

use super::{Demand, Reason, View};
use crate::volumes::Need;

pub(super) fn filter(demand: &Demand<'_>, node: &View<'_>) -> Option<Reason> {
    let missing = demand.volumes.iter().find(|need| !need.holds(node.detail))?;
    Some(match missing {
        Need::Reaches(_) => Reason::VolumeAffinity,
        Need::OneOf(_) | Need::Node(_) => Reason::NoVolume,
    })
}
