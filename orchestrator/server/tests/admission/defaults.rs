//! What the server adds: default classes, conditions of gated pods.

use serde_json::json;

use crate::api::{Api, CLAIMS, PODS, pod};

#[tokio::test]
async fn default_classes() {
    let api = Api::new().await;
    let claim = |name: &str| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    };
    assert_eq!(api.post(CLAIMS, &claim("own")).await.ok()["spec"]["storageClassName"], "local-path");
    api.delete("/apis/storage.k8s.io/v1/storageclasses/local-path").await.ok();
    assert!(api.post(CLAIMS, &claim("a")).await.ok()["spec"]["storageClassName"].is_null());
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "p", "metadata": {
        "name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
    api.post("/apis/storage.k8s.io/v1/storageclasses", &class).await.ok();
    assert_eq!(api.post(CLAIMS, &claim("b")).await.ok()["spec"]["storageClassName"], "fast");
    let mut none = claim("c");
    none["spec"]["storageClassName"] = "".into();
    assert_eq!(api.post(CLAIMS, &none).await.ok()["spec"]["storageClassName"], "");
    let bigger = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    assert_eq!(api.patch(&format!("{CLAIMS}/b"), &bigger).await.code, 403);

    let class = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "spec": {"controller": "a.b/c"}, "metadata": {
        "name": "web", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}});
    api.post("/apis/networking.k8s.io/v1/ingressclasses", &class).await.ok();
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"}, "spec": {
        "defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
    let made = api.post("/apis/networking.k8s.io/v1/namespaces/default/ingresses", &ingress).await.ok();
    assert_eq!(made["spec"]["ingressClassName"], "web");
}

#[tokio::test]
async fn a_gated_pod_says_so() {
    let api = Api::new().await;
    let mut gated = pod("g");
    gated["spec"]["schedulingGates"] = json!([{"name": "example.com/wait"}]);
    let made = api.post(PODS, &gated).await.ok();
    let condition = &made["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"], &condition["reason"]),
        (&json!("PodScheduled"), &json!("False"), &json!("SchedulingGated"))
    );
    assert!(api.post(PODS, &pod("f")).await.ok()["status"]["conditions"].is_null());
}
