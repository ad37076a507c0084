//! How well would a pod run on a node? Each score is 0 to 100; the weights are kube-scheduler's, where it has them.

use crate::filter::term_matches;
use crate::node::NodeRow;
use crate::pod::Request;

/// One score: 0 is worst, 100 best.
type Score = fn(&Request, &NodeRow) -> i64;

/// All scores with their weights.
const SCORES: &[(i64, Score)] =
    &[(1, least_allocated), (2, spread), (1, image_locality), (2, preferred), (3, soft_taints)];
const BEST: i64 = 100;

/// The weighted sum of all scores.
#[must_use]
pub fn total(request: &Request, node: &NodeRow) -> i64 {
    SCORES.iter().map(|(weight, score)| weight * score(request, node)).sum()
}

/// The emptier the node would be afterwards, the better: mean over CPU and memory.
fn least_allocated(request: &Request, node: &NodeRow) -> i64 {
    let free = |all: i64, used: i64, wanted: i64| {
        if all <= 0 { 0 } else { (all - used - wanted).max(0) * BEST / all }
    };
    let (all, used, wanted) = (&node.allocatable, &node.used, &request.resources);
    let cpu = free(all.cpu_milli, used.cpu_milli, wanted.cpu_milli);
    let memory = free(all.memory, used.memory, wanted.memory);
    i64::midpoint(cpu, memory)
}

/// The fewer pods of the same owner are there, the better.
fn spread(request: &Request, node: &NodeRow) -> i64 {
    let there = request.owner.as_ref().and_then(|owner| node.owners.get(owner)).copied().unwrap_or(0);
    BEST / (1 + i64::from(there))
}

/// The more of the pod's images are there, by size up to 1 GB, the better.
fn image_locality(request: &Request, node: &NodeRow) -> i64 {
    const MUCH: i64 = 1_000_000_000;
    let bytes: i64 = request.images.iter().filter_map(|image| node.images.get(image)).sum();
    bytes.min(MUCH) * BEST / MUCH
}

/// The share of the preferred terms' weight that matches.
fn preferred(request: &Request, node: &NodeRow) -> i64 {
    let weight = |matching: bool| -> i64 {
        let terms = request.preferred.iter().filter(|term| !matching || term_matches(&term.preference, node));
        terms.map(|term| i64::from(term.weight)).sum()
    };
    let all = weight(false);
    if all == 0 { 0 } else { weight(true) * BEST / all }
}

/// Taints that only discourage.
fn soft_taints(request: &Request, node: &NodeRow) -> i64 {
    let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    let bothers = soft.filter(|taint| {
        !request.tolerations.iter().any(|toleration| {
            let key = toleration.key.as_deref().unwrap_or_default();
            key.is_empty() || key == taint.key
        })
    });
    BEST / (1 + i64::try_from(bothers.count()).unwrap_or(BEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Resources;

    fn node(cpu: i64, used: i64) -> NodeRow {
        let of = |cpu_milli| Resources { cpu_milli, memory: 1000, ..Resources::default() };
        NodeRow { allocatable: of(cpu), used: Resources { memory: 0, ..of(used) }, ..NodeRow::default() }
    }

    #[test]
    fn emptier_nodes_are_better() {
        let request =
            Request { resources: Resources { cpu_milli: 100, ..Resources::default() }, ..Request::default() };
        assert!(total(&request, &node(1000, 0)) > total(&request, &node(1000, 500)));
        assert_eq!(least_allocated(&request, &node(0, 0)), 50, "a node without CPU is not empty");
    }

    #[test]
    fn pods_of_one_owner_are_spread() {
        let request = Request { owner: Some("o".to_owned()), ..Request::default() };
        let mut crowded = node(1000, 0);
        crowded.owners.insert("o".to_owned(), 1);
        assert_eq!((spread(&request, &node(1000, 0)), spread(&request, &crowded)), (100, 50));
    }

    #[test]
    fn images_that_are_there_count_by_size() {
        let request = Request { images: vec!["a".to_owned()], ..Request::default() };
        let mut has = node(1, 0);
        has.images.insert("a".to_owned(), 500_000_000);
        assert_eq!((image_locality(&request, &has), image_locality(&request, &node(1, 0))), (50, 0));
    }
}
