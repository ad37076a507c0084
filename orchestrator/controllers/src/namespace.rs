//! Namespaces: one that is to go first loses everything in it, then its finalizer.
//!
//! observe and delete (`empty`) → plan (`conditions`, pure) → report → finalize.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::Request;
use serde_json::json;

use catamaran_client::error::{Chain, is_not_found};
use catamaran_client::{Key, Outcome, Queue, object, runner};

use crate::caches::Caches;
use crate::discovery::{self, Kind};
use crate::write::preconditions;

/// Namespaces that are emptied at a time.
const WORKERS: usize = 8;
/// The finalizer of a namespace, in `spec`.
const FINALIZER: &str = "kubernetes";

/// Why a namespace could not be emptied further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NamespaceError {
    /// The server did not say which kinds it has.
    #[error("cannot find out which kinds there are")]
    Discovery(#[source] kube::Error),
    /// The conditions could not be written.
    #[error("cannot write the conditions of the namespace")]
    Status(#[source] kube::Error),
    /// The finalizer could not be removed.
    #[error("cannot finalize the namespace")]
    Finalize(#[source] kube::Error),
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, caches: Caches) {
    let queue = Queue::new();
    let wake = queue.clone();
    caches.namespaces.on_change(move |change| {
        if object::is_being_deleted(&change.object().metadata) {
            wake.add(Key::of(&**change.object()));
        }
    });
    caches.namespaces.ready().await;
    let context = Arc::new((client, caches));
    runner::run("namespace", queue, WORKERS, move |key| reconcile(Arc::clone(&context), key)).await;
}

async fn reconcile(context: Arc<(Client, Caches)>, key: Key) -> Result<Outcome, NamespaceError> {
    let (client, caches) = &*context;
    let Some(namespace) = caches.namespaces.get(&key) else { return Ok(Outcome::Done) };
    let Some(deleted) = namespace.metadata.deletion_timestamp.as_ref() else { return Ok(Outcome::Done) };
    let kinds = discovery::kinds(client).await.map_err(NamespaceError::Discovery)?;
    let mut remains = Remains::default();
    for kind in kinds.values().filter(|kind| kind.is_namespaced()) {
        empty(client, &key.name, kind, &mut remains).await;
    }
    let now = Timestamp::now();
    report(client, &namespace, &remains, now).await?;
    if remains.is_empty() {
        finalize(client, &namespace).await?;
        return Ok(Outcome::Done);
    }
    Ok(Outcome::After(pause(now.duration_since(deleted.0).try_into().unwrap_or_default())))
}

/// What deletion has left of a namespace so far.
#[derive(Debug, Default)]
struct Remains {
    /// Objects by kind (`pods.`, `deployments.apps`).
    objects: BTreeMap<String, usize>,
    /// Objects by finalizer.
    finalizers: BTreeMap<String, usize>,
    failures: Vec<String>,
}

impl Remains {
    fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.failures.is_empty()
    }
}

/// Soon at first, then less and less often: what remains mostly waits for pods to end.
fn pause(since: Duration) -> Duration {
    (since / 4).clamp(Duration::from_millis(100), Duration::from_secs(5))
}

/// Deletes all objects of one kind in the namespace and notes what is still there.
async fn empty(client: &Client, namespace: &str, kind: &Kind, remains: &mut Remains) {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource);
    let name = format!("{}.{}", kind.resource.plural, kind.resource.group);
    let result = async {
        let found = api.list_metadata(&ListParams::default()).await?.items;
        if found.is_empty() {
            return Ok(found);
        }
        let fresh = found.iter().any(|object| !object::is_being_deleted(&object.metadata));
        if fresh && kind.deletes_collections {
            api.delete_collection(&DeleteParams::background(), &ListParams::default()).await?;
        } else if fresh {
            for object in &found {
                match api.delete(object::name(&object.metadata), &DeleteParams::background()).await {
                    Err(error) if !is_not_found(&error) => return Err(error),
                    _ => {}
                }
            }
        }
        api.list_metadata(&ListParams::default()).await.map(|list| list.items)
    };
    match result.await {
        Ok(left) => {
            for object in &left {
                for finalizer in object.metadata.finalizers.iter().flatten() {
                    *remains.finalizers.entry(finalizer.clone()).or_insert(0) += 1;
                }
            }
            if !left.is_empty() {
                remains.objects.insert(name, left.len());
            }
        }
        // A kind that went away between discovery and now has no objects.
        Err(error) if is_not_found(&error) => {}
        Err(error) => remains.failures.push(format!("{name}: {}", Chain(&error))),
    }
}

async fn report(
    client: &Client,
    namespace: &Namespace,
    remains: &Remains,
    now: Timestamp,
) -> Result<(), NamespaceError> {
    let before = namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let after = conditions(&before, remains, now);
    if before == after {
        return Ok(());
    }
    let api: Api<Namespace> = Api::all(client.clone());
    let patch = json!({
        "metadata": {"uid": namespace.metadata.uid},
        "status": {"phase": "Terminating", "conditions": after},
    });
    let name = object::name(&namespace.metadata);
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(error) if !is_not_found(&error) => Err(NamespaceError::Status(error)),
        _ => Ok(()),
    }
}

/// The conditions of a namespace that is being emptied; those that say the same keep their time.
fn conditions(before: &[NamespaceCondition], remains: &Remains, now: Timestamp) -> Vec<NamespaceCondition> {
    let listed = |map: &BTreeMap<String, usize>, format: fn(&str, usize) -> String| {
        map.iter().map(|(name, count)| format(name, *count)).collect::<Vec<_>>().join(", ")
    };
    let objects = listed(&remains.objects, |name, count| format!("{name} has {count} resource instances"));
    let finalizers =
        listed(&remains.finalizers, |name, count| format!("{name} in {count} resource instances"));
    let failures = remains.failures.join(", ");
    let table = [
        (
            "NamespaceDeletionDiscoveryFailure",
            None,
            "",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            "",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            (!failures.is_empty()).then(|| {
                format!(
                    "Failed to delete all resource types, {} remaining: {failures}",
                    remains.failures.len()
                )
            }),
            "ContentDeletionFailed",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            (!objects.is_empty()).then(|| format!("Some resources are remaining: {objects}")),
            "SomeResourcesRemain",
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            (!finalizers.is_empty())
                .then(|| format!("Some content in the namespace has finalizers remaining: {finalizers}")),
            "SomeFinalizersRemain",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ];
    let fresh = table.into_iter().map(|(type_, trouble, bad, good, fine)| {
        let (status, reason) = if trouble.is_some() { ("True", bad) } else { ("False", good) };
        let message = trouble.unwrap_or_else(|| fine.to_owned());
        let old = before.iter().find(|old| old.type_ == type_ && old.status == status);
        NamespaceCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: old.and_then(|old| old.last_transition_time.clone()).or(Some(Time(now))),
        }
    });
    fresh.collect()
}

/// Takes our finalizer off; the server then removes the namespace.
async fn finalize(client: &Client, namespace: &Namespace) -> Result<(), NamespaceError> {
    let name = object::name(&namespace.metadata);
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
    let left: Vec<String> = finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER).collect();
    let body = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "uid": preconditions(&namespace.metadata)["uid"]},
        "spec": {"finalizers": left},
    });
    let body = serde_json::to_vec(&body).expect("a value of JSON can be written");
    let request = Request::new("/api/v1/namespaces")
        .replace_subresource("finalize", name, &kube::api::PostParams::default(), body)
        .map_err(|error| NamespaceError::Finalize(kube::Error::BuildRequest(error)))?;
    match client.request_text(request).await {
        Err(error) if !is_not_found(&error) => Err(NamespaceError::Finalize(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_what_remains() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut remains = Remains::default();
        remains.objects.insert("pods.".into(), 2);
        remains.finalizers.insert("example.com/x".into(), 1);
        let first = conditions(&[], &remains, now);
        let find = |conditions: &[NamespaceCondition], type_: &str| {
            let found = conditions.iter().find(|condition| condition.type_ == type_).unwrap();
            (found.status.clone(), found.reason.clone().unwrap(), found.message.clone().unwrap())
        };
        assert_eq!(
            find(&first, "NamespaceContentRemaining"),
            (
                "True".into(),
                "SomeResourcesRemain".into(),
                "Some resources are remaining: pods. has 2 resource instances".into()
            )
        );
        assert_eq!(
            find(&first, "NamespaceFinalizersRemaining").2,
            "Some content in the namespace has finalizers remaining: example.com/x in 1 resource instances"
        );
        let later = now + jiff::SignedDuration::from_secs(5);
        let second = conditions(&first, &Remains::default(), later);
        assert_eq!(find(&second, "NamespaceContentRemaining").1, "ContentRemoved");
        let discovery = |conditions: &[NamespaceCondition]| conditions[0].last_transition_time.clone();
        assert_eq!(discovery(&first), discovery(&second), "what stays the same keeps its time");
    }

    #[test]
    fn the_pause_grows_with_the_wait() {
        assert_eq!(pause(Duration::ZERO), Duration::from_millis(100));
        assert_eq!(pause(Duration::from_secs(4)), Duration::from_secs(1));
        assert_eq!(pause(Duration::from_secs(400)), Duration::from_secs(5));
    }
}
