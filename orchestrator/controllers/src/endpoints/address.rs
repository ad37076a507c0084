//! What one pod contributes to one Service: an address, its conditions and the ports behind the Service's.

use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pod::Pod;
use catamaran_client::object;

/// A port as it is in an EndpointSlice; ordered, so that a list of them can be a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) protocol: String,
    pub(super) port: i32,
    pub(super) app_protocol: Option<String>,
}

impl Port {
    pub(super) fn to_slice_port(&self) -> EndpointPort {
        EndpointPort {
            name: Some(self.name.clone()),
            protocol: Some(self.protocol.clone()),
            port: Some(self.port),
            app_protocol: self.app_protocol.clone(),
        }
    }

    pub(super) fn of_slice_port(port: &EndpointPort) -> Self {
        Self {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(tcp),
            port: port.port.unwrap_or(0),
            app_protocol: port.app_protocol.clone(),
        }
    }
}

fn tcp() -> String {
    "TCP".to_owned()
}

/// Should the pod be in the slices of a Service that selects it? A terminating one is, until it is gone, so
/// that connections to it can drain. One whose address is none would have the server refuse the whole slice.
pub(super) fn is_member(pod: &Pod) -> bool {
    !pod.is_terminal() && pod.ip().is_some_and(|ip| ip.parse::<std::net::Ipv4Addr>().is_ok())
}

/// Do not-ready pods of this Service count as ready?
pub(super) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

/// Has the Service no address of its own?
pub(super) fn is_headless(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
}

/// The pod as an endpoint of the Service.
pub(super) fn endpoint(service: &Service, pod: &Pod) -> Endpoint {
    let serving = pod.is_ready();
    let terminating = pod.is_terminating();
    Endpoint {
        addresses: pod.ip().map(str::to_owned).into_iter().collect(),
        conditions: Some(EndpointConditions {
            ready: Some(publishes_not_ready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: pod.node().map(str::to_owned),
        target_ref: Some(target(pod)),
        ..Endpoint::default()
    }
}

/// The reference to the pod behind an address.
pub(super) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The pod's own name under the Service's domain, when it has asked for one.
pub(super) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let hostname = pod.spec.hostname.clone().filter(|name| !name.is_empty())?;
    (pod.spec.subdomain == service.metadata.name).then_some(hostname)
}

/// The ports of the pod behind those of the Service, sorted; a named one that the pod has not is left out.
pub(super) fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let wanted = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let mut ports: Vec<Port> = wanted
        .iter()
        .filter_map(|wanted| {
            Some(Port {
                name: wanted.name.clone().unwrap_or_default(),
                protocol: wanted.protocol.clone().unwrap_or_else(tcp),
                port: find_port(pod, wanted)?,
                app_protocol: wanted.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

fn find_port(pod: &Pod, wanted: &ServicePort) -> Option<i32> {
    let name = match wanted.target_port.as_ref() {
        None => return Some(wanted.port),
        Some(IntOrString::Int(0)) => return Some(wanted.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let protocol = wanted.protocol.as_deref().unwrap_or("TCP");
    // Of the init containers only those that go on running have ports worth calling.
    let sidecars = pod
        .spec
        .init_containers
        .iter()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut ports = pod.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    ports
        .find(|port| {
            port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
        })
        .map(|port| port.container_port)
}

/// Do the two states of a pod look different to a Service?
pub(super) fn differ(old: &Pod, new: &Pod) -> bool {
    is_member(old) != is_member(new)
        || old.ip() != new.ip()
        || old.is_ready() != new.is_ready()
        || old.is_terminating() != new.is_terminating()
        || old.metadata.labels != new.metadata.labels
        || old.node() != new.node()
        || object::uid(&old.metadata) != object::uid(&new.metadata)
        || old.spec.containers != new.spec.containers
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(change: serde_json::Value) -> Service {
        let mut spec = json!({"selector": {"app": "web"}, "ports": [
            {"name": "http", "port": 80, "targetPort": "web"}, {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "gone", "port": 1, "targetPort": "nowhere"}]});
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    fn pod(ready: bool, leaving: bool) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"nodeName": "n", "hostname": "zero", "subdomain": "web", "containers": [
                {"ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": "10.128.0.7",
                       "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}
        });
        if leaving {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn conditions_of_an_endpoint() {
        // (ready, leaving, publishes not ready) → (ready, serving, terminating)
        let table = [
            (true, false, false, (true, true, false)),
            (false, false, false, (false, false, false)),
            (true, true, false, (false, true, true)),
            (false, true, false, (false, false, true)),
            (false, false, true, (true, false, false)),
            (true, true, true, (true, true, true)),
        ];
        for (ready, leaving, publish, expected) in table {
            let endpoint =
                endpoint(&service(json!({"publishNotReadyAddresses": publish})), &pod(ready, leaving));
            let conditions = endpoint.conditions.unwrap();
            let found =
                (conditions.ready.unwrap(), conditions.serving.unwrap(), conditions.terminating.unwrap());
            assert_eq!(found, expected, "{ready} {leaving} {publish}");
        }
    }

    #[test]
    fn ports_are_found_by_number_and_by_name() {
        let found = ports(&service(json!({})), &pod(true, false));
        let found: Vec<_> =
            found.iter().map(|port| (port.name.as_str(), port.protocol.as_str(), port.port)).collect();
        assert_eq!(found, [("dns", "UDP", 53), ("http", "TCP", 8080)]);
    }

    #[test]
    fn a_pod_with_a_name_of_its_own() {
        assert_eq!(hostname(&service(json!({})), &pod(true, false)).as_deref(), Some("zero"));
        let mut other = pod(true, false);
        other.spec.subdomain = Some("db".into());
        assert_eq!(hostname(&service(json!({})), &other), None);
    }

    #[test]
    fn who_has_no_address_or_has_ended_is_not_there() {
        let mut pod = pod(true, false);
        assert!(is_member(&pod));
        pod.status.pod_ip = None;
        assert!(!is_member(&pod));
    }
}
