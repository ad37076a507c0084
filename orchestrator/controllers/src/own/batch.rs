//! Creates and deletes pods in batches that grow as long as all goes well.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::Resource;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::core::Request;
use serde::Deserialize;
use tokio::time::Instant;

use catamaran_client::error::{Chain, is_already_exists, is_answer, is_namespace_terminating, is_not_found};
use catamaran_client::{EventType, Key, object};

use super::{Failure, OwnPods, Verb};
use crate::pod::Pod;

/// Requests under way at a time for one owner.
const PARALLEL: usize = 64;

/// How far a step came.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Pods that were created or deleted.
    pub(crate) count: usize,
    /// What stopped it.
    pub(crate) failure: Option<Failure>,
    /// A request got no answer: it may have happened.
    unsure: bool,
}

/// What we read of the answer to a creation.
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

impl OwnPods {
    /// Creates a pod of each body: 1, then 2, 4, 8 at a time, so that a template that the server refuses costs
    /// one try and not hundreds.
    pub(crate) async fn create<T>(&self, key: &Key, owner: &T, bodies: Vec<Vec<u8>>) -> Done
    where
        T: Resource<DynamicType = ()>,
    {
        let request = Request::new(Pod::url_path(&(), Some(&key.namespace)));
        let mut done = Done::default();
        let mut bodies = bodies.into_iter();
        for size in batches(bodies.len()) {
            let calls = FuturesUnordered::new();
            for body in bodies.by_ref().take(size) {
                calls.push(self.create_one(&request, body));
            }
            let results: Vec<Result<Answer, kube::Error>> = calls.collect().await;
            for result in results {
                self.note_creation(key, owner, result, &mut done);
            }
            if done.failure.is_some() || done.unsure {
                break;
            }
        }
        self.settle(key, &done);
        done
    }

    async fn create_one(&self, request: &Request, body: Vec<u8>) -> Result<Answer, kube::Error> {
        let request = request.create(&PostParams::default(), body).map_err(kube::Error::BuildRequest)?;
        self.client.request(request).await
    }

    fn note_creation<T>(&self, key: &Key, owner: &T, result: Result<Answer, kube::Error>, done: &mut Done)
    where
        T: Resource<DynamicType = ()>,
    {
        match result {
            Ok(pod) => {
                done.count += 1;
                self.written.note(key, pod.metadata.resource_version.parse().unwrap_or(0));
                let message = self.success_text(Verb::Create, &pod.metadata.name, owner.meta());
                self.recorder.event(owner, EventType::Normal, "SuccessfulCreate", message);
            }
            // The namespace takes its pods with it.
            Err(error) if is_namespace_terminating(&error) => {}
            Err(error) => {
                // A name that is taken may be our own pod, which the cache does not show.
                done.unsure |= !is_answer(&error) || is_already_exists(&error);
                let text = Chain(&error).to_string();
                let message = format!("Error creating: {text}");
                self.recorder.event(owner, EventType::Warning, "FailedCreate", message);
                done.failure.get_or_insert(Failure { reason: "FailedCreate", message: text });
            }
        }
    }

    /// Deletes `pods`.
    pub(crate) async fn delete<T>(&self, key: &Key, owner: &T, pods: Vec<Arc<Pod>>) -> Done
    where
        T: Resource<DynamicType = ()>,
    {
        let mut done = Done::default();
        let mut results = futures::stream::iter(pods)
            .map(|pod| async {
                let result = self.delete_one(key, &pod).await;
                (pod, result)
            })
            .buffer_unordered(PARALLEL);
        while let Some((pod, result)) = results.next().await {
            match result {
                Err(error) if !is_not_found(&error) => {
                    done.unsure |= !is_answer(&error);
                    let text = Chain(&error).to_string();
                    let message = format!("Error deleting: {text}");
                    self.recorder.event(owner, EventType::Warning, "FailedDelete", message);
                    done.failure.get_or_insert(Failure { reason: "FailedDelete", message: text });
                }
                result => {
                    done.count += 1;
                    self.note_deletion(&pod);
                    if result.is_ok() {
                        let name = object::name(&pod.metadata);
                        let message = self.success_text(Verb::Delete, name, owner.meta());
                        self.recorder.event(owner, EventType::Normal, "SuccessfulDelete", message);
                    }
                }
            }
        }
        self.settle(key, &done);
        done
    }

    /// Its disappearance may have no revision that we know: it no longer counts from now on.
    fn note_deletion(&self, pod: &Pod) {
        self.leaving.add(object::uid(&pod.metadata));
        let shown = self.caches.pods.get(&Key::of(pod));
        if shown.is_none_or(|shown| shown.metadata.uid != pod.metadata.uid) {
            // The event was quicker than the answer.
            self.leaving.remove(object::uid(&pod.metadata));
        }
    }

    fn settle(&self, key: &Key, done: &Done) {
        if done.unsure {
            self.live().insert(key.clone(), Instant::now());
        }
    }

    async fn delete_one(&self, key: &Key, pod: &Pod) -> Result<(), kube::Error> {
        let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams::default().preconditions(same);
        let request = Request::new(Pod::url_path(&(), Some(&key.namespace)))
            .delete(object::name(&pod.metadata), &params)
            .map_err(kube::Error::BuildRequest)?;
        self.client.request_text(request).await.map(drop)
    }
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
}
