//! The network of this node as the agent wants it: verb for verb, errors with their step.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use catamaran_agent::{Attachment, HostPort, NetworkError, PodNetwork};
use catamaran_network::{Network, PodAttachment};

/// Rules normally change within milliseconds; a pod is not kept from ending for longer than this.
const DRAIN_WAIT: Duration = Duration::from_secs(5);

/// A network that is open on this node.
pub(crate) struct OnThisNode(pub(crate) Network);

fn step(step: &'static str) -> impl FnOnce(catamaran_network::NetworkError) -> NetworkError {
    move |source| NetworkError { step, source: source.into() }
}

fn attachment(made: PodAttachment) -> Attachment {
    Attachment { ip: made.ip, netns: made.netns }
}

#[async_trait]
impl PodNetwork for OnThisNode {
    async fn attach_container_pod(&self, uid: &str) -> Result<Attachment, NetworkError> {
        self.0.attach_container_pod(uid).await.map(attachment).map_err(step("attach the pod to the network"))
    }

    async fn attach_wasm_pod(&self, uid: &str, domain: &str) -> Result<Attachment, NetworkError> {
        self.0
            .attach_wasm_pod(uid, domain)
            .await
            .map(attachment)
            .map_err(step("attach the pod to the network"))
    }

    async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        self.0.detach(uid).await.map_err(step("detach the pod from the network"))
    }

    async fn publish(&self, uid: &str, ports: Vec<HostPort>) -> Result<(), NetworkError> {
        let port = |port: HostPort| catamaran_network::HostPort {
            address: port.address,
            protocol: port.protocol,
            port: port.port,
            container_port: port.container_port,
        };
        let ports = ports.into_iter().map(port).collect();
        self.0.publish(uid, ports).await.map_err(step("give the pod its ports of the node"))
    }

    async fn listen(&self, netns: &Path, address: SocketAddr) -> Result<TcpListener, NetworkError> {
        self.0.listen(netns, address).await.map_err(step("listen on the pod's address"))
    }

    async fn drained(&self, ip: Ipv4Addr) {
        self.0.wait_until_unrouted(ip, DRAIN_WAIT).await;
    }

    async fn collect(&self, live: &HashSet<String>) -> Result<(), NetworkError> {
        self.0.gc(live).await.map(drop).map_err(step("take back what ended pods had"))
    }
}
