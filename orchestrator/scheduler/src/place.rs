//! Which nodes pods of one shape go to: a pure function of the snapshot.
//!
//! All pods of a shape are placed in one pass: the nodes are looked at once, and then each pod takes the best,
//! whose score alone changes by it.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use crate::filter::{self, Demand};
use crate::score::score;
use crate::snapshot::{NodeId, Room, Snapshot};

/// Below this number all nodes are looked at.
const FEW: usize = 200;

/// A node that will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    score: i64,
    /// Decides between equals, by chance.
    tie: u64,
    node: NodeId,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.score, self.tie, self.node).cmp(&(other.score, other.tie, other.node))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Nodes for up to `count` pods; fewer when no more fit. `seed` decides between equal nodes and where the
/// search begins.
pub(crate) fn place(demand: &Demand<'_>, snapshot: &Snapshot, count: usize, seed: u64) -> Vec<NodeId> {
    let candidates = candidates(demand, snapshot, count, seed);
    if count == 1 {
        return candidates.into_iter().max().map(|best| best.node).into_iter().collect();
    }
    let mut best = BinaryHeap::from(candidates);
    let mut touched: HashMap<NodeId, (Room, i64)> = HashMap::new();
    let mut places = Vec::with_capacity(count);
    while places.len() < count
        && let Some(candidate) = best.pop()
    {
        let node = candidate.node;
        places.push(node);
        let (room, placed) = touched.entry(node).or_insert((snapshot.rooms[node], 0));
        room.take(demand.shape, 1);
        *placed += 1;
        if filter::fits_again(demand.shape, room, &snapshot.details[node], *placed) {
            best.push(Candidate { score: score(demand, snapshot, node, room, *placed), ..candidate });
        }
    }
    places
}

/// The nodes that will do, or a fair sample of them when there are very many.
fn candidates(demand: &Demand<'_>, snapshot: &Snapshot, count: usize, seed: u64) -> Vec<Candidate> {
    let all = snapshot.rooms.len();
    let enough = enough(snapshot.len()).max(count.saturating_mul(2));
    let start = if all == 0 { 0 } else { usize::try_from(mix(seed) % all as u64).unwrap_or(0) };
    let mut found = Vec::with_capacity(enough.min(all));
    for node in (start..all).chain(0..start) {
        if filter::fits(demand, snapshot, node) {
            let score = score(demand, snapshot, node, &snapshot.rooms[node], 0);
            found.push(Candidate { score, tie: mix(seed ^ node as u64), node });
            if found.len() >= enough {
                break;
            }
        }
    }
    found
}

/// How many nodes that will do are compared: all when there are few, 5 % when there are very many
/// (Kubernetes' rule).
fn enough(nodes: usize) -> usize {
    if nodes <= FEW {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(FEW)
}

/// Scatters a number (splitmix64).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
