//! ReplicationControllers: the older form of a ReplicaSet.

use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::world::{World, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_kept_adopted_and_let_go() {
    let world = World::new().await;
    let _node = world.node("node-1").await;
    let controllers: Api<ReplicationController> = Api::namespaced(world.client(), "default");
    let pods: Api<Pod> = Api::namespaced(world.client(), "default");
    let container = json!({"containers": [{"name": "c", "image": "web:1"}]});
    // Dear, so that it stays if it is found only after the others were made.
    let cost = json!({"controller.kubernetes.io/pod-deletion-cost": "9"});
    let orphan = json!({"metadata": {"name": "orphan", "labels": {"app": "web"}, "annotations": cost}, "spec": container});
    pods.create(&PostParams::default(), &serde_json::from_value(orphan).unwrap()).await.unwrap();
    wait_until("it runs", || async {
        let status = pods.get("orphan").await.unwrap().status.unwrap_or_default();
        status.phase.as_deref() == Some("Running")
    })
    .await;
    let web = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"app": "web"},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": container}}});
    controllers.create(&PostParams::default(), &serde_json::from_value(web).unwrap()).await.unwrap();
    let has = |count: i32| {
        let controllers = &controllers;
        async move {
            let found = controllers.get("web").await.unwrap();
            let status = found.status.unwrap_or_default();
            status.observed_generation == found.metadata.generation
                && (status.replicas, status.available_replicas.unwrap_or(0)) == (count, count)
        }
    };
    let mine = || async {
        let all = pods.list(&ListParams::default()).await.unwrap().items;
        let owned =
            |pod: &Pod| pod.owner_references().iter().any(|owner| owner.kind == "ReplicationController");
        all.into_iter().filter(owned).map(|pod| pod.name_any()).collect::<Vec<_>>()
    };
    wait_until("two pods are available, of which one was there before", || async {
        mine().await.contains(&"orphan".to_owned()) && has(2).await
    })
    .await;

    let other = json!({"metadata": {"labels": {"app": "other"}}});
    pods.patch("orphan", &PatchParams::default(), &Patch::Merge(other)).await.unwrap();
    wait_until("it is let go and replaced", || async {
        let mine = mine().await;
        mine.len() == 2 && !mine.contains(&"orphan".to_owned())
    })
    .await;
    let scale = Patch::Merge(json!({"spec": {"replicas": 4}}));
    controllers.patch_scale("web", &PatchParams::default(), &scale).await.unwrap();
    wait_until("four pods are available", || has(4)).await;
    controllers.delete("web", &DeleteParams::background()).await.unwrap();
    wait_until("its pods go with it", || async { mine().await.is_empty() }).await;
    assert!(pods.get_opt("orphan").await.unwrap().is_some());
    world.stop().await;
}
