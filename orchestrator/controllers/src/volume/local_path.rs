//! The volume of the built-in provisioner that a claim gets: a directory of the node that the scheduler chose. Pure;
//! the node makes the directory when the first pod needs it, and removes it when the volume goes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use catamaran_api::local_path::{FINALIZER, NODE_LABEL, PROVISIONER, VOLUME_IN_USE};
use catamaran_client::object;

/// Says which provisioner made a volume.
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// The volume for `claim` on `node`; or why there can be none.
pub(super) fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: Option<&Node>,
) -> Result<PersistentVolume, String> {
    let spec = claim.spec.as_ref().ok_or("the claim has no specification")?;
    let node = node.ok_or(
        "a directory is made on the node of its first consumer: use volumeBindingMode WaitForFirstConsumer",
    )?;
    let modes = spec.access_modes.clone().unwrap_or_default();
    if let Some(mode) = modes.iter().find(|mode| !mode.starts_with("ReadWriteOnce")) {
        return Err(format!("access mode {mode} cannot be had: the directory is on one node"));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err("volumeMode Block cannot be had: the volume is a directory".into());
    }
    if spec.selector.is_some() {
        return Err("claim.spec.selector is not supported by this provisioner".into());
    }
    let name = format!("pvc-{}", object::uid(&claim.metadata));
    Ok(PersistentVolume {
        metadata: ObjectMeta {
            annotations: Some(BTreeMap::from([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())])),
            finalizers: Some(vec![VOLUME_IN_USE.to_owned(), FINALIZER.to_owned()]),
            name: Some(name.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: Some(modes),
            capacity: spec.resources.as_ref().and_then(|resources| resources.requests.clone()),
            claim_ref: Some(reference(claim)),
            csi: Some(CSIPersistentVolumeSource {
                driver: PROVISIONER.to_owned(),
                volume_handle: name,
                ..CSIPersistentVolumeSource::default()
            }),
            mount_options: class.mount_options.clone(),
            node_affinity: Some(only_on(node)),
            persistent_volume_reclaim_policy: class.reclaim_policy.clone().or(Some("Delete".into())),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: spec.volume_mode.clone(),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    })
}

/// A reference that makes a volume the claim's.
pub(super) fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        name: claim.metadata.name.clone(),
        namespace: claim.metadata.namespace.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        uid: claim.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

fn only_on(node: &Node) -> VolumeNodeAffinity {
    let name = object::label(&node.metadata, NODE_LABEL).unwrap_or(object::name(&node.metadata));
    let term = NodeSelectorTerm {
        match_expressions: Some(vec![NodeSelectorRequirement {
            key: NODE_LABEL.to_owned(),
            operator: "In".into(),
            values: Some(vec![name.to_owned()]),
        }]),
        match_fields: None,
    };
    VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: vec![term] }) }
}

/// The node whose directory a volume is; `None` when the volume is none of ours.
pub(super) fn node_of(volume: &PersistentVolume) -> Option<&str> {
    let spec = volume.spec.as_ref()?;
    spec.csi.as_ref().filter(|csi| csi.driver == PROVISIONER)?;
    let required = spec.node_affinity.as_ref()?.required.as_ref()?;
    let mut wanted =
        required.node_selector_terms.iter().flat_map(|term| term.match_expressions.iter().flatten());
    let by_name = wanted.find(|wanted| wanted.key == NODE_LABEL)?;
    by_name.values.as_ref()?.first().map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn made(spec: Value, node: Option<&Node>) -> Result<PersistentVolume, String> {
        let mut whole =
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let claim = json!({"metadata": {"name": "data", "namespace": "shop", "uid": "0b1c"}, "spec": whole});
        let class = json!({"metadata": {"name": "local-path"}, "provisioner": PROVISIONER, "reclaimPolicy": "Retain"});
        let (claim, class) = (serde_json::from_value(claim).unwrap(), serde_json::from_value(class).unwrap());
        volume(&claim, &class, node)
    }

    #[test]
    fn a_directory_of_the_chosen_node() {
        let node: Node = serde_json::from_value(
            json!({"metadata": {"name": "n", "labels": {"kubernetes.io/hostname": "host-n"}}}),
        )
        .unwrap();
        let volume = made(json!({}), Some(&node)).unwrap();
        assert_eq!(node_of(&volume), Some("host-n"));
        let value = serde_json::to_value(&volume).unwrap();
        assert_eq!(value["metadata"]["name"], "pvc-0b1c");
        assert_eq!(value["spec"]["csi"]["volumeHandle"], "pvc-0b1c");
        assert_eq!(value["spec"]["capacity"]["storage"], "1Gi");
        assert_eq!(value["spec"]["claimRef"]["uid"], "0b1c");
        assert_eq!(value["spec"]["persistentVolumeReclaimPolicy"], "Retain");
        assert_eq!(value["spec"]["storageClassName"], "local-path");
        for refused in [
            json!({"accessModes": ["ReadWriteMany"]}),
            json!({"volumeMode": "Block"}),
            json!({"selector": {"matchLabels": {"a": "b"}}}),
        ] {
            assert!(made(refused.clone(), Some(&node)).is_err(), "{refused}");
        }
        assert!(made(json!({"accessModes": ["ReadWriteOncePod"]}), Some(&node)).is_ok());
        assert!(made(json!({}), None).unwrap_err().contains("WaitForFirstConsumer"));
    }
}
