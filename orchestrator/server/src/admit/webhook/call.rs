//! The way to a webhook: HTTPS to a URL or to an endpoint of a Service, whose certificate is checked against the
//! authorities that its configuration names.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use catamaran_api::status::quoted;
use catamaran_store::Store;

use super::hook::{Hook, Target};
use super::resolve;
use crate::error::chain;

/// Longest answer of a webhook.
const ANSWER_LIMIT: usize = 3 * 1024 * 1024;

/// Asks a webhook; the answer is its body. The time that it may take bounds everything.
///
/// # Errors
/// Why there is no answer, in the words of Kubernetes as far as there are any.
pub(super) async fn post(store: &dyn Store, hook: &Hook, body: Vec<u8>) -> Result<Bytes, String> {
    let place = Place::of(&hook.target, hook.timeout.as_secs())?;
    let asked = tokio::time::timeout(hook.timeout, ask(store, hook, &place, body)).await;
    let broken = |why: &str| format!("failed to call webhook: Post {}: {why}", quoted(&place.url));
    match asked {
        Ok(Ok(answer)) => answer.map_err(|why| format!("failed to call webhook: {why}")),
        Ok(Err(why)) => Err(broken(&why)),
        Err(_) => Err(broken("context deadline exceeded")),
    }
}

/// Where a webhook is, as the certificate and the HTTP request name it.
struct Place {
    url: String,
    host: String,
    port: u16,
    path: String,
}

impl Place {
    fn of(target: &Target, seconds: u64) -> Result<Self, String> {
        match target {
            Target::Service { namespace, name, path, port } => {
                let port = u16::try_from(*port).map_err(|_| format!("port {port} is none"))?;
                let host = format!("{name}.{namespace}.svc");
                let slash = if path.starts_with('/') { "" } else { "/" };
                let path = format!("{slash}{path}?timeout={seconds}s");
                Ok(Place { url: format!("https://{host}:{port}{path}"), host, port, path })
            }
            Target::Url(url) => {
                let uri: Uri = url.parse().map_err(|error| format!("Unparsable URL: {error}"))?;
                let host = uri.host().ok_or("Unparsable URL: it has no host")?;
                let query = uri.query().map(|query| format!("{query}&")).unwrap_or_default();
                let path = format!("{}?{query}timeout={seconds}s", uri.path());
                let authority = uri.authority().map_or(host, |authority| authority.as_str());
                Ok(Place {
                    url: format!("https://{authority}{path}"),
                    host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
                    port: uri.port_u16().unwrap_or(443),
                    path,
                })
            }
        }
    }
}

/// The outer error is about the connection, the inner one about what was answered.
async fn ask(
    store: &dyn Store,
    hook: &Hook,
    place: &Place,
    body: Vec<u8>,
) -> Result<Result<Bytes, String>, String> {
    let address = match &hook.target {
        Target::Service { namespace, name, port, .. } => {
            resolve::endpoint(store, namespace, name, *port).await?
        }
        Target::Url(_) => look_up(&place.host, place.port).await?,
    };
    let mut sender = connect(hook, place, address).await?;
    let mut request =
        Request::post(&place.path).body(Full::new(Bytes::from(body))).map_err(|e| e.to_string())?;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, */*"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("kube-apiserver-admission"));
    let host = if place.host.contains(':') { format!("[{}]", place.host) } else { place.host.clone() };
    let host = HeaderValue::from_str(&format!("{host}:{}", place.port)).map_err(|error| error.to_string())?;
    headers.insert(header::HOST, host);
    let response = sender.send_request(request).await.map_err(|error| chain(&error))?;
    let code = response.status().as_u16();
    let read = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
    let bytes = read.map_err(|error| error.to_string())?.to_bytes();
    Ok(match code {
        200..=299 => Ok(bytes),
        404 => Err("the server could not find the requested resource".to_owned()),
        500..=599 => {
            let said = String::from_utf8_lossy(&bytes);
            let said = if said.trim().is_empty() { "unknown" } else { said.trim() };
            Err(format!(
                "an error on the server ({}) has prevented the request from succeeding",
                quoted(said)
            ))
        }
        _ => Err(format!("the server rejected our request for an unknown reason (HTTP status {code})")),
    })
}

pub(super) async fn look_up(host: &str, port: u16) -> Result<SocketAddr, String> {
    let mut found = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| format!("dial tcp: lookup {host}: {error}"))?;
    found.next().ok_or_else(|| format!("dial tcp: lookup {host}: no such host"))
}

async fn connect(
    hook: &Hook,
    place: &Place,
    address: SocketAddr,
) -> Result<http1::SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused => format!("dial tcp {address}: connect: connection refused"),
        _ => format!("dial tcp {address}: {error}"),
    })?;
    // Only a matter of speed.
    stream.set_nodelay(true).ok();
    let name = ServerName::try_from(place.host.clone()).map_err(|error| error.to_string())?;
    let stream =
        connector(&hook.ca_bundle)?.connect(name, stream).await.map_err(|error| certificate(&error))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to a webhook ended early");
        }
    });
    Ok(sender)
}

fn connector(ca_bundle: &[u8]) -> Result<TlsConnector, String> {
    let roots = if ca_bundle.is_empty() { system_roots() } else { Arc::new(own_roots(ca_bundle)?) };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn own_roots(ca_bundle: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_bundle) {
        let certificate =
            certificate.map_err(|error| format!("unable to load root certificates: {error}"))?;
        roots.add(certificate).map_err(|error| format!("unable to load root certificates: {error}"))?;
    }
    Ok(roots)
}

/// The authorities that this machine trusts; read once.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let read = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    };
    ROOTS.get_or_init(read).clone()
}

/// What is wrong with a TLS connection, in the words that people search for.
fn certificate(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        // A bad signature is that of another authority of the same name.
        Some(rustls::Error::InvalidCertificate(
            rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature,
        )) => "tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned(),
        Some(rustls::Error::InvalidCertificate(other)) => {
            format!("tls: failed to verify certificate: x509: {other}")
        }
        _ => chain(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let service =
            Target::Service { namespace: "n".into(), name: "s".into(), path: "/mutate".into(), port: 8443 };
        let place = Place::of(&service, 10).unwrap();
        assert_eq!(place.url, "https://s.n.svc:8443/mutate?timeout=10s");
        assert_eq!(
            (place.host.as_str(), place.port, place.path.as_str()),
            ("s.n.svc", 8443, "/mutate?timeout=10s")
        );
        let place = Place::of(&Target::Url("https://127.0.0.1/a".into()), 3).unwrap();
        assert_eq!((place.url.as_str(), place.port), ("https://127.0.0.1/a?timeout=3s", 443));
        let place = Place::of(&Target::Url("https://[::1]:9443/a?b=c".into()), 3).unwrap();
        assert_eq!(place.url, "https://[::1]:9443/a?b=c&timeout=3s");
        assert_eq!((place.host.as_str(), place.port), ("::1", 9443));
        assert!(Place::of(&Target::Url("nonsense".into()), 3).is_ok_and(|place| place.host == "nonsense"));
        assert!(Place::of(&Target::Url("/path".into()), 3).is_err());
    }
}
