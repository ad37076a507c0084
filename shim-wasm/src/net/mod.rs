//! The network of a guest: its addresses, whom it may reach, names, outgoing HTTP.

pub(crate) mod client;
mod dialed;
mod dns;
pub(crate) mod policy;
pub(crate) mod resolver;
pub(crate) mod shadow;
pub(crate) mod shadow3;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use catamaran_task::spec::WasmSpec;

use crate::engine::Isolation;
use policy::{NetworkPolicy, PolicyError};
use resolver::{LookupError, Resolver};

/// The network of one container, shared by its instances.
#[derive(Debug)]
pub(crate) struct GuestNetwork {
    pub(crate) policy: NetworkPolicy,
    resolver: Resolver,
}

impl GuestNetwork {
    pub(crate) fn new(isolation: Isolation, spec: &WasmSpec) -> Result<Arc<Self>, PolicyError> {
        let policy = NetworkPolicy::new(isolation, spec.pod_ip, &spec.outbound)?;
        let resolver = Resolver::new(&spec.resolvers, policy.source());
        Ok(Arc::new(Self { policy, resolver }))
    }

    /// Looks a name up and grants its addresses where the name is granted.
    pub(crate) async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        let found = self.resolver.lookup(name).await?;
        self.policy.resolved(name, &found);
        Ok(found)
    }

    pub(crate) fn source(&self) -> Option<Ipv4Addr> {
        self.policy.source()
    }
}
