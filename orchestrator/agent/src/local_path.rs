//! Removes the directories of volumes of the class `local-path` on this node: when a PersistentVolume is to be deleted
//! and no claim has it any more. That it is done stands in the volume's status, and whoever deletes it goes on.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use catamaran_api::local_path::{FINALIZER, NODE_LABEL, PROVISIONER, REMOVED, VOLUME_IN_USE, is_handle};
use catamaran_client::error::{Chain, is_not_found};
use catamaran_client::{EventType, object};
use futures::StreamExt;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use serde_json::json;
use tracing::{info, warn};

use crate::context::Context;

/// How soon a directory that could not be removed is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// Works until dropped.
pub(crate) async fn run(context: Arc<Context>) {
    let api: Api<PersistentVolume> = Api::all(context.client.clone());
    let mut events = Box::pin(watcher::watcher(api.clone(), watcher::Config::default()).default_backoff());
    let mut failed: Vec<PersistentVolume> = Vec::new();
    loop {
        let due = tokio::select! {
            event = events.next() => match event {
                Some(Ok(Event::Apply(volume) | Event::InitApply(volume))) => vec![volume],
                Some(Ok(_)) => Vec::new(),
                Some(Err(error)) => {
                    warn!(error = %Chain(&error), "PersistentVolumes cannot be watched; trying again");
                    Vec::new()
                }
                None => return,
            },
            () = tokio::time::sleep(AGAIN), if !failed.is_empty() => std::mem::take(&mut failed),
        };
        for volume in due {
            if let Err(Unfinished) = settle(&context, &api, &volume).await {
                failed.push(volume);
            }
        }
    }
}

/// It is tried again.
struct Unfinished;

async fn settle(
    context: &Context,
    api: &Api<PersistentVolume>,
    volume: &PersistentVolume,
) -> Result<(), Unfinished> {
    let Some(handle) = to_remove(volume, &context.config.node_name) else { return Ok(()) };
    let (root, directory) = (context.paths.local_volumes(), handle.to_owned());
    let removed = tokio::task::spawn_blocking(move || remove(&root, &directory)).await;
    let name = object::name(&volume.metadata);
    if let Err(error) = removed.map_err(io::Error::other).and_then(|done| done) {
        warn!(volume = name, error = %Chain(&error), "the directory of a volume cannot be removed");
        let about = kube::Resource::object_ref(volume, &());
        context.events.publish(about, EventType::Warning, "VolumeFailedDelete", Chain(&error).to_string());
        return Err(Unfinished);
    }
    let message = format!("the directory on node {} is removed", context.config.node_name);
    let patch =
        json!({"metadata": {"uid": volume.metadata.uid}, "status": {"reason": REMOVED, "message": message}});
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => info!(volume = name, "the directory of a volume is removed"),
        Err(error) if is_not_found(&error) => {}
        Err(error) => {
            warn!(volume = name, error = %Chain(&error), "that a directory is removed cannot be told yet");
            return Err(Unfinished);
        }
    }
    Ok(())
}

/// The handle of a volume whose directory on `node` must go now.
fn to_remove<'a>(volume: &'a PersistentVolume, node: &str) -> Option<&'a str> {
    let spec = volume.spec.as_ref()?;
    let csi = spec.csi.as_ref().filter(|csi| csi.driver == PROVISIONER && is_handle(&csi.volume_handle))?;
    let keeps = |finalizer: &str| volume.metadata.finalizers.iter().flatten().any(|one| one == finalizer);
    let told = volume.status.as_ref().and_then(|status| status.reason.as_deref()) == Some(REMOVED);
    let terms = spec.node_affinity.as_ref()?.required.as_ref()?.node_selector_terms.iter();
    let mut wanted = terms.flat_map(|term| term.match_expressions.iter().flatten());
    let ours = wanted
        .any(|wanted| wanted.key == NODE_LABEL && wanted.values.iter().flatten().any(|value| value == node));
    let due = object::is_being_deleted(&volume.metadata)
        && spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete")
        && keeps(FINALIZER)
        && !keeps(VOLUME_IN_USE)
        && ours
        && !told;
    due.then_some(csi.volume_handle.as_str())
}

/// Removes the directory with all that is in it; nothing is an error that is gone already.
fn remove(root: &Path, handle: &str) -> io::Result<()> {
    let (place, going) = (root.join(handle), root.join(format!(".{handle}.removed")));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    if let Some(point) = mounted_below(&mounts, &place) {
        let text = format!("{point} is still mounted in the volume");
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
    }
    // A directory that is half-removed has its name no longer.
    for (from, to) in [(&going, None), (&place, Some(&going))] {
        match to {
            Some(to) => match std::fs::rename(from, to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => other?,
            },
            None => gone(std::fs::remove_dir_all(from))?,
        }
    }
    gone(std::fs::remove_dir_all(&going))
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A mount point below `place`, from the text of `/proc/self/mountinfo`.
fn mounted_below<'a>(mountinfo: &'a str, place: &Path) -> Option<&'a str> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points.into_iter().find(|point| Path::new(point).starts_with(place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn volume(change: impl Fn(&mut Value)) -> PersistentVolume {
        let mut volume = json!({
            "metadata": {"name": "pvc-1", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FINALIZER]},
            "spec": {
                "persistentVolumeReclaimPolicy": "Delete", "csi": {"driver": PROVISIONER, "volumeHandle": "pvc-1"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": NODE_LABEL, "operator": "In", "values": ["n1"]}]}]}},
            },
            "status": {"phase": "Released"},
        });
        change(&mut volume);
        serde_json::from_value(volume).unwrap()
    }

    #[test]
    fn only_what_is_ours_and_given_up_is_removed() {
        type Change = fn(&mut Value);
        let table: [(Change, Option<&str>); 8] = [
            (|_| {}, Some("pvc-1")),
            (|v| v["metadata"]["deletionTimestamp"] = Value::Null, None),
            (|v| v["metadata"]["finalizers"] = json!([FINALIZER, VOLUME_IN_USE]), None),
            (|v| v["metadata"]["finalizers"] = json!([]), None),
            (|v| v["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain"), None),
            (|v| v["spec"]["csi"]["driver"] = json!("other"), None),
            (|v| v["spec"]["csi"]["volumeHandle"] = json!("../x"), None),
            (|v| v["status"]["reason"] = json!(REMOVED), None),
        ];
        for (at, (change, expected)) in table.into_iter().enumerate() {
            assert_eq!(to_remove(&volume(change), "n1"), expected, "row {at}");
        }
        assert_eq!(to_remove(&volume(|_| {}), "n2"), None);
    }

    #[test]
    fn a_directory_goes_whole() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("pvc-1");
        for _ in 0..2 {
            std::fs::create_dir_all(place.join("deep")).unwrap();
            std::fs::create_dir_all(dir.path().join(".pvc-1.removed/left")).unwrap();
            std::fs::write(place.join("deep/f"), "x").unwrap();
            remove(dir.path(), "pvc-1").unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
        remove(dir.path(), "pvc-1").unwrap();
        remove(&dir.path().join("none"), "pvc-1").unwrap();
    }

    #[test]
    fn nothing_is_removed_below_a_mount() {
        let text =
            "22 1 8:1 / / rw - ext4 /dev/sda rw\n40 22 0:5 / /data/local-path/pvc-1/m rw - tmpfs t rw\n";
        let below = |place: &str| mounted_below(text, Path::new(place));
        assert_eq!(below("/data/local-path/pvc-1"), Some("/data/local-path/pvc-1/m"));
        assert_eq!(below("/data/local-path/pvc-2"), None);
    }
}
