//! What is known of one request: an event for each of its stages (audit.k8s.io/v1, Event).

use bytes::Bytes;
use flate2::read::GzDecoder;
use futures::StreamExt;
use http::request::Parts;
use http::{HeaderMap, Response, header};
use http_body_util::{BodyExt, BodyStream};
use jiff::Timestamp;
use serde_json::{Value, json};

use catamaran_api::decode::{self, ContentType, Strictness};
use catamaran_api::{meta, time};

use super::policy::{Judged, Level, Stage};
use super::sink::Sink;
use crate::authenticate::UserInfo;
use crate::authorize::Action;
use crate::body::{self, Body};
use crate::negotiate::{self, Media};

/// The longest body that is noted whole.
const NOTED: usize = body::REQUEST_LIMIT;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With an answer that is there as a whole.
    Whole,
    /// With an answer that goes on.
    Stream,
    /// Before it was known who asked.
    Unauthenticated,
    /// By a fault of ours.
    Panic,
}

/// A request that is noted.
pub(crate) struct Record {
    judged: Judged,
    event: Value,
    sink: Option<Sink>,
}

impl Record {
    pub(super) fn new(
        judged: Judged,
        parts: &Parts,
        (user, impersonated): (&UserInfo, Option<&UserInfo>),
        action: &Action<'_>,
        (id, now): (&str, Timestamp),
    ) -> Self {
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1",
            "level": judged.level.as_str(), "auditID": id,
            "requestURI": parts.uri.path_and_query().map_or(parts.uri.path(), |uri| uri.as_str()),
            "user": identity(user),
            "sourceIPs": sources(&parts.headers, parts.extensions.get::<Peer>()),
            "requestReceivedTimestamp": time::format_micro(now),
        });
        if let Some(impersonated) = impersonated {
            event["impersonatedUser"] = identity(impersonated);
        }
        if let Some(agent) = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()) {
            event["userAgent"] = agent.into();
        }
        match action {
            Action::Path { verb, .. } => event["verb"] = (*verb).into(),
            Action::Resource(wanted) => {
                event["verb"] = wanted.verb.into();
                let mut reference = json!({"resource": wanted.resource});
                let mut say = |field: &str, value: &str| {
                    if !value.is_empty() {
                        reference[field] = value.into();
                    }
                };
                say("namespace", wanted.namespace);
                say("name", wanted.name);
                say("apiGroup", wanted.group);
                say("apiVersion", version(parts.uri.path()));
                say("subresource", wanted.subresource);
                event["objectRef"] = reference;
            }
        }
        Record { judged, event, sink: None }
    }

    pub(super) fn to(self, sink: Sink) -> Self {
        Record { sink: Some(sink), ..self }
    }

    /// Notes that the request has come.
    pub(crate) async fn received(&self) {
        self.note(Stage::RequestReceived).await;
    }

    /// Notes what the authorizers said.
    pub(crate) fn decided(&mut self, allowed: bool, reason: &str) {
        self.event["annotations"] = json!({
            "authorization.k8s.io/decision": if allowed { "allow" } else { "forbid" },
            "authorization.k8s.io/reason": reason,
        });
    }

    /// Whether the policy wants to see what was sent.
    pub(crate) fn wants_body(&self) -> bool {
        self.judged.level >= Level::Request
    }

    /// Notes what was sent.
    pub(crate) fn sent(&mut self, headers: &HeaderMap, content: &Bytes) {
        let kind = match negotiate::body_media(headers) {
            Ok(Media::Yaml) => ContentType::Yaml,
            Ok(Media::Protobuf) => ContentType::Protobuf,
            // Patches are JSON whatever their type says; what is not is left out below.
            _ => ContentType::Json,
        };
        let object = match kind {
            ContentType::Json => serde_json::from_slice(content).ok(),
            other => decode::untyped(content, other, Strictness::Ignore).ok().map(|decoded| decoded.object),
        };
        if let Some(object) = object {
            self.event["requestObject"] = self.tidy(object);
        }
    }

    fn tidy(&self, mut object: Value) -> Value {
        if self.judged.managed_fields {
            return object;
        }
        let strip = |object: &mut Value| {
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
        };
        strip(&mut object);
        object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(strip);
        object
    }

    /// Notes the answer, which is given back. A stream is noted when it begins and when it ends.
    pub(crate) async fn ended(mut self, mut response: Response<Body>, how: Ended) -> Response<Body> {
        let code = response.status().as_u16();
        self.event["responseStatus"] = json!({"metadata": {}, "code": code});
        if how == Ended::Stream {
            self.note(Stage::ResponseStarted).await;
            return response.map(|body| self.follow(body));
        }
        let named = self.event["objectRef"]["name"].is_string();
        let creates = self.event["verb"] == "create" && !named && code < 300;
        if code >= 400 || creates || self.judged.level == Level::RequestResponse {
            response = self.answered(response).await;
        }
        self.note(match how {
            Ended::Panic => Stage::Panic,
            Ended::Unauthenticated => Stage::ResponseStarted,
            Ended::Whole | Ended::Stream => Stage::ResponseComplete,
        })
        .await;
        response
    }

    /// Looks into an answer that is there as a whole.
    async fn answered(&mut self, response: Response<Body>) -> Response<Body> {
        let (parts, content) = response.into_parts();
        let Ok(content) = content.collect().await else { return Response::from_parts(parts, body::empty()) };
        let bytes = content.to_bytes();
        let packed = parts.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding == "gzip");
        if let Some(object) = parse(&bytes, packed) {
            if object["kind"] == "Status" && object["status"] == "Failure" {
                let field = |name: &str| object[name].clone();
                self.event["responseStatus"] = json!({
                    "metadata": {}, "status": field("status"), "message": field("message"),
                    "reason": field("reason"), "code": field("code"),
                });
            }
            if self.event["objectRef"].is_object() && self.event["verb"] == "create" {
                let name = meta::name(&object);
                if !name.is_empty() && self.event["objectRef"]["name"].is_null() {
                    self.event["objectRef"]["name"] = name.into();
                }
            }
            if self.judged.level == Level::RequestResponse {
                self.event["responseObject"] = self.tidy(object);
            }
        }
        Response::from_parts(parts, body::full(bytes))
    }

    /// Notes the end of a stream, also when the client leaves before it.
    fn follow(self, content: Body) -> Body {
        let at_end = AtEnd(self);
        let pieces = BodyStream::new(content).filter_map(move |frame| {
            let _ = &at_end;
            futures::future::ready(frame.map(|frame| frame.into_data().ok()).transpose())
        });
        body::stream(pieces)
    }

    fn at(&self, stage: Stage) -> Option<Value> {
        if self.judged.omitted.contains(&stage) {
            return None;
        }
        let mut event = self.event.clone();
        event["stage"] = stage.as_str().into();
        event["stageTimestamp"] = time::format_micro(Timestamp::now()).into();
        Some(event)
    }

    async fn note(&self, stage: Stage) {
        if let (Some(sink), Some(event)) = (&self.sink, self.at(stage)) {
            sink.note(event).await;
        }
    }
}

/// Notes the end of a stream when it is dropped.
struct AtEnd(Record);

impl Drop for AtEnd {
    fn drop(&mut self) {
        if let (Some(sink), Some(event)) = (&self.0.sink, self.0.at(Stage::ResponseComplete)) {
            sink.note_now(event);
        }
    }
}

/// The address at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) std::net::IpAddr);

fn parse(bytes: &[u8], packed: bool) -> Option<Value> {
    if !packed {
        return (bytes.len() <= NOTED).then(|| serde_json::from_slice(bytes).ok())?;
    }
    use std::io::Read;
    let mut plain = Vec::new();
    let limit = u64::try_from(NOTED).unwrap_or(u64::MAX) + 1;
    GzDecoder::new(bytes).take(limit).read_to_end(&mut plain).ok()?;
    parse(&plain, false)
}

fn identity(user: &UserInfo) -> Value {
    let mut identity = json!({});
    if !user.name.is_empty() {
        identity["username"] = user.name.as_str().into();
    }
    if let Some(uid) = &user.uid {
        identity["uid"] = uid.as_str().into();
    }
    if !user.groups.is_empty() {
        identity["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        identity["extra"] = json!(user.extra);
    }
    identity
}

/// Addresses that the request came by: what proxies say, and last the one that is sure.
fn sources(headers: &HeaderMap, peer: Option<&Peer>) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut found: Vec<String> = text("x-forwarded-for")
        .split(',')
        .filter_map(|word| word.trim().parse::<std::net::IpAddr>().ok())
        .map(|address| address.to_string())
        .collect();
    if let Some(Peer(peer)) = peer {
        let peer = peer.to_string();
        if found.last() != Some(&peer) {
            found.push(peer);
        }
    }
    found
}

/// The API version in a path of a resource.
fn version(path: &str) -> &str {
    let mut words = path.split('/').filter(|word| !word.is_empty());
    match words.next() {
        Some("api") => words.next().unwrap_or_default(),
        Some("apis") => words.nth(1).unwrap_or_default(),
        _ => "",
    }
}
