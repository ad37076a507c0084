//! Creates and deletes the pods of a ReplicaSet, in batches that grow as long as all goes well.

use std::future::Future;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::core::Request;
use kube::{Client, Resource};
use serde::Deserialize;
use serde_json::json;

use super::Context;
use super::plan::Failure;
use crate::pod::Pod;
use catamaran_client::error::{Chain, is_answer, is_namespace_terminating, is_not_found};
use catamaran_client::{EventType, Key, object};

/// Requests under way at a time for one ReplicaSet.
const PARALLEL: usize = 64;

/// How far a step came.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// What stopped it.
    pub(super) failure: Option<Failure>,
    /// A request got no answer: it may have happened, so the pods must be read from the server.
    pub(super) unsure: bool,
}

/// What we read of the answer to a creation or deletion.
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    metadata: AnswerMeta,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AnswerMeta {
    name: String,
    resource_version: String,
}

/// Creates `count` pods: 1, then 2, 4, 8 at a time, so that a template that the server refuses costs one try
/// and not hundreds.
pub(super) async fn create(context: &Context, key: &Key, set: &ReplicaSet, count: usize) -> Done {
    let body = pod_body(set);
    let request = Request::new(Pod::url_path(&(), Some(&key.namespace)));
    let mut done = Done::default();
    let one = || async {
        let request =
            request.create(&PostParams::default(), body.clone()).map_err(kube::Error::BuildRequest)?;
        context.client.request::<Answer>(request).await
    };
    for batch in batches(count) {
        let results = in_parallel(batch, &one).await;
        for result in results {
            note_creation(context, key, set, result, &mut done);
        }
        if done.failure.is_some() || done.unsure {
            break;
        }
    }
    done
}

fn note_creation(
    context: &Context,
    key: &Key,
    set: &ReplicaSet,
    result: Result<Answer, kube::Error>,
    done: &mut Done,
) {
    match result {
        Ok(pod) => {
            context.written.note(key, pod.metadata.resource_version.parse().unwrap_or(0));
            let message = format!("Created pod: {}", pod.metadata.name);
            context.recorder.event(set, EventType::Normal, "SuccessfulCreate", message);
        }
        // The namespace takes its pods with it.
        Err(error) if is_namespace_terminating(&error) => {}
        Err(error) => {
            done.unsure |= !is_answer(&error);
            let text = Chain(&error).to_string();
            let message = format!("Error creating: {text}");
            context.recorder.event(set, EventType::Warning, "FailedCreate", message);
            done.failure.get_or_insert(Failure { reason: "FailedCreate", message: text });
        }
    }
}

/// Deletes `pods`.
pub(super) async fn delete(context: &Context, key: &Key, set: &ReplicaSet, pods: Vec<Arc<Pod>>) -> Done {
    let mut done = Done::default();
    let mut results = futures::stream::iter(pods)
        .map(|pod| async {
            let result = delete_one(&context.client, key, &pod).await;
            (pod, result)
        })
        .buffer_unordered(PARALLEL);
    while let Some((pod, result)) = results.next().await {
        let name = object::name(&pod.metadata);
        match result {
            Err(error) if !is_not_found(&error) => {
                done.unsure |= !is_answer(&error);
                let text = Chain(&error).to_string();
                let message = format!("Error deleting: {text}");
                context.recorder.event(set, EventType::Warning, "FailedDelete", message);
                done.failure.get_or_insert(Failure { reason: "FailedDelete", message: text });
            }
            result => {
                // Its disappearance may have no revision that we know: it no longer counts from now on.
                context.leaving.add(object::uid(&pod.metadata));
                let shown = context.caches.pods.get(&Key::of(&*pod));
                if shown.is_none_or(|shown| shown.metadata.uid != pod.metadata.uid) {
                    // The event was quicker than the answer.
                    context.leaving.remove(object::uid(&pod.metadata));
                }
                if result.is_ok() {
                    let message = format!("Deleted pod: {name}");
                    context.recorder.event(set, EventType::Normal, "SuccessfulDelete", message);
                }
            }
        }
    }
    done
}

async fn delete_one(client: &Client, key: &Key, pod: &Pod) -> Result<(), kube::Error> {
    let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams::default().preconditions(same);
    let request = Request::new(Pod::url_path(&(), Some(&key.namespace)))
        .delete(object::name(&pod.metadata), &params)
        .map_err(kube::Error::BuildRequest)?;
    client.request_text(request).await.map(drop)
}

/// The pod that the template makes, as the body of a request; all pods of a set have the same one.
fn pod_body(set: &ReplicaSet) -> Vec<u8> {
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let meta = template.and_then(|template| template.metadata.as_ref());
    let owner = object::controller_reference("apps/v1", "ReplicaSet", &set.metadata);
    let mut metadata = json!({
        "generateName": format!("{}-", object::name(&set.metadata)),
        "namespace": object::namespace(&set.metadata),
        "ownerReferences": [owner],
    });
    if let Some(meta) = meta {
        for (field, value) in [("labels", json!(meta.labels)), ("annotations", json!(meta.annotations))] {
            if !value.is_null() {
                metadata[field] = value;
            }
        }
        if let Some(finalizers) = &meta.finalizers {
            metadata["finalizers"] = json!(finalizers);
        }
    }
    let spec = template.and_then(|template| template.spec.as_ref());
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    serde_json::to_vec(&pod).expect("a value of JSON can be written")
}

/// The sizes of the batches for `count`: 1, 2, 4, … up to [`PARALLEL`].
fn batches(count: usize) -> impl Iterator<Item = usize> {
    let mut left = count;
    let mut size = 1;
    std::iter::from_fn(move || {
        let batch = left.min(size);
        left -= batch;
        size = (size * 2).min(PARALLEL);
        (batch > 0).then_some(batch)
    })
}

async fn in_parallel<T, F: Future<Output = T>>(count: usize, call: &impl Fn() -> F) -> Vec<T> {
    (0..count).map(|_| call()).collect::<FuturesUnordered<F>>().collect().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_start_slowly() {
        assert_eq!(batches(10).collect::<Vec<_>>(), [1, 2, 4, 3]);
        assert_eq!(batches(0).count(), 0);
        assert_eq!(batches(500).sum::<usize>(), 500);
        assert!(batches(500).all(|batch| batch <= PARALLEL));
    }

    #[test]
    fn a_pod_is_made_of_the_template() {
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "web-1", "namespace": "ns", "uid": "rs"},
            "spec": {"selector": {}, "template": {
                "metadata": {"labels": {"app": "web"}, "annotations": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}}
        }))
        .unwrap();
        let pod: serde_json::Value = serde_json::from_slice(&pod_body(&set)).unwrap();
        assert_eq!(pod["metadata"]["generateName"], "web-1-");
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "rs");
        assert_eq!(pod["metadata"]["ownerReferences"][0]["controller"], true);
        assert_eq!(pod["metadata"]["labels"]["app"], "web");
        assert_eq!(pod["spec"]["containers"][0]["image"], "i");
        assert!(pod["metadata"].get("finalizers").is_none());
    }
}
