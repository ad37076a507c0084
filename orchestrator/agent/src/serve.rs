//! The agent's endpoint (the kubelet's port 10250): TLS with client certificates; logs, exec, attach, port-forward,
//! health, metrics, figures.
//!
//! | file | what |
//! | --- | --- |
//! | `logs` | `/containerLogs` |
//! | `handshake` | the switch to WebSocket or SPDY |
//! | `channels`, `streams` | numbered channels over either, as kubectl speaks them |
//! | `session` | copies between them and a process |
//! | `terminal` | what a terminal does for programs that have none |
//! | `exec`, `attach` | `/exec` and `/attach` |
//! | `portforward` | `/portForward` |
//! | `stats` | `/metrics`, `/metrics/resource`, `/metrics/cadvisor`, `/stats/summary`, `/pods` |
//! | `exposition` | figures in Prometheus' text form |
//! | `machine` | what the whole machine uses |

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::Pod;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::config::EndpointConfig;
use crate::context::Context;
use crate::members::{member, uid};
use crate::record::{ContainerRecord, PodRecord};

mod attach;
mod channels;
mod exec;
mod exposition;
mod handshake;
mod logs;
mod machine;
mod portforward;
mod session;
mod stats;
mod streams;
mod terminal;

/// Connections at a time.
const CONNECTIONS: usize = 4096;
/// The longest a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Who may ask: the API server, and administrators.
const CLIENTS: [&str; 1] = ["system:kube-apiserver"];
const GROUPS: [&str; 1] = ["system:masters"];

/// The endpoint cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A certificate or key.
    #[error("{path} cannot be read as {what}")]
    Pem {
        /// Which file.
        path: String,
        /// What it should hold.
        what: &'static str,
        /// Why not.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// They do not fit together.
    #[error("the certificate, key and authorities do not make a TLS server")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A port in use, or an address that is not here.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// An answer that is an error, as the kubelet words it.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

/// Listens; the returned future serves until `stop`.
pub(crate) async fn run(
    context: Arc<Context>,
    stop: CancellationToken,
) -> Result<impl Future<Output = Result<(), ServeError>>, ServeError> {
    let mut listeners = Vec::new();
    let mut acceptor = None;
    if let Some(config) = &context.config.endpoint {
        acceptor = Some(TlsAcceptor::from(Arc::new(tls(config)?)));
        for address in &config.listen {
            let listener = TcpListener::bind(address).await;
            listeners.push(listener.map_err(|source| ServeError::Listen { address: *address, source })?);
        }
    }
    let router = router(context);
    Ok(async move {
        let Some(acceptor) = acceptor else {
            stop.cancelled().await;
            return Ok(());
        };
        let turns = Arc::new(Semaphore::new(CONNECTIONS));
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(accept(listener, acceptor.clone(), router.clone(), turns.clone()));
        }
        stop.cancelled().await;
        Ok(())
    })
}

fn router(context: Arc<Context>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::serve))
        .route("/exec/{namespace}/{pod}/{container}", get(exec::exec).post(exec::exec))
        .route("/attach/{namespace}/{pod}/{container}", get(attach::attach).post(attach::attach))
        .route("/portForward/{namespace}/{pod}", get(portforward::serve).post(portforward::serve))
        .route("/pods", get(stats::pods))
        .route("/metrics", get(stats::metrics))
        .route("/metrics/resource", get(stats::resource))
        .route("/metrics/cadvisor", get(stats::cadvisor))
        .route("/stats/summary", get(stats::summary))
        .with_state(context)
}

fn tls(config: &EndpointConfig) -> Result<rustls::ServerConfig, ServeError> {
    let pem = |path: &std::path::Path, what: &'static str| {
        let path = path.display().to_string();
        move |source| ServeError::Pem { path, what, source }
    };
    let certificates = |path: &std::path::Path| -> Result<Vec<_>, ServeError> {
        let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        all.map_err(pem(path, "certificates"))
    };
    let wrong = |error: Box<dyn std::error::Error + Send + Sync>| ServeError::Tls(error);
    let mut roots = RootCertStore::empty();
    for authority in certificates(&config.client_ca)? {
        roots.add(authority).map_err(|error| wrong(error.into()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    let verifier = verifier.map_err(|error| wrong(error.into()))?;
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(pem(&config.key, "a private key"))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.into()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&config.certificate)?, key)
        .map_err(|error| wrong(error.into()))?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

/// Takes connections; a handshake that dawdles holds up nobody else.
async fn accept(listener: TcpListener, acceptor: TlsAcceptor, router: Router, turns: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        let turn = turns.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let (acceptor, router) = (acceptor.clone(), router.clone());
        connections.spawn(async move {
            serve_one(stream, acceptor, router).await;
            drop(turn);
        });
    }
}

async fn serve_one(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "a TLS handshake failed"),
        Err(_) => return debug!("a TLS handshake took too long"),
    };
    let allowed = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .is_some_and(|cert| may_ask(cert));
    let router = if allowed { router } else { Router::new().fallback(forbidden) };
    let service = TowerToHyperService::new(router);
    let served = Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(error, "a connection broke");
    }
}

async fn forbidden() -> Refusal {
    Refusal(StatusCode::FORBIDDEN, "this client certificate does not give access to the agent".into())
}

/// Whether the subject of a (verified) certificate is the API server or an administrator.
fn may_ask(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let subject = parsed.subject();
    let mut names = subject.iter_common_name().filter_map(|attribute| attribute.as_str().ok());
    let mut groups = subject.iter_organization().filter_map(|attribute| attribute.as_str().ok());
    names.any(|name| CLIENTS.contains(&name)) || groups.any(|group| GROUPS.contains(&group))
}

/// A pod of this node, by name, and what is remembered of it.
pub(crate) fn find_pod(
    context: &Context,
    namespace: &str,
    name: &str,
) -> Result<(Arc<Pod>, PodRecord), Refusal> {
    let missing = || {
        Refusal(StatusCode::NOT_FOUND, format!("pod {name:?} of namespace {namespace:?} is not on this node"))
    };
    let pod = context.roster.find(namespace, name).ok_or_else(missing)?;
    let record = PodRecord::load(&context.paths.pod(uid(&pod)).record());
    Ok((pod, record))
}

/// A container of a pod that was made at least once.
pub(crate) fn find_container(
    pod: &Pod,
    record: &PodRecord,
    container: &str,
) -> Result<ContainerRecord, Refusal> {
    let name = crate::members::name(pod);
    if member(pod, container).is_none() {
        return Err(Refusal(
            StatusCode::NOT_FOUND,
            format!("container {container} is not valid for pod {name}"),
        ));
    }
    let made = record.containers.get(container).filter(|record| record.created || record.last.is_some());
    let waiting = || {
        let why = waits_for(pod, container);
        let text = format!("container {container:?} in pod {name:?} is waiting to start: {why}");
        Refusal(StatusCode::BAD_REQUEST, text)
    };
    made.cloned().ok_or_else(waiting)
}

/// Why a container was never made, as its status says.
fn waits_for(pod: &Pod, container: &str) -> String {
    let status = pod.status.as_ref();
    let lists = status.map(|status| [&status.init_container_statuses, &status.container_statuses]);
    let mut all = lists.into_iter().flatten().flatten().flatten();
    let waiting = all
        .find(|status| status.name == container)
        .and_then(|status| status.state.as_ref()?.waiting.as_ref());
    match waiting.and_then(|waiting| waiting.reason.as_deref()) {
        Some("ErrImagePull" | "ImagePullBackOff") => "trying and failing to pull image".to_owned(),
        Some(reason) => reason.to_owned(),
        None => "ContainerCreating".to_owned(),
    }
}

/// The last message on an error channel, and bodies of refusals: a `Status`.
pub(crate) fn status(code: u16, reason: &str, message: &str) -> serde_json::Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code})
}

#[cfg(test)]
mod client;
#[cfg(test)]
mod tests;
