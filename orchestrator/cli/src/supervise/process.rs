//! Processes by identity: a pid with its start time, so that a reused pid is never taken for ours.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process that is, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Its pid.
    pub(crate) pid: i32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub(crate) start_time: u64,
}

impl Identity {
    /// The process that has this pid now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, start_time) = parse_stat(&stat)?;
        (state != 'Z').then_some(Identity { pid, start_time })
    }

    pub(crate) fn is_alive(&self) -> bool {
        Identity::of(self.pid) == Some(*self)
    }

    fn open(&self) -> Option<OwnedFd> {
        let descriptor = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        self.is_alive().then_some(descriptor)
    }

    /// Waits until it has ended, whoever its parent is.
    pub(crate) async fn ended(&self) {
        let Some(descriptor) = self.open() else { return };
        #[expect(deprecated, reason = "an OwnedFd keeps its number; the replacement is an unsafe function")]
        let registered = AsyncFd::with_interest(descriptor, Interest::READABLE);
        let Ok(descriptor) = registered else { return };
        // A pidfd is readable once the process is gone; an error can only mean the same.
        let _ = descriptor.readable().await;
        reap(self.pid);
    }

    /// Sends a signal if it is still there.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(descriptor) = self.open() {
            // It may end between the look and the signal: then it has what it was to get.
            let _ = pidfd_send_signal(descriptor, signal);
        }
    }

    /// TERM, then KILL after `wait`; returns when it has ended.
    pub(crate) async fn terminate(&self, wait: Duration) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(wait, self.ended()).await.is_err() {
            self.signal(Signal::KILL);
            self.ended().await;
        }
    }
}

/// Collects an ended child; not ours, nothing to do.
fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
    }
}

/// State letter and start time from `/proc/PID/stat`; the name in parentheses may hold anything.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

pub(crate) fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Writes the identity of a running process. Whoever else writes the same file has a draft of its own.
pub(crate) fn write(file: &Path, pid: i32) -> io::Result<()> {
    let identity = Identity::of(pid).ok_or(io::ErrorKind::NotFound)?;
    let next = file.with_extension(format!("{}.new", own_pid()));
    std::fs::write(&next, format!("{} {}\n", identity.pid, identity.start_time))?;
    std::fs::rename(next, file)
}

/// Takes a lock file for the life of this process.
pub(crate) fn lock(file: &Path) -> Result<std::fs::File, String> {
    let fail = |error: &dyn std::fmt::Display| format!("cannot lock {}: {error}", file.display());
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory).map_err(|e| fail(&e))?;
    }
    let held = std::fs::File::create(file).map_err(|e| fail(&e))?;
    held.try_lock()
        .map_err(|_| format!("{} is held by another process of this data directory", file.display()))?;
    Ok(held)
}

/// Notes that this process is a part. Without the note the supervisor cannot find a part that it did not
/// start itself; the part works all the same.
pub(crate) fn claim(file: &Path) {
    let noted = file.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| write(file, own_pid()));
    if let Err(error) = noted {
        tracing::warn!(file = %file.display(), %error, "noting this process");
    }
}

/// Reads what `write` wrote.
pub(crate) fn read(file: &Path) -> Option<Identity> {
    let text = std::fs::read_to_string(file).ok()?;
    let (pid, start_time) = text.trim().split_once(' ')?;
    Some(Identity { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_blanks_does_not_shift_the_fields() {
        let stat =
            "12 (a) (b c) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1000 1 18446744073709551615";
        assert_eq!(parse_stat(stat), Some(('S', 987_654)));
    }

    #[tokio::test]
    async fn an_ended_process_is_noticed_and_its_pid_not_taken_for_it() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(child.id() as i32).unwrap();
        assert!(identity.is_alive());
        assert!(!Identity { start_time: identity.start_time + 1, ..identity }.is_alive());
        child.kill().unwrap();
        identity.ended().await;
        assert!(!identity.is_alive());
        let _ = child.wait();
    }

    #[test]
    fn a_process_file_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.pid");
        write(&file, own_pid()).unwrap();
        assert!(read(&file).unwrap().is_alive());
        std::fs::write(&file, "garbage").unwrap();
        assert_eq!(read(&file), None);
    }
}
