//! Runs a command in a container and gives back what it said: for exec probes and for hooks.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use catamaran_task::ExecSpec;
use catamaran_task::spec::ContainerId;
use oci_spec::runtime::Process;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::context::Context;
use crate::record::container_id;
use crate::runtime::ShimKey;
use crate::shims::{Shim, ShimError};
use crate::worker::Worker;

/// What a command said beyond this is dropped.
const LONGEST_OUTPUT: usize = 10 << 10;
const SIGKILL: i32 = 9;

/// A running container.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) shim: ShimKey,
    pub(crate) id: ContainerId,
    pub(crate) attempt: u32,
    pub(crate) ip: Ipv4Addr,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) code: i32,
    /// stdout and stderr, mixed.
    pub(crate) text: String,
}

/// A command that could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    #[error("the container does not run")]
    NotRunning,
    #[error("the pipes of the command cannot be made")]
    Pipes(#[source] std::io::Error),
    #[error("the command cannot be started")]
    Start(#[source] ShimError),
    #[error("the end of the command is not known")]
    Wait(#[source] ShimError),
    #[error("command timed out after {0:?}")]
    TimedOut(Duration),
}

/// Named pipes of one command; removed when dropped.
pub(crate) struct Pipes {
    directory: PathBuf,
}

// === impl ===

impl Target {
    /// The container's current attempt, if it was made.
    pub(crate) fn of(worker: &Worker, container: &str) -> Option<Self> {
        let record = worker.seen.record.containers.get(container)?;
        let ip = worker.seen.record.ip()?;
        let id = container_id(worker.uid(), container, record.attempt);
        (record.created && record.finished.is_none()).then(|| Target {
            shim: record.shim.clone(),
            id,
            attempt: record.attempt,
            ip,
        })
    }
}

impl Pipes {
    /// A directory for the pipes of one command.
    pub(crate) fn new(run: &Path) -> std::io::Result<Self> {
        let directory = run.join("exec").join(fresh_id());
        std::fs::create_dir_all(&directory)?;
        Ok(Pipes { directory })
    }

    /// Makes one.
    pub(crate) fn make(&self, name: &str) -> std::io::Result<PathBuf> {
        let path = self.directory.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        Ok(path)
    }

    /// Makes one and opens the end that reads.
    pub(crate) fn reader(&self, name: &str) -> std::io::Result<(String, pipe::Receiver)> {
        let path = self.make(name)?;
        Ok((path.display().to_string(), pipe::OpenOptions::new().open_receiver(&path)?))
    }

    /// Makes one and opens the end that writes, before anybody reads.
    pub(crate) fn writer(&self, name: &str) -> std::io::Result<(String, pipe::Sender)> {
        let path = self.make(name)?;
        // Open for both, or opening would fail until the other end is there.
        Ok((path.display().to_string(), pipe::OpenOptions::new().read_write(true).open_sender(&path)?))
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        // It lies in the run directory: what stays is gone with it.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A name for a process, unique as long as this agent lives.
pub(crate) fn fresh_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The process to start: environment, directory and user are the container's.
pub(crate) fn process(command: &[String], terminal: bool) -> Process {
    let value = json!({"terminal": terminal, "user": {"uid": 0, "gid": 0}, "args": command, "cwd": ""});
    serde_json::from_value(value).expect("the fields are those of the runtime specification")
}

/// Runs a command to its end, for at most `limit`.
pub(crate) async fn run(
    context: &Context,
    target: &Target,
    command: &[String],
    limit: Duration,
) -> Result<Output, ExecError> {
    let shim = context.shims.running(&target.shim).await.ok_or(ExecError::NotRunning)?;
    let pipes = Pipes::new(&context.paths.run).map_err(ExecError::Pipes)?;
    // One pipe for both: what is said stays in order.
    let (path, mut reader) = pipes.reader("out").map_err(ExecError::Pipes)?;
    let exec = ExecSpec {
        exec_id: fresh_id(),
        process: process(command, false),
        stdin: String::new(),
        stdout: path.clone(),
        stderr: path,
    };
    let exec_id = exec.exec_id.clone();
    shim.exec(&target.id, exec).await.map_err(ExecError::Start)?;
    let work = async {
        let mut text = Vec::new();
        let exit = {
            let read = read_up_to(&mut reader, &mut text);
            tokio::pin!(read);
            let wait = shim.wait_exec(&target.id, &exec_id);
            tokio::pin!(wait);
            tokio::select! {
                exit = &mut wait => {
                    // What it said last may still be in the pipe.
                    let _ = tokio::time::timeout(Duration::from_millis(50), read).await;
                    exit
                }
                () = &mut read => wait.await,
            }
        };
        exit.map(|exit| Output { code: exit.code, text: String::from_utf8_lossy(&text).into_owned() })
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result.map_err(ExecError::Wait),
        Err(_) => {
            end(&shim, target, &exec_id).await;
            Err(ExecError::TimedOut(limit))
        }
    }
}

/// Ends a command that took too long, and lets the shim forget it.
async fn end(shim: &Arc<Shim>, target: &Target, exec_id: &str) {
    if shim.kill_exec(&target.id, exec_id, SIGKILL).await.is_ok() {
        let _ = tokio::time::timeout(Duration::from_secs(1), shim.wait_exec(&target.id, exec_id)).await;
    }
}

async fn read_up_to(reader: &mut pipe::Receiver, text: &mut Vec<u8>) {
    let mut buffer = [0_u8; 4096];
    loop {
        match reader.read(&mut buffer).await {
            // Nobody writes, or nobody writes yet.
            Ok(0) => tokio::time::sleep(Duration::from_millis(5)).await,
            Ok(read) => {
                let room = LONGEST_OUTPUT.saturating_sub(text.len());
                text.extend_from_slice(&buffer[..read.min(room)]);
            }
            Err(_) => return,
        }
    }
}
