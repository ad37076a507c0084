//! What the agent asks of the network: an address for a pod, listeners in its namespace, and whether Services
//! still send connections to it. The cli puts `catamaran-network` behind it, tests a fake.

use std::collections::HashSet;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

/// A pod's place in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its address.
    pub ip: Ipv4Addr,
    /// The network namespace it lives in: its own, or that of the shared wasm host.
    pub netns: PathBuf,
}

/// A port of the node that leads to one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `0.0.0.0`: every address of the node.
    pub address: Ipv4Addr,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// On the node.
    pub port: u16,
    /// In the pod.
    pub container_port: u16,
}

/// A step of the network that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct NetworkError {
    /// What was tried.
    pub step: &'static str,
    /// Why it failed.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

/// The verbs. All of them may be repeated without harm.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// A network namespace and an address for the pod.
    async fn attach_container_pod(&self, uid: &str) -> Result<Attachment, NetworkError>;
    /// An address for the pod in the namespace of the wasm host of `domain`.
    async fn attach_wasm_pod(&self, uid: &str, domain: &str) -> Result<Attachment, NetworkError>;
    /// Takes back what the pod was given.
    async fn detach(&self, uid: &str) -> Result<(), NetworkError>;
    /// Gives an attached pod these ports of the node, and no others, until it is detached.
    async fn publish(&self, uid: &str, ports: Vec<HostPort>) -> Result<(), NetworkError>;
    /// A listener made in that namespace.
    async fn listen(&self, netns: &Path, address: SocketAddr) -> Result<TcpListener, NetworkError>;
    /// Returns once the rules of all Services on this node send no new connection to `ip`.
    async fn drained(&self, ip: Ipv4Addr);
    /// Takes back what pods that are not among `live` were given.
    async fn collect(&self, live: &HashSet<String>) -> Result<(), NetworkError>;
}
