//! The network of a node: addresses for pods, Services as kernel rules, and the cluster's DNS. Links, routes
//! and rules are made over netlink; no external program takes part.

mod attach;
pub mod dns;
pub mod ipam;
#[cfg(test)]
mod kernel_tests;
mod model;
mod namespace;
mod netlink;
mod observe;
pub mod services;

pub use attach::{Network, NetworkConfig, NetworkError, PodAttachment, Routed, TornDown, teardown_all};
pub use dns::{DnsConfig, DnsError, DnsSockets, Upstreams, run_dns};
pub use ipam::Cidr;
pub use namespace::NamespaceError;
pub use netlink::NetlinkError;
pub use services::ports::HostPort;
pub use services::run_services;
