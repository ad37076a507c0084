//! PodDisruptionBudgets: evictions are granted as long as enough pods are healthy.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{Api, EvictParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::world::{World, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evictions_stay_within_the_budget() {
    let world = World::new().await;
    let _node = world.node("node-1").await;
    let sets: Api<ReplicaSet> = Api::namespaced(world.client(), "default");
    let pods: Api<Pod> = Api::namespaced(world.client(), "default");
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(world.client(), "default");
    let budget = json!({"metadata": {"name": "web"}, "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    budgets.create(&PostParams::default(), &serde_json::from_value(budget).unwrap()).await.unwrap();
    let numbers = || async {
        let status = budgets.get("web").await.unwrap().status.unwrap_or_default();
        (status.disruptions_allowed, status.current_healthy, status.desired_healthy, status.expected_pods)
    };
    wait_until("it has no pods", || async {
        let status = budgets.get("web").await.unwrap().status.unwrap_or_default();
        status.observed_generation == Some(1) && numbers().await == (0, 0, 0, 0)
    })
    .await;
    let set = json!({"metadata": {"name": "web"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}}}});
    sets.create(&PostParams::default(), &serde_json::from_value(set).unwrap()).await.unwrap();
    wait_until("one of three may go", || async { numbers().await == (1, 3, 2, 3) }).await;

    // While one is not ready nothing may go.
    let all = pods.list(&ListParams::default()).await.unwrap().items;
    let ready = |status: &str| {
        Patch::Strategic(json!({"status": {"conditions": [{"type": "Ready", "status": status}]}}))
    };
    pods.patch_status(&all[0].name_any(), &PatchParams::default(), &ready("False")).await.unwrap();
    wait_until("none may go", || async { numbers().await == (0, 2, 2, 3) }).await;
    let refused = pods.evict(&all[1].name_any(), &EvictParams::default()).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 429));
    pods.patch_status(&all[0].name_any(), &PatchParams::default(), &ready("True")).await.unwrap();
    wait_until("one may go again", || async { numbers().await == (1, 3, 2, 3) }).await;

    pods.evict(&all[1].name_any(), &EvictParams::default()).await.unwrap();
    wait_until("it is replaced, and the budget is whole", || async {
        let pods = pods.list(&ListParams::default()).await.unwrap().items;
        pods.iter().all(|pod| pod.uid() != all[1].uid()) && numbers().await == (1, 3, 2, 3)
    })
    .await;
    assert!(budgets.get("web").await.unwrap().status.unwrap().disrupted_pods.unwrap_or_default().is_empty());
    world.stop().await;
}
