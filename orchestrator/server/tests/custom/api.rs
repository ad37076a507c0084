//! A server in this process that can be started again on what it stored.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use catamaran_server::{Body, Server, ServerConfig, UserInfo};
use catamaran_store::MemoryStore;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower::{Service, ServiceExt};

pub(crate) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

pub(crate) struct Api {
    server: Server,
    store: Arc<MemoryStore>,
    pub(crate) user: UserInfo,
    dir: tempfile::TempDir,
}

pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("no JSON: {:?}", self.bytes))
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!(self.code < 300, "{} {:?}", self.code, self.bytes);
        self.json()
    }

    /// Code and message of a Status.
    #[track_caller]
    pub(crate) fn failure(&self) -> (u16, String) {
        let status = self.json();
        assert_eq!(status["kind"], "Status", "{status}");
        assert!(self.code >= 400, "{status}");
        (self.code, status["message"].as_str().unwrap_or_default().to_owned())
    }

    /// Field, reason and message of each cause.
    #[track_caller]
    pub(crate) fn causes(&self) -> Vec<[String; 3]> {
        let status = self.json();
        assert_eq!(self.code, 422, "{status}");
        let text = |cause: &Value, name: &str| cause[name].as_str().unwrap_or_default().to_owned();
        let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
        causes.iter().map(|cause| ["field", "reason", "message"].map(|name| text(cause, name))).collect()
    }
}

impl Api {
    pub(crate) async fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        Self::on(store, tempfile::tempdir().unwrap()).await
    }

    async fn on(store: Arc<MemoryStore>, dir: tempfile::TempDir) -> Self {
        let server = Server::new(ServerConfig::new(dir.path()), store.clone()).unwrap();
        server.bootstrap().await.unwrap();
        Api { server, store, user: UserInfo::new("admin", &["system:masters"]), dir }
    }

    /// The same again, with nothing but the store.
    pub(crate) async fn restart(self) -> Self {
        let Api { server, store, dir, .. } = self;
        drop(server);
        Self::on(store, dir).await
    }

    pub(crate) async fn open(
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

    pub(crate) async fn send(
        &self,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Reply {
        let (parts, body) = self.open(method, uri, headers, body).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Reply { code: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    pub(crate) async fn get(&self, uri: &str) -> Reply {
        self.send(Method::GET, uri, &[], Vec::new()).await
    }

    pub(crate) async fn get_as(&self, uri: &str, accept: &str) -> Reply {
        self.send(Method::GET, uri, &[("accept", accept)], Vec::new()).await
    }

    pub(crate) async fn post(&self, uri: &str, body: &Value) -> Reply {
        self.send(Method::POST, uri, &[], body.to_string().into()).await
    }

    pub(crate) async fn put(&self, uri: &str, body: &Value) -> Reply {
        self.send(Method::PUT, uri, &[], body.to_string().into()).await
    }

    pub(crate) async fn delete(&self, uri: &str) -> Reply {
        self.send(Method::DELETE, uri, &[], Vec::new()).await
    }

    pub(crate) async fn patch(&self, kind: &str, uri: &str, body: &Value) -> Reply {
        let media = format!("application/{kind}");
        self.send(Method::PATCH, uri, &[("content-type", &media)], body.to_string().into()).await
    }

    /// Server-side apply.
    pub(crate) async fn apply(&self, uri: &str, manager: &str, body: &Value) -> Reply {
        self.patch("apply-patch+yaml", &format!("{uri}?fieldManager={manager}"), body).await
    }

    pub(crate) async fn watch(&self, uri: &str) -> Watch {
        let response = self.open(Method::GET, uri, &[], Vec::new()).await;
        assert_eq!(response.status(), 200);
        Watch { body: response.into_body(), rest: Vec::new() }
    }

    /// Makes definitions; they are served when this returns.
    pub(crate) async fn define(&self, definitions: &[Value]) {
        for definition in definitions {
            self.post(DEFINITIONS, definition).await.ok();
        }
    }

    /// Asks until the answer has this code.
    pub(crate) async fn until(&self, uri: &str, code: u16) {
        let reached = async {
            while self.get(uri).await.code != code {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), reached)
            .await
            .unwrap_or_else(|_| panic!("{uri}: never {code}"));
    }
}

pub(crate) struct Watch {
    body: Body,
    rest: Vec<u8>,
}

impl Watch {
    /// The next event; none at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.frame())
                .await
                .expect("an event in time");
            self.rest.extend_from_slice(&frame?.unwrap().into_data().unwrap_or_default());
        }
    }

    /// The next events as `ADDED name`.
    pub(crate) async fn kinds(&mut self, count: usize) -> Vec<String> {
        let mut kinds = Vec::new();
        for _ in 0..count {
            let event = self.next().await.expect("an event");
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            kinds.push(format!("{} {name}", event["type"].as_str().unwrap_or_default()));
        }
        kinds
    }
}
