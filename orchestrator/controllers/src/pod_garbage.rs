//! Pods that nobody will ever report on again: their node is gone, they were never bound and are to be deleted,
//! or there are too many that have ended.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio::time::Instant;
use tracing::{debug, info_span, warn};

use catamaran_client::error::{Chain, is_not_found};
use catamaran_client::{Key, object};

use crate::caches::Caches;
use crate::pod::Pod;

/// The time between two looks.
const INTERVAL: Duration = Duration::from_secs(20);
/// How long a node must be gone before its pods are: it may just be on its way.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Why a pod is garbage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// Its node is gone.
    Orphaned,
    /// It is to be deleted and no node has it.
    NeverBound,
    /// It has ended, and there are too many of these.
    Ended,
}

/// Runs the controller for ever. At most `ended` pods that have ended are kept.
pub(crate) async fn run(client: Client, caches: Caches, ended: usize) {
    caches.pods.ready().await;
    caches.nodes.ready().await;
    let mut missing: Vec<(String, Instant)> = Vec::new();
    loop {
        let span = info_span!("reconcile", controller = "podgarbage");
        let gone = gone_nodes(&client, &caches, &mut missing).await;
        for (pod, reason) in garbage(&caches.pods.list(), &gone, ended) {
            span.in_scope(|| debug!(pod = %Key::of(&*pod), ?reason, "collected"));
            if let Err(error) = collect(&client, &pod, reason).await {
                warn!(pod = %Key::of(&*pod), error = %Chain(&error), "the pod could not be collected");
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Nodes that pods name and that are gone for long enough, asked from the server to be sure.
async fn gone_nodes(
    client: &Client,
    caches: &Caches,
    missing: &mut Vec<(String, Instant)>,
) -> HashSet<String> {
    let mut named: HashSet<String> = HashSet::new();
    caches.pods.for_each(|_, pod| {
        if let Some(node) = pod.node().filter(|node| !named.contains(*node)) {
            named.insert(node.to_owned());
        }
    });
    named.retain(|node| caches.nodes.get(&Key::new("", node.as_str())).is_none());
    missing.retain(|(node, _)| named.contains(node));
    let mut gone = HashSet::new();
    let api: Api<Node> = Api::all(client.clone());
    for node in named {
        let since = match missing.iter().find(|(known, _)| *known == node) {
            Some((_, since)) => *since,
            None => {
                missing.push((node.clone(), Instant::now()));
                continue;
            }
        };
        if since.elapsed() >= QUARANTINE && matches!(api.get_opt(&node).await, Ok(None)) {
            gone.insert(node);
        }
    }
    gone
}

/// Which pods are garbage.
fn garbage(pods: &[Arc<Pod>], gone: &HashSet<String>, keep: usize) -> Vec<(Arc<Pod>, Reason)> {
    let mut found = Vec::new();
    let mut ended = Vec::new();
    for pod in pods {
        if pod.node().is_some_and(|node| gone.contains(node)) {
            found.push((Arc::clone(pod), Reason::Orphaned));
        } else if pod.is_terminating() && pod.node().is_none() {
            found.push((Arc::clone(pod), Reason::NeverBound));
        } else if pod.is_terminal() && !pod.is_terminating() {
            ended.push(pod);
        }
    }
    let excess = ended.len().saturating_sub(keep);
    if excess > 0 {
        let created =
            |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0);
        ended.sort_by_key(|pod| (created(pod), pod.metadata.uid.clone()));
        found.extend(ended.into_iter().take(excess).map(|pod| (Arc::clone(pod), Reason::Ended)));
    }
    found
}

async fn collect(client: &Client, pod: &Pod, reason: Reason) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), object::namespace(&pod.metadata));
    let name = object::name(&pod.metadata);
    if reason == Reason::Orphaned && !pod.is_terminal() {
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now());
        // Whoever still watches the pod learns that it did not end by itself.
        let patch = json!({
            "metadata": {"uid": pod.metadata.uid},
            "status": {"phase": "Failed", "conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists", "lastTransitionTime": now}]},
        });
        match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Err(error) if !is_not_found(&error) => return Err(error),
            _ => {}
        }
    }
    let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams::default().grace_period(0).preconditions(same);
    match api.delete(name, &params).await {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str, phase: &str, leaving: bool, second: i64) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name,
                         "creationTimestamp": Timestamp::from_second(second).unwrap().to_string()},
            "spec": {"nodeName": node}, "status": {"phase": phase}
        });
        if leaving {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn what_is_garbage() {
        let pods = [
            pod("fine", "n1", "Running", false, 1),
            pod("leaving", "n1", "Running", true, 1),
            pod("orphan", "gone", "Running", false, 1),
            pod("never-bound", "", "Pending", true, 1),
            pod("pending", "", "Pending", false, 1),
            pod("ended-new", "n1", "Succeeded", false, 9),
            pod("ended-old", "n1", "Failed", false, 2),
        ];
        let gone = HashSet::from(["gone".to_owned()]);
        let found: Vec<(String, Reason)> = garbage(&pods, &gone, 1)
            .into_iter()
            .map(|(pod, reason)| (object::name(&pod.metadata).to_owned(), reason))
            .collect();
        let expected = [
            ("orphan".to_owned(), Reason::Orphaned),
            ("never-bound".to_owned(), Reason::NeverBound),
            ("ended-old".to_owned(), Reason::Ended),
        ];
        assert_eq!(found, expected);
    }
}
