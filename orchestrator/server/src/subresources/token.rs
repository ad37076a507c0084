//! `serviceaccounts/NAME/token`: a token for the account, bound to an audience, a time and perhaps a pod.

use bytes::Bytes;
use http::Response;
use jiff::Span;
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
const MOST: i64 = 86_400;

pub(crate) async fn create(context: &Context, body: &Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(&context.query, "CreateOptions")?;
    let mut request = registry::decode_body(context, body, KIND, &options)?;
    let (_, account) = registry::load_object(context).await?;
    let asked = (admit::Operation::Create, "token");
    admit::act(context, asked, (KIND, &mut request), options.dry_run).await?;
    let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT);
    if seconds < LEAST {
        let path = Path::root("spec.expirationSeconds");
        let error = FieldError::invalid(&path, seconds, "may not specify a duration less than 10 minutes");
        return Err(Status::invalid(KIND.group, KIND.kind, "", &[error]));
    }
    let seconds = seconds.min(MOST);
    let mut audiences: Vec<String> = request["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let end = context.now + Span::new().seconds(seconds);
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

/// What the token dies with: the account, and the pod or secret that the request names.
async fn bound(context: &Context, account: &Value, request: &Value) -> Result<Bound, Status> {
    let reference =
        |object: &Value| Reference { name: meta::name(object).to_owned(), uid: meta::uid(object).to_owned() };
    let mut bound = Bound {
        namespace: meta::namespace(account).to_owned(),
        serviceaccount: reference(account),
        pod: None,
        secret: None,
        node: None,
    };
    let wanted = &request["spec"]["boundObjectRef"];
    let name = wanted["name"].as_str().unwrap_or_default();
    let plural = match wanted["kind"].as_str() {
        // A node gets tokens for its pods, and for nobody else.
        None | Some("Secret") if is_node(&context.user) => return Err(not_for_this_node(context)),
        None => return Ok(bound),
        Some("Pod") => "pods",
        Some("Secret") => "secrets",
        Some(other) => {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount to object kind {other}"
            )));
        }
    };
    let Some(resource) = kind::find("", "v1", plural) else { return Err(Status::no_such_resource()) };
    let (_, object) =
        registry::load_object(&context.about(resource, context.namespace(), Some(name))).await?;
    let uid = wanted["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && uid != meta::uid(&object) {
        let group_resource = GroupResource::new("", plural);
        return Err(Status::uid_precondition(group_resource, name, uid, meta::uid(&object)));
    }
    if plural == "secrets" {
        bound.secret = Some(reference(&object));
        return Ok(bound);
    }
    if object["spec"]["serviceAccountName"] != meta::name(account) {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {} to pod running with different serviceaccount name.",
            meta::name(account)
        )));
    }
    if of_another_node(&context.user, &object) {
        return Err(not_for_this_node(context));
    }
    if let Some(node) = object["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())
        && let Some(nodes) = kind::find("", "v1", "nodes")
        && let Ok((_, node)) = registry::load_object(&context.about(nodes, None, Some(node))).await
    {
        bound.node = Some(reference(&node));
    }
    bound.pod = Some(reference(&object));
    Ok(bound)
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
