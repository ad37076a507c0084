//! HorizontalPodAutoscalers: bounds hold, and what cannot be measured is told.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{Api, PostParams};
use serde_json::json;

use crate::world::{World, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_hold_and_failures_are_told() {
    let world = World::new().await;
    let _node = world.node("node-1").await;
    let deployments: Api<Deployment> = Api::namespaced(world.client(), "default");
    let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(world.client(), "default");
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 5, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}}}});
    deployments.create(&PostParams::default(), &serde_json::from_value(deployment).unwrap()).await.unwrap();
    let autoscaler = |name: &str, target: &str| {
        json!({"metadata": {"name": name}, "spec": {"minReplicas": 2, "maxReplicas": 3,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}})
    };
    for (name, target) in [("web", "web"), ("lost", "nothing")] {
        let object = serde_json::from_value(autoscaler(name, target)).unwrap();
        autoscalers.create(&PostParams::default(), &object).await.unwrap();
    }
    wait_until("the maximum holds", || async {
        deployments.get("web").await.unwrap().spec.unwrap().replicas == Some(3)
    })
    .await;
    let condition = |name: &'static str, kind: &'static str| {
        let autoscalers = autoscalers.clone();
        async move {
            let status = autoscalers.get(name).await.unwrap().status.unwrap_or_default();
            let found = status.conditions.unwrap_or_default().into_iter().find(|c| c.type_ == kind);
            found.map(|c| (c.status, c.reason.unwrap_or_default())).unwrap_or_default()
        }
    };
    let is = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    wait_until("it is told", || async {
        condition("web", "AbleToScale").await == is("True", "SucceededRescale")
    })
    .await;
    let status = autoscalers.get("web").await.unwrap().status.unwrap();
    assert_eq!((status.current_replicas, status.desired_replicas), (Some(5), 3));
    assert!(status.last_scale_time.is_some());
    wait_until("a target that is not there is told", || async {
        condition("lost", "AbleToScale").await == is("False", "FailedGetScale")
    })
    .await;
    world.stop().await;
}
