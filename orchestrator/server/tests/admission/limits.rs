//! Limit ranges: defaults and bounds.

use serde_json::{Value, json};

use crate::api::{Api, CLAIMS, NAMESPACE, PODS, pod, sized};

async fn range(api: &Api, limits: Value) {
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": {"limits": limits}});
    api.post(&format!("{NAMESPACE}/limitranges"), &range).await.ok();
}

#[tokio::test]
async fn defaults_come_before_the_class_of_service() {
    let api = Api::new().await;
    range(&api, json!([{"type": "Container", "default": {"cpu": "500m", "memory": "500Mi"}, "defaultRequest": {"cpu": "100m", "memory": "200Mi"}}])).await;
    let made = api.post(PODS, &pod("a")).await.ok();
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m", "memory": "500Mi"}, "requests": {"cpu": "100m", "memory": "200Mi"}})
    );
    assert_eq!(made["status"]["qosClass"], "Burstable");
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c"
    );
    let own = json!({"requests": {"cpu": "300m"}, "limits": {"cpu": "300m"}});
    let made = api.post(PODS, &sized("b", &own)).await.ok();
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "300m", "memory": "500Mi"}, "requests": {"cpu": "300m", "memory": "200Mi"}})
    );
}

#[tokio::test]
async fn bounds_in_kubernetes_words() {
    let api = Api::new().await;
    range(
        &api,
        json!([
            {"type": "Container", "min": {"cpu": "50m"}, "max": {"cpu": "500m"}},
            {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}},
        ]),
    )
    .await;
    let with = |request: &str, limit: &str| {
        sized("p", &json!({"requests": {"cpu": request}, "limits": {"cpu": limit}}))
    };
    assert_eq!(
        api.post(PODS, &with("10m", "100m")).await.failure(),
        (403, "pods \"p\" is forbidden: minimum cpu usage per Container is 50m, but request is 10m".into())
    );
    assert_eq!(
        api.post(PODS, &with("10m", "600m")).await.failure().1,
        "pods \"p\" is forbidden: [minimum cpu usage per Container is 50m, but request is 10m, maximum cpu usage per Container is 500m, but limit is 600m]"
    );
    api.post(PODS, &with("100m", "200m")).await.ok();
    let resized = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "2"}}}]}});
    let refused = api.patch(&format!("{PODS}/p/resize"), &resized).await.failure();
    assert_eq!(refused.1, "pods \"p\" is forbidden: maximum cpu usage per Container is 500m, but limit is 2");
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}});
    assert_eq!(
        api.post(CLAIMS, &claim).await.failure().1,
        "persistentvolumeclaims \"c\" is forbidden: maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"
    );
}
