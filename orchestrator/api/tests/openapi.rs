//! The published documents: whole, closed under references, with what kubectl looks for.

use std::collections::BTreeSet;

use catamaran_api::kind;
use catamaran_api::openapi;
use serde_json::{Value, json};

fn document(group: &str, version: &str) -> Value {
    serde_json::from_slice(&openapi::document(group, version).expect("a served group version"))
        .expect("a JSON document")
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            // A field of that name in the schema of schemas is an object.
            if let Some(Value::String(reference)) = fields.get("$ref") {
                found.insert(reference.clone());
            }
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_document_is_closed_under_references_and_has_unique_operations() {
    for group in kind::groups() {
        for version in &group.versions {
            let document = document(group.name, version);
            let schemas = document["components"]["schemas"].as_object().unwrap();
            let mut found = BTreeSet::new();
            references(&document, &mut found);
            for reference in &found {
                let name = reference.strip_prefix("#/components/schemas/").unwrap();
                assert!(schemas.contains_key(name), "{name}");
            }
            let mut ids = BTreeSet::new();
            for (path, item) in document["paths"].as_object().unwrap() {
                for (method, operation) in
                    item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
                {
                    let id = operation["operationId"].as_str().unwrap();
                    assert!(ids.insert(id.to_owned()), "{method} {path}: {id}");
                    assert!(operation["responses"]["200"].is_object(), "{method} {path}");
                }
            }
        }
    }
    assert_eq!(openapi::document("apps", "v1beta1"), None);
}

#[test]
fn a_patch_says_what_kubectl_asks_before_it_applies() {
    let document = document("apps", "v1");
    let item = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    let patch = &item["patch"];
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    assert_eq!(patch["x-kubernetes-action"], "patch");
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "kind": "Deployment", "version": "v1"})
    );
    for media in ["application/apply-patch+yaml", "application/strategic-merge-patch+json"] {
        assert!(patch["requestBody"]["content"][media].is_object());
    }
    let names: Vec<_> =
        patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    let of_path: Vec<_> =
        item["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(of_path, ["name", "namespace", "pretty"]);
}

#[test]
fn schemas_carry_the_extensions() {
    let document = document("", "v1");
    let schemas = &document["components"]["schemas"];
    let pod = &schemas["io.k8s.api.core.v1.Pod"];
    assert_eq!(
        pod["x-kubernetes-group-version-kind"],
        json!([{"group": "", "kind": "Pod", "version": "v1"}])
    );
    let spec = &pod["properties"]["spec"];
    assert_eq!(spec["allOf"], json!([{"$ref": "#/components/schemas/io.k8s.api.core.v1.PodSpec"}]));
    assert_eq!(spec["default"], json!({}));
    assert!(
        spec["description"]
            .as_str()
            .unwrap()
            .starts_with("Specification of the desired behavior of the pod.")
    );
    let ports = &schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"];
    assert_eq!(
        ports["items"],
        json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.ContainerPort"}], "default": {}})
    );
    assert_eq!(ports["x-kubernetes-list-type"], "map");
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
    assert_eq!(ports["x-kubernetes-patch-strategy"], "merge");
    let port = &schemas["io.k8s.api.core.v1.ContainerPort"];
    assert_eq!(port["required"], json!(["containerPort"]));
    assert_eq!(port["properties"]["protocol"]["default"], "TCP");
    assert_eq!(port["properties"]["protocol"]["enum"], json!(["SCTP", "TCP", "UDP"]));
    let annotations =
        &schemas["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]["properties"]["annotations"];
    assert_eq!(annotations["additionalProperties"], json!({"type": "string", "default": ""}));
    assert_eq!(schemas["io.k8s.api.core.v1.ObjectReference"]["x-kubernetes-map-type"], "atomic");
    assert!(schemas["io.k8s.apimachinery.pkg.api.resource.Quantity"]["oneOf"].is_array());
    assert_eq!(schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["format"], "int-or-string");
}

#[test]
fn subresources_have_their_own_kinds() {
    let core = document("", "v1");
    let pod = "/api/v1/namespaces/{namespace}/pods/{name}";
    let eviction = &core["paths"][&format!("{pod}/eviction")]["post"];
    assert_eq!(
        eviction["x-kubernetes-group-version-kind"],
        json!({"group": "policy", "kind": "Eviction", "version": "v1"})
    );
    assert_eq!(core["paths"][&format!("{pod}/exec")]["get"]["x-kubernetes-action"], "connect");
    assert!(
        core["paths"][&format!("{pod}/log")]["get"]["responses"]["200"]["content"]["text/plain"].is_object()
    );
    let apps = document("apps", "v1");
    let scale = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"];
    assert_eq!(
        scale["put"]["requestBody"]["content"]["*/*"]["schema"]["$ref"],
        "#/components/schemas/io.k8s.api.autoscaling.v1.Scale"
    );
    assert_eq!(scale["get"]["operationId"], "readAppsV1NamespacedDeploymentScale");
    // Create-only kinds have no object to read.
    let reviews = document("authorization.k8s.io", "v1");
    let paths = reviews["paths"].as_object().unwrap();
    assert!(
        paths.contains_key("/apis/authorization.k8s.io/v1/namespaces/{namespace}/localsubjectaccessreviews")
    );
    assert!(!paths.keys().any(|path| path.ends_with("{name}")));
}

#[test]
fn the_index_names_each_document_by_its_content() {
    let bytes = openapi::document("apps", "v1").unwrap();
    assert_eq!(bytes, openapi::document("apps", "v1").unwrap());
    let hash = openapi::hash(&bytes);
    let index = openapi::index([("", "v1", "X"), ("apps", "v1", hash.as_str())].into_iter());
    assert_eq!(index["paths"]["api/v1"]["serverRelativeURL"], "/openapi/v3/api/v1?hash=X");
    assert_eq!(
        index["paths"]["apis/apps/v1"]["serverRelativeURL"],
        format!("/openapi/v3/apis/apps/v1?hash={hash}")
    );
}

#[test]
fn the_v2_stub_is_the_same_in_both_encodings() {
    let v2: Value = serde_json::from_slice(&openapi::v2()).unwrap();
    assert_eq!(v2["swagger"], "2.0");
    assert_eq!(&openapi::v2_protobuf()[..], b"\x0a\x032.0\x12\x15\x0a\x0aKubernetes\x12\x07v1.33.0\x42\x00");
}
