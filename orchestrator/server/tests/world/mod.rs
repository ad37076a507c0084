//! A server in this process over the store in memory, and requests to it from anybody.

#![allow(clippy::unwrap_used, dead_code, reason = "each suite uses a part of this")]

use std::sync::Arc;

use bytes::Bytes;
use catamaran_server::{Server, ServerConfig, UserInfo};
use catamaran_store::{MemoryStore, Store};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::{Service, ServiceExt};

pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) dir: tempfile::TempDir,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("no JSON: {:?}", self.bytes))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The object of a success.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!(self.code < 300, "{} {:?}", self.code, self.bytes);
        self.json()
    }

    /// The message of a failure with that code.
    #[track_caller]
    pub(crate) fn refused(self, code: u16) -> String {
        assert_eq!(self.code, code, "{:?}", self.bytes);
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        World::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let store = Arc::new(MemoryStore::new());
        World::over(store.clone(), store, change).await
    }

    /// Over a store around the store in memory.
    pub(crate) async fn over(
        outer: Arc<dyn Store>,
        store: Arc<MemoryStore>,
        change: impl FnOnce(&mut ServerConfig),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = ServerConfig::new(dir.path());
        change(&mut config);
        let server = Server::new(config, outer).unwrap();
        server.bootstrap().await.unwrap();
        World { server, store, dir }
    }

    pub(crate) fn admin() -> UserInfo {
        UserInfo::new("admin", &["system:masters"])
    }

    /// A request of somebody.
    pub(crate) async fn send(
        &self,
        user: &UserInfo,
        line: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Reply {
        let response = self.open(user, line, headers, body).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Reply { code: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    pub(crate) async fn open(
        &self,
        user: &UserInfo,
        line: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> http::Response<catamaran_server::Body> {
        let (method, uri) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut service = self.server.service(user.clone());
        let request = request.body(Full::<Bytes>::from(body)).unwrap();
        ServiceExt::<Request<Full<Bytes>>>::ready(&mut service).await.unwrap().call(request).await.unwrap()
    }

    pub(crate) async fn ask(&self, user: &UserInfo, line: &str, body: &Value) -> Reply {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into() };
        let merge = line.starts_with("PATCH");
        let media = if merge { "application/merge-patch+json" } else { "application/json" };
        self.send(user, line, &[("content-type", media)], body).await
    }

    /// A request of the administrator that has to succeed.
    #[track_caller]
    pub(crate) fn must(&self, line: &str, body: Value) -> impl Future<Output = Value> {
        let line = line.to_owned();
        async move { self.ask(&World::admin(), &line, &body).await.ok() }
    }

    /// Gives a user all rights, without the group whose requests are exempt from everything.
    pub(crate) async fn trust(&self, user: &str) {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": format!("trust-{user}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        });
        self.must("POST /apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    }

    /// The value of a line of `/metrics`, or 0.
    pub(crate) async fn metric(&self, line: &str) -> u64 {
        let reply = self.ask(&World::admin(), "GET /metrics", &Value::Null).await;
        let text = String::from_utf8(reply.bytes.to_vec()).unwrap();
        let found = text.lines().find_map(|text| text.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_default()
    }
}
