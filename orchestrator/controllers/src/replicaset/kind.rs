//! The two kinds that want a number of pods of one template, told in the terms of one of them.

use std::borrow::Cow;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{ReplicationController, ReplicationControllerCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Resource;

use catamaran_client::cache::Cached;

use crate::own::{OwnerKind, Wording};

/// A kind whose spec and status mean what those of a ReplicaSet mean.
pub(crate) trait Replicated:
    Cached + Resource<DynamicType = (), Scope = NamespaceResourceScope>
{
    /// The kind as an owner.
    const KIND: OwnerKind;
    /// The name of its controller.
    const CONTROLLER: &'static str;

    /// The object as a ReplicaSet.
    fn as_set(&self) -> Cow<'_, ReplicaSet>;

    /// Its selector.
    fn selector(&self) -> Option<Cow<'_, LabelSelector>>;
}

impl Replicated for ReplicaSet {
    const KIND: OwnerKind =
        OwnerKind { api_version: "apps/v1", kind: "ReplicaSet", finalizer: None, wording: Wording::Plain };
    const CONTROLLER: &'static str = "replicaset";

    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        Cow::Borrowed(self)
    }

    fn selector(&self) -> Option<Cow<'_, LabelSelector>> {
        self.spec.as_ref().map(|spec| Cow::Borrowed(&spec.selector))
    }
}

impl Replicated for ReplicationController {
    const KIND: OwnerKind = OwnerKind {
        api_version: "v1",
        kind: "ReplicationController",
        finalizer: None,
        wording: Wording::Plain,
    };
    const CONTROLLER: &'static str = "replicationcontroller";

    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        let spec = self.spec.as_ref().map(|spec| ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: spec.replicas,
            selector: selector(spec.selector.as_ref()),
            template: spec.template.clone(),
        });
        let status = self.status.as_ref().map(|status| ReplicaSetStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.as_ref().map(|all| all.iter().map(condition).collect()),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
            ..ReplicaSetStatus::default()
        });
        Cow::Owned(ReplicaSet { metadata: self.metadata.clone(), spec, status })
    }

    fn selector(&self) -> Option<Cow<'_, LabelSelector>> {
        self.spec.as_ref().map(|spec| Cow::Owned(selector(spec.selector.as_ref())))
    }
}

fn selector(labels: Option<&std::collections::BTreeMap<String, String>>) -> LabelSelector {
    LabelSelector { match_labels: labels.cloned(), ..LabelSelector::default() }
}

fn condition(condition: &ReplicationControllerCondition) -> ReplicaSetCondition {
    ReplicaSetCondition {
        last_transition_time: condition.last_transition_time.clone(),
        message: condition.message.clone(),
        reason: condition.reason.clone(),
        status: condition.status.clone(),
        type_: condition.type_.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_controller_is_read_like_a_set() {
        let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}});
        let conditions = json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}]);
        let status =
            json!({"replicas": 3, "readyReplicas": 2, "observedGeneration": 7, "conditions": conditions});
        let make = |selector: serde_json::Value| {
            json!({"metadata": {"name": "web", "uid": "u"}, "status": status,
                   "spec": {"replicas": 4, "minReadySeconds": 5, "selector": selector, "template": template}})
        };
        let controller: ReplicationController = serde_json::from_value(make(json!({"app": "web"}))).unwrap();
        let set: ReplicaSet = serde_json::from_value(make(json!({"matchLabels": {"app": "web"}}))).unwrap();
        assert_eq!(*controller.as_set(), set);
        assert_eq!(Replicated::selector(&controller), Replicated::selector(&set));
    }
}
