//! What a new worker does about the containers of its predecessor: looks at each state file and at the
//! process it names, and goes on from there. A process is the one meant when pid and start time agree.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use catamaran_task::spec::{ContainerId, ContainerSpec};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::watch;

use crate::cgroup::Cgroup;
use crate::container::Container;
use crate::exec::{self, ExecProcess};
use crate::exits::{Ended, Identity, Status};
use crate::launch::Gate;
use crate::shim::Shim;
use crate::state::{Directory, Phase, Record};
use crate::stdio;

/// What is to be done about one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// Half-made, or of another boot: clean it away, as if it had never been.
    Remove,
    /// Over; only remembered.
    Remember,
    /// Waits at its gate.
    Hold,
    /// Went through its gate and was not yet put down as running.
    Promote,
    /// Runs, or has ended meanwhile.
    Follow,
}

/// What the keeper's end of a gate tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GateState {
    /// The keeper has none.
    Gone,
    /// A process waits behind it.
    Waiting,
    /// Nobody is behind it any more: the process runs its program, or has ended.
    Passed,
}

/// The decision, from what the state file says and what the keeper holds.
fn action(record: Option<&Record>, boot: &str, gate: GateState) -> Action {
    let Some(record) = record.filter(|r| r.boot == boot) else { return Action::Remove };
    match (record.phase, gate) {
        (Phase::Exited, _) => Action::Remember,
        (Phase::Running, _) => Action::Follow,
        (Phase::Created, GateState::Waiting) => Action::Hold,
        (Phase::Created, GateState::Passed) => Action::Promote,
        // It went with the keeper, and the process ended by that; or the keeper was never told.
        (Phase::Created, GateState::Gone) => Action::Remove,
    }
}

/// Takes every container over. `held` is what the keeper holds. An error means that a state file could
/// not be read now: nothing is known of that container, so it is left alone.
pub(crate) fn adopt_all(shim: &Arc<Shim>, mut held: HashMap<String, OwnedFd>) -> io::Result<()> {
    let mut read = Vec::new();
    for id in shim.root.containers()? {
        let directory = shim.root.container(&id);
        let files =
            known(directory.read_record()).and_then(|record| Ok((record, known(directory.read_spec())?)));
        let (record, spec) =
            files.map_err(|e| io::Error::new(e.kind(), format!("container {}: {e}", id.0)))?;
        read.push((id, directory, record, spec));
    }
    for (id, directory, record, spec) in read {
        if let Err(e) = adopt(shim, &id, &directory, (record, spec), &mut held) {
            tracing::error!(container = id.0, error = %e, "take it over; cleaning it away");
            remove(shim, &id, &directory);
        }
    }
    Ok(())
}

/// What was read; none where there is no file or one that is not whole.
fn known<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    match read {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.kind(), NotFound | InvalidData | UnexpectedEof) => Ok(None),
        Err(e) => Err(e),
    }
}

fn adopt(
    shim: &Arc<Shim>,
    id: &ContainerId,
    directory: &Directory,
    (record, spec): (Option<Record>, Option<ContainerSpec>),
    held: &mut HashMap<String, OwnedFd>,
) -> io::Result<()> {
    let gate = held.remove(&format!("{}/gate", id.0));
    let gate = gate.map(Gate::from);
    let passed = match &gate {
        None => GateState::Gone,
        Some(gate) if gate.is_passed() => GateState::Passed,
        Some(_) => GateState::Waiting,
    };
    let action = action(record.as_ref(), &shim.root.boot, passed);
    let Some((record, spec)) = record.zip(spec).filter(|_| action != Action::Remove) else {
        tracing::info!(container = id.0, "half-made or of another boot: cleaned away");
        remove(shim, id, directory);
        return Ok(());
    };
    let cgroup = Cgroup::new(&shim.layout, &record.cgroup).map_err(io::Error::other)?;
    let container = Arc::new(Container::new(spec, cgroup, directory.clone(), record.clone()));
    shim.insert(Arc::clone(&container));
    // Of two attempts with one path the one that is not over owns it.
    if let Err(e) = shim.claim_cgroup(container.cgroup.path(), id)
        && action != Action::Remember
    {
        tracing::warn!(container = id.0, error = %e, "take its cgroup over");
    }
    if let (Some(exit), Some(sequence)) = (&record.exit, record.sequence) {
        shim.announce(sequence, id, exit);
    }
    if action == Action::Remember {
        return Ok(());
    }
    let process = record.process;
    {
        let mut own = container.held();
        own.pidfd = open_process(process).map(Arc::new);
        own.stdin_holder = held.remove(&format!("{}/{}", id.0, stdio::STDIN));
    }
    container.start_pumps(held.remove(&format!("{}/terminal", id.0)));
    match (action, gate) {
        (Action::Hold, gate) => container.held().gate = gate,
        (Action::Promote, Some(gate)) => shim.promote(&container, &gate),
        _ => {}
    }
    container.watch_end(shim, process);
    adopt_execs(shim, &container);
    tracing::info!(container = id.0, pid = process.pid, ?action, "taken over");
    Ok(())
}

fn adopt_execs(shim: &Arc<Shim>, container: &Arc<Container>) {
    for (exec_id, record) in container.directory.execs() {
        let ended = record.exit.is_some();
        let known = Arc::new(ExecProcess {
            process: record.process,
            pidfd: if ended { None } else { open_process(record.process).map(Arc::new) },
            terminal: None,
            stdin_holder: Mutex::default(),
            exit: watch::Sender::new(record.exit),
        });
        container.held().execs.insert(exec_id.clone(), Arc::clone(&known));
        if !ended {
            exec::watch_end(shim, container, exec_id, known);
        }
    }
}

/// A descriptor of the process, if it is the one meant and still there.
fn open_process(process: Identity) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(process.pid).ok()?)?;
    let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // Looked at after the descriptor was made: from here on it cannot become another.
    (Identity::of(process.pid).ok()? == process).then_some(fd)
}

fn remove(shim: &Shim, id: &ContainerId, directory: &Directory) {
    shim.custody.drop_all(&id.0);
    let path = match (directory.read_record(), directory.read_spec()) {
        (Ok(record), _) => Some(record.cgroup),
        (Err(_), Ok(spec)) => Some(crate::shim::cgroup_path(&spec)),
        (Err(_), Err(_)) => None,
    };
    let cgroup = path.and_then(|path| Cgroup::new(&shim.layout, &path).ok());
    if let Some(cgroup) = cgroup {
        cgroup.kill();
        if let Err(e) = cgroup.remove() {
            tracing::warn!(container = id.0, error = %e, "remove its cgroup");
        }
    }
    let discarded = match directory.read_spec() {
        Ok(spec) => shim.discard_files(&spec, directory),
        Err(_) => shim.discard_directory(directory),
    };
    if let Err(e) = discarded {
        tracing::warn!(container = id.0, error = %e, "remove its directory");
    }
}

/// How a process ended that is no child of the keeper (an earlier keeper was killed): the kernel tells
/// whoever holds a pidfd, from Linux 6.15 on.
pub(crate) fn end_by_pidfd(pidfd: &OwnedFd) -> Ended {
    Ended::now(crate::launch::exit_of(pidfd).map_or(Status::Unknown, |raw| {
        let (code, signal) = (raw >> 8 & 0xff, raw & 0x7f);
        if signal == 0 { Status::Exited(code) } else { Status::Killed(signal) }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_now_is_not_taken_for_half_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = crate::state::Root::open(dir.path()).unwrap();
        let directory = root.container(&ContainerId("a".into()));
        assert!(known(directory.read_record()).unwrap().is_none(), "no file");
        directory.create().unwrap();
        let file = directory.path().join("state.json");
        for half in ["", "{\"phase\":\"run", "no JSON", "{}"] {
            std::fs::write(&file, half).unwrap();
            assert!(known(directory.read_record()).unwrap().is_none(), "{half:?}");
        }
        // Any other error: here EISDIR.
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert!(known(directory.read_record()).is_err());
        for errno in [libc::EMFILE, libc::EIO, libc::ENOMEM] {
            assert!(known::<()>(Err(io::Error::from_raw_os_error(errno))).is_err());
        }
    }

    #[test]
    fn what_becomes_of_each_state() {
        let record = |phase| Record {
            phase,
            process: Identity { pid: 1, start: 1 },
            started_at_ms: None,
            exit: None,
            sequence: None,
            cgroup: "x".into(),
            boot: "now".into(),
        };
        let of = |phase, gate| action(Some(&record(phase)), "now", gate);
        assert_eq!(action(None, "now", GateState::Gone), Action::Remove);
        assert_eq!(action(Some(&record(Phase::Running)), "later", GateState::Gone), Action::Remove);
        assert_eq!(of(Phase::Created, GateState::Waiting), Action::Hold);
        assert_eq!(of(Phase::Created, GateState::Passed), Action::Promote);
        assert_eq!(of(Phase::Created, GateState::Gone), Action::Remove);
        assert_eq!(of(Phase::Running, GateState::Gone), Action::Follow);
        assert_eq!(of(Phase::Running, GateState::Passed), Action::Follow);
        assert_eq!(of(Phase::Exited, GateState::Gone), Action::Remember);
    }
}
