//! Reviews: questions about identity and rights that are answered at once and never stored.

use std::collections::HashSet;

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use catamaran_api::field_error::{FieldError, Path};
use catamaran_api::status::Status;
use catamaran_api::{meta, time};

use crate::authenticate::UserInfo;
use crate::authorize::{self, Action, Attributes, Decision};
use crate::body::Body;
use crate::context::Context;
use crate::options::WriteOptions;
use crate::{registry, token};

/// Answers any review.
pub(crate) async fn create(context: &Context, body: &Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(&context.query, "CreateOptions")?;
    context.accepted()?;
    let mut review = registry::decode_body(context, body, context.resource.gvk(), &options)?;
    registry::check_place(context, &mut review)?;
    validate(context, &review)?;
    let spec = &review["spec"];
    review["status"] = match context.resource.plural {
        "selfsubjectreviews" => json!({"userInfo": user_info(&context.user)}),
        "selfsubjectaccessreviews" => decide(context, &context.user, spec).await?,
        "subjectaccessreviews" | "localsubjectaccessreviews" => decide(context, &subject(spec), spec).await?,
        "selfsubjectrulesreviews" => rules(context, spec).await?,
        "tokenreviews" => token_review(context, spec).await,
        _ => return Err(Status::no_such_resource()),
    };
    meta::set(&mut review, "creationTimestamp", time::format(context.now));
    context.value(201, &review)
}

fn validate(context: &Context, review: &Value) -> Result<(), Status> {
    let spec = &review["spec"];
    let errors = match context.resource.plural {
        "selfsubjectaccessreviews" => what(spec),
        "subjectaccessreviews" => what(spec).into_iter().chain(whom(spec)).collect(),
        "localsubjectaccessreviews" => {
            what(spec).into_iter().chain(whom(spec)).chain(place(context, spec)).collect()
        }
        "selfsubjectrulesreviews" if text(spec, "namespace").is_empty() => {
            return Err(Status::bad_request("no namespace on request"));
        }
        "tokenreviews" if text(spec, "token").is_empty() => {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        _ => Vec::new(),
    };
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(context.resource.group, context.resource.kind, meta::name(review), &errors))
}

fn what(spec: &Value) -> Vec<FieldError> {
    let (root, resource) = (Path::root("spec"), &spec["resourceAttributes"]);
    match (resource.is_object(), spec["nonResourceAttributes"].is_object()) {
        (true, true) => vec![FieldError::invalid(
            &root.child("nonResourceAttributes"),
            spec["nonResourceAttributes"].clone(),
            "cannot be specified in combination with resourceAttributes",
        )],
        (false, false) => vec![FieldError::invalid(
            &root.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )],
        _ => Vec::new(),
    }
}

fn whom(spec: &Value) -> Option<FieldError> {
    let nobody = text(spec, "user").is_empty() && strings(&spec["groups"]).is_empty();
    let message = "at least one of user or group must be specified";
    nobody.then(|| FieldError::invalid(&Path::root("spec").child("user"), text(spec, "user"), message))
}

/// A local review is about its own namespace.
fn place(context: &Context, spec: &Value) -> Vec<FieldError> {
    let root = Path::root("spec");
    let mut errors = Vec::new();
    if spec["nonResourceAttributes"].is_object() {
        let path = root.child("nonResourceAttributes");
        let value = spec["nonResourceAttributes"].clone();
        errors.push(FieldError::invalid(&path, value, "disallowed on this kind of request"));
    }
    let attributes = &spec["resourceAttributes"];
    let asked = text(attributes, "namespace");
    if attributes.is_object() && asked != context.namespace().unwrap_or_default() {
        let (resource, message) = (root.child("resourceAttributes"), "must match metadata.namespace");
        errors.push(FieldError::invalid(&resource.child("namespace"), asked, message));
    }
    errors
}

pub(crate) fn user_info(user: &UserInfo) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if let Some(uid) = &user.uid {
        info["uid"] = uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn subject(spec: &Value) -> UserInfo {
    let extra = spec["extra"].as_object().into_iter().flatten();
    UserInfo {
        name: text(spec, "user").to_owned(),
        groups: strings(&spec["groups"]),
        uid: spec["uid"].as_str().map(str::to_owned),
        extra: extra.map(|(key, values)| (key.clone(), strings(values))).collect(),
    }
}

async fn decide(context: &Context, user: &UserInfo, spec: &Value) -> Result<Value, Status> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let action = if resource.is_object() {
        Action::Resource(Attributes {
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
        })
    } else {
        Action::Path { verb: text(path, "verb"), path: text(path, "path") }
    };
    let (allowed, reason) = match authorize::decide(&context.core, user, &action).await? {
        Decision::Allow(reason) => (true, reason),
        Decision::NoOpinion(faults) => (false, faults),
    };
    let mut status = json!({"allowed": allowed});
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    Ok(status)
}

async fn rules(context: &Context, spec: &Value) -> Result<Value, Status> {
    let (user, namespace) = (&context.user, text(spec, "namespace"));
    let (held, faults) = context.core.rbac.ask(|index| index.rules_of(user, namespace)).await?;
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let built_in = authorize::built_in_rules(user);
    for rule in built_in.iter().chain(&held).filter(|rule| seen.insert(*rule)) {
        // A role for all of the cluster may hold both in one rule.
        if !rule.resources.is_empty() {
            let mut value = rule.to_value();
            value.as_object_mut().and_then(|fields| fields.remove("nonResourceURLs"));
            resources.push(value);
        }
        if !rule.non_resource_urls.is_empty() {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
        }
    }
    let mut status =
        json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": !faults.is_empty()});
    if !faults.is_empty() {
        status["evaluationError"] = faults.join(", ").into();
    }
    Ok(status)
}

async fn token_review(context: &Context, spec: &Value) -> Value {
    let mut audiences = strings(&spec["audiences"]);
    if audiences.is_empty() {
        audiences.push(token::ISSUER.to_owned());
    }
    match context.core.checks().bearer(text(spec, "token"), context.now, &audiences).await {
        Ok(bearer) => {
            json!({"authenticated": true, "user": user_info(&bearer.user), "audiences": bearer.audiences})
        }
        Err(error) => json!({"authenticated": false, "user": {}, "error": error.to_string()}),
    }
}
