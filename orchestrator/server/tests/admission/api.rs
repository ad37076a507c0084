//! A server in this process and requests to it.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use catamaran_server::{Server, ServerConfig, UserInfo};
use catamaran_store::{MemoryStore, Store};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::{Service, ServiceExt};

pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const SERVICES: &str = "/api/v1/namespaces/default/services";
pub(crate) const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
pub(crate) const NAMESPACE: &str = "/api/v1/namespaces/default";

/// A server and somebody who sends requests.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) server: Server,
    pub(crate) store: Arc<dyn Store>,
    user: UserInfo,
    _dir: Arc<tempfile::TempDir>,
}

pub(crate) struct Reply {
    pub(crate) code: u16,
    headers: HeaderMap,
    bytes: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("no JSON: {:?}", self.bytes))
    }

    /// Code and message of a Status.
    pub(crate) fn failure(&self) -> (u16, String) {
        let status = self.json();
        assert_eq!(status["kind"], "Status", "{status}");
        (self.code, status["message"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        let all = self.headers.get_all(http::header::WARNING).iter();
        all.map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!(self.code < 300, "{} {:?}", self.code, self.bytes);
        self.json()
    }
}

impl Api {
    pub(crate) async fn new() -> Self {
        Self::over(|_| Arc::new(MemoryStore::new())).await
    }

    pub(crate) async fn over(open: impl Fn(&Path) -> Arc<dyn Store>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let server = Server::new(ServerConfig::new(dir.path()), store.clone()).unwrap();
        server.bootstrap().await.unwrap();
        let user = UserInfo::new("admin", &["system:masters"]);
        let api = Api { server, store, user, _dir: Arc::new(dir) };
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        api.post(&format!("{NAMESPACE}/serviceaccounts"), &account).await.ok();
        api
    }

    /// The same server for somebody else.
    pub(crate) fn user(&self, name: &str, groups: &[&str]) -> Api {
        Api { user: UserInfo::new(name, groups), ..self.clone() }
    }

    async fn send(&self, method: Method, uri: &str, media: &str, body: &Value) -> Reply {
        let request = Request::builder().method(method).uri(uri).header("content-type", media);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = request.body(Full::<Bytes>::from(body)).unwrap();
        let mut service = self.server.service(self.user.clone());
        let service = ServiceExt::<Request<Full<Bytes>>>::ready(&mut service).await.unwrap();
        let (parts, body) = service.call(request).await.unwrap().into_parts();
        Reply {
            code: parts.status.as_u16(),
            headers: parts.headers,
            bytes: body.collect().await.unwrap().to_bytes(),
        }
    }

    pub(crate) async fn get(&self, uri: &str) -> Reply {
        self.send(Method::GET, uri, "application/json", &Value::Null).await
    }

    pub(crate) async fn post(&self, uri: &str, body: &Value) -> Reply {
        self.send(Method::POST, uri, "application/json", body).await
    }

    pub(crate) async fn put(&self, uri: &str, body: &Value) -> Reply {
        self.send(Method::PUT, uri, "application/json", body).await
    }

    pub(crate) async fn delete(&self, uri: &str) -> Reply {
        self.send(Method::DELETE, uri, "application/json", &Value::Null).await
    }

    /// A merge patch.
    pub(crate) async fn patch(&self, uri: &str, body: &Value) -> Reply {
        self.send(Method::PATCH, uri, "application/merge-patch+json", body).await
    }
}

pub(crate) fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]},
    })
}

/// A pod whose container has `resources`.
pub(crate) fn sized(name: &str, resources: &Value) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["resources"] = resources.clone();
    pod
}

pub(crate) fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

pub(crate) fn deployment(name: &str) -> Value {
    let labels = json!({"app": name});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i:1"}]},
        }},
    })
}
