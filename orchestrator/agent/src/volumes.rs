//! The volumes of a pod: made before its first container starts, brought up to date while it runs, taken away when
//! it is released.
//!
//! | file | what |
//! | --- | --- |
//! | `atomic` | a directory whose content changes all at once (`..data`) |
//! | `claims` | which directory of the node a PersistentVolumeClaim is |
//! | `generated` | configMap, secret, downwardAPI, projected: what files they hold |
//! | `owner` | gives a volume to a group |
//! | `token` | service-account tokens and when a new one is due |

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume};
use rustix::mount::{MountFlags, mount};
use tracing::warn;

use catamaran_api::quantity::Quantity;
use catamaran_client::error::Chain;

use crate::config::PodPaths;
use crate::context::Context;
use crate::members::{name, spec};
use crate::namespaces::{is_mount_point, unmount_if_mounted};

mod atomic;
pub(crate) mod claims;
mod generated;
mod owner;
mod token;

use generated::Wanted;

/// A volume that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {kind} {name:?} not found")]
    NoObject { volume: String, kind: &'static str, name: String },
    #[error(
        "MountVolume.SetUp failed for volume {volume:?} : {kind} {name:?} references non-existent key: {key}"
    )]
    NoKey { volume: String, kind: &'static str, name: String, key: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {what} cannot be read from the API")]
    Read {
        volume: String,
        what: String,
        #[source]
        source: kube::Error,
    },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {why}")]
    Field { volume: String, why: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {path} cannot be written")]
    Write {
        volume: String,
        path: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "MountVolume.SetUp failed for volume {volume:?} : hostPath type check failed: {path} is not a {expected}"
    )]
    HostPath { volume: String, path: String, expected: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : this kind of volume is not known to this node")]
    Unsupported { volume: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : error processing PVC {claim}: {why}")]
    Claim { volume: String, claim: String, why: String },
    #[error("the volumes of the pod cannot be unmounted")]
    Unmount(#[source] io::Error),
}

/// Makes all volumes. Asking again brings them up to date.
pub(crate) async fn set_up(
    context: &Context,
    pod: &Pod,
    paths: &PodPaths,
    ip: Option<Ipv4Addr>,
) -> Result<(), VolumeError> {
    for volume in spec(pod).volumes.iter().flatten() {
        one(context, pod, volume, paths, ip).await?;
    }
    Ok(())
}

/// Brings generated volumes up to date. What fails is told, and tried again with the next round.
pub(crate) async fn refresh(context: &Context, pod: &Pod, paths: &PodPaths, ip: Option<Ipv4Addr>) {
    for volume in spec(pod).volumes.iter().flatten().filter(|volume| generated::is(volume)) {
        if let Err(error) = one(context, pod, volume, paths, ip).await {
            warn!(volume = volume.name, error = %Chain(&error), "a volume is not brought up to date");
        }
    }
}

/// Takes all volumes away. What lies on the node by itself (`hostPath`) stays.
pub(crate) async fn tear_down(paths: &PodPaths) -> Result<(), VolumeError> {
    let (root, claims) = (paths.volumes(), paths.claims());
    let work = move || -> io::Result<()> {
        match std::fs::remove_dir_all(claims) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let entries = match std::fs::read_dir(&root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            unmount_if_mounted(&entry?.path())?;
        }
        std::fs::remove_dir_all(&root)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
        .and_then(|done| done)
        .map_err(VolumeError::Unmount)
}

async fn one(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    paths: &PodPaths,
    ip: Option<Ipv4Addr>,
) -> Result<(), VolumeError> {
    let place = paths.volume(&volume.name);
    let write = |source| VolumeError::Write {
        volume: volume.name.clone(),
        path: place.display().to_string(),
        source,
    };
    if let Some(empty) = &volume.empty_dir {
        return empty_dir(empty, pod, &place).map_err(write);
    }
    if let Some(host) = &volume.host_path {
        return host_path(host, &volume.name);
    }
    if let Some(claim) = claims::name_of(volume, name(pod)) {
        return claims::set_up(context, pod, volume, &claim, paths).await;
    }
    if !generated::is(volume) {
        return Err(VolumeError::Unsupported { volume: volume.name.clone() });
    }
    let wanted = Wanted { context, pod, volume, ip, place: &place };
    let files = wanted.files().await?;
    let owner = fs_group(pod);
    let target = place.clone();
    let written = tokio::task::spawn_blocking(move || atomic::write(&target, &files, owner)).await;
    written.map_err(io::Error::other).and_then(|done| done).map_err(write)
}

/// The group that owns volumes.
fn fs_group(pod: &Pod) -> Option<u32> {
    spec(pod).security_context.as_ref()?.fs_group.and_then(|group| u32::try_from(group).ok())
}

/// A directory of the pod's own, or a tmpfs. It has its name only once it is whole: a start that was interrupted
/// half-way begins again.
fn empty_dir(empty: &EmptyDirVolumeSource, pod: &Pod, place: &Path) -> io::Result<()> {
    if !place.exists() {
        let mut new = place.as_os_str().to_owned();
        new.push(".new");
        let new = Path::new(&new);
        std::fs::create_dir_all(new)?;
        give(new, fs_group(pod))?;
        std::fs::rename(new, place)?;
    }
    if empty.medium.as_deref() == Some("Memory") && !is_mount_point(place)? {
        let limit =
            empty.size_limit.as_ref().and_then(|limit| Quantity::parse(&limit.0).ok()).map(Quantity::value);
        let size = limit.filter(|bytes| *bytes > 0).map(|bytes| format!(",size={bytes}")).unwrap_or_default();
        let group = fs_group(pod).map(|group| format!(",gid={group}")).unwrap_or_default();
        let mode = mode_of_empty_dir(fs_group(pod));
        let options = std::ffi::CString::new(format!("mode={mode:o}{group}{size}"))?;
        mount("tmpfs", place, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(&*options))?;
    }
    Ok(())
}

/// Everybody may write; with a group, what is made in it belongs to the group.
fn mode_of_empty_dir(group: Option<u32>) -> u32 {
    if group.is_some() { 0o2777 } else { 0o777 }
}

fn give(directory: &Path, group: Option<u32>) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::os::unix::fs::chown(directory, None, group)?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode_of_empty_dir(group)))
}

/// Checks, and where the type says so makes, what lies on the node.
fn host_path(host: &HostPathVolumeSource, volume: &str) -> Result<(), VolumeError> {
    use std::os::unix::fs::FileTypeExt;
    let path = Path::new(&host.path);
    let kind = host.type_.as_deref().unwrap_or_default();
    let made = match kind {
        // Nothing is checked; what is missing becomes a directory, as container runtimes do it.
        "" | "DirectoryOrCreate" if !path.exists() => std::fs::create_dir_all(path),
        "FileOrCreate" if !path.exists() => std::fs::File::create(path).map(drop),
        _ => Ok(()),
    };
    made.map_err(|source| VolumeError::Write { volume: volume.to_owned(), path: host.path.clone(), source })?;
    let meta = std::fs::metadata(path);
    let fits = |test: fn(&std::fs::FileType) -> bool| meta.as_ref().is_ok_and(|meta| test(&meta.file_type()));
    let good = match kind {
        "" => meta.is_ok(),
        "Directory" | "DirectoryOrCreate" => fits(std::fs::FileType::is_dir),
        "File" | "FileOrCreate" => fits(std::fs::FileType::is_file),
        "Socket" => fits(|kind| kind.is_socket()),
        "CharDevice" => fits(|kind| kind.is_char_device()),
        "BlockDevice" => fits(|kind| kind.is_block_device()),
        _ => false,
    };
    if good {
        return Ok(());
    }
    let (volume, path, expected) = (volume.to_owned(), host.path.clone(), kind.to_lowercase());
    Err(VolumeError::HostPath { volume, path, expected })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(context: serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p"}, "spec": {"containers": [], "securityContext": context}}),
        )
        .unwrap()
    }

    #[test]
    fn an_empty_dir_belongs_to_the_group() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("v");
        empty_dir(&EmptyDirVolumeSource::default(), &pod(json!({"fsGroup": 2000})), &place).unwrap();
        let meta = std::fs::metadata(&place).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o7777), (2000, 0o2777));
    }

    #[tokio::test]
    async fn memory_is_a_mount_that_goes_away() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let paths = PodPaths { root: dir.path().to_owned(), run: dir.path().join("run") };
        let source = serde_json::from_value(json!({"medium": "Memory", "sizeLimit": "1Mi"})).unwrap();
        for _ in 0..2 {
            empty_dir(&source, &pod(json!({})), &paths.volume("m")).unwrap();
        }
        assert!(is_mount_point(&paths.volume("m")).unwrap());
        let group = pod(json!({"fsGroup": 2000}));
        empty_dir(&source, &group, &paths.volume("g")).unwrap();
        let meta = std::fs::metadata(paths.volume("g")).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o7777), (2000, 0o2777));
        assert!(std::fs::write(paths.volume("m").join("big"), vec![0; 2 << 20]).is_err());
        tear_down(&paths).await.unwrap();
        tear_down(&paths).await.unwrap();
        assert!(!paths.volumes().exists());
    }

    #[test]
    fn host_paths_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let check = |name: &str, kind: &str| {
            let source = HostPathVolumeSource { path: path(name), type_: Some(kind.to_owned()) };
            host_path(&source, "v")
        };
        assert!(check("any", "").is_ok());
        assert!(dir.path().join("any").is_dir());
        assert!(check("d", "Directory").is_err());
        assert!(check("d", "DirectoryOrCreate").is_ok());
        assert!(check("d", "File").is_err());
        assert!(check("f", "FileOrCreate").is_ok());
        assert!(check("f", "").is_ok());
        assert!(check("f", "Socket").is_err());
    }
}
