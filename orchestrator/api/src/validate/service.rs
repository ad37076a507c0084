//! Services, Endpoints and EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::Errors;
use super::check::{self, immutable, in_range, messages, one_of, optional_one_of, port};
use crate::field_error::{FieldError, Path};
use crate::fields::{at, integer, list, number, text, texts};
use crate::name;

const SPEC: Path<'static> = Path::root("spec");
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

/// The ports of nodes on which services may be reached.
pub const NODE_PORTS: std::ops::RangeInclusive<i64> = 30_000..=32_767;

/// The rules of every state.
pub(super) fn validate(plural: &str, o: &Value, errors: &mut Errors) {
    match plural {
        "services" => service(o, errors),
        "endpoints" => endpoints(o, errors),
        "endpointslices" => slice(o, errors),
        _ => {}
    }
}

fn is_headless(spec: &Value) -> bool {
    text(spec, "clusterIP") == "None"
}

fn service(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    let kind = text(spec, "type");
    one_of(spec, "type", TYPES, &SPEC, errors);
    let ports_path = SPEC.child("ports");
    let ports = list(spec, "ports");
    if ports.is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.push(FieldError::required(&ports_path, ""));
    }
    match kind {
        "NodePort" | "LoadBalancer" if is_headless(spec) => {
            let message = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid(&SPEC.child("clusterIPs").index(0), "None", message));
        }
        "ExternalName" => external_name(spec, errors),
        _ => {}
    }
    let mut names = BTreeSet::new();
    for (i, one) in ports.iter().enumerate() {
        service_port(one, ports.len() > 1, &mut names, &ports_path.index(i), errors);
    }
    repeated_ports(ports, kind, &ports_path, errors);
    check::labels(spec, "selector", &SPEC, errors);
    one_of(spec, "sessionAffinity", &["ClientIP", "None"], &SPEC, errors);
    session_affinity(spec, errors);
    addresses(spec, errors);
    let policies = ["Cluster", "Local"];
    optional_one_of(spec, "internalTrafficPolicy", &policies, &SPEC, errors);
    let external = text(spec, "externalTrafficPolicy");
    let takes_external = matches!(kind, "NodePort" | "LoadBalancer") || !list(spec, "externalIPs").is_empty();
    if !external.is_empty() && !takes_external {
        let message = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid(&SPEC.child("externalTrafficPolicy"), external, message));
    } else {
        optional_one_of(spec, "externalTrafficPolicy", &policies, &SPEC, errors);
    }
    let families = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    optional_one_of(spec, "ipFamilyPolicy", &families, &SPEC, errors);
}

fn external_name(spec: &Value, errors: &mut Errors) {
    let name = text(spec, "externalName");
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errors.push(FieldError::required(&SPEC.child("externalName"), "")),
        stem => messages(name::dns1123_subdomain(stem), name, &SPEC.child("externalName"), errors),
    }
    if !text(spec, "clusterIP").is_empty() {
        let message = "may not be set when `type` is 'ExternalName'";
        errors.push(FieldError::forbidden(&SPEC.child("clusterIPs"), message));
    }
}

fn session_affinity(spec: &Value, errors: &mut Errors) {
    let path = SPEC.child("sessionAffinityConfig");
    match (text(spec, "sessionAffinity"), at(spec, "sessionAffinityConfig.clientIP")) {
        ("ClientIP", Some(config)) => {
            let path = path.child("clientIP");
            in_range(config, "timeoutSeconds", 1, 86_400, &path, errors);
        }
        ("None", Some(_)) => {
            let message = "must not be set when session affinity is None";
            errors.push(FieldError::forbidden(&path, message));
        }
        _ => {}
    }
}

fn service_port<'a>(
    one: &'a Value,
    several: bool,
    names: &mut BTreeSet<&'a str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    match text(one, "name") {
        "" if several => errors.push(FieldError::required(&path.child("name"), "")),
        "" => {}
        name => {
            messages(name::dns1123_label(name), name, &path.child("name"), errors);
            if !names.insert(name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
        }
    }
    let number = integer(one, "port");
    errors.extend(
        name::port_number(number).into_iter().map(|m| FieldError::invalid(&path.child("port"), number, m)),
    );
    one_of(one, "protocol", PROTOCOLS, path, errors);
    if let Some(target) = at(one, "targetPort") {
        port(Some(target), &path.child("targetPort"), errors);
    }
}

fn repeated_ports(ports: &[Value], kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let (mut seen, mut node_seen) = (BTreeSet::new(), BTreeSet::new());
    for (i, one) in ports.iter().enumerate() {
        let path = path.index(i);
        let (number, protocol) = (integer(one, "port"), text(one, "protocol"));
        if !seen.insert((number, protocol)) {
            errors.push(FieldError::duplicate(&path, json!({"protocol": protocol, "port": number})));
        }
        let node_port = integer(one, "nodePort");
        let path = path.child("nodePort");
        if node_port == 0 {
            continue;
        }
        if !matches!(kind, "NodePort" | "LoadBalancer") {
            let message = format!("may not be used when `type` is '{kind}'");
            errors.push(FieldError::forbidden(&path, message));
        } else if !NODE_PORTS.contains(&node_port) {
            let message = format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                NODE_PORTS.start(),
                NODE_PORTS.end()
            );
            errors.push(FieldError::invalid(&path, node_port, message));
        } else if !node_seen.insert((node_port, protocol)) {
            errors.push(FieldError::duplicate(&path, node_port));
        }
    }
}

fn addresses(spec: &Value, errors: &mut Errors) {
    let ip = text(spec, "clusterIP");
    if !matches!(ip, "" | "None") {
        messages(name::ip_address(ip), ip, &SPEC.child("clusterIPs").index(0), errors);
    }
    let first = texts(spec, "clusterIPs").next();
    if let Some(first) = first.filter(|first| *first != ip) {
        let message =
            "must be empty when `clusterIP` is not specified, or its first value must match `clusterIP`";
        errors.push(FieldError::invalid(&SPEC.child("clusterIPs"), first, message));
    }
    let external = SPEC.child("externalIPs");
    for (i, ip) in texts(spec, "externalIPs").enumerate() {
        let path = external.index(i);
        messages(name::ip_address(ip), ip, &path, errors);
        endpoint_address(ip, &path, errors);
    }
}

/// Addresses that must not receive service traffic.
fn endpoint_address(ip: &str, path: &Path<'_>, errors: &mut Errors) {
    let Ok(address) = ip.parse::<IpAddr>() else { return };
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let message = match address {
        a if a.is_unspecified() => format!("may not be unspecified ({a})"),
        a if a.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned(),
        _ if link_local => "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned(),
        a if a.is_multicast() => "may not be in the multicast range (224.0.0.0/4, ff00::/8)".to_owned(),
        _ => return,
    };
    errors.push(FieldError::invalid(path, ip, message));
}

fn endpoints(o: &Value, errors: &mut Errors) {
    let subsets = Path::root("subsets");
    for (i, subset) in list(o, "subsets").iter().enumerate() {
        let path = subsets.index(i);
        let (ready, not_ready) = (list(subset, "addresses"), list(subset, "notReadyAddresses"));
        if ready.is_empty() && not_ready.is_empty() {
            errors.push(FieldError::required(&path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for (field, all) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            let path = path.child(field);
            for (i, address) in all.iter().enumerate() {
                let path = path.index(i);
                let ip = text(address, "ip");
                messages(name::ip_address(ip), ip, &path.child("ip"), errors);
                endpoint_address(ip, &path.child("ip"), errors);
                check::optional_name(address, "hostname", name::dns1123_label, &path, errors);
            }
        }
        let ports_path = path.child("ports");
        let ports = list(subset, "ports");
        for (i, one) in ports.iter().enumerate() {
            let path = ports_path.index(i);
            endpoint_port(one, ports.len() > 1, &path, errors);
        }
    }
}

fn endpoint_port(one: &Value, several: bool, path: &Path<'_>, errors: &mut Errors) {
    match text(one, "name") {
        "" if several => errors.push(FieldError::required(&path.child("name"), "")),
        "" => {}
        name => messages(name::dns1123_label(name), name, &path.child("name"), errors),
    }
    let number = integer(one, "port");
    errors.extend(
        name::port_number(number).into_iter().map(|m| FieldError::invalid(&path.child("port"), number, m)),
    );
    one_of(one, "protocol", PROTOCOLS, path, errors);
}

fn slice(o: &Value, errors: &mut Errors) {
    let root = Path::root("");
    one_of(o, "addressType", &["FQDN", "IPv4", "IPv6"], &root, errors);
    let kind = text(o, "addressType");
    let list_path = Path::root("endpoints");
    if list(o, "endpoints").len() > 1000 {
        errors.push(FieldError::too_many(&list_path, list(o, "endpoints").len(), 1000));
    }
    for (i, endpoint) in list(o, "endpoints").iter().enumerate() {
        let path = list_path.index(i);
        slice_addresses(endpoint, kind, &path.child("addresses"), errors);
        check::optional_name(endpoint, "hostname", name::dns1123_label, &path, errors);
        check::optional_name(endpoint, "nodeName", name::dns1123_subdomain, &path, errors);
    }
    let ports_path = Path::root("ports");
    let mut names = BTreeSet::new();
    for (i, one) in list(o, "ports").iter().enumerate() {
        let path = ports_path.index(i);
        let name = text(one, "name");
        if !name.is_empty() {
            messages(name::dns1123_label(name), name, &path.child("name"), errors);
        }
        if !names.insert(name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
        one_of(one, "protocol", PROTOCOLS, &path, errors);
        if let Some(number) = number(one, "port") {
            let bad = name::port_number(number).into_iter();
            errors.extend(bad.map(|m| FieldError::invalid(&path.child("port"), number, m)));
        }
    }
}

fn slice_addresses(endpoint: &Value, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let count = list(endpoint, "addresses").len();
    match count {
        0 => errors.push(FieldError::required(path, "must contain at least 1 address")),
        1..=100 => {}
        _ => errors.push(FieldError::too_many(path, count, 100)),
    }
    for (i, address) in texts(endpoint, "addresses").enumerate() {
        let path = path.index(i);
        let parsed = address.parse::<IpAddr>().ok();
        match kind {
            "IPv4" if !parsed.is_some_and(|a| a.is_ipv4()) => {
                errors.push(FieldError::invalid(&path, address, "must be a valid IPv4 address"));
            }
            "IPv6" if !parsed.is_some_and(|a| a.is_ipv6()) => {
                errors.push(FieldError::invalid(&path, address, "must be a valid IPv6 address"));
            }
            "FQDN" => messages(name::dns1123_subdomain(address), address, &path, errors),
            _ => endpoint_address(address, &path, errors),
        }
    }
}

/// What may not change.
pub(super) fn update(plural: &str, new: &Value, old: &Value, errors: &mut Errors) {
    match plural {
        "endpointslices" => immutable(new, old, "addressType", &Path::root(""), errors),
        "services" => {
            let (new_spec, old_spec) = (&new["spec"], &old["spec"]);
            let external = |spec: &Value| text(spec, "type") == "ExternalName";
            let (now, before) = (text(new_spec, "clusterIP"), text(old_spec, "clusterIP"));
            if !external(new_spec) && !external(old_spec) && !before.is_empty() && now != before {
                let value = at(new_spec, "clusterIPs").cloned().unwrap_or_else(|| json!([now]));
                let path = SPEC.child("clusterIPs");
                errors.push(FieldError::invalid(&path.index(0), value, "may not change once set"));
            }
        }
        _ => {}
    }
}
