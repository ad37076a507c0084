//! Writes and deletions: concurrency, names, dry runs, generations, finalizers, grace, strictness.

use serde_json::{Value, json};

use crate::support::{Api, version};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]},
    })
}

fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]},
            },
        },
    })
}

#[tokio::test]
async fn updates_name_the_state_that_they_change() {
    let api = Api::new().await;
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"holderIdentity": "a"}});
    let made = api.put(&format!("{LEASES}/l"), &lease).await;
    assert_eq!(made.code, 201, "some kinds are made by PUT");
    let mut blind = lease.clone();
    blind["spec"]["holderIdentity"] = "b".into();
    assert_eq!(
        api.put(&format!("{LEASES}/l"), &blind).await.failure(),
        (422, "leases.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be specified for an update".into())
    );
    let stale = api.post(MAPS, &map("a")).await.ok();
    let mut fresh = stale.clone();
    fresh["data"]["k"] = "2".into();
    api.put(&format!("{MAPS}/a"), &fresh).await.ok();
    assert_eq!(
        api.put(&format!("{MAPS}/a"), &stale).await.failure(),
        (409, "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again".into())
    );
    let (code, message) = api.post(MAPS, &fresh).await.failure();
    assert_eq!((code, message.as_str()), (400, "resourceVersion should not be set on objects to be created"));
}

#[tokio::test]
async fn what_the_server_decides_is_not_the_clients() {
    let api = Api::new().await;
    let mut wishes = map("a");
    wishes["metadata"]["uid"] = "mine".into();
    wishes["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z".into();
    wishes["metadata"]["deletionTimestamp"] = "2001-01-01T00:00:00Z".into();
    wishes["metadata"]["generation"] = 7.into();
    wishes["metadata"]["selfLink"] = "/x".into();
    let made = api.post(MAPS, &wishes).await.ok();
    let metadata = &made["metadata"];
    assert_ne!(metadata["uid"], "mine");
    assert_ne!(metadata["creationTimestamp"], "2001-01-01T00:00:00Z");
    for field in ["deletionTimestamp", "generation", "selfLink"] {
        assert!(metadata.get(field).is_none(), "{field}");
    }
    let later = json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z", "generation": 9,
        "deletionTimestamp": "2001-01-01T00:00:00Z", "deletionGracePeriodSeconds": 5}});
    let same = api.patch("merge-patch+json", &format!("{MAPS}/a"), &later).await.ok();
    assert_eq!(same["metadata"], made["metadata"], "and nothing was written");
    let renamed = json!({"metadata": {"name": "b"}});
    assert_eq!(api.patch("merge-patch+json", &format!("{MAPS}/a"), &renamed).await.code, 400);
    let moved = json!({"metadata": {"namespace": "kube-system"}});
    assert_eq!(
        api.patch("merge-patch+json", &format!("{MAPS}/a"), &moved).await.failure(),
        (400, "the namespace of the provided object does not match the namespace sent on the request".into())
    );
    let other = json!({"metadata": {"uid": "another"}});
    let (code, message) = api.patch("merge-patch+json", &format!("{MAPS}/a"), &other).await.failure();
    assert_eq!(code, 409);
    assert!(
        message.contains("Precondition failed: UID in precondition: another, UID in object meta: "),
        "{message}"
    );
}

#[tokio::test]
async fn generated_names_that_are_taken() {
    let api = Api::new().await;
    let mut long = map("x");
    long["metadata"] = json!({"generateName": "n".repeat(80)});
    let name = api.post(MAPS, &long).await.ok()["metadata"]["name"].as_str().unwrap().to_owned();
    assert_eq!(name.len(), 63, "58 characters stay");
    let mut both = map("given");
    both["metadata"]["generateName"] = "prefix-".into();
    let made = api.post(MAPS, &both).await.ok();
    assert_eq!(made["metadata"]["name"], "given", "the name wins");
    let again = api.post(MAPS, &both).await;
    assert_eq!(
        again.failure(),
        (409, "configmaps \"given\" already exists, the server was not able to generate a unique name for the object".into())
    );
    assert_eq!(again.json()["details"]["retryAfterSeconds"], 1);
    assert_eq!(again.headers["retry-after"], "1");
    let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}});
    let (code, message) = api.post(MAPS, &nameless).await.failure();
    assert_eq!(code, 422);
    assert!(message.contains("metadata.name: Required value: name or generateName is required"), "{message}");
}

#[tokio::test]
async fn dry_runs_do_all_but_the_write() {
    let api = Api::new().await;
    let before = api.store_revision();
    let mut generated = pod("x");
    generated["metadata"] = json!({"generateName": "p-"});
    let tried = api.post(&format!("{PODS}?dryRun=All"), &generated).await.ok();
    assert!(tried["metadata"]["name"].as_str().unwrap().starts_with("p-"));
    assert!(tried["metadata"]["uid"].is_string() && tried["metadata"].get("resourceVersion").is_none());
    assert_eq!(tried["spec"]["serviceAccountName"], "default", "admission runs");
    let mut broken = pod("y");
    broken["spec"]["containers"] = json!([]);
    assert_eq!(api.post(&format!("{PODS}?dryRun=All"), &broken).await.code, 422, "and so does validation");
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}});
    let services = "/api/v1/namespaces/default/services";
    assert!(
        api.post(&format!("{services}?dryRun=All"), &service).await.ok()["spec"]["clusterIP"].is_string()
    );
    let config =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "z"}, "data": {"k": "v"}});
    let uri = format!("{MAPS}/z?dryRun=All&fieldManager=m");
    assert_eq!(api.patch("apply-patch+yaml", &uri, &config).await.code, 201);
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}});
    assert_eq!(api.put(&format!("{LEASES}/l?dryRun=All"), &lease).await.code, 201);
    for (uri, kind) in [
        (format!("{MAPS}?dryRun=Some"), "CreateOptions"),
        (format!("{MAPS}?dryRun=All&dryRun=None"), "CreateOptions"),
    ] {
        let (code, message) = api.post(&uri, &map("a")).await.failure();
        assert_eq!(code, 422);
        assert!(
            message.starts_with(&format!("{kind}.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: ")),
            "{message}"
        );
        assert!(message.ends_with("supported values: \"All\""), "{message}");
    }
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"},
        "deleteOptions": {"dryRun": ["All"]}});
    assert_eq!(api.store_revision(), before);
    api.post(PODS, &pod("p")).await.ok();
    assert_eq!(api.post(&format!("{PODS}/p/eviction"), &eviction).await.code, 201);
    assert_eq!(api.get(&format!("{PODS}/p")).await.code, 200);
    let going = api.delete(&format!("{PODS}/p?dryRun=All"), &Value::Null).await;
    assert_eq!(going.code, 200);
    assert_eq!(api.get(&format!("{PODS}/p")).await.code, 200);
}

#[tokio::test]
async fn generations_count_changes_of_what_is_wanted() {
    let api = Api::new().await;
    let uri = format!("{DEPLOYMENTS}/d");
    let generation = |object: &Value| object["metadata"]["generation"].as_i64();
    assert_eq!(generation(&api.post(DEPLOYMENTS, &deployment("d")).await.ok()), Some(1));
    let labelled = json!({"metadata": {"labels": {"a": "b"}, "generation": 40}});
    assert_eq!(generation(&api.patch("merge-patch+json", &uri, &labelled).await.ok()), Some(1));
    let more = json!({"spec": {"replicas": 3}});
    assert_eq!(generation(&api.patch("merge-patch+json", &uri, &more).await.ok()), Some(2));
    let status = json!({"status": {"observedGeneration": 2}});
    assert_eq!(
        generation(&api.patch("merge-patch+json", &format!("{uri}/status"), &status).await.ok()),
        Some(2)
    );
    let held = json!({"metadata": {"finalizers": ["example.com/f"]}});
    assert_eq!(generation(&api.patch("merge-patch+json", &uri, &held).await.ok()), Some(2));
    assert_eq!(generation(&api.delete(&uri, &Value::Null).await.ok()), Some(3), "a deletion counts once");
    assert_eq!(generation(&api.delete(&uri, &Value::Null).await.ok()), Some(3));
    assert_eq!(generation(&api.post(MAPS, &map("a")).await.ok()), None);
}

#[tokio::test]
async fn deletions_with_conditions() {
    let api = Api::new().await;
    let made = api.post(MAPS, &map("a")).await.ok();
    let uri = format!("{MAPS}/a");
    let uid = made["metadata"]["uid"].as_str().unwrap();
    assert_eq!(
        api.delete(&uri, &json!({"preconditions": {"uid": "x"}})).await.failure(),
        (
            409,
            format!(
                "Operation cannot be fulfilled on ConfigMap \"a\": the UID in the precondition (x) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
            )
        )
    );
    let revision = version(&made);
    assert_eq!(
        api.delete(&uri, &json!({"preconditions": {"resourceVersion": "1"}})).await.failure(),
        (
            409,
            format!(
                "Operation cannot be fulfilled on ConfigMap \"a\": the ResourceVersion in the precondition (1) does not match the ResourceVersion in record ({revision}). The object might have been modified"
            )
        )
    );
    let both = json!({"propagationPolicy": "Orphan", "orphanDependents": false});
    let (code, message) = api.delete(&uri, &both).await.failure();
    assert_eq!(code, 422);
    assert!(message.contains("orphanDependents and deletionPropagation cannot be both set"), "{message}");
    let (code, message) = api.delete(&uri, &json!({"propagationPolicy": "Sideways"})).await.failure();
    assert_eq!(code, 422);
    assert!(message.contains("propagationPolicy: Unsupported value: \"Sideways\""), "{message}");
    let other = json!({"kind": "Pod", "apiVersion": "v1"});
    assert_eq!(api.delete(&uri, &other).await.code, 400);
    let right = json!({"kind": "DeleteOptions", "apiVersion": "apps/v1",
        "preconditions": {"uid": uid, "resourceVersion": revision}});
    let gone = api.delete(&uri, &right).await.ok();
    assert_eq!(gone["kind"], "Status");
    assert_eq!(gone["status"], "Success");
    assert_eq!(gone["details"], json!({"name": "a", "kind": "configmaps", "uid": uid}));
}

#[tokio::test]
async fn propagation_is_written_down() {
    let api = Api::new().await;
    let table: [(Value, Value, u16, Value); 7] = [
        (json!({"propagationPolicy": "Orphan"}), json!([]), 200, json!(["orphan"])),
        (json!({"propagationPolicy": "Foreground"}), json!([]), 200, json!(["foregroundDeletion"])),
        (json!({"orphanDependents": true}), json!([]), 200, json!(["orphan"])),
        (json!({"orphanDependents": false}), json!(["example.com/f"]), 202, json!(["example.com/f"])),
        (
            json!({"propagationPolicy": "Background"}),
            json!(["example.com/f", "orphan"]),
            200,
            json!(["example.com/f"]),
        ),
        (json!({"propagationPolicy": "Foreground"}), json!(["orphan"]), 200, json!(["foregroundDeletion"])),
        (Value::Null, json!(["foregroundDeletion"]), 200, json!(["foregroundDeletion"])),
    ];
    for (number, (options, before, code, after)) in table.into_iter().enumerate() {
        let mut object = map(&format!("m{number}"));
        object["metadata"]["finalizers"] = before;
        api.post(MAPS, &object).await.ok();
        let going = api.delete(&format!("{MAPS}/m{number}"), &options).await;
        assert_eq!(going.code, code, "{options}");
        let going = going.json();
        assert_eq!(going["metadata"]["finalizers"], after, "{options}");
        assert!(going["metadata"]["deletionTimestamp"].is_string());
        assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 0);
    }
    // And in the query, as other clients send them.
    api.post(MAPS, &map("q")).await.ok();
    let going = api.delete(&format!("{MAPS}/q?propagationPolicy=Foreground"), &Value::Null).await.ok();
    assert_eq!(going["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let more = json!({"metadata": {"finalizers": ["foregroundDeletion", "example.com/new"]}});
    let (code, message) = api.patch("merge-patch+json", &format!("{MAPS}/q"), &more).await.failure();
    assert_eq!(code, 422);
    assert!(
        message.contains("metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"example.com/new\"}"),
        "{message}"
    );
    let mut odd = map("odd");
    odd["metadata"]["finalizers"] = json!(["nobody"]);
    let (code, message) = api.post(MAPS, &odd).await.failure();
    assert_eq!(code, 422);
    assert!(
        message.contains("metadata.finalizers[0]: Invalid value: \"nobody\": name is neither a standard finalizer name nor is it fully qualified"),
        "{message}"
    );
}

#[tokio::test]
async fn pods_end_with_grace() {
    let api = Api::new().await;
    let uri = format!("{PODS}/p");
    let mut bound = pod("p");
    bound["spec"]["nodeName"] = "n1".into();
    let made = api.post(PODS, &bound).await.ok();
    let generation = made["metadata"]["generation"].as_i64().unwrap();
    let going = api.delete(&uri, &json!({"gracePeriodSeconds": 60})).await.ok();
    assert_eq!(going["kind"], "Pod");
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 60);
    assert_eq!(going["metadata"]["generation"], generation + 1);
    for (options, grace) in [
        (json!({"gracePeriodSeconds": 90}), 60),
        (Value::Null, 60),
        (json!({"gracePeriodSeconds": 30}), 30),
        (json!({"gracePeriodSeconds": -1}), 1),
    ] {
        let now = api.delete(&uri, &options).await.ok();
        assert_eq!(now["metadata"]["deletionGracePeriodSeconds"], grace, "{options}");
        assert_eq!(now["metadata"]["generation"], generation + 1, "{options}");
    }
    let ended = json!({"status": {"phase": "Succeeded"}});
    api.patch("merge-patch+json", &format!("{uri}/status"), &ended).await.ok();
    api.delete(&uri, &json!({"gracePeriodSeconds": 0})).await.ok();
    assert_eq!(api.get(&uri).await.code, 404);

    api.post(PODS, &bound).await.ok();
    let from = api.store_revision();
    let mut watch = api.watch(&format!("{PODS}?watch=true&resourceVersion={from}")).await;
    let gone = api.delete(&uri, &json!({"gracePeriodSeconds": 0})).await.ok();
    assert_eq!(gone["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(watch.kinds(2).await, ["MODIFIED p", "DELETED p"], "nobody vanishes without a word");

    bound["metadata"]["finalizers"] = json!(["example.com/f"]);
    api.post(PODS, &bound).await.ok();
    let held = api.delete(&uri, &json!({"gracePeriodSeconds": 0})).await.ok();
    assert_eq!(held["metadata"]["deletionGracePeriodSeconds"], 0);
    let none = json!({"metadata": {"finalizers": null}});
    api.patch("merge-patch+json", &uri, &none).await.ok();
    assert_eq!(api.get(&uri).await.code, 404);
}

#[tokio::test]
async fn collections_go_one_by_one() {
    let api = Api::new().await;
    for name in ["a", "b", "c"] {
        let mut object = map(name);
        if name == "b" {
            object["metadata"]["finalizers"] = json!(["example.com/f"]);
        }
        api.post(MAPS, &object).await.ok();
    }
    let uri = format!("{MAPS}?fieldSelector=metadata.name%21%3Dc");
    let gone = api.delete(&uri, &json!({"propagationPolicy": "Background"})).await.ok();
    assert_eq!(gone["kind"], "ConfigMapList");
    assert_eq!(gone["items"].as_array().unwrap().len(), 2);
    let left = api.get(MAPS).await.ok();
    let names: Vec<&Value> =
        left["items"].as_array().unwrap().iter().map(|i| &i["metadata"]["name"]).collect();
    assert_eq!(names, ["b", "c"]);
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let rows = api.send(http::Method::DELETE, MAPS, &table, Vec::new()).await.ok();
    assert_eq!(rows["rows"].as_array().unwrap().len(), 2);
    assert_eq!(api.delete("/api/v1/configmaps", &Value::Null).await.code, 405, "only in one namespace");
}

#[tokio::test]
async fn metadata_is_looked_at() {
    let api = Api::new().await;
    let long = "x".repeat(300 * 1024);
    let table = [
        (
            json!({"labels": {"a b": "c"}}),
            "metadata.labels: Invalid value: \"a b\": name part must consist of",
        ),
        (json!({"labels": {"a": "-"}}), "metadata.labels: Invalid value: \"-\": a valid label must be"),
        (json!({"annotations": {"a/b/c": "d"}}), "metadata.annotations: Invalid value: \"a/b/c\""),
        (
            json!({"annotations": {"a": long}}),
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        (
            json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "", "uid": "u"}]}),
            "metadata.ownerReferences[0].name",
        ),
        (json!({"finalizers": ["a b/c"]}), "metadata.finalizers"),
    ];
    for (metadata, expected) in table {
        let mut object = map("a");
        for (field, value) in metadata.as_object().unwrap() {
            object["metadata"][field.as_str()] = value.clone();
        }
        let (code, message) = api.post(MAPS, &object).await.failure();
        assert_eq!(code, 422, "{expected}");
        assert!(
            message.starts_with("ConfigMap \"a\" is invalid: ") && message.contains(expected),
            "{message}"
        );
    }
    let cluster =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "namespace": "default"}});
    let made = api.post("/api/v1/namespaces", &cluster).await.ok();
    assert!(made["metadata"].get("namespace").is_none(), "what is in no namespace has none");
}

#[tokio::test]
async fn patches_that_do_not_fit() {
    let api = Api::new().await;
    api.post(MAPS, &map("a")).await.ok();
    let uri = format!("{MAPS}/a");
    let table = [
        ("json-patch+json", json!([{"op": "test", "path": "/data/k", "value": "w"}]), 422),
        ("json-patch+json", json!([{"op": "remove", "path": "/data/none"}]), 422),
        ("json-patch+json", json!({"op": "remove"}), 400),
        ("merge-patch+json", json!({"data": 5}), 400),
        ("merge-patch+json", json!([1]), 400),
        ("strategic-merge-patch+json", json!({"$patch": "sideways"}), 400),
        ("merge-patch+json", json!({"metadata": {"resourceVersion": "1"}, "data": {"k": "x"}}), 409),
        ("merge-patch+json", json!({"kind": "Secret"}), 400),
    ];
    for (kind, patch, code) in table {
        let reply = api.patch(kind, &uri, &patch).await;
        assert_eq!(reply.code, code, "{kind} {patch} {:?}", reply.bytes);
    }
    let broken = api.send(
        http::Method::PATCH,
        &uri,
        &[("content-type", "application/merge-patch+json")],
        b"{".to_vec(),
    );
    assert_eq!(broken.await.code, 400);
    assert_eq!(api.get(&uri).await.ok()["data"]["k"], "v");
    let strict = format!("{uri}?fieldValidation=Strict");
    let (code, message) = api.patch("merge-patch+json", &strict, &json!({"foo": 1})).await.failure();
    assert_eq!(code, 400);
    assert!(message.contains("unknown field \"foo\""), "{message}");
}

#[tokio::test]
async fn who_scales_owns_the_replicas() {
    let api = Api::new().await;
    let mut object = deployment("d");
    object["spec"]["replicas"] = 2.into();
    api.post(&format!("{DEPLOYMENTS}?fieldManager=maker"), &object).await.ok();
    let uri = format!("{DEPLOYMENTS}/d");
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 5}});
    let applied = async |force: &str| {
        let uri = format!("{uri}/scale?fieldManager=scaler&force={force}");
        api.patch("apply-patch+yaml", &uri, &scale).await
    };
    let refused = applied("false").await;
    assert_eq!(refused.code, 409);
    assert_eq!(refused.json()["details"]["causes"][0]["field"], ".spec.replicas");
    let taken = applied("true").await.ok();
    assert_eq!((&taken["kind"], &taken["spec"]["replicas"]), (&"Scale".into(), &5.into()));
    let owners = |object: &Value| -> Vec<String> {
        let entries = object["metadata"]["managedFields"].as_array().unwrap().iter();
        let owns = entries.filter(|entry| entry["fieldsV1"]["f:spec"].get("f:replicas").is_some());
        owns.map(|entry| {
            let text = |field: &str| entry[field].as_str().unwrap_or_default();
            format!(
                "{} {} {} {}",
                text("manager"),
                text("operation"),
                text("apiVersion"),
                text("subresource")
            )
        })
        .collect()
    };
    assert_eq!(owners(&taken), ["scaler Apply autoscaling/v1 scale"]);
    let parent = api.get(&uri).await.ok();
    assert_eq!(owners(&parent), ["scaler Apply apps/v1 scale"]);
    assert_eq!(parent["spec"]["replicas"], 5);
    assert_eq!(parent["metadata"]["generation"], 2);
    let again = applied("false").await.ok();
    assert_eq!(version(&again), version(&taken), "the second time changes nothing");
    let patch = json!({"spec": {"replicas": 7}});
    api.patch("merge-patch+json", &format!("{uri}/scale?fieldManager=hand"), &patch).await.ok();
    assert_eq!(owners(&api.get(&uri).await.ok()), ["hand Update apps/v1 scale"]);
    let negative = json!({"spec": {"replicas": -1}});
    let (code, message) = api.patch("merge-patch+json", &format!("{uri}/scale"), &negative).await.failure();
    assert_eq!(code, 422);
    assert!(message.contains("spec.replicas: Invalid value: -1"), "{message}");
}
