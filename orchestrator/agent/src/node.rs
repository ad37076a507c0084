//! Registers this machine as a Node and keeps its status and lease alive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use catamaran_api::quantity::Quantity as Amount;
use catamaran_client::error::{Chain, is_already_exists, is_not_found};
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
/// Free space of the data directory's file system below which the node says so: a share of it, but of a large one no
/// more than pulling an image needs. A machine of its own user may be fuller than a server and still fine.
const DISK_PRESSURE_PERCENT: u64 = 5;
const DISK_PRESSURE_MOST: u64 = 1 << 30;
/// Available memory below which the node says so, in bytes.
const MEMORY_PRESSURE: i64 = 100 << 20;
/// Free process ids below which the node says so, in percent.
const PID_PRESSURE_PERCENT: u64 = 5;

/// What the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) cpus: i64,
    pub(crate) memory: i64,
    pub(crate) memory_available: i64,
    pub(crate) disk: u64,
    pub(crate) disk_free: u64,
    pub(crate) pids: u64,
    pub(crate) pids_used: u64,
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

/// Compares what the API says of the node with what is the case, and writes where they differ: others write there
/// too (a node that was silent for a while is declared unknown), and somebody may have removed the node.
async fn keep_status(api: &Api<core::Node>, context: &Context) {
    let mut written: Option<Instant> = None;
    loop {
        match report(api, context, written.is_none_or(|at| at.elapsed() >= REPORT)).await {
            Ok(Written::Yes) => written = Some(Instant::now()),
            Ok(Written::No) => {}
            Err(error) => {
                warn!(error = %Chain(&error), "the node's status cannot be written yet");
                written = None;
                tokio::time::sleep(RETRY).await;
                continue;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    Yes,
    No,
}

async fn report(api: &Api<core::Node>, context: &Context, due: bool) -> Result<Written, kube::Error> {
    let name = &context.config.node_name;
    let node = match api.get(name).await {
        Err(error) if is_not_found(&error) => register(api, &context.config).await?,
        other => other?,
    };
    let said = node.status.unwrap_or_default();
    let status = status(context, Timestamp::now());
    if !due && same(&said, &status) {
        return Ok(Written::No);
    }
    let patch = Patch::Strategic(json!({"status": with_transitions(status, Some(&said))}));
    api.patch_status(name, &PatchParams::default(), &patch).await?;
    Ok(Written::Yes)
}

/// Whether `said` has all that `status` says, but for the times of heartbeats. What others write beside it does not
/// count.
fn same(said: &core::NodeStatus, status: &core::NodeStatus) -> bool {
    let conditions_hold = status.conditions.iter().flatten().all(|condition| {
        let mut all = said.conditions.iter().flatten();
        all.any(|old| {
            (&old.type_, &old.status, &old.reason) == (&condition.type_, &condition.status, &condition.reason)
        })
    });
    conditions_hold
        && said.addresses == status.addresses
        && amounts(said.capacity.as_ref()) == amounts(status.capacity.as_ref())
        && amounts(said.allocatable.as_ref()) == amounts(status.allocatable.as_ref())
        && said.node_info == status.node_info
        && said.images.as_deref().unwrap_or_default() == status.images.as_deref().unwrap_or_default()
}

/// The same amount may be written in several ways.
fn amounts(quantities: Option<&BTreeMap<String, Quantity>>) -> BTreeMap<&str, Option<i64>> {
    let all = quantities.into_iter().flatten();
    all.map(|(name, quantity)| (name.as_str(), Amount::parse(&quantity.0).ok().map(Amount::value))).collect()
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
    let pressure =
        |kind: &str, holds: bool, (bad, bad_text): (&str, &str), (good, good_text): (&str, &str)| {
            if holds { condition(kind, true, bad, bad_text) } else { condition(kind, false, good, good_text) }
        };
    vec![
        pressure(
            "MemoryPressure",
            capacity.lacks_memory(),
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            capacity.lacks_disk(),
            (
                "KubeletHasDiskPressure",
                "kubelet has disk pressure: less than 5 % and less than 1 GiB is free where the data directory is",
            ),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            capacity.pids.saturating_sub(capacity.pids_used) < capacity.pids / 100 * PID_PRESSURE_PERCENT,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
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
    /// Is there too little memory for what may come next?
    pub(crate) fn lacks_memory(&self) -> bool {
        self.memory_available < MEMORY_PRESSURE
    }

    /// Bytes of memory below which that is so.
    pub(crate) fn least_memory() -> u64 {
        MEMORY_PRESSURE.unsigned_abs()
    }

    /// Is the disk too full?
    pub(crate) fn lacks_disk(&self) -> bool {
        self.disk_free < self.least_disk()
    }

    /// Free bytes of the disk below which that is so.
    pub(crate) fn least_disk(&self) -> u64 {
        (self.disk / 100 * DISK_PRESSURE_PERCENT).min(DISK_PRESSURE_MOST)
    }

    /// What this machine has; the disk is that of `data`.
    pub(crate) fn of_this_machine(data: &std::path::Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1));
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let (disk, disk_free) = rustix::fs::statvfs(data)
            .map_or((0, 0), |stat| (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize));
        let number =
            |path: &str| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
        let most = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        let pids = most(number("/proc/sys/kernel/pid_max"), number("/proc/sys/kernel/threads-max"));
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Capacity {
            cpus,
            memory: amount(&meminfo, "MemTotal:").unwrap_or(0),
            // A kernel that does not say has enough.
            memory_available: amount(&meminfo, "MemAvailable:").unwrap_or(i64::MAX),
            disk,
            disk_free,
            pids: pids.unwrap_or(u64::MAX),
            pids_used: threads(&load),
        }
    }
}

/// A line of `/proc/meminfo`, in bytes.
fn amount(meminfo: &str, key: &str) -> Option<i64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.split_whitespace().next()?.parse::<i64>().ok()? * 1024)
}

/// The number of tasks, from `/proc/loadavg` (`0.20 0.18 0.12 1/80 11206`).
fn threads(loadavg: &str) -> u64 {
    let field = loadavg.split_whitespace().nth(3).and_then(|field| field.split_once('/'));
    field.and_then(|(_, total)| total.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity() -> Capacity {
        Capacity {
            cpus: 2,
            memory: 1 << 30,
            memory_available: 1 << 30,
            disk: 1000,
            disk_free: 900,
            pids: 1000,
            pids_used: 10,
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn status(capacity: Capacity, time: i64) -> core::NodeStatus {
        core::NodeStatus { conditions: Some(conditions(&capacity, at(time))), ..core::NodeStatus::default() }
    }

    #[test]
    fn the_machine_is_read() {
        let meminfo = "MemTotal:       24000000 kB\nMemFree: 1 kB\n";
        assert_eq!(amount(meminfo, "MemTotal:"), Some(24_000_000 * 1024));
        assert_eq!(amount(meminfo, "MemAvailable:"), None);
        assert_eq!(threads("0.20 0.18 0.12 1/80 11206\n"), 80);
        assert_eq!(threads(""), 0);
        let here = Capacity::of_this_machine(std::path::Path::new("/"));
        assert!(here.memory > 0 && here.disk > 0 && here.pids > here.pids_used && here.pids_used > 0);
    }

    #[test]
    fn pressure_is_told() {
        let table = [
            (capacity(), ["False", "False", "False", "True"]),
            (Capacity { memory_available: 1 << 20, ..capacity() }, ["True", "False", "False", "True"]),
            (Capacity { disk_free: 10, ..capacity() }, ["False", "True", "False", "True"]),
            (
                Capacity { disk: 1 << 40, disk_free: 2 << 30, ..capacity() },
                ["False", "False", "False", "True"],
            ),
            (
                Capacity { disk: 1 << 40, disk_free: 1 << 29, ..capacity() },
                ["False", "True", "False", "True"],
            ),
            (Capacity { pids_used: 990, ..capacity() }, ["False", "False", "True", "True"]),
        ];
        for (capacity, expected) in table {
            let said: Vec<String> = conditions(&capacity, at(1)).into_iter().map(|c| c.status).collect();
            assert_eq!(said, expected, "{capacity:?}");
        }
    }

    #[test]
    fn a_heartbeat_is_no_change_and_keeps_the_time_of_a_transition() {
        let full = Capacity { disk_free: 10, ..capacity() };
        assert!(same(&status(capacity(), 1), &status(capacity(), 2)));
        assert!(!same(&status(capacity(), 1), &status(full, 2)));
        let later = with_transitions(status(full, 2), Some(&status(capacity(), 1)));
        let times: Vec<_> =
            later.conditions.unwrap().into_iter().map(|c| c.last_transition_time.unwrap().0).collect();
        assert_eq!(times, [at(1), at(2), at(1), at(1)]);
    }

    #[test]
    fn what_others_said_is_put_right_and_what_they_added_stays() {
        let mut said = status(capacity(), 1);
        let conditions = said.conditions.as_mut().unwrap();
        let added =
            core::NodeCondition { type_: "Added".into(), status: "True".into(), ..Default::default() };
        conditions.push(added);
        assert!(same(&said, &status(capacity(), 2)));
        said.conditions.as_mut().unwrap()[3].status = "Unknown".into();
        assert!(!same(&said, &status(capacity(), 2)));
        assert!(!same(&core::NodeStatus::default(), &status(capacity(), 2)));
    }
}
