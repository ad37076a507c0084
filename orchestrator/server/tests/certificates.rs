//! CertificateSigningRequests over HTTP: what the server writes into them, who may approve and sign.

#![allow(clippy::unwrap_used)]

mod world;

use base64::{Engine, prelude::BASE64_STANDARD};
use catamaran_server::{Order, RequestSubject, UserInfo};
use serde_json::{Value, json};
use world::World;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn pem(user: &str, group: &str) -> String {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, user);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
    params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn request(name: &str, pem: &str, signer: &str) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {
            "request": BASE64_STANDARD.encode(pem), "signerName": signer, "usages": ["client auth"],
            "username": "somebody else", "groups": ["system:masters"],
        },
    })
}

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "Test", "message": "m"})
}

#[tokio::test]
async fn who_asks_is_written_by_the_server() {
    let world = World::new().await;
    world.trust("jane").await;
    let mut jane = UserInfo::new("jane", &["dev"]);
    jane.uid = Some("u1".to_owned());
    jane.extra.insert("a".to_owned(), vec!["b".to_owned()]);
    let made =
        world.ask(&jane, &format!("POST {REQUESTS}"), &request("r", &pem("jane", "dev"), CLIENT)).await.ok();
    let spec = &made["spec"];
    assert_eq!((&spec["username"], &spec["uid"]), (&json!("jane"), &json!("u1")));
    assert_eq!(spec["groups"], json!(["dev", "system:authenticated"]));
    assert_eq!(spec["extra"], json!({"a": ["b"]}));
    let changed = json!({"spec": {"signerName": "example.com/other", "username": "joe"}});
    let after = world.must(&format!("PATCH {REQUESTS}/r"), changed).await;
    assert_eq!(after["spec"], made["spec"], "what was asked for stays");

    let table = [
        (request("m", &pem("jane", "system:masters"), CLIENT), 403, "system:masters group is not allowed"),
        (request("m", "hello", CLIENT), 422, "PEM block type must be CERTIFICATE REQUEST"),
        (
            request("m", &pem("a", "b"), "kubernetes.io/legacy-unknown"),
            422,
            "legacy signerName is not allowed",
        ),
        (request("m", &pem("a", "b"), "one-word"), 422, "must be a fully qualified domain"),
    ];
    for (object, code, expected) in table {
        let message = world.ask(&jane, &format!("POST {REQUESTS}"), &object).await.refused(code);
        assert!(message.contains(expected), "{message}");
    }
}

/// Rights on the subresource are not enough: the signer counts, by its name or by all names of its domain.
#[tokio::test]
async fn approving_and_signing_need_a_right_on_the_signer() {
    let world = World::new().await;
    let grant = async |user: &str, rules: Value| {
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": user}, "rules": rules,
        });
        world.must("POST /apis/rbac.authorization.k8s.io/v1/clusterroles", role).await;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        });
        world.must("POST /apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    };
    let parts = json!({
        "apiGroups": ["certificates.k8s.io"], "verbs": ["get", "update", "patch"],
        "resources": ["certificatesigningrequests", "certificatesigningrequests/approval", "certificatesigningrequests/status"],
    });
    let signer = |verb: &str, name: &str| json!({"apiGroups": ["certificates.k8s.io"], "verbs": [verb], "resources": ["signers"], "resourceNames": [name]});
    grant("nobody", json!([parts])).await;
    grant("approver", json!([parts, signer("approve", "kubernetes.io/*")])).await;
    grant("signer", json!([parts, signer("sign", CLIENT)])).await;
    let user = |name: &str| UserInfo::new(name, &[]);
    world.must(&format!("POST {REQUESTS}"), request("r", &pem("jane", "dev"), CLIENT)).await;

    let approve = json!({"status": {"conditions": [condition("Approved")]}});
    let line = format!("PATCH {REQUESTS}/r/approval");
    for name in ["nobody", "signer"] {
        let message = world.ask(&user(name), &line, &approve).await.refused(403);
        assert!(
            message.contains(&format!("not permitted to approve requests with signerName \"{CLIENT}\"")),
            "{message}"
        );
    }
    let both = json!({"status": {"conditions": [condition("Approved"), condition("Denied")]}});
    let message = world.ask(&user("approver"), &line, &both).await.refused(422);
    assert!(message.contains("mutually exclusive"), "{message}");
    let sneaky = json!({"status": {"conditions": [condition("Approved")], "certificate": "AAAA"}});
    let approved = world.ask(&user("approver"), &line, &sneaky).await.ok();
    assert!(approved["status"]["certificate"].is_null(), "approving sets no certificate");
    let times = &approved["status"]["conditions"][0];
    assert!(times["lastUpdateTime"].is_string() && times["lastTransitionTime"].is_string(), "{times}");
    let taken =
        world.ask(&user("approver"), &line, &json!({"status": {"conditions": []}})).await.refused(422);
    assert!(taken.contains("may not remove a condition of type \"Approved\""), "{taken}");

    let usages = ["client auth".to_owned()];
    let lasts = jiff::SignedDuration::from_hours(1);
    let text = pem("jane", "dev");
    let certificate = world.server.sign(&Order { request: text.as_bytes(), usages: &usages, lasts }).unwrap();
    let certificate = json!({"status": {"certificate": BASE64_STANDARD.encode(certificate)}});
    let line = format!("PATCH {REQUESTS}/r/status");
    let message = world.ask(&user("approver"), &line, &certificate).await.refused(403);
    assert!(message.contains("not permitted to sign"), "{message}");
    let bad = json!({"status": {"certificate": BASE64_STANDARD.encode("hello")}});
    world.ask(&user("signer"), &line, &bad).await.refused(422);
    let signed = world.ask(&user("signer"), &line, &certificate).await.ok();
    assert!(signed["status"]["certificate"].is_string());
    assert_eq!(RequestSubject::of(text.as_bytes()).unwrap().common_name, "jane");
}
