//! Services and EndpointSlices → which backends each frontend has. Pure
//! (<https://kubernetes.io/docs/reference/networking/virtual-ips/>).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::elements::{Backend, Choice, ClientSource, Frontend, Route, Standing};
use crate::model::{Endpoint, Service, ServiceKind, ServicePort, Slice, TrafficPolicy};

/// The routes of one Service on the node of this name. Headless Services and ExternalNames have none.
pub fn service<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a Slice> + Clone,
    node: &str,
) -> Vec<(Frontend, Route)> {
    let ServiceKind::ClusterIp(cluster_ip) = service.kind else {
        return Vec::new();
    };
    let mut routes = Vec::new();
    for port in &service.ports {
        let route = |policy, source| {
            let (standing, backends) = choose(slices.clone(), port, policy, node);
            Route { choice: service.choice, source, standing, backends }
        };
        let at = |address, port: &ServicePort| Frontend { address, protocol: port.protocol, port: port.port };
        routes.push((at(cluster_ip, port), route(service.internal_policy, ClientSource::Kept)));
        let source = match service.external_policy {
            TrafficPolicy::Cluster => ClientSource::Masqueraded,
            TrafficPolicy::Local => ClientSource::Kept,
        };
        // An external address is left unmarked: it is not one of the node's own, and pods answer by the node.
        for address in &service.external_addresses {
            routes.push((at(*address, port), route(service.external_policy, ClientSource::Kept)));
        }
        if let Some(node_port) = port.node_port {
            let frontend =
                Frontend { address: Ipv4Addr::UNSPECIFIED, protocol: port.protocol, port: node_port };
            routes.push((frontend, route(service.external_policy, source)));
        }
    }
    routes
}

/// Ready endpoints; where there are none, those that terminate and still serve.
fn choose<'a>(
    slices: impl Iterator<Item = &'a Slice> + Clone,
    port: &ServicePort,
    policy: TrafficPolicy,
    node: &str,
) -> (Standing, Vec<Backend>) {
    let pick = |wanted: fn(&Endpoint) -> bool| -> Vec<Backend> {
        let mut found = BTreeSet::new();
        for slice in slices.clone() {
            let number = slice.ports.iter().find(|p| p.name == port.name && p.protocol == port.protocol);
            let Some(number) = number.map(|p| p.port) else { continue };
            let here = |e: &&Endpoint| policy == TrafficPolicy::Cluster || e.node.as_deref() == Some(node);
            for endpoint in slice.endpoints.iter().filter(|e| wanted(e)).filter(here) {
                found.extend(endpoint.addresses.iter().map(|a| Backend { address: *a, port: number }));
            }
        }
        found.into_iter().collect()
    };
    let ready = pick(|endpoint| endpoint.ready);
    if !ready.is_empty() {
        return (Standing::Ready, ready);
    }
    (Standing::LastResort, pick(|endpoint| endpoint.serving && endpoint.terminating))
}

/// Routes for the cluster's DNS, as long as no Service object serves its address.
pub fn cluster_dns(cluster_ip: Ipv4Addr, server: Ipv4Addr) -> Vec<(Frontend, Route)> {
    use super::elements::Protocol::{Tcp, Udp};
    let route = |protocol| {
        let backends = vec![Backend { address: server, port: 53 }];
        let (choice, source, standing) = (Choice::Random, ClientSource::Kept, Standing::Ready);
        (Frontend { address: cluster_ip, protocol, port: 53 }, Route { choice, source, standing, backends })
    };
    [Udp, Tcp].map(route).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model;

    fn read(service: serde_json::Value, slices: &[serde_json::Value]) -> (Service, Vec<Slice>) {
        let slice = |v: &serde_json::Value| model::Slice::read(&serde_json::from_value(v.clone()).unwrap());
        let service = model::Service::read(&serde_json::from_value(service).unwrap());
        (service, slices.iter().map(slice).collect())
    }

    fn endpoint(last: u8, conditions: serde_json::Value, node: &str) -> serde_json::Value {
        json!({"addresses": [format!("10.128.0.{last}")], "conditions": conditions, "nodeName": node})
    }

    fn slice(endpoints: serde_json::Value) -> serde_json::Value {
        json!({"metadata": {"name": "web-1", "namespace": "default",
                            "labels": {"kubernetes.io/service-name": "web"}},
               "addressType": "IPv4", "endpoints": endpoints,
               "ports": [{"name": "http", "protocol": "TCP", "port": 8080}]})
    }

    /// One line for each route: frontend, standing, source, backends by their last number and port.
    fn lines(object: serde_json::Value, slices: &[serde_json::Value]) -> Vec<String> {
        let (object, slices) = read(object, slices);
        let line = |(f, r): &(Frontend, Route)| {
            let backends = r.backends.iter().map(|b| format!(" {}:{}", b.address.octets()[3], b.port));
            let backends: String = backends.collect();
            format!("{}:{} {:?} {:?}{}", f.address, f.port, r.standing, r.source, backends)
        };
        service(&object, slices.iter(), "here").iter().map(line).collect()
    }

    fn object(spec: serde_json::Value) -> serde_json::Value {
        let mut spec = spec;
        spec["ports"] =
            json!([{"name": "http", "port": 80, "targetPort": 8080, "nodePort": spec["nodePort"]}]);
        json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    }

    #[test]
    fn table_of_endpoint_conditions() {
        let ready = json!({"ready": true, "serving": true, "terminating": false});
        let starting = json!({"ready": false, "serving": false, "terminating": false});
        let draining = json!({"ready": false, "serving": true, "terminating": true});
        let gone = json!({"ready": false, "serving": false, "terminating": true});
        let cases = [
            (
                json!([endpoint(2, ready.clone(), "here"), endpoint(3, json!({}), "there")]),
                "Ready Kept 2:8080 3:8080",
            ),
            (
                json!([endpoint(2, ready.clone(), "here"), endpoint(3, draining.clone(), "here")]),
                "Ready Kept 2:8080",
            ),
            (
                json!([endpoint(2, starting.clone(), "here"), endpoint(3, draining, "here")]),
                "LastResort Kept 3:8080",
            ),
            (json!([endpoint(2, starting, "here"), endpoint(3, gone, "here")]), "LastResort Kept"),
            (json!([]), "LastResort Kept"),
        ];
        for (endpoints, expected) in cases {
            let lines = lines(object(json!({"clusterIP": "10.96.0.7"})), &[slice(endpoints)]);
            assert_eq!(lines, [format!("10.96.0.7:80 {expected}")]);
        }
    }

    #[test]
    fn node_ports_and_policies() {
        let both = slice(json!([endpoint(2, json!({}), "here"), endpoint(3, json!({}), "there")]));
        let cluster = json!({"type": "NodePort", "clusterIP": "10.96.0.7", "nodePort": 30080});
        assert_eq!(
            lines(object(cluster), std::slice::from_ref(&both)),
            ["10.96.0.7:80 Ready Kept 2:8080 3:8080", "0.0.0.0:30080 Ready Masqueraded 2:8080 3:8080"]
        );
        let local = json!({"type": "NodePort", "clusterIP": "10.96.0.7", "nodePort": 30080,
                           "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"});
        assert_eq!(
            lines(object(local), &[both]),
            ["10.96.0.7:80 Ready Kept 2:8080", "0.0.0.0:30080 Ready Kept 2:8080"]
        );
    }

    #[test]
    fn headless_external_and_foreign_ports_have_no_routes() {
        let one = slice(json!([endpoint(2, json!({}), "here")]));
        assert_eq!(lines(object(json!({"clusterIP": "None"})), std::slice::from_ref(&one)), [""; 0]);
        assert_eq!(
            lines(object(json!({"type": "ExternalName", "externalName": "a.b"})), std::slice::from_ref(&one)),
            [""; 0]
        );
        let mut other = one;
        other["ports"][0]["name"] = json!("metrics");
        let none = ["10.96.0.7:80 LastResort Kept"];
        assert_eq!(lines(object(json!({"clusterIP": "10.96.0.7"})), &[other]), none);
    }

    #[test]
    fn session_affinity_and_duplicates() {
        let spec = json!({"clusterIP": "10.96.0.7", "sessionAffinity": "ClientIP"});
        let one = slice(json!([endpoint(2, json!({}), "here")]));
        let (object, slices) = read(object(spec), &[one.clone(), one]);
        let routes = service(&object, slices.iter(), "here");
        let sticky = Choice::ClientAddress(crate::services::elements::Memory::DEFAULT);
        assert_eq!((routes[0].1.choice, routes[0].1.backends.len()), (sticky, 1));
    }
}
