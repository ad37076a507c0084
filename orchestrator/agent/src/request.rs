//! Questions over the network that probes and hooks ask a pod: HTTP, TCP, gRPC health. Certificates of pods are not
//! checked, as Kubernetes does it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Longer answers are cut.
const LONGEST_BODY: usize = 10 << 10;

/// A question that got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("the port {0:?} is no port of the container")]
    Port(String),
    #[error("dial tcp: lookup {host}")]
    Name {
        host: String,
        #[source]
        source: std::io::Error,
    },
    #[error("dial tcp {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("Get {url:?}")]
    Http {
        url: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the request for {0:?} is malformed")]
    Malformed(String),
    #[error("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")]
    TimedOut,
}

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: String,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The number of a port that is given as number or by name.
pub(crate) fn port(port: &IntOrString, container: &Container) -> Result<u16, RequestError> {
    let wrong = || {
        RequestError::Port(match port {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::String(name) => name.clone(),
        })
    };
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut named = container.ports.iter().flatten();
            let found = named.find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port);
            found.or_else(|| name.parse().ok())
        }
    };
    number.and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0).ok_or_else(wrong)
}

/// `httpGet` of a probe or hook. Redirects are answers.
pub(crate) async fn http_get(
    action: &HTTPGetAction,
    container: &Container,
    ip: IpAddr,
    limit: Duration,
) -> Result<Answer, RequestError> {
    let port = port(&action.port, container)?;
    let secure = action.scheme.as_deref() == Some("HTTPS");
    let host = action.host.clone().filter(|host| !host.is_empty());
    let address = resolve(host.as_deref(), ip, port).await?;
    let path = action.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".into());
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    let url = format!("{}://{address}{path}", if secure { "https" } else { "http" });
    let mut request = Request::get(&path)
        .header(header::USER_AGENT, "kube-probe/1.33")
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::new()))
        .map_err(|_| RequestError::Malformed(url.clone()))?;
    let headers = request.headers_mut();
    let default_host = HeaderValue::from_str(&host.unwrap_or_else(|| address.to_string()));
    headers.insert(header::HOST, default_host.map_err(|_| RequestError::Malformed(url.clone()))?);
    for extra in action.http_headers.iter().flatten() {
        let name = http::HeaderName::from_bytes(extra.name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&extra.value)) {
            headers.insert(name, value);
        }
    }
    let work = async { send(request, connect(address, secure).await?, &url).await };
    tokio::time::timeout(limit, work).await.map_err(|_| RequestError::TimedOut)?
}

async fn send(
    request: Request<Full<Bytes>>,
    stream: Box<dyn Stream>,
    url: &str,
) -> Result<Answer, RequestError> {
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| RequestError::Http { url: url.to_owned(), source };
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(error.into()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| failed(error.into()))?;
        let status = response.status();
        // A long or broken body does not change the verdict.
        let body = Limited::new(response.into_body(), LONGEST_BODY).collect().await;
        let body =
            body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        Ok(Answer { status, body })
    };
    tokio::pin!(answer);
    tokio::pin!(connection);
    tokio::select! {
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    }
}

async fn connect(address: SocketAddr, secure: bool) -> Result<Box<dyn Stream>, RequestError> {
    let failed = |source| RequestError::Connect { address, source };
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    if !secure {
        return Ok(Box::new(stream));
    }
    let config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    Ok(Box::new(connector.connect(ServerName::from(address.ip()), stream).await.map_err(failed)?))
}

/// Where a question goes: to the pod, unless a probe or hook names another host.
pub(crate) async fn resolve(host: Option<&str>, pod: IpAddr, port: u16) -> Result<SocketAddr, RequestError> {
    let Some(host) = host.filter(|host| !host.is_empty()) else { return Ok(SocketAddr::new(pod, port)) };
    if let Ok(ip) = host.parse() {
        return Ok(SocketAddr::new(ip, port));
    }
    let failed = |source| RequestError::Name { host: host.to_owned(), source };
    let mut found = tokio::net::lookup_host((host, port)).await.map_err(failed)?;
    found.next().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))
}

/// `tcpSocket`: whether somebody accepts.
pub(crate) async fn tcp(address: SocketAddr, limit: Duration) -> Result<(), RequestError> {
    let connected =
        tokio::time::timeout(limit, TcpStream::connect(address)).await.map_err(|_| RequestError::TimedOut)?;
    connected.map(drop).map_err(|source| RequestError::Connect { address, source })
}

/// `grpc.health.v1.Health/Check`: whether the service says SERVING.
pub(crate) async fn grpc(address: SocketAddr, service: &str, limit: Duration) -> Result<bool, RequestError> {
    let url = format!("http://{address}/grpc.health.v1.Health/Check");
    let work = async {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| RequestError::Http {
            url: url.clone(),
            source,
        };
        let stream = TokioIo::new(connect(address, false).await?);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
        let (mut sender, connection) = handshake.map_err(|error| failed(error.into()))?;
        let driver = tokio::spawn(connection);
        let request = Request::post(&url)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(Full::new(health_question(service)))
            .map_err(|_| RequestError::Malformed(url.clone()))?;
        let response = sender.send_request(request).await.map_err(|error| failed(error.into()));
        let serving = match response {
            Ok(response) => {
                let body = Limited::new(response.into_body(), LONGEST_BODY).collect().await;
                body.map(|body| is_serving(&body.to_bytes())).unwrap_or(false)
            }
            Err(error) => {
                driver.abort();
                return Err(error);
            }
        };
        driver.abort();
        Ok(serving)
    };
    tokio::time::timeout(limit, work).await.map_err(|_| RequestError::TimedOut)?
}

/// A frame with `HealthCheckRequest{service}`.
fn health_question(service: &str) -> Bytes {
    let mut message = Vec::new();
    let length = u8::try_from(service.len()).unwrap_or(127).min(127);
    if length > 0 {
        message.extend([0x0a, length]);
        message.extend(&service.as_bytes()[..usize::from(length)]);
    }
    let mut frame = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap_or(u8::MAX)];
    frame.extend(message);
    Bytes::from(frame)
}

/// Whether a frame holds `HealthCheckResponse{status: SERVING}`.
fn is_serving(frame: &[u8]) -> bool {
    frame.get(5..7) == Some(&[0x08, 0x01])
}

/// Takes any certificate: a probe asks whether a pod answers, not who it is.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container() -> Container {
        serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}))
            .unwrap()
    }

    #[test]
    fn ports_by_number_and_name() {
        let table = [
            (IntOrString::Int(80), Some(80)),
            (IntOrString::String("web".into()), Some(8080)),
            (IntOrString::String("81".into()), Some(81)),
            (IntOrString::String("none".into()), None),
            (IntOrString::Int(0), None),
            (IntOrString::Int(70_000), None),
        ];
        for (given, expected) in table {
            assert_eq!(port(&given, &container()).ok(), expected, "{given:?}");
        }
    }

    #[test]
    fn grpc_frames() {
        assert_eq!(&health_question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&health_question("a")[..], [0, 0, 0, 0, 3, 0x0a, 1, b'a']);
        assert!(is_serving(&[0, 0, 0, 0, 2, 8, 1]));
        assert!(!is_serving(&[0, 0, 0, 0, 2, 8, 2]));
        assert!(!is_serving(&[]));
    }

    #[tokio::test]
    async fn a_question_goes_to_the_pod_or_where_it_is_told() {
        let pod = IpAddr::from([10, 128, 0, 9]);
        let table =
            [(None, "10.128.0.9:80"), (Some(""), "10.128.0.9:80"), (Some("192.0.2.1"), "192.0.2.1:80")];
        for (host, expected) in table {
            assert_eq!(resolve(host, pod, 80).await.unwrap().to_string(), expected);
        }
        assert!(resolve(Some("localhost"), pod, 80).await.unwrap().ip().is_loopback());
    }

    #[tokio::test]
    async fn an_answer_is_an_answer_whatever_it_says() {
        let router = axum::Router::new()
            .route("/ok", axum::routing::get(|| async { "fine" }))
            .route("/moved", axum::routing::get(|| async { (StatusCode::FOUND, [("location", "/x")], "") }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let limit = Duration::from_secs(5);
        for (path, status) in [("/ok", 200), ("moved", 302), ("/none", 404)] {
            let action = HTTPGetAction {
                path: Some(path.into()),
                port: IntOrString::Int(address.port().into()),
                ..HTTPGetAction::default()
            };
            let answer = http_get(&action, &container(), address.ip(), limit).await.unwrap();
            assert_eq!(answer.status.as_u16(), status, "{path}");
        }
        assert!(tcp(address, limit).await.is_ok());
        assert!(matches!(tcp(([127, 0, 0, 1], 1).into(), limit).await, Err(RequestError::Connect { .. })));
    }
}
