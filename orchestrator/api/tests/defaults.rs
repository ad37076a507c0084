//! Defaults per kind, and what holds for all of them.

use catamaran_api::decode::{Strictness, normalize};
use catamaran_api::defaults::{apply, on_create};
use catamaran_api::kind;
use catamaran_api::schema;
use objects::Dice;
use proptest::prelude::*;
use serde_json::{Value, json};

mod objects;

fn filled(group: &str, plural: &str, mut object: Value) -> Value {
    let resource = kind::resources()
        .iter()
        .find(|r| r.group == group && r.plural == plural && r.preferred)
        .expect("a known resource");
    apply(resource, &mut object);
    object
}

#[test]
fn a_pod_gets_what_kubectl_and_the_agent_read() {
    let pod = filled(
        "",
        "pods",
        json!({"spec": {
            "containers": [{
                "name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
                "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 5}
            }],
            "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "x"}}, {"name": "h", "hostPath": {"path": "/x"}},
                {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]
        }}),
    );
    assert_eq!(
        pod["spec"],
        json!({
            "containers": [{
                "name": "c", "image": "nginx", "imagePullPolicy": "Always", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}},
                "env": [{"name": "N", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
                "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "periodSeconds": 5,
                    "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"
            }],
            "volumes": [{"name": "e", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
                {"name": "h", "hostPath": {"path": "/x", "type": ""}},
                {"name": "p", "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}}],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler", "securityContext": {},
            "terminationGracePeriodSeconds": 30, "enableServiceLinks": true
        })
    );
}

#[test]
fn a_host_network_pod_takes_its_ports_on_the_host() {
    let pod = filled(
        "",
        "pods",
        json!({"spec": {"hostNetwork": true, "containers": [{"ports": [{"containerPort": 80}]}]}}),
    );
    assert_eq!(pod["spec"]["containers"][0]["ports"][0]["hostPort"], 80);
}

#[test]
fn what_the_client_says_stays() {
    let said = json!({"spec": {"replicas": 0, "strategy": {"type": "Recreate"}, "revisionHistoryLimit": 0,
        "template": {"spec": {"restartPolicy": "Always", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "i:1", "imagePullPolicy": "Never"}]}}}});
    let deployment = filled("apps", "deployments", said);
    assert_eq!(deployment["spec"]["replicas"], 0);
    assert_eq!(deployment["spec"]["strategy"], json!({"type": "Recreate"}));
    assert_eq!(deployment["spec"]["revisionHistoryLimit"], 0);
    let spec = &deployment["spec"]["template"]["spec"];
    assert_eq!(spec["terminationGracePeriodSeconds"], 0);
    assert_eq!(spec["containers"][0]["imagePullPolicy"], "Never");
    // Service links and requests are a pod's own, not a template's.
    assert_eq!(spec.get("enableServiceLinks"), None);
}

#[test]
fn workloads_roll_by_default() {
    let deployment = filled("apps", "deployments", json!({}));
    assert_eq!(
        deployment["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
    );
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert_eq!(deployment["spec"]["progressDeadlineSeconds"], 600);
    let daemons = filled("apps", "daemonsets", json!({}));
    assert_eq!(
        daemons["spec"]["updateStrategy"]["rollingUpdate"],
        json!({"maxUnavailable": 1, "maxSurge": 0})
    );
    let set = filled(
        "apps",
        "statefulsets",
        json!({"spec": {"volumeClaimTemplates": [{"metadata": {"name": "d"}}]}}),
    );
    assert_eq!(set["spec"]["updateStrategy"]["rollingUpdate"], json!({"partition": 0}));
    assert_eq!(set["spec"]["podManagementPolicy"], "OrderedReady");
    assert_eq!(set["spec"]["volumeClaimTemplates"][0]["spec"]["volumeMode"], "Filesystem");
}

#[test]
fn a_job_counts_completions_unless_it_is_a_queue() {
    let plain = filled("batch", "jobs", json!({}));
    assert_eq!((&plain["spec"]["completions"], &plain["spec"]["parallelism"]), (&json!(1), &json!(1)));
    assert_eq!(plain["spec"]["podReplacementPolicy"], "TerminatingOrFailed");
    let queue = filled("batch", "jobs", json!({"spec": {"parallelism": 3}}));
    assert_eq!(queue["spec"].get("completions"), None);
    let several = filled("batch", "jobs", json!({"spec": {"completions": 5}}));
    assert_eq!(several["spec"]["parallelism"], 1);
    let cron = filled("batch", "cronjobs", json!({}));
    assert_eq!(cron["spec"]["successfulJobsHistoryLimit"], 3);
    assert_eq!(cron["spec"]["jobTemplate"]["spec"].get("backoffLimit"), None);
}

#[test]
fn a_service_targets_its_own_port() {
    let service = filled(
        "",
        "services",
        json!({"spec": {"type": "NodePort", "ports": [{"port": 80}, {"port": 81, "targetPort": "x"}]}}),
    );
    assert_eq!(
        service["spec"],
        json!({
            "type": "NodePort", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}, {"port": 81, "protocol": "TCP", "targetPort": "x"}]
        })
    );
    let external = filled("", "services", json!({"spec": {"type": "ExternalName", "externalName": "a.b"}}));
    assert_eq!(external["spec"].get("internalTrafficPolicy"), None);
    let sticky = filled("", "services", json!({"spec": {"sessionAffinity": "ClientIP"}}));
    assert_eq!(sticky["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
}

#[test]
fn a_secret_folds_its_texts_in() {
    let secret =
        filled("", "secrets", json!({"data": {"a": "AA==", "b": "AA=="}, "stringData": {"a": "hello"}}));
    assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "aGVsbG8=", "b": "AA=="}}));
}

#[test]
fn a_namespace_knows_its_name() {
    let namespace = filled("", "namespaces", json!({"metadata": {"name": "n", "labels": {"a": "b"}}}));
    assert_eq!(namespace["metadata"]["labels"], json!({"a": "b", "kubernetes.io/metadata.name": "n"}));
    assert_eq!(namespace["status"]["phase"], "Active");
}

#[test]
fn a_new_object_gets_what_only_new_ones_get() {
    let new = |plural: &str, group: &str, mut object: Value| {
        on_create(kind::find(group, "v1", plural).unwrap(), &mut object);
        object
    };
    let pod = new(
        "pods",
        "",
        json!({"spec": {"containers": [{}]}, "status": {"phase": "Running", "podIP": "1.2.3.4"}}),
    );
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(new("namespaces", "", json!({}))["spec"]["finalizers"], json!(["kubernetes"]));
    let job = new("jobs", "batch", json!({"metadata": {"name": "j", "uid": "u"}}));
    assert_eq!(job["spec"]["selector"]["matchLabels"], json!({"batch.kubernetes.io/controller-uid": "u"}));
    assert_eq!(
        job["spec"]["template"]["metadata"]["labels"],
        json!({"job-name": "j", "controller-uid": "u", "batch.kubernetes.io/job-name": "j", "batch.kubernetes.io/controller-uid": "u"})
    );
    let manual = new("jobs", "batch", json!({"metadata": {"uid": "u"}, "spec": {"manualSelector": true}}));
    assert_eq!(manual["spec"].get("selector"), None);
}

#[test]
fn other_kinds() {
    let policy = filled(
        "networking.k8s.io",
        "networkpolicies",
        json!({"spec": {"egress": [{"ports": [{"port": 53}]}]}}),
    );
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(policy["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    let binding = filled(
        "rbac.authorization.k8s.io",
        "rolebindings",
        json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User"}, {"kind": "ServiceAccount"}]}),
    );
    assert_eq!(binding["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(
        binding["subjects"],
        json!([{"kind": "User", "apiGroup": "rbac.authorization.k8s.io"}, {"kind": "ServiceAccount"}])
    );
    let crd = filled(
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        json!({"spec": {"names": {"kind": "Widget"}}}),
    );
    assert_eq!(
        crd["spec"]["names"],
        json!({"kind": "Widget", "singular": "widget", "listKind": "WidgetList"})
    );
    let slice = filled("discovery.k8s.io", "endpointslices", json!({"ports": [{"port": 80}]}));
    assert_eq!(slice["ports"], json!([{"name": "", "port": 80, "protocol": "TCP"}]));
    let autoscaler = filled("autoscaling", "horizontalpodautoscalers", json!({"spec": {"behavior": {}}}));
    assert_eq!(autoscaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
    assert_eq!(autoscaler["spec"]["behavior"]["scaleUp"]["policies"][0]["value"], 4);
    let limits = filled(
        "",
        "limitranges",
        json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}}),
    );
    assert_eq!(limits["spec"]["limits"][0]["default"], json!({"cpu": "2"}));
    assert_eq!(limits["spec"]["limits"][0]["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn defaults_are_idempotent_and_fit_the_schema(seed: u64, which in 0..kind::resources().len()) {
        let resource = &kind::resources()[which];
        let mut object = objects::object(schema::of(resource), &mut Dice(seed), 6);
        apply(resource, &mut object);
        let once = object.clone();
        apply(resource, &mut object);
        prop_assert_eq!(&object, &once);
        normalize(object, resource.gvk(), Strictness::Strict).unwrap();
    }
}
