//! Controllers: desired objects from desired objects.
//!
//! Each follows one shape: observe (from caches) → plan (a pure function, tested as a table) → apply (API
//! requests) → report (status). None keeps state that a restart would miss. All run in one supervised set.
//!
//! | controller | makes |
//! | --- | --- |
//! | `deployment` | ReplicaSets from Deployments |
//! | `replicaset` | Pods from ReplicaSets and ReplicationControllers |
//! | `statefulset` | Pods with a name and volumes of their own from StatefulSets |
//! | `daemonset` | Pods, one on each node, from DaemonSets |
//! | `job` | Pods that run to their end from Jobs, and removes Jobs whose time after their end has passed |
//! | `cronjob` | Jobs from CronJobs, at their times |
//! | `endpoints` | EndpointSlices and Endpoints from Services and Pods |
//! | `namespace` | nothing, out of Namespaces that are to be deleted |
//! | `service_account` | a ServiceAccount and the certificate authority in each Namespace |
//! | `garbage` | removes what has lost its owners |
//! | `node` | NotReady and evictions out of a node's silence |
//! | `pod_garbage` | removes pods that nobody reports on |

mod caches;
mod claim;
mod cronjob;
mod daemonset;
mod deployment;
mod discovery;
mod endpoints;
mod fraction;
mod garbage;
mod hash;
mod history;
mod job;
mod namespace;
mod node;
mod own;
mod pod;
mod pod_garbage;
mod rank;
mod replicaset;
mod service_account;
mod statefulset;
mod write;

use std::future::Future;
use std::time::Duration;

use catamaran_client::runner::TaskEnded;
use catamaran_client::{Client, Recorder, Tasks};
use futures::future::BoxFuture;

/// What the controllers must be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The certificates of the cluster's authority, PEM: each Namespace gets them in `kube-root-ca.crt`.
    pub ca_pem: String,
    /// How long a node may be silent before it counts as lost. Kubernetes: 50 s.
    pub node_grace: Duration,
    /// Pods that have ended and are kept, over all namespaces. Kubernetes: 12,500.
    pub ended_pods: usize,
}

impl Config {
    /// Kubernetes' numbers.
    #[must_use]
    pub fn new(ca_pem: impl Into<String>) -> Self {
        Self { ca_pem: ca_pem.into(), node_grace: Duration::from_secs(50), ended_pods: 12_500 }
    }
}

/// Runs all controllers until `stop` is ready.
///
/// # Errors
/// A controller ended by itself, which none does unless it panics.
///
/// Boxed here: the future is then compiled in this crate, and not once more in the binary that awaits it.
pub fn run(
    client: Client,
    config: Config,
    stop: impl Future<Output = ()> + Send + 'static,
) -> BoxFuture<'static, Result<(), TaskEnded>> {
    boxed(client, config, Box::pin(stop))
}

fn boxed(
    client: Client,
    config: Config,
    stop: BoxFuture<'static, ()>,
) -> BoxFuture<'static, Result<(), TaskEnded>> {
    Box::pin(run_all(client, config, stop))
}

async fn run_all(client: Client, config: Config, stop: BoxFuture<'static, ()>) -> Result<(), TaskEnded> {
    let mut tasks = Tasks::new();
    let recorder = |component: &str, tasks: &mut Tasks| {
        let (recorder, writer) = Recorder::new(client.clone(), component, None);
        tasks.spawn("events", writer);
        recorder
    };
    let deployments = recorder("deployment-controller", &mut tasks);
    let replica_sets = recorder("replicaset-controller", &mut tasks);
    let jobs = recorder("job-controller", &mut tasks);
    let cron_jobs = recorder("cronjob-controller", &mut tasks);
    let daemon_sets = recorder("daemonset-controller", &mut tasks);
    let stateful_sets = recorder("statefulset-controller", &mut tasks);
    let replication_controllers = recorder("replication-controller", &mut tasks);
    let nodes = recorder("node-controller", &mut tasks);
    let caches = caches::Caches::start(&client, &mut tasks);
    let cron_cache = cronjob::cache(&client, &mut tasks);
    let daemon_cache = daemonset::cache(&client, &mut tasks);
    let claims = statefulset::claims(&client, &mut tasks);
    let rc_cache = replicaset::controllers(&client, &mut tasks);
    let leases = node::leases(&client, &mut tasks);
    let own = service_account::OwnCaches::start(&client, &mut tasks);
    let shared = || (client.clone(), caches.clone());

    let (c, all) = shared();
    tasks.spawn("deployment", deployment::run(c, all, deployments));
    let (c, all) = shared();
    let sets = all.replica_sets.clone();
    tasks.spawn("replicaset", replicaset::run(c, all, sets, replica_sets));
    let (c, all) = shared();
    tasks.spawn("replicationcontroller", replicaset::run(c, all, rc_cache, replication_controllers));
    let (c, all) = shared();
    tasks.spawn("job", job::run(c, all, jobs));
    let (c, all) = shared();
    tasks.spawn("ttlafterfinished", job::ttl::run(c, all));
    let (c, all) = shared();
    tasks.spawn("cronjob", cronjob::run(c, all, cron_cache, cron_jobs));
    let (c, all) = shared();
    tasks.spawn("daemonset", daemonset::run(c, all, daemon_cache, daemon_sets));
    let (c, all) = shared();
    tasks.spawn("statefulset", statefulset::run(c, all, claims, stateful_sets));
    let (c, all) = shared();
    tasks.spawn("endpoints", endpoints::run(c, all));
    let (c, all) = shared();
    tasks.spawn("namespace", namespace::run(c, all));
    let (c, all) = shared();
    tasks.spawn("serviceaccount", service_account::run(c, all, own, config.ca_pem));
    let (c, all) = shared();
    tasks.spawn("node", node::run(c, all, leases, nodes, config.node_grace));
    let (c, all) = shared();
    tasks.spawn("podgarbage", pod_garbage::run(c, all, config.ended_pods));
    tasks.spawn("garbage", garbage::run(client.clone()));
    tasks.run(stop).await
}
