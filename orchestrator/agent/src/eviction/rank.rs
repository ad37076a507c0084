//! Which pod goes first when the node runs out of memory or disk, and what it is told (the kubelet's rules: first
//! those that use more than they asked for, then the lower priority, then who is farthest above its request). Pure.

use std::sync::Arc;

use catamaran_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::limits::in_words;
use crate::members::{Role, members, spec};

/// Pods of this priority and above are never evicted (`system-cluster-critical`).
const CRITICAL: i32 = 2_000_000_000;

/// What the node runs out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Starved {
    Memory,
    Disk,
}

impl Starved {
    /// The name of the resource.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Starved::Memory => "memory",
            Starved::Disk => "ephemeral-storage",
        }
    }
}

/// A pod and what it uses of the resource, by container; what is no container's counts for the pod.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) pod: Arc<Pod>,
    pub(crate) containers: Vec<(String, u64)>,
    pub(crate) besides: u64,
}

impl Candidate {
    fn used(&self) -> u64 {
        self.containers.iter().map(|(_, used)| used).sum::<u64>() + self.besides
    }

    fn requested(&self, starved: Starved) -> u64 {
        let running = members(&self.pod).filter(|member| member.role != Role::Init);
        running.map(|member| request(member.container, starved)).sum()
    }

    fn priority(&self) -> i32 {
        spec(&self.pod).priority.unwrap_or(0)
    }
}

fn request(container: &Container, starved: Starved) -> u64 {
    let resources = container.resources.as_ref();
    let of = |map: Option<&std::collections::BTreeMap<String, _>>| {
        let text: &k8s_openapi::apimachinery::pkg::api::resource::Quantity = map?.get(starved.resource())?;
        Quantity::parse(&text.0).ok()
    };
    let amount = of(resources.and_then(|all| all.requests.as_ref()))
        .or_else(|| of(resources.and_then(|all| all.limits.as_ref())));
    amount.and_then(|amount| u64::try_from(amount.value()).ok()).unwrap_or(0)
}

/// The one that goes, if any may.
pub(crate) fn first(candidates: Vec<Candidate>, starved: Starved) -> Option<Candidate> {
    let may_go = candidates.into_iter().filter(|candidate| candidate.priority() < CRITICAL);
    may_go.min_by_key(|candidate| {
        let (used, requested) = (candidate.used(), candidate.requested(starved));
        let above = i128::from(used) - i128::from(requested);
        (above <= 0, candidate.priority(), -above)
    })
}

/// What the pod is told.
pub(crate) fn message(candidate: &Candidate, starved: Starved, threshold: u64, available: u64) -> String {
    let resource = starved.resource();
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        in_words(threshold),
        in_words(available / 1024 * 1024)
    );
    for member in members(&candidate.pod) {
        let used =
            candidate.containers.iter().find(|(name, _)| name == member.name()).map_or(0, |(_, used)| *used);
        let requested = request(member.container, starved);
        if used > requested {
            text.push_str(&format!(
                "Container {} was using {}, request is {}, has larger consumption of {resource}. ",
                member.name(),
                in_words(used / 1024 * 1024),
                in_words(requested)
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn candidate(name: &str, priority: i32, request: &str, used: u64) -> Candidate {
        let pod = json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"memory": request}}}]}});
        let pod = Arc::new(serde_json::from_value(pod).unwrap());
        Candidate { pod, containers: vec![("c".into(), used)], besides: 0 }
    }

    #[test]
    fn who_goes_first() {
        let mi = 1 << 20;
        let table = [
            // Above its request before below it, whatever it uses.
            (vec![candidate("a", 0, "100Mi", 90 * mi), candidate("b", 0, "1Mi", 2 * mi)], Some("b")),
            // Then the lower priority.
            (vec![candidate("a", 5, "0", 90 * mi), candidate("b", 0, "0", mi)], Some("b")),
            // Then the largest excess.
            (vec![candidate("a", 0, "50Mi", 90 * mi), candidate("b", 0, "0", 60 * mi)], Some("b")),
            // A request that is kept to protects from one that is not, even of a higher priority.
            (vec![candidate("a", 0, "100Mi", 90 * mi), candidate("b", 9, "1Mi", 2 * mi)], Some("b")),
            (vec![candidate("a", CRITICAL, "0", 90 * mi), candidate("b", 0, "1Gi", mi)], Some("b")),
            (vec![candidate("a", CRITICAL, "0", 90 * mi)], None),
        ];
        for (candidates, expected) in table {
            let found = first(candidates, Starved::Memory);
            assert_eq!(found.and_then(|found| found.pod.metadata.name.clone()).as_deref(), expected);
        }
    }

    #[test]
    fn what_it_is_told() {
        let mi = 1 << 20;
        let text = message(&candidate("a", 0, "1Mi", 2 * mi), Starved::Memory, 100 * mi, 50 * mi + 5);
        let expected = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
            Container c was using 2Mi, request is 1Mi, has larger consumption of memory. ";
        assert_eq!(text, expected);
    }
}
