//! The annotations that a Deployment and its ReplicaSets share: the number of the rollout and the user's own.

use k8s_openapi::api::apps::v1::Deployment;

use super::member::{DESIRED_REPLICAS, MAX_REPLICAS, Member, REVISION, REVISION_HISTORY};
use catamaran_client::object;

/// Annotations of a Deployment that its ReplicaSets do not get.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// The most characters that the list of earlier revisions may take.
const HISTORY_LENGTH: usize = 2000;

/// Copies the user's annotations to the new ReplicaSet (`kubernetes.io/change-cause` is one of them).
pub(super) fn copy_annotations(deployment: &Deployment, new: &mut Member<'_>) {
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        let current = new.observed.and_then(|set| object::annotation(&set.metadata, key));
        if !OWN.contains(&key.as_str()) && current != Some(value) {
            new.annotations.insert(key.clone(), value.clone());
        }
    }
}

/// Gives the ReplicaSet its number; an earlier one, after a rollback, goes to its history.
pub(super) fn record(new: &mut Member<'_>, number: i64) {
    let earlier = new.annotation(REVISION).map(str::to_owned);
    new.annotate(REVISION, number.to_string());
    let Some(earlier) = earlier else { return };
    let mut history: Vec<&str> =
        new.annotation(REVISION_HISTORY).map(|history| history.split(',').collect()).unwrap_or_default();
    history.push(&earlier);
    let length = |history: &[&str]| history.iter().map(|number| number.len() + 1).sum::<usize>();
    while length(&history) > HISTORY_LENGTH {
        history.remove(0);
    }
    let history = history.join(",");
    new.annotate(REVISION_HISTORY, history);
}
