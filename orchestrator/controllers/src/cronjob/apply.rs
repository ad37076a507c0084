//! Does what a plan for a CronJob says: first the history, then the new Job, and the status at the end.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};

use super::plan::{Plan, job_name, note_started, zone};
use super::{Context, CronJobError};
use crate::write::status_patch;
use catamaran_client::error::{Chain, is_already_exists, is_namespace_terminating, is_not_found};
use catamaran_client::{EventType, Key, object};

/// The annotation of a Job with the time for which it was made.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// Carries out `plan` for `cron`.
pub(super) async fn apply(
    context: &Context,
    key: &Key,
    cron: &CronJob,
    mut plan: Plan,
) -> Result<(), CronJobError> {
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &key.namespace);
    for note in &plan.notes {
        context.recorder.event(cron, note.event_type, note.reason, note.message.clone());
    }
    for job in &plan.sweep {
        delete(context, cron, &jobs, job.object_ref(&())).await?;
    }
    drop_missing(context, cron, &jobs, &mut plan).await?;
    let (replaced, kept): (Vec<_>, Vec<_>) = plan
        .status
        .active
        .take()
        .unwrap_or_default()
        .into_iter()
        .partition(|reference| plan.replace.contains(reference));
    plan.status.active = Some(kept);
    for job in replaced {
        delete(context, cron, &jobs, job).await?;
    }
    let mut failure = Ok(());
    if let Some(time) = plan.start {
        match create(context, key, cron, &jobs, time).await {
            Ok(Some(job)) => note_started(&mut plan.status, &job, time),
            Ok(None) => {}
            Err(error) => failure = Err(error),
        }
    }
    plan.status.active = plan.status.active.filter(|active| !active.is_empty());
    write_status(context, key, cron, &plan).await?;
    failure
}

/// Takes active Jobs that the server does not know out of the status.
async fn drop_missing(
    context: &Context,
    cron: &CronJob,
    jobs: &Api<Job>,
    plan: &mut Plan,
) -> Result<(), CronJobError> {
    for reference in &plan.missing {
        let name = reference.name.as_deref().unwrap_or_default();
        let found = jobs.get_opt(name).await.map_err(CronJobError::Read)?;
        if found.is_some_and(|job| job.metadata.uid == reference.uid) {
            continue;
        }
        if let Some(active) = plan.status.active.as_mut() {
            active.retain(|other| other.uid != reference.uid);
        }
        let message = format!("Active job went missing: {name}");
        context.recorder.event(cron, EventType::Normal, "MissingJob", message);
    }
    Ok(())
}

/// Makes the Job for `time`; none in a namespace that goes.
async fn create(
    context: &Context,
    key: &Key,
    cron: &CronJob,
    jobs: &Api<Job>,
    time: Timestamp,
) -> Result<Option<Job>, CronJobError> {
    let job = job(cron, time, &zone(cron).unwrap_or(TimeZone::UTC));
    let name = object::name(&job.metadata).to_owned();
    let error = match jobs.create(&PostParams::default(), &job).await {
        Ok(created) => {
            context.jobs_written.note(key, object::revision(&created.metadata));
            context.recorder.event(
                cron,
                EventType::Normal,
                "SuccessfulCreate",
                format!("Created job {name}"),
            );
            return Ok(Some(created));
        }
        Err(error) => error,
    };
    if is_namespace_terminating(&error) {
        return Ok(None);
    }
    if is_already_exists(&error) {
        // Made by a pass whose end we did not see; anybody else's stands in the way of this time only.
        let existing = jobs.get_opt(&name).await.map_err(CronJobError::Read)?;
        let ours = |job: &Job| {
            object::controller_of(&job.metadata).is_some_and(|owner| owner.uid == object::uid(&cron.metadata))
        };
        return Ok(existing.filter(ours));
    }
    let message = format!("Error creating job: {}", Chain(&error));
    context.recorder.event(cron, EventType::Warning, "FailedCreate", message);
    Err(CronJobError::Create { name, source: error })
}

/// The Job that the template makes for `time`.
pub(super) fn job(cron: &CronJob, time: Timestamp, zone: &TimeZone) -> Job {
    let template = cron.spec.as_ref().map(|spec| &spec.job_template);
    let meta = template.and_then(|template| template.metadata.as_ref());
    let mut annotations: BTreeMap<String, String> =
        meta.and_then(|meta| meta.annotations.clone()).unwrap_or_default();
    let local = time.to_zoned(zone.clone());
    annotations
        .insert(SCHEDULED.to_owned(), local.timestamp().display_with_offset(local.offset()).to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(cron, time)),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.and_then(|meta| meta.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![object::controller_reference("batch/v1", "CronJob", &cron.metadata)]),
            ..ObjectMeta::default()
        },
        spec: template.and_then(|template| template.spec.clone()),
        status: None,
    }
}

async fn delete(
    context: &Context,
    cron: &CronJob,
    jobs: &Api<Job>,
    job: ObjectReference,
) -> Result<(), CronJobError> {
    let name = job.name.as_deref().unwrap_or_default();
    let same = Preconditions { uid: job.uid, resource_version: None };
    match jobs.delete(name, &DeleteParams::background().preconditions(same)).await {
        Err(error) if !is_not_found(&error) => {
            let message = format!("Deleted job: {}", Chain(&error));
            context.recorder.event(cron, EventType::Warning, "FailedDelete", message);
            Err(CronJobError::Delete { name: name.to_owned(), source: error })
        }
        _ => {
            context.recorder.event(
                cron,
                EventType::Normal,
                "SuccessfulDelete",
                format!("Deleted job {name}"),
            );
            Ok(())
        }
    }
}

async fn write_status(context: &Context, key: &Key, cron: &CronJob, plan: &Plan) -> Result<(), CronJobError> {
    let before = cron.status.clone().unwrap_or_default();
    let Some(patch) = status_patch(&cron.metadata, &before, &plan.status) else { return Ok(()) };
    let api: Api<CronJob> = Api::namespaced(context.client.clone(), &key.namespace);
    let written = api
        .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(CronJobError::Status)?;
    context.written.note(key, object::revision(&written.metadata));
    Ok(())
}
