//! Which volume a claim gets (Kubernetes' `FindMatchingVolume`): of those that are free and fit, the one with the
//! fewest further access modes, and of these the smallest. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeSpec,
};
use kube::core::{Selector, SelectorExt};

use catamaran_api::quantity::Quantity;
use catamaran_client::object;

use crate::node_selector;

/// Where the consumer of a claim will be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Where<'a> {
    /// It does not matter to the class.
    Anywhere,
    /// It is not known yet: only a volume that is meant for this very claim will do.
    Unknown,
    /// On this node.
    On(&'a Node),
}

/// The best volume for a claim of `class`.
pub(super) fn best(
    claim: &PersistentVolumeClaim,
    class: &str,
    place: Where<'_>,
    volumes: &[Arc<PersistentVolume>],
) -> Option<Arc<PersistentVolume>> {
    let fitting = || volumes.iter().filter(|volume| is_alive(volume) && fits(claim, volume).is_ok());
    if let Some(meant) = fitting().find(|volume| is_for(volume, claim)) {
        return is_reachable(meant, place).then(|| Arc::clone(meant));
    }
    let free = fitting().filter(|volume| {
        is_free(volume)
            && class_of_volume(volume) == class
            && is_selected(claim, volume)
            && !matches!(place, Where::Unknown)
            && is_reachable(volume, place)
    });
    let rank = |volume: &&Arc<PersistentVolume>| {
        let spec = volume.spec.as_ref();
        let modes = spec.and_then(|spec| spec.access_modes.as_ref()).map_or(0, Vec::len);
        (modes, capacity(volume).value(), object::name(&volume.metadata).to_owned())
    };
    free.min_by_key(rank).cloned()
}

/// Why a volume cannot be the claim's, in Kubernetes' words.
pub(super) fn fits(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<(), &'static str> {
    let (Some(wanted), Some(given)) = (claim.spec.as_ref(), volume.spec.as_ref()) else {
        return Err("requested PV has no specification");
    };
    if capacity(volume) < request(claim) {
        return Err("requested PV is too small");
    }
    if mode_of_claim(wanted) != mode_of_volume(given) {
        return Err("incompatible volumeMode");
    }
    let given = given.access_modes.as_deref().unwrap_or_default();
    if !wanted.access_modes.iter().flatten().all(|mode| given.contains(mode)) {
        return Err("incompatible accessMode");
    }
    Ok(())
}

/// Is the volume meant for this claim, by its name or already by its uid?
pub(super) fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|named| {
        let uid = named.uid.as_deref().unwrap_or_default();
        named.name.as_deref() == claim.metadata.name.as_deref()
            && named.namespace.as_deref() == claim.metadata.namespace.as_deref()
            && (uid.is_empty() || uid == object::uid(&claim.metadata))
    })
}

/// `spec.claimRef`.
pub(super) fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

pub(super) fn capacity(volume: &PersistentVolume) -> Quantity {
    let amount = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    amount.and_then(|amount| Quantity::parse(&amount.0).ok()).unwrap_or_default()
}

fn request(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let amount = resources.and_then(|resources| resources.requests.as_ref()?.get("storage"));
    amount.and_then(|amount| Quantity::parse(&amount.0).ok()).unwrap_or_default()
}

fn mode_of_claim(spec: &PersistentVolumeClaimSpec) -> &str {
    spec.volume_mode.as_deref().unwrap_or("Filesystem")
}

fn mode_of_volume(spec: &PersistentVolumeSpec) -> &str {
    spec.volume_mode.as_deref().unwrap_or("Filesystem")
}

/// The class of a volume; empty when it has none.
pub(super) fn class_of_volume(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default()
}

fn is_alive(volume: &PersistentVolume) -> bool {
    !object::is_being_deleted(&volume.metadata)
}

fn is_free(volume: &PersistentVolume) -> bool {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Available") && claim_ref(volume).is_none()
}

fn is_selected(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let Some(wanted) = claim.spec.as_ref().and_then(|spec| spec.selector.clone()) else { return true };
    let empty = std::collections::BTreeMap::new();
    let labels = volume.metadata.labels.as_ref().unwrap_or(&empty);
    Selector::try_from(wanted).is_ok_and(|selector| selector.matches(labels))
}

fn is_reachable(volume: &PersistentVolume, place: Where<'_>) -> bool {
    let Where::On(node) = place else { return true };
    let required = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
    required.is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| node_selector::matches(term, node))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(more: Value) -> PersistentVolumeClaim {
        let mut spec =
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(
            json!({"metadata": {"name": "c", "namespace": "ns", "uid": "claim"}, "spec": spec}),
        )
        .unwrap()
    }

    fn volume(name: &str, size: &str, more: Value) -> Arc<PersistentVolume> {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let volume = json!({"metadata": {"name": name, "labels": {"disk": name}}, "spec": spec,
            "status": {"phase": "Available"}});
        Arc::new(serde_json::from_value(volume).unwrap())
    }

    fn on(zone: &str) -> Value {
        json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}}})
    }

    #[test]
    fn the_smallest_that_fits() {
        let many = json!({"accessModes": ["ReadWriteOnce", "ReadWriteMany"]});
        let reference =
            |name: &str, uid: &str| json!({"claimRef": {"namespace": "ns", "name": name, "uid": uid}});
        let block = json!({"volumeMode": "Block"});
        // (claim, class, volumes, the one it gets)
        let table = [
            (json!({}), "", vec![volume("a", "5Gi", json!({})), volume("b", "3Gi", json!({}))], Some("b")),
            (json!({}), "", vec![volume("a", "1Gi", json!({}))], None),
            (json!({}), "", vec![volume("a", "2Gi", many.clone()), volume("b", "9Gi", json!({}))], Some("b")),
            (json!({"accessModes": ["ReadWriteMany"]}), "", vec![volume("a", "2Gi", many)], Some("a")),
            (json!({"accessModes": ["ReadWriteMany"]}), "", vec![volume("a", "2Gi", json!({}))], None),
            (json!({}), "fast", vec![volume("a", "2Gi", json!({}))], None),
            (json!({}), "fast", vec![volume("a", "2Gi", json!({"storageClassName": "fast"}))], Some("a")),
            (json!({}), "", vec![volume("a", "2Gi", json!({"storageClassName": "fast"}))], None),
            (json!({}), "", vec![volume("a", "2Gi", block.clone())], None),
            (block.clone(), "", vec![volume("a", "2Gi", block)], Some("a")),
            (
                json!({"selector": {"matchLabels": {"disk": "b"}}}),
                "",
                vec![volume("a", "2Gi", json!({})), volume("b", "9Gi", json!({}))],
                Some("b"),
            ),
            (json!({}), "", vec![volume("a", "2Gi", reference("other", ""))], None),
            (json!({}), "", vec![volume("a", "2Gi", reference("c", "before"))], None),
            (
                json!({}),
                "fast",
                vec![volume("a", "2Gi", json!({})), volume("b", "9Gi", reference("c", ""))],
                Some("b"),
            ),
            (json!({}), "", vec![volume("b", "9Gi", reference("c", "claim"))], Some("b")),
        ];
        for (more, class, volumes, expected) in table {
            let claim = claim(more.clone());
            let found = best(&claim, class, Where::Anywhere, &volumes);
            let name = found.as_ref().and_then(|volume| volume.metadata.name.as_deref());
            assert_eq!(name, expected, "{more} {class}");
        }
    }

    #[test]
    fn where_it_is_needed() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": "a"}}})).unwrap();
        let volumes = [volume("a", "9Gi", on("a")), volume("b", "2Gi", on("b"))];
        let found = |place: Where<'_>| {
            best(&claim(json!({})), "", place, &volumes).and_then(|volume| volume.metadata.name.clone())
        };
        assert_eq!(found(Where::On(&node)).as_deref(), Some("a"));
        assert_eq!(found(Where::Anywhere).as_deref(), Some("b"));
        assert_eq!(found(Where::Unknown), None);
    }

    #[test]
    fn what_goes_or_is_taken_is_not_given() {
        let mut leaving = PersistentVolume::clone(&volume("a", "2Gi", json!({})));
        leaving.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        let mut released = PersistentVolume::clone(&volume("a", "2Gi", json!({})));
        released.status.as_mut().unwrap().phase = Some("Released".into());
        for volume in [leaving, released] {
            assert_eq!(best(&claim(json!({})), "", Where::Anywhere, &[volume.into()]), None);
        }
    }
}
