//! An API that keeps what it is told and knows nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Value,
}

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct FakeApi {
    calls: Arc<Mutex<Vec<Call>>>,
}

impl FakeApi {
    pub(crate) fn client(&self) -> kube::Client {
        catamaran_client::in_process(Router::new().fallback(answer).with_state(self.clone()))
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// The newest status that was written of any pod.
    pub(crate) fn status(&self) -> Option<Value> {
        let calls = self.calls();
        let written =
            calls.iter().rev().find(|call| call.method == Method::PATCH && call.path.ends_with("/status"));
        written.map(|call| call.body["status"].clone())
    }

    /// Reasons of all events, in order.
    pub(crate) fn events(&self) -> Vec<String> {
        let calls = self.calls();
        let posted = calls.iter().filter(|call| call.method == Method::POST && call.path.contains("/events"));
        posted.map(|call| call.body["reason"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Waits until `holds`; panics with what was said when it does not for ten seconds.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&FakeApi) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !holds(self) {
            let late = tokio::time::Instant::now() > deadline;
            assert!(!late, "{what} did not happen; the last status: {:#}", self.status().unwrap_or_default());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn answer(State(api): State<FakeApi>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bytes = Body::new(body).collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let call = Call { method: parts.method.clone(), path: parts.uri.path().to_owned(), body: body.clone() };
    api.calls.lock().unwrap().push(call);
    let name = parts.uri.path().trim_end_matches("/status").rsplit('/').next().unwrap_or_default().to_owned();
    let (code, answer) = match parts.method {
        Method::POST => (StatusCode::CREATED, body),
        Method::GET if name == "services" => (StatusCode::OK, json!({"metadata": {}, "items": []})),
        Method::GET => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                "message": format!("{name} not found"), "code": 404});
            (StatusCode::NOT_FOUND, status)
        }
        _ => (StatusCode::OK, json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}})),
    };
    (code, [("content-type", "application/json")], answer.to_string()).into_response()
}
