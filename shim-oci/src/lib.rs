//! The Linux container host: one per node, two processes. The *keeper* is small, single-threaded and
//! stays; the *worker* does the work and may be killed at any moment.
//!
//! | file | what |
//! | --- | --- |
//! | `keeper` | holds sockets and descriptors, reaps every container, restarts the worker |
//! | `custody` | how the worker hands descriptors to the keeper and gets them back |
//! | `exits` | exit files: written by the keeper, collected by the worker |
//! | `worker` | the worker process: adopts what runs, serves the task contract |
//! | `shim` | the verbs of the contract |
//! | `container` | one container: its state, what happens when it ends |
//! | `create` | from a specification to a process at its gate |
//! | `exec` | a process run in a container |
//! | `adopt` | what a new worker does about containers that it did not start |
//! | `state` | state files |
//! | `stdio`, `pump` | pipes, terminals, logs |
//! | `launch` | clone to exec |
//! | `cgroup` | control groups |

mod adopt;
mod cgroup;
mod container;
mod create;
mod custody;
mod exec;
mod exits;
mod keeper;
mod launch;
mod pump;
mod shim;
mod state;
mod stdio;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

pub use stdio::stdin_path;

/// What a shim is told at its start.
#[derive(Clone, Debug)]
pub struct ShimOciConfig {
    /// Directory of its own: states, exits, pipes. Survives the shim.
    pub root: PathBuf,
    /// Socket it serves; a second one is made beside it (`<socket>.fds`). Below 100 bytes.
    pub socket: PathBuf,
    /// File for its own log; `None`: the standard error it was started with.
    pub log: Option<PathBuf>,
}

/// Runs the shim until it is told to end (SIGTERM, or `Shutdown` once it holds no container). Must be
/// called before any thread is started: the keeper forks. Containers go on when the shim ends by
/// SIGTERM or is killed; the next shim on the same `root` adopts them.
pub fn run(config: &ShimOciConfig) -> ExitCode {
    match keeper::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text.push_str(": ");
                text.push_str(&cause.to_string());
                source = cause.source();
            }
            tracing::error!("{text}");
            eprintln!("shim-oci: {text}");
            ExitCode::FAILURE
        }
    }
}

/// `--root DIR --socket PATH [--log FILE]`, as the agent starts it and as the stand-alone binary
/// takes it.
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    match parse(arguments) {
        Ok(config) => run(&config),
        Err(text) => {
            eprintln!("shim-oci: {text}\nusage: --root DIR --socket PATH [--log FILE]");
            ExitCode::from(2)
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<ShimOciConfig, String> {
    let (mut root, mut socket, mut log) = (None, None, None);
    while let Some(flag) = arguments.next() {
        let slot = match flag.as_str() {
            "--root" => &mut root,
            "--socket" => &mut socket,
            "--log" => &mut log,
            other => return Err(format!("unknown argument {other}")),
        };
        *slot = Some(PathBuf::from(arguments.next().ok_or_else(|| format!("{flag} needs a value"))?));
    }
    Ok(ShimOciConfig {
        root: root.ok_or("--root is missing")?,
        socket: socket.ok_or("--socket is missing")?,
        log,
    })
}
