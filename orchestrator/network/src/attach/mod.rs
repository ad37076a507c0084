//! Attaches pods to the network of their node.
//!
//! A container pod has a network namespace of its own, taken from a pool of prepared ones. Wasm pods of one
//! trust domain share a namespace, in which each has its address as a local route.

mod blocks;
mod error;
mod node;
mod records;
mod veth;
mod work;

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use error::NetworkError;
use futures::future::BoxFuture;
pub use node::{TornDown, teardown_all};
use work::Work;

use crate::ipam::{Cidr, Taken};
use crate::model::Name;
use crate::namespace;
use crate::services::desired::Use;
use crate::services::elements::{Frontend, Route};
use crate::services::ports::HostPort;

/// How the network of this node is to be.
#[derive(Clone)]
pub struct NetworkConfig {
    /// Name of the Node object.
    pub node_name: String,
    /// Survives a reboot: the list of blocks is here.
    pub data_dir: PathBuf,
    /// Lives as long as the kernel's state: names of namespaces and records of pods are here.
    pub run_dir: PathBuf,
    /// Addresses of all pods of the cluster.
    pub pod_range: Cidr,
    /// ClusterIPs.
    pub service_range: Cidr,
    /// ClusterIP of the cluster's DNS, which listens on the node address.
    pub cluster_dns: Ipv4Addr,
    /// Number of namespaces that are kept ready for container pods.
    pub pool: usize,
    /// With a client, blocks are claimed at the API, as several nodes need; without, this node is alone.
    pub claims: Option<kube::Client>,
}

impl NetworkConfig {
    /// The defaults of a cluster: pods in 10.128.0.0/10, Services in 10.96.0.0/16, DNS at 10.96.0.10.
    pub fn new(
        node_name: impl Into<String>,
        data_dir: impl Into<PathBuf>,
        run_dir: impl Into<PathBuf>,
    ) -> Self {
        let range = |a, b, prefix| Cidr::new(Ipv4Addr::new(a, b, 0, 0), prefix).expect("a constant range");
        Self {
            node_name: node_name.into(),
            data_dir: data_dir.into(),
            run_dir: run_dir.into(),
            pod_range: range(10, 128, 10),
            service_range: range(10, 96, 16),
            cluster_dns: Ipv4Addr::new(10, 96, 0, 10),
            pool: 8,
            claims: None,
        }
    }
}

/// Where a pod is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodAttachment {
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// Path of its network namespace; for a wasm pod, the one that it shares.
    pub netns: PathBuf,
}

/// Whether new connections still go to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routed {
    /// None do, or only because no other endpoint is left.
    No,
    /// They still did when the time was over.
    Yes,
}

/// The network of this node. Cheap to clone.
#[derive(Clone)]
pub struct Network {
    work: Arc<Work>,
    /// Held while a wasm host's namespace is looked for or made: two pods of a new domain come at once.
    hosts: Arc<tokio::sync::Mutex<()>>,
}

impl Network {
    /// Prepares the node: address, routes, forwarding, fixed rules; and finds what was made before. Running
    /// pods do not notice.
    pub fn open(config: NetworkConfig) -> BoxFuture<'static, Result<Self, NetworkError>> {
        Box::pin(async move {
            let work = Arc::new(Work::open(config).await?);
            work::keep_pool_filled(&work);
            Ok(Self { work, hosts: Arc::default() })
        })
    }

    /// The node's own address: the first of its first block. Node InternalIP, API, DNS and agent are there.
    pub fn node_address(&self) -> Ipv4Addr {
        self.work.node_address()
    }

    /// Name of the Node object.
    pub fn node_name(&self) -> &str {
        &self.work.config().node_name
    }

    /// The blocks of this node, the first first.
    pub fn blocks(&self) -> Vec<Cidr> {
        self.work.blocks()
    }

    /// Gives a container pod its namespace and address. Repeated, it finds them again and mends what is gone.
    #[tracing::instrument(name = "attach", skip(self), err(Debug))]
    pub async fn attach_container_pod(&self, pod_uid: &str) -> Result<PodAttachment, NetworkError> {
        let (uid, address) = (pod_uid.to_owned(), self.address_for(pod_uid).await?);
        self.blocking(move |work| {
            let attached = work.attach_container(&uid, address);
            attached.inspect_err(|_| work.give_back_unless_recorded(address))
        })
        .await
    }

    /// Gives a wasm pod its address in the namespace of its trust domain, which is made when needed and has
    /// all Service rules before this returns. Repeated, it finds them again.
    #[tracing::instrument(name = "attach", skip(self), err(Debug))]
    pub async fn attach_wasm_pod(&self, pod_uid: &str, domain: &str) -> Result<PodAttachment, NetworkError> {
        self.wasm_host(domain).await?;
        let (uid, domain) = (pod_uid.to_owned(), domain.to_owned());
        let address = self.address_for(pod_uid).await?;
        self.blocking(move |work| {
            let attached = work.attach_wasm(&uid, &domain, address);
            attached.inspect_err(|_| work.give_back_unless_recorded(address))
        })
        .await
    }

    /// Makes the namespace of a trust domain, or finds it, and tells where it is.
    pub async fn wasm_host(&self, domain: &str) -> Result<PathBuf, NetworkError> {
        records::checked(domain)?;
        let _alone = self.hosts.lock().await;
        if let Some(path) = self.work.host_path(domain) {
            return Ok(path);
        }
        let address = self.take_address().await?;
        let domain = domain.to_owned();
        self.blocking(move |work| {
            let made = work.make_host(&domain, address);
            made.inspect_err(|_| {
                work.take_back_host(&domain);
                work.give_back_unless_recorded(address);
            })
        })
        .await
    }

    /// Takes a pod's address and namespace back. Not attached is fine.
    pub async fn detach(&self, pod_uid: &str) -> Result<(), NetworkError> {
        let uid = pod_uid.to_owned();
        self.blocking(move |work| work.detach(&uid)).await
    }

    /// Drops the namespace of a trust domain once its host process has ended. Pods in it are detached.
    pub async fn release_domain(&self, domain: &str) -> Result<(), NetworkError> {
        let domain = domain.to_owned();
        self.blocking(move |work| work.release_host(&domain)).await
    }

    /// Gives an attached pod these ports of the node, and no others, until it is detached.
    pub async fn publish(&self, pod_uid: &str, ports: Vec<HostPort>) -> Result<(), NetworkError> {
        let uid = pod_uid.to_owned();
        self.blocking(move |work| work.publish(&uid, ports)).await
    }

    /// Makes a listener in a network namespace; it stays there whoever uses it.
    pub async fn listen(&self, netns: &Path, address: SocketAddr) -> Result<TcpListener, NetworkError> {
        let netns = netns.to_owned();
        self.blocking(move |_| Ok(namespace::listen(&netns, address)?)).await
    }

    /// Detaches every pod that is not in `live`, and tells how many those were.
    pub async fn gc(&self, live: &HashSet<String>) -> Result<usize, NetworkError> {
        let dead = self.work.pods_except(live);
        for uid in &dead {
            self.detach(uid).await?;
        }
        Ok(dead.len())
    }

    /// Waits until no new connection goes to this address by a Service, at most for `limit`. To be called
    /// after the pod's deletion is known to the API and before it is told to end.
    pub async fn wait_until_unrouted(&self, address: Ipv4Addr, limit: Duration) -> Routed {
        let mut rounds = self.work.rules().rounds();
        let gone = async {
            loop {
                let used = self.blocking(move |work| Ok(work.rules().use_of(address))).await;
                if !matches!(used, Ok(Use::Ready)) || rounds.changed().await.is_err() {
                    return;
                }
            }
        };
        match tokio::time::timeout(limit, gone).await {
            Ok(()) => Routed::No,
            Err(_) => Routed::Yes,
        }
    }

    /// Waits until the EndpointSlice of this resource version, or a newer one, is in force in every namespace.
    pub async fn wait_in_force(&self, resource_version: u64) {
        let mut rounds = self.work.rules().rounds();
        // The sender lives as long as `self`.
        let _ = rounds.wait_for(|in_force| in_force.revision >= resource_version).await;
    }

    pub(crate) async fn update_rules(
        &self,
        services: Vec<(Name, Vec<(Frontend, Route)>)>,
        revision: u64,
    ) -> Result<(), NetworkError> {
        self.blocking(move |work| work.update_rules(services, revision)).await
    }

    pub(crate) async fn repair_rules(&self) -> Result<(), NetworkError> {
        self.blocking(|work| work.repair_rules()).await
    }

    /// The pod's address if it has one, else a new one.
    async fn address_for(&self, pod_uid: &str) -> Result<Ipv4Addr, NetworkError> {
        records::checked(pod_uid)?;
        match self.work.address_of(pod_uid) {
            Some(address) => Ok(address),
            None => self.take_address().await,
        }
    }

    async fn take_address(&self) -> Result<Ipv4Addr, NetworkError> {
        loop {
            match self.work.take_address()? {
                Taken::Address(address) => return Ok(address),
                Taken::NeedsBlock => self.work.claim_block().await?,
            }
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Work) -> Result<T, NetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let (work, span) = (Arc::clone(&self.work), tracing::Span::current());
        let task = tokio::task::spawn_blocking(move || span.in_scope(|| run(&work)));
        task.await.map_err(|_| NetworkError::Ending)?
    }
}
