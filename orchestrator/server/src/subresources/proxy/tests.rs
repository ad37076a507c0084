//! Requests that are passed on, to a small server on loopback.

use std::convert::Infallible;
use std::net::Ipv4Addr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const PREFIX: &str = "/api/v1/namespaces/d/pods/p/proxy";

#[test]
fn paths_are_split_behind_proxy() {
    let table = [
        ("/api/v1/namespaces/d/pods/p/proxy", 7, PREFIX, ""),
        ("/api/v1/namespaces/d/pods/p/proxy/", 7, PREFIX, "/"),
        ("/api/v1/namespaces/d/pods/p/proxy/a//b%2Fc/", 7, PREFIX, "/a//b%2Fc/"),
        ("/api/v1/nodes/n/proxy/healthz", 5, "/api/v1/nodes/n/proxy", "/healthz"),
        ("//api/v1//nodes/n/proxy/x", 5, "//api/v1//nodes/n/proxy", "/x"),
    ];
    for (path, segments, prefix, rest) in table {
        assert_eq!(split(path, segments), (prefix, rest));
    }
}

#[test]
fn a_page_has_a_slash() {
    let response = to_root(PREFIX, Some("a=b"));
    assert_eq!(response.status(), 301);
    assert_eq!(response.headers()["location"], format!("{PREFIX}/?a=b"));
}

#[test]
fn a_pod_has_its_addresses() {
    let pod = serde_json::json!({"status": {"podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00::1"}]}});
    for (ip, expected) in [("10.1.0.1", true), ("fd00::1", true), ("10.1.0.2", false)] {
        assert_eq!(has_address(&pod, ip.parse().unwrap()), expected, "{ip}");
    }
}

/// Says what it was asked; `/away` leads elsewhere, an upgrade becomes an echo.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(answer);
            let serving =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving.with_upgrades());
        }
    });
    address
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    if request.headers().contains_key(header::UPGRADE) {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(&word).await.unwrap();
        });
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("echo"));
        return Ok(response);
    }
    let (parts, content) = request.into_parts();
    if parts.uri.path() == "/away" {
        *response.status_mut() = StatusCode::FOUND;
        response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/there"));
    }
    let forwarded = parts.headers["x-forwarded-uri"].to_str().unwrap().to_owned();
    let content = content.collect().await.unwrap().to_bytes();
    let said = String::from_utf8_lossy(&content).into_owned();
    let host = parts.headers[header::HOST].to_str().unwrap().to_owned();
    *response.body_mut() = Full::from(format!("{} {} {host} {forwarded} {said}", parts.method, parts.uri));
    Ok(response)
}

fn request(method: Method, uri: &str, content: &'static str) -> Request<Body> {
    let request = Request::builder().method(method).uri(uri).header(header::HOST, "localhost:8001");
    request.body(body::full(content)).unwrap()
}

#[tokio::test]
async fn a_request_reaches_the_pod_as_it_is() {
    let address = server().await;
    let table = [
        (Method::GET, "/?a=b", "", "GET /?a=b localhost:8001 /api/v1/namespaces/d/pods/p/proxy/ "),
        (
            Method::PUT,
            "/x%20y",
            "all",
            "PUT /x%20y localhost:8001 /api/v1/namespaces/d/pods/p/proxy/x%20y all",
        ),
        (Method::OPTIONS, "/o", "", "OPTIONS /o localhost:8001 /api/v1/namespaces/d/pods/p/proxy/o "),
    ];
    for (method, uri, content, expected) in table {
        let answer = pass(Scheme::Http, address, PREFIX, request(method, uri, content), None).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-length"], expected.len().to_string());
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), expected);
    }
    let away = pass(Scheme::Http, address, PREFIX, request(Method::GET, "/away", ""), None).await.unwrap();
    assert_eq!(away.status(), 302);
    assert_eq!(away.headers()["location"], format!("{PREFIX}/there"));
}

#[tokio::test]
async fn a_pod_that_does_not_answer_is_a_503() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let refused = pass(Scheme::Http, address, PREFIX, request(Method::GET, "/", ""), None).await;
    let refused = refused.map(|answer| answer.status()).unwrap_err();
    assert_eq!(refused.code, 503);
    let begin = format!("error trying to reach service: dial tcp {address}: connect: ");
    assert!(refused.message.starts_with(&begin), "{}", refused.message);
    let garbled = pass(Scheme::Https, server().await, PREFIX, request(Method::GET, "/", ""), None).await;
    assert!(garbled.map(|answer| answer.status()).unwrap_err().message.contains("TLS handshake"));
}
