//! Exit codes outlive the worker as files: the keeper writes `exit/PID-START` before it reaps, the
//! worker removes it once the exit stands in the container's state file.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// Age at which a file that nobody waits for is dropped: of a process whose start failed, say.
const STALE: Duration = Duration::from_secs(60);

/// A process, for all time since boot: pids are used again, together with the start they are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub pid: u32,
    /// Clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub start: u64,
}

impl Identity {
    /// The process that has this pid now; also a zombie.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start = fields(&stat).nth(19).and_then(|field| field.parse().ok());
        let start = start.ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat: {stat:?}")))?;
        Ok(Self { pid, start })
    }

    /// Pid of its parent; 0 when it is gone.
    pub(crate) fn parent(self) -> u32 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        fields(&stat).nth(1).and_then(|field| field.parse().ok()).unwrap_or(0)
    }

    fn file_name(self) -> String {
        format!("{}-{}", self.pid, self.start)
    }

    fn from_file_name(name: &str) -> Option<Self> {
        let (pid, start) = name.split_once('-')?;
        Some(Self { pid: pid.parse().ok()?, start: start.parse().ok()? })
    }
}

/// Fields of a stat line from the third (state) on; the second may hold spaces and parentheses.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ')
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Exited(i32),
    Killed(i32),
    /// Nobody saw it: the keeper was killed at the time.
    Unknown,
}

impl Status {
    /// As a shell gives it: 128 + signal where one ended it.
    pub(crate) fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code & 0xff,
            Self::Killed(signal) => 128 + signal,
            Self::Unknown => 255,
        }
    }
}

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub status: Status,
    /// Milliseconds since the epoch.
    pub at_ms: u64,
}

impl Ended {
    pub(crate) fn now(status: Status) -> Self {
        Self { status, at_ms: now_ms() }
    }

    fn to_text(self) -> String {
        match self.status {
            Status::Exited(code) => format!("exited {code} {}\n", self.at_ms),
            Status::Killed(signal) => format!("killed {signal} {}\n", self.at_ms),
            Status::Unknown => format!("unknown 0 {}\n", self.at_ms),
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let (kind, number) = (words.next()?, words.next()?.parse().ok()?);
        let status = match kind {
            "exited" => Status::Exited(number),
            "killed" => Status::Killed(number),
            _ => Status::Unknown,
        };
        Some(Self { status, at_ms: words.next()?.parse().ok()? })
    }
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// The keeper's side: puts an exit on record, wholly or not at all.
pub(crate) fn record(directory: &Path, process: Identity, ended: Ended) -> io::Result<()> {
    let name = process.file_name();
    let draft = directory.join(format!(".{name}"));
    fs::write(&draft, ended.to_text())?;
    fs::rename(draft, directory.join(name))
}

/// The worker's side: who waits for which process.
#[derive(Debug)]
pub(crate) struct Exits {
    directory: PathBuf,
    waiting: Mutex<HashMap<Identity, oneshot::Sender<Ended>>>,
}

impl Exits {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Identity, oneshot::Sender<Ended>>> {
        // No code under the lock can panic half-way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of `process`, whether it is still to come or on record already.
    pub(crate) fn wait_for(&self, process: Identity) -> oneshot::Receiver<Ended> {
        let (sender, receiver) = oneshot::channel();
        self.waiting().insert(process, sender);
        // The keeper may have recorded it before the entry was there.
        if let Some(ended) = self.recorded(process) {
            self.deliver(process, ended);
        }
        receiver
    }

    /// The end of `process` as the keeper put it on record.
    pub(crate) fn recorded(&self, process: Identity) -> Option<Ended> {
        let text = fs::read_to_string(self.directory.join(process.file_name())).ok()?;
        Ended::from_text(&text)
    }

    fn deliver(&self, process: Identity, ended: Ended) {
        if let Some(sender) = self.waiting().remove(&process) {
            // Whoever waited may have gone: then the record stays and goes stale.
            let _ = sender.send(ended);
        }
    }

    /// Forgets the record, once the exit stands elsewhere.
    pub(crate) fn forget(&self, process: Identity) {
        self.waiting().remove(&process);
        match fs::remove_file(self.directory.join(process.file_name())) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(pid = process.pid, error = %e, "remove an exit file");
            }
            _ => {}
        }
    }

    /// Looks through the records: called whenever the keeper says that there are new ones.
    pub(crate) fn collect(&self, now: SystemTime) {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(e) => return tracing::error!(error = %e, "read the exit directory"),
        };
        for entry in entries.flatten() {
            let Some(process) = entry.file_name().to_str().and_then(Identity::from_file_name) else {
                continue;
            };
            if self.waiting().contains_key(&process) {
                if let Some(ended) = self.recorded(process) {
                    self.deliver(process, ended);
                }
                continue;
            }
            let modified = entry.metadata().and_then(|m| m.modified()).unwrap_or(now);
            if now.duration_since(modified).is_ok_and(|age| age > STALE) {
                self.forget(process);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Identity = Identity { pid: 10, start: 999 };

    #[test]
    fn a_record_before_the_wait_and_one_after() {
        let dir = tempfile::tempdir().unwrap();
        let exits = Exits::new(dir.path().into());
        let ended = Ended { status: Status::Exited(3), at_ms: 5 };
        record(dir.path(), A, ended).unwrap();
        assert_eq!(exits.wait_for(A).try_recv().unwrap(), ended);
        exits.forget(A);
        assert_eq!(exits.recorded(A), None);

        let mut waiting = exits.wait_for(A);
        exits.collect(SystemTime::now());
        assert!(waiting.try_recv().is_err());
        record(dir.path(), A, Ended { status: Status::Killed(9), at_ms: 6 }).unwrap();
        exits.collect(SystemTime::now());
        assert_eq!(waiting.try_recv().unwrap().status.code(), 137);
    }

    #[test]
    fn a_record_that_cannot_be_written_is_not_there_by_half() {
        let dir = tempfile::tempdir().unwrap();
        let exits = Exits::new(dir.path().into());
        let ended = Ended { status: Status::Exited(0), at_ms: 5 };
        assert!(record(&dir.path().join("missing"), A, ended).is_err());
        // A draft whose text did not fit on the disk is no record, and does not stand in the way of one.
        fs::write(dir.path().join(format!(".{}", A.file_name())), "exi").unwrap();
        let mut waiting = exits.wait_for(A);
        exits.collect(SystemTime::now());
        assert!(waiting.try_recv().is_err());
        record(dir.path(), A, ended).unwrap();
        exits.collect(SystemTime::now());
        assert_eq!(waiting.try_recv().unwrap(), ended);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn records_that_nobody_wants_go_stale() {
        let dir = tempfile::tempdir().unwrap();
        let exits = Exits::new(dir.path().into());
        record(dir.path(), A, Ended { status: Status::Exited(0), at_ms: 5 }).unwrap();
        exits.collect(SystemTime::now());
        assert!(exits.recorded(A).is_some());
        exits.collect(SystemTime::now() + STALE * 2);
        assert!(exits.recorded(A).is_none());
    }

    #[test]
    fn a_process_is_told_by_its_pid_and_start() {
        let me = Identity::of(std::process::id()).unwrap();
        assert_eq!(Identity::of(std::process::id()).unwrap(), me);
        assert_eq!(Identity::from_file_name(&me.file_name()), Some(me));
        assert_ne!(me.parent(), 0);
        assert_eq!(fields("1 (a) b) S 7 rest").collect::<Vec<_>>(), ["S", "7", "rest"]);
    }
}
