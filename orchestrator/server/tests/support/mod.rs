//! The API through the tower service, over the store in memory.

#![allow(dead_code, reason = "no test program needs all of it")]
#![allow(unreachable_pub, reason = "it is shared by several test programs")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use catamaran_server::{Body, Server, ServerConfig, UserInfo};
use catamaran_store::{MemoryStore, Store as _};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::{Service, ServiceExt};

/// A server over the store in memory, and who asks it.
pub struct Api {
    pub server: Server,
    pub store: Arc<MemoryStore>,
    pub user: UserInfo,
    pub dir: tempfile::TempDir,
}

/// An answer that has come whole.
pub struct Reply {
    pub code: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("no JSON: {:?}", self.bytes))
    }

    /// Code and message of a Status.
    pub fn failure(&self) -> (u16, String) {
        let status = self.json();
        assert_eq!(status["kind"], "Status", "{status}");
        (self.code, status["message"].as_str().unwrap_or_default().to_owned())
    }

    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.code < 300, "{} {:?}", self.code, self.bytes);
        self.json()
    }
}

impl Api {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryStore::new());
        let server = Server::new(ServerConfig::new(dir.path()), store.clone()).unwrap();
        server.bootstrap().await.unwrap();
        let user = UserInfo::new("admin", &["system:masters"]);
        let api = Api { server, store, user, dir };
        api.post(
            "/api/v1/namespaces/default/serviceaccounts",
            &json!({
                "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"},
            }),
        )
        .await
        .ok();
        api
    }

    /// The store lets go of all its history.
    pub async fn store_forgets(&self) {
        self.store.compact(self.store.revision()).await.unwrap();
    }

    pub fn store_revision(&self) -> u64 {
        self.store.revision()
    }

    pub async fn open(
        &self,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::<Bytes>::from(body)).unwrap();
        let mut service = self.server.service(self.user.clone());
        ServiceExt::<Request<Full<Bytes>>>::ready(&mut service).await.unwrap().call(request).await.unwrap()
    }

    pub async fn send(&self, method: Method, uri: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Reply {
        let (parts, body) = self.open(method, uri, headers, body).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Reply { code: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    pub async fn get(&self, uri: &str) -> Reply {
        self.send(Method::GET, uri, &[], Vec::new()).await
    }

    pub async fn post(&self, uri: &str, body: &Value) -> Reply {
        self.send(Method::POST, uri, &[], body.to_string().into()).await
    }

    pub async fn put(&self, uri: &str, body: &Value) -> Reply {
        self.send(Method::PUT, uri, &[], body.to_string().into()).await
    }

    pub async fn delete(&self, uri: &str, options: &Value) -> Reply {
        let body = if options.is_null() { Vec::new() } else { options.to_string().into() };
        self.send(Method::DELETE, uri, &[], body).await
    }

    pub async fn patch(&self, kind: &str, uri: &str, body: &Value) -> Reply {
        let media = format!("application/{kind}");
        self.send(Method::PATCH, uri, &[("content-type", &media)], body.to_string().into()).await
    }

    pub async fn watch(&self, uri: &str) -> Watch {
        self.watch_as(uri, "application/json").await
    }

    /// A watch in the form that `accept` names.
    pub async fn watch_as(&self, uri: &str, accept: &str) -> Watch {
        let response = self.open(Method::GET, uri, &[("accept", accept)], Vec::new()).await;
        assert_eq!(response.status(), 200, "{uri}");
        Watch { body: response.into_body(), rest: Vec::new() }
    }

    /// GET in the form that `accept` names.
    pub async fn get_as(&self, uri: &str, accept: &str) -> Reply {
        self.send(Method::GET, uri, &[("accept", accept)], Vec::new()).await
    }
}

/// A stream of events.
pub struct Watch {
    pub body: Body,
    rest: Vec<u8>,
}

impl Watch {
    /// The next event; none at the end of the stream.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(5), self.body.frame())
                .await
                .expect("an event in time");
            self.rest.extend_from_slice(&frame?.unwrap().into_data().unwrap_or_default());
        }
    }

    /// The next frame of a watch in protobuf: the type of the event and the object's bytes.
    pub async fn next_message(&mut self) -> Option<(String, Vec<u8>)> {
        loop {
            if let Some((head, rest)) = self.rest.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*head) as usize;
                if rest.len() >= length {
                    let frame: Vec<u8> = self.rest.drain(..length + 4).skip(4).collect();
                    return Some(event(&frame));
                }
            }
            let frame = tokio::time::timeout(Duration::from_secs(5), self.body.frame())
                .await
                .expect("an event in time");
            self.rest.extend_from_slice(&frame?.unwrap().into_data().unwrap_or_default());
        }
    }

    pub async fn kinds(&mut self, count: usize) -> Vec<String> {
        let mut kinds = Vec::new();
        for _ in 0..count {
            let event = self.next().await.unwrap();
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            kinds.push(format!("{} {name}", event["type"].as_str().unwrap()));
        }
        kinds
    }
}

/// The fields of a `WatchEvent` and of the `RawExtension` in it, read by hand.
fn event(frame: &[u8]) -> (String, Vec<u8>) {
    fn field(bytes: &[u8], tag: u8) -> (&[u8], &[u8]) {
        assert_eq!(bytes[0], tag << 3 | 2);
        let (mut length, mut at) = (0, 1);
        loop {
            length |= usize::from(bytes[at] & 0x7f) << (7 * (at - 1));
            at += 1;
            if bytes[at - 1] & 0x80 == 0 {
                return bytes[at..].split_at(length);
            }
        }
    }
    let (kind, rest) = field(frame, 1);
    let (extension, rest) = field(rest, 2);
    assert!(rest.is_empty());
    let (object, rest) = field(extension, 1);
    assert!(rest.is_empty());
    (String::from_utf8(kind.to_vec()).unwrap(), object.to_vec())
}

/// The revision of an object or list.
pub fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}
