//! A webhook: an HTTPS server that answers reviews as a function says, and remembers what it was asked.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A running webhook; it ends with its owner.
pub(crate) struct Hook {
    pub(crate) port: u16,
    authority: String,
    asked: Arc<Mutex<Vec<Value>>>,
    serving: JoinHandle<()>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

type Answer = dyn Fn(&Value) -> Value + Send + Sync;

impl Hook {
    /// Answers each request of a review with the rest of a response.
    pub(crate) async fn new(answer: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        let names = ["localhost", "127.0.0.1", "hook.default.svc"].map(str::to_owned);
        let own = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![own.cert.der().clone()], key)
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let serving = tokio::spawn(serve(listener, acceptor, Arc::new(answer), asked.clone()));
        Hook { port, authority: BASE64_STANDARD.encode(own.cert.pem()), asked, serving }
    }

    /// One that allows everything.
    pub(crate) async fn open() -> Self {
        Self::new(|_| json!({"allowed": true})).await
    }

    /// One that changes objects.
    pub(crate) async fn patching(patch: Value) -> Self {
        Self::new(move |_| patched(&patch)).await
    }

    pub(crate) fn client_config(&self) -> Value {
        json!({"url": format!("https://127.0.0.1:{}/review", self.port), "caBundle": self.authority})
    }

    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

/// An answer with a patch.
pub(crate) fn patched(patch: &Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": BASE64_STANDARD.encode(patch.to_string())})
}

async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    answer: Arc<Answer>,
    asked: Arc<Mutex<Vec<Value>>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, answer, asked) = (acceptor.clone(), answer.clone(), asked.clone());
        tokio::spawn(async move {
            // A client that does not trust us goes away here.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request: Request<Incoming>| {
                let (answer, asked) = (answer.clone(), asked.clone());
                async move { Ok::<_, Infallible>(respond(request, &*answer, &asked).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            connection.serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

async fn respond(
    request: Request<Incoming>,
    answer: &Answer,
    asked: &Mutex<Vec<Value>>,
) -> Response<Full<Bytes>> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&review["kind"], &review["apiVersion"]),
        (&json!("AdmissionReview"), &json!("admission.k8s.io/v1"))
    );
    asked.lock().unwrap().push(review["request"].clone());
    let mut response = answer(&review["request"]);
    if response["delay"].is_u64() {
        let delay = std::time::Duration::from_secs(response["delay"].as_u64().unwrap());
        tokio::time::sleep(delay).await;
    }
    response["uid"] = review["request"]["uid"].clone();
    let answer =
        json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
    Response::new(Full::from(answer.to_string()))
}
