//! From the server to a node's agent: HTTPS on port 10250 with the server's client certificate.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::client::conn::http1::SendRequest;
use hyper::upgrade::OnUpgrade;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use catamaran_api::status::Status;

use crate::body::{self, Body};
use crate::core::ServerError;
use crate::error::chain;
use crate::pki::{Pki, PkiError, Subject};
use crate::serve::ServeError;
use crate::upstream::{self, CONNECT};

/// Where a pod's agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentAddress {
    pub(crate) node: String,
    pub(crate) address: SocketAddr,
}

/// Reaches agents.
pub(crate) struct AgentClient {
    connector: TlsConnector,
}

impl AgentClient {
    pub(crate) fn new(pki: &Pki) -> Result<Self, ServerError> {
        let subject = Subject::client("system:kube-apiserver", Some("system:masters"));
        let own = pki.credentials("agent-client", &subject)?;
        let broken = || PkiError::Broken { path: "agent-client.crt".into(), what: "certificate" };
        let (certificate, key) = own.certificate_der().zip(own.key_der()).ok_or_else(broken)?;
        let mut roots = RootCertStore::empty();
        roots.add(pki.ca_der()?).map_err(ServeError::Certificate)?;
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(ServeError::Certificate)?
                .with_root_certificates(roots)
                .with_client_auth_cert(vec![certificate], key)
                .map_err(ServeError::Certificate)?;
        Ok(AgentClient { connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Passes a request on, whose URI is the agent's path, and its answer back. `client` is the caller's side of an
    /// upgrade, if there is one.
    pub(crate) async fn forward(
        &self,
        agent: &AgentAddress,
        mut request: Request<Body>,
        client: Option<OnUpgrade>,
    ) -> Result<Response<Body>, Status> {
        let unreachable = |why: String| {
            let AgentAddress { node, address } = agent;
            Status::internal_error(format!("cannot reach the agent of node {node} at {address}: {why}"))
        };
        if let Ok(host) = HeaderValue::from_str(&agent.address.to_string()) {
            request.headers_mut().insert(header::HOST, host);
        }
        let mut sender = self.connect(agent).await.map_err(unreachable)?;
        let response = upstream::exchange(&mut sender, request, client).await;
        let response = response.map_err(|error| unreachable(chain(&error)))?;
        let (parts, content) = response.into_parts();
        let mut answer = Response::new(body::boxed(content));
        *answer.status_mut() = parts.status;
        *answer.headers_mut() =
            upstream::pass_on(&parts.headers, parts.status == StatusCode::SWITCHING_PROTOCOLS);
        Ok(answer)
    }

    async fn connect(&self, agent: &AgentAddress) -> Result<SendRequest<Body>, String> {
        let dial = async {
            let stream = TcpStream::connect(agent.address).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).ok();
            let name = ServerName::IpAddress(agent.address.ip().into());
            let stream = self.connector.connect(name, stream).await.map_err(|error| error.to_string())?;
            upstream::handshake(stream).await
        };
        timeout(CONNECT, dial).await.map_err(|_| "it does not answer".to_owned())?
    }
}
