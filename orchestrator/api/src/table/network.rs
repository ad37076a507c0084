//! Services, endpoints, ingresses and policies.

use serde_json::Value;

use super::Printer;
use super::cell::{self, at, integer, list, scalar, text, text_or, three_of};
use super::column::{AGE, NAME, SELECTOR, text as text_column};

pub(super) fn printer(plural: &str) -> Option<&'static Printer> {
    Some(match plural {
        "services" => &SERVICES,
        "endpoints" => &ENDPOINTS,
        "endpointslices" => &ENDPOINT_SLICES,
        "ingresses" => &INGRESSES,
        "ingressclasses" => &INGRESS_CLASSES,
        "networkpolicies" => &NETWORK_POLICIES,
        "servicecidrs" => &SERVICE_CIDRS,
        "ipaddresses" => &IP_ADDRESSES,
        _ => return None,
    })
}

static SERVICES: Printer = Printer {
    columns: &[
        NAME,
        text_column("Type", "How the service is reached."),
        text_column("Cluster-IP", "Its address inside the cluster."),
        text_column("External-IP", "Its addresses outside."),
        text_column("Port(s)", "Its ports, with node ports."),
        AGE,
        SELECTOR,
    ],
    cells: |o, now| {
        let ip = list(o, "spec.clusterIPs").first().and_then(Value::as_str);
        vec![
            cell::name(o),
            text(o, "spec.type").into(),
            ip.unwrap_or_else(|| text_or(o, "spec.clusterIP", "<none>")).into(),
            external_ip(o).into(),
            service_ports(o).into(),
            cell::age(o, now),
            cell::labels(at(o, "spec.selector")).into(),
        ]
    },
};

fn texts(values: &[Value]) -> Vec<String> {
    values.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn external_ip(service: &Value) -> String {
    let mut addresses = Vec::new();
    let absent = match text(service, "spec.type") {
        "ExternalName" => return text(service, "spec.externalName").to_owned(),
        "LoadBalancer" => {
            addresses.extend(load_balancer(service));
            "<pending>"
        }
        _ => "<none>",
    };
    addresses.extend(texts(list(service, "spec.externalIPs")));
    if addresses.is_empty() { absent.into() } else { addresses.join(",") }
}

fn load_balancer(object: &Value) -> Vec<String> {
    let points = list(object, "status.loadBalancer.ingress").iter();
    points
        .map(|point| text_or(point, "ip", text(point, "hostname")).to_owned())
        .filter(|a| !a.is_empty())
        .collect()
}

fn service_ports(service: &Value) -> String {
    let ports = list(service, "spec.ports").iter().map(|port| {
        let (number, protocol) = (integer(port, "port"), text_or(port, "protocol", "TCP"));
        match integer(port, "nodePort") {
            0 => format!("{number}/{protocol}"),
            node_port => format!("{number}:{node_port}/{protocol}"),
        }
    });
    let ports: Vec<String> = ports.collect();
    if ports.is_empty() { "<none>".into() } else { ports.join(",") }
}

static ENDPOINTS: Printer = Printer {
    columns: &[NAME, text_column("Endpoints", "Addresses with ports."), AGE],
    cells: |o, now| {
        let mut entries = Vec::new();
        for subset in list(o, "subsets") {
            let addresses = || list(subset, "addresses").iter().map(|a| text(a, "ip"));
            let ports = list(subset, "ports");
            if ports.is_empty() {
                entries.extend(addresses().map(str::to_owned));
            }
            for port in ports {
                entries.extend(addresses().map(|ip| host_port(ip, integer(port, "port"))));
            }
        }
        vec![cell::name(o), three_of(&entries, "<none>").into(), cell::age(o, now)]
    },
};

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

static ENDPOINT_SLICES: Printer = Printer {
    columns: &[
        NAME,
        text_column("AddressType", "Kind of the addresses."),
        text_column("Ports", "Ports of every endpoint."),
        text_column("Endpoints", "Addresses."),
        AGE,
    ],
    cells: |o, now| {
        let ports: Vec<String> =
            list(o, "ports").iter().map(|p| scalar(at(p, "port"), text_or(p, "name", "*"))).collect();
        let addresses: Vec<String> =
            list(o, "endpoints").iter().flat_map(|e| texts(list(e, "addresses"))).collect();
        vec![
            cell::name(o),
            text(o, "addressType").into(),
            three_of(&ports, "<unset>").into(),
            three_of(&addresses, "<unset>").into(),
            cell::age(o, now),
        ]
    },
};

static INGRESSES: Printer = Printer {
    columns: &[
        NAME,
        text_column("Class", "Class of the ingress."),
        text_column("Hosts", "Hosts that are matched."),
        text_column("Address", "Where it is reached."),
        text_column("Ports", "Ports that are open."),
        AGE,
    ],
    cells: |o, now| {
        let hosts: Vec<String> = list(o, "spec.rules")
            .iter()
            .map(|r| text(r, "host").to_owned())
            .filter(|h| !h.is_empty())
            .collect();
        let class = match text(o, "spec.ingressClassName") {
            "" => crate::meta::annotation(o, "kubernetes.io/ingress.class").unwrap_or("<none>"),
            class => class,
        };
        let ports = if list(o, "spec.tls").is_empty() { "80" } else { "80, 443" };
        vec![
            cell::name(o),
            class.into(),
            three_of(&hosts, "*").into(),
            load_balancer(o).join(",").into(),
            ports.into(),
            cell::age(o, now),
        ]
    },
};

static INGRESS_CLASSES: Printer = Printer {
    columns: &[
        NAME,
        text_column("Controller", "Who serves ingresses of the class."),
        text_column("Parameters", "Further configuration."),
        AGE,
    ],
    cells: |o, now| {
        let parameters = at(o, "spec.parameters").map_or("<none>".to_owned(), |p| {
            let group = text(p, "apiGroup");
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", text(p, "kind"), text(p, "name"))
        });
        vec![cell::name(o), text(o, "spec.controller").into(), parameters.into(), cell::age(o, now)]
    },
};

static NETWORK_POLICIES: Printer = Printer {
    columns: &[NAME, text_column("Pod-Selector", "Pods that the policy is about."), AGE],
    cells: |o, now| vec![cell::name(o), cell::selector(at(o, "spec.podSelector")).into(), cell::age(o, now)],
};

static SERVICE_CIDRS: Printer = Printer {
    columns: &[NAME, text_column("CIDRs", "Ranges of service addresses."), AGE],
    cells: |o, now| vec![cell::name(o), texts(list(o, "spec.cidrs")).join(",").into(), cell::age(o, now)],
};

static IP_ADDRESSES: Printer = Printer {
    columns: &[NAME, text_column("ParentRef", "Object that holds the address."), AGE],
    cells: |o, now| {
        let parent = at(o, "spec.parentRef").map_or("<none>".to_owned(), |p| {
            let mut text = text(p, "resource").to_owned();
            for part in ["group", "namespace", "name"] {
                match (part, cell::text(p, part)) {
                    (_, "") => {}
                    ("group", group) => text.push_str(&format!(".{group}")),
                    (_, value) => text.push_str(&format!("/{value}")),
                }
            }
            text
        });
        vec![cell::name(o), parent.into(), cell::age(o, now)]
    },
};
