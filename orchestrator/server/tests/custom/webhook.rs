//! Two versions that differ, and a webhook that makes one from the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::api::{Api, DEFINITIONS};

const OLD: &str = "/apis/example.com/v1beta1/namespaces/default/hosts";
const NEW: &str = "/apis/example.com/v1/namespaces/default/hosts";

/// `v1beta1` has one name, `v1` a list of them.
fn convert(object: &Value, wanted: &str) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = wanted.into();
    let spec = object["spec"].clone();
    object["spec"] = match wanted {
        "example.com/v1" => json!({"names": [spec["name"]]}),
        _ => json!({"name": spec["names"][0]}),
    };
    object
}

async fn answer(request: Request<Incoming>, asked: Arc<AtomicUsize>) -> Response<Full<Bytes>> {
    asked.fetch_add(1, Ordering::SeqCst);
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    let wanted = review["request"]["desiredAPIVersion"].as_str().unwrap();
    let objects = review["request"]["objects"].as_array().unwrap();
    let refused = objects.iter().any(|object| object["metadata"]["name"] == "refused");
    let result = match refused {
        true => json!({"status": "Failure", "message": "not this one"}),
        false => json!({"status": "Success"}),
    };
    let converted: Vec<Value> = objects.iter().map(|object| convert(object, wanted)).collect();
    let response = json!({
        "apiVersion": review["apiVersion"], "kind": "ConversionReview",
        "response": {"uid": review["request"]["uid"], "result": result, "convertedObjects": converted},
    });
    Response::new(Full::from(response.to_string()))
}

/// A webhook on loopback: its port, its certificate, how often it was asked.
async fn webhook() -> (u16, String, Arc<AtomicUsize>) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, counter) = (acceptor.clone(), counter.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(|request| {
                    let counter = counter.clone();
                    async move { Ok::<_, std::convert::Infallible>(answer(request, counter).await) }
                });
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok();
            });
        }
    });
    (port, made.cert.pem(), asked)
}

fn definition(port: u16, certificate: &str) -> Value {
    let version = |name: &str, storage: bool, spec: Value| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"spec": {"type": "object", "properties": spec}},
        }}})
    };
    let bundle = base64::prelude::BASE64_STANDARD.encode(certificate);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "hosts.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "hosts", "kind": "Host", "singular": "host"},
            "versions": [
                version("v1", true, json!({"names": {"type": "array", "items": {"type": "string"}}, "ttl": {"type": "integer", "default": 60}})),
                version("v1beta1", false, json!({"name": {"type": "string", "minLength": 2}})),
            ],
            "conversion": {"strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v1"],
                "clientConfig": {"url": format!("https://127.0.0.1:{port}/convert"), "caBundle": bundle},
            }},
        },
    })
}

fn host(name: &str) -> Value {
    json!({"apiVersion": "example.com/v1beta1", "kind": "Host", "metadata": {"name": name}, "spec": {"name": "a.b"}})
}

#[tokio::test]
async fn versions_become_each_other() {
    let (port, certificate, asked) = webhook().await;
    let api = Api::new().await;
    api.define(&[definition(port, &certificate)]).await;
    let made = api.post(OLD, &host("a")).await.ok();
    assert_eq!(
        (&made["apiVersion"], &made["spec"]),
        (&"example.com/v1beta1".into(), &json!({"name": "a.b"}))
    );
    let count = asked.load(Ordering::SeqCst);
    let stored = api.get(&format!("{NEW}/a")).await.ok();
    assert_eq!(stored["spec"], json!({"names": ["a.b"], "ttl": 60}), "with the defaults of its own schema");
    assert_eq!(asked.load(Ordering::SeqCst), count, "the stored version needs no webhook");
    let old = api.get(&format!("{OLD}/a")).await.ok();
    assert_eq!((&old["spec"], &old["metadata"]["uid"]), (&json!({"name": "a.b"}), &made["metadata"]["uid"]));

    let mut watch = api.watch(&format!("{OLD}?watch=true")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["spec"], json!({"name": "a.b"}));
    api.patch("merge-patch+json", &format!("{NEW}/a"), &json!({"spec": {"names": ["c.d"]}})).await.ok();
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["spec"]), (&"MODIFIED".into(), &json!({"name": "c.d"})));
    let patched =
        api.patch("merge-patch+json", &format!("{OLD}/a"), &json!({"spec": {"name": "e.f"}})).await.ok();
    assert_eq!(patched["spec"], json!({"name": "e.f"}));
    let causes =
        api.patch("merge-patch+json", &format!("{OLD}/a"), &json!({"spec": {"name": "x"}})).await.causes();
    assert_eq!(causes[0][0], "spec.name", "judged in the version of the request");

    api.post(OLD, &host("b")).await.ok();
    let count = asked.load(Ordering::SeqCst);
    let list = api.get(OLD).await.ok();
    assert_eq!(list["items"][1]["spec"], json!({"name": "a.b"}));
    assert_eq!(asked.load(Ordering::SeqCst), count + 1, "one question for a whole list");
    let api = api.restart().await;
    assert_eq!(api.get(&format!("{OLD}/a")).await.ok()["spec"], json!({"name": "e.f"}));
}

#[tokio::test]
async fn a_webhook_that_fails_says_so() {
    let (port, certificate, _) = webhook().await;
    let api = Api::new().await;
    api.define(&[definition(port, &certificate)]).await;
    let (code, message) = api.post(OLD, &host("refused")).await.failure();
    assert_eq!(code, 500);
    assert!(
        message.contains(
            "conversion webhook for Host refused to example.com/v1 failed: it refused: not this one"
        ),
        "{message}"
    );
    // Nobody listens there.
    let uri = format!("{DEFINITIONS}/hosts.example.com");
    let mut changed = api.get(&uri).await.ok();
    changed["spec"]["conversion"]["webhook"]["clientConfig"]["url"] = "https://127.0.0.1:1/".into();
    api.put(&uri, &changed).await.ok();
    let (code, message) = api.post(OLD, &host("a")).await.failure();
    assert_eq!(code, 500);
    assert!(message.contains("cannot connect to 127.0.0.1:1"), "{message}");
    let stored = json!({"apiVersion": "example.com/v1", "kind": "Host", "metadata": {"name": "s"}, "spec": {"names": []}});
    api.post(NEW, &stored).await.ok();
    api.delete(&uri).await.ok();
    api.until(&uri, 404).await;
}
