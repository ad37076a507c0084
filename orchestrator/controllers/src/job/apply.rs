//! Does what a plan for a Job says: pods first, then the status, then the finalizers.

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::plan::Plan;
use super::view::FINALIZER;
use super::{Context, JobError, template};
use crate::own::{Done, Failure, OwnError, WITHOUT_FINALIZERS};
use crate::pod::Pod;
use crate::write::status_patch;
use catamaran_client::error::is_not_found;
use catamaran_client::{Key, object};

/// Finalizers that are removed at a time for one Job.
const PARALLEL: usize = 32;

/// Carries out `plan` for `job`.
pub(super) async fn apply(context: &Context, key: &Key, job: &Job, mut plan: Plan) -> Result<(), JobError> {
    let mut failure = None;
    // A pod that is too many must not count as failed: it goes without its finalizer.
    release(context, key, &plan.withdraw).await?;
    let gone: Vec<Arc<Pod>> = plan.withdraw.iter().chain(&plan.stop).cloned().collect();
    let planned = gone.len();
    let deleted = settle(context.own.delete(key, job, gone).await, &mut failure);
    let bodies: Vec<Vec<u8>> =
        plan.create.iter().map(|new| template::pod(&context.own.kind, job, new)).collect();
    let wanted = bodies.len();
    let created = settle(context.own.create(key, job, bodies).await, &mut failure);
    let off = i32::try_from(planned - deleted).unwrap_or(0) - i32::try_from(wanted - created).unwrap_or(0);
    plan.status.active = Some(plan.status.active.unwrap_or(0) + off).filter(|active| *active > 0);
    write_status(context, key, job, &plan).await?;
    for note in &plan.notes {
        context.own.recorder.event(job, note.event_type, &note.reason, note.message.clone());
    }
    release(context, key, &plan.release).await?;
    failure.map_or(Ok(()), |failure| Err(OwnError::from(failure).into()))
}

fn settle(done: Done, failure: &mut Option<Failure>) -> usize {
    if failure.is_none() {
        *failure = done.failure;
    }
    done.count
}

async fn write_status(context: &Context, key: &Key, job: &Job, plan: &Plan) -> Result<(), JobError> {
    let before = job.status.clone().unwrap_or_default();
    let Some(patch) = status_patch(&job.metadata, &before, &plan.status) else { return Ok(()) };
    let api: Api<Job> = Api::namespaced(context.own.client.clone(), &key.namespace);
    let written = api
        .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(JobError::Status)?;
    context.status_written.note(key, object::revision(&written.metadata));
    Ok(())
}

/// Takes the finalizer off `pods`.
async fn release(context: &Context, key: &Key, pods: &[Arc<Pod>]) -> Result<(), JobError> {
    let held: Vec<Arc<Pod>> = pods.iter().filter(|pod| pod.has_finalizer(FINALIZER)).cloned().collect();
    let mut calls = futures::stream::iter(held)
        .map(|pod| async move { context.own.patch(key, &pod, release_patch(&pod)).await })
        .buffer_unordered(PARALLEL);
    while let Some(result) = calls.next().await {
        match result {
            Err(OwnError::Patch { source, .. }) if is_not_found(&source) => {}
            result => drop(result?),
        }
    }
    Ok(())
}

/// A strategic merge patch that takes the finalizer off a pod.
pub(super) fn release_patch(pod: &Pod) -> Value {
    json!({"metadata": {"uid": pod.metadata.uid, WITHOUT_FINALIZERS: [FINALIZER]}})
}
