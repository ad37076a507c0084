//! The ports of the node that a pod asks for (`hostPort`). Pure.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;

use crate::members::{Role, members};
use crate::net::HostPort;

/// A port that cannot be had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the hostIP {0:?} is no IPv4 address: this node has no other")]
pub(crate) struct HostPortError(String);

/// The ports of all containers that go on running.
pub(crate) fn of(pod: &Pod) -> Result<Vec<HostPort>, HostPortError> {
    let mut found = Vec::new();
    for member in members(pod).filter(|member| member.role != Role::Init) {
        for port in member.container.ports.iter().flatten() {
            let number = |port: i32| u16::try_from(port).ok().filter(|port| *port > 0);
            let (Some(host), Some(container)) =
                (port.host_port.and_then(number), number(port.container_port))
            else {
                continue;
            };
            let address = match port.host_ip.as_deref().unwrap_or_default() {
                "" => Ipv4Addr::UNSPECIFIED,
                text => text.parse().map_err(|_| HostPortError(text.to_owned()))?,
            };
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
            found.push(HostPort { address, protocol, port: host, container_port: container });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn ports(ports: Value) -> Result<Vec<HostPort>, HostPortError> {
        of(&serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "i", "ports": [{"containerPort": 1, "hostPort": 1}]}],
            "containers": [{"name": "c", "ports": ports}]}}))
        .unwrap())
    }

    #[test]
    fn what_is_asked_for() {
        let found = ports(json!([
            {"containerPort": 80}, {"containerPort": 80, "hostPort": 8080},
            {"containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "127.0.0.1"}]))
        .unwrap();
        let port = |address, protocol: &str, port, container_port| HostPort {
            address,
            protocol: protocol.into(),
            port,
            container_port,
        };
        let expected =
            [port(Ipv4Addr::UNSPECIFIED, "TCP", 8080, 80), port(Ipv4Addr::LOCALHOST, "UDP", 5353, 53)];
        assert_eq!(found, expected);
        assert!(ports(json!([{"containerPort": 80, "hostPort": 8080, "hostIP": "::1"}])).is_err());
    }
}
