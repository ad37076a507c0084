//! Reviews: questions about identity and rights that are answered at once and never stored.

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use catamaran_api::status::Status;
use catamaran_api::{meta, time};

use crate::authenticate::{self, UserInfo};
use crate::authorize::{self, Attributes, Decision};
use crate::body::Body;
use crate::context::Context;
use crate::options::WriteOptions;
use crate::{registry, token};

/// Answers any review.
pub(crate) async fn create(context: &Context, body: &Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(&context.query, "CreateOptions")?;
    context.accepted()?;
    let mut review = registry::decode_body(context, body, context.resource.gvk(), &options)?;
    review["status"] = match context.resource.plural {
        "selfsubjectreviews" => json!({"userInfo": user_info(&context.user)}),
        "selfsubjectaccessreviews" => decide(&context.user, &review["spec"]),
        "subjectaccessreviews" | "localsubjectaccessreviews" => {
            decide(&subject(&review["spec"]), &review["spec"])
        }
        "selfsubjectrulesreviews" => rules(&context.user),
        "tokenreviews" => token_review(context, &review["spec"]).await,
        _ => return Err(Status::no_such_resource()),
    };
    let asked = review["spec"]["resourceAttributes"]["namespace"].as_str();
    if context.resource.plural == "localsubjectaccessreviews" && asked != context.namespace() {
        return Err(Status::bad_request(
            "spec.resourceAttributes.namespace must match the namespace in the path",
        ));
    }
    meta::set(&mut review, "creationTimestamp", time::format(context.now));
    context.value(201, &review)
}

fn user_info(user: &UserInfo) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if let Some(uid) = &user.uid {
        info["uid"] = uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn subject(spec: &Value) -> UserInfo {
    UserInfo {
        name: spec["user"].as_str().unwrap_or_default().to_owned(),
        groups: strings(&spec["groups"]),
        uid: spec["uid"].as_str().map(str::to_owned),
        ..UserInfo::default()
    }
}

fn decide(user: &UserInfo, spec: &Value) -> Value {
    let decision = if spec["resourceAttributes"].is_object() {
        let word = |field: &str| spec["resourceAttributes"][field].as_str().unwrap_or_default();
        let wanted = Attributes {
            verb: word("verb"),
            group: word("group"),
            resource: word("resource"),
            subresource: word("subresource"),
            namespace: word("namespace"),
            name: word("name"),
        };
        authorize::authorize(user, &wanted)
    } else {
        let path = spec["nonResourceAttributes"]["path"].as_str().unwrap_or_default();
        let route = crate::route::route(&http::Method::GET, path, &crate::query::Query::default());
        authorize::authorize_path(user, &route)
    };
    match decision {
        Decision::Allow => json!({"allowed": true}),
        Decision::NoOpinion => json!({"allowed": false}),
    }
}

fn rules(user: &UserInfo) -> Value {
    if authorize::all_powerful(user) {
        return json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        });
    }
    let resource_rules: Vec<Value> = authorize::rules_of(user)
        .into_iter()
        .flatten()
        .map(
            |(groups, resources, verbs)| json!({"verbs": verbs, "apiGroups": groups, "resources": resources}),
        )
        .collect();
    let paths = [
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
        "/version/",
    ];
    json!({
        "resourceRules": resource_rules,
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": paths}],
        "incomplete": false,
    })
}

async fn token_review(context: &Context, spec: &Value) -> Value {
    let core = &context.core;
    let mut audiences = strings(&spec["audiences"]);
    if audiences.is_empty() {
        audiences.push(token::ISSUER.to_owned());
    }
    let given = spec["token"].as_str().unwrap_or_default();
    match core.tokens.verify(given, context.now.as_second(), &audiences) {
        Ok(claims) if authenticate::alive(&claims, &*core.store).await => {
            let shared: Vec<&String> =
                audiences.iter().filter(|audience| claims.aud.contains(audience)).collect();
            let user = user_info(&authenticate::service_account(&claims));
            json!({"authenticated": true, "user": user, "audiences": shared})
        }
        Ok(_) => json!({"authenticated": false, "error": "what the token is bound to is gone"}),
        Err(error) => json!({"authenticated": false, "error": error.to_string()}),
    }
}
