//! Secrets encrypted at rest: clients notice nothing, the store has no plain text, keys are rotated by a restart.

#![allow(clippy::unwrap_used)]

mod world;

use std::sync::Arc;

use catamaran_server::{Server, ServerConfig};
use catamaran_store::{MemoryStore, Store};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use world::World;

const KEY: &str = "/registry/core/secrets/default/s";

fn file(names: &[&str]) -> String {
    let keys: Vec<Value> = names
        .iter()
        .map(|name| json!({"name": name, "secret": if *name == "one" { "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=" } else { "YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI=" }}))
        .collect();
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [{"secretbox": {"keys": keys}}, {"identity": {}}]}],
    })
    .to_string()
}

/// A server over the same store with these keys, the first of which writes.
async fn start(store: &Arc<MemoryStore>, names: &[&str]) -> World {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    std::fs::write(&path, file(names)).unwrap();
    let mut config = ServerConfig::new(dir.path());
    if !names.is_empty() {
        config.encryption = Some(path);
    }
    let server = Server::new(config, store.clone()).unwrap();
    server.bootstrap().await.unwrap();
    World { server, store: store.clone(), dir }
}

async fn raw(store: &MemoryStore) -> String {
    String::from_utf8_lossy(&store.get(KEY).await.unwrap().unwrap().value).into_owned()
}

async fn settles(what: &str, check: impl AsyncFn() -> bool) {
    for _ in 0..200 {
        if check().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

#[tokio::test]
async fn from_plain_text_to_one_key_and_to_another() {
    let store = Arc::new(MemoryStore::new());
    let plain = start(&store, &[]).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "value"}});
    let made = plain.must("POST /api/v1/namespaces/default/secrets", secret).await;
    assert!(raw(&store).await.contains("dmFsdWU="), "plain text without a configuration");

    for (names, expected) in [(&["one"][..], "one"), (&["two", "one"], "two"), (&["two"], "two")] {
        let world = start(&store, names).await;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut config = ServerConfig::new(world.dir.path());
        config.listen.clear();
        config.registry_listen.clear();
        config.encryption = Some(world.dir.path().join("keys.json"));
        let running = Server::new(config, store.clone()).unwrap();
        let running = tokio::spawn(catamaran_server::run(running, stopped));
        let sealed = format!("k8s:enc:secretbox:v1:{expected}:");
        settles("the start encrypts with the first key", async || raw(&store).await.starts_with(&sealed))
            .await;
        stop.send_replace(true);
        running.await.unwrap().unwrap();
        assert!(!raw(&store).await.contains("dmFsdWU="));
        let got = world.must("GET /api/v1/namespaces/default/secrets/s", Value::Null).await;
        assert_eq!((&got["data"], &got["metadata"]["uid"]), (&made["data"], &made["metadata"]["uid"]));
    }
    let without = start(&store, &["one"]).await;
    let failed = without
        .ask(&World::admin(), "GET /api/v1/namespaces/default/secrets/s", &Value::Null)
        .await
        .refused(500);
    assert!(failed.contains("does not have: k8s:enc:secretbox:v1:two"), "{failed}");
    let map = raw_of(&store, "/registry/core/namespaces/default").await;
    assert!(map.starts_with('{'), "only what is named is encrypted");
}

async fn raw_of(store: &MemoryStore, key: &str) -> String {
    String::from_utf8_lossy(&store.get(key).await.unwrap().unwrap().value).into_owned()
}

#[tokio::test]
async fn watches_lists_patches_and_conflicts_are_as_ever() {
    let store = Arc::new(MemoryStore::new());
    let world = start(&store, &["one"]).await;
    let admin = World::admin();
    let response =
        world.open(&admin, "GET /api/v1/secrets?watch=true&resourceVersion=1", &[], Vec::new()).await;
    let mut body = response.into_body();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "labels": {"a": "b"}}, "stringData": {"k": "1"}});
    let made = world.must("POST /api/v1/namespaces/default/secrets", secret.clone()).await;
    world.ask(&admin, "POST /api/v1/namespaces/default/secrets", &secret).await.refused(409);
    let path = "/api/v1/namespaces/default/secrets/s";
    let patched = world.must(&format!("PATCH {path}"), json!({"stringData": {"k": "2"}})).await;
    assert_eq!(patched["data"]["k"], "Mg==");
    let mut stale = made.clone();
    stale["data"] = json!({"k": "Mw=="});
    world.ask(&admin, &format!("PUT {path}"), &stale).await.refused(409);
    let list = world.must("GET /api/v1/secrets?labelSelector=a%3Db", Value::Null).await;
    assert_eq!(list["items"][0]["data"]["k"], "Mg==");
    world.must(&format!("DELETE {path}"), Value::Null).await;
    let mut seen = String::new();
    while seen.lines().count() < 3 || !seen.ends_with('\n') {
        let frame = tokio::time::timeout(std::time::Duration::from_secs(5), body.frame()).await.unwrap();
        seen.push_str(std::str::from_utf8(frame.unwrap().unwrap().data_ref().unwrap()).unwrap());
    }
    let events: Vec<Value> = seen.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = events
        .iter()
        .map(|e| (e["type"].as_str().unwrap(), e["object"]["data"]["k"].as_str().unwrap()))
        .collect();
    assert_eq!(told, [("ADDED", "MQ=="), ("MODIFIED", "Mg=="), ("DELETED", "Mg==")]);
}
