//! Objects: verbs, defaults, pruning, strictness, validation, selectors, Tables, versions.

use serde_json::{Value, json};

use super::api::{Api, DEFINITIONS};
use super::manifests::{certificate, certificates, classes, route, routes};

const CERTIFICATES: &str = "/apis/certs.example.com/v1/namespaces/default/certificates";
const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes";
const OLD_ROUTES: &str = "/apis/gateway.networking.k8s.io/v1beta1/namespaces/default/httproutes";
const CLASSES: &str = "/apis/example.com/v1alpha1/classes";

async fn api() -> Api {
    let api = Api::new().await;
    api.define(&[certificates(), routes(), classes()]).await;
    api
}

#[tokio::test]
async fn objects_come_and_go() {
    let api = api().await;
    let made = api.post(CERTIFICATES, &certificate("a")).await.ok();
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["spec"]["isCA"], false);
    assert_eq!(made["spec"]["privateKey"], json!({"algorithm": "RSA"}), "defaults within a default");
    assert_eq!(made["spec"]["issuerRef"]["kind"], "Issuer");
    assert_eq!(api.post(CERTIFICATES, &certificate("a")).await.code, 409);
    assert_eq!(api.get(&format!("{CERTIFICATES}/a")).await.ok(), made);
    let list = api.get("/apis/certs.example.com/v1/certificates").await.ok();
    assert_eq!(list["items"][0]["kind"], "Certificate", "items say what they are");
    let mut changed = made.clone();
    changed["spec"]["secretName"] = "other".into();
    let changed = api.put(&format!("{CERTIFICATES}/a"), &changed).await.ok();
    assert_eq!(changed["metadata"]["generation"], 2);
    let mut unconditional = made;
    unconditional["metadata"]["resourceVersion"] = Value::Null;
    let causes = api.put(&format!("{CERTIFICATES}/a"), &unconditional).await.causes();
    assert_eq!(causes[0][0], "metadata.resourceVersion");
    let gone = api.delete(&format!("{CERTIFICATES}/a")).await.ok();
    assert_eq!((&gone["status"], &gone["details"]["kind"]), (&"Success".into(), &"certificates".into()));
    assert_eq!(api.get(&format!("{CERTIFICATES}/a")).await.code, 404);
    for name in ["x", "y"] {
        api.post(CERTIFICATES, &certificate(name)).await.ok();
    }
    api.delete(CERTIFICATES).await.ok();
    assert_eq!(api.get(CERTIFICATES).await.ok()["items"], json!([]));
    let mut elsewhere = certificate("a");
    elsewhere["metadata"]["namespace"] = "nowhere".into();
    let uri = "/apis/certs.example.com/v1/namespaces/nowhere/certificates";
    assert_eq!(api.post(uri, &elsewhere).await.code, 404, "the namespace must be there");
    let dry = api.post(&format!("{CERTIFICATES}?dryRun=All"), &certificate("dry")).await.ok();
    assert!(dry["metadata"]["uid"].is_string());
    assert_eq!(api.get(&format!("{CERTIFICATES}/dry")).await.code, 404);
}

#[tokio::test]
async fn values_are_judged_with_exact_causes() {
    let api = api().await;
    let mut bad = certificate("a");
    bad["spec"] = json!({
        "secretName": "", "dnsNames": ["a", "b", "a"], "usages": ["any"], "revisionHistoryLimit": 0, "isCA": "yes",
        "keystores": {"jks": {}, "pkcs12": {}}, "secretTemplate": {"labels": {"k": 1}},
    });
    let reply = api.post(CERTIFICATES, &bad).await;
    let expected = [
        [
            "spec.isCA",
            "FieldValueTypeInvalid",
            "Invalid value: \"string\": spec.isCA in body must be of type boolean: \"string\"",
        ],
        [
            "<nil>",
            "FieldValueInvalid",
            "Invalid value: \"\": \"spec.keystores\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
        ],
        [
            "spec.revisionHistoryLimit",
            "FieldValueInvalid",
            "Invalid value: 0: spec.revisionHistoryLimit in body should be greater than or equal to 1",
        ],
        [
            "spec.secretName",
            "FieldValueInvalid",
            "Invalid value: \"\": spec.secretName in body should be at least 1 chars long",
        ],
        [
            "spec.secretTemplate.labels.k",
            "FieldValueTypeInvalid",
            "Invalid value: \"integer\": spec.secretTemplate.labels.k in body must be of type string: \"integer\"",
        ],
        [
            "spec.usages[0]",
            "FieldValueNotSupported",
            "Unsupported value: \"any\": supported values: \"server auth\", \"client auth\"",
        ],
        ["spec.issuerRef", "FieldValueRequired", "Required value"],
        ["spec.dnsNames[2]", "FieldValueDuplicate", "Duplicate value: \"a\""],
    ];
    let mut expected = expected.map(|cause| cause.map(str::to_owned)).to_vec();
    let mut causes = reply.causes();
    expected.sort();
    causes.sort();
    assert_eq!(causes, expected);
    let status = reply.json();
    assert_eq!(
        (&status["details"]["group"], &status["details"]["kind"]),
        (&"certs.example.com".into(), &"Certificate".into())
    );
    let uri = "/apis/certs.example.com/v1/namespaces/default/certificates";
    let wrong = json!({"apiVersion": "certs.example.com/v1", "kind": "Issuer", "metadata": {"name": "a"}});
    assert_eq!(api.post(uri, &wrong).await.code, 400);
}

#[tokio::test]
async fn unknown_fields_are_dropped_told_or_refused() {
    let api = api().await;
    let mut object = certificate("a");
    object["spec"]["typo"] = 1.into();
    object["spec"]["solver"] = json!({"any": {"thing": [1]}});
    object["metadata"]["strange"] = "x".into();
    let (code, message) =
        api.post(&format!("{CERTIFICATES}?fieldValidation=Strict"), &object).await.failure();
    assert_eq!(code, 400);
    for part in ["strict decoding error", "unknown field \"spec.typo\"", "unknown field \"metadata.strange\""]
    {
        assert!(message.contains(part), "{message}");
    }
    let warned = api.post(CERTIFICATES, &object).await;
    let warnings: Vec<&str> =
        warned.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
    assert!(warnings.iter().any(|text| text.contains("unknown field \\\"spec.typo\\\"")), "{warnings:?}");
    let made = warned.ok();
    assert!(made["spec"].get("typo").is_none());
    assert_eq!(made["spec"]["solver"], json!({"any": {"thing": [1]}}));
    let mut changed = made.clone();
    changed["spec"]["typo"] = 2.into();
    let silent = api.put(&format!("{CERTIFICATES}/a?fieldValidation=Ignore"), &changed).await;
    assert!(silent.headers.get("warning").is_none());
    let twice = br#"{"apiVersion":"certs.example.com/v1","kind":"Certificate","metadata":{"name":"d"},
        "spec":{"secretName":"a","secretName":"b","issuerRef":{"name":"ca"}}}"#;
    let uri = format!("{CERTIFICATES}?fieldValidation=Strict");
    let (_, message) = api.send(http::Method::POST, &uri, &[], twice.to_vec()).await.failure();
    assert!(message.contains("duplicate field \"spec.secretName\""), "{message}");
    let mut broken = certificate("b");
    broken["metadata"]["labels"] = json!({"a": 1});
    assert_eq!(api.post(CERTIFICATES, &broken).await.code, 400, "metadata is typed");
    let yaml = "apiVersion: certs.example.com/v1\nkind: Certificate\nmetadata: {name: typed}\nspec: {secretName: s, issuerRef: {name: ca}}\n";
    let typed = [("content-type", "application/yaml")];
    api.send(http::Method::POST, CERTIFICATES, &typed, yaml.into()).await.ok();
    let protobuf = [("content-type", "application/vnd.kubernetes.protobuf")];
    assert_eq!(api.send(http::Method::POST, CERTIFICATES, &protobuf, b"k8s\0".to_vec()).await.code, 415);
}

#[tokio::test]
async fn selectors_and_watches() {
    let api = api().await;
    let mut other = certificate("b");
    other["spec"]["issuerRef"]["name"] = "acme".into();
    other["metadata"]["labels"] = json!({"on": "yes"});
    api.post(CERTIFICATES, &certificate("a")).await.ok();
    api.post(CERTIFICATES, &other).await.ok();
    for selector in [
        "fieldSelector=spec.issuerRef.name%3Dacme",
        "labelSelector=on%3Dyes",
        "fieldSelector=metadata.name%3Db",
    ] {
        let list = api.get(&format!("{CERTIFICATES}?{selector}")).await.ok();
        let names: Vec<&Value> =
            list["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
        assert_eq!(names, ["b"], "{selector}");
    }
    assert_eq!(api.get(&format!("{CERTIFICATES}?fieldSelector=spec.secretName%3Dtls")).await.code, 400);
    let mut watch =
        api.watch(&format!("{CERTIFICATES}?watch=true&fieldSelector=spec.issuerRef.name%3Dacme")).await;
    assert_eq!(watch.kinds(1).await, ["ADDED b"]);
    let issuer = |name: &str| json!({"spec": {"issuerRef": {"name": name}}});
    api.patch("merge-patch+json", &format!("{CERTIFICATES}/a"), &issuer("acme")).await.ok();
    api.patch("merge-patch+json", &format!("{CERTIFICATES}/b"), &issuer("ca")).await.ok();
    assert_eq!(watch.kinds(2).await, ["ADDED a", "DELETED b"]);
    let bookmarked =
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut listed = api.watch(&format!("{CERTIFICATES}?{bookmarked}")).await;
    assert_eq!(listed.kinds(2).await, ["ADDED a", "ADDED b"]);
    let end = listed.next().await.unwrap();
    assert_eq!((&end["type"], &end["object"]["kind"]), (&"BOOKMARK".into(), &"Certificate".into()));
}

#[tokio::test]
async fn tables_have_the_columns_of_the_definition() {
    let api = api().await;
    api.post(CERTIFICATES, &certificate("a")).await.ok();
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    api.patch("merge-patch+json", &format!("{CERTIFICATES}/a/status"), &ready).await.ok();
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    for uri in [CERTIFICATES.to_owned(), format!("{CERTIFICATES}/a")] {
        let got = api.get_as(&uri, table).await.ok();
        let names: Vec<&Value> =
            got["columnDefinitions"].as_array().unwrap().iter().map(|column| &column["name"]).collect();
        assert_eq!(names, ["Name", "Ready", "Secret", "Issuer", "Age"]);
        let cells = got["rows"][0]["cells"].as_array().unwrap();
        assert_eq!(cells[..4], [json!("a"), json!("True"), json!("tls"), json!("ca")]);
        assert!(cells[4].as_str().unwrap().ends_with('s'), "{cells:?}");
    }
    api.post(
        CLASSES,
        &json!({"apiVersion": "example.com/v1alpha1", "kind": "Class", "metadata": {"name": "c"}}),
    )
    .await
    .ok();
    let got = api.get_as(CLASSES, table).await.ok();
    assert_eq!(got["columnDefinitions"][1]["name"], "Age");
    let metadata = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    assert_eq!(api.get_as(CERTIFICATES, metadata).await.ok()["items"][0]["metadata"]["name"], "a");
}

#[tokio::test]
async fn versions_are_the_same_objects() {
    let api = api().await;
    let mut old = route("r");
    old["apiVersion"] = "gateway.networking.k8s.io/v1beta1".into();
    let reply = api.post(OLD_ROUTES, &old).await;
    assert!(reply.headers["warning"].to_str().unwrap().contains("is deprecated"));
    assert_eq!(reply.ok()["apiVersion"], "gateway.networking.k8s.io/v1beta1");
    let new = api.get(&format!("{ROUTES}/r")).await.ok();
    assert_eq!(new["apiVersion"], "gateway.networking.k8s.io/v1");
    let mut watch = api.watch(&format!("{OLD_ROUTES}?watch=true")).await;
    let event = watch.next().await.unwrap();
    assert_eq!(event["object"]["apiVersion"], "gateway.networking.k8s.io/v1beta1");
    assert_eq!(api.get(OLD_ROUTES).await.ok()["items"][0]["apiVersion"], "gateway.networking.k8s.io/v1beta1");

    // Another storage version: what is stored already is still read, in both.
    let uri = format!("{DEFINITIONS}/httproutes.gateway.networking.k8s.io");
    let mut definition = api.get(&uri).await.ok();
    definition["spec"]["versions"][0]["storage"] = true.into();
    definition["spec"]["versions"][1]["storage"] = false.into();
    let spec = &mut definition["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    spec["added"] = json!({"type": "string", "default": "later"});
    spec.as_object_mut().unwrap().remove("hostnames");
    api.put(&uri, &definition).await.ok();
    assert!(watch.next().await.is_none(), "watches begin anew with another definition");
    let now = api.get(&format!("{ROUTES}/r")).await.ok();
    assert_eq!(now["spec"]["added"], "later", "defaults reach what was stored before");
    assert!(now["spec"].get("hostnames").is_none(), "and what is no longer known is pruned");
    assert_eq!(api.get(ROUTES).await.ok()["items"][0]["spec"]["added"], "later");
    let old = api.get(&format!("{OLD_ROUTES}/r")).await.ok();
    assert_eq!(old["spec"]["hostnames"], json!(["a.example"]));
    let patched =
        api.patch("merge-patch+json", &format!("{ROUTES}/r"), &json!({"spec": {"replicas": 2}})).await.ok();
    assert_eq!(
        (&patched["apiVersion"], &patched["spec"]["replicas"]),
        (&"gateway.networking.k8s.io/v1".into(), &2.into())
    );
    let api = api.restart().await;
    assert_eq!(api.get(&format!("{OLD_ROUTES}/r")).await.ok()["spec"]["replicas"], 2);
}

#[tokio::test]
async fn cluster_wide_ones_and_objects_inside() {
    let api = api().await;
    let class = |template: Value| json!({"apiVersion": "example.com/v1alpha1", "kind": "Class", "metadata": {"name": "c"}, "template": template});
    let causes = api.post(CLASSES, &class(json!({"spec": {}}))).await.causes();
    let fields: Vec<&str> = causes.iter().map(|cause| cause[0].as_str()).collect();
    assert_eq!(fields, ["template.apiVersion", "template.kind"]);
    let template = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "b"}, "odd": 1}, "spec": {"x": 1}});
    let (_, message) =
        api.post(&format!("{CLASSES}?fieldValidation=Strict"), &class(template.clone())).await.failure();
    assert!(message.contains("unknown field \"template.metadata.odd\""), "{message}");
    let made = api.post(CLASSES, &class(template)).await.ok();
    assert_eq!(
        made["template"],
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "b"}}, "spec": {"x": 1}})
    );
    // Without a status subresource the status is a field like any other.
    let mut with_status = made.clone();
    with_status["status"] = json!({"seen": true});
    let changed = api.put(&format!("{CLASSES}/c"), &with_status).await.ok();
    assert_eq!((&changed["status"]["seen"], &changed["metadata"]["generation"]), (&true.into(), &2.into()));
    assert_eq!(api.get(&format!("{CLASSES}/c/status")).await.code, 404);
    assert_eq!(api.get("/apis/example.com/v1alpha1/namespaces/default/classes").await.code, 404);
}

#[tokio::test]
async fn roles_decide_who_may() {
    let mut api = api().await;
    api.post(CERTIFICATES, &certificate("a")).await.ok();
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
        "rules": [{"apiGroups": ["certs.example.com"], "resources": ["certificates"], "verbs": ["get"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
    });
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    api.post(&format!("{roles}/roles"), &role).await.ok();
    api.post(&format!("{roles}/rolebindings"), &binding).await.ok();
    api.user = catamaran_server::UserInfo::new("jane", &["system:authenticated"]);
    api.get(&format!("{CERTIFICATES}/a")).await.ok();
    assert_eq!(api.get(CERTIFICATES).await.code, 403);
    assert_eq!(api.get("/apis/certs.example.com/v1/nonsense").await.code, 403);
}
