//! Tokens over HTTP: what they are bound to, audiences, reviews, discovery of the keys, bootstrap tokens.

#![allow(clippy::unwrap_used)]

mod world;

use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use catamaran_server::UserInfo;
use serde_json::{Value, json};
use world::World;

const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/robot";

async fn with_account(world: &World) {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    world.must("POST /api/v1/namespaces/default/serviceaccounts", account).await;
}

fn request(spec: Value) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
}

async fn token(world: &World, spec: Value) -> String {
    let made = world.must(&format!("POST {ACCOUNT}/token"), request(spec)).await;
    made["status"]["token"].as_str().unwrap().to_owned()
}

async fn review(world: &World, token: &str, audiences: Value) -> Value {
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": audiences},
    });
    world.must("POST /apis/authentication.k8s.io/v1/tokenreviews", review).await["status"].clone()
}

async fn is_good(world: &World, token: &str) -> bool {
    review(world, token, Value::Null).await["authenticated"] == true
}

#[tokio::test]
async fn a_token_ends_with_what_it_is_bound_to() {
    let world = World::new().await;
    with_account(&world).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"serviceAccountName": "robot", "containers": [{"name": "a", "image": "a"}]},
    });
    let kinds = [
        ("Secret", "/api/v1/namespaces/default/secrets", secret),
        ("Node", "/api/v1/nodes", node),
        ("Pod", "/api/v1/namespaces/default/pods", pod),
    ];
    for (kind, path, object) in kinds {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let made = world.must(&format!("POST {path}"), object.clone()).await;
        let bound = json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": made["metadata"]["uid"]});
        let token = token(&world, json!({"boundObjectRef": bound})).await;
        let status = review(&world, &token, Value::Null).await;
        assert_eq!(status["authenticated"], true, "{status}");
        if kind != "Secret" {
            let told =
                &status["user"]["extra"][format!("authentication.kubernetes.io/{}-uid", kind.to_lowercase())];
            assert_eq!(told[0], made["metadata"]["uid"], "{status}");
        }
        world.must(&format!("DELETE {path}/{name}"), json!({"gracePeriodSeconds": 0})).await;
        let status = review(&world, &token, Value::Null).await;
        assert_eq!(status["authenticated"], false);
        assert!(status["error"].as_str().unwrap().contains(&kind.to_lowercase()), "{status}");
        world.must(&format!("POST {path}"), object).await;
        assert!(!is_good(&world, &token).await, "another {kind} of the same name");
        let old = json!({"boundObjectRef": bound});
        let message =
            world.ask(&World::admin(), &format!("POST {ACCOUNT}/token"), &request(old)).await.refused(409);
        assert!(message.contains("does not match the UID in record"), "{message}");
    }
    let plain = token(&world, json!({})).await;
    assert!(is_good(&world, &plain).await);
    world.must(&format!("DELETE {ACCOUNT}"), Value::Null).await;
    with_account(&world).await;
    assert!(!is_good(&world, &plain).await, "another account of the same name");
}

#[tokio::test]
async fn audiences_bounds_and_what_is_refused() {
    let world = World::with(|config| config.max_token_seconds = Some(7200)).await;
    with_account(&world).await;
    let token = token(&world, json!({"audiences": ["vault", "other"]})).await;
    let status = review(&world, &token, json!(["x", "vault"])).await;
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["vault"])));
    assert!(!is_good(&world, &token).await, "it is not for the API");

    let path = format!("POST {ACCOUNT}/token");
    let ask = async |spec: Value| world.ask(&World::admin(), &path, &request(spec)).await;
    let long = ask(json!({"expirationSeconds": 10_000})).await;
    assert_eq!(
        long.header("warning"),
        "299 - \"requested expiration of 10000 seconds shortened to 7200 seconds\""
    );
    assert_eq!(long.ok()["spec"]["expirationSeconds"], 7200);
    let table = [
        (json!({"expirationSeconds": 599}), 422, "may not specify a duration less than 10 minutes"),
        (
            json!({"expirationSeconds": 4_294_967_297_i64}),
            422,
            "may not specify a duration larger than 2^32 seconds",
        ),
        (
            json!({"boundObjectRef": {"apiVersion": "v1", "kind": "ConfigMap", "name": "x"}}),
            400,
            "cannot bind token to object of type",
        ),
        (
            json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "x"}}),
            404,
            "pods \"x\" not found",
        ),
    ];
    for (spec, code, expected) in table {
        let message = ask(spec).await.refused(code);
        assert!(message.contains(expected), "{message}");
    }
    let mut named = request(json!({}));
    named["metadata"] = json!({"name": "somebody"});
    world.ask(&World::admin(), &path, &named).await.refused(400);
}

#[tokio::test]
async fn who_checks_tokens_finds_the_keys() {
    let world = World::new().await;
    with_account(&world).await;
    let robot = UserInfo::new("system:serviceaccount:d:any", &["system:serviceaccounts"]);
    let about = world.ask(&robot, "GET /.well-known/openid-configuration", &Value::Null).await;
    assert_eq!(about.header("cache-control"), "public, max-age=3600");
    let about = about.ok();
    let keys = world.ask(&robot, "GET /openid/v1/jwks", &Value::Null).await;
    assert_eq!(keys.header("content-type"), "application/jwk-set+json");
    let keys = keys.ok();
    let jwt = token(&world, json!({})).await;
    let part = |number: usize| -> Value {
        let text = jwt.split('.').nth(number).unwrap();
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
    };
    assert_eq!(part(1)["iss"], about["issuer"]);
    assert_eq!(part(0)["kid"], keys["keys"][0]["kid"]);
    assert!(about["jwks_uri"].as_str().unwrap().ends_with("/openid/v1/jwks"));
    // Whoever has the document alone can check the signature.
    let coordinate =
        |name: &str| BASE64_URL_SAFE_NO_PAD.decode(keys["keys"][0][name].as_str().unwrap()).unwrap();
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let (body, signature) = jwt.rsplit_once('.').unwrap();
    ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point)
        .verify(body.as_bytes(), &BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap())
        .unwrap();
}

#[tokio::test]
async fn bootstrap_tokens() {
    let world = World::new().await;
    let secret = |id: &str, end: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": format!("bootstrap-token-{id}")},
            "stringData": {
                "token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
                "auth-extra-groups": "system:bootstrappers:nodes", "expiration": end,
            },
        })
    };
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    world.must(&format!("POST {secrets}"), secret("abcdef", "2199-01-01T00:00:00Z")).await;
    world.must(&format!("POST {secrets}"), secret("fedcba", "2020-01-01T00:00:00Z")).await;
    let status = review(&world, "abcdef.0123456789abcdef", Value::Null).await;
    assert_eq!(status["user"]["username"], "system:bootstrap:abcdef");
    let groups = json!(["system:bootstrappers", "system:bootstrappers:nodes", "system:authenticated"]);
    assert_eq!(status["user"]["groups"], groups);
    for token in ["fedcba.0123456789abcdef", "abcdef.0123456789abcdee", "aaaaaa.0123456789abcdef"] {
        assert!(!is_good(&world, token).await, "{token}");
    }
    world.must(&format!("DELETE {secrets}/bootstrap-token-abcdef"), Value::Null).await;
    assert!(!is_good(&world, "abcdef.0123456789abcdef").await);
}

#[tokio::test]
async fn a_token_in_a_secret_is_good_as_long_as_the_secret_has_it() {
    let world = World::new().await;
    with_account(&world).await;
    let account = world.must(&format!("GET {ACCOUNT}"), Value::Null).await;
    let uid = account["metadata"]["uid"].as_str().unwrap();
    let token = world.server.legacy_token("default", ("robot", uid), "kept").unwrap();
    assert!(!is_good(&world, &token).await, "the Secret does not have it yet");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "kept", "annotations": {"kubernetes.io/service-account.name": "robot"}},
        "data": {"token": BASE64_STANDARD.encode(&token)},
    });
    world.must("POST /api/v1/namespaces/default/secrets", secret).await;
    let status = review(&world, &token, Value::Null).await;
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot", "{status}");
    assert_eq!(status["user"]["uid"], uid);
    world.must("DELETE /api/v1/namespaces/default/secrets/kept", Value::Null).await;
    assert!(!is_good(&world, &token).await);
}
