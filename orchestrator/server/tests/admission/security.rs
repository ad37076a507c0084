//! Pod security: labels of a namespace decide.

use serde_json::{Value, json};

use crate::api::{Api, NAMESPACE, PODS, deployment, pod};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn label(api: &Api, labels: Value) -> crate::api::Reply {
    api.patch(NAMESPACE, &json!({"metadata": {"labels": labels}})).await
}

fn privileged(name: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    pod
}

#[tokio::test]
async fn what_is_enforced_is_refused() {
    let api = Api::new().await;
    api.post(PODS, &privileged("before")).await.ok();
    let relabelled = label(&api, json!({"pod-security.kubernetes.io/enforce": "baseline"})).await;
    assert_eq!(
        relabelled.warnings(),
        [
            r#"299 - "existing pods in namespace \"default\" violate the new PodSecurity enforce level \"baseline:latest\"""#,
            r#"299 - "before: privileged""#,
        ]
    );
    relabelled.ok();
    assert_eq!(
        api.post(PODS, &privileged("p")).await.failure(),
        (
            403,
            r#"pods "p" is forbidden: violates PodSecurity "baseline:latest": privileged (container "c" must not set securityContext.privileged=true)"#.into()
        )
    );
    let plain = api.post(PODS, &pod("p")).await;
    assert_eq!(plain.warnings(), Vec::<String>::new());
    plain.ok();
    // What is there already may be changed otherwise, and get no new image.
    let path = format!("{PODS}/before");
    api.patch(&path, &json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    let image = json!({"spec": {"containers": [{"name": "c", "image": "i:2", "securityContext": {"privileged": true}}]}});
    let current = api.get(&path).await.ok();
    let mut changed = current.clone();
    changed["spec"]["containers"][0]["image"] = image["spec"]["containers"][0]["image"].clone();
    assert_eq!(api.put(&path, &changed).await.code, 403);
}

#[tokio::test]
async fn templates_are_warned_of() {
    let api = Api::new().await;
    label(&api, json!({"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "v1.7"})).await.ok();
    let made = api.post(DEPLOYMENTS, &deployment("d")).await;
    assert_eq!(
        made.warnings(),
        [
            r#"299 - "would violate PodSecurity \"restricted:v1.7\": runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)""#
        ]
    );
    made.ok();
    label(&api, json!({"pod-security.kubernetes.io/warn": "privileged"})).await.ok();
    assert_eq!(api.post(DEPLOYMENTS, &deployment("e")).await.warnings(), Vec::<String>::new());
}

#[tokio::test]
async fn labels_without_meaning_are_refused() {
    let api = Api::new().await;
    let (code, message) =
        label(&api, json!({"pod-security.kubernetes.io/enforce": "strict"})).await.failure();
    assert_eq!(code, 422);
    assert_eq!(
        message,
        "Namespace \"default\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted"
    );
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "labels": {"pod-security.kubernetes.io/warn-version": "1.2"}}});
    let (code, message) = api.post("/api/v1/namespaces", &namespace).await.failure();
    assert_eq!((code, message.ends_with("must be \"latest\" or \"v1.x\"")), (422, true), "{message}");
}
