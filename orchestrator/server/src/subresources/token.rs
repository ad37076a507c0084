//! `serviceaccounts/NAME/token`: a token for the account, bound to an audience, a time and perhaps a pod.

use bytes::Bytes;
use http::Response;
use jiff::SignedDuration;
use serde_json::{Value, json};

use catamaran_api::field_error::{FieldError, Path};
use catamaran_api::kind::{self, GroupVersionKind};
use catamaran_api::status::{GroupResource, Status};
use catamaran_api::{meta, time};

use crate::admit;
use crate::authenticate::UserInfo;
use crate::authorize;
use crate::body::Body;
use crate::context::Context;
use crate::options::WriteOptions;
use crate::registry;
use crate::token::{Bound, Claims, ISSUER, Reference};

const KIND: GroupVersionKind =
    GroupVersionKind { group: "authentication.k8s.io", version: "v1", kind: "TokenRequest" };
const LEAST: i64 = 600;
const DEFAULT: i64 = 3600;
const MOST: i64 = 1 << 32;

pub(crate) async fn create(context: &Context, body: &Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(&context.query, "CreateOptions")?;
    let mut request = registry::decode_body(context, body, KIND, &options)?;
    check_place(context, &request)?;
    let (_, account) = registry::load_object(context).await?;
    let asked = (admit::Operation::Create, "token");
    admit::act(context, asked, (KIND, &mut request), options.dry_run).await?;
    let seconds = seconds(context, &request)?;
    let mut audiences: Vec<String> = request["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let end = context.now.checked_add(SignedDuration::from_secs(seconds)).map_err(Status::internal_error)?;
    let claims = Claims {
        aud: audiences.clone(),
        exp: end.as_second(),
        iat: context.now.as_second(),
        iss: ISSUER.to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        bound: bound(context, &account, &request).await?,
        nbf: context.now.as_second(),
        sub: format!("system:serviceaccount:{}:{}", meta::namespace(&account), meta::name(&account)),
    };
    let token = context.core.tokens.sign(&claims).map_err(Status::internal_error)?;
    request["spec"]["audiences"] = audiences.into();
    request["spec"]["expirationSeconds"] = seconds.into();
    request["status"] = json!({"token": token, "expirationTimestamp": time::format(end)});
    meta::set(&mut request, "name", meta::name(&account));
    meta::set(&mut request, "namespace", meta::namespace(&account));
    meta::set(&mut request, "creationTimestamp", time::format(context.now));
    context.value(201, &request)
}

/// A request that names an account names the one in the path.
fn check_place(context: &Context, request: &Value) -> Result<(), Status> {
    let name = meta::name(request);
    if !name.is_empty() && name != context.name() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            context.name()
        )));
    }
    let namespace = meta::namespace(request);
    if !namespace.is_empty() && Some(namespace) != context.namespace() {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// For how long the token is given, which may be shorter than asked for.
fn seconds(context: &Context, request: &Value) -> Result<i64, Status> {
    let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT);
    let wrong = match seconds {
        ..LEAST => Some("may not specify a duration less than 10 minutes"),
        LEAST..=MOST => None,
        _ => Some("may not specify a duration larger than 2^32 seconds"),
    };
    if let Some(message) = wrong {
        let error = FieldError::invalid(&Path::root("spec.expirationSeconds"), seconds, message);
        return Err(Status::invalid(KIND.group, KIND.kind, "", &[error]));
    }
    match context.core.config.max_token_seconds {
        Some(most) if seconds > most => {
            context.warn(format!("requested expiration of {seconds} seconds shortened to {most} seconds"));
            Ok(most)
        }
        _ => Ok(seconds),
    }
}

/// What the token dies with: the account, and the pod, secret or node that the request names.
async fn bound(context: &Context, account: &Value, request: &Value) -> Result<Bound, Status> {
    let mut bound = Bound {
        namespace: meta::namespace(account).to_owned(),
        serviceaccount: reference(account),
        pod: None,
        secret: None,
        node: None,
    };
    let wanted = &request["spec"]["boundObjectRef"];
    let group_kind = (wanted["apiVersion"].as_str().unwrap_or_default(), wanted["kind"].as_str());
    if is_node(&context.user) && group_kind.1 != Some("Pod") {
        // A node gets tokens for its pods, and for nobody else.
        return Err(not_for_this_node(context));
    }
    let plural = match group_kind {
        (_, None) if wanted.is_null() => return Ok(bound),
        ("v1" | "", Some("Pod")) => "pods",
        ("v1" | "", Some("Secret")) => "secrets",
        ("v1" | "", Some("Node")) => "nodes",
        (version, kind) => {
            let group = version.split_once('/').map_or("", |(group, _)| group);
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {group}/{}, Kind={}",
                version.rsplit('/').next().unwrap_or_default(),
                kind.unwrap_or_default()
            )));
        }
    };
    let object = bound_object(context, plural, wanted).await?;
    match plural {
        "secrets" => bound.secret = Some(reference(&object)),
        "nodes" => bound.node = Some(reference(&object)),
        _ => {
            check_pod(context, account, &object)?;
            bound.node = node_of(context, &object).await;
            bound.pod = Some(reference(&object));
        }
    }
    Ok(bound)
}

fn reference(object: &Value) -> Reference {
    Reference { name: meta::name(object).to_owned(), uid: meta::uid(object).to_owned() }
}

/// The object that the token is to be bound to, which must be the one that is meant.
async fn bound_object(context: &Context, plural: &str, wanted: &Value) -> Result<Value, Status> {
    let name = wanted["name"].as_str().unwrap_or_default();
    let Some(resource) = kind::find("", "v1", plural) else { return Err(Status::no_such_resource()) };
    let namespace = context.namespace().filter(|_| resource.namespaced());
    let (_, object) = registry::load_object(&context.about(resource, namespace, Some(name))).await?;
    let uid = wanted["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && uid != meta::uid(&object) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        );
        return Err(Status::conflict(GroupResource::new("", plural), name, &why));
    }
    Ok(object)
}

fn check_pod(context: &Context, account: &Value, pod: &Value) -> Result<(), Status> {
    if pod["spec"]["serviceAccountName"] != meta::name(account) {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            meta::name(account)
        )));
    }
    if of_another_node(&context.user, pod) { Err(not_for_this_node(context)) } else { Ok(()) }
}

/// The node that a pod runs on, which the token tells.
async fn node_of(context: &Context, pod: &Value) -> Option<Reference> {
    let name = pod["spec"]["nodeName"].as_str().filter(|name| !name.is_empty())?;
    let nodes = kind::find("", "v1", "nodes")?;
    let (_, node) = registry::load_object(&context.about(nodes, None, Some(name))).await.ok()?;
    Some(reference(&node))
}

fn is_node(user: &UserInfo) -> bool {
    user.member_of("system:nodes") && !authorize::all_powerful(user)
}

fn of_another_node(user: &UserInfo, pod: &Value) -> bool {
    is_node(user) && pod["spec"]["nodeName"].as_str() != user.name.strip_prefix("system:node:")
}

fn not_for_this_node(context: &Context) -> Status {
    let why = "a node is given tokens for the accounts of its own pods only";
    Status::forbidden(context.group_resource(), context.name(), why)
}
