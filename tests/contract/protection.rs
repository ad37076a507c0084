//! Claims and volumes in use outlive their deletion.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;

use crate::world::{World, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_stays_while_a_pod_has_it() {
    let world = World::new().await;
    let _node = world.node("node-1").await;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(world.client(), "default");
    let pods: Api<Pod> = Api::namespaced(world.client(), "default");
    let new = PostParams::default();
    for name in ["used", "free"] {
        let claim = json!({"metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        let made = claims.create(&new, &serde_json::from_value(claim).unwrap()).await.unwrap();
        assert_eq!(made.finalizers(), ["kubernetes.io/pvc-protection"]);
    }
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "nodeName": "node-1", "containers": [{"name": "c", "image": "i:1"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "used"}}]}});
    pods.create(&new, &serde_json::from_value(pod).unwrap()).await.unwrap();
    for name in ["used", "free"] {
        claims.delete(name, &DeleteParams::default()).await.unwrap();
    }
    wait_until("the free one is gone", || async { claims.get_opt("free").await.unwrap().is_none() }).await;
    let used = claims.get("used").await.unwrap();
    assert!(used.metadata.deletion_timestamp.is_some());
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    wait_until("the other one goes with its pod", || async {
        claims.get_opt("used").await.unwrap().is_none()
    })
    .await;

    let volumes: Api<PersistentVolume> = Api::all(world.client());
    let volume = json!({"metadata": {"name": "v"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/tmp/v"}}});
    let made = volumes.create(&new, &serde_json::from_value(volume).unwrap()).await.unwrap();
    assert_eq!(made.finalizers(), ["kubernetes.io/pv-protection"]);
    world.stop().await;
}
