//! A `kube::Client` over the server in the same process, without a socket: the way of every component.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use catamaran_server::{Server, ServerConfig, UserInfo};
use catamaran_store::MemoryStore;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;

async fn client() -> (Client, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(ServerConfig::new(dir.path()), Arc::new(MemoryStore::new())).unwrap();
    server.bootstrap().await.unwrap();
    let user = UserInfo::component("system:kube-controller-manager");
    (Client::new(server.service(user), "default"), dir)
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"a": "b"}})).unwrap()
}

#[tokio::test]
async fn typed_verbs() {
    let (client, _dir) = client().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let made = maps.create(&PostParams::default(), &map("a")).await.unwrap();
    assert!(made.uid().is_some());
    let patch = Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"c": "d"}}));
    let patched = maps.patch("a", &PatchParams::apply("test"), &patch).await.unwrap();
    assert_eq!(patched.data.unwrap().len(), 2);
    assert_eq!(maps.list(&ListParams::default()).await.unwrap().items.len(), 1);
    assert!(matches!(maps.get("b").await, Err(kube::Error::Api(status)) if status.code == 404));
    let version = client.apiserver_version().await.unwrap();
    assert_eq!(version.minor, "33");
}

#[tokio::test]
async fn watchers_list_and_follow_both_ways() {
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let (client, _dir) = client().await;
        let maps: Api<ConfigMap> = Api::all(client.clone());
        let own: Api<ConfigMap> = Api::default_namespaced(client);
        own.create(&PostParams::default(), &map("a")).await.unwrap();
        // The cluster has maps of its own.
        let config = config.fields("metadata.namespace=default");
        let mut seen = watcher(maps, config).applied_objects().boxed();
        let next = async |seen: &mut futures::stream::BoxStream<'_, _>| {
            tokio::time::timeout(Duration::from_secs(5), seen.try_next()).await.unwrap().unwrap().unwrap()
        };
        let first: ConfigMap = next(&mut seen).await;
        assert_eq!(first.name_any(), "a");
        own.create(&PostParams::default(), &map("b")).await.unwrap();
        let second: ConfigMap = next(&mut seen).await;
        assert_eq!(second.name_any(), "b");
    }
}
