//! What a worker leaves for its successor: a directory for each container with its specification,
//! written before anything is made, and its record, from the moment its process waits at the gate.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Records up to this size are written over in place.
const IN_PLACE: usize = 4096;

/// The directories of a shim's root.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    root: PathBuf,
    /// Numbers names in the trash.
    discarded: Arc<AtomicU64>,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
}

impl Root {
    /// Makes the directories where they are missing.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        for directory in ["containers", "exit", "trash", "rootfs"] {
            fs::create_dir_all(root.join(directory))?;
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let discarded = Arc::new(AtomicU64::new(crate::exits::now_ms() << 20));
        Ok(Self { root: root.to_owned(), discarded, boot })
    }

    /// A directory over which the child of a start mounts the root to be, in its own mount namespace.
    pub(crate) fn mount_point(&self) -> PathBuf {
        self.root.join("rootfs")
    }

    /// Takes `path` out of the way at once; what it costs to free its blocks (4 ms for a directory, on a
    /// file system that tells the disk of each) is left to [`Root::empty_trash`].
    pub(crate) fn discard(&self, path: &Path) -> io::Result<()> {
        let number = self.discarded.fetch_add(1, Ordering::Relaxed);
        let place = self.root.join("trash").join(number.to_string());
        let moved = match fs::rename(path, &place) {
            // It is gone, or the trash is.
            Err(e) if e.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_ok() => {
                fs::create_dir_all(self.root.join("trash"))?;
                fs::rename(path, &place)
            }
            other => other,
        };
        match moved {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            // Another file system.
            Err(_) => match fs::remove_dir_all(path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            },
            Ok(()) => Ok(()),
        }
    }

    /// Begins to number anew: to be called by each worker, which has a copy of the keeper's number.
    pub(crate) fn renumber(&self) {
        self.discarded.store(crate::exits::now_ms() << 20, Ordering::Relaxed);
    }

    /// Removes what was discarded: all that can be, then tells the first error.
    pub(crate) fn empty_trash(&self) -> io::Result<()> {
        let mut result = Ok(());
        for entry in fs::read_dir(self.root.join("trash"))? {
            let removed = entry.and_then(|entry| match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path()),
                false => fs::remove_file(entry.path()),
            });
            result = result.and(removed);
        }
        result
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
        match fs::create_dir(self.0.join("execs")) {
            // Not where the container is gone: its directory must not come back.
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
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
}

/// In one piece, but not synced: nothing of it is worth anything after a reboot. Small values are
/// written over in place, in one page of the page cache: to free the blocks of a file replaced by
/// rename costs more than all else about it.
fn write(directory: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let mut json = serde_json::to_vec(value)?;
    let path = directory.join(name);
    if json.len() <= IN_PLACE {
        json.resize(IN_PLACE, b' ');
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.write_all_at(&json, 0)?;
        // Only after a value that was too large for this.
        return if file.metadata()?.len() > IN_PLACE as u64 { file.set_len(IN_PLACE as u64) } else { Ok(()) };
    }
    let draft = directory.join(format!(".{name}"));
    fs::write(&draft, json)?;
    fs::rename(draft, path)
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
    fn values_of_any_size_follow_each_other() {
        let dir = tempfile::tempdir().unwrap();
        for length in [10, 5_000, 20, 4_000, 4_096, 3] {
            let value = "x".repeat(length);
            write(dir.path(), "v", &value).unwrap();
            assert_eq!(read::<String>(&dir.path().join("v")).unwrap(), value);
        }
    }

    #[test]
    fn the_trash_is_emptied_of_all_that_can_go() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let trash = dir.path().join("trash");
        let count = || fs::read_dir(&trash).unwrap().count();
        let make = |name: &str| {
            let directory = root.container(&ContainerId(name.into()));
            directory.create().unwrap();
            fs::write(directory.path().join("file"), "").unwrap();
            directory.path().to_owned()
        };
        fs::write(trash.join("a file"), "").unwrap();
        for name in ["a", "b", "c"] {
            root.discard(&make(name)).unwrap();
        }
        assert_eq!(count(), 4);
        // What is mounted there cannot be removed.
        let busy = fs::read_dir(&trash).unwrap().flatten().map(|e| e.path()).find(|p| p.is_dir()).unwrap();
        let mounted = rustix::mount::mount("none", &busy, "tmpfs", rustix::mount::MountFlags::empty(), None);
        mounted.unwrap();
        let emptied = root.empty_trash();
        rustix::mount::unmount(&busy, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(emptied.is_err());
        assert_eq!(count(), 1, "only that one is left");
        root.empty_trash().unwrap();
        // Somebody took the trash itself away.
        fs::remove_dir(&trash).unwrap();
        let path = make("d");
        root.discard(&path).unwrap();
        assert!(!path.exists());
        assert_eq!(count(), 1);
        let before = root.discarded.load(Ordering::Relaxed);
        std::thread::sleep(std::time::Duration::from_millis(2));
        root.renumber();
        assert!(root.discarded.load(Ordering::Relaxed) > before);
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
        for _ in 0..2 {
            root.discard(directory.path()).unwrap();
        }
        assert!(root.containers().unwrap().is_empty());
        assert_eq!(fs::read_dir(dir.path().join("trash")).unwrap().count(), 1);
        root.empty_trash().unwrap();
        assert_eq!(fs::read_dir(dir.path().join("trash")).unwrap().count(), 0);
    }
}
