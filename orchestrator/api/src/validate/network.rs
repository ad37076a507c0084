//! Ingresses, IngressClasses, NetworkPolicies.

use serde_json::Value;

use super::Errors;
use super::check::{immutable, messages, one_of, optional_one_of, port, required};
use super::cluster::cidr;
use crate::field_error::{FieldError, Path};
use crate::fields::{at, integer, list, text, texts};
use crate::{name, selector};

const SPEC: Path<'static> = Path::root("spec");

/// The rules of every state.
pub(super) fn validate(plural: &str, o: &Value, errors: &mut Errors) {
    match plural {
        "ingresses" => ingress(&o["spec"], errors),
        "ingressclasses" => ingress_class(&o["spec"], errors),
        "ipaddresses" => ip_address(o, errors),
        "networkpolicies" => policy(&o["spec"], errors),
        "servicecidrs" => {
            let path = SPEC.child("cidrs");
            let count = list(o, "spec.cidrs").len();
            if count == 0 {
                errors.push(FieldError::required(&path, "at least one CIDR required"));
            }
            if count > 2 {
                errors.push(FieldError::invalid(&SPEC, o["spec"].clone(), "may only hold up to 2 values"));
            }
            for (i, range) in texts(o, "spec.cidrs").enumerate() {
                cidr(range, &path.index(i), errors);
            }
        }
        _ => {}
    }
}

fn ingress_class(spec: &Value, errors: &mut Errors) {
    const LONGEST: usize = 250;
    let path = SPEC.child("controller");
    let Some(controller) = required(spec, "controller", &SPEC, errors) else { return };
    if controller.len() > LONGEST {
        errors.push(FieldError::too_long(&path, LONGEST));
    }
    let (domain, rest) = controller.split_once('/').unwrap_or((controller, ""));
    let mut wrong = name::dns1123_subdomain(domain);
    if rest.is_empty() {
        wrong.push("must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned());
    }
    messages(wrong, controller, &path, errors);
}

fn ip_address(o: &Value, errors: &mut Errors) {
    let name = text(o, "metadata.name");
    let canonical = name.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_string() == name);
    if !canonical {
        let path = Path::root("metadata");
        let message = "must be a canonical form IP address";
        errors.push(FieldError::invalid(&path.child("name"), name, message));
    }
    let path = SPEC.child("parentRef");
    if at(o, "spec.parentRef").is_none() {
        errors.push(FieldError::required(&path, ""));
        return;
    }
    for field in ["resource", "name"] {
        required(&o["spec"]["parentRef"], field, &path, errors);
    }
}

/// What may not change.
pub(super) fn update(plural: &str, new: &Value, old: &Value, errors: &mut Errors) {
    match plural {
        "ingressclasses" => immutable(&new["spec"], &old["spec"], "controller", &SPEC, errors),
        "ipaddresses" => immutable(&new["spec"], &old["spec"], "parentRef", &SPEC, errors),
        "servicecidrs" => immutable(&new["spec"], &old["spec"], "cidrs", &SPEC, errors),
        _ => {}
    }
}

fn ingress(spec: &Value, errors: &mut Errors) {
    let rules_path = SPEC.child("rules");
    let rules = list(spec, "rules");
    if rules.is_empty() && at(spec, "defaultBackend").is_none() {
        errors.push(FieldError::invalid(&SPEC, "", "either `defaultBackend` or `rules` must be specified"));
    }
    if let Some(backend) = at(spec, "defaultBackend") {
        ingress_backend(backend, &SPEC.child("defaultBackend"), errors);
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = rules_path.index(i);
        let host = text(rule, "host");
        if !host.is_empty() {
            let check = if host.contains('*') { name::wildcard_subdomain } else { name::dns1123_subdomain };
            messages(check(host), host, &path.child("host"), errors);
        }
        let http = path.child("http");
        let paths_path = http.child("paths");
        if at(rule, "http").is_some() && list(rule, "http.paths").is_empty() {
            errors.push(FieldError::required(&paths_path, ""));
        }
        for (i, one) in list(rule, "http.paths").iter().enumerate() {
            ingress_path(one, &paths_path.index(i), errors);
        }
    }
}

fn ingress_path(one: &Value, path: &Path<'_>, errors: &mut Errors) {
    let target = text(one, "path");
    if text(one, "pathType").is_empty() {
        errors.push(FieldError::required(&path.child("pathType"), "pathType must be specified"));
    }
    match text(one, "pathType") {
        "Exact" | "Prefix" if !target.starts_with('/') => {
            errors.push(FieldError::invalid(&path.child("path"), target, "must be an absolute path"));
        }
        "Exact" | "Prefix" => {
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if target.contains(bad) {
                    errors.push(FieldError::invalid(
                        &path.child("path"),
                        target,
                        format!("must not contain '{bad}'"),
                    ));
                }
            }
        }
        _ => optional_one_of(one, "pathType", &["Exact", "ImplementationSpecific", "Prefix"], path, errors),
    }
    let backend_path = path.child("backend");
    match at(one, "backend") {
        Some(backend) => ingress_backend(backend, &backend_path, errors),
        None => errors.push(FieldError::required(&backend_path, "")),
    }
}

fn ingress_backend(backend: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (service, resource) = (at(backend, "service"), at(backend, "resource"));
    match (service, resource) {
        (Some(_), Some(_)) => {
            errors.push(FieldError::invalid(path, "", "cannot set both resource and service backends"));
        }
        (None, None) => errors.push(FieldError::required(path, "")),
        (None, Some(resource)) => {
            required(resource, "name", &path.child("resource"), errors);
        }
        (Some(service), None) => {
            let path = path.child("service");
            if let Some(name) = required(service, "name", &path, errors) {
                messages(name::dns1035_label(name), name, &path.child("name"), errors);
            }
            let path = path.child("port");
            match (text(service, "port.name"), integer(service, "port.number")) {
                ("", 0) => errors.push(FieldError::required(&path, "port name or number is required")),
                ("", number) => {
                    let bad = name::port_number(number).into_iter();
                    errors.extend(bad.map(|m| FieldError::invalid(&path.child("number"), number, m)));
                }
                (name, 0) => messages(name::port_name(name), name, &path.child("name"), errors),
                _ => errors.push(FieldError::invalid(&path, "", "cannot set both port name & port number")),
            }
        }
    }
}

fn policy(spec: &Value, errors: &mut Errors) {
    if let Some(value) = at(spec, "podSelector") {
        errors.extend(selector::validate(value, &SPEC.child("podSelector")));
    }
    for (field, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules = SPEC.child(field);
        for (i, rule) in list(spec, field).iter().enumerate() {
            let path = rules.index(i);
            let ports = path.child("ports");
            for (i, one) in list(rule, "ports").iter().enumerate() {
                policy_port(one, &ports.index(i), errors);
            }
            let peers_path = path.child(peers);
            for (i, peer) in list(rule, peers).iter().enumerate() {
                policy_peer(peer, &peers_path.index(i), errors);
            }
        }
    }
    let types = SPEC.child("policyTypes");
    for (i, kind) in texts(spec, "policyTypes").enumerate() {
        if !matches!(kind, "Ingress" | "Egress") {
            errors.push(FieldError::not_supported(&types.index(i), kind, &["Egress", "Ingress"]));
        }
    }
}

fn policy_port(one: &Value, path: &Path<'_>, errors: &mut Errors) {
    if at(one, "protocol").is_some() {
        one_of(one, "protocol", &["SCTP", "TCP", "UDP"], path, errors);
    }
    let Some(first) = at(one, "port") else {
        if at(one, "endPort").is_some() {
            let message = "may not be specified when `port` is not specified";
            errors.push(FieldError::invalid(&path.child("endPort"), integer(one, "endPort"), message));
        }
        return;
    };
    port(Some(first), &path.child("port"), errors);
    if at(one, "endPort").is_some() {
        let end = integer(one, "endPort");
        let path = path.child("endPort");
        match first.as_i64() {
            Some(first) if end < first => {
                errors.push(FieldError::invalid(&path, end, "must be greater than or equal to `port`"));
            }
            Some(_) => {}
            None => errors.push(FieldError::invalid(
                &path,
                end,
                "may not be specified when `port` is non-numeric",
            )),
        }
    }
}

fn policy_peer(peer: &Value, path: &Path<'_>, errors: &mut Errors) {
    let selectors = ["podSelector", "namespaceSelector"];
    let given = selectors.iter().filter(|f| at(peer, f).is_some()).count();
    for field in selectors {
        if let Some(value) = at(peer, field) {
            errors.extend(selector::validate(value, &path.child(field)));
        }
    }
    match at(peer, "ipBlock") {
        Some(_) if given > 0 => {
            let message = "may not be specified when `podSelector` or `namespaceSelector` is specified";
            errors.push(FieldError::forbidden(&path.child("ipBlock"), message));
        }
        Some(block) => {
            let path = path.child("ipBlock");
            cidr(text(block, "cidr"), &path.child("cidr"), errors);
            let except = path.child("except");
            for (i, range) in texts(block, "except").enumerate() {
                cidr(range, &except.index(i), errors);
            }
        }
        None if given == 0 => errors.push(FieldError::required(path, "must specify a peer")),
        None => {}
    }
}
