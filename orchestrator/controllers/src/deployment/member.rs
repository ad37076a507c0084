//! The ReplicaSets of a Deployment as a plan sees them: what is observed, and what is to change.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::fraction::{Rounding, scaled};
use catamaran_client::object;

/// The number of a rollout, on Deployment and ReplicaSet; `kubectl rollout history` reads it.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier numbers of a ReplicaSet that was rolled back to.
pub(crate) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the ReplicaSet was last scaled.
pub(crate) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The same with the surge added.
pub(crate) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// What a Deployment asks for, with fractions resolved.
pub(crate) struct Wish<'a> {
    pub(crate) deployment: &'a Deployment,
    pub(crate) spec: &'a DeploymentSpec,
    pub(crate) replicas: i32,
    /// 0 for Recreate.
    pub(crate) max_surge: i32,
    /// 0 for Recreate.
    pub(crate) max_unavailable: i32,
    pub(crate) strategy: Strategy,
}

/// How pods of the old template are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// Some at a time.
    RollingUpdate,
    /// All old ones go before a new one comes.
    Recreate,
}

impl<'a> Wish<'a> {
    pub(crate) fn new(deployment: &'a Deployment, spec: &'a DeploymentSpec) -> Self {
        let replicas = spec.replicas.unwrap_or(1);
        let strategy = match spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) {
            Some("Recreate") => Strategy::Recreate,
            _ => Strategy::RollingUpdate,
        };
        let (max_surge, max_unavailable) = match strategy {
            Strategy::RollingUpdate => fenceposts(spec, replicas),
            Strategy::Recreate => (0, 0),
        };
        Self { deployment, spec, replicas, max_surge, max_unavailable, strategy }
    }

    /// At most this many pods.
    pub(crate) fn ceiling(&self) -> i32 {
        self.replicas.saturating_add(self.max_surge)
    }

    /// At least this many available pods.
    pub(crate) fn floor(&self) -> i32 {
        self.replicas - self.max_unavailable
    }
}

/// Surge is rounded up, unavailability down; one of them must allow a step.
fn fenceposts(spec: &DeploymentSpec, replicas: i32) -> (i32, i32) {
    let rolling = spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let default = IntOrString::String("25%".to_owned());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&default);
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&default);
    let surge = scaled(surge, replicas, Rounding::Up);
    let mut unavailable = scaled(unavailable, replicas, Rounding::Down);
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    (surge, unavailable.min(replicas))
}

/// One ReplicaSet in a plan.
#[derive(Clone, Debug)]
pub(crate) struct Member<'a> {
    /// Absent when the plan creates it.
    pub(crate) observed: Option<&'a ReplicaSet>,
    pub(crate) name: String,
    /// What `spec.replicas` is to be.
    pub(crate) replicas: i32,
    /// Annotations to set.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Annotations to remove.
    pub(crate) removed: Vec<String>,
    /// `spec.minReadySeconds` to set.
    pub(crate) min_ready_seconds: Option<i32>,
}

impl<'a> Member<'a> {
    pub(crate) fn observed(set: &'a ReplicaSet) -> Self {
        Self {
            observed: Some(set),
            name: object::name(&set.metadata).to_owned(),
            replicas: spec_replicas(set),
            annotations: BTreeMap::new(),
            removed: Vec::new(),
            min_ready_seconds: None,
        }
    }

    pub(crate) fn planned(name: String, replicas: i32) -> Self {
        Self {
            observed: None,
            name,
            replicas,
            annotations: BTreeMap::new(),
            removed: Vec::new(),
            min_ready_seconds: None,
        }
    }

    pub(crate) fn status(&self) -> Option<&'a ReplicaSetStatus> {
        self.observed?.status.as_ref()
    }

    /// Pods there are, whatever was asked for.
    pub(crate) fn actual(&self) -> i32 {
        self.status().map_or(0, |status| status.replicas)
    }

    pub(crate) fn available(&self) -> i32 {
        self.status().and_then(|status| status.available_replicas).unwrap_or(0)
    }

    /// Available pods that a rollout may count on. The status of a ReplicaSet that was scaled down a moment ago
    /// still counts the pods that are about to go; they must not be given away twice.
    pub(crate) fn lasting(&self) -> i32 {
        self.available().min(self.observed.map_or(0, spec_replicas))
    }

    pub(crate) fn ready(&self) -> i32 {
        self.status().and_then(|status| status.ready_replicas).unwrap_or(0)
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        let kept = |value: &&str| !value.is_empty();
        self.annotations
            .get(key)
            .map(String::as_str)
            .or_else(|| object::annotation(&self.observed?.metadata, key))
            .filter(kept)
    }

    pub(crate) fn number(&self, key: &str) -> Option<i64> {
        self.annotation(key)?.parse().ok()
    }

    pub(crate) fn revision(&self) -> i64 {
        self.number(REVISION).unwrap_or(0)
    }

    /// The oldest comes first; what is not made yet is the youngest.
    pub(crate) fn age_order(&self) -> (Timestamp, &str) {
        let created = self.observed.and_then(|set| set.metadata.creation_timestamp.as_ref());
        (created.map_or(Timestamp::MAX, |time| time.0), &self.name)
    }

    /// Sets an annotation unless it has this value already.
    pub(crate) fn annotate(&mut self, key: &str, value: String) {
        if self.annotation(key) != Some(&value) {
            self.annotations.insert(key.to_owned(), value);
        }
    }

    /// Wants `replicas` pods in it and notes for which Deployment size that was right.
    pub(crate) fn scale(&mut self, replicas: i32, wish: &Wish<'_>) {
        self.replicas = replicas;
        self.annotate(DESIRED_REPLICAS, wish.replicas.to_string());
        self.annotate(MAX_REPLICAS, wish.ceiling().to_string());
    }

    /// Is there anything to write?
    pub(crate) fn is_changed(&self) -> bool {
        self.observed.is_some_and(|set| spec_replicas(set) != self.replicas)
            || !self.annotations.is_empty()
            || !self.removed.is_empty()
            || self.min_ready_seconds.is_some()
    }
}

/// `spec.replicas` of a ReplicaSet.
pub(crate) fn spec_replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_resolved_as_kubernetes_does() {
        use k8s_openapi::api::apps::v1::{DeploymentStrategy, RollingUpdateDeployment};
        let parse = |text: &str| match text.parse() {
            Ok(number) => IntOrString::Int(number),
            Err(_) => IntOrString::String(text.to_owned()),
        };
        // (surge, unavailable, replicas) → (surge, unavailable)
        let table = [
            ("25%", "25%", 10, (3, 2)),
            ("25%", "25%", 1, (1, 0)),
            ("0", "0%", 5, (0, 1)),
            ("0%", "10%", 5, (0, 1)),
            ("1", "0", 3, (1, 0)),
            ("100%", "100%", 3, (3, 3)),
            ("2", "5", 3, (2, 3)),
            ("25%", "25%", 0, (0, 0)),
        ];
        for (surge, unavailable, replicas, expected) in table {
            let spec = DeploymentSpec {
                strategy: Some(DeploymentStrategy {
                    rolling_update: Some(RollingUpdateDeployment {
                        max_surge: Some(parse(surge)),
                        max_unavailable: Some(parse(unavailable)),
                    }),
                    ..DeploymentStrategy::default()
                }),
                ..DeploymentSpec::default()
            };
            assert_eq!(fenceposts(&spec, replicas), expected, "{surge} {unavailable} of {replicas}");
        }
    }
}
