//! A pod's IPC and UTS namespaces and its `/dev/shm`: made once per pod without any process in them, held by bind
//! mounts below the run directory, so that they outlive every container.

use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use rustix::thread::UnshareFlags;

use crate::config::PodPaths;

/// The namespaces that a pod's containers share besides the network.
pub(crate) const KINDS: [&str; 2] = ["ipc", "uts"];
/// Size of `/dev/shm`.
const SHM: &str = "mode=1777,size=65536k";

/// Makes what is missing.
pub(crate) fn set_up(paths: &PodPaths, hostname: &str, host_ipc: bool) -> io::Result<()> {
    std::fs::create_dir_all(&paths.run)?;
    if !host_ipc && !is_mount_point(&paths.shm())? {
        std::fs::create_dir_all(paths.shm())?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("shm", paths.shm(), "tmpfs", flags, Some(&*std::ffi::CString::new(SHM)?))?;
    }
    if KINDS.iter().all(|kind| is_mount_point(&paths.namespace(kind)).unwrap_or(false)) {
        return Ok(());
    }
    let (paths, hostname) = (paths.clone(), hostname.to_owned());
    // Namespaces belong to threads: one of its own, which ends with them bound.
    let thread =
        std::thread::Builder::new().name("namespaces".into()).spawn(move || make(&paths, &hostname))?;
    thread.join().map_err(|_| io::Error::other("the thread that makes namespaces died"))?
}

#[expect(deprecated, reason = "only unsharing FILES is unsafe, and that is not done here")]
fn make(paths: &PodPaths, hostname: &str) -> io::Result<()> {
    rustix::thread::unshare(UnshareFlags::NEWIPC | UnshareFlags::NEWUTS)?;
    rustix::system::sethostname(hostname.as_bytes())?;
    for kind in KINDS {
        let target = paths.namespace(kind);
        unmount_if_mounted(&target)?;
        std::fs::File::options().create(true).append(true).open(&target)?;
        mount_bind(format!("/proc/thread-self/ns/{kind}"), &target)?;
    }
    Ok(())
}

/// Takes them away; nothing is an error that is gone already.
pub(crate) fn tear_down(paths: &PodPaths) -> io::Result<()> {
    unmount_if_mounted(&paths.shm())?;
    for kind in KINDS {
        unmount_if_mounted(&paths.namespace(kind))?;
    }
    match std::fs::remove_dir_all(&paths.run) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether something is mounted on `path`.
pub(crate) fn is_mount_point(path: &Path) -> io::Result<bool> {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
    match statx(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Unmounts all that is mounted on `path`.
pub(crate) fn unmount_if_mounted(path: &Path) -> io::Result<()> {
    while is_mount_point(path)? {
        unmount(path, UnmountFlags::DETACH)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_differ_from_ours_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let paths = PodPaths { root: dir.path().join("pod"), run: dir.path().join("run") };
        set_up(&paths, "web-0", false).unwrap();
        set_up(&paths, "web-0", false).unwrap();
        for kind in KINDS {
            use std::os::unix::fs::MetadataExt;
            let theirs = std::fs::metadata(paths.namespace(kind)).unwrap().ino();
            let ours = std::fs::metadata(format!("/proc/self/ns/{kind}")).unwrap().ino();
            assert_ne!(theirs, ours, "{kind}");
        }
        assert!(is_mount_point(&paths.shm()).unwrap());
        tear_down(&paths).unwrap();
        tear_down(&paths).unwrap();
        assert!(!paths.run.exists());
        assert!(!is_mount_point(&paths.shm()).unwrap());
    }
}
