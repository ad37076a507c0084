//! What a shim reports about a container, and the states it goes through.
//!
//! ```text
//! create ─▶ Created ─start─▶ Running ─exit─▶ Exited ─delete─▶ (forgotten)
//!              └──────────────kill/delete──────▶┘
//! ```

use serde::{Deserialize, Serialize};

use crate::spec::{ContainerId, SandboxId};

/// State of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Set up, its program not yet started.
    Created,
    /// Its program runs (an HTTP component: its ports are served).
    Running,
    /// Its program ended; the exit is known until `delete`.
    Exited,
}

/// Why a container ended, where it is not just its own exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// It ended by itself, or by a signal it was sent.
    Exited,
    /// The kernel or the wasm host ended it for memory.
    OomKilled,
    /// A wasm trap; the message holds the backtrace.
    Trap,
    /// Its program could not be started.
    StartFailed,
    /// The process that ran it was lost and its exit code with it.
    Lost,
}

/// The end of a container or of a process run in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0 to 255; 128 + signal where a signal ended it.
    pub code: i32,
    /// Milliseconds since the epoch.
    pub at_ms: u64,
    /// Why.
    pub reason: ExitReason,
    /// For people: the trap with its backtrace, the failed step.
    pub message: Option<String>,
}

/// All that a shim knows of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// The container.
    pub id: ContainerId,
    /// Its pod.
    pub sandbox: SandboxId,
    /// Where it stands.
    pub state: State,
    /// Its first process in the node's pid namespace; 0 for a wasm container (it has no process).
    pub pid: u32,
    /// When its program started, milliseconds since the epoch.
    pub started_at_ms: Option<u64>,
    /// How it ended, once it is `Exited`.
    pub exit: Option<Exit>,
}

/// Figures of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStats {
    /// The container.
    pub id: String,
    /// CPU time used since it started, nanoseconds.
    pub cpu_ns: u64,
    /// Memory in use that cannot be dropped, bytes.
    pub working_set_bytes: u64,
    /// Processes, or live instances of a wasm container.
    pub pids: u64,
}
