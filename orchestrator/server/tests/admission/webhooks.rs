//! Admission webhooks, asked over HTTPS.

use bytes::Bytes;
use catamaran_store::Expect;
use serde_json::{Value, json};

use crate::api::{Api, MAPS, NAMESPACE, PODS, deployment, map, pod};
use crate::hook::{Hook, patched};

const BASE: &str = "/apis/admissionregistration.k8s.io/v1";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// A webhook that wants to see everything of config maps; `more` says what is different.
fn webhook(hook: &Hook, more: Value) -> Value {
    let mut webhook = json!({
        "name": "hook.example.com", "clientConfig": hook.client_config(), "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
    });
    webhook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    webhook
}

fn rules(operations: Value, group: &str, resources: Value) -> Value {
    json!([{"operations": operations, "apiGroups": [group], "apiVersions": ["*"], "resources": resources}])
}

async fn register(api: &Api, kind: &str, name: &str, webhooks: Value) {
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}WebhookConfiguration"),
        "metadata": {"name": name}, "webhooks": webhooks,
    });
    let path = format!("{BASE}/{}webhookconfigurations", kind.to_lowercase());
    api.post(&path, &configuration).await.ok();
}

async fn validating(api: &Api, hook: &Hook, more: Value) {
    register(api, "Validating", "v", json!([webhook(hook, more)])).await;
}

async fn mutating(api: &Api, hook: &Hook, more: Value) {
    register(api, "Mutating", "m", json!([webhook(hook, more)])).await;
}

#[tokio::test]
async fn a_validating_webhook_denies_and_warns() {
    let api = Api::new().await;
    let hook = Hook::new(|request| match request["object"]["data"]["k"].as_str() {
        Some("bad") => json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "no bad values"}}),
        Some("mute") => json!({"allowed": false}),
        _ => json!({"allowed": true, "warnings": ["look out"]}),
    })
    .await;
    validating(&api, &hook, json!({})).await;
    let with = |value: &str| {
        let mut map = map("m");
        map["data"]["k"] = value.into();
        map
    };
    let denied = api.post(MAPS, &with("bad")).await;
    assert_eq!(denied.json()["reason"], "Forbidden");
    assert_eq!(
        denied.failure(),
        (403, "admission webhook \"hook.example.com\" denied the request: no bad values".into())
    );
    assert_eq!(
        api.post(MAPS, &with("mute")).await.failure(),
        (400, "admission webhook \"hook.example.com\" denied the request without explanation".into())
    );
    let made = api.post(MAPS, &with("good")).await;
    assert_eq!(made.warnings(), ["299 - \"look out\""]);
    made.ok();
    assert_eq!(api.patch(&format!("{MAPS}/m"), &json!({"data": {"k": "bad"}})).await.code, 403);
    assert_eq!(api.get(&format!("{MAPS}/m")).await.ok()["data"]["k"], "good");
}

#[tokio::test]
async fn the_question_has_everything() {
    let api = Api::new().await;
    let hook = Hook::open().await;
    validating(&api, &hook, json!({})).await;
    api.post(&format!("{MAPS}?dryRun=All&fieldManager=me"), &map("m")).await.ok();
    api.post(MAPS, &map("m")).await.ok();
    api.patch(&format!("{MAPS}/m"), &json!({"data": {"k": "w"}})).await.ok();
    api.delete(&format!("{MAPS}/m")).await.ok();
    let asked = hook.asked();
    let operations: Vec<&str> = asked.iter().map(|request| request["operation"].as_str().unwrap()).collect();
    assert_eq!(operations, ["CREATE", "CREATE", "UPDATE", "DELETE"]);
    let first = &asked[0];
    assert_eq!(first["dryRun"], true);
    assert_eq!(
        first["options"],
        json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me", "dryRun": ["All"]})
    );
    assert_eq!(first["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(first["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&first["namespace"], &first["name"]), (&json!("default"), &json!("m")));
    assert_eq!(
        first["userInfo"],
        json!({"username": "admin", "groups": ["system:masters", "system:authenticated"]})
    );
    assert_eq!((&first["object"]["kind"], &first["oldObject"]), (&json!("ConfigMap"), &Value::Null));
    assert_eq!(
        (&asked[2]["object"]["data"]["k"], &asked[2]["oldObject"]["data"]["k"]),
        (&json!("w"), &json!("v"))
    );
    assert_eq!(
        (&asked[3]["object"], &asked[3]["oldObject"]["metadata"]["name"]),
        (&Value::Null, &json!("m"))
    );
}

#[tokio::test]
async fn mutating_webhooks_change_one_after_the_other() {
    let api = Api::new().await;
    let first = Hook::patching(json!([{"op": "add", "path": "/data/first", "value": "1"}])).await;
    let second = Hook::new(|request| {
        let seen = request["object"]["data"]["first"] == "1";
        patched(&json!([{"op": "add", "path": "/data/second", "value": seen.to_string()}]))
    })
    .await;
    register(&api, "Mutating", "b", json!([webhook(&second, json!({"name": "second.example.com"}))])).await;
    register(&api, "Mutating", "a", json!([webhook(&first, json!({"name": "first.example.com"}))])).await;
    let made = api.post(MAPS, &map("m")).await.ok();
    assert_eq!(made["data"], json!({"k": "v", "first": "1", "second": "true"}));
    assert_eq!((first.asked().len(), second.asked().len()), (1, 1));
    let broken = Hook::patching(json!([{"op": "replace", "path": "/nowhere/at/all", "value": 1}])).await;
    register(&api, "Mutating", "c", json!([webhook(&broken, json!({}))])).await;
    assert_eq!(api.post(MAPS, &map("n")).await.code, 500);
}

#[tokio::test]
async fn one_that_wants_to_is_asked_again_after_a_change() {
    let api = Api::new().await;
    let first = Hook::open().await;
    let never = Hook::open().await;
    let second = Hook::patching(json!([{"op": "add", "path": "/data/second", "value": "1"}])).await;
    let hooks = json!([
        webhook(&first, json!({"name": "first.example.com", "reinvocationPolicy": "IfNeeded"})),
        webhook(&never, json!({"name": "never.example.com"})),
        webhook(&second, json!({"name": "second.example.com", "reinvocationPolicy": "IfNeeded"})),
    ]);
    register(&api, "Mutating", "m", hooks).await;
    api.post(MAPS, &map("m")).await.ok();
    assert_eq!((first.asked().len(), never.asked().len(), second.asked().len()), (2, 1, 1));
    assert_eq!(first.asked()[1]["object"]["data"]["second"], "1");
}

/// What a webhook adds to a pod is completed and judged as if the caller had written it.
#[tokio::test]
async fn what_a_webhook_adds_is_treated_like_the_rest() {
    let api = Api::new().await;
    let sidecar =
        json!([{"op": "add", "path": "/spec/containers/-", "value": {"name": "sidecar", "image": "s:1"}}]);
    let hook = Hook::patching(sidecar).await;
    mutating(&api, &hook, json!({"rules": rules(json!(["CREATE"]), "", json!(["pods"]))})).await;
    let made = api.post(PODS, &pod("p")).await.ok();
    let sidecar = &made["spec"]["containers"][1];
    assert_eq!(sidecar["imagePullPolicy"], "IfNotPresent");
    assert_eq!(sidecar["volumeMounts"].as_array().map(Vec::len), Some(1), "the token is mounted in it too");
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    api.patch(NAMESPACE, &label).await.ok();
    drop(hook);
    let privileged = json!([{"op": "add", "path": "/spec/hostPID", "value": true}]);
    let hook = Hook::patching(privileged).await;
    api.delete(&format!("{BASE}/mutatingwebhookconfigurations/m")).await.ok();
    mutating(&api, &hook, json!({"rules": rules(json!(["CREATE"]), "", json!(["pods"]))})).await;
    let (code, message) = api.post(PODS, &pod("q")).await.failure();
    assert_eq!((code, message.contains("host namespaces (hostPID=true)")), (403, true), "{message}");
}

#[tokio::test]
async fn selectors_leave_out() {
    let api = Api::new().await;
    let hook = Hook::new(|_| json!({"allowed": false})).await;
    let selectors = json!({
        "namespaceSelector": {"matchLabels": {"hooked": "yes"}}, "objectSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
        "rules": rules(json!(["CREATE"]), "", json!(["pods", "configmaps"])),
    });
    validating(&api, &hook, selectors).await;
    api.post(PODS, &pod("a")).await.ok();
    api.patch(NAMESPACE, &json!({"metadata": {"labels": {"hooked": "yes"}}})).await.ok();
    api.post(MAPS, &map("without-label")).await.ok();
    assert_eq!(api.post(PODS, &pod("b")).await.code, 400);
    assert_eq!(hook.asked().len(), 1);
}

#[tokio::test]
async fn a_webhook_that_cannot_be_asked() {
    let api = Api::new().await;
    let (slow, stranger) = (Hook::new(|_| json!({"allowed": true, "delay": 3})).await, Hook::open().await);
    let nobody = json!({"clientConfig": {"url": "https://127.0.0.1:1/x"}, "failurePolicy": "Fail"});
    let path = format!("{BASE}/validatingwebhookconfigurations/v");
    let table = [
        (
            nobody.clone(),
            Some(
                "failed calling webhook \"hook.example.com\": failed to call webhook: Post \"https://127.0.0.1:1/x?timeout=5s\": dial tcp 127.0.0.1:1: connect: connection refused",
            ),
        ),
        (json!({"timeoutSeconds": 1}), Some("?timeout=1s\": context deadline exceeded")),
        (json!({"timeoutSeconds": 1, "failurePolicy": "Ignore"}), None),
        (
            json!({"clientConfig": {"url": format!("https://127.0.0.1:{}/", slow.port), "caBundle": stranger.authority()}}),
            Some("x509: certificate signed by unknown authority"),
        ),
        (
            json!({"clientConfig": {"service": {"namespace": "default", "name": "nothing", "path": "/x"}}}),
            Some("Post \"https://nothing.default.svc:443/x?timeout=5s\": service \"nothing\" not found"),
        ),
    ];
    for (place, (more, expected)) in table.into_iter().enumerate() {
        validating(&api, &slow, more.clone()).await;
        let reply = api.post(MAPS, &map(&format!("m{place}"))).await;
        match expected {
            Some(expected) => {
                let (code, message) = reply.failure();
                assert!(message.starts_with("Internal error occurred: failed calling webhook"), "{message}");
                assert_eq!((code, message.contains(expected)), (500, true), "{more}: {message}");
            }
            None => drop(reply.ok()),
        }
        api.delete(&path).await.ok();
    }
}

#[tokio::test]
async fn a_service_leads_to_its_endpoints() {
    let api = Api::new().await;
    let hook = Hook::new(|_| json!({"allowed": false, "status": {"message": "found you"}})).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"}, "spec": {"ports": [{"name": "https", "port": 8443, "targetPort": 9}]}});
    api.post("/api/v1/namespaces/default/services", &service).await.ok();
    let client = json!({"clientConfig": {"service": {"namespace": "default", "name": "hook", "port": 8443}, "caBundle": hook.authority()}});
    validating(&api, &hook, client).await;
    let (_, message) = api.post(MAPS, &map("m")).await.failure();
    assert!(message.ends_with("no endpoints available for service \"hook\""), "{message}");
    // No user could make an endpoint on loopback.
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "hook-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "hook"}},
        "endpoints": [{"addresses": ["127.0.0.1"]}], "ports": [{"name": "https", "port": hook.port}],
    });
    let key = "/registry/discovery.k8s.io/endpointslices/default/hook-1";
    api.store.put(key, Bytes::from(slice.to_string()), Expect::Absent).await.unwrap();
    assert_eq!(
        api.post(MAPS, &map("m")).await.failure().1,
        "admission webhook \"hook.example.com\" denied the request: found you"
    );
}

#[tokio::test]
async fn deletions_scales_bindings_and_streams_are_asked_about() {
    let api = Api::new().await;
    let hook = Hook::new(|request| {
        let kind = request["kind"]["kind"].as_str().unwrap();
        let object = &request["object"];
        let bad = request["operation"] == "DELETE"
            || (kind == "Scale" && object["spec"]["replicas"] == 9)
            || (kind == "Binding" && object["target"]["name"] == "bad")
            || kind == "PodExecOptions";
        json!({"allowed": !bad, "status": {"message": kind}})
    })
    .await;
    let resources = json!(["pods", "pods/binding", "pods/exec", "deployments/scale"]);
    let mut rules = rules(json!(["DELETE", "UPDATE", "CREATE", "CONNECT"]), "*", resources);
    rules[0]["apiGroups"] = json!(["*"]);
    validating(&api, &hook, json!({"rules": rules})).await;
    api.post(PODS, &pod("p")).await.ok();
    api.post(DEPLOYMENTS, &deployment("d")).await.ok();
    let binding = |node: &str| json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": node}});
    let denied =
        |kind: &str| (400, format!("admission webhook \"hook.example.com\" denied the request: {kind}"));
    assert_eq!(api.post(&format!("{PODS}/p/binding"), &binding("bad")).await.failure(), denied("Binding"));
    api.post(&format!("{PODS}/p/binding"), &binding("good")).await.ok();
    assert_eq!(
        api.get(&format!("{PODS}/p/exec?command=sh&container=c")).await.failure(),
        denied("PodExecOptions")
    );
    let scale = |replicas: u32| json!({"spec": {"replicas": replicas}});
    assert_eq!(api.patch(&format!("{DEPLOYMENTS}/d/scale"), &scale(9)).await.failure(), denied("Scale"));
    api.patch(&format!("{DEPLOYMENTS}/d/scale"), &scale(3)).await.ok();
    assert_eq!(api.delete(&format!("{PODS}/p")).await.failure(), denied("Pod"));
    let exec = hook.asked().into_iter().find(|request| request["operation"] == "CONNECT").unwrap();
    assert_eq!(
        exec["object"],
        json!({"kind": "PodExecOptions", "apiVersion": "v1", "container": "c", "command": ["sh"]})
    );
    assert_eq!(exec["subResource"], "exec");
}

#[tokio::test]
async fn a_scale_is_changed_as_a_scale() {
    let api = Api::new().await;
    let hook = Hook::patching(json!([{"op": "replace", "path": "/spec/replicas", "value": 5}])).await;
    mutating(&api, &hook, json!({"rules": rules(json!(["UPDATE"]), "apps", json!(["deployments/scale"]))}))
        .await;
    api.post(DEPLOYMENTS, &deployment("d")).await.ok();
    let scale = format!("{DEPLOYMENTS}/d/scale");
    assert_eq!(api.patch(&scale, &json!({"spec": {"replicas": 3}})).await.ok()["spec"]["replicas"], 5);
    assert_eq!(api.get(&format!("{DEPLOYMENTS}/d")).await.ok()["spec"]["replicas"], 5);
}

#[tokio::test]
async fn configurations_are_not_subject_to_themselves() {
    let api = Api::new().await;
    let hook = Hook::new(|_| json!({"allowed": false})).await;
    let everything = json!({"rules": rules(json!(["*"]), "*", json!(["*/*"]))});
    validating(&api, &hook, everything).await;
    assert_eq!(api.post(MAPS, &map("m")).await.code, 400);
    api.delete(&format!("{BASE}/validatingwebhookconfigurations/v")).await.ok();
    api.post(MAPS, &map("m")).await.ok();
}

/// A server starts again whatever a webhook or a quota says.
#[tokio::test]
async fn nothing_keeps_the_server_from_starting() {
    let api = Api::new().await;
    let hook = Hook::new(|_| json!({"allowed": false})).await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"services": "0"}}});
    api.post(&format!("{NAMESPACE}/resourcequotas"), &quota).await.ok();
    let full = json!({"status": {"hard": {"services": "0"}, "used": {"services": "1"}}});
    api.patch(&format!("{NAMESPACE}/resourcequotas/q/status"), &full).await.ok();
    validating(&api, &hook, json!({"rules": rules(json!(["*"]), "*", json!(["*/*"]))})).await;
    api.server.bootstrap().await.unwrap();
    assert_eq!(hook.asked().len(), 0);
}

#[tokio::test]
async fn conditions_and_old_reviews_are_refused() {
    let api = Api::new().await;
    let hook = Hook::open().await;
    let refused = async |more: Value| {
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "v"}, "webhooks": [webhook(&hook, more)],
        });
        api.post(&format!("{BASE}/validatingwebhookconfigurations"), &configuration).await.failure()
    };
    let (code, message) = refused(json!({"matchConditions": [{"name": "c", "expression": "true"}]})).await;
    assert_eq!((code, message.contains("webhooks[0].matchConditions: Forbidden")), (422, true), "{message}");
    let (code, message) = refused(json!({"admissionReviewVersions": ["v1beta1"]})).await;
    assert_eq!((code, message.contains("must include at least one of v1")), (422, true), "{message}");
}

/// What is asked for in one version is shown in another one when the webhook knows only that.
#[tokio::test]
async fn another_version_is_shown_to_those_who_ask_for_it() {
    let api = Api::new().await;
    let hook = Hook::open().await;
    let old = json!([{"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v1"], "resources": ["horizontalpodautoscalers"]}]);
    validating(&api, &hook, json!({"rules": old})).await;
    let autoscaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"}, "spec": {
        "maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}]}});
    api.post("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", &autoscaler).await.ok();
    let asked = &hook.asked()[0];
    assert_eq!((&asked["kind"]["version"], &asked["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
    assert_eq!(asked["object"]["apiVersion"], "autoscaling/v1");
    assert_eq!(asked["object"]["spec"]["targetCPUUtilizationPercentage"], 70);
}
