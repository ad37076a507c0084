//! Over real sockets: TLS with client certificates, and streams of a pod through the server to its agent, byte
//! for byte. The agent is a small one of this test.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use catamaran_server::pki::{Credentials, Subject};
use catamaran_server::{Binding, Listen, Server, ServerConfig};
use catamaran_store::MemoryStore;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

struct Cluster {
    server: Server,
    address: SocketAddr,
    stop: tokio::sync::watch::Sender<bool>,
    dir: tempfile::TempDir,
}

/// A port that was free a moment ago.
async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().await));
        let mut config = ServerConfig::new(dir.path());
        config.listen = vec![Listen { address, binding: Binding::Present }];
        config.registry_listen = Vec::new();
        let server = Server::new(config, Arc::new(MemoryStore::new())).unwrap();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        tokio::spawn(catamaran_server::run(server.clone(), stopped));
        let cluster = Cluster { server, address, stop, dir };
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        cluster
    }

    fn credentials(&self, file: &str, subject: &Subject) -> Credentials {
        self.server.credentials(&self.dir.path().join("test"), file, subject).unwrap()
    }

    fn admin(&self) -> Credentials {
        self.credentials("admin", &Subject::client("admin", Some("system:masters")))
    }

    async fn connect(&self, credentials: Option<Credentials>) -> SendRequest<Full<Bytes>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.server.ca_pem().as_bytes()).unwrap()).unwrap();
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
        let config = match credentials {
            Some(own) => config
                .with_client_auth_cert(vec![own.certificate_der().unwrap()], own.key_der().unwrap())
                .unwrap(),
            None => config.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }
}

fn request(method: &str, uri: &str, body: &Value) -> Request<Full<Bytes>> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Request::builder()
        .method(method)
        .uri(uri)
        .header(header::HOST, "localhost")
        .body(Full::from(body))
        .unwrap()
}

async fn text(response: Response<Incoming>) -> (u16, String) {
    let code = response.status().as_u16();
    (code, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

/// An agent: logs are a text with the path, exec is an echo after a switch of protocols.
async fn agent(listener: TcpListener, own: Credentials, ca: String) {
    let certificate = own.certificate_der().unwrap();
    let authority = CertificateDer::from_pem_slice(ca.as_bytes()).unwrap();
    let acceptor = catamaran_server::serve::tls(certificate, own.key_der().unwrap(), authority).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await.unwrap();
            let caller = stream.get_ref().1.peer_certificates().map(|chain| chain[0].clone());
            let caller = catamaran_server::UserInfo::from_certificate(&caller.unwrap()).unwrap().name;
            let service = hyper::service::service_fn(move |request| answer(request, caller.clone()));
            let builder = hyper::server::conn::http1::Builder::new();
            builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await.unwrap();
        });
    }
}

async fn answer(
    mut request: Request<Incoming>,
    caller: String,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    if request.headers().contains_key(header::UPGRADE) {
        let protocol = request.headers()["sec-websocket-protocol"].clone();
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut buffer = [0; 64];
            loop {
                let count = stream.read(&mut buffer).await.unwrap();
                if count == 0 {
                    return;
                }
                stream.write_all(&buffer[..count]).await.unwrap();
            }
        });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(header::CONNECTION, "Upgrade".parse().unwrap());
        response.headers_mut().insert(header::UPGRADE, "websocket".parse().unwrap());
        response.headers_mut().insert("sec-websocket-protocol", protocol);
        return Ok(response);
    }
    Ok(Response::new(Full::from(format!("{caller} asks for {}", request.uri()))))
}

/// A node with an agent on `port`, and a pod on it.
async fn node_with_pod(admin: &mut SendRequest<Full<Bytes>>, port: u16) {
    let objects = [
        ("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})),
        (
            "/api/v1/nodes",
            json!({
                "metadata": {"name": "n1"},
                "status": {
                    "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
                },
            }),
        ),
        (
            "/api/v1/namespaces/default/pods",
            json!({
                "metadata": {"name": "p"},
                "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
            }),
        ),
    ];
    for (uri, object) in objects {
        let (code, answer) = text(admin.send_request(request("POST", uri, &object)).await.unwrap()).await;
        assert_eq!(code, 201, "{answer}");
    }
}

#[tokio::test]
async fn streams_reach_the_agent_and_come_back() {
    let cluster = Cluster::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let own = cluster.credentials("node", &Subject::node("n1", vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]));
    let agent = tokio::spawn(agent(listener, own, cluster.server.ca_pem()));
    let mut admin = cluster.connect(Some(cluster.admin())).await;
    node_with_pod(&mut admin, port).await;

    let log = request("GET", "/api/v1/namespaces/default/pods/p/log?follow=true&tailLines=3", &Value::Null);
    let (code, answer) = text(admin.send_request(log).await.unwrap()).await;
    assert_eq!(
        (code, answer.as_str()),
        (200, "system:kube-apiserver asks for /containerLogs/default/p/c?follow=true&tailLines=3")
    );

    // So do paths of the node itself, with method, query and body.
    let node = request("POST", "/api/v1/nodes/n1/proxy/run/a%20b?x=1", &json!({"a": "b"}));
    let (code, answer) = text(admin.send_request(node).await.unwrap()).await;
    let expected = "system:kube-apiserver asks for /run/a%20b?x=1";
    assert_eq!((code, answer.as_str()), (200, expected));
    let root = admin.send_request(request("GET", "/api/v1/nodes/n1/proxy?x=1", &Value::Null)).await.unwrap();
    assert_eq!(root.headers()["location"], "/api/v1/nodes/n1/proxy/?x=1");
    assert_eq!(text(root).await.0, 301);

    let plain = request("GET", "/api/v1/namespaces/default/pods/p/exec?command=ls", &Value::Null);
    let (code, answer) = text(admin.send_request(plain).await.unwrap()).await;
    assert!(code == 400 && answer.contains("Upgrade request required"), "{answer}");
    let mut exec =
        request("GET", "/api/v1/namespaces/default/pods/p/exec?command=ls&stdout=true", &Value::Null);
    for (name, value) in [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-protocol", "v5.channel.k8s.io"),
        ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ] {
        exec.headers_mut().insert(name, value.parse().unwrap());
    }
    let mut response = admin.send_request(exec).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    for word in ["one", "two"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        let mut back = [0; 3];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, word.as_bytes());
    }
    agent.abort();
}

#[tokio::test]
async fn only_what_is_a_pod_is_spoken_to() {
    let cluster = Cluster::start().await;
    let mut admin = cluster.connect(Some(cluster.admin())).await;
    node_with_pod(&mut admin, free_port().await).await;
    let mut ask = async |method: &str, uri: &str, body: &Value| {
        text(admin.send_request(request(method, uri, body)).await.unwrap()).await
    };
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let (code, answer) = ask("POST", "/api/v1/namespaces/default/services", &service).await;
    assert_eq!(code, 201, "{answer}");
    // An address that somebody wrote there and that is no pod's.
    let endpoints = json!({"metadata": {"name": "s"}, "subsets": [
        {"addresses": [{"ip": "10.9.9.9", "targetRef": {"kind": "Pod", "name": "p"}}], "ports": [{"port": 80}]},
    ]});
    let (code, answer) = ask("POST", "/api/v1/namespaces/default/endpoints", &endpoints).await;
    assert_eq!(code, 201, "{answer}");
    let table = [
        ("/api/v1/namespaces/default/pods/p:80/proxy/", 400, "address not allowed"),
        ("/api/v1/namespaces/default/pods/none/proxy/", 404, "pods \\\"none\\\" not found"),
        ("/api/v1/namespaces/default/pods/ftp:p:80/proxy/", 400, "invalid pod request"),
        ("/api/v1/namespaces/default/services/s/proxy/", 503, "no endpoints available for service"),
        ("/api/v1/namespaces/default/services/s:81/proxy/", 503, "no service port 81 found for service"),
        ("/api/v1/namespaces/default/services/none/proxy/", 404, "not found"),
        ("/api/v1/nodes/n1:22/proxy/", 400, "address not allowed"),
        ("/api/v1/nodes/none/proxy/", 404, "not found"),
    ];
    for (uri, code, expected) in table {
        let (got, answer) = ask("GET", uri, &Value::Null).await;
        assert!(got == code && answer.contains(expected), "{uri}: {got} {answer}");
    }
}

#[tokio::test]
async fn an_agent_that_is_away_is_named() {
    let cluster = Cluster::start().await;
    let port = free_port().await;
    let mut admin = cluster.connect(Some(cluster.admin())).await;
    node_with_pod(&mut admin, port).await;
    let log = request("GET", "/api/v1/namespaces/default/pods/p/log", &Value::Null);
    let (code, answer) = text(admin.send_request(log).await.unwrap()).await;
    assert_eq!(code, 500);
    assert!(answer.contains(&format!("cannot reach the agent of node n1 at 127.0.0.1:{port}")), "{answer}");
}

/// From the account to its token to what roles give it, and to nothing when the account is gone.
#[tokio::test]
async fn a_service_account_does_what_its_roles_allow() {
    const MAPS: &str = "/api/v1/namespaces/default/configmaps";
    let cluster = Cluster::start().await;
    let mut admin = cluster.connect(Some(cluster.admin())).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa"}});
    let made = admin.send_request(request("POST", accounts, &account)).await.unwrap();
    assert_eq!(text(made).await.0, 201);
    let wanted = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let given = admin.send_request(request("POST", &format!("{accounts}/sa/token"), &wanted)).await.unwrap();
    let given: Value = serde_json::from_str(&text(given).await.1).unwrap();
    let token = format!("Bearer {}", given["status"]["token"].as_str().unwrap());
    let mut pod = cluster.connect(None).await;
    let mut ask = async |method: &str, uri: &str, body: &Value| {
        let mut request = request(method, uri, body);
        request.headers_mut().insert(header::AUTHORIZATION, token.parse().unwrap());
        text(pod.send_request(request).await.unwrap()).await
    };
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let (code, answer) = ask("POST", MAPS, &map).await;
    assert_eq!(code, 403);
    assert!(answer.contains("User \\\"system:serviceaccount:default:sa\\\" cannot create"), "{answer}");
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:serviceaccounts:default"}],
    });
    let uri = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    assert_eq!(text(admin.send_request(request("POST", uri, &binding)).await.unwrap()).await.0, 201);
    assert_eq!(ask("POST", MAPS, &map).await.0, 201);
    assert_eq!(ask("GET", &format!("{MAPS}?limit=1"), &Value::Null).await.0, 200);
    assert_eq!(ask("GET", "/apis/apps/v1", &Value::Null).await.0, 200);
    assert_eq!(ask("GET", "/openid/v1/jwks", &Value::Null).await.0, 200);
    assert_eq!(ask("GET", "/api/v1/namespaces/kube-system/configmaps", &Value::Null).await.0, 403);
    let gone = admin.send_request(request("DELETE", &format!("{accounts}/sa"), &Value::Null)).await.unwrap();
    assert_eq!(text(gone).await.0, 200);
    assert_eq!(ask("GET", MAPS, &Value::Null).await.0, 401);
}

#[tokio::test]
async fn certificates_decide_and_watches_end_with_the_server() {
    let cluster = Cluster::start().await;
    let mut nobody = cluster.connect(None).await;
    let pods = || request("GET", "/api/v1/pods", &Value::Null);
    assert_eq!(text(nobody.send_request(pods()).await.unwrap()).await.0, 403);
    let mut forged = pods();
    forged.headers_mut().insert(header::AUTHORIZATION, "Bearer x".parse().unwrap());
    assert_eq!(text(nobody.send_request(forged).await.unwrap()).await.0, 401);
    let healthy = text(nobody.send_request(request("GET", "/livez", &Value::Null)).await.unwrap()).await;
    assert_eq!(healthy, (200, "ok".to_owned()));
    let jane = cluster.credentials("jane", &Subject::client("jane", None));
    let (code, answer) = text(cluster.connect(Some(jane)).await.send_request(pods()).await.unwrap()).await;
    assert_eq!(code, 403);
    assert!(answer.contains("User \\\"jane\\\" cannot list resource \\\"pods\\\""), "{answer}");

    let mut admin = cluster.connect(Some(cluster.admin())).await;
    let watch = admin.send_request(request("GET", "/api/v1/nodes?watch=true", &Value::Null)).await.unwrap();
    cluster.stop.send_replace(true);
    let ended = tokio::time::timeout(Duration::from_secs(5), watch.into_body().collect()).await;
    assert!(ended.expect("the watch ends").is_ok(), "and it ends cleanly");
}
