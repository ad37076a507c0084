//! Cells of subresources. Streams end at the agent, which `tests/streams.rs` plays; here they are refused for the right
//! reason.

use catamaran_api::{protobuf, yaml};
use http::Method;
use serde_json::{Value, json};

use super::{Cell, Outcome, PATCHES, PROTOBUF, TABLE, YAML, decoded, ensure, expect, read_yaml};
use crate::samples;
use crate::support::version;

pub(super) async fn drive(cell: &Cell<'_>) -> Outcome {
    match cell.subresource {
        "log" | "exec" | "attach" | "portforward" => stream(cell).await,
        "proxy" => proxy(cell).await,
        "binding" | "eviction" | "token" => create(cell).await,
        "status" | "approval" | "finalize" | "ephemeralcontainers" | "resize" | "scale" => part(cell).await,
        _ => Err("no test drives this cell".into()),
    }
}

/// A pod without a node has nobody to connect to.
async fn stream(cell: &Cell<'_>) -> Outcome {
    cell.made().await?;
    let method = if cell.action.starts_with("create") { Method::POST } else { Method::GET };
    let uri = format!("{}/{}?command=x&ports=80", cell.uri(), cell.subresource);
    let status = expect(cell.api.send(method, &uri, &[], Vec::new()).await, 400)?;
    let message = status["message"].as_str().unwrap_or_default();
    let expected =
        if cell.subresource == "log" { "does not have a host assigned" } else { "Upgrade request required" };
    ensure!(message.contains(expected), "{message}");
    Ok(())
}

/// There is nothing behind it here; the path is known all the same.
async fn proxy(cell: &Cell<'_>) -> Outcome {
    cell.made().await?;
    let method = match cell.action.split(' ').next() {
        Some("create") => Method::POST,
        Some("get") => Method::GET,
        Some("update") => Method::PUT,
        Some("patch") => Method::PATCH,
        Some("delete") => Method::DELETE,
        _ => return Err("no test drives this cell".into()),
    };
    let reply = cell.api.send(method, &format!("{}/proxy/path", cell.uri()), &[], Vec::new()).await;
    ensure!(reply.code >= 400 && reply.code != 404, "{}", reply.code);
    Ok(())
}

/// What is created below an object.
async fn create(cell: &Cell<'_>) -> Outcome {
    cell.made().await?;
    let name = &cell.name;
    let body = match cell.subresource {
        "binding" => json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": "n"},
        }),
        "eviction" => json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}),
        _ => json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600},
        }),
    };
    let uri = format!("{}/{}", cell.uri(), cell.subresource);
    let (uri, headers, bytes) = match cell.action {
        "create" => (uri, vec![], body.to_string().into_bytes()),
        "create as protobuf" => {
            let bytes = protobuf::encode(&body).map_err(|error| error.to_string())?;
            (uri, vec![("content-type", PROTOBUF), ("accept", PROTOBUF)], bytes)
        }
        "create as yaml" => (uri, vec![("content-type", YAML)], yaml::text(&body).into_bytes()),
        "create dry run" => (format!("{uri}?dryRun=All"), vec![], body.to_string().into_bytes()),
        _ => return Err("no test drives this cell".into()),
    };
    let reply = cell.api.send(Method::POST, &uri, &headers, bytes).await;
    let done = if cell.action == "create as protobuf" { decoded(&reply, 201)? } else { expect(reply, 201)? };
    let dry = cell.action == "create dry run";
    let now = cell.api.get(&cell.uri()).await;
    match cell.subresource {
        "token" => ensure!(done["status"]["token"].is_string(), "{done}"),
        "eviction" => ensure!((now.code == 200) == dry, "the pod is {}", now.code),
        _ => ensure!(now.json()["spec"]["nodeName"].is_null() == dry, "{}", now.json()),
    }
    Ok(())
}

/// What a subresource writes, and where it is seen in the parent.
struct Written {
    /// The part of a body that is written.
    body: Value,
    /// Where the parent shows it, and what.
    seen: (String, Value),
    /// A JSON patch that does the same.
    steps: Value,
}

fn written(cell: &Cell<'_>) -> Written {
    let of = |path: &str, body: Value, value: Value| Written {
        steps: json!([{"op": "add", "path": path, "value": value}]),
        seen: (path.to_owned(), value),
        body,
    };
    let approved = json!([{
        "type": "Approved", "status": "True", "reason": "R", "message": "m",
        "lastUpdateTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]);
    let debug = json!([{"name": "e", "image": "i:1"}]);
    let resources = json!({"requests": {"cpu": "200m"}});
    match cell.subresource {
        "scale" => of("/spec/replicas", json!({"spec": {"replicas": 3}}), 3.into()),
        "finalize" => of(
            "/spec/finalizers",
            json!({"spec": {"finalizers": ["example.com/f"]}}),
            json!(["example.com/f"]),
        ),
        "approval" => of("/status/conditions", json!({"status": {"conditions": approved}}), approved),
        "ephemeralcontainers" => {
            let seen =
                of("/spec/ephemeralContainers", json!({"spec": {"ephemeralContainers": debug}}), debug);
            Written { seen: ("/spec/ephemeralContainers/0/name".into(), "e".into()), ..seen }
        }
        "resize" => {
            let body = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
            let seen = of("/spec/containers/0/resources/requests/cpu", body, "200m".into());
            Written {
                steps: json!([{"op": "replace", "path": "/spec/containers/0/resources", "value": resources}]),
                ..seen
            }
        }
        _ => {
            let (status, field) = samples::status(cell.resource);
            let value = status[field].clone();
            let path = format!("/status/{field}");
            Written {
                steps: json!([{"op": "add", "path": "/status", "value": status}]),
                body: json!({"status": status}),
                seen: (path, value),
            }
        }
    }
}

/// Whether everything in `wanted` is in `found`; the server may have added more.
fn holds(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(name, value)| found.get(name).is_some_and(|found| holds(found, value)))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            wanted.iter().all(|value| found.iter().any(|found| holds(found, value)))
        }
        _ => found == wanted,
    }
}

fn shows(object: &Value, written: &Written) -> bool {
    object.pointer(&written.seen.0).is_some_and(|found| holds(found, &written.seen.1))
}

/// A part of an object.
async fn part(cell: &Cell<'_>) -> Outcome {
    let made = parent(cell).await?;
    let uri = format!("{}/{}", cell.uri(), cell.subresource);
    let written = written(cell);
    let kind = cell.resource.subresource(cell.subresource).map(|sub| sub.kind.kind).unwrap_or_default();
    match cell.action {
        "get" => {
            let got = expect(cell.api.get(&uri).await, 200)?;
            ensure!(got["kind"] == kind, "it is a {}", got["kind"]);
            ensure!(got["metadata"]["uid"] == made["metadata"]["uid"], "{got}");
            ensure!(version(&got) == version(&made), "{got}");
            Ok(())
        }
        "get in every form" => {
            let plain = expect(cell.api.get(&uri).await, 200)?;
            let table = expect(cell.api.get_as(&uri, TABLE).await, 200)?;
            ensure!(table["kind"] == "Table", "{table}");
            let message = decoded(&cell.api.get_as(&uri, PROTOBUF).await, 200)?;
            ensure!(message == plain, "as protobuf {message}, as JSON {plain}");
            ensure!(read_yaml(&cell.api.get_as(&uri, YAML).await)? == plain, "as YAML it is another");
            Ok(())
        }
        "update" | "update dry run" => {
            let body = replaced(cell, &uri, &written).await?;
            let dry = cell.action == "update dry run";
            let uri = if dry { format!("{uri}?dryRun=All") } else { uri };
            let done = expect(cell.api.put(&uri, &body).await, 200)?;
            finish(cell, (&made, &done), &written, dry).await
        }
        "patch dry run" => {
            for patch in PATCHES {
                let done = patched(cell, &format!("{uri}?dryRun=All"), patch, &written).await?;
                finish(cell, (&made, &done), &written, true)
                    .await
                    .map_err(|why| format!("{patch}: {why}"))?;
            }
            Ok(())
        }
        action => {
            let Some(patch) = action.strip_prefix("patch ") else {
                return Err("no test drives this cell".into());
            };
            let done = patched(cell, &uri, patch, &written).await?;
            finish(cell, (&made, &done), &written, false).await
        }
    }
}

/// The object below which the cell works.
async fn parent(cell: &Cell<'_>) -> Result<Value, String> {
    let mut object = cell.sample();
    if cell.subresource == "resize" {
        object["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    }
    expect(cell.api.post(&cell.collection(), &object).await, 201)
}

/// The whole body of a PUT, with a spec that nobody is to notice where only the status is written.
async fn replaced(cell: &Cell<'_>, uri: &str, written: &Written) -> Result<Value, String> {
    let base = if cell.subresource == "finalize" { cell.uri() } else { uri.to_owned() };
    let mut body = expect(cell.api.get(&base).await, 200)?;
    for (part, fields) in written.body.as_object().into_iter().flatten() {
        for (field, value) in fields.as_object().into_iter().flatten() {
            if field == "containers" {
                body[part.as_str()][field.as_str()][0]["resources"] = value[0]["resources"].clone();
            } else {
                body[part.as_str()][field.as_str()] = value.clone();
            }
        }
    }
    Ok(body)
}

async fn patched(cell: &Cell<'_>, uri: &str, patch: &str, written: &Written) -> Result<Value, String> {
    let sub = cell.resource.subresource(cell.subresource).ok_or("no such subresource")?;
    let body = match patch {
        "json-patch+json" => written.steps.clone(),
        "merge-patch+json" if cell.subresource == "resize" => {
            // A merge patch replaces lists whole.
            json!({"spec": {"containers": [{"name": "c", "image": "i:1", "resources": {"requests": {"cpu": "200m"}}}]}})
        }
        "apply-patch+yaml" => {
            let mut body = written.body.clone();
            body["apiVersion"] = sub.kind.api_version().into();
            body["kind"] = sub.kind.kind.into();
            body["metadata"] = json!({"name": cell.object_name()});
            body
        }
        _ => written.body.clone(),
    };
    let glue = if uri.contains('?') { '&' } else { '?' };
    let uri = if patch == "apply-patch+yaml" {
        format!("{uri}{glue}fieldManager=matrix&force=true")
    } else {
        uri.to_owned()
    };
    expect(cell.api.patch(patch, &uri, &body).await, 200)
}

/// What came of a write.
async fn finish(cell: &Cell<'_>, (made, done): (&Value, &Value), written: &Written, dry: bool) -> Outcome {
    ensure!(shows(done, written), "the answer lacks {}: {done}", written.seen.0);
    let now = expect(cell.api.get(&cell.uri()).await, 200)?;
    if dry {
        ensure!(now == *made, "it was {made}, it is {now}");
        return Ok(());
    }
    ensure!(shows(&now, written), "the object lacks {}: {now}", written.seen.0);
    if matches!(cell.subresource, "status" | "approval") {
        ensure!(now["spec"] == made["spec"], "the status changed the spec: {now}");
        ensure!(
            now["metadata"]["generation"] == made["metadata"]["generation"],
            "the status counts as a change"
        );
        // And the other way round: the object itself does not write the status.
        let mut plain = now.clone();
        plain["status"] = json!({});
        plain["metadata"]["labels"]["more"] = "yes".into();
        let after = expect(cell.api.put(&cell.uri(), &plain).await, 200)?;
        ensure!(shows(&after, written), "a write of the object lost the status: {after}");
    }
    Ok(())
}
