//! One container: what is known of it, what belongs to it, and what happens when it ends.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use catamaran_task::pods::TaskError;
use catamaran_task::spec::{ContainerSpec, Output, Stdin};
use catamaran_task::status::{ContainerStatus, Exit, ExitReason, State};
use catamaran_task::{CriLogWriter, LogStream};
use oci_spec::runtime::LinuxNamespaceType;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cgroup::Cgroup;
use crate::exec::ExecProcess;
use crate::exits::{Ended, Identity, Status};
use crate::launch::Gate;
use crate::pump::{self, Sink};
use crate::shim::Shim;
use crate::state::{Directory, Phase, Record};
use crate::stdio;

/// How long the last output of an ended container may take to reach its log.
const DRAIN: Duration = Duration::from_secs(2);

/// A container that the shim knows.
#[derive(Debug)]
pub(crate) struct Container {
    pub spec: ContainerSpec,
    pub cgroup: Cgroup,
    pub directory: Directory,
    /// Steps of its start from the gate on, in words.
    pub last_steps: Vec<(u16, String)>,
    /// One change at a time.
    pub changes: tokio::sync::Mutex<()>,
    record: watch::Sender<Record>,
    held: Mutex<Held>,
}

/// The name of a process that is being started; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct ExecName<'a> {
    container: &'a Container,
    name: String,
}

impl Drop for ExecName<'_> {
    fn drop(&mut self) {
        self.container.held().starting.remove(&self.name);
    }
}

/// What is open for a container.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub pidfd: Option<Arc<OwnedFd>>,
    pub gate: Option<Gate>,
    pub terminal: Option<Arc<AsyncFd<OwnedFd>>>,
    pub stdin_holder: Option<OwnedFd>,
    pub execs: HashMap<String, Arc<ExecProcess>>,
    /// Names of processes that are being started.
    starting: HashSet<String>,
    /// Why its program could not be started: exit code and text.
    pub failure: Option<(i32, String)>,
    pub pumps: Vec<JoinHandle<()>>,
    pub input: Option<JoinHandle<()>>,
}

impl Container {
    pub(crate) fn new(spec: ContainerSpec, cgroup: Cgroup, directory: Directory, record: Record) -> Self {
        Self {
            spec,
            cgroup,
            directory,
            last_steps: Vec::new(),
            changes: tokio::sync::Mutex::default(),
            record: watch::Sender::new(record),
            held: Mutex::default(),
        }
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        // No code under the lock can panic half-way.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the name of a process that is to be started, unless another has it.
    pub(crate) fn reserve_exec(&self, name: &str) -> Result<ExecName<'_>, TaskError> {
        let mut held = self.held();
        if held.execs.contains_key(name) || !held.starting.insert(name.to_owned()) {
            return Err(TaskError::AlreadyExists(format!("process {name}")));
        }
        Ok(ExecName { container: self, name: name.to_owned() })
    }

    pub(crate) fn record(&self) -> Record {
        self.record.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Record> {
        self.record.subscribe()
    }

    /// Changes the record: on disk first, then for everybody who watches.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Record)) -> Result<Record, TaskError> {
        let mut record = self.record();
        change(&mut record);
        self.directory
            .write_record(&record)
            .map_err(|e| TaskError::Failed(format!("write the state of {}: {e}", self.spec.id.0)))?;
        self.record.send_replace(record.clone());
        Ok(record)
    }

    pub(crate) fn name(&self) -> &str {
        &self.spec.id.0
    }

    pub(crate) fn status(&self) -> ContainerStatus {
        let record = self.record();
        ContainerStatus {
            id: self.spec.id.clone(),
            sandbox: self.spec.sandbox.clone(),
            state: match record.phase {
                Phase::Created => State::Created,
                Phase::Running => State::Running,
                Phase::Exited => State::Exited,
            },
            pid: record.process.pid,
            started_at_ms: record.started_at_ms,
            exit: record.exit,
        }
    }

    /// Starts the tasks that move its output. Must be called in the runtime.
    pub(crate) fn start_pumps(&self, terminal: Option<OwnedFd>) {
        let result = match terminal {
            Some(terminal) => self.pump_terminal(terminal),
            None => self.pump_pipes(),
        };
        if let Err(e) = result {
            tracing::error!(container = self.name(), error = %e, "open its output");
        }
    }

    fn pump_pipes(&self) -> std::io::Result<()> {
        let Output::CriLog(path) = &self.spec.output else { return Ok(()) };
        let log = CriLogWriter::open(path)?;
        for (name, stream) in [(stdio::STDOUT, LogStream::Stdout), (stdio::STDERR, LogStream::Stderr)] {
            let reader = stdio::open_reader(&self.directory.path().join(name))?;
            let log = log.stream(stream);
            let log = if self.spec.stdin == Stdin::Null { log } else { log.at_once() };
            let pump = tokio::spawn(pump::pipe_to_log(reader, log));
            self.held().pumps.push(pump);
        }
        Ok(())
    }

    fn pump_terminal(&self, terminal: OwnedFd) -> std::io::Result<()> {
        let terminal = Arc::new(pump::watch(terminal, Interest::READABLE | Interest::WRITABLE)?);
        let sink = match &self.spec.output {
            Output::CriLog(path) => Sink::Log(CriLogWriter::open(path)?.stream(LogStream::Stdout).at_once()),
            Output::Fifos { stdout, .. } if !stdout.is_empty() => {
                Sink::Pipe(pump::watch(stdio::open_for_copy(stdout.as_ref())?, Interest::WRITABLE)?)
            }
            Output::Fifos { .. } | Output::Discard => Sink::Nowhere,
        };
        let input = match &self.spec.stdin {
            Stdin::Null => None,
            Stdin::Open | Stdin::Once => Some(self.directory.path().join(stdio::STDIN)),
            Stdin::Fifo(path) => Some(path.into()),
        };
        let input = input.map(|path| stdio::open_for_copy(&path)).transpose()?;
        let mut held = self.held();
        held.terminal = Some(Arc::clone(&terminal));
        held.input = input.map(|pipe| tokio::spawn(pump::terminal_input(pipe, Arc::clone(&terminal))));
        held.pumps.push(tokio::spawn(pump::terminal_output(terminal, sink)));
        Ok(())
    }

    /// Puts the container's end on record when it comes.
    pub(crate) fn watch_end(self: &Arc<Self>, shim: &Arc<Shim>, process: Identity) {
        let (container, shim) = (Arc::clone(self), Arc::clone(shim));
        tokio::spawn(async move {
            let pidfd = container.held().pidfd.clone();
            let ended = shim.end_of(process, pidfd).await;
            container.ended(&shim, process, ended).await;
        });
    }

    async fn ended(&self, shim: &Shim, process: Identity, ended: Ended) {
        if !self.has_pid_namespace() {
            // Else what the first process left behind would go on without it.
            self.cgroup.kill();
        }
        self.drain().await;
        let _one_at_a_time = self.changes.lock().await;
        let oom_kills = self.cgroup.oom_kills();
        let failure = self.held().failure.clone();
        self.put_down(shim, process, &exit(ended, oom_kills, failure));
        shim.custody.drop_all(self.name());
        let mut held = self.held();
        (held.gate, held.terminal, held.stdin_holder, held.pidfd) = (None, None, None, None);
        if let Some(input) = held.input.take() {
            input.abort();
        }
    }

    /// Its exit: on record, then on the list of exits.
    fn put_down(&self, shim: &Shim, process: Identity, exit: &Exit) {
        let _in_order = shim.announcing();
        let sequence = shim.next_sequence();
        let over = |record: &mut Record| {
            record.phase = Phase::Exited;
            record.exit = Some(exit.clone());
            record.sequence = Some(sequence);
        };
        match self.change(over) {
            Ok(_) => shim.exits.forget(process),
            Err(e) => {
                // It is over all the same; a successor of this worker has the keeper's record.
                tracing::error!(container = self.name(), error = %e, "record its exit");
                self.record.send_modify(over);
            }
        }
        shim.announce(sequence, &self.spec.id, exit);
    }

    /// Whether the kernel kills all its processes with the first.
    fn has_pid_namespace(&self) -> bool {
        let linux = self.spec.runtime_spec.linux().as_ref();
        let mut namespaces = linux.and_then(|l| l.namespaces().as_ref()).into_iter().flatten();
        namespaces.any(|n| n.typ() == LinuxNamespaceType::Pid && n.path().is_none())
    }

    async fn drain(&self) {
        let pumps = std::mem::take(&mut self.held().pumps);
        for pump in pumps {
            let abort = pump.abort_handle();
            if tokio::time::timeout(DRAIN, pump).await.is_err() {
                // Somebody outside holds its pipe open.
                tracing::warn!(container = self.name(), "its output goes on after its end; not waiting");
                abort.abort();
            }
        }
    }
}

/// How a container ended, from what is known of it.
fn exit(ended: Ended, oom_kills: u64, failure: Option<(i32, String)>) -> Exit {
    let code = ended.status.code();
    let of = |code, reason, message| Exit { code, at_ms: ended.at_ms, reason, message };
    match (failure, ended.status) {
        (Some((code, text)), _) => of(code, ExitReason::StartFailed, Some(text)),
        (None, Status::Unknown) => {
            let text = "the shim was killed while the container ended, and its exit code is lost";
            of(code, ExitReason::Lost, Some(text.into()))
        }
        (None, Status::Killed(libc::SIGKILL)) if oom_kills > 0 => of(code, ExitReason::OomKilled, None),
        // A shell whose child was killed for memory passes the code on.
        (None, Status::Exited(137)) if oom_kills > 0 => of(code, ExitReason::OomKilled, None),
        (None, _) => of(code, ExitReason::Exited, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_process_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = crate::state::Root::open(dir.path()).unwrap();
        let layout = crate::cgroup::Layout::detect().unwrap();
        let id = catamaran_task::spec::ContainerId("a".into());
        let spec = ContainerSpec {
            id: id.clone(),
            sandbox: catamaran_task::spec::SandboxId("s".into()),
            runtime_spec: oci_spec::runtime::Spec::default(),
            rootfs: catamaran_task::spec::Rootfs::None,
            output: Output::Discard,
            stdin: Stdin::Null,
            wasm: None,
        };
        let record = Record {
            phase: Phase::Running,
            process: Identity { pid: 1, start: 1 },
            started_at_ms: None,
            exit: None,
            sequence: None,
            cgroup: "x".into(),
            boot: "now".into(),
        };
        let cgroup = Cgroup::new(&Arc::new(layout), "x").unwrap();
        let container = Container::new(spec, cgroup, root.container(&id), record);
        let first = container.reserve_exec("e").unwrap();
        assert!(matches!(container.reserve_exec("e"), Err(TaskError::AlreadyExists(_))));
        assert!(container.reserve_exec("f").is_ok());
        assert!(container.reserve_exec("e").is_err(), "the second try did not free it");
        drop(first);
        assert!(container.reserve_exec("e").is_ok());
    }

    #[test]
    fn reasons_of_an_end() {
        let of = |status, oom, failure: Option<(i32, String)>| {
            let exit = exit(Ended { status, at_ms: 1 }, oom, failure);
            (exit.code, exit.reason)
        };
        assert_eq!(of(Status::Exited(3), 0, None), (3, ExitReason::Exited));
        assert_eq!(of(Status::Killed(15), 0, None), (143, ExitReason::Exited));
        assert_eq!(of(Status::Killed(9), 1, None), (137, ExitReason::OomKilled));
        assert_eq!(of(Status::Killed(9), 0, None), (137, ExitReason::Exited));
        assert_eq!(of(Status::Exited(1), 2, None), (1, ExitReason::Exited), "it lived on without the child");
        assert_eq!(of(Status::Unknown, 0, None), (255, ExitReason::Lost));
        assert_eq!(of(Status::Exited(126), 0, Some((127, "x".into()))), (127, ExitReason::StartFailed));
    }
}
