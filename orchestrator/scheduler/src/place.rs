//! Filters and scores together: the node for a pod, or the reasons why there is none. Pure.

use std::collections::BTreeMap;
use std::fmt;

use crate::filter::{Refusal, feasible};
use crate::pod::Request;
use crate::score;
use crate::snapshot::Snapshot;

/// No node takes the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unschedulable {
    /// Number of nodes looked at.
    pub nodes: usize,
    /// How many of them gave each reason.
    pub reasons: BTreeMap<Refusal, usize>,
}

impl fmt::Display for Unschedulable {
    /// In kube-scheduler's words, the reasons sorted as text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut lines: Vec<_> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        lines.sort();
        let all = self.nodes;
        write!(f, "0/{all} nodes are available: {}. ", lines.join(", "))?;
        write!(f, "preemption: 0/{all} nodes are available: {all} Preemption is not helpful for scheduling.")
    }
}

/// The best node for `request`. Among equally good ones `dice` decides, so that pods do not all land on the
/// first.
///
/// # Errors
/// Why no node takes it.
pub fn place(snapshot: &Snapshot, request: &Request, dice: u64) -> Result<String, Unschedulable> {
    let mut refused = Unschedulable::default();
    let mut best: Vec<&str> = Vec::new();
    let mut best_score = i64::MIN;
    for node in snapshot.nodes() {
        refused.nodes += 1;
        match feasible(request, node) {
            Err(reasons) => {
                reasons.into_iter().for_each(|reason| *refused.reasons.entry(reason).or_default() += 1);
            }
            Ok(()) => {
                let score = score::total(request, node);
                if score > best_score {
                    best.clear();
                    best_score = score;
                }
                if score == best_score {
                    best.push(&node.name);
                }
            }
        }
    }
    let count = best.len() as u64;
    match dice.checked_rem(count).and_then(|at| best.get(usize::try_from(at).ok()?)) {
        Some(name) => Ok((*name).to_owned()),
        None => Err(refused),
    }
}

#[cfg(test)]
mod tests;
