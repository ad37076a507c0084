//! A process run in a container beside its first one.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

use catamaran_task::pods::{ExecSpec, TaskError};
use catamaran_task::status::{Exit, ExitReason};
use oci_spec::runtime::{Process, Spec, User};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::container::Container;
use crate::exits::Identity;
use crate::launch::capability::Sets;
use crate::launch::compile::{self, Parts, Stdio};
use crate::launch::{self, Launched};
use crate::pump::{self, Sink};
use crate::shim::Shim;
use crate::state::{self, ExecRecord};
use crate::stdio;

/// A process run in a container.
#[derive(Debug)]
pub(crate) struct ExecProcess {
    pub process: Identity,
    pub pidfd: Option<Arc<OwnedFd>>,
    pub terminal: Option<Arc<AsyncFd<OwnedFd>>>,
    pub stdin_holder: Mutex<Option<OwnedFd>>,
    pub exit: watch::Sender<Option<Exit>>,
}

/// What stands in for what the request leaves open: the container's own.
fn complete(asked: &Process, container: &Process) -> Process {
    let mut process = asked.clone();
    if asked.env().as_ref().is_none_or(Vec::is_empty) {
        process.set_env(container.env().clone());
    }
    if asked.cwd().as_os_str().is_empty() {
        process.set_cwd(container.cwd().clone());
    }
    if *asked.user() == User::default() {
        process.set_user(container.user().clone());
    }
    if asked.capabilities().is_none() {
        process.set_capabilities(container.capabilities().clone());
    }
    if asked.rlimits().as_ref().is_none_or(Vec::is_empty) {
        process.set_rlimits(container.rlimits().clone());
    }
    // A process may be held tighter than its container, never looser.
    if container.no_new_privileges() == Some(true) {
        process.set_no_new_privileges(Some(true));
    }
    process
}

/// Starts the process; its pid. Blocks for a millisecond or two.
pub(crate) fn launch(
    shim: &Shim,
    container: &Container,
    exec: &ExecSpec,
) -> Result<(Launched, Option<OwnedFd>), TaskError> {
    let failed = |text: String| TaskError::Failed(format!("exec in {}: {text}", container.name()));
    let spec: &Spec = &container.spec.runtime_spec;
    let Some(own) = spec.process() else { return Err(failed("the container has no process".into())) };
    let process = complete(&exec.process, own);
    let terminal = process.terminal() == Some(true);
    let (stdio, holder) = open_stdio(exec, terminal).map_err(|e| failed(format!("open its pipes: {e}")))?;
    let pidfd = container.held().pidfd.clone();
    let pidfd = pidfd.and_then(|fd| fd.try_clone().ok()).ok_or_else(|| gone(container))?;
    let capabilities = Sets::new(process.capabilities().as_ref(), shim.capability_limit);
    let filters = shim.filters(spec, capabilities)?;
    let joining = container.cgroup.joining().map_err(|e| failed(describe(&e)))?;
    let parts = Parts {
        rootfs: &container.spec.rootfs,
        mount_point: &shim.root.mount_point(),
        joining,
        stdio,
        capabilities,
        filters: &filters,
    };
    let plan = compile::joining(&process, spec, pidfd, parts)
        .map_err(|e| TaskError::InvalidArgument(format!("exec in {}: {e}", container.name())))?;
    let launched = launch::launch(&plan).map_err(|e| failed(e.to_string()))?;
    Ok((launched, holder))
}

/// An error with what caused it.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn gone(container: &Container) -> TaskError {
    TaskError::FailedPrecondition(format!("container {} is not running", container.name()))
}

fn open_stdio(exec: &ExecSpec, terminal: bool) -> std::io::Result<(Stdio, Option<OwnedFd>)> {
    if terminal {
        return Ok((Stdio::default(), None));
    }
    let (stdin, holder) = if exec.stdin.is_empty() {
        (stdio::null(rustix::fs::OFlags::RDONLY)?, None)
    } else {
        stdio::open_stdin(Path::new(&exec.stdin))?
    };
    let (stdout, stderr) = (stdio::open_output(&exec.stdout)?, stdio::open_output(&exec.stderr)?);
    Ok((Stdio([Some(stdin), Some(stdout), Some(stderr)]), holder))
}

/// A process at its gate, without the gate.
pub(crate) struct Registered {
    pub pid: u32,
    pub pidfd: OwnedFd,
    pub terminal: Option<OwnedFd>,
}

/// Puts a process on record that waits at its gate, and watches for its end. Must be called in the
/// runtime.
pub(crate) fn register(
    shim: &Arc<Shim>,
    container: &Arc<Container>,
    exec: &ExecSpec,
    launched: Registered,
    holder: Option<OwnedFd>,
) -> Result<u32, TaskError> {
    let failed = |text: String| TaskError::Failed(format!("exec in {}: {text}", container.name()));
    let process = Identity::of(launched.pid).map_err(|e| failed(e.to_string()))?;
    container
        .directory
        .write_exec(&exec.exec_id, &ExecRecord { process, exit: None })
        .map_err(|e| failed(format!("write its state: {e}")))?;
    let terminal = launched.terminal.map(|fd| pump::watch(fd, Interest::READABLE | Interest::WRITABLE));
    let terminal = terminal.transpose().map_err(|e| failed(e.to_string()))?.map(Arc::new);
    if let Some(terminal) = &terminal {
        pump_terminal(exec, terminal).map_err(|e| failed(format!("open its pipes: {e}")))?;
    }
    let known = Arc::new(ExecProcess {
        process,
        pidfd: Some(Arc::new(launched.pidfd)),
        terminal,
        stdin_holder: Mutex::new(holder),
        exit: watch::Sender::new(None),
    });
    container.held().execs.insert(exec.exec_id.clone(), Arc::clone(&known));
    watch_end(shim, container, exec.exec_id.clone(), known);
    Ok(process.pid)
}

fn pump_terminal(exec: &ExecSpec, terminal: &Arc<AsyncFd<OwnedFd>>) -> std::io::Result<()> {
    let sink = if exec.stdout.is_empty() {
        Sink::Nowhere
    } else {
        Sink::Pipe(pump::watch(stdio::open_for_copy(exec.stdout.as_ref())?, Interest::WRITABLE)?)
    };
    let input = if exec.stdin.is_empty() { None } else { Some(stdio::open_for_copy(exec.stdin.as_ref())?) };
    let input = input.map(|pipe| tokio::spawn(pump::terminal_input(pipe, Arc::clone(terminal))));
    let output = tokio::spawn(pump::terminal_output(Arc::clone(terminal), sink));
    tokio::spawn(async move {
        // A panic in a pump is its own; either way nobody reads the input any more.
        let _ = output.await;
        if let Some(input) = input {
            input.abort();
        }
    });
    Ok(())
}

/// Puts its end on record when it comes.
pub(crate) fn watch_end(
    shim: &Arc<Shim>,
    container: &Arc<Container>,
    exec_id: String,
    known: Arc<ExecProcess>,
) {
    let (shim, container) = (Arc::clone(shim), Arc::clone(container));
    tokio::spawn(async move {
        let ended = shim.end_of(known.process, known.pidfd.clone()).await;
        let reason = match ended.status {
            crate::exits::Status::Unknown => ExitReason::Lost,
            _ => ExitReason::Exited,
        };
        let exit = Exit { code: ended.status.code(), at_ms: ended.at_ms, reason, message: None };
        let record = ExecRecord { process: known.process, exit: Some(exit.clone()) };
        // Not where its start failed, or its container is gone.
        if container.held().execs.contains_key(&exec_id)
            && let Err(e) = container.directory.write_exec(&exec_id, &record)
        {
            tracing::warn!(container = container.name(), exec_id, error = %e, "record its exit");
        }
        shim.exits.forget(known.process);
        known.exit.send_replace(Some(exit));
    });
}

/// Whether `exec_id` can be the name of a file.
pub(crate) fn check_id(exec_id: &str) -> Result<(), TaskError> {
    if state::is_valid(exec_id) {
        return Ok(());
    }
    Err(TaskError::InvalidArgument(format!(
        "the process name {exec_id:?}: 1 to 128 letters, digits, '-', '_', '.', beginning with a letter or digit"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_open_is_the_containers() {
        let container: Process = serde_json::from_value(serde_json::json!({
            "args": ["a"], "cwd": "/work", "env": ["A=1"], "user": {"uid": 7, "gid": 8},
            "noNewPrivileges": true,
        }))
        .unwrap();
        let mut asked = Process::default();
        asked.set_args(Some(vec!["b".into()]));
        asked.set_env(None).set_cwd("".into()).set_capabilities(None);
        let process = complete(&asked, &container);
        assert_eq!(process.args().as_deref(), Some(&["b".to_owned()][..]));
        assert_eq!(process.env().as_deref(), Some(&["A=1".to_owned()][..]));
        assert_eq!((process.user().uid(), process.cwd().to_str()), (7, Some("/work")));
        assert_eq!(process.no_new_privileges(), Some(true));
    }
}
