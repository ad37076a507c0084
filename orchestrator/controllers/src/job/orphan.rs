//! Pods that still wait to be counted by a Job that is gone, or that they do not belong to any more.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::apply::release_patch;
use super::view::{FINALIZER, finished};
use super::{Context, JobError};
use crate::own::OwnError;
use crate::pod::Pod;
use catamaran_client::error::is_not_found;
use catamaran_client::{Change, Key, Outcome, Queue, object};

/// Wakes pods that nobody may count.
pub(super) fn feed(context: &Arc<Context>, queue: &Queue<Key>) {
    let (wake, jobs) = (queue.clone(), context.own.caches.jobs.clone());
    context.own.caches.pods.on_change(move |change: &Change<'_, Pod>| {
        let Change::Applied { new, .. } = change else { return };
        if new.has_finalizer(FINALIZER) {
            let job = object::controller_of(&new.metadata)
                .and_then(|owner| jobs.get(&Key::new(object::namespace(&new.metadata), owner.name.as_str())));
            if !job.is_some_and(|job| counts(&job, new)) {
                wake.add(Key::of(&***new));
            }
        }
    });
    let (wake, pods) = (queue.clone(), context.own.caches.pods_by_owner.clone());
    context.own.caches.jobs.on_change(move |change: &Change<'_, Job>| {
        let Change::Deleted { old } = change else { return };
        for pod in pods.get(object::uid(&old.metadata)) {
            wake.add(Key::of(&*pod));
        }
    });
}

/// Will the Job still count the pod?
fn counts(job: &Job, pod: &Pod) -> bool {
    let owns = object::controller_of(&pod.metadata)
        .is_some_and(|owner| owner.kind == "Job" && owner.uid == object::uid(&job.metadata));
    owns && finished(job).is_none()
}

/// Takes the finalizer off a pod if nobody will count it. Asks the server, since the cache of jobs may be behind.
pub(super) async fn reconcile(context: Arc<Context>, key: Key) -> Result<Outcome, JobError> {
    let Some(pod) = context.own.caches.pods.get(&key).filter(|pod| pod.has_finalizer(FINALIZER)) else {
        return Ok(Outcome::Done);
    };
    let owner = object::controller_of(&pod.metadata).filter(|owner| owner.kind == "Job");
    if let Some(owner) = owner {
        let jobs: Api<Job> = Api::namespaced(context.own.client.clone(), &key.namespace);
        let job = jobs.get_opt(&owner.name).await.map_err(JobError::Read)?;
        if job.is_some_and(|job| counts(&job, &pod)) {
            return Ok(Outcome::Done);
        }
    }
    let pods: Api<Pod> = Api::namespaced(context.own.client.clone(), &key.namespace);
    // Only as it was seen: a Job that adopts it meanwhile counts it.
    let mut patch = release_patch(&pod);
    patch["metadata"]["resourceVersion"] = json!(pod.metadata.resource_version);
    match pods.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Err(source) if !is_not_found(&source) => {
            Err(OwnError::Patch { name: key.name.clone(), source }.into())
        }
        _ => Ok(Outcome::Done),
    }
}
