//! What a new worker does about the containers of its predecessor: looks at each state file and at the
//! process it names, and goes on from there. A process is the one meant when pid and start time agree.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use catamaran_task::spec::ContainerId;
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
    /// The gate was being opened: open it (again), then go on.
    Release,
    /// Runs, or has ended meanwhile.
    Follow,
}

/// The decision, from what the state file says and what the keeper holds.
fn action(record: Option<&Record>, boot: &str, has_gate: bool) -> Action {
    let Some(record) = record.filter(|r| r.boot == boot) else { return Action::Remove };
    match (record.phase, record.process, has_gate) {
        (Phase::Exited, ..) => Action::Remember,
        (Phase::Creating, ..) | (_, None, _) => Action::Remove,
        (Phase::Created, Some(_), true) => Action::Hold,
        // Its gate went with the keeper, and it ended by that.
        (Phase::Created, Some(_), false) => Action::Remove,
        (Phase::Starting, Some(_), true) => Action::Release,
        (Phase::Starting, Some(_), false) | (Phase::Running, Some(_), _) => Action::Follow,
    }
}

/// Takes every container over. `held` is what the keeper holds.
pub(crate) fn adopt_all(shim: &Arc<Shim>, mut held: HashMap<String, OwnedFd>) -> io::Result<()> {
    for id in shim.root.containers()? {
        let directory = shim.root.container(&id);
        if let Err(e) = adopt(shim, &id, &directory, &mut held) {
            tracing::error!(container = id.0, error = %e, "take it over; cleaning it away");
            remove(shim, &id, &directory);
        }
    }
    Ok(())
}

fn adopt(
    shim: &Arc<Shim>,
    id: &ContainerId,
    directory: &Directory,
    held: &mut HashMap<String, OwnedFd>,
) -> io::Result<()> {
    let record = directory.read_record().ok();
    let gate = held.remove(&format!("{}/gate", id.0));
    let action = action(record.as_ref(), &shim.root.boot, gate.is_some());
    let Some(record) = record.filter(|_| action != Action::Remove) else {
        tracing::info!(container = id.0, "half-made or of another boot: cleaned away");
        remove(shim, id, directory);
        return Ok(());
    };
    let cgroup = Cgroup::new(&shim.layout, &record.cgroup).map_err(io::Error::other)?;
    let container =
        Arc::new(Container::new(directory.read_spec()?, cgroup, directory.clone(), record.clone()));
    shim.insert(Arc::clone(&container));
    if let (Some(exit), Some(sequence)) = (&record.exit, record.sequence) {
        shim.announce(sequence, id, exit);
    }
    let Some(process) = record.process.filter(|_| action != Action::Remember) else { return Ok(()) };
    {
        let mut own = container.held();
        own.pidfd = open_process(process).map(Arc::new);
        own.stdin_holder = held.remove(&format!("{}/{}", id.0, stdio::STDIN));
    }
    container.start_pumps(held.remove(&format!("{}/terminal", id.0)));
    match (action, gate) {
        (Action::Hold, Some(gate)) => container.held().gate = Some(Gate::from(gate)),
        (Action::Release, Some(gate)) => shim.release_adopted(&container, Gate::from(gate)),
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
    if let Ok(spec) = directory.read_spec() {
        crate::shim::remove_scratch(&spec);
    }
    if let Err(e) = directory.remove() {
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
    fn what_becomes_of_each_state() {
        let record = |phase, process| Record {
            phase,
            process,
            started_at_ms: None,
            exit: None,
            sequence: None,
            cgroup: "x".into(),
            boot: "now".into(),
        };
        let process = Some(Identity { pid: 1, start: 1 });
        let of = |phase, process, gate| action(Some(&record(phase, process)), "now", gate);
        assert_eq!(action(None, "now", false), Action::Remove);
        assert_eq!(action(Some(&record(Phase::Running, process)), "later", false), Action::Remove);
        assert_eq!(of(Phase::Creating, None, false), Action::Remove);
        assert_eq!(of(Phase::Created, process, true), Action::Hold);
        assert_eq!(of(Phase::Created, process, false), Action::Remove);
        assert_eq!(of(Phase::Starting, process, true), Action::Release);
        assert_eq!(of(Phase::Starting, process, false), Action::Follow);
        assert_eq!(of(Phase::Running, process, false), Action::Follow);
        assert_eq!(of(Phase::Exited, process, false), Action::Remember);
    }
}
