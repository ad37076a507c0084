//! What the server holds: the store, the watch cache, keys and tokens, and what it needs to know to start.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tokio::sync::watch;

use catamaran_store::Store;

use crate::admit::{Allocator, Locks, Webhooks};
use crate::agent::AgentClient;
use crate::authenticate::{StaticTokens, UserInfo};
use crate::discovery::Discovery;
use crate::hub::Hubs;
use crate::metrics::Metrics;
use crate::node::Nodes;
use crate::openapi::OpenApi;
use crate::pki::{Pki, PkiError, Subject};
use crate::rbac::Rbac;
use crate::serve::{Binding, Listen, ServeError};
use crate::token::{TokenError, Tokens};
use crate::usage::Usage;

/// Settings of a server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The data directory; keys lie under `server/pki`, images under `registry`.
    pub data_dir: PathBuf,
    /// Where the API listens, over TLS.
    pub listen: Vec<Listen>,
    /// Where the image registry listens, plain HTTP; empty switches it off.
    pub registry_listen: Vec<Listen>,
    /// Names in the server's certificate, besides those that every server has.
    pub names: Vec<String>,
    /// Addresses in the server's certificate, besides those that every server has.
    pub addresses: Vec<IpAddr>,
    /// Where pods reach the API: the endpoint of the Service `kubernetes`.
    pub advertise: (Ipv4Addr, u16),
    /// The Service range.
    pub services: ServiceRange,
    /// ClusterIP of the cluster's DNS.
    pub dns: Ipv4Addr,
    /// Ports for Services of type NodePort, first and last.
    pub node_ports: (u16, u16),
    /// Bearer tokens for bootstrapping, with whom they stand for.
    pub tokens: Vec<(String, UserInfo)>,
}

impl ServerConfig {
    /// The fixed names of a machine-local cluster, listening on loopback.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let local = |port| Listen { address: (Ipv4Addr::LOCALHOST, port).into(), binding: Binding::Present };
        ServerConfig {
            data_dir: data_dir.into(),
            listen: vec![local(6443)],
            registry_listen: vec![local(5000)],
            names: Vec::new(),
            addresses: Vec::new(),
            advertise: (Ipv4Addr::new(10, 128, 0, 1), 6443),
            services: ServiceRange { base: Ipv4Addr::new(10, 96, 0, 0), prefix: 16 },
            dns: Ipv4Addr::new(10, 96, 0, 10),
            node_ports: (30_000, 32_767),
            tokens: Vec::new(),
        }
    }

    /// Who the server is for its clients: every name and address it may be reached under.
    pub fn subject(&self) -> Subject {
        let mut names: Vec<String> = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ]
        .map(str::to_owned)
        .to_vec();
        names.extend(self.names.iter().cloned());
        let mut addresses = vec![
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V4(self.services.first()),
            IpAddr::V4(self.advertise.0),
        ];
        addresses
            .extend(self.listen.iter().map(|listen| listen.address.ip()).filter(|ip| !ip.is_unspecified()));
        addresses.extend(self.addresses.iter().copied());
        addresses.sort();
        addresses.dedup();
        Subject::server("catamaran-server", names, addresses)
    }
}

/// An IPv4 network for Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceRange {
    /// Network address.
    pub base: Ipv4Addr,
    /// Length of the prefix, 8 to 30.
    pub prefix: u8,
}

impl ServiceRange {
    /// The first usable address, that of the Service `kubernetes`.
    pub fn first(self) -> Ipv4Addr {
        self.at(1)
    }

    /// The address at an offset.
    pub fn at(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits().wrapping_add(offset))
    }

    /// Number of addresses, the network's own and the last one included.
    pub fn size(self) -> u32 {
        1 << (32 - u32::from(self.prefix.clamp(8, 30)))
    }

    /// Whether an address may be given to a Service.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        let offset = address.to_bits().wrapping_sub(self.base.to_bits());
        offset > 0 && offset < self.size() - 1
    }
}

/// Why a server does not start or run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Keys and certificates.
    #[error("the server's certificates are not usable")]
    Pki(#[from] PkiError),
    /// The key for service-account tokens.
    #[error("the key for service-account tokens is not usable")]
    Tokens(#[from] TokenError),
    /// Sockets and TLS.
    #[error("the API cannot be served")]
    Serve(#[from] ServeError),
    /// The image registry.
    #[error("the image registry cannot be served")]
    Images(#[from] crate::imageregistry::ImageRegistryError),
    /// The objects that every cluster has.
    #[error("could not create {object}")]
    Bootstrap {
        /// Which object.
        object: String,
        /// What the API said.
        #[source]
        source: Box<catamaran_api::status::Status>,
    },
}

/// Everything the handlers share.
pub(crate) struct Core {
    pub(crate) config: ServerConfig,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) hubs: Arc<Hubs>,
    pub(crate) rbac: Rbac,
    pub(crate) tokens: Tokens,
    pub(crate) statics: StaticTokens,
    pub(crate) discovery: Discovery,
    pub(crate) openapi: OpenApi,
    pub(crate) metrics: Metrics,
    pub(crate) usage: Usage,
    pub(crate) agents: AgentClient,
    pub(crate) pki: Mutex<Pki>,
    pub(crate) allocator: Allocator,
    pub(crate) quotas: Locks,
    pub(crate) webhooks: Webhooks,
    pub(crate) nodes: Nodes,
    /// Becomes true when the server stops, so that watches end.
    pub(crate) stopping: watch::Sender<bool>,
    pub(crate) started: Timestamp,
}

impl Core {
    pub(crate) fn new(config: ServerConfig, store: Arc<dyn Store>) -> Result<Self, ServerError> {
        let now = Timestamp::now();
        let pki = Pki::open(&config.data_dir.join("server/pki"), now)?;
        let tokens = Tokens::new(&pki.service_account_key()?)?;
        let agents = AgentClient::new(&pki)?;
        let hubs = Arc::new(Hubs::new(store.clone()));
        Ok(Core {
            rbac: Rbac::new(hubs.clone(), store.clone()),
            nodes: Nodes::new(hubs.clone(), store.clone()),
            hubs,
            tokens,
            statics: StaticTokens::new(config.tokens.iter().cloned()),
            discovery: Discovery::new(),
            openapi: OpenApi::new(),
            metrics: Metrics::default(),
            usage: Usage::default(),
            agents,
            pki: Mutex::new(pki),
            allocator: Allocator::default(),
            quotas: Locks::default(),
            webhooks: Webhooks::default(),
            stopping: watch::Sender::new(false),
            started: now,
            store,
            config,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_range() {
        let range = ServiceRange { base: Ipv4Addr::new(10, 96, 0, 0), prefix: 16 };
        assert_eq!(range.first(), Ipv4Addr::new(10, 96, 0, 1));
        assert_eq!(range.size(), 65536);
        for (address, inside) in [
            ([10, 96, 0, 0], false),
            ([10, 96, 0, 1], true),
            ([10, 96, 255, 254], true),
            ([10, 96, 255, 255], false),
            ([10, 97, 0, 1], false),
        ] {
            assert_eq!(range.contains(address.into()), inside, "{address:?}");
        }
    }

    #[test]
    fn the_certificate_has_every_way_in() {
        let subject = ServerConfig::new("/tmp/x").subject();
        for address in ["127.0.0.1", "10.96.0.1", "10.128.0.1"] {
            assert!(subject.addresses.contains(&address.parse().unwrap()), "{address}");
        }
        assert!(subject.names.contains(&"kubernetes.default.svc".to_owned()));
    }
}
