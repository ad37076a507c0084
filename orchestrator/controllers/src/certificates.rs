//! CertificateSigningRequests: those of nodes are approved when the node may have them, approved ones of the signers
//! that are the cluster's own are signed, old ones are removed.
//!
//! observe (cache) → plan (`certificates/plan.rs`, pure) → apply (`approval` and `status`, as the object was seen).

mod plan;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use serde_json::json;

use catamaran_client::error::is_not_found;
use catamaran_client::{Cache, Key, Outcome, Queue, Tasks, object, runner};

use crate::authority::Keys;
use crate::caches;
use plan::Next;

const WORKERS: usize = 4;

/// Why a request could not be dealt with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// Whether a node may have a certificate could not be asked.
    #[error("cannot ask whether the certificate may be had")]
    Review(#[source] kube::Error),
    /// The decision or the certificate could not be written.
    #[error("cannot write the CertificateSigningRequest")]
    Write(#[source] kube::Error),
    /// The question could not be put.
    #[error("cannot encode the SubjectAccessReview")]
    Encode(#[source] serde_json::Error),
    /// It could not be removed.
    #[error("cannot remove the CertificateSigningRequest")]
    Remove(#[source] kube::Error),
}

struct Context {
    api: Api<CertificateSigningRequest>,
    client: Client,
    requests: Cache<CertificateSigningRequest>,
    keys: Keys,
}

/// Starts the cache of requests in `tasks`.
pub(crate) fn cache(client: &Client, tasks: &mut Tasks) -> Cache<CertificateSigningRequest> {
    let requests = caches::all(client);
    tasks.spawn("cache of certificatesigningrequests", requests.clone().run());
    requests
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, requests: Cache<CertificateSigningRequest>, keys: Keys) {
    let queue: Queue<Key> = Queue::new();
    let wake = queue.clone();
    requests.on_change(move |change| wake.add(Key::of(&**change.object())));
    requests.ready().await;
    let context = Arc::new(Context { api: Api::all(client.clone()), client, requests, keys });
    runner::run("certificates", queue, WORKERS, move |key| reconcile(Arc::clone(&context), key)).await;
}

async fn reconcile(context: Arc<Context>, key: Key) -> Result<Outcome, CertificateError> {
    let Some(request) = context.requests.get(&key) else { return Ok(Outcome::Done) };
    if object::is_being_deleted(&request.metadata) {
        return Ok(Outcome::Done);
    }
    let now = Timestamp::now();
    match plan::next(&request, now) {
        Next::Wait => {}
        Next::Recognize => recognize(&context, &request, now).await?,
        Next::Sign => sign(&context, &request, now).await?,
        Next::Remove => {
            remove(&context, &request).await?;
            return Ok(Outcome::Done);
        }
    }
    let left = plan::expires(&request).and_then(|end| Duration::try_from(end.duration_since(now)).ok());
    Ok(left.map_or(Outcome::Done, Outcome::After))
}

/// Approves what a node asks for itself, or what somebody asks for a node who may.
async fn recognize(
    context: &Context,
    request: &CertificateSigningRequest,
    now: Timestamp,
) -> Result<(), CertificateError> {
    let Ok(subject) = context.keys.read(&request.spec.request.0) else { return Ok(()) };
    let usages = request.spec.usages.as_deref().unwrap_or_default();
    if plan::kubelet_client(&subject, usages).is_some() {
        return Ok(());
    }
    let own = request.spec.username.as_deref() == Some(subject.common_name.as_str());
    let own = own.then_some(("selfnodeclient", "Auto approving self kubelet client certificate"));
    let kinds = own.into_iter().chain([("nodeclient", "Auto approving kubelet client certificate")]);
    for (kind, says) in kinds {
        if may(context, request, kind).await? {
            let message = format!("{says} after SubjectAccessReview.");
            let changed = with_condition(request, ("Approved", "AutoApproved", &message), now);
            return write(context, "approval", &changed).await;
        }
    }
    Ok(())
}

async fn may(
    context: &Context,
    request: &CertificateSigningRequest,
    subresource: &str,
) -> Result<bool, CertificateError> {
    let spec = &request.spec;
    let review = json!({"spec": {
        "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
        "resourceAttributes": {
            "group": "certificates.k8s.io", "resource": "certificatesigningrequests", "verb": "create",
            "subresource": subresource, "version": "*",
        },
    }});
    let review: SubjectAccessReview = serde_json::from_value(review).map_err(CertificateError::Encode)?;
    let reviews: Api<SubjectAccessReview> = Api::all(context.client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await.map_err(CertificateError::Review)?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

async fn sign(
    context: &Context,
    request: &CertificateSigningRequest,
    now: Timestamp,
) -> Result<(), CertificateError> {
    let spec = &request.spec;
    let usages = spec.usages.as_deref().unwrap_or_default();
    let made = context.keys.read(&spec.request.0).and_then(|subject| {
        match plan::refusal(&spec.signer_name, &subject, usages) {
            Some(why) => Err(why.to_owned()),
            None => context.keys.sign(&spec.request.0, usages, plan::lasts(request)),
        }
    });
    let changed = match made {
        Ok(certificate) => {
            let mut changed = request.clone();
            let status = changed.status.get_or_insert_with(CertificateSigningRequestStatus::default);
            status.certificate = Some(ByteString(certificate.into_bytes()));
            changed
        }
        Err(why) => with_condition(request, ("Failed", "SignerValidationFailure", &why), now),
    };
    write(context, "status", &changed).await
}

fn with_condition(
    request: &CertificateSigningRequest,
    (kind, reason, message): (&str, &str, &str),
    now: Timestamp,
) -> CertificateSigningRequest {
    let mut changed = request.clone();
    let status = changed.status.get_or_insert_with(CertificateSigningRequestStatus::default);
    status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
    changed
}

/// Writes a part of the object as it was seen; a conflict is tried again from what is there then.
async fn write(
    context: &Context,
    part: &str,
    request: &CertificateSigningRequest,
) -> Result<(), CertificateError> {
    let name = object::name(&request.metadata);
    match context.api.replace_subresource(part, name, &PostParams::default(), request).await {
        Err(error) if !is_not_found(&error) => Err(CertificateError::Write(error)),
        _ => Ok(()),
    }
}

async fn remove(context: &Context, request: &CertificateSigningRequest) -> Result<(), CertificateError> {
    let preconditions = Preconditions {
        uid: request.metadata.uid.clone(),
        resource_version: request.metadata.resource_version.clone(),
    };
    let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match context.api.delete(object::name(&request.metadata), &options).await {
        Err(error) if !is_not_found(&error) => Err(CertificateError::Remove(error)),
        _ => Ok(()),
    }
}
