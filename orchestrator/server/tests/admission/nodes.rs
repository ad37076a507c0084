//! Nodes: each changes itself and its pods, and reads what its pods need.

use serde_json::{Value, json};

use crate::api::{Api, MAPS, NAMESPACE, PODS, map, pod};

const NODES: &str = "/api/v1/nodes";

fn node(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
}

async fn cluster() -> (Api, Api) {
    let api = Api::new().await;
    let n1 = api.user("system:node:n1", &["system:nodes"]);
    for (name, node) in [("mine", "n1"), ("other", "n2")] {
        let mut pod = pod(name);
        pod["spec"]["nodeName"] = node.into();
        pod["spec"]["imagePullSecrets"] = json!([{"name": format!("of-{name}")}]);
        pod["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": format!("of-{name}")}}]);
        api.post(PODS, &pod).await.ok();
        api.post(MAPS, &map(&format!("of-{name}"))).await.ok();
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("of-{name}")}});
        api.post(&format!("{NAMESPACE}/secrets"), &secret).await.ok();
    }
    (api, n1)
}

#[tokio::test]
async fn a_node_reads_what_its_pods_need() {
    let (api, n1) = cluster().await;
    let secrets = format!("{NAMESPACE}/secrets");
    let table = [
        (format!("{secrets}/of-mine"), 200),
        (format!("{secrets}/of-other"), 403),
        (secrets.clone(), 403),
        (format!("{secrets}?fieldSelector=metadata.name%3Dof-mine"), 200),
        (format!("{secrets}?fieldSelector=metadata.name%3Dof-other"), 403),
        ("/api/v1/secrets".to_owned(), 403),
        (format!("{MAPS}/of-mine"), 200),
        (format!("{MAPS}/of-other"), 403),
        (format!("{NAMESPACE}/serviceaccounts/default"), 200),
        (format!("{NAMESPACE}/serviceaccounts/nobody"), 403),
        (format!("{PODS}?fieldSelector=spec.nodeName%3Dn1"), 200),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1".to_owned(), 200),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Dn2".to_owned(), 403),
        ("/api/v1/pods".to_owned(), 403),
        ("/api/v1/pods?watch=true".to_owned(), 403),
        (format!("{PODS}/mine"), 200),
        (format!("{PODS}/other"), 403),
        (format!("{PODS}/nobody"), 403),
        ("/api/v1/services".to_owned(), 200),
    ];
    for (path, code) in table {
        assert_eq!(n1.get(&path).await.code, code, "{path}");
    }
    assert_eq!(
        n1.get(&format!("{secrets}/of-other")).await.failure().1,
        r#"secrets "of-other" is forbidden: User "system:node:n1" cannot get resource "secrets" in API group "" in the namespace "default": no relationship found between node 'n1' and this object"#
    );
    // A pod that is bound a moment before counts, one that is gone does not.
    let mut late = pod("late");
    late["spec"]["imagePullSecrets"] = json!([{"name": "of-other"}]);
    api.post(PODS, &late).await.ok();
    assert_eq!(n1.get(&format!("{secrets}/of-other")).await.code, 403);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "late"}, "target": {"kind": "Node", "name": "n1"}});
    api.post(&format!("{PODS}/late/binding"), &binding).await.ok();
    assert_eq!(n1.get(&format!("{secrets}/of-other")).await.code, 200);
    api.delete(&format!("{PODS}/late?gracePeriodSeconds=0")).await.ok();
    assert_eq!(n1.get(&format!("{secrets}/of-other")).await.code, 403);
}

#[tokio::test]
async fn a_node_changes_itself() {
    let (api, n1) = cluster().await;
    let good = json!({"kubernetes.io/hostname": "n1", "kubernetes.io/os": "linux", "color": "red"});
    n1.post(NODES, &node("n1", good)).await.ok();
    api.post(NODES, &node("n2", json!({}))).await.ok();
    assert_eq!(
        n1.post(NODES, &node("n3", json!({}))).await.failure().1,
        "nodes \"n3\" is forbidden: node \"n1\" is not allowed to modify node \"n3\""
    );
    let label = |key: &str| json!({"metadata": {"labels": {key: "x"}}});
    let own = format!("{NODES}/n1");
    n1.patch(&own, &label("shape")).await.ok();
    assert_eq!(
        n1.patch(&own, &label("node-restriction.kubernetes.io/team")).await.failure().1,
        "nodes \"n1\" is forbidden: is not allowed to modify labels: node-restriction.kubernetes.io/team"
    );
    assert_eq!(n1.patch(&own, &label("node-role.kubernetes.io/control-plane")).await.code, 403);
    let taint = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    assert_eq!(
        n1.patch(&own, &taint).await.failure().1,
        "nodes \"n1\" is forbidden: node \"n1\" is not allowed to modify taints"
    );
    assert_eq!(n1.patch(&format!("{NODES}/n2"), &label("shape")).await.code, 403);
    api.patch(&own, &label("node-restriction.kubernetes.io/team")).await.ok();
}

#[tokio::test]
async fn a_node_touches_its_own_pods() {
    let (api, n1) = cluster().await;
    let status = json!({"status": {"phase": "Running"}});
    n1.patch(&format!("{PODS}/mine/status"), &status).await.ok();
    assert_eq!(
        n1.patch(&format!("{PODS}/other/status"), &status).await.failure().1,
        "pods \"other\" is forbidden: node \"n1\" can only update pod status for pods with spec.nodeName set to itself"
    );
    let relabelled = json!({"metadata": {"labels": {"app": "x"}}});
    assert_eq!(n1.patch(&format!("{PODS}/mine/status"), &relabelled).await.code, 403);
    assert_eq!(n1.delete(&format!("{PODS}/other")).await.code, 403);
    let eviction =
        |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    assert_eq!(
        n1.post(&format!("{PODS}/other/eviction"), &eviction("other")).await.failure().1,
        "pods \"other\" is forbidden: node n1 can only evict pods with spec.nodeName set to itself"
    );
    n1.delete(&format!("{PODS}/mine?gracePeriodSeconds=0")).await.ok();
    let (code, message) = n1.post(PODS, &pod("new")).await.failure();
    assert_eq!(code, 403);
    assert!(message.contains("node \"n1\" can only create mirror pods"), "{message}");
    let owner = api.post(NODES, &node("n1", json!({}))).await.ok()["metadata"]["uid"].clone();
    let mut mirror = pod("static-n1");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    mirror["spec"]["nodeName"] = "n1".into();
    let reference = |uid: &Value| json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid, "controller": true}]);
    mirror["metadata"]["ownerReferences"] = reference(&"another".into());
    assert!(n1.post(PODS, &mirror).await.failure().1.contains("node n1 UID mismatch"));
    mirror["metadata"]["ownerReferences"] = reference(&owner);
    n1.post(PODS, &mirror).await.ok();
}

#[tokio::test]
async fn a_node_keeps_its_own_lease() {
    let (_, n1) = cluster().await;
    let leases = |namespace: &str| format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {"holderIdentity": "n1"}});
    n1.post(&leases("kube-node-lease"), &lease("n1")).await.ok();
    n1.patch(&format!("{}/n1", leases("kube-node-lease")), &json!({"spec": {"holderIdentity": "n1"}}))
        .await
        .ok();
    assert_eq!(
        n1.post(&leases("kube-node-lease"), &lease("n2")).await.failure().1,
        "leases.coordination.k8s.io \"n2\" is forbidden: can only access node lease with the same name as the requesting node"
    );
    assert_eq!(
        n1.post(&leases("kube-system"), &lease("n1")).await.failure().1,
        "leases.coordination.k8s.io \"n1\" is forbidden: can only access leases in the \"kube-node-lease\" system namespace"
    );
    // The network claims blocks of the pod range with leases.
    let mut block = lease("pod-block-10-128-0-0");
    block["metadata"]["labels"] = json!({"catamaran.dev/pod-block": "10-128-0-0"});
    n1.post(&leases("kube-system"), &block).await.ok();
}
