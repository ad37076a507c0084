//! Requests that are passed on to somebody else: which headers go along, connections over TCP or TLS, upgrades that are
//! joined byte for byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::body::Body;
use crate::error::chain;

/// How long the other side may take to answer a connection.
pub(crate) const CONNECT: Duration = Duration::from_secs(10);
/// Headers about one connection, which are not passed on (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// The headers that go along with a request or an answer; with those that ask for a switch of protocols, when it does.
/// What the caller proves its identity with stays here.
pub(crate) fn pass_on(from: &HeaderMap, switches: bool) -> HeaderMap {
    let named: Vec<HeaderName> = from
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let mut to = HeaderMap::with_capacity(from.len());
    for (name, value) in from {
        let secret = *name == header::AUTHORIZATION || name.as_str().starts_with("impersonate-");
        if !secret && !HOP_BY_HOP.contains(name) && !named.contains(name) {
            to.append(name, value.clone());
        }
    }
    if switches && let Some(protocol) = from.get(header::UPGRADE) {
        to.insert(header::UPGRADE, protocol.clone());
        to.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    to
}

/// Connects. Who answers is not checked: pods have no certificates that the cluster knows.
///
/// # Errors
/// With the reason, for a message.
pub(crate) async fn connect(scheme: Scheme, address: SocketAddr) -> Result<SendRequest<Body>, String> {
    let dial = async {
        let refused = |error: std::io::Error| format!("dial tcp {address}: connect: {error}");
        let stream = TcpStream::connect(address).await.map_err(refused)?;
        stream.set_nodelay(true).ok();
        if scheme == Scheme::Http {
            return handshake(stream).await;
        }
        let tls = unverified().connect(ServerName::IpAddress(address.ip().into()), stream).await;
        handshake(tls.map_err(|error| format!("TLS handshake with {address}: {error}"))?).await
    };
    let dialled = timeout(CONNECT, dial).await;
    dialled.unwrap_or_else(|_| Err(format!("dial tcp {address}: i/o timeout")))
}

/// HTTP/1.1 on a connection.
///
/// # Errors
/// With the reason, for a message.
pub(crate) async fn handshake<S>(stream: S) -> Result<SendRequest<Body>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection that requests are passed on to ended early");
        }
    });
    Ok(sender)
}

/// Sends a request. When the answer is a switch of protocols, `client`, the caller's side of it, is joined to it.
pub(crate) async fn exchange(
    sender: &mut SendRequest<Body>,
    request: Request<Body>,
    client: Option<OnUpgrade>,
) -> Result<Response<Incoming>, hyper::Error> {
    let mut response = sender.send_request(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        tokio::spawn(join(client, hyper::upgrade::on(&mut response)));
    }
    Ok(response)
}

/// Joins the two sides of a switch until one ends.
async fn join(client: OnUpgrade, server: OnUpgrade) {
    let (client, server) = match (client.await, server.await) {
        (Ok(client), Ok(server)) => (client, server),
        (Err(error), _) | (_, Err(error)) => {
            tracing::debug!(%error, "an upgrade did not happen");
            return;
        }
    };
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
        tracing::debug!(%error, "a joined connection ended early");
    }
}

/// Takes every certificate; that the other side has its key is still checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

fn unverified() -> TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_go_along() {
        let mut from = HeaderMap::new();
        for (name, value) in [
            ("accept", "a"),
            ("accept", "b"),
            ("authorization", "Bearer x"),
            ("impersonate-user", "jane"),
            ("connection", "upgrade, X-Hop"),
            ("upgrade", "websocket"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("cookie", "c=1"),
        ] {
            from.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let names = |headers: &HeaderMap| {
            let mut names: Vec<_> = headers.keys().map(|name| name.as_str().to_owned()).collect();
            names.sort();
            names
        };
        let plain = pass_on(&from, false);
        assert_eq!(names(&plain), ["accept", "content-length", "cookie"]);
        assert_eq!(plain.get_all("accept").iter().count(), 2);
        let switching = pass_on(&from, true);
        assert_eq!(names(&switching), ["accept", "connection", "content-length", "cookie", "upgrade"]);
        assert_eq!(switching["connection"], "Upgrade");
        assert_eq!(switching["upgrade"], "websocket");
    }
}
