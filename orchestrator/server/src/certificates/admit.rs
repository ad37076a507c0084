//! What the server does with a CertificateSigningRequest before it is stored: who asks is written into it, and who may
//! approve or sign for a signer is asked of the authorizers.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

use catamaran_api::field_error::{FieldError, Path};
use catamaran_api::status::Status;
use catamaran_api::{meta, time};

use super::{GROUP, RequestSubject};
use crate::authenticate::MASTERS;
use crate::authorize::{self, Action, Attributes};
use crate::context::Context;
use crate::strategy::Part;
use crate::subresources::reviews;

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Writes down who asks, and refuses what no signer could use.
pub(crate) fn create(context: &Context, object: &mut Value) -> Result<(), Status> {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        *spec = Value::Object(Map::new());
    }
    let asks = reviews::user_info(&context.user);
    if let Some(spec) = spec.as_object_mut() {
        for field in ["username", "uid", "groups", "extra"] {
            spec.remove(field);
            if let Some(value) = asks.get(field) {
                spec.insert(field.to_owned(), value.clone());
            }
        }
    }
    let text = object["spec"]["request"].as_str().unwrap_or_default();
    let subject = BASE64_STANDARD
        .decode(text)
        .map_err(|_| super::RequestError::Pem)
        .and_then(|pem| RequestSubject::of(&pem));
    let subject = subject.map_err(|error| {
        let error = FieldError::invalid(&Path::root("spec.request"), text, error.to_string());
        Status::invalid(GROUP, context.resource.kind, meta::name(object), &[error])
    })?;
    let master = subject.organizations.iter().any(|group| group == MASTERS);
    if object["spec"]["signerName"] == CLIENT_SIGNER && master {
        let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
        return Err(Status::forbidden(context.group_resource(), meta::name(object), &why));
    }
    Ok(())
}

/// What a request asked for stays; approving and signing need rights on the signer.
pub(crate) async fn update(
    context: &Context,
    part: Part,
    new: &mut Value,
    old: &Value,
) -> Result<(), Status> {
    new["spec"] = old["spec"].clone();
    match part {
        Part::Approval => {
            restore(new, old, "certificate");
            set_times(new, old, time::format(context.now));
            require(context, old, ("approve", "approve")).await
        }
        Part::Status => {
            set_times(new, old, time::format(context.now));
            let signs = new["status"]["certificate"] != old["status"]["certificate"]
                || condition(new, "Failed") != condition(old, "Failed");
            if signs { require(context, old, ("sign", "sign")).await } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// Asks for a verb on the signer, by its name or by all names of its domain.
async fn require(context: &Context, object: &Value, (verb, does): (&str, &str)) -> Result<(), Status> {
    let signer = object["spec"]["signerName"].as_str().unwrap_or_default();
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    for name in [signer, &format!("{domain}/*")] {
        let (group, resource, subresource, namespace) = (GROUP, "signers", "", "");
        let action = Action::Resource(Attributes { verb, group, resource, subresource, namespace, name });
        if authorize::decide(&context.core, &context.user, &action).await?.allowed() {
            return Ok(());
        }
    }
    let why = format!("user not permitted to {does} requests with signerName {signer:?}");
    Err(Status::forbidden(context.group_resource(), context.name(), &why))
}

fn restore(new: &mut Value, old: &Value, field: &str) {
    let Some(status) = new["status"].as_object_mut() else { return };
    match old["status"].get(field) {
        Some(value) => status.insert(field.to_owned(), value.clone()),
        None => status.remove(field),
    };
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["conditions"].as_array().into_iter().flatten()
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    conditions(object).find(|condition| condition["type"] == kind)
}

/// Conditions that say no time were set now; one that did not change keeps the time of its last change.
fn set_times(new: &mut Value, old: &Value, now: String) {
    let Some(conditions) = new["status"]["conditions"].as_array_mut() else { return };
    for new in conditions {
        if new["lastUpdateTime"].is_null() {
            new["lastUpdateTime"] = now.clone().into();
        }
        if new["lastTransitionTime"].is_null() {
            let before = new["type"].as_str().and_then(|kind| condition(old, kind));
            let kept = before.filter(|before| before["status"] == new["status"]);
            let kept = kept.map(|before| before["lastTransitionTime"].clone()).filter(|time| !time.is_null());
            new["lastTransitionTime"] = kept.unwrap_or_else(|| now.clone().into());
        }
    }
}
