//! From the server to a node's agent: HTTPS on port 10250 with the server's client certificate. Upgraded
//! connections are joined byte for byte.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
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

const CONNECT: Duration = Duration::from_secs(10);
/// Headers that belong to one connection and are not passed on (RFC 9110, 7.6.1), unless for an upgrade.
const HOP_BY_HOP: [HeaderName; 5] =
    [header::CONNECTION, header::TE, header::TRAILER, header::TRANSFER_ENCODING, header::UPGRADE];

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

    /// Passes a request on and its answer back. `client` is the caller's side of an upgrade, if there is one.
    pub(crate) async fn forward(
        &self,
        agent: &AgentAddress,
        (method, path, headers): (Method, String, HeaderMap),
        client: Option<OnUpgrade>,
    ) -> Result<Response<Body>, Status> {
        let unreachable = |why: String| {
            let AgentAddress { node, address } = agent;
            Status::internal_error(format!("cannot reach the agent of node {node} at {address}: {why}"))
        };
        let mut sender = self.connect(agent).await.map_err(unreachable)?;
        let mut request = Request::builder().method(method).uri(path);
        if let Some(to) = request.headers_mut() {
            copy_headers(&headers, to, client.is_some());
            if let Ok(host) = HeaderValue::from_str(&agent.address.to_string()) {
                to.insert(header::HOST, host);
            }
        }
        let request = request.body(body::empty()).map_err(|error| unreachable(error.to_string()))?;
        let mut response = sender.send_request(request).await.map_err(|error| unreachable(chain(&error)))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(client) = client
        {
            let agent = hyper::upgrade::on(&mut response);
            tokio::spawn(join(client, agent));
        }
        let (parts, content) = response.into_parts();
        let mut answer = Response::new(body::boxed(content));
        *answer.status_mut() = parts.status;
        copy_headers(&parts.headers, answer.headers_mut(), parts.status == StatusCode::SWITCHING_PROTOCOLS);
        Ok(answer)
    }

    async fn connect(&self, agent: &AgentAddress) -> Result<http1::SendRequest<Body>, String> {
        let dial = async {
            let stream = TcpStream::connect(agent.address).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).ok();
            let name = match agent.address.ip() {
                IpAddr::V4(address) => ServerName::IpAddress(address.into()),
                IpAddr::V6(address) => ServerName::IpAddress(address.into()),
            };
            let stream = self.connector.connect(name, stream).await.map_err(|error| error.to_string())?;
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))
        };
        let (sender, connection) =
            timeout(CONNECT, dial).await.map_err(|_| "it does not answer".to_owned())??;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "the connection to an agent ended early");
            }
        });
        Ok(sender)
    }
}

/// Whether hop-by-hop headers of an upgrade go along.
fn copy_headers(from: &HeaderMap, to: &mut HeaderMap, upgrade: bool) {
    for (name, value) in from {
        let hop = HOP_BY_HOP.contains(name);
        let wanted = upgrade && (name == header::CONNECTION || name == header::UPGRADE);
        let own = name == header::HOST || name == header::AUTHORIZATION || name == header::CONTENT_LENGTH;
        if (!hop || wanted) && !own {
            to.append(name, value.clone());
        }
    }
}

/// Joins the two sides of an upgrade until one ends.
async fn join(client: OnUpgrade, agent: OnUpgrade) {
    let (client, agent) = match (client.await, agent.await) {
        (Ok(client), Ok(agent)) => (client, agent),
        (Err(error), _) | (_, Err(error)) => {
            tracing::debug!(%error, "an upgrade did not happen");
            return;
        }
    };
    let (mut client, mut agent) = (TokioIo::new(client), TokioIo::new(agent));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut agent).await {
        tracing::debug!(%error, "a joined connection ended early");
    }
}
