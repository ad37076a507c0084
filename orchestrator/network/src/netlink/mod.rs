//! The kernel's configuration sockets: a small encoder and a blocking socket for routes, links, rules and
//! connection tracking. No external program takes part.

pub(crate) mod conntrack;
mod message;
pub(crate) mod nftables;
pub(crate) mod route;
mod socket;

pub(crate) use message::{Attributes, Messages};
pub use socket::NetlinkError;
pub(crate) use socket::{Family, Socket};
