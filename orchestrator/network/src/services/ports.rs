//! Ports of the node that pods have for themselves (`hostPort`), as routes among those of Services. Pure.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::elements::{Backend, Choice, ClientSource, Frontend, Protocol, Route, Standing};
use crate::model::Name;

/// A port of the node that leads to one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// Under which name a pod's ports stand among the routes. No Service is called so.
pub(crate) fn name(uid: &str) -> Name {
    Name { namespace: String::new(), name: uid.to_owned() }
}

/// The routes of a pod's ports. Pods are reached by them as long as they are attached: nobody waits for these
/// connections to move elsewhere.
pub(crate) fn routes(ip: Ipv4Addr, ports: &[HostPort]) -> Vec<(Frontend, Route)> {
    let route = |port: &HostPort| {
        let protocol = Protocol::parse(Some(&port.protocol))?;
        let frontend = Frontend { address: port.address, protocol, port: port.port };
        let backends = vec![Backend { address: ip, port: port.container_port }];
        let (choice, source) = (Choice::Random, ClientSource::Kept);
        Some((frontend, Route { choice, source, standing: Standing::LastResort, backends }))
    };
    ports.iter().filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_for_each_port_of_a_known_protocol() {
        let port = |protocol: &str, port| HostPort {
            address: Ipv4Addr::UNSPECIFIED,
            protocol: protocol.into(),
            port,
            container_port: 80,
        };
        let ip = Ipv4Addr::new(10, 128, 0, 9);
        let found = routes(ip, &[port("TCP", 8080), port("UDP", 8080), port("ICMP", 1)]);
        let frontends: Vec<_> = found.iter().map(|(front, _)| (front.protocol, front.port)).collect();
        assert_eq!(frontends, [(Protocol::Tcp, 8080), (Protocol::Udp, 8080)]);
        assert_eq!(found[0].1.backends, [Backend { address: ip, port: 80 }]);
    }
}
