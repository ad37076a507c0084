//! `metrics.k8s.io` over figures of a node that is played.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use catamaran_api::protobuf;
use catamaran_server::pki::{Credentials, Subject};
use http::Response;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::Api;

const PODS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods";
const NODES: &str = "/apis/metrics.k8s.io/v1beta1/nodes";

/// An agent whose containers use a fixed amount of CPU time from one question to the next.
async fn agent(
    listener: TcpListener,
    own: Credentials,
    ca: String,
    summary: Arc<dyn Fn(u64) -> Value + Send + Sync>,
) {
    let certificate = own.certificate_der().unwrap();
    let authority = CertificateDer::from_pem_slice(ca.as_bytes()).unwrap();
    let acceptor = catamaran_server::serve::tls(certificate, own.key_der().unwrap(), authority).unwrap();
    let asked = Arc::new(AtomicU64::new(0));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, summary, asked) = (acceptor.clone(), summary.clone(), asked.clone());
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await.unwrap();
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                assert_eq!(request.uri().path(), "/stats/summary");
                let times = asked.fetch_add(1, Ordering::Relaxed);
                let body = Full::<Bytes>::from(summary(times).to_string());
                async move { Ok::<_, std::convert::Infallible>(Response::new(body)) }
            });
            let builder = hyper::server::conn::http1::Builder::new();
            builder.serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

async fn cluster() -> Api {
    let api = Api::new().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"zone": "a"}},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        },
    });
    api.post("/api/v1/nodes", &node).await.ok();
    let mut silent = node.clone();
    silent["metadata"] = json!({"name": "n2"});
    silent["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] = 1.into();
    api.post("/api/v1/nodes", &silent).await.ok();
    let mut pods = Vec::new();
    for (name, app) in [("p", "web"), ("q", "db"), ("idle", "none")] {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i:1"}]},
        });
        pods.push(api.post("/api/v1/namespaces/default/pods", &pod).await.ok());
    }
    let figures = |cpu: u64, memory: u64| json!({"name": "c", "cpu": {"usageCoreNanoSeconds": cpu}, "memory": {"workingSetBytes": memory}});
    let summary = move |times: u64| {
        let of = |pod: &Value, cpu: u64| {
            let metadata = &pod["metadata"];
            json!({
                "podRef": {"name": metadata["name"], "namespace": "default", "uid": metadata["uid"]},
                "containers": [figures(cpu, 8 * 1024 * 1024)],
            })
        };
        let mut node = figures(times * 4_000_000_000, 1024 * 1024 * 1024);
        node["nodeName"] = "n1".into();
        json!({"node": node, "pods": [of(&pods[0], times * 500_000_000), of(&pods[1], 7)]})
    };
    let dir = api.dir.path().join("agent");
    let subject = Subject::node("n1", vec![Ipv4Addr::LOCALHOST.into()]);
    let own = api.server.credentials(&dir, "agent", &subject).unwrap();
    tokio::spawn(agent(listener, own, api.server.ca_pem(), Arc::new(summary)));
    api
}

/// A quantity such as `123456n`, in millionths.
fn micro(value: &Value) -> u64 {
    let nanos = value.as_str().unwrap().strip_suffix('n').unwrap();
    nanos.parse::<u64>().unwrap() / 1000
}

#[tokio::test]
async fn nodes_and_pods_tell_what_they_use() {
    let api = cluster().await;
    let nodes = api.get(NODES).await.ok();
    assert_eq!(nodes["kind"], "NodeMetricsList");
    let items = nodes["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "a node that does not answer has no figures");
    let node = &items[0];
    assert_eq!((&node["metadata"]["name"], &node["metadata"]["labels"]["zone"]), (&"n1".into(), &"a".into()));
    assert_eq!(node["usage"]["memory"], "1048576Ki");
    let used = micro(&node["usage"]["cpu"]);
    assert!((2_000_000..=4_100_000).contains(&used), "four seconds in a second or a bit more: {used}");
    assert!(node["timestamp"].is_string() && node["window"].as_str().unwrap().ends_with('s'), "{node}");

    let pods = api.get(PODS).await.ok();
    assert_eq!(pods["kind"], "PodMetricsList");
    let names: Vec<&Value> =
        pods["items"].as_array().unwrap().iter().map(|pod| &pod["metadata"]["name"]).collect();
    assert_eq!(names, ["p", "q"]);
    let container = &pods["items"][0]["containers"][0];
    assert_eq!((&container["name"], &container["usage"]["memory"]), (&"c".into(), &"8192Ki".into()));
    assert_eq!(pods["items"][1]["containers"][0]["usage"]["cpu"], "0n");
    let chosen = api.get("/apis/metrics.k8s.io/v1beta1/pods?labelSelector=app%3Ddb").await.ok();
    assert_eq!(chosen["items"][0]["metadata"]["name"], "q");
    let named = api.get(&format!("{PODS}?fieldSelector=metadata.name%3Dp")).await.ok();
    assert_eq!(named["items"].as_array().unwrap().len(), 1);
    assert_eq!(api.get(&format!("{PODS}/p")).await.ok()["kind"], "PodMetrics");
    assert_eq!(api.get(&format!("{NODES}/n1")).await.ok()["kind"], "NodeMetrics");
    for (uri, message) in [
        (format!("{PODS}/idle"), "pods.metrics.k8s.io \"idle\" not found"),
        (format!("{NODES}/n2"), "nodes.metrics.k8s.io \"n2\" not found"),
        (format!("{NODES}/n3"), "nodes.metrics.k8s.io \"n3\" not found"),
    ] {
        assert_eq!(api.get(&uri).await.failure(), (404, message.into()));
    }
    let message = api.get_as(PODS, "application/vnd.kubernetes.protobuf").await;
    assert_eq!(protobuf::decode(&message.bytes).unwrap()["items"].as_array().unwrap().len(), 2);
    let table = api.get_as(PODS, "application/json;as=Table;v=v1;g=meta.k8s.io").await.ok();
    let columns: Vec<&Value> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(columns, ["Name", "cpu", "memory", "Window"]);
    let refused = api.delete(&format!("{PODS}/p"), &Value::Null).await;
    assert_eq!(refused.code, 405);
    let group = api.get("/apis/metrics.k8s.io/v1beta1").await.ok();
    assert_eq!(group["resources"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn many_questions_are_one_to_the_node() {
    let api = Arc::new(cluster().await);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let api = api.clone();
        asking.spawn(async move { api.get(NODES).await.ok()["items"][0]["usage"]["cpu"].clone() });
    }
    let answers = asking.join_all().await;
    assert!(answers.iter().all(|answer| *answer == answers[0]), "all of the same two samples: {answers:?}");
}
