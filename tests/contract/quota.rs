//! ResourceQuotas: what is used is counted as objects come and go.

use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
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

/// Many create and delete at once, while the controller counts: there are never more pods than the quota allows, and
/// in the end what is said to be used is used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_past_a_quota() {
    const LIMIT: usize = 5;
    let world = World::new().await;
    let quotas: Api<ResourceQuota> = Api::namespaced(world.client(), "default");
    let pods: Api<Pod> = Api::namespaced(world.client(), "default");
    let quota = json!({"metadata": {"name": "five"}, "spec": {"hard": {"pods": LIMIT.to_string()}}});
    quotas.create(&PostParams::default(), &serde_json::from_value(quota).unwrap()).await.unwrap();
    let used = async || {
        let status = quotas.get("five").await.unwrap().status.unwrap_or_default();
        status.used.and_then(|used| used.get("pods").map(|amount| amount.0.clone())).unwrap_or_default()
    };
    wait_until("the quota is counted", || async { used().await == "0" }).await;
    let workers = (0..8).map(|worker| {
        let pods = pods.clone();
        tokio::spawn(async move {
            let (mut made, mut refused) = (0, 0);
            for n in 0..12 {
                let name = format!("p{worker}-{n}");
                let pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
                match pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await {
                    Ok(_) => {
                        made += 1;
                        let there = pods.list(&ListParams::default()).await.unwrap().items.len();
                        assert!(there <= LIMIT, "{there} pods");
                        pods.delete(&name, &DeleteParams::default().grace_period(0)).await.unwrap();
                    }
                    Err(kube::Error::Api(status)) => {
                        assert!(status.message.contains("exceeded quota: five, requested: pods=1"), "{status:?}");
                        refused += 1;
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            (made, refused)
        })
    });
    let workers: Vec<_> = workers.collect();
    let (mut made, mut refused) = (0, 0);
    for worker in workers {
        let (more, less) = worker.await.unwrap();
        (made, refused) = (made + more, refused + less);
    }
    assert!(made >= LIMIT && refused > 0, "{made} made, {refused} refused");
    wait_until("all are gone", || async { used().await == "0" }).await;
    world.stop().await;
}
