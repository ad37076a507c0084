//! Volumes that are claims: which directory of this node the PersistentVolume of a claim is. What was found is written
//! into the pod's directory; nothing is mounted, so that taking the pod away can never reach what lies in the volume.

use std::io;
use std::path::{Path, PathBuf};

use catamaran_api::local_path::{BIND_COMPLETED, PROVISIONER, is_handle};
use catamaran_client::object;
use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, Volume,
};
use serde::{Deserialize, Serialize};

use super::{VolumeError, fs_group, host_path, owner};
use crate::config::PodPaths;
use crate::context::Context;
use crate::members::{namespace, spec, uid};
use crate::mounts::Access;
use crate::record::write_atomically;

/// Where a claim lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) access: Access,
}

/// A directory and what must be done before it can be used.
#[derive(Clone, Debug, PartialEq)]
enum Source {
    /// Of the class `local-path`: made where it is missing.
    Own(PathBuf),
    /// Somebody else made it.
    There(PathBuf),
    HostPath(HostPathVolumeSource),
}

// === impl Place ===

impl Place {
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }

    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        write_atomically(path, &serde_json::to_vec(self)?)
    }
}

/// The name of the claim that a volume of the pod `pod` is.
pub(crate) fn name_of(volume: &Volume, pod: &str) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{pod}-{}", volume.name)),
        (None, None) => None,
    }
}

/// Finds the directory, makes it where it is ours to make, and gives it to the pod's group.
pub(super) async fn set_up(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    claim: &str,
    paths: &PodPaths,
) -> Result<(), VolumeError> {
    let refused = |why: String| VolumeError::Claim {
        volume: volume.name.clone(),
        claim: format!("{}/{claim}", namespace(pod)),
        why,
    };
    let read = |what: String| {
        let volume = volume.name.clone();
        move |source| VolumeError::Read { volume, what, source }
    };
    let found = context.objects.claim(namespace(pod), claim).await;
    let found = found.map_err(read(format!("persistentvolumeclaim {claim:?}")))?;
    let found = found.ok_or_else(|| refused(format!("persistentvolumeclaims {claim:?} not found")))?;
    let named = bound_volume(&found, pod, volume).map_err(refused)?;
    let persistent = context.objects.persistent_volume(&named).await;
    let persistent = persistent.map_err(read(format!("persistentvolume {named:?}")))?;
    let persistent = persistent.ok_or_else(|| refused(format!("persistentvolumes {named:?} not found")))?;
    let source = source(&persistent, &found, &context.paths.local_volumes()).map_err(refused)?;
    let path = prepare(source, volume)?;
    let read_only = volume.persistent_volume_claim.as_ref().and_then(|claim| claim.read_only) == Some(true);
    let access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
    let write =
        |source| VolumeError::Write { volume: volume.name.clone(), path: path.display().to_string(), source };
    if let Some(group) = fs_group(pod).filter(|_| !read_only && persistent_owns(&persistent)) {
        let only_if_needed = spec(pod)
            .security_context
            .as_ref()
            .is_some_and(|context| context.fs_group_change_policy.as_deref() == Some("OnRootMismatch"));
        let root = path.clone();
        let given = tokio::task::spawn_blocking(move || owner::give(&root, group, only_if_needed)).await;
        given.map_err(io::Error::other).and_then(|done| done).map_err(write)?;
    }
    Place { path: path.clone(), access }.save(&paths.claims().join(&volume.name)).map_err(write)
}

/// The volume that a claim is bound to; or why the pod cannot use it.
fn bound_volume(claim: &PersistentVolumeClaim, pod: &Pod, volume: &Volume) -> Result<String, String> {
    if object::is_being_deleted(&claim.metadata) {
        return Err("can't start pod because PVC is being deleted".into());
    }
    let owner = object::controller_of(&claim.metadata).map(|owner| owner.uid.as_str());
    if volume.persistent_volume_claim.is_none() && owner != Some(uid(pod)) {
        return Err("PVC was not created for the pod: it belongs to somebody else".into());
    }
    let lost = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost");
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
    let complete = object::annotation(&claim.metadata, BIND_COMPLETED).is_some();
    if name.is_empty() || !complete || lost {
        return Err("PVC is not bound".into());
    }
    Ok(name)
}

/// Where the volume lies on this node; or why it cannot be had.
fn source(volume: &PersistentVolume, claim: &PersistentVolumeClaim, local: &Path) -> Result<Source, String> {
    let spec = volume.spec.as_ref().ok_or("the volume has no specification")?;
    let name = object::name(&volume.metadata);
    if spec.claim_ref.as_ref().and_then(|named| named.uid.as_deref()) != Some(object::uid(&claim.metadata)) {
        return Err(format!("PV {name:?} is bound to another claim"));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err("this node mounts no block devices (volumeMode Block)".into());
    }
    if let Some(host) = &spec.host_path {
        return Ok(Source::HostPath(host.clone()));
    }
    if let Some(local) = &spec.local {
        return Ok(Source::There(PathBuf::from(&local.path)));
    }
    match &spec.csi {
        Some(csi) if csi.driver == PROVISIONER && is_handle(&csi.volume_handle) => {
            Ok(Source::Own(local.join(&csi.volume_handle)))
        }
        Some(csi) => Err(format!(
            "the CSI driver {:?} with volume handle {:?} is not known to this node",
            csi.driver, csi.volume_handle
        )),
        None => Err(format!("the kind of volume of PV {name:?} is not known to this node")),
    }
}

/// A path of the node belongs to whoever made it; volumes are given to the group.
fn persistent_owns(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.host_path.is_none())
}

fn prepare(source: Source, volume: &Volume) -> Result<PathBuf, VolumeError> {
    let failed = |path: &Path, source| VolumeError::Write {
        volume: volume.name.clone(),
        path: path.display().to_string(),
        source,
    };
    match source {
        Source::HostPath(host) => {
            host_path(&host, &volume.name)?;
            Ok(PathBuf::from(host.path))
        }
        Source::There(path) => match std::fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => Ok(path),
            Ok(_) => Err(failed(&path, io::ErrorKind::NotADirectory.into())),
            Err(error) => Err(failed(&path, error)),
        },
        Source::Own(path) => match make(&path) {
            Ok(()) => Ok(path),
            Err(error) => Err(failed(&path, error)),
        },
    }
}

/// A directory that everybody may write to; it has its name only once it is whole.
fn make(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if path.exists() {
        return Ok(());
    }
    let new = path.with_file_name(format!(".{}.new", path.file_name().unwrap_or_default().display()));
    std::fs::create_dir_all(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o777))?;
    match std::fs::rename(&new, path) {
        // Two pods that come at the same time.
        Err(_) if path.exists() => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(meta: Value, phase: &str) -> PersistentVolumeClaim {
        let mut metadata = json!({"name": "data", "uid": "7", "annotations": {BIND_COMPLETED: "yes"}});
        metadata.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        serde_json::from_value(
            json!({"metadata": metadata, "spec": {"volumeName": "v"}, "status": {"phase": phase}}),
        )
        .unwrap()
    }

    #[test]
    fn only_a_bound_claim_can_be_used() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": "pod"}})).unwrap();
        let plain: Volume =
            serde_json::from_value(json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}}))
                .unwrap();
        let own: Volume = serde_json::from_value(json!({"name": "v", "ephemeral": {}})).unwrap();
        assert_eq!(name_of(&own, "p").as_deref(), Some("p-v"));
        let owner = |uid: &str| json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}]});
        let table = [
            (&plain, json!({}), "Bound", Ok("v")),
            (&plain, json!({}), "Lost", Err("PVC is not bound")),
            (&plain, json!({"annotations": {}}), "Pending", Err("PVC is not bound")),
            (&plain, json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), "Bound", Err("being deleted")),
            (&own, json!({}), "Bound", Err("not created for the pod")),
            (&own, owner("other"), "Bound", Err("not created for the pod")),
            (&own, owner("pod"), "Bound", Ok("v")),
        ];
        for (volume, meta, phase, expected) in table {
            let found = bound_volume(&claim(meta.clone(), phase), &pod, volume);
            match (found, expected) {
                (Ok(name), Ok(expected)) => assert_eq!(name, expected),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (found, expected) => panic!("{meta} {phase}: {found:?} {expected:?}"),
            }
        }
    }

    #[test]
    fn where_a_volume_lies() {
        let csi = |driver: &str, handle: &str| json!({"csi": {"driver": driver, "volumeHandle": handle}});
        let with = |mut spec: Value, uid: &str| {
            spec["claimRef"] = json!({"name": "data", "uid": uid});
            let volume = json!({"metadata": {"name": "v"}, "spec": spec});
            let volume = serde_json::from_value(volume).unwrap();
            source(&volume, &claim(json!({}), "Bound"), Path::new("/data/local-path"))
        };
        let own = with(csi(PROVISIONER, "pvc-7"), "7");
        assert_eq!(own, Ok(Source::Own("/data/local-path/pvc-7".into())));
        assert_eq!(with(json!({"local": {"path": "/disk"}}), "7"), Ok(Source::There("/disk".into())));
        assert!(matches!(with(json!({"hostPath": {"path": "/x"}}), "7"), Ok(Source::HostPath(_))));
        let refused = [
            (csi(PROVISIONER, "../../etc"), "7"),
            (csi("far.example.com", "h"), "7"),
            (csi(PROVISIONER, "pvc-7"), "8"),
            (json!({"nfs": {"server": "s", "path": "/"}}), "7"),
            (json!({"local": {"path": "/dev/sda"}, "volumeMode": "Block"}), "7"),
        ];
        for (spec, uid) in refused {
            assert!(with(spec.clone(), uid).is_err(), "{spec}");
        }
    }

    #[test]
    fn a_directory_is_made_once() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("local-path/pvc-1");
        make(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o777);
        std::fs::write(path.join("kept"), "x").unwrap();
        make(&path).unwrap();
        assert!(path.join("kept").exists());
        assert_eq!(std::fs::read_dir(dir.path().join("local-path")).unwrap().count(), 1);
    }
}
