//! The older Endpoints object of a Service, which some clients still read: a function of values.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::address::{self, Port};
use super::plan::HEADLESS;
use crate::pod::Pod;
use catamaran_client::object;

/// Addresses in one object at most; the rest is only in the slices.
const CAPACITY: usize = 1000;
/// Says that addresses were left out.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Who made the object.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Our name there.
const MANAGER: &str = "endpoint-controller";

/// The Endpoints that `service` should have.
pub(super) fn endpoints(service: &Service, pods: &[Arc<Pod>]) -> Endpoints {
    let publish = address::publishes_not_ready(service);
    let mut members: Vec<&Arc<Pod>> =
        pods.iter().filter(|pod| address::is_member(pod) && (publish || !pod.is_terminating())).collect();
    // Ready ones first, should there be too many; then an order that does not change by itself.
    members.sort_by_key(|pod| (!pod.is_ready(), pod.ip().map(str::to_owned), pod.metadata.uid.clone()));
    let over = members.len() > CAPACITY;
    members.truncate(CAPACITY);
    let mut by_ports: BTreeMap<Vec<Port>, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in members {
        let ports = address::ports(service, pod);
        let portless = service.spec.as_ref().is_none_or(|spec| spec.ports.iter().flatten().count() == 0);
        if !ports.is_empty() || portless {
            by_ports.entry(ports).or_default().push(pod);
        }
    }
    let subsets: Vec<EndpointSubset> =
        by_ports.iter().map(|(ports, pods)| subset(service, ports, pods, publish)).collect();
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            annotations: over.then(|| [(OVER_CAPACITY.to_owned(), "truncated".to_owned())].into()),
            ..ObjectMeta::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}

fn subset(service: &Service, ports: &[Port], pods: &[&Arc<Pod>], publish: bool) -> EndpointSubset {
    let (ready, not_ready): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) =
        pods.iter().partition(|pod| publish || pod.is_ready());
    let addresses = |pods: Vec<&Arc<Pod>>| {
        let mut addresses: Vec<EndpointAddress> = pods.iter().map(|pod| entry(service, pod)).collect();
        addresses.sort_by(|one, other| one.ip.cmp(&other.ip));
        (!addresses.is_empty()).then_some(addresses)
    };
    let ports = ports.iter().map(|port| EndpointPort {
        name: Some(port.name.clone()).filter(|name| !name.is_empty()),
        protocol: Some(port.protocol.clone()),
        port: port.port,
        app_protocol: port.app_protocol.clone(),
    });
    let ports: Vec<EndpointPort> = ports.collect();
    EndpointSubset {
        addresses: addresses(ready),
        not_ready_addresses: addresses(not_ready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

fn entry(service: &Service, pod: &Pod) -> EndpointAddress {
    EndpointAddress {
        ip: pod.ip().unwrap_or_default().to_owned(),
        hostname: address::hostname(service, pod),
        node_name: pod.node().map(str::to_owned),
        target_ref: Some(address::target(pod)),
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if address::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

/// Did we make it?
pub(super) fn is_ours(endpoints: &Endpoints) -> bool {
    object::label(&endpoints.metadata, MANAGED_BY) == Some(MANAGER)
}

/// Does `current` say the same as `wanted`?
pub(super) fn is_same(current: &Endpoints, wanted: &Endpoints) -> bool {
    let over =
        |endpoints: &Endpoints| object::annotation(&endpoints.metadata, OVER_CAPACITY).map(str::to_owned);
    let subsets = |endpoints: &Endpoints| endpoints.subsets.clone().unwrap_or_default();
    current.metadata.labels == wanted.metadata.labels
        && over(current) == over(wanted)
        && subsets(current) == subsets(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(number: usize, ready: bool, leaving: bool) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": format!("p{number}"), "namespace": "ns", "uid": format!("u{number}")},
            "status": {"phase": "Running", "podIP": format!("10.128.{}.{}", number / 250, number % 250),
                       "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}
        });
        if leaving {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn service(publish: bool) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}], "publishNotReadyAddresses": publish}
        }))
        .unwrap()
    }

    #[test]
    fn ready_and_not_ready_are_apart_and_leaving_ones_absent() {
        let pods = [pod(1, true, false), pod(2, false, false), pod(3, true, true)];
        let count = |endpoints: &Endpoints| {
            let subset = &endpoints.subsets.as_ref().unwrap()[0];
            let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
            (count(&subset.addresses), count(&subset.not_ready_addresses))
        };
        assert_eq!(count(&endpoints(&service(false), &pods)), (1, 1));
        assert_eq!(count(&endpoints(&service(true), &pods)), (3, 0));
        assert!(endpoints(&service(false), &[]).subsets.is_none());
    }

    #[test]
    fn too_many_are_cut_and_it_says_so() {
        let pods: Vec<Arc<Pod>> = (0..1200).map(|number| pod(number, number >= 200, false)).collect();
        let cut = endpoints(&service(false), &pods);
        let subset = &cut.subsets.as_ref().unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap().len(), 1000);
        assert_eq!(object::annotation(&cut.metadata, OVER_CAPACITY), Some("truncated"));
    }

    #[test]
    fn the_same_pods_in_another_order_are_the_same() {
        let (a, b) = (pod(1, true, false), pod(2, true, false));
        let one = endpoints(&service(false), &[Arc::clone(&a), Arc::clone(&b)]);
        let other = endpoints(&service(false), &[b, a]);
        assert!(is_same(&one, &other));
    }
}
