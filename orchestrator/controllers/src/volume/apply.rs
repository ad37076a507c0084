//! Writes the steps of claims and volumes. Each write is refused when its object has changed since it was looked at.

use std::sync::PoisonError;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};

use catamaran_api::local_path::{BIND_COMPLETED, SELECTED_NODE};
use catamaran_client::error::{is_already_exists, is_not_found};
use catamaran_client::{EventType, Key, object};

use super::claim::{ClaimStep, Told, volume_name};
use super::local_path::reference;
use super::matching::claim_ref;
use super::persistent::{BOUND_BY_CONTROLLER, Keep, VolumeStep};
use super::{Context, Subject, VolumeError};
use crate::write::{preconditions, status_patch};

/// Says who is to make a volume, for those who still look at the older name too.
const ASKED: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];

impl Context {
    pub(super) async fn apply_to_claim(
        &self,
        subject: &Subject,
        key: &Key,
        claim: &PersistentVolumeClaim,
        step: ClaimStep,
    ) -> Result<(), VolumeError> {
        match step {
            ClaimStep::Nothing => Ok(()),
            ClaimStep::SetClass(name) => {
                self.patch_claim(subject, claim, json!({"spec": {"storageClassName": name}})).await
            }
            ClaimStep::Bind(volume) => self.bind(subject, claim, &volume).await,
            ClaimStep::Report(status, told) => self.report_claim(subject, key, claim, &status, told).await,
            ClaimStep::Provision(volume) => self.provision(claim, &volume).await,
            ClaimStep::Ask(provisioner) => self.ask(subject, key, claim, &provisioner).await,
            ClaimStep::Reschedule(told) => {
                self.tell(key, claim, told);
                self.patch_claim(subject, claim, json!({"metadata": {"annotations": {SELECTED_NODE: null}}}))
                    .await
            }
            ClaimStep::Wait(told) => {
                self.tell(key, claim, told);
                Ok(())
            }
        }
    }

    /// Says something of a claim, unless it was the last that was said.
    fn tell(&self, key: &Key, claim: &PersistentVolumeClaim, told: Told) {
        let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(key) != Some(&told) {
            self.recorder.event(claim, told.event_type, told.reason, told.message.as_str());
            all.insert(key.clone(), told);
        }
    }

    pub(super) async fn write_finalizers_of_claim(
        &self,
        subject: &Subject,
        claim: &PersistentVolumeClaim,
        finalizers: &[String],
    ) -> Result<(), VolumeError> {
        self.patch_claim(subject, claim, json!({"metadata": {"finalizers": finalizers}})).await
    }

    async fn patch_claim(
        &self,
        subject: &Subject,
        claim: &PersistentVolumeClaim,
        patch: Value,
    ) -> Result<(), VolumeError> {
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), object::namespace(&claim.metadata));
        let patch = Patch::Merge(guarded(patch, preconditions(&claim.metadata)));
        let name = object::name(&claim.metadata);
        let written = api.patch(name, &PatchParams::default(), &patch).await.map_err(VolumeError::Claim)?;
        self.written.note(subject, object::revision(&written.metadata));
        Ok(())
    }

    async fn patch_volume(&self, volume: &PersistentVolume, patch: Value) -> Result<(), VolumeError> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let patch = Patch::Merge(guarded(patch, preconditions(&volume.metadata)));
        let name = object::name(&volume.metadata);
        let written = api.patch(name, &PatchParams::default(), &patch).await.map_err(VolumeError::Volume)?;
        self.written.note(&Subject::Volume(name.to_owned()), object::revision(&written.metadata));
        Ok(())
    }

    /// First the volume becomes the claim's, so that no other claim gets it; then the claim says so.
    async fn bind(
        &self,
        subject: &Subject,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), VolumeError> {
        let named = claim_ref(volume);
        if named.and_then(|named| named.uid.as_deref()).unwrap_or_default().is_empty() {
            let mut patch = json!({"spec": {"claimRef": reference(claim)}});
            if named.is_none() {
                patch["metadata"] = json!({"annotations": {BOUND_BY_CONTROLLER: "yes"}});
            }
            self.patch_volume(volume, patch).await?;
        }
        let mut annotations = json!({BIND_COMPLETED: "yes"});
        if volume_name(claim).is_empty() {
            annotations[BOUND_BY_CONTROLLER] = json!("yes");
        }
        let spec = json!({"volumeName": object::name(&volume.metadata)});
        let complete = object::annotation(&claim.metadata, BIND_COMPLETED).is_some();
        if complete && !volume_name(claim).is_empty() {
            return Ok(());
        }
        self.patch_claim(subject, claim, json!({"metadata": {"annotations": annotations}, "spec": spec}))
            .await
    }

    async fn report_claim(
        &self,
        subject: &Subject,
        key: &Key,
        claim: &PersistentVolumeClaim,
        status: &PersistentVolumeClaimStatus,
        told: Option<Told>,
    ) -> Result<(), VolumeError> {
        if let Some(told) = told {
            self.tell(key, claim, told);
        }
        let before = claim.status.clone().unwrap_or_default();
        let Some(patch) = status_patch(&claim.metadata, &before, status) else { return Ok(()) };
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let written = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        let written = written.map_err(VolumeError::Claim)?;
        self.written.note(subject, object::revision(&written.metadata));
        Ok(())
    }

    async fn provision(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), VolumeError> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let name = object::name(&volume.metadata);
        match api.create(&PostParams::default(), volume).await {
            Ok(_) => {
                let message = format!("Successfully provisioned volume {name}");
                self.recorder.event(claim, EventType::Normal, "ProvisioningSucceeded", message);
                Ok(())
            }
            // The cache will show it.
            Err(error) if is_already_exists(&error) => Ok(()),
            Err(source) => Err(VolumeError::Provision(name.to_owned(), source)),
        }
    }

    async fn ask(
        &self,
        subject: &Subject,
        key: &Key,
        claim: &PersistentVolumeClaim,
        provisioner: &str,
    ) -> Result<(), VolumeError> {
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by \
             the system administrator. If volume creation is delayed, please verify that the provisioner is running \
             and correctly registered."
        );
        let told = Told { event_type: EventType::Normal, reason: "ExternalProvisioning", message };
        self.tell(key, claim, told);
        if ASKED.iter().all(|key| object::annotation(&claim.metadata, key) == Some(provisioner)) {
            return Ok(());
        }
        let annotations = json!({ASKED[0]: provisioner, ASKED[1]: provisioner});
        self.patch_claim(subject, claim, json!({"metadata": {"annotations": annotations}})).await
    }

    pub(super) async fn apply_to_volume(
        &self,
        subject: &Subject,
        volume: &PersistentVolume,
        step: VolumeStep,
    ) -> Result<(), VolumeError> {
        match step {
            VolumeStep::Nothing => Ok(()),
            VolumeStep::Finalizers(all) => {
                self.patch_volume(volume, json!({"metadata": {"finalizers": all}})).await
            }
            VolumeStep::Phase(phase, why) => self.report_volume(subject, volume, phase, why).await,
            VolumeStep::Unbind(Keep::Nothing) => {
                let annotations = json!({BOUND_BY_CONTROLLER: null});
                let patch = json!({"metadata": {"annotations": annotations}, "spec": {"claimRef": null}});
                self.patch_volume(volume, patch).await
            }
            VolumeStep::Unbind(Keep::Name) => {
                let patch = json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}});
                self.patch_volume(volume, patch).await
            }
            // The claim is woken by each change of the volume, and of itself.
            VolumeStep::WakeClaim => Ok(()),
            VolumeStep::Delete => self.delete(volume).await,
        }
    }

    async fn report_volume(
        &self,
        subject: &Subject,
        volume: &PersistentVolume,
        phase: &str,
        why: Option<&str>,
    ) -> Result<(), VolumeError> {
        if let Some(why) = why {
            self.recorder.event(volume, EventType::Warning, "VolumeFailedDelete", why);
        }
        let status =
            json!({"phase": phase, "message": why, "lastPhaseTransitionTime": Time(Timestamp::now())});
        let patch = json!({"metadata": preconditions(&volume.metadata), "status": status});
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let name = object::name(&volume.metadata);
        let written = api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        let written = written.map_err(VolumeError::Volume)?;
        self.written.note(subject, object::revision(&written.metadata));
        Ok(())
    }

    async fn delete(&self, volume: &PersistentVolume) -> Result<(), VolumeError> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let same = Preconditions { uid: volume.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams::default().preconditions(same);
        match api.delete(object::name(&volume.metadata), &params).await {
            Err(error) if !is_not_found(&error) => Err(VolumeError::Delete(error)),
            _ => Ok(()),
        }
    }
}

/// A patch that is refused when its object has changed.
fn guarded(mut patch: Value, preconditions: Value) -> Value {
    let Value::Object(known) = preconditions else { return patch };
    for (key, value) in known {
        patch["metadata"][key] = value;
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_leaves_the_rest() {
        let guard = json!({"uid": "1", "resourceVersion": "7"});
        let patched = guarded(json!({"metadata": {"annotations": {"a": "b"}}}), guard.clone());
        let expected = json!({"metadata": {"annotations": {"a": "b"}, "uid": "1", "resourceVersion": "7"}});
        assert_eq!(patched, expected);
        assert_eq!(guarded(json!({"spec": {}}), guard)["metadata"]["uid"], "1");
    }
}
