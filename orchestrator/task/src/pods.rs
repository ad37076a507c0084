//! The second service, `catamaran.task.v1.Pods`: what containerd's Task API lacks. Batches of
//! containers with the specification inline, the whole state in one call, exits as a stream.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::spec::{ContainerId, ContainerSpec};
use crate::status::{ContainerStats, ContainerStatus, Exit};

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", content = "message", rename_all = "snake_case")]
pub enum TaskError {
    /// No such container or process.
    #[error("{0} is not known")]
    NotFound(String),
    /// There is one of that name already.
    #[error("{0} exists already")]
    AlreadyExists(String),
    /// The state does not allow it.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The request makes no sense.
    #[error("{0}")]
    InvalidArgument(String),
    /// In the nature of the runtime: for example exec in a wasm container.
    #[error("{0}")]
    Unimplemented(String),
    /// A step failed; the text names it.
    #[error("{0}")]
    Failed(String),
    /// The shim did not answer.
    #[error("{0}")]
    Unavailable(String),
}

/// What a process started by `exec` is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Name of the process, unique within the container.
    pub exec_id: String,
    /// `args`, `env`, `cwd`, `user`, `terminal`; empty env, cwd and user are the container's.
    pub process: oci_spec::runtime::Process,
    /// Path of a named pipe the process reads; empty: `/dev/null`.
    pub stdin: String,
    /// Path of a named pipe for stdout (with a terminal: for both); empty: discard.
    pub stdout: String,
    /// Path of a named pipe for stderr; empty: discard.
    pub stderr: String,
}

/// A container ended. `sequence` grows by one with each exit that a shim reports in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitEvent {
    /// Position in the shim's list of exits.
    pub sequence: u64,
    /// Which container.
    pub id: ContainerId,
    /// How.
    pub exit: Exit,
}

/// The verbs between agent and shim. Shims implement it; [`crate::client::TaskClient`] calls it
/// over ttrpc; the Task API of containerd is served from the same implementation.
#[async_trait]
pub trait Pods: Send + Sync + 'static {
    /// Sets containers up without starting their programs. One result for each, in order.
    async fn create(&self, containers: Vec<ContainerSpec>) -> Vec<Result<ContainerStatus, TaskError>>;
    /// Starts the program. Starting a running container is `FailedPrecondition`.
    async fn start(&self, id: &ContainerId) -> Result<ContainerStatus, TaskError>;
    /// Sends a signal to the first process. To a wasm container TERM means: stop accepting, finish
    /// what runs; KILL: drop it now. `NotFound` once it has exited and was deleted; Ok once exited.
    async fn kill(&self, id: &ContainerId, signal: i32) -> Result<(), TaskError>;
    /// Forgets an exited or created container and frees all it held.
    async fn delete(&self, id: &ContainerId) -> Result<(), TaskError>;
    /// Waits until the container has exited.
    async fn wait(&self, id: &ContainerId) -> Result<Exit, TaskError>;
    /// State of the named containers, or of all when `ids` is empty. Unknown ids are left out.
    async fn status(&self, ids: &[ContainerId]) -> Result<Vec<ContainerStatus>, TaskError>;
    /// Figures of the named containers, or of all.
    async fn stats(&self, ids: &[ContainerId]) -> Result<Vec<ContainerStats>, TaskError>;
    /// Exits with a sequence above `after`; waits up to half a minute for the first.
    async fn exits(&self, after: u64) -> Result<Vec<ExitEvent>, TaskError>;
    /// Starts another process in a running container. Returns its pid.
    async fn exec(&self, id: &ContainerId, exec: ExecSpec) -> Result<u32, TaskError>;
    /// Waits for a process started by `exec`, then forgets it.
    async fn wait_exec(&self, id: &ContainerId, exec_id: &str) -> Result<Exit, TaskError>;
    /// Sends a signal to a process started by `exec`.
    async fn kill_exec(&self, id: &ContainerId, exec_id: &str, signal: i32) -> Result<(), TaskError>;
    /// New size of the terminal of the container (`exec_id` None) or of a process in it.
    async fn resize(
        &self,
        id: &ContainerId,
        exec_id: Option<&str>,
        width: u16,
        height: u16,
    ) -> Result<(), TaskError>;
    /// New limits for a running container.
    async fn update(
        &self,
        id: &ContainerId,
        resources: oci_spec::runtime::LinuxResources,
    ) -> Result<(), TaskError>;
    /// Takes the listener that was handed over under `token` (see `fds`) for `id` and `port`.
    async fn adopt_listener(&self, id: &ContainerId, port: u16, token: &str) -> Result<(), TaskError>;
    /// Ends the shim once it holds no container.
    async fn shutdown(&self) -> Result<(), TaskError>;

    /// Processes of a container, in the node's pid namespace. Runtimes without processes have none.
    async fn pids(&self, id: &ContainerId) -> Result<Vec<u32>, TaskError> {
        let status = self.status(std::slice::from_ref(id)).await?;
        let status = status.first().ok_or_else(|| TaskError::NotFound(format!("container {}", id.0)))?;
        Ok(if status.pid == 0 { Vec::new() } else { vec![status.pid] })
    }
    /// Ends the stdin that is held open for the container or a process in it: its reader sees the end.
    async fn close_stdin(&self, _id: &ContainerId, _exec_id: Option<&str>) -> Result<(), TaskError> {
        Ok(())
    }
    /// Stops all processes of a container until `resume`.
    async fn pause(&self, _id: &ContainerId) -> Result<(), TaskError> {
        Err(TaskError::Unimplemented("this runtime cannot pause".into()))
    }
    /// Lets a paused container go on.
    async fn resume(&self, _id: &ContainerId) -> Result<(), TaskError> {
        Err(TaskError::Unimplemented("this runtime cannot pause".into()))
    }
}
