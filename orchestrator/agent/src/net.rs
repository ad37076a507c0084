//! What the agent asks of the network: an address for a pod, listeners in its namespace, and whether Services
//! still send connections to it. `catamaran-network` is behind it; tests put a fake there.

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
    /// A listener made in that namespace.
    async fn listen(&self, netns: &Path, address: SocketAddr) -> Result<TcpListener, NetworkError>;
    /// Returns once the rules of all Services on this node send no new connection to `ip`.
    async fn drained(&self, ip: Ipv4Addr);
    /// Takes back what pods that are not among `live` were given.
    async fn collect(&self, live: &HashSet<String>) -> Result<(), NetworkError>;
}

/// The longest wait that [`PodNetwork::drained`] can mean; its caller waits less.
const DRAIN_LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

#[async_trait]
impl PodNetwork for catamaran_network::Network {
    async fn attach_container_pod(&self, uid: &str) -> Result<Attachment, NetworkError> {
        let made = catamaran_network::Network::attach_container_pod(self, uid).await;
        made.map(attachment).map_err(failed("attaching a container pod"))
    }

    async fn attach_wasm_pod(&self, uid: &str, domain: &str) -> Result<Attachment, NetworkError> {
        let made = catamaran_network::Network::attach_wasm_pod(self, uid, domain).await;
        made.map(attachment).map_err(failed("attaching a wasm pod"))
    }

    async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        catamaran_network::Network::detach(self, uid).await.map_err(failed("detaching a pod"))
    }

    async fn listen(&self, netns: &Path, address: SocketAddr) -> Result<TcpListener, NetworkError> {
        catamaran_network::Network::listen(self, netns, address)
            .await
            .map_err(failed("listening in the pod's namespace"))
    }

    async fn drained(&self, ip: Ipv4Addr) {
        // Whether it still takes connections when the time is over changes nothing: the pod ends.
        let _ = self.wait_until_unrouted(ip, DRAIN_LIMIT).await;
    }

    async fn collect(&self, live: &HashSet<String>) -> Result<(), NetworkError> {
        self.gc(live).await.map(drop).map_err(failed("detaching pods that are gone"))
    }
}

fn attachment(made: catamaran_network::PodAttachment) -> Attachment {
    Attachment { ip: made.ip, netns: made.netns }
}

fn failed(step: &'static str) -> impl FnOnce(catamaran_network::NetworkError) -> NetworkError {
    move |error| NetworkError { step, source: Box::new(error) }
}
