//! Does what a plan for a StatefulSet says: claims first, then pods, then the status.

use std::collections::HashSet;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PodTemplateSpec};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::claims::ClaimStep;
use super::plan::{NewPod, Observed, Plan};
use super::template::{self, POD_INDEX, POD_NAME};
use super::{Context, Revisions, StatefulSetError};
use crate::history::{REVISION_LABEL, template_of};
use crate::own::OwnError;
use crate::write::{preconditions, status_patch};
use catamaran_client::error::{Chain, is_already_exists};
use catamaran_client::{EventType, Key, object};

/// Carries out `plan`.
pub(super) async fn apply(
    context: &Context,
    key: &Key,
    observed: &Observed<'_>,
    revisions: &Revisions,
    plan: Plan,
) -> Result<(), StatefulSetError> {
    let set = observed.set;
    for (event_type, reason, message) in &plan.notes {
        context.own.recorder.event(set, *event_type, reason, message.clone());
    }
    for step in plan.claims {
        write_claim(context, key, set, step).await?;
    }
    let bodies = plan.create.iter().map(|new| pod(set, revisions, new)).collect();
    let created = context.own.create(key, set, bodies).await;
    let deleted = context.own.delete(key, set, plan.delete).await;
    for (pod, ordinal) in &plan.relabel {
        let labels = json!({POD_NAME: object::name(&pod.metadata), POD_INDEX: ordinal.to_string()});
        let patch = json!({"metadata": {"uid": pod.metadata.uid, "labels": labels}});
        context.own.patch(key, pod, patch).await?;
    }
    write_status(context, key, set, &plan.status).await?;
    if let Some(failure) = created.failure.or(deleted.failure) {
        return Err(OwnError::from(failure).into());
    }
    sweep(context, observed, revisions).await
}

fn pod(set: &StatefulSet, revisions: &Revisions, new: &NewPod) -> Vec<u8> {
    let current = object::name(&revisions.current.metadata) == new.revision
        && revisions.current.metadata.uid != revisions.update.metadata.uid;
    let newest = || set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let template: PodTemplateSpec =
        Some(&revisions.current).filter(|_| current).and_then(|one| template_of(one)).unwrap_or_else(newest);
    template::pod(set, &template, &new.revision, new.ordinal)
}

async fn write_claim(
    context: &Context,
    key: &Key,
    set: &StatefulSet,
    step: ClaimStep,
) -> Result<(), StatefulSetError> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.own.client.clone(), &key.namespace);
    match step {
        ClaimStep::Wait => Ok(()),
        ClaimStep::Create(claim) => {
            let name = object::name(&claim.metadata).to_owned();
            let (owner, recorder) = (object::name(&set.metadata), &context.own.recorder);
            match api.create(&PostParams::default(), &claim).await {
                Err(error) if is_already_exists(&error) => Ok(()),
                Ok(_) => {
                    let message = format!("create Claim {name} in StatefulSet {owner} success");
                    recorder.event(set, EventType::Normal, "SuccessfulCreate", message);
                    Ok(())
                }
                Err(source) => {
                    let why = Chain(&source).to_string();
                    let message = format!("create Claim {name} in StatefulSet {owner} failed error: {why}");
                    recorder.event(set, EventType::Warning, "FailedCreate", message);
                    Err(StatefulSetError::Claim { name, source })
                }
            }
        }
        ClaimStep::Own(claim, owners) => {
            let name = object::name(&claim.metadata);
            let mut metadata = preconditions(&claim.metadata);
            metadata["ownerReferences"] = json!(owners);
            let patch = Patch::Merge(json!({"metadata": metadata}));
            let written = api.patch(name, &PatchParams::default(), &patch).await;
            written.map(drop).map_err(|source| StatefulSetError::Claim { name: name.to_owned(), source })
        }
    }
}

/// Writes `status` if it is another one.
pub(super) async fn write_status(
    context: &Context,
    key: &Key,
    set: &StatefulSet,
    status: &StatefulSetStatus,
) -> Result<(), StatefulSetError> {
    let before = set.status.clone().unwrap_or_default();
    let Some(patch) = status_patch(&set.metadata, &before, status) else { return Ok(()) };
    let api: Api<StatefulSet> = Api::namespaced(context.own.client.clone(), &key.namespace);
    let written = api
        .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(StatefulSetError::Status)?;
    context.written.note(key, object::revision(&written.metadata));
    Ok(())
}

/// Deletes revisions that no pod is of and that are more than the history may hold.
async fn sweep(
    context: &Context,
    observed: &Observed<'_>,
    revisions: &Revisions,
) -> Result<(), StatefulSetError> {
    let mut live: HashSet<String> = observed
        .pods
        .iter()
        .filter_map(|pod| object::label(&pod.metadata, REVISION_LABEL).map(str::to_owned))
        .collect();
    live.extend([observed.current.to_owned(), observed.update.to_owned()]);
    let limit = observed.set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
    Ok(context.history.sweep(&revisions.all, &live, limit).await?)
}
