//! What the agent must remember of a pod across its own restarts: one small file in the pod's directory,
//! replaced atomically. What runs and how it ended is the shims' to say; this holds the rest.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use catamaran_task::spec::ContainerId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::eviction;
use crate::members::Desired;
use crate::runtime::{Place, ShimKey};

/// The agent's memory of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    /// When this node first saw the pod (`status.startTime`).
    pub(crate) started: Option<Timestamp>,
    /// Its place in the network, once it has one.
    pub(crate) sandbox: Option<Sandbox>,
    /// When its end began.
    pub(crate) ending_since: Option<Timestamp>,
    /// Why the agent itself ended it (`DeadlineExceeded`), as status reason and message.
    pub(crate) failed: Option<(String, String)>,
    /// All containers ended for good and what the pod held was given back.
    pub(crate) released: bool,
    /// By container name, init containers too.
    pub(crate) containers: BTreeMap<String, ContainerRecord>,
}

/// Where the pod lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sandbox {
    pub(crate) place: Place,
    pub(crate) ip: Ipv4Addr,
    /// Its network namespace, or that of the shared host; `None`: the node's own (`hostNetwork`).
    pub(crate) netns: Option<PathBuf>,
}

/// The agent's memory of one container: its current attempt and how the one before ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    /// Counts from 0; also `restartCount` and the number of the log file.
    pub(crate) attempt: u32,
    /// Which shim runs it.
    pub(crate) shim: ShimKey,
    /// `status.image` and `status.imageID`.
    pub(crate) image: String,
    pub(crate) image_id: String,
    /// The shim was told to create it and said yes.
    pub(crate) created: bool,
    /// How the current attempt ended.
    pub(crate) finished: Option<Finished>,
    /// How the attempt before ended (`lastState`).
    pub(crate) last: Option<Finished>,
    /// Ends in a row that count for the back-off.
    pub(crate) crashes: u32,
}

/// The end of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Finished {
    pub(crate) attempt: u32,
    pub(crate) code: i32,
    pub(crate) reason: String,
    pub(crate) message: Option<String>,
    pub(crate) started: Option<Timestamp>,
    pub(crate) at: Timestamp,
}

/// The id of one attempt of a container. It follows from the names, so that a second `create` after a crash of the
/// agent meets `AlreadyExists` instead of making a twin.
pub(crate) fn container_id(uid: &str, container: &str, attempt: u32) -> ContainerId {
    ContainerId(format!("{uid}_{container}_{attempt}"))
}

/// Pod UID, container name and attempt of an id made by [`container_id`].
pub(crate) fn parse_container_id(id: &str) -> Option<(&str, &str, u32)> {
    let (rest, attempt) = id.rsplit_once('_')?;
    let (uid, container) = rest.split_once('_')?;
    Some((uid, container, attempt.parse().ok()?))
}

// === impl PodRecord ===

impl PodRecord {
    /// The record at `path`; an empty one where there is none. A file that cannot be read as a record counts as none:
    /// it was never renamed into place whole.
    pub(crate) fn load(path: &Path) -> Self {
        std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Replaces the file at `path`.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self).expect("a record is plain data");
        write_atomically(path, &bytes)
    }

    /// Seconds the pod's containers have between TERM and KILL: one that the node wants to be rid of has few.
    pub(crate) fn grace(&self, desired: &Desired) -> i64 {
        let evicted = self.failed.as_ref().is_some_and(|(reason, _)| reason == eviction::EVICTED);
        let grace = desired.grace();
        if evicted { grace.min(eviction::GRACE) } else { grace }
    }

    pub(crate) fn ip(&self) -> Option<Ipv4Addr> {
        self.sandbox.as_ref().map(|sandbox| sandbox.ip)
    }
}

/// Writes a file beside `path` and renames it over it; makes missing directories.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    std::fs::write(&new, bytes)?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_its_parts() {
        let id = container_id("0b1c-22", "web-1", 7);
        assert_eq!(parse_container_id(&id.0), Some(("0b1c-22", "web-1", 7)));
        assert_eq!(parse_container_id("nothing"), None);
        assert_eq!(parse_container_id("a_b_c"), None);
    }

    #[test]
    fn a_record_survives_and_a_torn_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/record.json");
        let record =
            PodRecord { started: Some(Timestamp::UNIX_EPOCH), released: true, ..PodRecord::default() };
        record.save(&path).unwrap();
        assert_eq!(PodRecord::load(&path), record);
        std::fs::write(&path, b"{\"started\":").unwrap();
        assert_eq!(PodRecord::load(&path), PodRecord::default());
    }
}
