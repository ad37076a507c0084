//! Cells of resources that are answered and not kept: reviews, bindings, component statuses, figures.

use catamaran_api::kind::Resource;
use catamaran_api::{protobuf, yaml};
use http::Method;
use serde_json::{Value, json};

use super::{Cell, Outcome, PROTOBUF, TABLE, YAML, check_table, collection, decoded, ensure, expect};
use crate::samples::NAMESPACE;

pub(super) async fn drive(cell: &Cell<'_>) -> Outcome {
    match (cell.resource.plural, cell.action) {
        ("bindings", _) => bind(cell).await,
        (_, "create") => {
            let made = expect(cell.api.post(&collection(cell.resource), &review(cell.resource)).await, 201)?;
            answered(cell, &made)
        }
        (_, "create as protobuf") => {
            let body = protobuf::encode(&review(cell.resource)).map_err(|error| error.to_string())?;
            let headers = [("content-type", PROTOBUF), ("accept", PROTOBUF)];
            let uri = collection(cell.resource);
            let made = decoded(&cell.api.send(Method::POST, &uri, &headers, body).await, 201)?;
            answered(cell, &made)
        }
        (_, "create as yaml") => {
            let body = yaml::text(&review(cell.resource)).into_bytes();
            let headers = [("content-type", YAML)];
            let uri = collection(cell.resource);
            let made = expect(cell.api.send(Method::POST, &uri, &headers, body).await, 201)?;
            answered(cell, &made)
        }
        (_, "create dry run") => {
            let uri = format!("{}?dryRun=All", collection(cell.resource));
            let made = expect(cell.api.post(&uri, &review(cell.resource)).await, 201)?;
            answered(cell, &made)
        }
        (_, "get" | "get in every form") => {
            let missing = cell.api.get(&format!("{}/missing", collection(cell.resource))).await;
            let status = expect(missing, 404)?;
            ensure!(status["details"]["kind"] == cell.resource.plural, "{status}");
            Ok(())
        }
        (_, "list") => {
            let list = expect(cell.api.get(&collection(cell.resource)).await, 200)?;
            ensure!(list["kind"] == cell.resource.list_kind, "it is a {}", list["kind"]);
            ensure!(list["items"] == json!([]), "{list}");
            Ok(())
        }
        (_, "list in every form") => {
            let uri = collection(cell.resource);
            check_table(&expect(cell.api.get_as(&uri, TABLE).await, 200)?, &[])?;
            let message = decoded(&cell.api.get_as(&uri, PROTOBUF).await, 200)?;
            ensure!(message["kind"] == cell.resource.list_kind, "{message}");
            Ok(())
        }
        _ => Err("no test drives this cell".into()),
    }
}

fn answered(cell: &Cell<'_>, made: &Value) -> Outcome {
    ensure!(made["kind"] == cell.resource.kind, "it is a {}", made["kind"]);
    ensure!(
        made["status"].as_object().is_some_and(|status| !status.is_empty()),
        "there is no answer: {made}"
    );
    Ok(())
}

fn review(resource: &Resource) -> Value {
    let what = json!({"verb": "get", "resource": "pods", "namespace": NAMESPACE});
    let spec = match resource.plural {
        "selfsubjectreviews" => Value::Null,
        "tokenreviews" => json!({"token": "nobody"}),
        "selfsubjectaccessreviews" => json!({"resourceAttributes": what}),
        "selfsubjectrulesreviews" => json!({"namespace": NAMESPACE}),
        "subjectaccessreviews" | "localsubjectaccessreviews" => {
            json!({"user": "jane", "resourceAttributes": what})
        }
        other => panic!("no sample of {other}"),
    };
    let mut review = json!({"apiVersion": resource.api_version(), "kind": resource.kind, "metadata": {}});
    if !spec.is_null() {
        review["spec"] = spec;
    }
    review
}

/// The old way to put a pod on a node.
async fn bind(cell: &Cell<'_>) -> Outcome {
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": cell.name},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]},
    });
    expect(cell.api.post(&pods, &pod).await, 201)?;
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": cell.name}, "target": {"kind": "Node", "name": "n"},
    });
    let uri = collection(cell.resource);
    let (uri, headers, body) = match cell.action {
        "create" => (uri, vec![], binding.to_string().into_bytes()),
        "create as protobuf" => {
            let body = protobuf::encode(&binding).map_err(|error| error.to_string())?;
            (uri, vec![("content-type", PROTOBUF)], body)
        }
        "create as yaml" => (uri, vec![("content-type", YAML)], yaml::text(&binding).into_bytes()),
        "create dry run" => (format!("{uri}?dryRun=All"), vec![], binding.to_string().into_bytes()),
        _ => return Err("no test drives this cell".into()),
    };
    let done = expect(cell.api.send(Method::POST, &uri, &headers, body).await, 201)?;
    ensure!(done["status"] == "Success", "{done}");
    let bound = expect(cell.api.get(&format!("{pods}/{}", cell.name)).await, 200)?;
    let tried = cell.action == "create dry run";
    ensure!(bound["spec"]["nodeName"].is_null() == tried, "{bound}");
    expect(cell.api.delete(&format!("{pods}/{}", cell.name), &json!({"gracePeriodSeconds": 0})).await, 200)
        .map(drop)
}
