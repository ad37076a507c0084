//! Writes what a plan for a Deployment says, step by step, and reports the status at the end.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Map, Value, json};
use tracing::debug;

use catamaran_client::error::{Chain, is_already_exists, is_namespace_terminating, is_not_found};
use catamaran_client::{EventType, Key, object};
use jiff::Timestamp;

use super::member::{REVISION, spec_replicas};
use super::plan::{Plan, SetChange};
use super::status::{self, Milestone};
use super::{Context, DeploymentError, hash};
use crate::write::{preconditions, status_patch};

/// Carries out `plan` for `deployment`.
pub(super) async fn apply(
    context: &Context,
    key: &Key,
    deployment: &Deployment,
    mut plan: Plan,
) -> Result<(), DeploymentError> {
    let sets: Api<ReplicaSet> = Api::namespaced(context.client.clone(), &key.namespace);
    if let Some(set) = plan.create.take() {
        create(context, key, deployment, &set, &plan).await?;
    }
    for change in &plan.changes {
        update(context, key, deployment, &sets, change).await?;
    }
    for set in &plan.delete {
        delete(&sets, set).await?;
    }
    report(context, key, deployment, &plan).await
}

async fn create(
    context: &Context,
    key: &Key,
    deployment: &Deployment,
    set: &ReplicaSet,
    plan: &Plan,
) -> Result<(), DeploymentError> {
    let sets: Api<ReplicaSet> = Api::namespaced(context.client.clone(), &key.namespace);
    let name = object::name(&set.metadata);
    let error = match sets.create(&PostParams::default(), set).await {
        Ok(created) => {
            context.sets_written.note(key, object::revision(&created.metadata));
            if spec_replicas(set) > 0 {
                let message = format!("Scaled up replica set {name} from 0 to {}", spec_replicas(set));
                context.recorder.event(deployment, EventType::Normal, "ScalingReplicaSet", message);
            }
            return Ok(());
        }
        Err(error) => error,
    };
    if is_already_exists(&error) {
        return resolve_collision(context, key, deployment, set, error).await;
    }
    if !is_namespace_terminating(&error) {
        let text = Chain(&error).to_string();
        let message = format!("Failed to create new replica set \"{name}\": {text}");
        context.recorder.event(deployment, EventType::Warning, "ReplicaSetCreateError", message);
        let mut status = plan.status.clone();
        let mut conditions = status.conditions.take().unwrap_or_default();
        status::milestone(&mut conditions, Milestone::CreateFailed, name, &text, Timestamp::now());
        status.conditions = Some(conditions);
        write_status(context, key, deployment, &status).await?;
    }
    Err(DeploymentError::Create { name: name.to_owned(), source: error })
}

/// There is a ReplicaSet of this name. It is ours when the cache is behind; else the hash met another
/// template's, and counting the collision gives another name next time.
async fn resolve_collision(
    context: &Context,
    key: &Key,
    deployment: &Deployment,
    set: &ReplicaSet,
    error: kube::Error,
) -> Result<(), DeploymentError> {
    let name = object::name(&set.metadata).to_owned();
    let failed = |source| DeploymentError::Create { name: name.clone(), source };
    let sets: Api<ReplicaSet> = Api::namespaced(context.client.clone(), &key.namespace);
    let existing = sets.get(&name).await.map_err(failed)?;
    let template =
        |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    let is_ours = object::controller_of(&existing.metadata)
        .is_some_and(|owner| owner.uid == object::uid(&deployment.metadata));
    if is_ours && hash::is_same(&template(&existing), &template(set)) {
        context.sets_written.note(key, object::revision(&existing.metadata));
        return Ok(());
    }
    let mut status = deployment.status.clone().unwrap_or_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
    debug!(%name, "another ReplicaSet has this name: the hash is salted");
    write_status(context, key, deployment, &status).await?;
    Err(DeploymentError::Create { name, source: error })
}

async fn update(
    context: &Context,
    key: &Key,
    deployment: &Deployment,
    sets: &Api<ReplicaSet>,
    change: &SetChange,
) -> Result<(), DeploymentError> {
    let name = object::name(&change.meta);
    let patched = sets
        .patch(name, &PatchParams::default(), &Patch::Merge(patch_of(change)))
        .await
        .map_err(|source| DeploymentError::Update { name: name.to_owned(), source })?;
    context.sets_written.note(key, object::revision(&patched.metadata));
    if change.from != change.to {
        let direction = if change.to > change.from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {name} from {} to {}", change.from, change.to);
        context.recorder.event(deployment, EventType::Normal, "ScalingReplicaSet", message);
    }
    Ok(())
}

fn patch_of(change: &SetChange) -> Value {
    let mut metadata = preconditions(&change.meta);
    if !change.annotations.is_empty() {
        metadata["annotations"] = json!(change.annotations);
    }
    let mut spec = Map::new();
    if change.from != change.to {
        spec.insert("replicas".to_owned(), json!(change.to));
    }
    if let Some(seconds) = change.min_ready_seconds {
        spec.insert("minReadySeconds".to_owned(), json!(seconds));
    }
    json!({"metadata": metadata, "spec": spec})
}

async fn delete(sets: &Api<ReplicaSet>, set: &ReplicaSet) -> Result<(), DeploymentError> {
    let name = object::name(&set.metadata);
    let same = Preconditions {
        uid: set.metadata.uid.clone(),
        resource_version: set.metadata.resource_version.clone(),
    };
    match sets.delete(name, &DeleteParams::background().preconditions(same)).await {
        Err(error) if !is_not_found(&error) => {
            Err(DeploymentError::Delete { name: name.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

async fn report(
    context: &Context,
    key: &Key,
    deployment: &Deployment,
    plan: &Plan,
) -> Result<(), DeploymentError> {
    if let Some(revision) = &plan.revision {
        // No resourceVersion here: the annotation does not depend on what else has changed.
        let uid = object::uid(&deployment.metadata);
        let patch = json!({"metadata": {"uid": uid, "annotations": {REVISION: revision}}});
        let annotated = deployments(&context.client, key)
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(DeploymentError::Annotate)?;
        context.written.note(key, object::revision(&annotated.metadata));
        return write_status(context, key, &annotated, &plan.status).await;
    }
    write_status(context, key, deployment, &plan.status).await
}

async fn write_status(
    context: &Context,
    key: &Key,
    deployment: &Deployment,
    status: &k8s_openapi::api::apps::v1::DeploymentStatus,
) -> Result<(), DeploymentError> {
    let before = deployment.status.clone().unwrap_or_default();
    let Some(patch) = status_patch(&deployment.metadata, &before, status) else { return Ok(()) };
    let written = deployments(&context.client, key)
        .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(DeploymentError::Status)?;
    context.written.note(key, object::revision(&written.metadata));
    Ok(())
}

fn deployments(client: &Client, key: &Key) -> Api<Deployment> {
    Api::namespaced(client.clone(), &key.namespace)
}
