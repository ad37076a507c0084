//! What may not change once an object is there, kind by kind.

use catamaran_api::kind;
use serde_json::{Value, json};

use crate::samples::{self, NAMESPACE};
use crate::support::Api;

/// Group, version, plural; a merge patch; the field that the refusal names.
type Change = ((&'static str, &'static str, &'static str), Value, &'static str);

fn of_workloads() -> Vec<Change> {
    let selector = json!({"spec": {"selector": {"matchLabels": {"app": "b"}}, "template": {"metadata": {"labels": {"app": "b"}}}}});
    vec![
        (("apps", "v1", "deployments"), selector.clone(), "spec.selector"),
        (("apps", "v1", "replicasets"), selector.clone(), "spec.selector"),
        (("apps", "v1", "daemonsets"), selector.clone(), "spec.selector"),
        (("apps", "v1", "statefulsets"), json!({"spec": {"serviceName": "other"}}), "spec"),
        (("apps", "v1", "controllerrevisions"), json!({"data": {"k": "w"}}), "data"),
        (
            ("batch", "v1", "jobs"),
            json!({"spec": {"template": {"spec": {"dnsPolicy": "Default"}}}}),
            "spec.template",
        ),
        (("", "v1", "pods"), json!({"spec": {"nodeSelector": {"a": "b"}}}), "spec"),
        (
            ("", "v1", "services"),
            json!({"spec": {"clusterIP": "10.96.7.7", "clusterIPs": ["10.96.7.7"]}}),
            "spec.clusterIPs[0]",
        ),
        (("", "v1", "secrets"), json!({"type": "example.com/other"}), "type"),
        (
            ("", "v1", "persistentvolumes"),
            json!({"spec": {"hostPath": {"path": "/other"}}}),
            "spec.persistentvolumesource",
        ),
        (("", "v1", "persistentvolumeclaims"), json!({"spec": {"volumeMode": "Block"}}), "spec"),
        (("", "v1", "nodes"), json!({"spec": {"podCIDRs": ["10.128.8.0/24"]}}), "spec.podCIDRs"),
        (("", "v1", "resourcequotas"), json!({"spec": {"scopes": ["BestEffort"]}}), "spec.scopes"),
    ]
}

fn of_infrastructure() -> Vec<Change> {
    vec![
        (
            ("storage.k8s.io", "v1", "storageclasses"),
            json!({"provisioner": "example.com/other"}),
            "provisioner",
        ),
        (
            ("storage.k8s.io", "v1", "csidrivers"),
            json!({"spec": {"attachRequired": false}}),
            "spec.attachRequired",
        ),
        (
            ("storage.k8s.io", "v1", "csinodes"),
            json!({"spec": {"drivers": [{"name": "d.example.com", "nodeID": "other"}]}}),
            "spec.drivers",
        ),
        (
            ("storage.k8s.io", "v1", "csistoragecapacities"),
            json!({"storageClassName": "other"}),
            "storageClassName",
        ),
        (("storage.k8s.io", "v1", "volumeattachments"), json!({"spec": {"nodeName": "other"}}), "spec"),
        (("scheduling.k8s.io", "v1", "priorityclasses"), json!({"value": 11}), "value"),
        (("node.k8s.io", "v1", "runtimeclasses"), json!({"handler": "other"}), "handler"),
        (("discovery.k8s.io", "v1", "endpointslices"), json!({"addressType": "FQDN"}), "addressType"),
        (
            ("networking.k8s.io", "v1", "ingressclasses"),
            json!({"spec": {"controller": "example.com/other"}}),
            "spec.controller",
        ),
        (
            ("networking.k8s.io", "v1", "servicecidrs"),
            json!({"spec": {"cidrs": ["10.99.0.0/16"]}}),
            "spec.cidrs",
        ),
        (
            ("networking.k8s.io", "v1", "ipaddresses"),
            json!({"spec": {"parentRef": {"name": "other"}}}),
            "spec.parentRef",
        ),
        (
            ("rbac.authorization.k8s.io", "v1", "rolebindings"),
            json!({"roleRef": {"name": "other"}}),
            "roleRef",
        ),
        (
            ("rbac.authorization.k8s.io", "v1", "clusterrolebindings"),
            json!({"roleRef": {"name": "edit"}}),
            "roleRef",
        ),
    ]
}

#[tokio::test]
async fn what_is_decided_once_stays() {
    let api = Api::new().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    api.post("/api/v1/namespaces", &namespace).await.ok();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    api.post(&format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts"), &account).await.ok();
    let mut wrong = Vec::new();
    for ((group, version, plural), change, field) in of_workloads().into_iter().chain(of_infrastructure()) {
        let resource = kind::find(group, version, plural).unwrap();
        let place = if resource.namespaced() { format!("/namespaces/{NAMESPACE}") } else { String::new() };
        let collection = format!("{}{place}/{plural}", resource.root_path());
        let object = samples::object(resource, "fixed", "fixed");
        api.post(&collection, &object).await.ok();
        let uri = format!("{collection}/{}", samples::object_name(resource, "fixed"));
        let refused = api.patch("merge-patch+json", &uri, &change).await;
        let status = refused.json();
        let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
        if refused.code != 422 || !causes.iter().any(|cause| cause["field"] == field) {
            wrong.push(format!("{plural}: {} {status}", refused.code));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn sealed_maps_and_secrets_stay_so() {
    let api = Api::new().await;
    for (plural, kind) in [("configmaps", "ConfigMap"), ("secrets", "Secret")] {
        let collection = format!("/api/v1/namespaces/default/{plural}");
        let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "s"}, "immutable": true});
        api.post(&collection, &object).await.ok();
        let uri = format!("{collection}/s");
        for change in
            [json!({"data": {"a": "Yg=="}}), json!({"immutable": false}), json!({"immutable": null})]
        {
            let (code, message) = api.patch("merge-patch+json", &uri, &change).await.failure();
            assert_eq!(code, 422, "{change}");
            assert!(message.contains("field is immutable when `immutable` is set"), "{message}");
        }
        let label = json!({"metadata": {"labels": {"a": "b"}}});
        api.patch("merge-patch+json", &uri, &label).await.ok();
    }
}
