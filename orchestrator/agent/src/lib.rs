//! The node agent: pods bound to this node become containers, and their state becomes the pods' status.
//!
//! One worker task for each pod runs `wait → observe → plan → apply → report`; the plan is a pure function.
//!
//! | file | what |
//! | --- | --- |
//! | `node` | registers the Node; heartbeat and status |
//! | `pods` | watches this node's pods, keeps a worker for each, removes what is left of others |
//! | `worker` | the loop of one pod |
//! | `observe` | what is the case: shims, record, what is under way |
//! | `plan` | pod + observation + time → actions (pure) |
//! | `restart`, `probe`, `qos`, `runtime` | the rules it uses (pure) |
//! | `apply`, `prepare`, `start` | actions → the world; `prepare` holds the ordered list of set-up steps |
//! | `report`, `reporter` | observation → status (pure), and its writing |
//! | `record` | what must be remembered of a pod across restarts of the agent |
//! | `shims`, `listeners` | shim processes; sockets that outlive wasm hosts |
//! | `images` | pull, verify, unpack, detect, compile, collect |
//! | `volumes`, `mounts`, `env`, `files`, `host_ports`, `identity`, `namespaces` | what a container finds around it |
//! | `eviction` | takes pods off a node that runs out of something |
//! | `local_path` | removes directories of volumes that go |
//! | `bundle` | all of that → what the shim is told (pure) |
//! | `prober`, `hooks`, `exec`, `request` | questions to running containers |
//! | `serve`, `logs`, `spdy` | the endpoint: logs, exec, attach, port-forward, metrics |

use std::sync::Arc;
use std::time::Duration;

use catamaran_client::Recorder;
use catamaran_client::error::Chain;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

mod apply;
mod bundle;
mod config;
mod context;
mod env;
mod eviction;
mod exec;
mod files;
mod hooks;
mod host_ports;
mod identity;
mod images;
mod listeners;
mod local_path;
mod logs;
mod members;
mod mounts;
mod namespaces;
pub mod net;
pub mod node;
mod objects;
mod observe;
mod plan;
mod pods;
mod prepare;
mod probe;
mod prober;
mod qos;
mod record;
mod report;
mod reporter;
mod request;
mod restart;
mod runtime;
mod serve;
mod shims;
mod spdy;
mod start;
mod stdin;
mod sysctls;
#[cfg(test)]
mod testing;
mod volumes;
mod worker;

pub use config::{AgentConfig, BUILT_IN_REGISTRIES, EndpointConfig};
pub use net::{Attachment, HostPort, NetworkError, PodNetwork};
pub use runtime::HANDLERS;
pub use serve::ServeError;

use config::Paths;
use context::{Context, Wakers};

/// How often unused images are looked for, and how long they are kept.
const COLLECT_EVERY: Duration = Duration::from_secs(300);
const KEEP_UNUSED: Duration = Duration::from_secs(24 * 3600);
/// Content of images that is younger than this may belong to a pull under way.
const YOUNG: Duration = Duration::from_secs(3600);

/// The agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A directory it needs.
    #[error("the agent's directory {path} cannot be used")]
    Directory {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The endpoint of port 10250.
    #[error("the agent's endpoint cannot be served")]
    Serve(#[from] ServeError),
}

/// Runs the agent until `stop` is cancelled. Containers go on running after it.
///
/// Boxed here: the future is then compiled in this crate, and not once more in the binary that awaits it.
pub fn run(
    config: AgentConfig,
    client: kube::Client,
    network: Arc<dyn PodNetwork>,
    stop: CancellationToken,
) -> BoxFuture<'static, Result<(), AgentError>> {
    Box::pin(run_all(config, client, network, stop))
}

async fn run_all(
    config: AgentConfig,
    client: kube::Client,
    network: Arc<dyn PodNetwork>,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    let mut paths = Paths::of(&config);
    for directory in [&paths.pods(), &paths.run, &paths.pod_logs, &paths.images()] {
        let failed = |source| AgentError::Directory { path: directory.display().to_string(), source };
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    // The shim mounts nothing that a symbolic link leads to.
    let failed = |source| AgentError::Directory { path: paths.data.display().to_string(), source };
    paths.data = paths.data.canonicalize().map_err(failed)?;
    let capacity = node::Capacity::of_this_machine(&config.data_dir);
    let storage = i64::try_from(capacity.disk).unwrap_or(i64::MAX);
    let failed = |source| AgentError::Directory { path: paths.images().display().to_string(), source };
    let images = images::Images::open(&paths.images(), &config.executable, &config.insecure_registries)
        .map_err(failed)?;
    let (events, writer) = Recorder::new(client.clone(), "kubelet", Some(&config.node_name));
    let wakers = Arc::new(Wakers::default());
    let context = Arc::new(Context {
        shims: Arc::new(shims::Shims::new(config.executable.clone(), paths.clone(), wakers.clone())),
        objects: objects::Objects::new(client.clone(), capacity.cpus * 1000, capacity.memory, storage),
        listeners: listeners::Listeners::default(),
        roster: context::Roster::default(),
        evictions: eviction::Evictions::default(),
        node_memory: capacity.memory,
        images,
        events,
        wakers,
        network,
        client,
        paths,
        config,
    });
    let endpoint = serve::run(context.clone(), stop.clone()).await?;
    info!(node = context.config.node_name, "the agent runs");
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = pods::run(context.clone()) => Ok(()),
        () = node::run(context.clone()) => Ok(()),
        () = collect_images(&context) => Ok(()),
        () = local_path::run(context.clone()) => Ok(()),
        () = eviction::run(context.clone()) => Ok(()),
        () = writer => Ok(()),
        served = endpoint => Ok(served?),
    }
}

/// Removes images that nobody uses, now and then.
async fn collect_images(context: &Context) {
    loop {
        tokio::time::sleep(COLLECT_EVERY).await;
        let used = used_images(context);
        match context.images.collect(&used, KEEP_UNUSED, YOUNG) {
            Ok(0) => {}
            Ok(freed) => info!(freed, "unused images are removed"),
            Err(error) => warn!(error = %Chain(&error), "unused images cannot be removed"),
        }
    }
}

/// Names of the images of all pods on this node.
fn used_images(context: &Context) -> Vec<String> {
    let pods = std::fs::read_dir(context.paths.pods()).into_iter().flatten().flatten();
    let records = pods.map(|entry| record::PodRecord::load(&entry.path().join("record.json")));
    records.flat_map(|record| record.containers.into_values().map(|container| container.image)).collect()
}
