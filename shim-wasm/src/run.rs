//! The host role as a process: confine, then serve the contract until told to stop.

use std::path::PathBuf;
use std::sync::Arc;

use catamaran_task::fds::FdTable;
use catamaran_task::server::{self, ServeError};
use tokio::signal::unix::{SignalKind, signal};

use crate::confine::{self, ConfineError};
use crate::engine::{self, Isolation, MemoryScan};
use crate::host::WasmHost;
use crate::runtimes;

/// A host process.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Directory of this host alone; made if missing.
    pub root: PathBuf,
    /// Unix socket of the contract; `<socket>.fds` lies beside it.
    pub socket: PathBuf,
    /// Network namespace to enter: of the trust domain, or of the pod when solo.
    pub netns: Option<PathBuf>,
    /// Many pods or one.
    pub isolation: Isolation,
    /// File that stdout and stderr of the process are appended to.
    pub log: Option<PathBuf>,
}

/// Why a host did not run.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Its directory or log could not be made.
    #[error("prepare {path}")]
    Prepare {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Confining failed.
    #[error("confine the host process")]
    Confine(#[from] ConfineError),
    /// No runtime.
    #[error("start the runtime")]
    Runtime(#[source] std::io::Error),
    /// The contract could not be served.
    #[error("serve the task socket")]
    Serve(#[from] ServeError),
}

/// Runs a host until it is told to stop (`shutdown`, SIGTERM or SIGINT). Not async: it enters a
/// namespace and gives up rights, which must come before the process has threads. Call it from
/// `main` before any runtime is started.
pub fn run_host(config: &HostConfig) -> Result<(), HostError> {
    confine::clear_backtraces();
    let prepare = |path: &PathBuf| {
        let path = path.clone();
        move |source| HostError::Prepare { path, source }
    };
    std::fs::create_dir_all(&config.root).map_err(prepare(&config.root))?;
    if let Some(log) = &config.log {
        redirect(log).map_err(prepare(log))?;
    }
    if let Some(netns) = &config.netns {
        confine::enter_network(netns)?;
    }
    // Before rights are given up: stale sockets may belong to others.
    let sockets = server::Sockets::bind(&config.socket)?;
    confine::confine()?;
    if let MemoryScan::Missing(reason) = engine::memory_scan() {
        tracing::warn!(
            reason,
            "memory scanning is not available: new instances cost more, nothing else changes"
        );
    }
    let runtime = runtimes::service().map_err(HostError::Runtime)?;
    let served = runtime.block_on(serve(config, sockets));
    server::Sockets::remove(&config.socket);
    // Guests may be in the middle of anything; they end with the process.
    runtime.shutdown_background();
    served
}

async fn serve(config: &HostConfig, sockets: server::Sockets) -> Result<(), HostError> {
    let fds = Arc::new(FdTable::default());
    let host = WasmHost::new(config.isolation, Arc::clone(&fds)).map_err(HostError::Runtime)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(HostError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(HostError::Runtime)?;
    let stopping = Arc::clone(&host);
    let stop = async move {
        tokio::select! {
            () = stopping.stopped() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tracing::info!(socket = %config.socket.display(), isolation = ?config.isolation, "wasm host");
    Ok(server::serve_on(sockets, host, fds, stop).await?)
}

/// Appends stdout and stderr of the process to a file.
fn redirect(log: &std::path::Path) -> std::io::Result<()> {
    if let Some(directory) = log.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let file = std::fs::OpenOptions::new().append(true).create(true).open(log)?;
    rustix::stdio::dup2_stdout(&file)?;
    rustix::stdio::dup2_stderr(&file)?;
    Ok(())
}
