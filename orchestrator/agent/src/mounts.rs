//! Which directories and files a container sees where: its volume mounts, with sub-paths resolved inside the volume.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};
use rustix::fs::{CWD, Gid, Mode, OFlags, ResolveFlags, fchmod, fchown, fstat, mkdirat, openat2};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::PodPaths;
use crate::env::expand;
use crate::members::spec;
use crate::volumes::claims::{self, Place};

/// One directory or file of the node shown to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BindMount {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) access: Access,
    pub(crate) propagation: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Access {
    ReadOnly,
    ReadWrite,
}

/// A mount that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("the container mounts the volume {0:?}, which the pod does not have")]
    NoVolume(String),
    #[error("{} of volume {volume:?} cannot be looked at", path.display())]
    OnNode {
        volume: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("subPath {path:?} of volume {volume:?} leads out of the volume, or cannot be made")]
    SubPath {
        volume: String,
        path: String,
        #[source]
        source: io::Error,
    },
}

// === impl ===

impl BindMount {
    /// An entry of `mounts` in the runtime specification.
    pub(crate) fn to_oci(&self) -> Value {
        let access = match self.access {
            Access::ReadOnly => "ro",
            Access::ReadWrite => "rw",
        };
        json!({"destination": self.target, "type": "bind", "source": self.source,
            "options": ["rbind", self.propagation, access]})
    }
}

/// The mounts of a container, in the order of its spec.
pub(crate) fn of_container(
    pod: &Pod,
    container: &Container,
    paths: &PodPaths,
    env: &[(String, String)],
) -> Result<Vec<BindMount>, MountError> {
    let mounts = container.volume_mounts.iter().flatten();
    mounts.map(|mount| one(pod, mount, paths, env)).collect()
}

fn one(
    pod: &Pod,
    mount: &VolumeMount,
    paths: &PodPaths,
    env: &[(String, String)],
) -> Result<BindMount, MountError> {
    let volumes = spec(pod).volumes.iter().flatten();
    let volume = volumes
        .clone()
        .find(|volume| volume.name == mount.name)
        .ok_or_else(|| MountError::NoVolume(mount.name.clone()))?;
    let (root, claimed) = source(volume, paths)?;
    let fixed = is_generated(volume) || claimed == Access::ReadOnly;
    let sub_path = match (&mount.sub_path_expr, &mount.sub_path) {
        (Some(expression), _) if !expression.is_empty() => expand(expression, env),
        (_, Some(path)) => path.clone(),
        _ => String::new(),
    };
    let source = if sub_path.is_empty() {
        root
    } else {
        let failed =
            |source| MountError::SubPath { volume: mount.name.clone(), path: sub_path.clone(), source };
        sub_directory(&root, Path::new(&sub_path), fixed).map_err(failed)?
    };
    let access = if mount.read_only == Some(true) || fixed { Access::ReadOnly } else { Access::ReadWrite };
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => "rslave",
        Some("Bidirectional") => "rshared",
        _ => "rprivate",
    };
    Ok(BindMount { source, target: PathBuf::from(&mount.mount_path), access, propagation })
}

/// Volumes that the agent writes are read-only to containers.
fn is_generated(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
}

/// Where a volume's content lies on the node, without symbolic links: the shim mounts no source that one leads to,
/// as a container may have put it there after the path was looked at. And what the pod may do with it.
fn source(volume: &Volume, paths: &PodPaths) -> Result<(PathBuf, Access), MountError> {
    let resolve = |path: PathBuf| {
        path.canonicalize().map_err(|source| MountError::OnNode { volume: volume.name.clone(), path, source })
    };
    if let Some(host) = &volume.host_path {
        return Ok((resolve(PathBuf::from(&host.path))?, Access::ReadWrite));
    }
    if claims::name_of(volume, "").is_some() {
        let path = paths.claims().join(&volume.name);
        let failed = |source| MountError::OnNode { volume: volume.name.clone(), path: path.clone(), source };
        let place = Place::load(&path).map_err(failed)?;
        return Ok((resolve(place.path)?, place.access));
    }
    Ok((paths.volume(&volume.name), Access::ReadWrite))
}

/// The node's own shared memory, for pods with `hostIPC`.
pub(crate) fn shm_of_node() -> PathBuf {
    let path = PathBuf::from("/dev/shm");
    // A link to /run/shm on some systems. Where there is none the mount says so.
    path.canonicalize().unwrap_or(path)
}

/// A path below `root` that no symbolic link leads out of; missing directories are made in volumes that containers
/// may write to.
fn sub_directory(root: &Path, path: &Path, fixed: bool) -> io::Result<PathBuf> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let directory = openat2(CWD, root, flags | OFlags::DIRECTORY, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    let mut so_far = PathBuf::new();
    for part in path.components() {
        so_far.push(part);
        match openat2(&directory, &so_far, flags, Mode::empty(), beneath) {
            Ok(_) => {}
            Err(rustix::io::Errno::NOENT) if !fixed => make_one(&directory, &so_far, beneath)?,
            Err(error) => return Err(error.into()),
        }
    }
    let found = openat2(&directory, path, flags, Mode::empty(), beneath)?;
    // The name without symbolic links; whoever opens it next must refuse those put there since.
    std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

/// Makes a directory with the group and the mode of the volume: whoever may write there may write here.
fn make_one(root: &OwnedFd, path: &Path, beneath: ResolveFlags) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent =
        openat2(root, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), beneath)?;
    mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
    let of_root = fstat(root)?;
    let made =
        openat2(&parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), beneath)?;
    fchown(&made, None, Some(Gid::from_raw(of_root.st_gid)))?;
    Ok(fchmod(&made, Mode::from_raw_mode(of_root.st_mode & 0o7777))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(dir: &Path, mount: Value) -> Result<Vec<BindMount>, MountError> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "volumeMounts": [mount]}],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "conf", "configMap": {"name": "x"}}]}}))
        .unwrap();
        let paths = PodPaths { root: dir.to_owned(), run: dir.join("run") };
        std::fs::create_dir_all(paths.volume("data")).unwrap();
        std::fs::create_dir_all(paths.volume("conf")).unwrap();
        of_container(&pod, &spec(&pod).containers[0], &paths, &[("POD".into(), "web-0".into())])
    }

    #[test]
    fn sub_paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        let sub = |path: &str| mounts(&root, json!({"name": "data", "mountPath": "/d", "subPath": path}));
        std::fs::create_dir_all(root.join("volumes/data")).unwrap();
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o2770);
        std::fs::set_permissions(root.join("volumes/data"), permissions).unwrap();
        assert_eq!(sub("a/b").unwrap()[0].source, root.join("volumes/data/a/b"));
        let made = std::fs::metadata(root.join("volumes/data/a/b")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&made) & 0o7777, 0o2770, "as the volume");
        std::os::unix::fs::symlink("/etc", root.join("volumes/data/out")).unwrap();
        std::os::unix::fs::symlink("a", root.join("volumes/data/in")).unwrap();
        assert_eq!(sub("in/b").unwrap()[0].source, root.join("volumes/data/a/b"));
        for hostile in ["out", "out/passwd", "../../../etc", "a/../../conf"] {
            assert!(sub(hostile).is_err(), "{hostile}");
        }
    }

    #[test]
    fn host_paths_are_resolved_before_the_shim_sees_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir_all(root.join("real/sub")).unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        let of = |path: &str, sub: &str| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
                "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": sub}]}],
                "volumes": [{"name": "v", "hostPath": {"path": root.join(path)}}]}}))
            .unwrap();
            let paths = PodPaths { root: root.clone(), run: root.join("run") };
            of_container(&pod, &spec(&pod).containers[0], &paths, &[]).map(|mounts| mounts[0].source.clone())
        };
        assert_eq!(of("link", "").unwrap(), root.join("real"));
        assert_eq!(of("link/sub", "").unwrap(), root.join("real/sub"));
        assert_eq!(of("link", "sub").unwrap(), root.join("real/sub"));
        assert!(matches!(of("missing", ""), Err(MountError::OnNode { .. })));
    }

    #[test]
    fn what_the_agent_writes_is_read_only() {
        let dir = tempfile::tempdir().unwrap();
        let access = |mount| mounts(dir.path(), mount).unwrap()[0].access;
        assert_eq!(access(json!({"name": "conf", "mountPath": "/c"})), Access::ReadOnly);
        assert_eq!(access(json!({"name": "data", "mountPath": "/c"})), Access::ReadWrite);
        assert_eq!(access(json!({"name": "data", "mountPath": "/c", "readOnly": true})), Access::ReadOnly);
        assert!(mounts(dir.path(), json!({"name": "no", "mountPath": "/c"})).is_err());
    }

    #[test]
    fn a_claim_is_the_directory_that_was_found_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir_all(root.join("there")).unwrap();
        let paths = PodPaths { root: root.clone(), run: root.join("run") };
        let of = |sub: &str, access: Access| {
            Place { path: root.join("there"), access }.save(&paths.claims().join("v")).unwrap();
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
                "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": sub}]}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}}))
            .unwrap();
            let mounts =
                of_container(&pod, &spec(&pod).containers[0], &paths, &[]).map_err(|e| e.to_string())?;
            Ok::<_, String>((mounts[0].source.clone(), mounts[0].access))
        };
        assert_eq!(of("", Access::ReadWrite), Ok((root.join("there"), Access::ReadWrite)));
        assert!(of("sub", Access::ReadOnly).is_err(), "nothing is made in what may only be read");
        assert_eq!(of("sub", Access::ReadWrite), Ok((root.join("there/sub"), Access::ReadWrite)));
        assert_eq!(of("sub", Access::ReadOnly), Ok((root.join("there/sub"), Access::ReadOnly)));
    }

    #[test]
    fn expressions_are_expanded() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        let mount = json!({"name": "data", "mountPath": "/d", "subPathExpr": "logs/$(POD)"});
        assert_eq!(mounts(&root, mount).unwrap()[0].source, root.join("volumes/data/logs/web-0"));
    }
}
