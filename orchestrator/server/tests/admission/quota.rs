//! Quotas: charged with what they cover, however many ask at once.

use std::path::Path;
use std::sync::Arc;

use catamaran_store::sqlite::Options;
use catamaran_store::{MemoryStore, SqliteStore, Store};
use serde_json::{Value, json};

use crate::api::{Api, CLAIMS, MAPS, NAMESPACE, PODS, SERVICES, map, pod, sized};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

/// Makes a quota and says, as the controller would, how much of it is used.
async fn quota(api: &Api, name: &str, spec: Value, used: Value) {
    let quota =
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec});
    api.post(QUOTAS, &quota).await.ok();
    let status = json!({"status": {"hard": spec["hard"], "used": used}});
    api.patch(&format!("{QUOTAS}/{name}/status"), &status).await.ok();
}

async fn used(api: &Api, name: &str) -> Value {
    api.get(&format!("{QUOTAS}/{name}")).await.ok()["status"]["used"].clone()
}

#[tokio::test]
async fn pods_are_charged_until_nothing_is_left() {
    let api = Api::new().await;
    let hard = json!({"pods": "2", "requests.cpu": "1", "count/configmaps": "1"});
    let none = json!({"pods": "0", "requests.cpu": "0", "count/configmaps": "0"});
    quota(&api, "q", json!({"hard": hard}), none).await;
    let half = json!({"requests": {"cpu": "600m"}});
    api.post(PODS, &sized("a", &half)).await.ok();
    assert_eq!(used(&api, "q").await, json!({"pods": "1", "requests.cpu": "600m", "count/configmaps": "0"}));
    let refused = api.post(PODS, &sized("b", &half)).await;
    assert_eq!(
        refused.failure(),
        (
            403,
            "pods \"b\" is forbidden: exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1".into()
        )
    );
    assert_eq!(refused.json()["details"], json!({"name": "b", "kind": "pods"}));
    assert_eq!(
        api.post(PODS, &pod("b")).await.failure(),
        (403, "pods \"b\" is forbidden: failed quota: q: must specify requests.cpu for: c".into())
    );
    assert_eq!(api.post(PODS, &sized("a", &json!({"requests": {"cpu": "1m"}}))).await.code, 409);
    assert_eq!(used(&api, "q").await["pods"], "1", "what is not made is not charged");
    api.post(MAPS, &map("m")).await.ok();
    assert_eq!(
        api.post(MAPS, &map("n")).await.failure().1,
        "configmaps \"n\" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=1, limited: count/configmaps=1"
    );
}

#[tokio::test]
async fn a_dry_run_is_judged_and_not_charged() {
    let api = Api::new().await;
    quota(&api, "q", json!({"hard": {"pods": "1"}}), json!({"pods": "0"})).await;
    let dry = format!("{PODS}?dryRun=All");
    api.post(&dry, &pod("a")).await.ok();
    assert_eq!(used(&api, "q").await["pods"], "0");
    api.post(PODS, &pod("a")).await.ok();
    assert_eq!(api.post(&dry, &pod("b")).await.code, 403);
}

#[tokio::test]
async fn scopes_and_classes() {
    let api = Api::new().await;
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 9});
    api.post("/apis/scheduling.k8s.io/v1/priorityclasses", &class).await.ok();
    let of_class = json!({"hard": {"pods": "0"}, "scopeSelector": {"matchExpressions": [
        {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}});
    quota(&api, "high", of_class, json!({"pods": "0"})).await;
    quota(&api, "effort", json!({"hard": {"pods": "1"}, "scopes": ["NotBestEffort"]}), json!({"pods": "0"}))
        .await;
    let mut important = pod("important");
    important["spec"]["priorityClassName"] = "high".into();
    assert!(api.post(PODS, &important).await.failure().1.contains("exceeded quota: high, requested: pods=1"));
    api.post(PODS, &pod("a")).await.ok();
    api.post(PODS, &sized("b", &json!({"requests": {"cpu": "1m"}}))).await.ok();
    let more = api.post(PODS, &sized("c", &json!({"requests": {"cpu": "1m"}}))).await;
    assert!(more.failure().1.contains("exceeded quota: effort"));
    assert_eq!(
        (used(&api, "high").await, used(&api, "effort").await),
        (json!({"pods": "0"}), json!({"pods": "1"}))
    );
}

#[tokio::test]
async fn changes_are_charged_by_the_difference() {
    let api = Api::new().await;
    let hard = json!({"services.nodeports": "1", "services.loadbalancers": "0", "requests.storage": "2Gi"});
    let none = json!({"services.nodeports": "0", "services.loadbalancers": "0", "requests.storage": "0"});
    quota(&api, "q", json!({"hard": hard}), none).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    api.post(SERVICES, &service).await.ok();
    let path = format!("{SERVICES}/s");
    api.patch(&path, &json!({"spec": {"type": "NodePort"}})).await.ok();
    assert_eq!(used(&api, "q").await["services.nodeports"], "1");
    let refused = api.patch(&path, &json!({"spec": {"type": "LoadBalancer"}})).await;
    assert!(refused.failure().1.contains("requested: services.loadbalancers=1"), "{:?}", refused.failure());
    api.patch(&path, &json!({"spec": {"type": "ClusterIP"}})).await.ok();
    assert_eq!(used(&api, "q").await["services.nodeports"], "0");
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "3Gi"}}}});
    assert!(api.post(CLAIMS, &claim).await.failure().1.contains("requested: requests.storage=3Gi"));
}

#[tokio::test]
async fn a_resize_is_charged() {
    let api = Api::new().await;
    quota(&api, "q", json!({"hard": {"requests.cpu": "1"}}), json!({"requests.cpu": "0"})).await;
    api.post(PODS, &sized("a", &json!({"requests": {"cpu": "500m"}}))).await.ok();
    let to =
        |cpu: &str| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
    let path = format!("{PODS}/a/resize");
    assert!(api.patch(&path, &to("2")).await.failure().1.contains("requested: requests.cpu=1500m"));
    api.patch(&path, &to("900m")).await.ok();
    assert_eq!(used(&api, "q").await["requests.cpu"], "900m");
}

#[tokio::test]
async fn a_quota_that_nobody_counted_yet_refuses_nothing_and_notices() {
    let api = Api::new().await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}});
    let made = api.post(QUOTAS, &quota).await.ok();
    api.post(PODS, &pod("a")).await.ok();
    // Whoever counted before the pod came finds a newer quota.
    let counted = json!({
        "metadata": {"resourceVersion": made["metadata"]["resourceVersion"]},
        "status": {"hard": {"pods": "0"}, "used": {"pods": "0"}},
    });
    assert_eq!(api.patch(&format!("{QUOTAS}/q/status"), &counted).await.code, 409);
    let half = json!({"status": {"hard": {"pods": "5"}}});
    api.patch(&format!("{QUOTAS}/q/status"), &half).await.ok();
    assert_eq!(
        api.post(PODS, &pod("b")).await.failure().1,
        "pods \"b\" is forbidden: status unknown for quota: q, resources: pods"
    );
}

/// What a quota does not cover goes on beside what it covers; a quota may itself be counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_quota_covers_is_free() {
    let api = Api::new().await;
    quota(
        &api,
        "q",
        json!({"hard": {"pods": "0", "resourcequotas": "1"}}),
        json!({"pods": "0", "resourcequotas": "1"}),
    )
    .await;
    let makers = (0..20).map(|n| {
        let api = api.clone();
        tokio::spawn(async move {
            let (map, pod) = (map(&format!("m{n}")), pod(&format!("p{n}")));
            let (map, pod) = tokio::join!(api.post(MAPS, &map), api.post(PODS, &pod));
            (map.code, pod.code)
        })
    });
    for maker in makers.collect::<Vec<_>>() {
        assert_eq!(maker.await.unwrap(), (201, 403));
    }
    let another = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "r"}, "spec": {"hard": {"pods": "9"}}});
    assert!(
        api.post(QUOTAS, &another)
            .await
            .failure()
            .1
            .contains("exceeded quota: q, requested: resourcequotas=1")
    );
    api.patch(&format!("{QUOTAS}/q"), &json!({"spec": {"hard": {"pods": "5"}}})).await.ok();
    assert_eq!(used(&api, "q").await["resourcequotas"], "1", "a change makes no second one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_past_the_limit_in_memory() {
    race(Api::over(|_| Arc::new(MemoryStore::new())).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_past_the_limit_on_disk() {
    let open = |dir: &Path| -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(Options::new(dir.join("store.db"))).unwrap())
    };
    race(Api::over(open).await).await;
}

/// Forty pods at once, of which two quotas together let in ten; others write the quotas meanwhile.
async fn race(api: Api) {
    quota(&api, "ten", json!({"hard": {"pods": "10"}}), json!({"pods": "0"})).await;
    quota(&api, "more", json!({"hard": {"count/pods": "12"}}), json!({"count/pods": "0"})).await;
    let makers = (0..40).map(|n| {
        let api = api.clone();
        tokio::spawn(async move { api.post(PODS, &pod(&format!("p{n}"))).await.code })
    });
    let makers: Vec<_> = makers.collect();
    let labels = {
        let api = api.clone();
        tokio::spawn(async move {
            for n in 0..20 {
                let label = json!({"metadata": {"labels": {"n": n.to_string()}}});
                api.patch(&format!("{QUOTAS}/ten"), &label).await.ok();
            }
        })
    };
    let mut made = 0;
    for maker in makers {
        match maker.await.unwrap() {
            201 => made += 1,
            code => assert_eq!(code, 403),
        }
    }
    labels.await.unwrap();
    assert_eq!(made, 10);
    let pods = api.get(PODS).await.ok()["items"].as_array().unwrap().len();
    assert_eq!(
        (pods, used(&api, "ten").await, used(&api, "more").await),
        (10, json!({"pods": "10"}), json!({"count/pods": "10"}))
    );
    assert_eq!(api.get(NAMESPACE).await.code, 200);
}
