//! ResourceQuotas: what is used is counted as objects come and go.

use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::world::{World, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn use_is_counted() {
    let world = World::new().await;
    let quotas: Api<ResourceQuota> = Api::namespaced(world.client(), "default");
    let pods: Api<Pod> = Api::namespaced(world.client(), "default");
    let maps: Api<ConfigMap> = Api::namespaced(world.client(), "default");
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "one"}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    let hard = json!({"pods": "5", "requests.cpu": "1", "memory": "1Gi", "count/configmaps": "9", "count/jobs.batch": "1"});
    let quota = json!({"metadata": {"name": "all"}, "spec": {"hard": hard}});
    quotas.create(&PostParams::default(), &serde_json::from_value(quota).unwrap()).await.unwrap();
    let is_used = |expected: Value| {
        let quotas = &quotas;
        async move {
            let status = quotas.get("all").await.unwrap().status.unwrap_or_default();
            status.hard.is_some() && serde_json::to_value(status.used).unwrap() == expected
        }
    };
    // Two: ours, and the authority of the cluster.
    let used = |pods: &str, cpu: &str, memory: &str| json!({"pods": pods, "requests.cpu": cpu, "memory": memory, "count/configmaps": "2", "count/jobs.batch": "0"});
    wait_until("what is there is counted", || is_used(used("0", "0", "0"))).await;
    for name in ["a", "b"] {
        let resources = json!({"requests": {"cpu": "250m", "memory": "64Mi"}});
        let pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i:1", "resources": resources}]}});
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }
    wait_until("two pods are counted", || is_used(used("2", "500m", "128Mi"))).await;
    let ended = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    pods.patch_status("a", &PatchParams::default(), &ended).await.unwrap();
    wait_until("one that has ended is not", || is_used(used("1", "250m", "64Mi"))).await;
    pods.delete("b", &DeleteParams::default()).await.unwrap();
    wait_until("one that is gone neither", || is_used(used("0", "0", "0"))).await;
    world.stop().await;
}
