//! Takes pods off the node that use more of its disk than they may, and when memory or disk run out those that the
//! rules name. Before pods go for want of disk, images go that nobody uses.
//!
//! | file | what |
//! | --- | --- |
//! | `limits` | what exceeds its own limit (pure) |
//! | `rank` | who goes first under pressure (pure) |
//! | `usage` | what files take |

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catamaran_client::EventType;
use catamaran_client::error::Chain;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::PodPaths;
use crate::context::Context;
use crate::members::{members, name, namespace, uid};
use crate::node::Capacity;
use crate::record::{PodRecord, parse_container_id};

mod limits;
mod rank;
mod usage;

use limits::Storage;
use rank::{Candidate, Starved};

/// `status.reason` of an evicted pod.
pub(crate) const EVICTED: &str = "Evicted";
/// Seconds that the containers of an evicted pod have to end.
pub(crate) const GRACE: i64 = 1;
/// How often pods and node are looked at (the kubelet's).
const LOOK: Duration = Duration::from_secs(10);
/// How long a pod that was evicted for the node's sake may take to be gone before another one goes.
const CLEAN_UP: Duration = Duration::from_secs(30);
/// Under pressure only content that is younger than this may belong to a pull that is under way.
const YOUNG: Duration = Duration::from_secs(300);

/// Why pods of this node must go, by UID; their workers take it from here.
#[derive(Default)]
pub(crate) struct Evictions {
    all: Mutex<HashMap<String, String>>,
}

impl Evictions {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        // A panic while holding it cannot leave the map half-changed.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pod must go, for this reason.
    pub(crate) fn put(&self, uid: &str, message: String) {
        self.lock().insert(uid.to_owned(), message);
    }

    /// Takes the message for a pod out.
    pub(crate) fn take(&self, uid: &str) -> Option<String> {
        self.lock().remove(uid)
    }
}

/// Works until dropped.
pub(crate) async fn run(context: Arc<Context>) {
    loop {
        tokio::time::sleep(LOOK).await;
        if !over_their_limits(&context).await {
            relieve(&context).await;
        }
    }
}

/// Those of the node's pods that `wanted` picks, have not ended and are not about to.
fn active(context: &Context, wanted: impl Fn(&Pod) -> bool) -> Vec<Arc<Pod>> {
    let mut pods = context.roster.all();
    pods.retain(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let lives =
            pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"));
        // The record is a file: it is read last.
        lives && wanted(pod) && {
            let record = PodRecord::load(&context.paths.pod(uid(pod)).record());
            !record.released && record.failed.is_none()
        }
    });
    pods
}

fn evict(context: &Context, pod: &Pod, message: String) {
    info!(pod = name(pod), namespace = namespace(pod), message, "a pod is evicted");
    context.evictions.put(uid(pod), message);
    context.wakers.wake(uid(pod));
}

/// Evicts every pod that stores more than it may. Whether there was one.
async fn over_their_limits(context: &Arc<Context>) -> bool {
    let mut any = false;
    for pod in active(context, limits::has_limit) {
        let Some(storage) = stored(context, &pod).await else { continue };
        if let Some(message) = limits::exceeded(&pod, &storage) {
            evict(context, &pod, message);
            any = true;
        }
    }
    any
}

/// What the files of a pod take; `None` where they cannot be looked at.
async fn stored(context: &Context, pod: &Arc<Pod>) -> Option<Storage> {
    let paths = context.paths.pod(uid(pod));
    let logs = context.paths.log_dir(namespace(pod), name(pod), uid(pod));
    let of = Arc::clone(pod);
    let measured = tokio::task::spawn_blocking(move || measure(&of, &paths, &logs)).await;
    match measured.map_err(std::io::Error::other).and_then(|done| done) {
        Ok(storage) => Some(storage),
        Err(error) => {
            warn!(pod = name(pod), error = %Chain(&error), "what a pod stores cannot be measured");
            None
        }
    }
}

fn measure(pod: &Pod, paths: &PodPaths, logs: &std::path::Path) -> std::io::Result<Storage> {
    let mut storage = Storage::default();
    for volume in limits::counted_volumes(pod) {
        storage.volumes.insert(volume.to_owned(), usage::of(&paths.volume(volume))?);
    }
    for member in members(pod) {
        let written = usage::of(&paths.container(member.name()))? + usage::of(&logs.join(member.name()))?;
        storage.containers.insert(member.name().to_owned(), written);
    }
    Ok(storage)
}

/// Does something about a node that runs out of memory or disk.
async fn relieve(context: &Arc<Context>) {
    let capacity = Capacity::of_this_machine(&context.config.data_dir);
    if capacity.lacks_disk() {
        collect_images(context);
    }
    let capacity = Capacity::of_this_machine(&context.config.data_dir);
    let (starved, threshold, available) = if capacity.lacks_memory() {
        let available = u64::try_from(capacity.memory_available).unwrap_or(0);
        (Starved::Memory, Capacity::least_memory(), available)
    } else if capacity.lacks_disk() {
        (Starved::Disk, capacity.least_disk(), capacity.disk_free)
    } else {
        return;
    };
    let node = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: Some(context.config.node_name.clone()),
        uid: Some(context.config.node_name.clone()),
        ..ObjectReference::default()
    };
    let text = format!("Attempting to reclaim {}", starved.resource());
    context.events.publish(node, EventType::Warning, "EvictionThresholdMet", text);
    let Some(gone) = rank::first(candidates(context, starved).await, starved) else {
        warn!(resource = starved.resource(), "the node is low on a resource, and no pod may be evicted");
        return;
    };
    let message = rank::message(&gone, starved, threshold, available);
    evict(context, &gone.pod, message);
    wait_for_release(context, uid(&gone.pod)).await;
}

/// Images that no pod uses go, however short ago they were used.
fn collect_images(context: &Context) {
    match context.images.collect(&crate::used_images(context), Duration::ZERO, YOUNG) {
        Ok(0) => {}
        Ok(freed) => info!(freed, "unused images are removed: the disk is nearly full"),
        Err(error) => warn!(error = %Chain(&error), "unused images cannot be removed"),
    }
}

async fn candidates(context: &Arc<Context>, starved: Starved) -> Vec<Candidate> {
    let mut memory = match starved {
        Starved::Memory => memory(context).await,
        Starved::Disk => BTreeMap::new(),
    };
    let mut found = Vec::new();
    for pod in active(context, |_| true) {
        let (containers, besides) = match starved {
            Starved::Memory => (memory.remove(uid(&pod)).unwrap_or_default(), 0),
            Starved::Disk => match stored(context, &pod).await {
                Some(storage) => (storage.containers.into_iter().collect(), storage.volumes.values().sum()),
                None => continue,
            },
        };
        found.push(Candidate { pod, containers, besides });
    }
    found
}

/// Bytes of memory that containers use, by the UID of their pod.
async fn memory(context: &Arc<Context>) -> BTreeMap<String, Vec<(String, u64)>> {
    let mut all: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for shim in context.shims.known().await {
        for stats in shim.stats(&[]).await.unwrap_or_default() {
            if let Some((uid, container, _)) = parse_container_id(&stats.id) {
                let of_pod = all.entry(uid.to_owned()).or_default();
                of_pod.push((container.to_owned(), stats.working_set_bytes));
            }
        }
    }
    all
}

async fn wait_for_release(context: &Context, uid: &str) {
    let record = context.paths.pod(uid).record();
    let deadline = Instant::now() + CLEAN_UP;
    while Instant::now() < deadline && record.exists() && !PodRecord::load(&record).released {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_of_volumes_and_containers_are_measured() {
        let dir = tempfile::tempdir().unwrap();
        let paths = PodPaths { root: dir.path().join("pod"), run: dir.path().join("run") };
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}], "volumes": [
            {"name": "d", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory"}}]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let big = vec![7; 1 << 20];
        for directory in
            [paths.volume("d"), paths.volume("m"), paths.container("c"), dir.path().join("logs/c")]
        {
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("f"), &big).unwrap();
        }
        let storage = measure(&pod, &paths, &dir.path().join("logs")).unwrap();
        let mib = |bytes: u64| bytes >> 20;
        assert_eq!((mib(storage.volumes["d"]), storage.volumes.len()), (1, 1));
        assert_eq!((mib(storage.containers["c"]), mib(storage.total())), (2, 3));
    }
}
