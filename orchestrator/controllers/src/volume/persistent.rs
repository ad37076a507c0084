//! What is to be done about a volume next: a pure function of the volume and of the claim that it names.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use catamaran_api::local_path::{FINALIZER, PROVISIONER, REMOVED, VOLUME_IN_USE};
use catamaran_client::object;

use super::claim::volume_name;
use super::local_path::PROVISIONED_BY;
use super::matching::claim_ref;

/// Marks what the controller has bound, and not a user.
pub(super) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// All that a volume's next step depends on.
pub(super) struct Observed<'a> {
    pub(super) volume: &'a PersistentVolume,
    /// The claim that `claimRef` names, by name and uid.
    pub(super) claim: Option<&'a PersistentVolumeClaim>,
    /// The node whose directory the volume is, is there.
    pub(super) has_node: bool,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum VolumeStep {
    Nothing,
    /// Its finalizers are to be these.
    Finalizers(Vec<String>),
    /// Its phase is to be this; with what is wrong.
    Phase(&'static str, Option<&'static str>),
    /// It is no longer the claim's: wholly, or but for the name that a user gave it.
    Unbind(Keep),
    /// The claim must look at it.
    WakeClaim,
    /// Its claim is gone and so must it go.
    Delete,
}

/// What stays of `claimRef`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    Nothing,
    Name,
}

/// The next step of a volume.
pub(super) fn plan(observed: &Observed<'_>) -> VolumeStep {
    let volume = observed.volume;
    let leaving = object::is_being_deleted(&volume.metadata);
    if !leaving && let Some(all) = with_protection(volume) {
        return VolumeStep::Finalizers(all);
    }
    let step = of_claim(observed);
    if !leaving || matches!(step, VolumeStep::Phase(..)) {
        return step;
    }
    without_protection(observed).map_or(VolumeStep::Nothing, VolumeStep::Finalizers)
}

fn of_claim(observed: &Observed<'_>) -> VolumeStep {
    let volume = observed.volume;
    let uid = claim_ref(volume).and_then(|named| named.uid.as_deref()).unwrap_or_default();
    if uid.is_empty() {
        return phase(volume, "Available");
    }
    let Some(claim) = observed.claim else { return released(volume) };
    let theirs = volume_name(claim);
    if theirs == object::name(&volume.metadata) {
        return phase(volume, "Bound");
    }
    if theirs.is_empty() {
        return VolumeStep::WakeClaim;
    }
    // The claim has another volume.
    let provisioned = object::annotation(&volume.metadata, PROVISIONED_BY).is_some();
    if provisioned && policy(volume) == "Delete" {
        return released(volume);
    }
    let ours = object::annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some();
    VolumeStep::Unbind(if ours { Keep::Nothing } else { Keep::Name })
}

fn phase(volume: &PersistentVolume, wanted: &'static str) -> VolumeStep {
    if current(volume) == wanted { VolumeStep::Nothing } else { VolumeStep::Phase(wanted, None) }
}

fn current(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

/// Its claim is gone.
fn released(volume: &PersistentVolume) -> VolumeStep {
    match current(volume) {
        "Released" => {}
        "Failed" => return VolumeStep::Nothing,
        _ => return VolumeStep::Phase("Released", None),
    }
    let driver = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()).map(|csi| csi.driver.as_str());
    match (policy(volume), driver) {
        ("Delete", Some(PROVISIONER)) if object::is_being_deleted(&volume.metadata) => VolumeStep::Nothing,
        ("Delete", Some(PROVISIONER)) => VolumeStep::Delete,
        ("Delete", None) => {
            let why = "error getting deleter volume plugin for volume: no deletable volume plugin matched";
            VolumeStep::Phase("Failed", Some(why))
        }
        ("Recycle", _) => {
            VolumeStep::Phase("Failed", Some("no volume plugin matched: volumes are not recycled"))
        }
        // Kept; or another driver's to delete.
        _ => VolumeStep::Nothing,
    }
}

fn finalizers(volume: &PersistentVolume) -> Vec<String> {
    volume.metadata.finalizers.clone().unwrap_or_default()
}

fn with_protection(volume: &PersistentVolume) -> Option<Vec<String>> {
    let mut all = finalizers(volume);
    if all.iter().any(|one| one == VOLUME_IN_USE) {
        return None;
    }
    all.push(VOLUME_IN_USE.to_owned());
    Some(all)
}

/// Of a volume that is to be deleted: what no longer keeps it.
fn without_protection(observed: &Observed<'_>) -> Option<Vec<String>> {
    let volume = observed.volume;
    let all = finalizers(volume);
    let in_use = current(volume) == "Bound";
    let reason = volume.status.as_ref().and_then(|status| status.reason.as_deref());
    // With `Retain` the directory is the user's to remove.
    let done = reason == Some(REMOVED) || !observed.has_node || policy(volume) != "Delete";
    let kept = |one: &&String| match one.as_str() {
        VOLUME_IN_USE => in_use,
        FINALIZER => in_use || !done,
        _ => true,
    };
    let left: Vec<String> = all.iter().filter(kept).cloned().collect();
    (left != all).then_some(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(phase: &str, spec: Value, meta: Value) -> PersistentVolume {
        let mut metadata = json!({"name": "v", "finalizers": [VOLUME_IN_USE]});
        metadata.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": {"phase": phase}}))
            .unwrap()
    }

    fn claim(volume: &str) -> PersistentVolumeClaim {
        let claim =
            json!({"metadata": {"name": "c", "namespace": "ns", "uid": "1"}, "spec": {"volumeName": volume}});
        serde_json::from_value(claim).unwrap()
    }

    #[test]
    fn phases_follow_the_claim() {
        let none = json!({});
        let by_name = json!({"claimRef": {"namespace": "ns", "name": "c"}});
        let by_uid = json!({"claimRef": {"namespace": "ns", "name": "c", "uid": "1"}});
        let table = [
            ("Pending", &none, None, VolumeStep::Phase("Available", None)),
            ("Available", &none, None, VolumeStep::Nothing),
            ("Pending", &by_name, None, VolumeStep::Phase("Available", None)),
            ("Available", &by_uid, Some(""), VolumeStep::WakeClaim),
            ("Available", &by_uid, Some("v"), VolumeStep::Phase("Bound", None)),
            ("Bound", &by_uid, Some("v"), VolumeStep::Nothing),
            ("Bound", &by_uid, Some("w"), VolumeStep::Unbind(Keep::Name)),
            ("Bound", &by_uid, None, VolumeStep::Phase("Released", None)),
        ];
        for (phase, spec, theirs, expected) in table {
            let volume = volume(phase, spec.clone(), json!({}));
            let claim = theirs.map(claim);
            let found = plan(&Observed { volume: &volume, claim: claim.as_ref(), has_node: true });
            assert_eq!(found, expected, "{phase} {spec} {theirs:?}");
        }
        let marked = json!({"annotations": {BOUND_BY_CONTROLLER: "yes"}});
        let other = claim("w");
        let volume = volume("Bound", by_uid, marked);
        let found = plan(&Observed { volume: &volume, claim: Some(&other), has_node: true });
        assert_eq!(found, VolumeStep::Unbind(Keep::Nothing));
    }

    #[test]
    fn what_becomes_of_a_released_volume() {
        let spec = |policy: &str, source: Value| {
            let mut spec = json!({"claimRef": {"name": "c", "namespace": "ns", "uid": "1"}, "persistentVolumeReclaimPolicy": policy});
            spec.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
            spec
        };
        let csi = |driver: &str| json!({"csi": {"driver": driver, "volumeHandle": "h"}});
        let path = json!({"hostPath": {"path": "/x"}});
        let step = |spec: Value| {
            let volume = volume("Released", spec, json!({}));
            plan(&Observed { volume: &volume, claim: None, has_node: true })
        };
        assert_eq!(step(spec("Delete", csi(PROVISIONER))), VolumeStep::Delete);
        assert_eq!(step(spec("Delete", csi("far.example.com"))), VolumeStep::Nothing);
        assert_eq!(step(spec("Retain", csi(PROVISIONER))), VolumeStep::Nothing);
        assert!(matches!(step(spec("Delete", path.clone())), VolumeStep::Phase("Failed", Some(_))));
        assert!(matches!(step(spec("Recycle", path)), VolumeStep::Phase("Failed", Some(_))));
    }

    #[test]
    fn what_keeps_a_volume_that_is_to_be_deleted() {
        let both = json!([VOLUME_IN_USE, FINALIZER]);
        let left = |phase: &str, reason: Option<&str>, policy: &str, has_node: bool| {
            let meta = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": both});
            let bound = claim("v");
            let spec = json!({"csi": {"driver": PROVISIONER, "volumeHandle": "h"}, "persistentVolumeReclaimPolicy": policy,
                "claimRef": {"name": "c", "namespace": "ns", "uid": "1"}});
            let mut volume = volume(phase, spec, meta);
            volume.status.as_mut().unwrap().reason = reason.map(str::to_owned);
            let claim = (phase == "Bound").then_some(&bound);
            match plan(&Observed { volume: &volume, claim, has_node }) {
                VolumeStep::Finalizers(left) => left.len(),
                VolumeStep::Nothing => 2,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(left("Bound", None, "Delete", true), 2);
        assert_eq!(left("Released", None, "Delete", true), 1);
        assert_eq!(left("Released", Some(REMOVED), "Delete", true), 0);
        assert_eq!(left("Released", None, "Delete", false), 0);
        assert_eq!(left("Released", None, "Retain", true), 0);
    }

    #[test]
    fn a_volume_is_protected_first() {
        let volume = volume("Pending", json!({}), json!({"finalizers": []}));
        let found = plan(&Observed { volume: &volume, claim: None, has_node: true });
        assert_eq!(found, VolumeStep::Finalizers(vec![VOLUME_IN_USE.to_owned()]));
    }
}
