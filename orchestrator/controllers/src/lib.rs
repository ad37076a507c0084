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
//! | `autoscale` | numbers of replicas that follow what pods use, from HorizontalPodAutoscalers |
//! | `disruption` | what PodDisruptionBudgets allow now |
//! | `quota` | what is used of ResourceQuotas |
//! | `endpoints` | EndpointSlices and Endpoints from Services and Pods |
//! | `namespace` | nothing, out of Namespaces that are to be deleted |
//! | `service_account` | a ServiceAccount and the certificate authority in each Namespace |
//! | `garbage` | removes what has lost its owners |
//! | `node` | NotReady and evictions out of a node's silence |
//! | `pod_garbage` | removes pods that nobody reports on |
//! | `protection` | keeps claims and volumes that are in use from being deleted |

mod autoscale;
mod caches;
mod claim;
mod cronjob;
mod daemonset;
mod deployment;
mod discovery;
mod disruption;
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
mod protection;
mod quota;
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

use caches::Caches;

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
    let caches = Caches::start(&client, &mut tasks);
    let mut start = Start { client, caches, tasks };
    start.workloads();
    start.jobs();
    start.cluster(config);
    start.tasks.run(stop).await
}

/// What the controllers are started with.
struct Start {
    client: Client,
    caches: Caches,
    tasks: Tasks,
}

impl Start {
    fn shared(&self) -> (Client, Caches) {
        (self.client.clone(), self.caches.clone())
    }

    fn recorder(&mut self, component: &str) -> Recorder {
        let (recorder, writer) = Recorder::new(self.client.clone(), component, None);
        self.tasks.spawn("events", writer);
        recorder
    }

    /// Pods that run until somebody ends them.
    fn workloads(&mut self) {
        let (c, all) = self.shared();
        let events = self.recorder("deployment-controller");
        self.tasks.spawn("deployment", deployment::run(c, all, events));
        let (c, all) = self.shared();
        let events = self.recorder("replicaset-controller");
        let sets = all.replica_sets.clone();
        self.tasks.spawn("replicaset", replicaset::run(c, all, sets, events));
        let (c, all) = self.shared();
        let events = self.recorder("replication-controller");
        let controllers = replicaset::controllers(&c, &mut self.tasks);
        let task = replicaset::run(c, all, controllers.clone(), events);
        self.tasks.spawn("replicationcontroller", task);
        let (c, all) = self.shared();
        let events = self.recorder("daemonset-controller");
        let sets = daemonset::cache(&c, &mut self.tasks);
        self.tasks.spawn("daemonset", daemonset::run(c, all, sets, events));
        let (c, all) = self.shared();
        let events = self.recorder("statefulset-controller");
        let claims = statefulset::claims(&c, &mut self.tasks);
        self.tasks.spawn("statefulset", statefulset::run(c, all, claims.clone(), events));
        let (c, all) = self.shared();
        self.tasks.spawn("pvcprotection", protection::run_claims(c, all, claims));
        let (c, all) = self.shared();
        let events = self.recorder("controllermanager");
        let own = disruption::OwnCaches::start(&c, &mut self.tasks, controllers);
        self.tasks.spawn("disruption", disruption::run(c, all, own, events));
        let events = self.recorder("horizontal-pod-autoscaler");
        let autoscalers = autoscale::cache(&self.client, &mut self.tasks);
        let task = autoscale::run(self.client.clone(), autoscalers, events);
        self.tasks.spawn("horizontalpodautoscaler", task);
    }

    /// Pods that run to their end.
    fn jobs(&mut self) {
        let (c, all) = self.shared();
        let events = self.recorder("job-controller");
        self.tasks.spawn("job", job::run(c, all, events));
        let (c, all) = self.shared();
        self.tasks.spawn("ttlafterfinished", job::ttl::run(c, all));
        let (c, all) = self.shared();
        let events = self.recorder("cronjob-controller");
        let cron_jobs = cronjob::cache(&c, &mut self.tasks);
        self.tasks.spawn("cronjob", cronjob::run(c, all, cron_jobs, events));
    }

    /// What a cluster needs around them.
    fn cluster(&mut self, config: Config) {
        let (c, all) = self.shared();
        self.tasks.spawn("endpoints", endpoints::run(c, all));
        let (c, all) = self.shared();
        self.tasks.spawn("namespace", namespace::run(c, all));
        let (c, all) = self.shared();
        let own = service_account::OwnCaches::start(&c, &mut self.tasks);
        self.tasks.spawn("serviceaccount", service_account::run(c, all, own, config.ca_pem));
        let (c, all) = self.shared();
        let events = self.recorder("node-controller");
        let leases = node::leases(&c, &mut self.tasks);
        self.tasks.spawn("node", node::run(c, all, leases, events, config.node_grace));
        let (c, all) = self.shared();
        let quotas = quota::cache(&c, &mut self.tasks);
        self.tasks.spawn("resourcequota", quota::run(c, all, quotas));
        let (c, _) = self.shared();
        let volumes = protection::volumes(&c, &mut self.tasks);
        self.tasks.spawn("pvprotection", protection::run_volumes(c, volumes));
        let (c, all) = self.shared();
        self.tasks.spawn("podgarbage", pod_garbage::run(c, all, config.ended_pods));
        self.tasks.spawn("garbage", garbage::run(self.client.clone()));
    }
}
