//! Pods and pod templates.

use serde_json::Value;

use super::Errors;
use super::check::{self, in_range, not_negative, one_of, optional_name, optional_one_of};
use super::metadata;
use crate::field_error::{FieldError, Path};
use crate::fields::{at, flag, list, text, texts};
use crate::name;

mod container;
mod env;
mod probe;
mod resources;
mod scheduling;
mod security;
mod update;
mod volume;

pub(super) use update::{ephemeral as update_ephemeral, main as update, resources as update_resources};

/// A pod that is created directly.
pub(super) fn create(pod: &Value, errors: &mut Errors) {
    let Some(spec_value) = at(pod, "spec") else {
        errors.push(FieldError::required(&Path::root("spec").child("containers"), ""));
        return;
    };
    let path = Path::root("spec");
    spec(spec_value, &path, errors);
    if !list(spec_value, "ephemeralContainers").is_empty() {
        errors.push(FieldError::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    if !text(spec_value, "nodeName").is_empty() && !list(spec_value, "schedulingGates").is_empty() {
        let message = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(&path.child("nodeName"), message));
    }
}

/// The template of a workload.
pub(super) fn template(template: &Value, path: &Path<'_>, errors: &mut Errors) {
    let metadata_path = path.child("metadata");
    if let Some(metadata_value) = at(template, "metadata") {
        check::labels(metadata_value, "labels", &metadata_path, errors);
        metadata::annotations(metadata_value, &metadata_path, errors);
    }
    let spec_path = path.child("spec");
    match at(template, "spec") {
        Some(value) => {
            spec(value, &spec_path, errors);
            if !list(value, "ephemeralContainers").is_empty() {
                let message = "ephemeral containers not allowed in pod template";
                errors.push(FieldError::forbidden(&spec_path.child("ephemeralContainers"), message));
            }
        }
        None => errors.push(FieldError::required(&spec_path.child("containers"), "")),
    }
}

/// The template of a workload whose pods are always restarted.
pub(super) fn always_template(value: &Value, path: &Path<'_>, kind: &str, errors: &mut Errors) {
    template(value, path, errors);
    let spec_path = path.child("spec");
    let restart = text(value, "spec.restartPolicy");
    if !matches!(restart, "Always" | "") {
        errors.push(FieldError::not_supported(&spec_path.child("restartPolicy"), restart, &["Always"]));
    }
    if at(value, "spec.activeDeadlineSeconds").is_some() {
        let message = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(FieldError::forbidden(&spec_path.child("activeDeadlineSeconds"), message));
    }
}

const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];

fn spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let volumes = volume::volumes(spec, path, errors);
    container::containers(spec, &volumes, path, errors);
    one_of(spec, "restartPolicy", &["Always", "OnFailure", "Never"], path, errors);
    one_of(spec, "dnsPolicy", DNS_POLICIES, path, errors);
    check::labels(spec, "nodeSelector", path, errors);
    security::pod(spec, path, errors);
    scheduling::pod(spec, path, errors);
    optional_name(spec, "serviceAccountName", name::dns1123_subdomain, path, errors);
    optional_name(spec, "nodeName", name::dns1123_subdomain, path, errors);
    optional_name(spec, "hostname", name::dns1123_label, path, errors);
    optional_name(spec, "subdomain", name::dns1123_label, path, errors);
    optional_name(spec, "priorityClassName", name::dns1123_subdomain, path, errors);
    optional_name(spec, "runtimeClassName", name::dns1123_subdomain, path, errors);
    optional_one_of(spec, "preemptionPolicy", &["Never", "PreemptLowerPriority"], path, errors);
    in_range(spec, "activeDeadlineSeconds", 1, i64::from(i32::MAX), path, errors);
    not_negative(spec, "terminationGracePeriodSeconds", path, errors);
    host_aliases(spec, path, errors);
    dns_config(spec, path, errors);
    let secrets = path.child("imagePullSecrets");
    for (i, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            errors.push(FieldError::required(&secrets.index(i).child("name"), ""));
        }
    }
    let overhead = path.child("overhead");
    for (resource, value) in crate::fields::map(spec, "overhead") {
        resources::amount(resource, value, &overhead, errors);
    }
    if let Some(os) = at(spec, "os") {
        optional_one_of(os, "name", &["linux", "windows"], &path.child("os"), errors);
    }
}

fn host_aliases(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let aliases = path.child("hostAliases");
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let path = aliases.index(i);
        let ip = text(alias, "ip");
        check::messages(name::ip_address(ip), ip, &path.child("ip"), errors);
        for host in texts(alias, "hostnames") {
            check::messages(name::dns1123_subdomain(host), host, &path.child("hostnames"), errors);
        }
    }
}

fn dns_config(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let config_path = path.child("dnsConfig");
    let servers = texts(spec, "dnsConfig.nameservers");
    if text(spec, "dnsPolicy") == "None" {
        if at(spec, "dnsConfig").is_none() {
            let message = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(FieldError::required(&config_path, message));
            return;
        }
        if list(spec, "dnsConfig.nameservers").is_empty() {
            let message = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(&config_path.child("nameservers"), message));
        }
    }
    let servers_path = config_path.child("nameservers");
    if list(spec, "dnsConfig.nameservers").len() > 3 {
        let value = at(spec, "dnsConfig.nameservers").cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(&servers_path, value, "must not have more than 3 nameservers"));
    }
    for (i, server) in servers.enumerate() {
        check::messages(name::ip_address(server), server, &servers_path.index(i), errors);
    }
    let searches_path = config_path.child("searches");
    for (i, search) in texts(spec, "dnsConfig.searches").enumerate() {
        let trimmed = search.strip_suffix('.').unwrap_or(search);
        check::messages(name::dns1123_subdomain(trimmed), search, &searches_path.index(i), errors);
    }
}

/// Whether a pod shares the node's network.
fn host_network(spec: &Value) -> bool {
    flag(spec, "hostNetwork")
}
