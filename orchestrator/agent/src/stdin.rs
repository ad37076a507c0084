//! Where attach sessions write to: the pipe that a container with `stdin: true` reads.

use std::io;
use std::path::{Path, PathBuf};

use catamaran_task::spec::{ContainerId, Stdin};
use k8s_openapi::api::core::v1::Container;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::config::Paths;
use crate::runtime::ShimKey;

/// The pipe of a container. It lies in the run directory, one for each attempt.
pub(crate) fn path(paths: &Paths, key: &ShimKey, id: &ContainerId) -> PathBuf {
    match key {
        // The container shim makes its own, and holds it open across its restarts.
        ShimKey::Oci => paths.shim("oci").join("containers").join(&id.0).join("stdin"),
        ShimKey::Shared(_) | ShimKey::Solo(_) => paths.run.join("stdin").join(&id.0),
    }
}

/// What the shim is told; makes the pipe where the agent has to.
pub(crate) fn of(paths: &Paths, key: &ShimKey, id: &ContainerId, container: &Container) -> io::Result<Stdin> {
    match (container.stdin, container.stdin_once, key) {
        (Some(true), once, ShimKey::Oci) => Ok(if once == Some(true) { Stdin::Once } else { Stdin::Open }),
        (Some(true), ..) => {
            let path = path(paths, key, id);
            make(&path)?;
            Ok(Stdin::Fifo(path.display().to_string()))
        }
        _ => Ok(Stdin::Null),
    }
}

fn make(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path.parent().unwrap_or(path))?;
    match mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0) {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        result => Ok(result?),
    }
}
