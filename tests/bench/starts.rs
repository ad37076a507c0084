//! Create acknowledged → Running seen on a watch, for both kinds, a pod every so often.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use catamaran_tests::cluster::Cluster;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;

const PODS: usize = 200;
const EVERY: Duration = Duration::from_millis(20);

/// Measures both kinds and prints a line for each.
pub(crate) async fn report(cluster: &Cluster) {
    let kubeconfig = Kubeconfig::read_from(cluster.data().join("kubeconfig")).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a usable kubeconfig");
    let pods: Api<Pod> = Api::default_namespaced(Client::try_from(config).expect("a client"));
    for (kind, image) in
        [("wasm", "localhost:5000/hello-wasm:1"), ("container", "localhost:5000/hello-container:1")]
    {
        let took = measure(&pods, kind, image).await;
        println!("create acknowledged to Running seen, {kind}, one each {EVERY:?}: {}", crate::spread(took));
    }
}

async fn measure(pods: &Api<Pod>, kind: &str, image: &str) -> Vec<Duration> {
    let labels = ListParams::default().labels(&format!("bench={kind}"));
    let version = pods.list(&labels).await.expect("a list").metadata.resource_version.unwrap_or_default();
    let selected = WatchParams::default().labels(&format!("bench={kind}"));
    let mut watch = pods.watch(&selected, &version).await.expect("a watch").boxed();
    let seen = tokio::spawn(async move {
        let mut running = HashMap::new();
        while running.len() < PODS
            && let Ok(Some(event)) = watch.try_next().await
        {
            if let WatchEvent::Modified(pod) = event
                && pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
            {
                running.entry(pod.metadata.name.unwrap_or_default()).or_insert_with(Instant::now);
            }
        }
        running
    });
    let mut created = HashMap::new();
    for number in 0..PODS {
        let name = format!("bench-{kind}-{number}");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "labels": { "bench": kind } },
            "spec": { "terminationGracePeriodSeconds": 0, "containers": [{ "name": "c", "image": image }] },
        });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        pods.create(&PostParams::default(), &pod).await.expect("created");
        created.insert(name, Instant::now());
        tokio::time::sleep(EVERY).await;
    }
    let running = tokio::time::timeout(Duration::from_secs(120), seen).await;
    let running = running.expect("all run within two minutes").expect("no panic");
    let delete = DeleteParams::default().grace_period(0);
    pods.delete_collection(&delete, &labels).await.expect("deleted");
    running.iter().map(|(name, at)| at.saturating_duration_since(created[name])).collect()
}
