//! Two tokio runtimes: `service` for requests and the contract, `bulk` for commands on threads of
//! lower priority, so that a program that computes for an hour delays no request.

use tokio::runtime::{Builder, Handle, Runtime};

/// Priority of bulk threads (as of `nice`).
const BULK_NICE: i32 = 10;
/// Threads for file operations, of each runtime.
const BLOCKING_THREADS: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Runtimes {
    service: Handle,
    bulk: Option<Runtime>,
}

/// The runtime for requests. Tokio looks at sockets and timers only every so many polls (61 by
/// default), and a poll of a busy guest takes a whole tick: look more often.
pub(crate) fn service() -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .thread_name("service")
        .event_interval(4)
        .global_queue_interval(8)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
}

impl Runtimes {
    /// `service` is where the host itself runs.
    pub(crate) fn new(service: Handle) -> std::io::Result<Self> {
        let bulk = Builder::new_multi_thread()
            .thread_name("bulk")
            .on_thread_start(|| {
                if let Err(e) = rustix::process::setpriority_process(None, BULK_NICE) {
                    tracing::warn!(error = %e, "lower the priority of a thread for commands");
                }
            })
            .event_interval(4)
            .global_queue_interval(8)
            .max_blocking_threads(BLOCKING_THREADS)
            .enable_all()
            .build()?;
        Ok(Self { service, bulk: Some(bulk) })
    }

    pub(crate) fn service(&self) -> &Handle {
        &self.service
    }

    pub(crate) fn bulk(&self) -> &Handle {
        self.bulk.as_ref().map_or(&self.service, |bulk| bulk.handle())
    }
}

impl Drop for Runtimes {
    fn drop(&mut self) {
        // Waiting here could block a thread of the other runtime.
        if let Some(bulk) = self.bulk.take() {
            bulk.shutdown_background();
        }
    }
}
