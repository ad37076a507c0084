//! The volume claims of a StatefulSet: one of each template for each ordinal, and who takes them along in the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{KIND, name};
use crate::pod::Pod;
use catamaran_client::object;

/// What must be done about a claim.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ClaimStep {
    /// It is not there.
    Create(Box<PersistentVolumeClaim>),
    /// It must go with somebody else.
    Own(Arc<PersistentVolumeClaim>, Vec<OwnerReference>),
    /// It is going with an earlier pod: a new one can be made after that.
    Wait,
}

/// What becomes of the ordinal that a claim is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate<'a> {
    /// Its pod is about to be made.
    New,
    /// Its pod is wanted.
    Kept,
    /// Its pod is one too many.
    Condemned(&'a Pod),
}

/// Finds a claim by its name.
pub(super) type Find<'a> = &'a (dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>> + Sync);

/// The steps for the claims of `ordinal`.
pub(super) fn steps(set: &StatefulSet, ordinal: i32, fate: Fate<'_>, find: Find<'_>) -> Vec<ClaimStep> {
    let Some(spec) = &set.spec else { return Vec::new() };
    let mut steps = Vec::new();
    for template in spec.volume_claim_templates.iter().flatten() {
        let claim = name::claim(object::name(&template.metadata), object::name(&set.metadata), ordinal);
        match find(&claim) {
            Some(claim) if matches!(fate, Fate::New) && is_leaving(&claim) => steps.push(ClaimStep::Wait),
            Some(claim) => {
                let owners = owners(set, fate, &claim.metadata);
                if owners != claim.metadata.owner_references.clone().unwrap_or_default() {
                    steps.push(ClaimStep::Own(claim, owners));
                }
            }
            None if matches!(fate, Fate::Condemned(_)) => {}
            None => steps.push(ClaimStep::Create(Box::new(made(set, template, claim)))),
        }
    }
    steps
}

/// Is it to be deleted, or does it go with a pod that is no more?
fn is_leaving(claim: &PersistentVolumeClaim) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    object::is_being_deleted(&claim.metadata) || owners.into_iter().any(|owner| owner.kind == "Pod")
}

fn made(set: &StatefulSet, template: &PersistentVolumeClaim, name: String) -> PersistentVolumeClaim {
    let selector = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone());
    let mut labels: BTreeMap<String, String> = template.metadata.labels.clone().unwrap_or_default();
    labels.extend(selector.unwrap_or_default());
    let owners = owners(set, Fate::New, &ObjectMeta::default());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: template.metadata.annotations.clone(),
            owner_references: (!owners.is_empty()).then_some(owners),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Who owns the claim by `persistentVolumeClaimRetentionPolicy`; owners that are none of ours stay.
fn owners(set: &StatefulSet, fate: Fate<'_>, claim: &ObjectMeta) -> Vec<OwnerReference> {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |when: Option<&String>| when.is_some_and(|when| when == "Delete");
    let when_deleted = deletes(policy.and_then(|policy| policy.when_deleted.as_ref()));
    let when_scaled = deletes(policy.and_then(|policy| policy.when_scaled.as_ref()));
    let known = claim.owner_references.iter().flatten();
    let of_set = |owner: &OwnerReference| owner.uid == object::uid(&set.metadata);
    let of_pod = |owner: &OwnerReference| {
        owner.kind == "Pod" && name::ordinal(object::name(&set.metadata), &owner.name).is_some()
    };
    let mut owners: Vec<OwnerReference> =
        known.filter(|owner| !of_set(owner) && !of_pod(owner)).cloned().collect();
    match fate {
        Fate::Condemned(pod) if when_scaled => {
            owners.push(object::controller_reference("v1", "Pod", &pod.metadata));
        }
        _ if when_deleted => owners.push(KIND.reference(&set.metadata)),
        _ => {}
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(deleted: &str, scaled: &str) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "ns", "uid": "set"},
            "spec": {"selector": {"matchLabels": {"app": "db"}}, "serviceName": "db", "template": {},
                     "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled},
                     "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"x": "y"}}, "spec": {}}]}
        }))
        .unwrap()
    }

    fn claim(owners: Value) -> Arc<PersistentVolumeClaim> {
        let json = json!({"metadata": {"name": "data-db-1", "ownerReferences": owners}});
        Arc::new(serde_json::from_value(json).unwrap())
    }

    #[test]
    fn a_claim_is_made_once() {
        let steps = steps(&set("Retain", "Retain"), 1, Fate::New, &|_| None);
        let [ClaimStep::Create(claim)] = steps.as_slice() else { panic!("{steps:?}") };
        assert_eq!(claim.metadata.name.as_deref(), Some("data-db-1"));
        assert_eq!(claim.metadata.labels.as_ref().unwrap().len(), 2);
        assert_eq!(claim.metadata.owner_references, None);
        let there = super::steps(&set("Retain", "Retain"), 1, Fate::Kept, &|_| Some(claim.clone().into()));
        assert!(there.is_empty());
    }

    #[test]
    fn who_takes_a_claim_along() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "db-1", "uid": "pod"}})).unwrap();
        let owned = |set: &StatefulSet, fate: Fate<'_>| -> Vec<String> {
            let step = steps(set, 1, fate, &|_| Some(claim(json!([]))));
            match step.as_slice() {
                [] => Vec::new(),
                [ClaimStep::Own(_, owners)] => owners.iter().map(|owner| owner.uid.clone()).collect(),
                other => panic!("{other:?}"),
            }
        };
        // (when deleted, when scaled, owner while wanted, owner when one too many)
        let table = [
            ("Retain", "Retain", None, None),
            ("Delete", "Retain", Some("set"), Some("set")),
            ("Retain", "Delete", None, Some("pod")),
            ("Delete", "Delete", Some("set"), Some("pod")),
        ];
        for (deleted, scaled, kept, condemned) in table {
            let set = set(deleted, scaled);
            assert_eq!(
                owned(&set, Fate::Kept),
                Vec::from_iter(kept.map(str::to_owned)),
                "{deleted} {scaled}"
            );
            let found = owned(&set, Fate::Condemned(&pod));
            assert_eq!(found, Vec::from_iter(condemned.map(str::to_owned)), "{deleted} {scaled}");
        }
    }

    #[test]
    fn a_claim_that_goes_is_waited_for() {
        let of_pod = json!([{"apiVersion": "v1", "kind": "Pod", "name": "db-1", "uid": "old"}]);
        let steps = steps(&set("Retain", "Delete"), 1, Fate::New, &|_| Some(claim(of_pod.clone())));
        assert_eq!(steps, [ClaimStep::Wait]);
        let foreign = json!([{"apiVersion": "x/v1", "kind": "Backup", "name": "b", "uid": "b"}]);
        let kept = super::steps(&set("Retain", "Delete"), 1, Fate::New, &|_| Some(claim(foreign.clone())));
        assert!(kept.is_empty(), "owners that are none of ours stay");
    }
}
