//! The worker process: takes over from its predecessor, then serves the contract until told to end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use catamaran_task::FdTable;
use catamaran_task::server::{ServeError, Sockets, serve_on};
use tokio::io::Interest;

use crate::adopt;
use crate::cgroup::Layout;
use crate::custody::Custody;
use crate::pump;
use crate::shim::{SharedShim, Shim};
use crate::state::Root;

/// What a worker gets from the keeper.
pub(crate) struct Inheritance {
    pub custody: OwnedFd,
    /// Readable when exit files were written.
    pub wake: OwnedFd,
    pub sockets: Sockets,
    pub root: Root,
    /// Pid of the keeper.
    pub keeper: u32,
}

/// Why a worker could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    #[error("start the runtime: {0}")]
    Runtime(io::Error),
    #[error("the node has no control groups mounted (cgroup v2 at /sys/fs/cgroup, or v1 controllers)")]
    NoCgroups,
    #[error("take the descriptors over: {0}")]
    Custody(io::Error),
    #[error("read the containers' states: {0}")]
    States(io::Error),
    #[error("watch for exits: {0}")]
    Wake(io::Error),
    #[error("watch for signals: {0}")]
    Signals(io::Error),
    #[error("{0}")]
    Serve(#[from] ServeError),
}

/// Runs the worker until SIGTERM or `Shutdown`.
pub(crate) fn run(inheritance: Inheritance) -> Result<(), WorkerError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .thread_name("shim-oci")
        .enable_all()
        .build()
        .map_err(WorkerError::Runtime)?;
    let result = runtime.block_on(serve(inheritance));
    runtime.shutdown_background();
    result
}

async fn serve(inheritance: Inheritance) -> Result<(), WorkerError> {
    let layout = Arc::new(Layout::detect().ok_or(WorkerError::NoCgroups)?);
    let custody = Custody::new(inheritance.custody);
    let held = custody.list().map_err(WorkerError::Custody)?;
    inheritance.root.renumber();
    let shim = Arc::new(Shim::new(inheritance.root, layout, custody, inheritance.keeper));
    adopt::adopt_all(&shim, held).map_err(WorkerError::States)?;
    let wake = pump::watch(inheritance.wake, Interest::READABLE).map_err(WorkerError::Wake)?;
    let collector = tokio::spawn(collect(Arc::clone(&shim), wake));
    let emptier = tokio::spawn(Arc::clone(&shim).empty_trash());
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(WorkerError::Signals)?;
    let ending = Arc::clone(&shim);
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            () = ending.shutdown_asked() => {}
        }
    };
    let pods = Arc::new(SharedShim(shim));
    let served = serve_on(inheritance.sockets, pods, Arc::new(FdTable::default()), stop).await;
    collector.abort();
    emptier.abort();
    Ok(served?)
}

/// Collects exit files whenever the keeper says that there are some.
async fn collect(shim: Arc<Shim>, wake: tokio::io::unix::AsyncFd<OwnedFd>) {
    loop {
        let mut count = [0u8; 8];
        let woken = wake.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut count)?)).await;
        if let Err(e) = woken {
            return tracing::error!(error = %e, "wait for exits");
        }
        shim.exits.collect(SystemTime::now());
    }
}
