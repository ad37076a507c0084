//! Asking a conversion webhook: `ConversionReview` over HTTPS (apiextensions.k8s.io/v1).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use catamaran_api::status::Status;
use catamaran_api::{kind, meta};

use crate::body;
use crate::core::Core;
use crate::error::chain;
use crate::{encode, keys};

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long an answer may be.
const LONGEST: usize = 64 * 1024 * 1024;
/// What a conversion may change of the metadata; the rest stays as it was.
const MAY_CHANGE: [&str; 2] = ["labels", "annotations"];

/// Brings objects into another version, in their order.
///
/// # Errors
/// 500 with the reason: the webhook cannot be reached, or its answer is not one.
pub(super) async fn convert(
    core: &Core,
    hook: &Value,
    wanted: &str,
    objects: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    let named = objects.first().map(|object| format!("{} {}", text(object, "kind"), meta::name(object)));
    let failed = |why: String| {
        let object = named.as_deref().unwrap_or("nothing");
        Status::internal_error(format!("conversion webhook for {object} to {wanted} failed: {why}"))
    };
    let asked = tokio::time::timeout(DEADLINE, ask(core, hook, wanted, &objects));
    let answer = asked.await.map_err(|_| failed("no answer in time".into()))?.map_err(failed)?;
    accept(answer, wanted, objects).map_err(failed)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

async fn ask(core: &Core, hook: &Value, wanted: &str, objects: &[Value]) -> Result<Value, String> {
    let versions = hook["conversionReviewVersions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let known = |version: &&Value| **version == "v1" || **version == "v1beta1";
    let version = versions.iter().find(known).and_then(Value::as_str).unwrap_or("v1");
    let uid = uuid::Uuid::new_v4().to_string();
    let review = json!({
        "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{version}"),
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects},
    });
    let target = Target::of(core, &hook["clientConfig"]).await?;
    let answer = target.post(&hook["clientConfig"], review.to_string()).await?;
    let mut answer: Value =
        serde_json::from_slice(&answer).map_err(|error| format!("the answer is no JSON: {error}"))?;
    let response = answer["response"].take();
    if text(&response, "uid") != uid {
        return Err("the answer is to another question: its uid differs".into());
    }
    if response["result"]["status"] != "Success" {
        return Err(format!("it refused: {}", text(&response["result"], "message")));
    }
    Ok(response)
}

/// Takes the converted objects, with their identity as it was.
fn accept(mut response: Value, wanted: &str, before: Vec<Value>) -> Result<Vec<Value>, String> {
    let Value::Array(converted) = response["convertedObjects"].take() else {
        return Err("the answer has no convertedObjects".into());
    };
    if converted.len() != before.len() {
        return Err(format!("expected {} converted objects, got {}", before.len(), converted.len()));
    }
    let check = |(mut after, before): (Value, Value)| {
        let name = meta::name(&before);
        if after["apiVersion"] != wanted {
            return Err(format!("object {name} came back as {}", text(&after, "apiVersion")));
        }
        for field in ["kind", "metadata"] {
            if !after[field].is_object() && field == "metadata"
                || field == "kind" && after[field] != before[field]
            {
                return Err(format!("object {name} came back with another {field}"));
            }
        }
        for field in ["name", "namespace", "uid"] {
            if after["metadata"].get(field) != before["metadata"].get(field) {
                return Err(format!("object {name} came back with another metadata.{field}"));
            }
        }
        let mut metadata = before["metadata"].clone();
        if let (Some(metadata), Some(said)) = (metadata.as_object_mut(), after["metadata"].as_object()) {
            for field in MAY_CHANGE {
                match said.get(field).filter(|value| !value.is_null()) {
                    Some(value) => metadata.insert(field.to_owned(), value.clone()),
                    None => metadata.remove(field),
                };
            }
        }
        after["metadata"] = metadata;
        Ok(after)
    };
    converted.into_iter().zip(before).map(check).collect()
}

/// Where a webhook listens.
struct Target {
    /// Address for the connection.
    address: String,
    /// Name in its certificate.
    name: String,
    path: String,
}

impl Target {
    async fn of(core: &Core, client: &Value) -> Result<Target, String> {
        if client["service"].is_object() {
            return Self::of_service(core, &client["service"]).await;
        }
        let url = text(client, "url");
        let uri: Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
        let name =
            uri.host().ok_or_else(|| format!("{url:?} names no host"))?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(443);
        let address = if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Target { address, name, path })
    }

    async fn of_service(core: &Core, service: &Value) -> Result<Target, String> {
        let (namespace, name) = (text(service, "namespace"), text(service, "name"));
        let missing = || format!("there is no Service {namespace}/{name}");
        let services = kind::find("", "v1", "services").ok_or_else(missing)?;
        let found = core.store.get(&keys::one(services, Some(namespace), name)).await;
        let entry = found.map_err(|error| chain(&error))?.ok_or_else(missing)?;
        let object = encode::decode(&entry.value, entry.mod_revision).map_err(|error| error.to_string())?;
        let ip = text(&object["spec"], "clusterIP");
        if ip.is_empty() || ip == "None" {
            return Err(format!("Service {namespace}/{name} has no cluster IP"));
        }
        let port = service["port"].as_u64().unwrap_or(443);
        let path = text(service, "path");
        Ok(Target {
            address: if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") },
            name: format!("{name}.{namespace}.svc"),
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        })
    }

    async fn post(&self, client: &Value, review: String) -> Result<bytes::Bytes, String> {
        let connector = connector(text(client, "caBundle"))?;
        let name = ServerName::try_from(self.name.clone()).map_err(|error| error.to_string())?;
        let stream = TcpStream::connect(&self.address)
            .await
            .map_err(|error| format!("cannot connect to {}: {error}", self.address))?;
        let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
        // It ends with the sender.
        tokio::spawn(async move { connection.await.ok() });
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.path)
            .header(header::HOST, &self.name)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(body::full(review))
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| chain(&error))?;
        let code = response.status();
        let content = Limited::new(response.into_body(), LONGEST).collect().await;
        let content = content.map_err(|error| error.to_string())?.to_bytes();
        if code.is_success() { Ok(content) } else { Err(format!("it answers {code}")) }
    }
}

/// Trusts the authorities that the definition names, or without those the machine's.
fn connector(bundle: &str) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    if bundle.is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    } else {
        let pem =
            BASE64_STANDARD.decode(bundle).map_err(|error| format!("caBundle is no base64: {error}"))?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| format!("caBundle is no PEM: {error}"))?;
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
    }
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_may_not_change_who_an_object_is() {
        let before = json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n", "uid": "u", "finalizers": ["x/y"]}});
        let answer = |object: Value| json!({"convertedObjects": [object]});
        let good = json!({"apiVersion": "a/v2", "kind": "K",
            "metadata": {"name": "n", "uid": "u", "labels": {"l": "1"}, "generation": 9}, "spec": {}});
        let got = accept(answer(good.clone()), "a/v2", vec![before.clone()]).unwrap();
        let expected = json!({"name": "n", "uid": "u", "finalizers": ["x/y"], "labels": {"l": "1"}});
        assert_eq!(got[0]["metadata"], expected);
        let bad: [fn(&mut Value); 4] = [
            |object| object["apiVersion"] = "a/v1".into(),
            |object| object["kind"] = "L".into(),
            |object| object["metadata"]["uid"] = "other".into(),
            |object| object["metadata"] = Value::Null,
        ];
        for edit in bad {
            let mut object = good.clone();
            edit(&mut object);
            assert!(accept(answer(object.clone()), "a/v2", vec![before.clone()]).is_err(), "{object}");
        }
        assert!(accept(json!({"convertedObjects": []}), "a/v2", vec![before]).is_err());
    }
}
