//! Patches, server-side apply, and the subresources status and scale.

use serde_json::{Value, json};

use super::api::Api;
use super::manifests::{certificate, certificates, route, routes};

const CERTIFICATES: &str = "/apis/certs.example.com/v1/namespaces/default/certificates";
const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes";

async fn api() -> Api {
    let api = Api::new().await;
    api.define(&[certificates(), routes()]).await;
    api
}

#[tokio::test]
async fn patches() {
    let api = api().await;
    api.post(CERTIFICATES, &certificate("a")).await.ok();
    let uri = format!("{CERTIFICATES}/a");
    let merged =
        api.patch("merge-patch+json", &uri, &json!({"spec": {"dnsNames": ["b"], "isCA": null}})).await.ok();
    assert_eq!(merged["spec"]["dnsNames"], json!(["b"]));
    assert_eq!(merged["spec"]["isCA"], false, "defaults come again");
    let operations = json!([{"op": "add", "path": "/spec/dnsNames/-", "value": "c"}, {"op": "test", "path": "/spec/secretName", "value": "tls"}]);
    let patched = api.patch("json-patch+json", &uri, &operations).await.ok();
    assert_eq!(patched["spec"]["dnsNames"], json!(["b", "c"]));
    let reply = api.patch("strategic-merge-patch+json", &uri, &json!({"spec": {}})).await;
    let (code, message) = reply.failure();
    assert_eq!(code, 415);
    assert_eq!(
        message,
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    );
    let bad = api.patch("merge-patch+json", &uri, &json!({"spec": {"secretName": 5}})).await;
    assert_eq!(bad.causes()[0][0], "spec.secretName");
    let strict = format!("{uri}?fieldValidation=Strict");
    assert_eq!(api.patch("merge-patch+json", &strict, &json!({"spec": {"nope": 5}})).await.code, 400);
    let before = patched["metadata"]["resourceVersion"].clone();
    let same = api.patch("merge-patch+json", &uri, &json!({"spec": {"secretName": "tls"}})).await.ok();
    assert_eq!(same["metadata"]["resourceVersion"], before, "nothing changed, nothing is written");
}

fn applied(dns: Value, conditions: Value) -> Value {
    let mut object = certificate("a");
    object["spec"]["dnsNames"] = dns;
    if !conditions.is_null() {
        object["status"] = json!({"conditions": conditions});
    }
    object
}

#[tokio::test]
async fn apply_knows_sets_and_keyed_lists() {
    let api = api().await;
    let uri = format!("{CERTIFICATES}/a");
    let made = api.apply(&uri, "one", &applied(json!(["a"]), Value::Null)).await;
    assert_eq!(made.code, 201);
    let other =
        json!({"apiVersion": "certs.example.com/v1", "kind": "Certificate", "spec": {"dnsNames": ["b"]}});
    let both = api.apply(&uri, "two", &other).await.ok();
    let mut names: Vec<&str> =
        both["spec"]["dnsNames"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b"], "members of a set are owned one by one");
    let conflict =
        json!({"apiVersion": "certs.example.com/v1", "kind": "Certificate", "spec": {"secretName": "mine"}});
    let reply = api.apply(&uri, "two", &conflict).await;
    let (code, message) = reply.failure();
    assert_eq!(code, 409);
    assert!(message.contains("conflict with \"one\": .spec.secretName"), "{message}");
    let less = api.apply(&uri, "one", &applied(json!([]), Value::Null)).await.ok();
    assert_eq!(less["spec"]["dnsNames"], json!(["b"]), "what the applier leaves out goes");

    let status = format!("{uri}/status");
    let condition = |kind: &str, state: &str| {
        json!({"apiVersion": "certs.example.com/v1", "kind": "Certificate",
            "status": {"conditions": [{"type": kind, "status": state}]}})
    };
    api.apply(&status, "three", &condition("Ready", "False")).await.ok();
    let two = api.apply(&status, "four", &condition("Issuing", "True")).await.ok();
    assert_eq!(two["status"]["conditions"].as_array().unwrap().len(), 2, "items with other keys are others");
    assert_eq!(two["metadata"]["generation"], less["metadata"]["generation"]);
    let unchanged = api.apply(&status, "four", &condition("Issuing", "True")).await.ok();
    assert_eq!(unchanged["metadata"]["resourceVersion"], two["metadata"]["resourceVersion"]);
    let managers: Vec<&Value> = unchanged["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["manager"])
        .collect();
    for manager in ["one", "three", "four"] {
        assert!(managers.contains(&&Value::from(manager)), "{managers:?}");
    }
    let unknown =
        json!({"apiVersion": "certs.example.com/v1", "kind": "Certificate", "spec": {"unheard": 1}});
    let strict = format!("{uri}?fieldManager=one&fieldValidation=Strict");
    assert_eq!(api.patch("apply-patch+yaml", &strict, &unknown).await.code, 400);
}

#[tokio::test]
async fn status_is_written_by_itself() {
    let api = api().await;
    let mut object = certificate("a");
    object["status"] = json!({"revision": 7});
    let made = api.post(CERTIFICATES, &object).await.ok();
    assert!(made.get("status").is_none());
    let uri = format!("{CERTIFICATES}/a");
    let mut wanted = made.clone();
    wanted["status"] = json!({"revision": 1, "typo": 1});
    wanted["spec"]["secretName"] = "ignored".into();
    wanted["metadata"]["labels"] = json!({"also": "ignored"});
    let written = api.put(&format!("{uri}/status"), &wanted).await.ok();
    assert_eq!(written["status"], json!({"revision": 1}));
    assert_eq!(written["spec"]["secretName"], "tls");
    assert!(written["metadata"].get("labels").is_none());
    assert_eq!(written["metadata"]["generation"], 1);
    let mut main = written.clone();
    main["status"] = json!({"revision": 9});
    main["spec"]["secretName"] = "new".into();
    let main = api.put(&uri, &main).await.ok();
    assert_eq!((&main["status"]["revision"], &main["metadata"]["generation"]), (&1.into(), &2.into()));
    let bad = json!({"status": {"conditions": [{"type": "Ready", "status": "Maybe"}]}});
    let causes = api.patch("merge-patch+json", &format!("{uri}/status"), &bad).await.causes();
    assert_eq!(causes[0][0], "status.conditions[0].status");
    let got = api.get(&format!("{uri}/status")).await.ok();
    assert_eq!(got["kind"], "Certificate");
}

#[tokio::test]
async fn scale_reads_and_writes_where_the_definition_says() {
    let api = api().await;
    let mut object = route("r");
    object["spec"]["replicas"] = 3.into();
    let made = api.post(ROUTES, &object).await.ok();
    let uri = format!("{ROUTES}/r");
    let status = json!({"status": {"replicas": 2, "selector": "app=web"}});
    api.patch("merge-patch+json", &format!("{uri}/status"), &status).await.ok();
    let scale = api.get(&format!("{uri}/scale")).await.ok();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&"Scale".into(), &3.into()));
    assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=web"}));
    assert_eq!(scale["metadata"]["uid"], made["metadata"]["uid"]);
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = 5.into();
    assert_eq!(api.put(&format!("{uri}/scale"), &wanted).await.ok()["spec"]["replicas"], 5);
    assert_eq!(api.put(&format!("{uri}/scale"), &scale).await.code, 409, "an old one conflicts");
    let patched =
        api.patch("merge-patch+json", &format!("{uri}/scale"), &json!({"spec": {"replicas": 1}})).await.ok();
    assert_eq!(patched["spec"]["replicas"], 1);
    let now = api.get(&uri).await.ok();
    assert_eq!((&now["spec"]["replicas"], &now["metadata"]["generation"]), (&1.into(), &3.into()));
    let negative =
        api.patch("merge-patch+json", &format!("{uri}/scale"), &json!({"spec": {"replicas": -1}})).await;
    assert_eq!(negative.code, 422);
    assert_eq!(api.get(&format!("{CERTIFICATES}/a/scale")).await.code, 404);
}

#[tokio::test]
async fn finalizers_hold_objects() {
    let api = api().await;
    let mut object = certificate("a");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.post(CERTIFICATES, &object).await.ok();
    let uri = format!("{CERTIFICATES}/a");
    let waits = api.delete(&uri).await.ok();
    assert!(waits["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(waits["metadata"]["generation"], 2);
    let more = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    assert_eq!(api.patch("merge-patch+json", &uri, &more).await.code, 422);
    api.patch("merge-patch+json", &uri, &json!({"metadata": {"finalizers": null}})).await.ok();
    assert_eq!(api.get(&uri).await.code, 404);
}
