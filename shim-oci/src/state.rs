//! What a worker leaves for its successor: a directory for each container with its specification,
//! written before anything is made, and its record, from the moment its process waits at the gate.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use catamaran_task::spec::{ContainerId, ContainerSpec};
use catamaran_task::status::Exit;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::exits::Identity;

/// Where a container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Its process waits at the gate. (Until then there is no record; what a killed worker leaves
    /// without one is cleaned away.)
    Created,
    Running,
    Exited,
}

impl Phase {
    /// For a sentence: "container a is ...".
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "over",
        }
    }
}

/// The changing part of a container's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub phase: Phase,
    /// Its first process.
    pub process: Identity,
    /// Milliseconds since the epoch.
    pub started_at_ms: Option<u64>,
    pub exit: Option<Exit>,
    /// Position of the exit in the list of exits.
    pub sequence: Option<u64>,
    /// Path of its control group.
    pub cgroup: String,
    /// The boot of the machine in which it was made: its processes are gone in any other.
    pub boot: String,
}

/// A process run in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExecRecord {
    pub process: Identity,
    pub exit: Option<Exit>,
}

/// The directories of a shim's root.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    root: PathBuf,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
}

impl Root {
    /// Makes the directories where they are missing.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        for directory in ["containers", "exit"] {
            fs::create_dir_all(root.join(directory))?;
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { root: root.to_owned(), boot })
    }

    pub(crate) fn exits(&self) -> PathBuf {
        self.root.join("exit")
    }

    /// The file whose lock says that a keeper runs.
    pub(crate) fn lock(root: &Path) -> PathBuf {
        root.join("lock")
    }

    pub(crate) fn container(&self, id: &ContainerId) -> Directory {
        Directory(container_directory(&self.root, id))
    }

    /// Every container there is a directory of.
    pub(crate) fn containers(&self) -> io::Result<Vec<ContainerId>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(self.root.join("containers"))? {
            if let Ok(name) = entry?.file_name().into_string() {
                ids.push(ContainerId(name));
            }
        }
        ids.sort();
        Ok(ids)
    }

    /// The number up to which numbers of exits may have been given out. They never go back, also when
    /// all containers of the last life are deleted.
    pub(crate) fn reserved_sequence(&self) -> u64 {
        read(&self.root.join("sequence")).unwrap_or(0)
    }

    pub(crate) fn reserve_sequence(&self, up_to: u64) -> io::Result<()> {
        write(&self.root, "sequence", &up_to)
    }
}

/// Where a container's files lie below a shim's root.
pub(crate) fn container_directory(root: &Path, id: &ContainerId) -> PathBuf {
    root.join("containers").join(&id.0)
}

/// Whether `id` can be the name of a directory and of a cgroup: letters, digits, `-`, `_`, `.`; 1 to
/// 128 of them, the first a letter or digit.
pub(crate) fn is_valid(id: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    id.len() <= 128 && id.chars().all(plain) && id.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// The directory of one container.
#[derive(Clone, Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// Makes it; fails with `AlreadyExists` when it is there.
    pub(crate) fn create(&self) -> io::Result<()> {
        fs::create_dir(&self.0)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write_spec(&self, spec: &ContainerSpec) -> io::Result<()> {
        // Nobody reads it before there is more.
        fs::write(self.0.join("spec.json"), serde_json::to_vec(spec)?)
    }

    pub(crate) fn read_spec(&self) -> io::Result<ContainerSpec> {
        read(&self.0.join("spec.json"))
    }

    pub(crate) fn write_record(&self, record: &Record) -> io::Result<()> {
        write(&self.0, "state.json", record)
    }

    pub(crate) fn read_record(&self) -> io::Result<Record> {
        read(&self.0.join("state.json"))
    }

    pub(crate) fn write_exec(&self, exec_id: &str, record: &ExecRecord) -> io::Result<()> {
        fs::create_dir_all(self.0.join("execs"))?;
        write(&self.0.join("execs"), exec_id, record)
    }

    pub(crate) fn remove_exec(&self, exec_id: &str) {
        // Not there is as good as removed; anything else goes with the container.
        let _ = fs::remove_file(self.0.join("execs").join(exec_id));
    }

    pub(crate) fn execs(&self) -> Vec<(String, ExecRecord)> {
        let entries = fs::read_dir(self.0.join("execs")).into_iter().flatten().flatten();
        let named =
            entries.filter_map(|entry| entry.file_name().into_string().ok().zip(read(&entry.path()).ok()));
        named.filter(|(name, _)| !name.starts_with('.')).collect()
    }

    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// In one piece, but not synced: nothing of it is worth anything after a reboot.
fn write(directory: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let draft = directory.join(format!(".{name}"));
    fs::write(&draft, serde_json::to_vec(value)?)?;
    fs::rename(draft, directory.join(name))
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for good in ["a", "0", "pod-1_web.2"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", ".", "..", ".a", "-a", "a/b", "a b", "ä", &"a".repeat(129)] {
            assert!(!is_valid(bad), "{bad}");
        }
    }

    #[test]
    fn records_survive() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let directory = root.container(&ContainerId("a".into()));
        directory.create().unwrap();
        assert_eq!(directory.create().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let record = Record {
            phase: Phase::Running,
            process: Identity { pid: 1, start: 2 },
            started_at_ms: Some(3),
            exit: None,
            sequence: None,
            cgroup: "x/a".into(),
            boot: root.boot.clone(),
        };
        directory.write_record(&record).unwrap();
        assert_eq!(directory.read_record().unwrap(), record);
        let exec = ExecRecord { process: Identity { pid: 4, start: 5 }, exit: None };
        directory.write_exec("e", &exec).unwrap();
        assert_eq!(directory.execs(), [("e".to_owned(), exec)]);
        assert_eq!(root.containers().unwrap(), [ContainerId("a".into())]);
        root.reserve_sequence(7).unwrap();
        assert_eq!(root.reserved_sequence(), 7);
        directory.remove().unwrap();
        directory.remove().unwrap();
        assert!(root.containers().unwrap().is_empty());
    }
}
