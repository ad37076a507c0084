//! How a DaemonSet gets from one template to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;

use super::nodes::Fit;
use super::plan::{Observed, Place, Plan};
use crate::fraction::{Rounding, scaled};
use crate::pod::Pod;

/// `spec.updateStrategy`, with numbers of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    /// A pod of an old template stays until somebody deletes it.
    OnDelete,
    /// So many nodes may be without an available pod.
    Unavailable(i32),
    /// So many nodes may have a second pod.
    Surge(i32),
}

impl Strategy {
    pub(super) fn of(set: &DaemonSet, desired: i32) -> Self {
        let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return Self::OnDelete;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
        match surge.map_or(0, |surge| scaled(surge, desired, Rounding::Up)) {
            0 => {
                let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
                let number = unavailable.map_or(1, |number| scaled(number, desired, Rounding::Up));
                // Nothing would ever change.
                Self::Unavailable(number.max(1))
            }
            surge => Self::Surge(surge),
        }
    }
}

/// The pods of a node that are not to be deleted: of the newest template, and of an older one.
fn both<'a>(observed: &Observed<'_>, place: &Place<'a>) -> (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>) {
    let staying = || place.pods.iter().copied().filter(|pod| !pod.is_terminating());
    (staying().find(|pod| observed.is_updated(pod)), staying().find(|pod| !observed.is_updated(pod)))
}

/// Takes the next steps of a rolling update.
pub(super) fn roll(
    observed: &Observed<'_>,
    strategy: Strategy,
    places: &BTreeMap<&str, Place<'_>>,
    plan: &mut Plan,
) {
    match strategy {
        Strategy::OnDelete => {}
        Strategy::Unavailable(most) => replace(observed, most, places, plan),
        Strategy::Surge(most) => surge(observed, most, places, plan),
    }
}

/// Deletes old pods, as long as no more than `most` nodes are without an available one.
fn replace(observed: &Observed<'_>, most: i32, places: &BTreeMap<&str, Place<'_>>, plan: &mut Plan) {
    let mut unavailable = 0;
    let mut candidates = Vec::new();
    for place in places.values().filter(|place| place.fit == Fit::Wanted) {
        match both(observed, place) {
            (Some(new), _) => unavailable += i32::from(!observed.is_available(new)),
            (None, None) => unavailable += 1,
            // Nobody misses it.
            (None, Some(old)) if !observed.is_available(old) => {
                unavailable += 1;
                if !old.is_terminal() {
                    plan.delete.push(Arc::clone(old));
                }
            }
            (None, Some(old)) => candidates.push(Arc::clone(old)),
        }
    }
    let free = usize::try_from(most - unavailable).unwrap_or(0);
    plan.delete.extend(candidates.into_iter().take(free));
}

/// Adds new pods beside old ones, at most `most` at a time, and deletes the old one where the new one is available.
fn surge(observed: &Observed<'_>, most: i32, places: &BTreeMap<&str, Place<'_>>, plan: &mut Plan) {
    let mut surging = 0;
    let mut candidates = Vec::new();
    for (node, place) in places.iter().filter(|(_, place)| place.fit == Fit::Wanted) {
        match both(observed, place) {
            (_, None) => {}
            (None, Some(old)) if !observed.is_available(old) => plan.create.push((*node).to_owned()),
            (None, Some(_)) => candidates.push((*node).to_owned()),
            (Some(new), Some(old)) if observed.is_available(new) => plan.delete.push(Arc::clone(old)),
            (Some(_), Some(_)) => surging += 1,
        }
    }
    let free = usize::try_from(most - surging).unwrap_or(0);
    plan.create.extend(candidates.into_iter().take(free));
}
