//! What a wasm container is told: its directories, its ports, whom it may reach. Nothing unless granted.

use std::path::{Path, PathBuf};

use catamaran_task::spec::{InstancePolicy, Outbound, WasmSpec};
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use super::{BundleError, Input, args, env, working_directory};
use crate::members::annotation;
use crate::mounts::{Access, BindMount};
use crate::qos::{self, Amounts};

/// `fresh` (default) or `reuse(max, concurrency, idle)`.
const INSTANCE: &str = "catamaran.dev/instance";
/// Host names and ranges outside the cluster that the pod may reach, separated by commas; `*` is anything.
const ALLOWED_HOSTS: &str = "catamaran.dev/allowed-hosts";
/// Seconds one request may take.
const REQUEST_TIMEOUT: &str = "catamaran.dev/request-timeout";

/// The TCP ports an HTTP component answers on; 80 when the container declares none.
pub(crate) fn http_ports(container: &Container) -> Vec<u16> {
    let tcp =
        container.ports.iter().flatten().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    let ports: Vec<u16> = tcp.filter_map(|port| u16::try_from(port.container_port).ok()).collect();
    if ports.is_empty() { vec![80] } else { ports }
}

/// The first argument is the program's name. An artifact has no entrypoint that would be it, so the container's name
/// stands in, unless the pod's `command` says it.
fn arguments(input: &Input<'_>) -> Vec<String> {
    let mut args = args(input);
    let given = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let config = &input.image.config;
    let unnamed = config.entrypoint.is_empty() && (given(&input.container.args) || config.cmd.is_empty());
    if unnamed && !given(&input.container.command) {
        args.insert(0, input.container.name.clone());
    }
    args
}

/// The parts of the runtime specification that a wasm host reads.
pub(super) fn runtime_spec(input: &Input<'_>) -> Value {
    let args = arguments(input);
    let env = env(input, &[("HOSTNAME", &input.hostname)]);
    let mounts: Vec<Value> = input.mounts.iter().chain(&files(input)).map(BindMount::to_oci).collect();
    json!({
        "ociVersion": "1.2.0",
        "hostname": input.hostname,
        "process": {"user": {"uid": 0, "gid": 0}, "args": args, "env": env, "cwd": working_directory(input)},
        "mounts": mounts,
        "linux": {"resources": resources(&Amounts::of(input.container))},
    })
}

/// The files that every pod finds, as directories, for WASI knows no mount of a file: `/etc` with `hosts`, `hostname`
/// and `resolv.conf`, and that of the termination message. Volumes at the same places hide them. An HTTP component
/// has none: each directory would cost every request, names are looked up by its host, and it does not end by itself.
fn files(input: &Input<'_>) -> Vec<BindMount> {
    if input.image.kind.serves_http() {
        return Vec::new();
    }
    let message = input.container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    let place = |path: Option<&Path>| path.map(Path::to_owned).unwrap_or_default();
    let message =
        (place(Path::new(message).parent()), place(input.termination_log.parent()), Access::ReadWrite);
    let etc = (PathBuf::from("/etc"), input.paths.etc(), Access::ReadOnly);
    let mut found: Vec<BindMount> = Vec::new();
    for (target, source, access) in [message, etc] {
        let taken = input.mounts.iter().chain(&found).any(|mount| mount.target == target);
        if !taken && target != Path::new("/") {
            found.push(BindMount { source, target, access, propagation: "rprivate" });
        }
    }
    found
}

fn resources(amounts: &Amounts) -> Value {
    let mut resources = json!({"cpu": {"shares": qos::cpu_shares(amounts.cpu_request.unwrap_or(0))}});
    if let Some(limit) = amounts.cpu_limit {
        resources["cpu"]["quota"] = json!(qos::cpu_quota(limit));
        resources["cpu"]["period"] = json!(100_000);
    }
    if let Some(limit) = amounts.memory_limit {
        resources["memory"] = json!({"limit": limit});
    }
    resources
}

pub(super) fn wasm_spec(input: &Input<'_>) -> Result<WasmSpec, BundleError> {
    let code = input.image.wasm.as_ref().ok_or(BundleError::NotCompiled)?;
    Ok(WasmSpec {
        artifact: code.artifact.clone(),
        compiled: code.compiled.clone(),
        pod_ip: input.sandbox.ip,
        http_ports: if input.image.kind.serves_http() { http_ports(input.container) } else { Vec::new() },
        instance: instance(input.pod)?,
        outbound: outbound(input.pod, input.cluster_ranges),
        resolvers: input.resolvers.clone(),
        request_timeout_seconds: request_timeout(input.pod)?,
    })
}

/// Pods, Services and cluster DNS; beyond the cluster only what the annotation names.
fn outbound(pod: &Pod, cluster: &[String]) -> Outbound {
    let named: Vec<String> = annotation(pod, ALLOWED_HOSTS)
        .unwrap_or_default()
        .split([',', ' '])
        .map(str::trim)
        .filter(|host| !host.is_empty())
        .map(str::to_owned)
        .collect();
    if named.iter().any(|host| host == "*") {
        return Outbound::All;
    }
    Outbound::Hosts(cluster.iter().cloned().chain(named).collect())
}

fn instance(pod: &Pod) -> Result<InstancePolicy, BundleError> {
    let Some(value) = annotation(pod, INSTANCE) else { return Ok(InstancePolicy::Fresh) };
    let wrong = || BundleError::Annotation {
        key: INSTANCE,
        value: value.to_owned(),
        expected: "say fresh, or reuse(REQUESTS, AT_A_TIME, IDLE_SECONDS)",
    };
    if value.trim() == "fresh" {
        return Ok(InstancePolicy::Fresh);
    }
    let inner =
        value.trim().strip_prefix("reuse(").and_then(|rest| rest.strip_suffix(')')).ok_or_else(wrong)?;
    let numbers: Vec<u32> =
        inner.split(',').map(|n| n.trim().parse()).collect::<Result<_, _>>().map_err(|_| wrong())?;
    match numbers[..] {
        [max, concurrency, idle_seconds] if max > 0 && concurrency > 0 => {
            Ok(InstancePolicy::Reuse { max, concurrency, idle_seconds })
        }
        _ => Err(wrong()),
    }
}

fn request_timeout(pod: &Pod) -> Result<Option<u32>, BundleError> {
    let Some(value) = annotation(pod, REQUEST_TIMEOUT) else { return Ok(None) };
    match value.trim().trim_end_matches('s').parse() {
        Ok(seconds) if seconds > 0 => Ok(Some(seconds)),
        _ => Err(BundleError::Annotation {
            key: REQUEST_TIMEOUT,
            value: value.to_owned(),
            expected: "say a number of seconds above 0",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(key: &str, value: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "annotations": {key: value}}})).unwrap()
    }

    #[test]
    fn instance_policies() {
        assert_eq!(instance(&Pod::default()).unwrap(), InstancePolicy::Fresh);
        assert_eq!(instance(&pod(INSTANCE, "fresh")).unwrap(), InstancePolicy::Fresh);
        let reuse = InstancePolicy::Reuse { max: 128, concurrency: 16, idle_seconds: 1 };
        assert_eq!(instance(&pod(INSTANCE, "reuse(128, 16, 1)")).unwrap(), reuse);
        for wrong in ["", "reuse", "reuse(1)", "reuse(0,1,1)", "reuse(1,2,3", "stale"] {
            assert!(instance(&pod(INSTANCE, wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn beyond_the_cluster_only_what_is_named() {
        let cluster = ["10.96.0.0/16".to_owned()];
        let hosts = |pod: &Pod| match outbound(pod, &cluster) {
            Outbound::Hosts(hosts) => hosts,
            other => panic!("{other:?}"),
        };
        assert_eq!(hosts(&Pod::default()), ["10.96.0.0/16"]);
        let named = pod(ALLOWED_HOSTS, "api.example.com, 192.0.2.0/24");
        assert_eq!(hosts(&named), ["10.96.0.0/16", "api.example.com", "192.0.2.0/24"]);
        assert_eq!(outbound(&pod(ALLOWED_HOSTS, "*"), &cluster), Outbound::All);
    }

    #[test]
    fn ports_default_to_80() {
        let container = |ports: Value| serde_json::from_value(json!({"name": "c", "ports": ports})).unwrap();
        assert_eq!(http_ports(&container(json!([]))), [80]);
        let ports = json!([{"containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]);
        assert_eq!(http_ports(&container(ports)), [8080]);
    }

    #[test]
    fn timeouts() {
        assert_eq!(request_timeout(&pod(REQUEST_TIMEOUT, "5s")).unwrap(), Some(5));
        assert_eq!(request_timeout(&pod(REQUEST_TIMEOUT, "5")).unwrap(), Some(5));
        assert!(request_timeout(&pod(REQUEST_TIMEOUT, "0")).is_err());
        assert!(request_timeout(&pod(REQUEST_TIMEOUT, "soon")).is_err());
    }
}
