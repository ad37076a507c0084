//! Registers this machine as a Node and keeps its status and lease alive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use catamaran_client::error::{Chain, is_already_exists};
use catamaran_client::lease::Heartbeat;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::AgentConfig;
use crate::context::Context;
use crate::images::detect::architecture;
use crate::runtime::HANDLERS;

/// The port of logs, exec and port-forward.
pub const PORT: i32 = 10250;
/// A status that did not change is written this often.
const REPORT: Duration = Duration::from_secs(300);
/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
/// Memory kept back for the node itself.
const RESERVED_MEMORY: i64 = 256 << 20;
/// Free space of the data directory below which the node says so, in percent.
const DISK_PRESSURE_PERCENT: u64 = 5;

/// What the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) cpus: i64,
    pub(crate) memory: i64,
    pub(crate) disk: u64,
    pub(crate) disk_free: u64,
}

/// Registers the node, then keeps it alive until dropped.
pub(crate) async fn run(context: Arc<Context>) {
    let api: Api<core::Node> = Api::all(context.client.clone());
    let node = loop {
        match register(&api, &context.config).await {
            Ok(node) => break node,
            Err(error) => {
                warn!(error = %Chain(&error), "the node cannot be registered yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    info!(node = context.config.node_name, "the node is registered");
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: context.config.node_name.clone(),
        uid: node.metadata.uid.unwrap_or_default(),
        ..OwnerReference::default()
    };
    let heartbeat = Heartbeat::of_node(&context.config.node_name, Some(owner)).run(context.client.clone());
    tokio::join!(heartbeat, keep_status(&api, &context));
}

/// Makes the Node, or brings its labels up to date.
async fn register(api: &Api<core::Node>, config: &AgentConfig) -> Result<core::Node, kube::Error> {
    let node = core::Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(config)),
            ..ObjectMeta::default()
        },
        spec: Some(core::NodeSpec::default()),
        ..core::Node::default()
    };
    match api.create(&PostParams::default(), &node).await {
        Err(error) if is_already_exists(&error) => {
            let patch = json!({"metadata": {"labels": labels(config)}});
            api.patch(&config.node_name, &PatchParams::default(), &Patch::Merge(patch)).await
        }
        other => other,
    }
}

fn labels(config: &AgentConfig) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([("kubernetes.io/hostname".to_owned(), config.node_name.clone())]);
    for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
        labels.insert(format!("{prefix}/os"), "linux".into());
        labels.insert(format!("{prefix}/arch"), architecture().into());
    }
    labels
}

async fn keep_status(api: &Api<core::Node>, context: &Context) {
    let mut written: Option<(Instant, core::NodeStatus)> = None;
    loop {
        let status = status(context, Timestamp::now());
        let due = written.as_ref().is_none_or(|(at, last)| at.elapsed() >= REPORT || !same(last, &status));
        if due {
            let old = written.as_ref().map(|(_, last)| last);
            let patch = Patch::Strategic(json!({"status": with_transitions(status.clone(), old)}));
            match api.patch_status(&context.config.node_name, &PatchParams::default(), &patch).await {
                Ok(_) => written = Some((Instant::now(), with_transitions(status, old))),
                Err(error) => {
                    warn!(error = %Chain(&error), "the node's status cannot be written yet");
                    tokio::time::sleep(RETRY).await;
                    if catamaran_client::error::is_not_found(&error)
                        && let Err(error) = register(api, &context.config).await
                    {
                        warn!(error = %Chain(&error), "the node cannot be registered again");
                    }
                    continue;
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Equal but for the times of heartbeats.
fn same(a: &core::NodeStatus, b: &core::NodeStatus) -> bool {
    let without_times = |status: &core::NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
            condition.last_transition_time = None;
        }
        status
    };
    without_times(a) == without_times(b)
}

/// A condition that says what it said before keeps its time.
fn with_transitions(mut status: core::NodeStatus, old: Option<&core::NodeStatus>) -> core::NodeStatus {
    let before: Vec<core::NodeCondition> = old.and_then(|old| old.conditions.clone()).unwrap_or_default();
    for condition in status.conditions.iter_mut().flatten() {
        let same = before.iter().find(|old| old.type_ == condition.type_ && old.status == condition.status);
        if let Some(time) = same.and_then(|old| old.last_transition_time.clone()) {
            condition.last_transition_time = Some(time);
        }
    }
    status
}

fn status(context: &Context, now: Timestamp) -> core::NodeStatus {
    let config = &context.config;
    let capacity = Capacity::of_this_machine(&config.data_dir);
    let address = |kind: &str, address: String| core::NodeAddress { type_: kind.into(), address };
    core::NodeStatus {
        addresses: Some(vec![
            address("InternalIP", config.node_address.to_string()),
            address("Hostname", config.node_name.clone()),
        ]),
        capacity: Some(quantities(&capacity, config.max_pods, capacity.memory)),
        allocatable: Some(quantities(&capacity, config.max_pods, (capacity.memory - RESERVED_MEMORY).max(0))),
        conditions: Some(conditions(&capacity, now)),
        daemon_endpoints: Some(core::NodeDaemonEndpoints {
            kubelet_endpoint: Some(core::DaemonEndpoint { port: PORT }),
        }),
        node_info: Some(node_info()),
        runtime_handlers: Some(
            HANDLERS
                .iter()
                .map(|name| core::NodeRuntimeHandler { name: Some((*name).to_owned()), features: None })
                .collect(),
        ),
        images: Some(images(context)),
        ..core::NodeStatus::default()
    }
}

fn images(context: &Context) -> Vec<core::ContainerImage> {
    let mut all = context.images.all();
    all.sort_by_key(|image| std::cmp::Reverse(image.size));
    let list = all.into_iter().take(50).map(|image| core::ContainerImage {
        names: Some(vec![image.repo_digest.clone(), image.reference.clone()]),
        size_bytes: i64::try_from(image.size).ok(),
    });
    list.collect()
}

fn quantities(capacity: &Capacity, pods: u32, memory: i64) -> BTreeMap<String, Quantity> {
    BTreeMap::from([
        ("cpu".to_owned(), Quantity(capacity.cpus.to_string())),
        ("memory".to_owned(), Quantity(format!("{}Ki", memory / 1024))),
        ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", capacity.disk / 1024))),
        ("pods".to_owned(), Quantity(pods.to_string())),
    ])
}

fn conditions(capacity: &Capacity, now: Timestamp) -> Vec<core::NodeCondition> {
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| core::NodeCondition {
        type_: kind.into(),
        status: if holds { "True" } else { "False" }.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    let full = capacity.disk_free < capacity.disk / 100 * DISK_PRESSURE_PERCENT;
    vec![
        condition(
            "MemoryPressure",
            false,
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        if full {
            condition("DiskPressure", true, "KubeletHasDiskPressure", "kubelet has disk pressure")
        } else {
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
        },
        condition("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
    ]
}

fn node_info() -> core::NodeSystemInfo {
    let read =
        |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let release = read("/etc/os-release");
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    core::NodeSystemInfo {
        architecture: architecture().into(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: concat!("catamaran://", env!("CARGO_PKG_VERSION")).into(),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kubelet_version: concat!("v1.33.0+catamaran.", env!("CARGO_PKG_VERSION")).into(),
        machine_id: read("/etc/machine-id"),
        operating_system: "linux".into(),
        os_image: name.map_or_else(|| "Linux".into(), |name| name.trim_matches('"').to_owned()),
        system_uuid: read("/sys/class/dmi/id/product_uuid"),
        ..core::NodeSystemInfo::default()
    }
}

impl Capacity {
    /// What this machine has; the disk is that of `data`.
    pub(crate) fn of_this_machine(data: &std::path::Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1));
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let (disk, disk_free) = rustix::fs::statvfs(data)
            .map_or((0, 0), |stat| (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize));
        Capacity { cpus, memory: total_memory(&meminfo), disk, disk_free }
    }
}

/// `MemTotal` of `/proc/meminfo`, bytes.
fn total_memory(meminfo: &str) -> i64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<i64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        assert_eq!(total_memory("MemTotal:       24000000 kB\nMemFree: 1 kB\n"), 24_000_000 * 1024);
        assert_eq!(total_memory(""), 0);
        assert!(Capacity::of_this_machine(std::path::Path::new("/")).memory > 0);
    }

    #[test]
    fn a_heartbeat_is_no_change_and_keeps_the_time_of_a_transition() {
        let capacity = Capacity { cpus: 2, memory: 1, disk: 1000, disk_free: 900 };
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let status = |free, time| core::NodeStatus {
            conditions: Some(conditions(&Capacity { disk_free: free, ..capacity }, at(time))),
            ..core::NodeStatus::default()
        };
        assert!(same(&status(900, 1), &status(900, 2)));
        assert!(!same(&status(900, 1), &status(10, 2)));
        let later = with_transitions(status(10, 2), Some(&status(900, 1)));
        let times: Vec<_> =
            later.conditions.unwrap().into_iter().map(|c| c.last_transition_time.unwrap().0).collect();
        assert_eq!(times, [at(1), at(2), at(1), at(1)]);
    }
}
