//! The API's contract through the tower service, over the store in memory: verbs, conflicts, lists, watches,
//! subresources, admission. Nothing here knows how the server is made.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use catamaran_server::UserInfo;
use catamaran_store::Store;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

mod support;

use support::{Api, version};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": name}}, "data": {"k": "v"}})
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]},
    })
}

fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]},
            },
        },
    })
}

#[tokio::test]
async fn create_read_update_delete() {
    let api = Api::new().await;
    let made = api.post(MAPS, &map("a")).await;
    assert_eq!(made.code, 201);
    let made = made.json();
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string());
    assert_eq!(api.get(&format!("{MAPS}/a")).await.ok(), made);
    assert_eq!(api.post(MAPS, &map("a")).await.failure(), (409, "configmaps \"a\" already exists".into()));
    assert_eq!(api.get(&format!("{MAPS}/b")).await.failure(), (404, "configmaps \"b\" not found".into()));

    let mut changed = made.clone();
    changed["data"]["k"] = "w".into();
    let updated = api.put(&format!("{MAPS}/a"), &changed).await.ok();
    assert_ne!(version(&updated), version(&made));
    let (code, message) = api.put(&format!("{MAPS}/a"), &changed).await.failure();
    assert_eq!(code, 409);
    assert!(message.contains("the object has been modified; please apply your changes"), "{message}");
    let same = api.put(&format!("{MAPS}/a"), &updated).await.ok();
    assert_eq!(version(&same), version(&updated), "nothing changed, nothing is written");

    let mut other = updated.clone();
    other["metadata"]["uid"] = "other".into();
    assert!(api.put(&format!("{MAPS}/a"), &other).await.failure().1.contains("Precondition failed: UID"));

    let deleted = api.delete(&format!("{MAPS}/a"), &Value::Null).await.ok();
    assert_eq!((&deleted["status"], &deleted["details"]["name"]), (&"Success".into(), &"a".into()));
    assert_eq!(api.get(&format!("{MAPS}/a")).await.code, 404);
}

#[tokio::test]
async fn bodies_and_places_are_checked() {
    let api = Api::new().await;
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let mut unknown = map("a");
    unknown["foo"] = 1.into();
    let (code, message) = api.post(&strict, &unknown).await.failure();
    assert_eq!(code, 400);
    assert!(message.contains("strict decoding error: unknown field \"foo\""), "{message}");
    let warned = api.post(MAPS, &unknown).await;
    assert_eq!(warned.code, 201);
    assert!(warned.headers[http::header::WARNING].to_str().unwrap().contains("unknown field"));
    assert!(warned.json().get("foo").is_none());

    let mut elsewhere = map("b");
    elsewhere["metadata"]["namespace"] = "other".into();
    assert!(api.post(MAPS, &elsewhere).await.failure().1.contains("does not match the namespace sent"));
    assert_eq!(api.put(&format!("{MAPS}/c"), &map("b")).await.code, 400);
    assert_eq!(api.post(MAPS, &pod("p")).await.code, 400);
    assert_eq!(api.send(Method::POST, MAPS, &[], b"{".to_vec()).await.code, 400);
    let text = api.send(Method::POST, MAPS, &[("content-type", "text/plain")], b"{}".to_vec()).await;
    assert_eq!(text.code, 415);
    let long = vec![b' '; 3 * 1024 * 1024 + 1];
    assert_eq!(api.send(Method::POST, MAPS, &[], long).await.code, 413);
    let html = api.send(Method::GET, MAPS, &[("accept", "text/html")], Vec::new()).await;
    assert_eq!(html.code, 406);
    let yaml = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: yaml}\ndata: {a: 'b'}\n".to_vec();
    let made = api.send(Method::POST, MAPS, &[("content-type", "application/yaml")], yaml).await;
    assert_eq!(made.ok()["data"]["a"], "b");
    assert_eq!(api.post("/api/v1/namespaces/missing/configmaps", &map("a")).await.code, 404);
    assert_eq!(api.get("/api/v1/nonsense").await.code, 404);
    assert_eq!(api.get("/nonsense").await.bytes, "404 page not found\n");
    let invalid = api.post(MAPS, &map("Not_A_Name")).await;
    assert_eq!(invalid.code, 422);
    assert_eq!(invalid.json()["details"]["causes"][0]["field"], "metadata.name");
}

#[tokio::test]
async fn names_are_generated() {
    let api = Api::new().await;
    let mut object = map("x");
    object["metadata"] = json!({"generateName": "web-"});
    let one = api.post(MAPS, &object).await.ok();
    let two = api.post(MAPS, &object).await.ok();
    let name = one["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
    assert_ne!(one["metadata"]["name"], two["metadata"]["name"]);
}

#[tokio::test]
async fn dry_runs_write_nothing() {
    let api = Api::new().await;
    let before = api.store.revision();
    let tried = api.post(&format!("{MAPS}?dryRun=All"), &map("a")).await.ok();
    assert!(tried["metadata"]["uid"].is_string());
    assert!(tried["metadata"].get("resourceVersion").is_none());
    assert_eq!(api.post(&format!("{MAPS}?dryRun=Yes"), &map("a")).await.code, 422);
    assert_eq!(api.store.revision(), before);
    api.post(MAPS, &map("a")).await.ok();
    let (code, message) = api.post(&format!("{MAPS}?dryRun=All"), &map("a")).await.failure();
    assert_eq!((code, message.as_str()), (409, "configmaps \"a\" already exists"));
    let uri = format!("{MAPS}/a?dryRun=All");
    assert_eq!(
        api.patch("merge-patch+json", &uri, &json!({"data": {"k": "z"}})).await.ok()["data"]["k"],
        "z"
    );
    api.delete(&uri, &Value::Null).await.ok();
    assert_eq!(api.get(&format!("{MAPS}/a")).await.ok()["data"]["k"], "v");
}

#[tokio::test]
async fn lists_come_in_pages_of_one_snapshot() {
    let api = Api::new().await;
    for name in ["a", "b", "c", "d", "e"] {
        api.post(MAPS, &map(name)).await.ok();
    }
    let first = api.get(&format!("{MAPS}?limit=2")).await.ok();
    assert_eq!((&first["kind"], &first["apiVersion"]), (&"ConfigMapList".into(), &"v1".into()));
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    assert!(first["items"][0].get("kind").is_none(), "items of built-in lists carry no kind");
    api.delete(&format!("{MAPS}/c"), &Value::Null).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = api.get(&format!("{MAPS}?limit=10&continue={token}")).await.ok();
    let names: Vec<&str> = rest["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["c", "d", "e"], "the deletion came after the snapshot");
    assert_eq!(version(&rest), version(&first));
    assert!(rest["metadata"].get("continue").is_none());

    api.store.compact(api.store.revision()).await.unwrap();
    let expired = api.get(&format!("{MAPS}?limit=10&continue={token}")).await;
    assert_eq!(expired.code, 410);
    let loose = expired.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    let resumed = api.get(&format!("{MAPS}?limit=10&continue={loose}")).await.ok();
    assert_eq!(resumed["items"].as_array().unwrap().len(), 2);

    let chosen = api.get(&format!("{MAPS}?labelSelector=app+in+(a,e)&limit=1")).await.ok();
    assert_eq!(chosen["items"][0]["metadata"]["name"], "a");
    assert!(chosen["metadata"].get("remainingItemCount").is_none());
    let token = chosen["metadata"]["continue"].as_str().unwrap();
    let next = api.get(&format!("{MAPS}?labelSelector=app+in+(a,e)&limit=1&continue={token}")).await.ok();
    assert_eq!(next["items"][0]["metadata"]["name"], "e");
    let named = api.get("/api/v1/configmaps?fieldSelector=metadata.name=e").await.ok();
    assert_eq!(named["items"].as_array().unwrap().len(), 1);
    assert_eq!(api.get(&format!("{MAPS}?resourceVersion=99999")).await.code, 504);
    assert_eq!(api.get(&format!("{MAPS}?fieldSelector=spec.x=1")).await.code, 400);
}

#[tokio::test]
async fn other_shapes() {
    let api = Api::new().await;
    api.post(PODS, &pod("p")).await.ok();
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    for uri in [PODS.to_owned(), format!("{PODS}/p")] {
        let got = api.send(Method::GET, &uri, &table, Vec::new()).await.ok();
        assert_eq!((&got["kind"], &got["apiVersion"]), (&"Table".into(), &"meta.k8s.io/v1".into()));
        assert_eq!(got["columnDefinitions"][0]["name"], "Name");
        assert_eq!(got["rows"][0]["cells"][0], "p");
        assert_eq!(got["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    }
    let metadata = [("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
    let got = api.send(Method::GET, PODS, &metadata, Vec::new()).await.ok();
    assert_eq!(got["kind"], "PartialObjectMetadataList");
    assert!(got["items"][0].get("spec").is_none());
}

#[tokio::test]
async fn watches_see_each_change_once_and_in_order() {
    let api = Api::new().await;
    let start = api.get(MAPS).await.ok();
    let from = version(&start).to_owned();
    let mut live = api.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
    api.post(MAPS, &map("a")).await.ok();
    api.patch("merge-patch+json", &format!("{MAPS}/a"), &json!({"data": {"k": "2"}})).await.ok();
    api.delete(&format!("{MAPS}/a"), &Value::Null).await.ok();
    let expected = ["ADDED a", "MODIFIED a", "DELETED a"];
    assert_eq!(live.kinds(3).await, expected);
    let mut late = api.watch(&format!("{MAPS}?watch=1&resourceVersion={from}")).await;
    assert_eq!(late.kinds(3).await, expected, "the past is the same for everybody");
    let mut legacy =
        api.watch(&format!("/api/v1/watch/namespaces/default/configmaps?resourceVersion={from}")).await;
    assert_eq!(legacy.kinds(3).await, expected);

    api.post(MAPS, &map("b")).await.ok();
    let mut now = api.watch(&format!("{MAPS}?watch=true")).await;
    assert_eq!(now.kinds(1).await, ["ADDED b"], "without a revision the present comes first");
    let event = live.next().await.unwrap();
    assert_eq!(event["object"]["kind"], "ConfigMap");
    assert!(event["object"]["metadata"]["resourceVersion"].is_string());
}

#[tokio::test]
async fn selectors_turn_changes_into_additions_and_deletions() {
    let api = Api::new().await;
    let mut watch = api.watch(&format!("{MAPS}?watch=true&labelSelector=on%3Dyes")).await;
    api.post(MAPS, &map("a")).await.ok();
    let label = |value: Value| json!({"metadata": {"labels": {"on": value}}});
    let uri = format!("{MAPS}/a");
    api.patch("merge-patch+json", &uri, &label("yes".into())).await.ok();
    api.patch("merge-patch+json", &uri, &json!({"data": {"k": "2"}})).await.ok();
    let last = api.patch("merge-patch+json", &uri, &label("no".into())).await.ok();
    assert_eq!(watch.kinds(2).await, ["ADDED a", "MODIFIED a"]);
    let gone = watch.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(version(&gone["object"]), version(&last), "with the revision of the change");
    assert_eq!(gone["object"]["metadata"]["labels"]["on"], "yes", "and the last state that matched");
}

#[tokio::test]
async fn watch_lists_end_with_a_bookmark() {
    let api = Api::new().await;
    api.post(MAPS, &map("a")).await.ok();
    let query =
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = api.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(watch.kinds(1).await, ["ADDED a"]);
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    api.post(MAPS, &map("b")).await.ok();
    assert_eq!(watch.kinds(1).await, ["ADDED b"]);
    assert_eq!(api.get(&format!("{MAPS}?watch=true&sendInitialEvents=true")).await.code, 422);
}

#[tokio::test]
async fn a_forgotten_past_is_an_error_in_the_stream() {
    let api = Api::new().await;
    for name in ["a", "b"] {
        api.post(MAPS, &map(name)).await.ok();
    }
    api.store.compact(api.store.revision()).await.unwrap();
    let mut watch = api.watch(&format!("{MAPS}?watch=true&resourceVersion=1")).await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&"ERROR".into(), &410.into()));
    assert_eq!(event["object"]["reason"], "Expired");
    assert!(watch.next().await.is_none(), "the stream ends");
}

#[tokio::test(start_paused = true)]
async fn quiet_watches_get_bookmarks_and_end() {
    let api = Api::new().await;
    let mut watch = api.watch(&format!("{MAPS}?watch=true&allowWatchBookmarks=true&timeoutSeconds=90")).await;
    api.post(
        "/api/v1/namespaces/default/secrets",
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}),
    )
    .await
    .ok();
    let now = api.store.revision().to_string();
    let mut marks = Vec::new();
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(Duration::from_secs(200), watch.body.frame()).await {
        let event: Value = serde_json::from_slice(&frame.into_data().unwrap()).unwrap();
        assert_eq!(event["type"], "BOOKMARK");
        marks.push(version(&event["object"]).to_owned());
    }
    assert_eq!(marks, [now.clone(), now], "one a minute, one at the end");
}

#[tokio::test]
async fn four_kinds_of_patches() {
    let api = Api::new().await;
    api.post(DEPLOYMENTS, &deployment("web")).await.ok();
    let uri = format!("{DEPLOYMENTS}/web");
    let merged = json!({"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "b:2"}]}}}});
    let strategic = api.patch("strategic-merge-patch+json", &uri, &merged).await.ok();
    let images: Vec<&Value> = strategic["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| &container["image"])
        .collect();
    assert_eq!(images, ["a:1", "b:2"]);
    assert_eq!(strategic["metadata"]["generation"], 2);
    let labelled =
        api.patch("merge-patch+json", &uri, &json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    assert_eq!(labelled["metadata"]["generation"], 2, "labels are no desired state");
    let steps = json!([{"op": "test", "path": "/spec/replicas", "value": 2}, {"op": "replace", "path": "/spec/replicas", "value": 5}]);
    assert_eq!(api.patch("json-patch+json", &uri, &steps).await.ok()["spec"]["replicas"], 5);
    assert_eq!(api.patch("json-patch+json", &uri, &steps).await.code, 422, "the test fails now");
    assert_eq!(api.patch("json", &uri, &json!({})).await.code, 415);
    assert_eq!(api.patch("merge-patch+json", &format!("{DEPLOYMENTS}/nope"), &json!({})).await.code, 404);
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 1}});
    assert_eq!(api.patch("merge-patch+json", &uri, &stale).await.code, 409);
    let broken = json!({"spec": {"replicas": -1}});
    assert_eq!(api.patch("merge-patch+json", &uri, &broken).await.code, 422);
}

#[tokio::test]
async fn concurrent_patches_all_count() {
    let api = Arc::new(Api::new().await);
    api.post(MAPS, &map("a")).await.ok();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..40 {
        let api = api.clone();
        tasks.spawn(async move {
            let data = json!({"data": {format!("k{number}"): "v"}});
            api.patch("merge-patch+json", &format!("{MAPS}/a"), &data).await.code
        });
    }
    while let Some(code) = tasks.join_next().await {
        assert_eq!(code.unwrap(), 200);
    }
    let data = api.get(&format!("{MAPS}/a")).await.ok()["data"].as_object().unwrap().len();
    assert_eq!(data, 41);
}

#[tokio::test]
async fn status_and_scale_are_their_own() {
    let api = Api::new().await;
    let mut object = deployment("web");
    object["status"] = json!({"replicas": 9});
    let made = api.post(DEPLOYMENTS, &object).await.ok();
    assert!(made["status"].get("replicas").is_none(), "status is not set by creation");
    let uri = format!("{DEPLOYMENTS}/web");
    let both = json!({"spec": {"replicas": 7}, "status": {"replicas": 2}});
    let status = api.patch("merge-patch+json", &format!("{uri}/status"), &both).await.ok();
    assert_eq!((&status["spec"]["replicas"], &status["status"]["replicas"]), (&2.into(), &2.into()));
    assert_eq!(status["metadata"]["generation"], 1);
    let main = api.patch("merge-patch+json", &uri, &json!({"status": {"replicas": 5}})).await.ok();
    assert_eq!(main["status"]["replicas"], 2);
    assert_eq!(version(&main), version(&status), "nothing changed");

    let scale = api.get(&format!("{uri}/scale")).await.ok();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&"Scale".into(), &2.into()));
    let scaled =
        api.patch("merge-patch+json", &format!("{uri}/scale"), &json!({"spec": {"replicas": 4}})).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 4);
    let mut stale = scale.clone();
    stale["spec"]["replicas"] = 1.into();
    assert_eq!(api.put(&format!("{uri}/scale"), &stale).await.code, 409);
    let object = api.get(&uri).await.ok();
    assert_eq!((&object["spec"]["replicas"], &object["metadata"]["generation"]), (&4.into(), &2.into()));
}

#[tokio::test]
async fn pods_are_completed_bound_and_deleted_with_grace() {
    let api = Api::new().await;
    let made = api.post(PODS, &pod("p")).await.ok();
    let spec = &made["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["priority"], 0);
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    assert!(spec["volumes"][0]["name"].as_str().unwrap().starts_with("kube-api-access-"));
    assert_eq!(
        (&made["status"]["phase"], &made["status"]["qosClass"]),
        (&"Pending".into(), &"BestEffort".into())
    );
    assert!(spec["securityContext"].is_object(), "old clients follow it without a look");

    let uri = format!("{PODS}/p");
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(api.post(&format!("{uri}/binding"), &binding).await.code, 201);
    let (code, message) = api.post(&format!("{uri}/binding"), &binding).await.failure();
    assert_eq!(code, 409);
    assert!(message.contains("already assigned to node \"n1\""), "{message}");
    let bound = api.get(&uri).await.ok();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let on_node = api.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.ok();
    assert_eq!(on_node["items"].as_array().unwrap().len(), 1);

    let mut watch = api.watch(&format!("{PODS}?watch=true&resourceVersion={}", version(&bound))).await;
    let ending = api.delete(&uri, &json!({"gracePeriodSeconds": 20})).await.ok();
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 20);
    assert!(ending["metadata"]["deletionTimestamp"].is_string());
    let longer = api.delete(&uri, &json!({"gracePeriodSeconds": 40})).await.ok();
    assert_eq!(version(&longer), version(&ending), "grace is only shortened");
    let wrong = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}});
    assert_eq!(api.delete(&uri, &wrong).await.code, 409);
    api.delete(&uri, &json!({"gracePeriodSeconds": 0})).await.ok();
    assert_eq!(api.get(&uri).await.code, 404);
    assert_eq!(watch.kinds(2).await, ["MODIFIED p", "DELETED p"]);

    api.post(PODS, &pod("q")).await.ok();
    api.delete(&format!("{PODS}/q"), &Value::Null).await.ok();
    assert_eq!(api.get(&format!("{PODS}/q")).await.code, 404, "a pod that runs nowhere goes at once");
    let mut stranger = pod("r");
    stranger["spec"]["serviceAccountName"] = "nobody".into();
    let (code, message) = api.post(PODS, &stranger).await.failure();
    assert_eq!(code, 403);
    assert!(message.contains("error looking up service account default/nobody"), "{message}");
    let mut unknown = pod("s");
    unknown["spec"]["runtimeClassName"] = "never-heard-of".into();
    api.post(PODS, &unknown).await.ok();
}

#[tokio::test]
async fn finalizers_hold_what_is_deleted() {
    let api = Api::new().await;
    let mut object = map("a");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.post(MAPS, &object).await.ok();
    let uri = format!("{MAPS}/a");
    let held = api.delete(&uri, &json!({"propagationPolicy": "Foreground"})).await.ok();
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(held["metadata"]["finalizers"], json!(["example.com/hold", "foregroundDeletion"]));
    let (code, message) = api.post(MAPS, &map("a")).await.failure();
    assert_eq!(code, 409);
    assert!(message.starts_with("object is being deleted: "), "{message}");
    let more =
        json!({"metadata": {"finalizers": ["example.com/hold", "foregroundDeletion", "example.com/new"]}});
    assert_eq!(api.patch("merge-patch+json", &uri, &more).await.code, 422);
    let before = api.store.revision();
    let last = api.patch("merge-patch+json", &uri, &json!({"metadata": {"finalizers": null}})).await.ok();
    assert!(last["metadata"].get("finalizers").is_none());
    assert_eq!(api.get(&uri).await.code, 404);
    assert_eq!(api.store.revision(), before + 1, "one write: no crash can leave the object behind");
}

#[tokio::test]
async fn numbers_and_depths_without_measure_break_nothing() {
    let api = Api::new().await;
    let mut lasting = pod("p");
    lasting["spec"]["nodeName"] = "n1".into();
    lasting["spec"]["terminationGracePeriodSeconds"] = i64::MAX.into();
    api.post(PODS, &lasting).await.ok();
    let uri = format!("{PODS}/p");
    assert_eq!(api.delete(&format!("{uri}?gracePeriodSeconds=soon"), &Value::Null).await.code, 400);
    assert!(api.delete(&uri, &Value::Null).await.ok()["metadata"]["deletionTimestamp"].is_string());
    api.delete(&uri, &json!({"gracePeriodSeconds": i64::MIN})).await.ok();
    api.delete(&uri, &json!({"gracePeriodSeconds": 0})).await.ok();
    let mut watch = api.watch(&format!("{MAPS}?watch=true&timeoutSeconds={}", i64::MAX)).await;
    api.post(MAPS, &map("a")).await.ok();
    assert_eq!(watch.kinds(1).await, ["ADDED a"]);
    // Each operation is shallow; together they would be thousands of levels.
    let deep = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    let nest = |path: &str| format!("{{\"op\":\"add\",\"path\":\"{path}\",\"value\":{}}}", deep(60));
    let paths = (0..40).map(|at| nest(&format!("/data{}", "/a".repeat(at * 60))));
    let body = format!("[{}]", paths.collect::<Vec<_>>().join(","));
    let media = [("content-type", "application/json-patch+json")];
    let reply = api.send(Method::PATCH, &format!("{MAPS}/a"), &media, body.into()).await;
    let (code, message) = reply.failure();
    assert_eq!((code, message.contains("levels deep")), (400, true), "{message}");
    assert_eq!(api.get(&format!("{MAPS}/a")).await.ok()["data"]["k"], "v");
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let api = Api::new().await;
    for name in ["a", "b", "c"] {
        api.post(MAPS, &map(name)).await.ok();
    }
    let gone = api.delete(&format!("{MAPS}?labelSelector=app!%3Db"), &Value::Null).await.ok();
    assert_eq!(gone["items"].as_array().unwrap().len(), 2);
    let left = api.get(MAPS).await.ok();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(api.delete("/api/v1/namespaces", &Value::Null).await.code, 405);
}

#[tokio::test]
async fn namespaces_live_and_end() {
    let api = Api::new().await;
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    let made = api.post("/api/v1/namespaces", &space).await.ok();
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "team");
    assert_eq!(
        (&made["status"]["phase"], &made["spec"]["finalizers"]),
        (&"Active".into(), &json!(["kubernetes"]))
    );
    let (code, message) = api.delete("/api/v1/namespaces/default", &Value::Null).await.failure();
    assert_eq!((code, message.contains("may not be deleted")), (403, true));
    let ending = api.delete("/api/v1/namespaces/team", &Value::Null).await.ok();
    assert_eq!(ending["status"]["phase"], "Terminating");
    let refused = api.post("/api/v1/namespaces/team/configmaps", &map("a")).await;
    assert_eq!(refused.code, 403);
    assert_eq!(refused.json()["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let mut done = ending.clone();
    done["spec"] = json!({});
    api.put("/api/v1/namespaces/team/finalize", &done).await.ok();
    assert_eq!(api.get("/api/v1/namespaces/team").await.code, 404);
}

#[tokio::test]
async fn services_get_addresses_and_ports() {
    let api = Api::new().await;
    let kubernetes = api.get(&format!("{SERVICES}/kubernetes")).await.ok();
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.96.0.1");
    let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    let ports = json!([{"port": 80}]);
    let made = api.post(SERVICES, &service("a", json!({"ports": ports, "type": "NodePort"}))).await.ok();
    let (address, port) = (made["spec"]["clusterIP"].clone(), made["spec"]["ports"][0]["nodePort"].clone());
    assert!(address.as_str().unwrap().starts_with("10.96."), "{address}");
    assert!((30_000..=32_767).contains(&port.as_u64().unwrap()));
    assert_eq!(
        api.post(SERVICES, &service("b", json!({"ports": ports, "clusterIP": address}))).await.code,
        422
    );
    let changed = api
        .patch(
            "merge-patch+json",
            &format!("{SERVICES}/a"),
            &json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}}),
        )
        .await
        .ok();
    assert_eq!((&changed["spec"]["clusterIP"], &changed["spec"]["ports"][0]["nodePort"]), (&address, &port));
    let inside = json!({"spec": {"type": "ClusterIP"}});
    let inside = api.patch("merge-patch+json", &format!("{SERVICES}/a"), &inside).await.ok();
    assert_eq!(inside["spec"]["clusterIP"], address);
    assert!(inside["spec"].get("externalTrafficPolicy").is_none());
    assert!(inside["spec"]["ports"][0].get("nodePort").is_none());
    let outside = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    let outside = api.patch("merge-patch+json", &format!("{SERVICES}/a"), &outside).await.ok();
    assert!(outside["spec"].get("clusterIP").is_none());
    let misfit = json!({"ports": [{"port": 80, "nodePort": 30_123}]});
    assert_eq!(api.post(SERVICES, &service("misfit", misfit)).await.code, 422);
    api.delete(&format!("{SERVICES}/a"), &Value::Null).await.ok();
    let again = api.post(SERVICES, &service("b", json!({"ports": ports, "clusterIP": address}))).await.ok();
    assert_eq!(again["spec"]["clusterIP"], address);
}

#[tokio::test]
async fn tokens_stand_for_accounts() {
    let mut api = Api::new().await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}});
    let uri = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let made = api.post(uri, &request).await;
    assert_eq!(made.code, 201);
    let token = made.json()["status"]["token"].as_str().unwrap().to_owned();
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let status =
        api.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.ok()["status"].clone();
    assert_eq!(
        (&status["authenticated"], &status["user"]["username"]),
        (&true.into(), &"system:serviceaccount:default:default".into())
    );
    let short = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 60}});
    assert_eq!(api.post(uri, &short).await.code, 422);

    api.user = UserInfo::new("jane", &[]);
    let whoami = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let me = api.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &whoami).await.ok();
    assert_eq!(me["status"]["userInfo"]["username"], "jane");
    let may = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}},
    });
    let answer = api.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &may).await.ok();
    assert_eq!(answer["status"]["allowed"], false);
    let (code, message) = api.get(PODS).await.failure();
    assert_eq!(code, 403);
    assert_eq!(
        message,
        r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#
    );
    api.user = UserInfo::anonymous();
    assert_eq!(api.get(PODS).await.code, 403);
    assert_eq!(api.get("/version").await.ok()["minor"], "33");
    assert_eq!(api.get("/readyz").await.bytes, "ok");
}

#[tokio::test]
async fn events_are_the_same_in_both_groups() {
    let api = Api::new().await;
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "example.com/c", "reportingInstance": "i",
        "action": "Test", "reason": "Testing", "type": "Normal", "note": "hello",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
    });
    api.post("/apis/events.k8s.io/v1/namespaces/default/events", &event).await.ok();
    let core = api.get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp").await.ok();
    assert_eq!(core["items"][0]["message"], "hello");
    let new = api.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.ok();
    assert_eq!((&new["apiVersion"], &new["note"]), (&"events.k8s.io/v1".into(), &"hello".into()));
}

#[tokio::test]
async fn put_creates_what_may_be_created_so() {
    let api = Api::new().await;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l", "namespace": "default"},
        "spec": {"holderIdentity": "a"},
    });
    let uri = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    assert_eq!(api.put(uri, &lease).await.code, 201);
    let mut unversioned = lease.clone();
    unversioned["spec"]["holderIdentity"] = "b".into();
    assert_eq!(api.put(uri, &unversioned).await.code, 422, "leases are only changed with a revision");
    assert_eq!(api.put(&format!("{MAPS}/nope"), &map("nope")).await.code, 404);
}

#[tokio::test]
async fn discovery_and_documents() {
    let api = Api::new().await;
    let list = api.get("/apis/apps/v1").await.ok();
    assert!(list["resources"].as_array().unwrap().iter().any(|entry| entry["name"] == "deployments/scale"));
    let index = api.get("/openapi/v3").await.ok();
    let place = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = api.get(&place).await;
    assert!(document.headers[http::header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    assert!(document.json()["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
    let old = api
        .send(
            Method::GET,
            "/openapi/v2",
            &[("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")],
            Vec::new(),
        )
        .await;
    assert_eq!(
        old.headers[http::header::CONTENT_TYPE],
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    );
    let long = api.send(Method::GET, &place, &[("accept-encoding", "gzip")], Vec::new()).await;
    assert_eq!(long.headers[http::header::CONTENT_ENCODING], "gzip");
}

#[tokio::test]
async fn applies_own_fields_and_conflict() {
    let api = Api::new().await;
    let uri = format!("{MAPS}/a");
    let apply = async |manager: &str, force: &str, data: Value| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
        let uri = format!("{uri}?fieldManager={manager}&force={force}");
        api.patch("apply-patch+yaml", &uri, &body).await
    };
    let made = apply("one", "false", json!({"x": "1", "y": "1"})).await;
    assert_eq!(made.code, 201);
    let made = made.json();
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "one");
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Apply");
    let again = apply("one", "false", json!({"x": "1", "y": "1"})).await.ok();
    assert_eq!(version(&again), version(&made), "the same configuration changes nothing");

    let refused = apply("two", "false", json!({"x": "2"})).await;
    assert_eq!(refused.code, 409);
    let cause = refused.json()["details"]["causes"][0].clone();
    assert_eq!((&cause["reason"], &cause["field"]), (&"FieldManagerConflict".into(), &".data.x".into()));
    assert_eq!(apply("two", "true", json!({"x": "2"})).await.ok()["data"]["x"], "2");
    let pruned = apply("one", "false", json!({})).await.ok();
    assert_eq!(pruned["data"], json!({"x": "2"}), "what only one manager had goes with its configuration");

    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    assert_eq!(api.patch("apply-patch+yaml", &uri, &body).await.code, 422, "a manager must be named");
    let merged = api
        .patch("merge-patch+json", &format!("{uri}?fieldManager=three"), &json!({"data": {"z": "3"}}))
        .await
        .ok();
    let managers = merged["metadata"]["managedFields"].as_array().unwrap();
    assert!(managers.iter().any(|entry| entry["manager"] == "three" && entry["operation"] == "Update"));
    assert_eq!(api.patch("merge-patch+json", &format!("{uri}?force=true"), &json!({})).await.code, 422);
}

#[tokio::test]
async fn a_watcher_that_falls_behind_misses_nothing() {
    let api = Api::new().await;
    api.post(MAPS, &map("a")).await.ok();
    let from = api.store.revision();
    let mut slow = api.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
    let mut last = String::new();
    for number in 0..10_000 {
        let body = json!({"data": {"k": number.to_string()}});
        last = version(&api.patch("merge-patch+json", &format!("{MAPS}/a"), &body).await.ok()).to_owned();
    }
    let mut expected = 0;
    loop {
        let event = slow.next().await.unwrap();
        assert_eq!(event["object"]["data"]["k"], expected.to_string());
        expected += 1;
        if version(&event["object"]) == last {
            break;
        }
    }
    assert_eq!(expected, 10_000);
    api.post(MAPS, &map("b")).await.ok();
    assert_eq!(slow.kinds(1).await, ["ADDED b"], "and goes on live");
}
