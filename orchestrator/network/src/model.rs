//! The parts of Services and EndpointSlices that rules and names are made of: small, so that tens of
//! thousands fit in little memory.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::services::elements::{Choice, Memory, Protocol};

/// The label by which an EndpointSlice names its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Namespace and name of a Service or EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Object name.
    pub name: String,
}

impl Name {
    /// The name in an object's metadata.
    pub fn of(meta: &ObjectMeta) -> Self {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        Self { namespace: text(&meta.namespace), name: text(&meta.name) }
    }
}

/// How a Service is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceKind {
    /// By an address of its own.
    ClusterIp(Ipv4Addr),
    /// By the addresses of its endpoints (`clusterIP: None`), or not yet at all.
    Headless,
    /// By another name.
    ExternalName(String),
}

/// Which endpoints may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All.
    Cluster,
    /// Those of this node.
    Local,
}

impl TrafficPolicy {
    fn read(text: Option<&String>) -> Self {
        if text.is_some_and(|text| text == "Local") { Self::Local } else { Self::Cluster }
    }
}

/// Which endpoints have names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publish {
    /// The ready ones.
    Ready,
    /// All (`publishNotReadyAddresses`).
    All,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty where the Service has one unnamed port.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port of the ClusterIP.
    pub port: u16,
    /// Port of every node.
    pub node_port: Option<u16>,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// How it is reached.
    pub kind: ServiceKind,
    /// Its ports; those that this node cannot serve are left out.
    pub ports: Vec<ServicePort>,
    /// How backends are chosen.
    pub choice: Choice,
    /// Who serves the ClusterIP.
    pub internal_policy: TrafficPolicy,
    /// Who serves NodePorts and external addresses.
    pub external_policy: TrafficPolicy,
    /// `externalIPs` and the addresses of a load balancer.
    pub external_addresses: Vec<Ipv4Addr>,
    /// Which endpoints have names.
    pub publish: Publish,
}

impl Service {
    /// The parts of a Service object.
    pub fn read(object: &v1::Service) -> Self {
        let empty = v1::ServiceSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&empty);
        let kind = match (spec.type_.as_deref(), spec.cluster_ip.as_deref().map(str::parse)) {
            (Some("ExternalName"), _) => {
                ServiceKind::ExternalName(spec.external_name.clone().unwrap_or_default())
            }
            (_, Some(Ok(address))) if is_ordinary(address) => ServiceKind::ClusterIp(address),
            _ => ServiceKind::Headless,
        };
        let balancer = object.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
        let balancer = balancer.into_iter().flatten().filter_map(|ingress| ingress.ip.as_ref());
        let external = spec.external_ips.iter().flatten().chain(balancer);
        Self {
            kind,
            ports: spec.ports.iter().flatten().filter_map(read_port).collect(),
            choice: read_choice(spec),
            internal_policy: TrafficPolicy::read(spec.internal_traffic_policy.as_ref()),
            external_policy: TrafficPolicy::read(spec.external_traffic_policy.as_ref()),
            external_addresses: external.filter_map(|text| ordinary(text)).collect(),
            publish: match spec.publish_not_ready_addresses {
                Some(true) => Publish::All,
                _ => Publish::Ready,
            },
        }
    }
}

fn read_choice(spec: &v1::ServiceSpec) -> Choice {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return Choice::Random;
    }
    let client = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = client.and_then(|client| u32::try_from(client.timeout_seconds?).ok());
    Choice::ClientAddress(seconds.map_or(Memory::DEFAULT, Memory::for_seconds))
}

/// An address that packets may be sent to by a rule. Any other would make a rule say something else: `0.0.0.0`
/// stands for the node, and a backend on the node's loopback would be open to every pod.
fn ordinary(text: &str) -> Option<Ipv4Addr> {
    text.parse().ok().filter(|address| is_ordinary(*address))
}

fn is_ordinary(address: Ipv4Addr) -> bool {
    !(address.octets()[0] == 0
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast())
}

fn read_port(port: &v1::ServicePort) -> Option<ServicePort> {
    let number = |value: i32| u16::try_from(value).ok().filter(|port| *port != 0);
    Some(ServicePort {
        name: port.name.clone().unwrap_or_default(),
        protocol: Protocol::parse(port.protocol.as_deref())?,
        port: number(port.port)?,
        node_port: port.node_port.and_then(number),
    })
}

/// A port of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// The Service port's name.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port of the pods.
    pub port: u16,
}

/// One pod behind a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// It wants new connections.
    pub ready: bool,
    /// It answers, terminating or not.
    pub serving: bool,
    /// It was told to end.
    pub terminating: bool,
    /// Its node.
    pub node: Option<String>,
    /// Its name below the Service's.
    pub hostname: Option<String>,
}

/// An EndpointSlice; one of another address type than IPv4 has no endpoints here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The Service that it belongs to.
    pub service: Option<Name>,
    /// Ports of all its endpoints.
    pub ports: Vec<SlicePort>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

impl Slice {
    /// The parts of an EndpointSlice object.
    pub fn read(object: &discovery::EndpointSlice) -> Self {
        let meta = &object.metadata;
        let service = meta.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL));
        let ports = object.ports.iter().flatten().filter_map(|port| {
            Some(SlicePort {
                name: port.name.clone().unwrap_or_default(),
                protocol: Protocol::parse(port.protocol.as_deref())?,
                port: u16::try_from(port.port?).ok().filter(|port| *port != 0)?,
            })
        });
        let ipv4 = object.address_type == "IPv4";
        let endpoints = object.endpoints.iter().filter(|_| ipv4).map(read_endpoint);
        Self {
            service: service.map(|name| Name { name: name.clone(), ..Name::of(meta) }),
            ports: ports.collect(),
            endpoints: endpoints.collect(),
        }
    }
}

/// Absent conditions count as ready, as the API defines them.
fn read_endpoint(endpoint: &discovery::Endpoint) -> Endpoint {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    Endpoint {
        addresses: endpoint.addresses.iter().filter_map(|text| ordinary(text)).collect(),
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        node: endpoint.node_name.clone(),
        hostname: endpoint.hostname.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(spec: serde_json::Value) -> Service {
        Service::read(&serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap())
    }

    #[test]
    fn addresses_that_mean_something_else_are_left_out() {
        for bad in
            ["0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.169.254", "224.0.0.1", "255.255.255.255", "::1", "x"]
        {
            let odd = service(json!({"clusterIP": bad, "externalIPs": [bad, "192.0.2.1"]}));
            assert_eq!(odd.kind, ServiceKind::Headless, "{bad}");
            assert_eq!(odd.external_addresses, [Ipv4Addr::new(192, 0, 2, 1)], "{bad}");
            let slice = json!({"metadata": {}, "addressType": "IPv4",
                               "endpoints": [{"addresses": [bad]}], "ports": [{"port": 0}, {"port": 80}]});
            let slice = Slice::read(&serde_json::from_value(slice).unwrap());
            assert!(slice.endpoints[0].addresses.is_empty(), "{bad}");
            assert_eq!(slice.ports.len(), 1);
        }
    }

    #[test]
    fn affinity_and_its_time() {
        let with = |config: serde_json::Value| {
            service(json!({"clusterIP": "10.96.0.7", "sessionAffinity": "ClientIP", "sessionAffinityConfig": config}))
                .choice
        };
        let sticky = |seconds| Choice::ClientAddress(Memory::for_seconds(seconds));
        assert_eq!(with(json!({})), sticky(10_800));
        assert_eq!(with(json!({"clientIP": {"timeoutSeconds": 30}})), sticky(60));
        assert_eq!(with(json!({"clientIP": {"timeoutSeconds": -1}})), sticky(10_800));
        assert_eq!(service(json!({"sessionAffinity": "None"})).choice, Choice::Random);
    }
}
