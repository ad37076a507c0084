//! Server-side apply: ownership, conflicts, pruning, lists, other writers, properties.

use super::*;
use crate::time;
use proptest::prelude::*;
use serde_json::json;

fn at(minute: u32) -> Timestamp {
    time::parse(&format!("2024-05-01T10:{minute:02}:00Z")).unwrap()
}

fn target(group: &str, plural: &str, subresource: &str) -> Target<'static> {
    Target::builtin(
        kind::resources().iter().find(|r| r.group == group && r.plural == plural).unwrap(),
        subresource,
    )
}

fn deployments() -> Target<'static> {
    target("apps", "deployments", "")
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, subresource: "", now: at(0) }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
}

fn applied(live: Option<&Value>, config: &Value, manager: &str) -> Result<Value, PatchError> {
    apply(&deployments(), live, config, &writer(manager), Force::No)
}

fn forced(live: Option<&Value>, config: &Value, manager: &str) -> Value {
    apply(&deployments(), live, config, &writer(manager), Force::Yes).unwrap()
}

fn fields_of(object: &Value, manager: &str, operation: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let found = entries.into_iter().find(|e| e["manager"] == manager && e["operation"] == operation);
    found.map_or(Value::Null, |mut e| e["fieldsV1"].take())
}

fn container(name: &str, image: &str) -> Value {
    json!({"name": name, "image": image})
}

fn with_containers(containers: Vec<Value>) -> Value {
    deployment(json!({"template": {"spec": {"containers": containers}}}))
}

fn names(object: &Value) -> Vec<&str> {
    let list = object["spec"]["template"]["spec"]["containers"].as_array();
    list.into_iter().flatten().map(|c| c["name"].as_str().unwrap()).collect()
}

#[test]
fn the_first_apply_creates() {
    let config = deployment(json!({"replicas": 3, "selector": {"matchLabels": {"a": "b"}}}));
    let object = applied(None, &config, "m").unwrap();
    assert_eq!(object["spec"], config["spec"]);
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!(entry["manager"], "m");
    assert_eq!(entry["operation"], "Apply");
    assert_eq!(entry["apiVersion"], "apps/v1");
    assert_eq!(entry["time"], "2024-05-01T10:00:00Z");
    // The selector is owned as a whole.
    assert_eq!(entry["fieldsV1"], json!({"f:spec": {"f:replicas": {}, "f:selector": {}}}));
}

#[test]
fn what_is_no_longer_applied_goes() {
    let first = applied(None, &deployment(json!({"replicas": 3, "paused": true})), "m").unwrap();
    let second = applied(Some(&first), &deployment(json!({"replicas": 2})), "m").unwrap();
    assert_eq!(second["spec"], json!({"replicas": 2}));
    let empty = applied(Some(&second), &deployment(json!({})), "m").unwrap();
    assert_eq!(empty["spec"], json!({}));
    let nothing = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
    let third = applied(Some(&empty), &nothing, "m").unwrap();
    assert_eq!(third.get("spec"), None);
    assert_eq!(third["metadata"].get("managedFields"), None);
}

#[test]
fn what_others_own_or_nobody_stays() {
    let first = applied(None, &deployment(json!({"replicas": 3, "paused": true})), "a").unwrap();
    let both = applied(Some(&first), &deployment(json!({"paused": true})), "b").unwrap();
    let gone = applied(Some(&both), &deployment(json!({"replicas": 3})), "a").unwrap();
    assert_eq!(gone["spec"], json!({"replicas": 3, "paused": true}));
    assert_eq!(fields_of(&gone, "b", "Apply"), json!({"f:spec": {"f:paused": {}}}));
    let mut unowned = first.clone();
    unowned["spec"]["minReadySeconds"] = json!(5);
    let next = applied(Some(&unowned), &deployment(json!({"replicas": 3})), "a").unwrap();
    assert_eq!(next["spec"], json!({"replicas": 3, "minReadySeconds": 5}));
}

#[test]
fn conflicts_and_force() {
    let first = applied(None, &deployment(json!({"replicas": 3})), "a").unwrap();
    let Err(PatchError::Conflict(status)) = applied(Some(&first), &deployment(json!({"replicas": 5})), "b")
    else {
        panic!("no conflict")
    };
    assert_eq!(status.code, 409);
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas");
    assert_eq!(
        status.to_value()["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"a\"", "field": ".spec.replicas"}])
    );
    // The same value is shared.
    let shared = applied(Some(&first), &deployment(json!({"replicas": 3})), "b").unwrap();
    assert_eq!(fields_of(&shared, "a", "Apply"), fields_of(&shared, "b", "Apply"));
    let taken = forced(Some(&first), &deployment(json!({"replicas": 5})), "b");
    assert_eq!(taken["spec"]["replicas"], 5);
    assert_eq!(fields_of(&taken, "a", "Apply"), Value::Null);
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let first = applied(None, &deployment(json!({"replicas": 3, "paused": true})), "a").unwrap();
    let mut second = first.clone();
    second["spec"]["minReadySeconds"] = json!(1);
    update(&deployments(), Some(&first), &mut second, &writer("u"));
    let config = deployment(json!({"replicas": 4, "paused": false, "minReadySeconds": 2}));
    let error = applied(Some(&second), &config, "b").unwrap_err();
    assert_eq!(
        error.to_status().message,
        "Apply failed with 3 conflicts: conflicts with \"a\":\n- .spec.paused\n- .spec.replicas\nconflicts with \"u\" using apps/v1:\n- .spec.minReadySeconds"
    );
}

#[test]
fn keyed_lists() {
    let first =
        applied(None, &with_containers(vec![container("a", "x:1"), container("b", "y:1")]), "m").unwrap();
    assert_eq!(
        fields_of(&first, "m", "Apply"),
        json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {
            "k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {}},
            "k:{\"name\":\"b\"}": {".": {}, "f:image": {}, "f:name": {}},
        }}}}})
    );
    let other = applied(Some(&first), &with_containers(vec![container("c", "z:1")]), "n").unwrap();
    assert_eq!(names(&other).len(), 3);
    let less = applied(Some(&other), &with_containers(vec![container("b", "y:2")]), "m").unwrap();
    let mut left = names(&less);
    left.sort_unstable();
    assert_eq!(left, ["b", "c"]);
    let error = applied(Some(&other), &with_containers(vec![container("a", "x:9")]), "n").unwrap_err();
    assert_eq!(
        error.to_status().message,
        "Apply failed with 1 conflict: conflict with \"m\": .spec.template.spec.containers[name=\"a\"].image"
    );
}

#[test]
fn order_of_merged_lists() {
    let list = |names: &[&str]| with_containers(names.iter().map(|n| container(n, "x")).collect());
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        // live, config, merged
        (&["a", "b"], &["b", "a"], &["b", "a"]),
        (&["a", "s", "b"], &["a", "b"], &["a", "s", "b"]),
        (&["s", "a", "t", "b", "u"], &["b", "a"], &["s", "t", "b", "u", "a"]),
        (&["a"], &["b"], &["b", "a"]),
        (&["a", "b"], &["a", "c", "b"], &["a", "c", "b"]),
    ];
    for (live, config, merged) in cases {
        let mut live = list(live);
        live["metadata"]["uid"] = json!("u");
        let object = forced(Some(&live), &list(config), "m");
        assert_eq!(&names(&object), merged, "{live} {config:?}");
    }
}

#[test]
fn default_keys_and_duplicates() {
    let ports = |ports: Value| with_containers(vec![json!({"name": "a", "ports": ports})]);
    let first = applied(None, &ports(json!([{"containerPort": 80}])), "m").unwrap();
    let key = &fields_of(&first, "m", "Apply")["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"a\"}"]
        ["f:ports"];
    assert_eq!(
        *key,
        json!({"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}})
    );
    // The stored object is defaulted; the same item is found again.
    let mut live = first.clone();
    live["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] = json!("TCP");
    let again = applied(Some(&live), &ports(json!([{"containerPort": 80, "name": "http"}])), "m").unwrap();
    assert_eq!(
        again["spec"]["template"]["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 80, "name": "http", "protocol": "TCP"}])
    );
    let twice = ports(json!([{"containerPort": 80}, {"containerPort": 80, "protocol": "TCP"}]));
    let error = applied(None, &twice, "m").unwrap_err();
    assert!(
        error.to_string().contains("duplicate entries for key [containerPort=80,protocol=\"TCP\"]"),
        "{error}"
    );
    let nameless = with_containers(vec![json!({"image": "x"})]);
    assert!(applied(None, &nameless, "m").is_err());
}

#[test]
fn sets_and_maps() {
    let config = |finalizers: Value, labels: Value| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "finalizers": finalizers, "labels": labels}});
    let first = applied(None, &config(json!(["a/x"]), json!({"l": "1"})), "m").unwrap();
    assert_eq!(
        fields_of(&first, "m", "Apply"),
        json!({"f:metadata": {"f:finalizers": {"v:\"a/x\"": {}}, "f:labels": {"f:l": {}}}})
    );
    let both = applied(Some(&first), &config(json!(["b/y"]), json!({"k": "2"})), "n").unwrap();
    let less = applied(Some(&both), &config(json!([]), json!({})), "m").unwrap();
    assert_eq!(less["metadata"]["finalizers"], json!(["b/y"]));
    assert_eq!(less["metadata"]["labels"], json!({"k": "2"}));
}

#[test]
fn updates_take_what_they_change() {
    let first = applied(None, &deployment(json!({"replicas": 3, "paused": true})), "a").unwrap();
    let mut new = first.clone();
    new["spec"]["replicas"] = json!(5);
    new["metadata"]["labels"] = json!({"x": "y"});
    update(&deployments(), Some(&first), &mut new, &Writer { now: at(1), ..writer("u") });
    assert_eq!(fields_of(&new, "a", "Apply"), json!({"f:spec": {"f:paused": {}}}));
    assert_eq!(
        fields_of(&new, "u", "Update"),
        json!({"f:metadata": {"f:labels": {".": {}, "f:x": {}}}, "f:spec": {"f:replicas": {}}})
    );
    let mut next = new.clone();
    next["spec"].as_object_mut().unwrap().remove("replicas");
    update(&deployments(), Some(&new), &mut next, &Writer { now: at(2), ..writer("w") });
    assert_eq!(fields_of(&next, "u", "Update"), json!({"f:metadata": {"f:labels": {".": {}, "f:x": {}}}}));
    assert_eq!(fields_of(&next, "w", "Update"), Value::Null);
    // Nothing changed: not even a time.
    let mut same = next.clone();
    update(&deployments(), Some(&next), &mut same, &Writer { now: at(3), ..writer("u") });
    assert_eq!(same, next);
}

#[test]
fn creation_is_tracked_and_status_is_apart() {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": "u"}, "spec": {"nodeName": "n"}, "status": {"phase": "Pending"}});
    update(&target("", "pods", ""), None, &mut pod, &writer("kubectl-create"));
    assert_eq!(fields_of(&pod, "kubectl-create", "Update"), json!({"f:spec": {".": {}, "f:nodeName": {}}}));
    let mut running = pod.clone();
    running["status"]["phase"] = json!("Running");
    let kubelet = Writer { subresource: "status", ..writer("kubelet") };
    update(&target("", "pods", "status"), Some(&pod), &mut running, &kubelet);
    let entry = running["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .find(|e| e["manager"] == "kubelet")
        .cloned()
        .unwrap();
    assert_eq!(entry["subresource"], "status");
    assert_eq!(entry["fieldsV1"], json!({"f:status": {"f:phase": {}}}));
}

#[test]
fn before_the_first_apply() {
    let mut live = deployment(json!({"replicas": 3, "paused": true}));
    live["metadata"]["uid"] = json!("u");
    let mut touched = live.clone();
    touched["spec"]["replicas"] = json!(4);
    update(&deployments(), Some(&live), &mut touched, &writer("u"));
    assert_eq!(touched["metadata"].get("managedFields"), None);
    let error = applied(Some(&live), &deployment(json!({"replicas": 4})), "m").unwrap_err();
    assert_eq!(
        error.to_status().message,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
    );
    let object = applied(Some(&live), &deployment(json!({"replicas": 3})), "m").unwrap();
    assert_eq!(
        fields_of(&object, "before-first-apply", "Update")["f:spec"],
        json!({".": {}, "f:paused": {}, "f:replicas": {}})
    );
}

#[test]
fn many_updaters_become_ancient() {
    let mut live = deployment(json!({"replicas": 0}));
    update(&deployments(), None, &mut live, &writer("creator"));
    for i in 1..=20_u32 {
        let mut new = live.clone();
        new["metadata"]["annotations"][format!("a{i}")] = json!("x");
        let name = format!("u{i:02}");
        update(&deployments(), Some(&live), &mut new, &Writer { now: at(i), ..writer(&name) });
        live = new;
    }
    let entries = live["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    let ancient = fields_of(&live, "ancient-changes", "Update");
    assert_eq!(ancient["f:spec"]["f:replicas"], json!({}));
    assert_eq!(ancient["f:metadata"]["f:annotations"].as_object().unwrap().len(), 1 + 11);
}

#[test]
fn clients_may_reset_and_edit_managers() {
    let first = applied(None, &deployment(json!({"replicas": 3})), "a").unwrap();
    for reset in [json!([]), json!([{}])] {
        let mut new = first.clone();
        new["metadata"]["managedFields"] = reset;
        update(&deployments(), Some(&first), &mut new, &writer("u"));
        assert_eq!(new["metadata"].get("managedFields"), None);
    }
    let mut forgot = first.clone();
    forgot["metadata"].as_object_mut().unwrap().remove("managedFields");
    update(&deployments(), Some(&first), &mut forgot, &writer("u"));
    assert_eq!(forgot, first);
    let mut renamed = first.clone();
    renamed["metadata"]["managedFields"][0]["manager"] = json!("b");
    update(&deployments(), Some(&first), &mut renamed, &writer("u"));
    assert_ne!(fields_of(&renamed, "b", "Apply"), Value::Null);
}

#[test]
fn refusals() {
    let mut config = deployment(json!({}));
    config["metadata"]["managedFields"] = json!([]);
    assert_eq!(applied(None, &config, "m").unwrap_err().to_string(), "metadata.managedFields must be nil");
    let mut config = deployment(json!({}));
    config["apiVersion"] = json!("apps/v1beta1");
    assert_eq!(applied(None, &config, "m").unwrap_err().to_status().code, 400);
}

#[test]
fn kubectl_takes_over_from_client_side_apply() {
    let last = deployment(json!({"replicas": 3})).to_string();
    let mut live = deployment(json!({"replicas": 3, "paused": true}));
    live["metadata"]["annotations"] = json!({LAST_APPLIED: last});
    update(&deployments(), None, &mut live, &writer("kubectl-client-side-apply"));
    let config = deployment(json!({"replicas": 5}));
    assert!(applied(Some(&live), &config, "other").is_err());
    let object = applied(Some(&live), &config, "kubectl").unwrap();
    assert_eq!(object["spec"]["replicas"], 5);
    let kept: Value = serde_json::from_str(meta::annotation(&object, LAST_APPLIED).unwrap()).unwrap();
    assert_eq!(kept, config);
    // A field that was not applied by the client before stays a conflict.
    assert!(applied(Some(&live), &deployment(json!({"paused": false})), "kubectl").is_err());
}

#[test]
fn unserved_versions_are_forgotten() {
    let mut live = applied(None, &deployment(json!({"replicas": 3})), "a").unwrap();
    live["metadata"]["managedFields"][0]["apiVersion"] = json!("apps/v1beta1");
    let object = applied(Some(&live), &deployment(json!({"replicas": 4})), "b").unwrap();
    assert_eq!(fields_of(&object, "a", "Apply"), Value::Null);
}

#[test]
fn custom_resources_use_their_schema() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "string"}}}},
        "all": {"type": "array", "items": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }}}});
    let target = Target::custom(&schema, "x.io/v1", vec!["x.io/v1".into()], true, "");
    let config =
        |spec: Value| json!({"apiVersion": "x.io/v1", "kind": "X", "metadata": {"name": "x"}, "spec": spec});
    let first = apply(
        &target,
        None,
        &config(json!({"items": [{"k": "a", "v": "1"}], "all": ["x"], "free": {"deep": {"er": 1}}})),
        &writer("a"),
        Force::No,
    )
    .unwrap();
    assert_eq!(
        fields_of(&first, "a", "Apply"),
        json!({"f:spec": {"f:all": {}, "f:free": {"f:deep": {".": {}, "f:er": {}}}, "f:items": {"k:{\"k\":\"a\"}": {".": {}, "f:k": {}, "f:v": {}}}}})
    );
    let both = apply(&target, Some(&first), &config(json!({"items": [{"k": "b"}]})), &writer("b"), Force::No)
        .unwrap();
    assert_eq!(both["spec"]["items"].as_array().unwrap().len(), 2);
    assert!(apply(&target, Some(&first), &config(json!({"all": ["y"]})), &writer("b"), Force::No).is_err());
}

#[test]
fn fields_on_the_wire() {
    let wire = json!({
        "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
        "f:list": {"k:{\"a\":1,\"b\":\"x\"}": {".": {}, "f:b": {}}, "v:true": {}, "v:1.5": {}, "i:3": {}},
    });
    let set = FieldSet::decode(&wire).unwrap();
    assert_eq!(set.encode(), wire);
    let texts: Vec<String> = set.paths().iter().map(|p| element::path_text(p)).collect();
    assert!(texts.contains(&".list[a=1,b=\"x\"].b".to_owned()), "{texts:?}");
    assert!(texts.contains(&".list[=true]".to_owned()), "{texts:?}");
    for bad in [json!({"x": {}}), json!({"f:a": 1}), json!({"k:x": {}}), json!({"i:x": {}}), json!("")] {
        assert!(FieldSet::decode(&bad).is_err(), "{bad}");
    }
}

#[test]
fn scale_and_parent() {
    let parent = applied(None, &deployment(json!({"replicas": 3, "paused": true})), "a").unwrap();
    let scale = json!({"metadata": {"managedFields": parent_managers_to_scale(&parent)}});
    assert_eq!(fields_of(&scale, "a", "Apply"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(scale["metadata"]["managedFields"][0]["apiVersion"], "autoscaling/v1");
    let mut moved = scale.clone();
    moved["metadata"]["managedFields"][0]["manager"] = json!("autoscaler");
    let managers = scale_managers_to_parent(&moved, &parent, "apps/v1");
    let parent = json!({"metadata": {"managedFields": managers}});
    assert_eq!(fields_of(&parent, "a", "Apply"), json!({"f:spec": {"f:paused": {}}}));
    assert_eq!(fields_of(&parent, "autoscaler", "Apply"), json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn managers_from_user_agents() {
    assert_eq!(manager_of_user_agent("kubectl/v1.33 (linux)"), "kubectl");
    assert_eq!(manager_of_user_agent(&"x".repeat(200)).len(), MANAGER_MAX);
}

/// Configurations over a few fields, maps, sets and keyed lists.
fn configs() -> impl Strategy<Value = Value> {
    let labels = prop::collection::btree_map("[a-c]", "[xy]", 0..3);
    let finalizers = prop::collection::btree_set("[a-c]/f", 0..3);
    let container =
        (prop::option::of("[xy]"), prop::option::of("[xy]")).prop_map(|(image, dir)| (image, dir));
    let containers = prop::collection::btree_map("[a-c]", container, 0..3);
    (labels, finalizers, containers, prop::option::of(0..3_i64), prop::option::of(any::<bool>())).prop_map(
        |(labels, finalizers, containers, replicas, paused)| {
            let mut object = deployment(json!({}));
            if !labels.is_empty() {
                object["metadata"]["labels"] = json!(labels);
            }
            if !finalizers.is_empty() {
                object["metadata"]["finalizers"] = json!(finalizers);
            }
            let containers: Vec<Value> = containers
                .into_iter()
                .map(|(name, (image, dir))| {
                    let mut c = json!({"name": name});
                    if let Some(image) = image {
                        c["image"] = json!(image);
                    }
                    if let Some(dir) = dir {
                        c["workingDir"] = json!(dir);
                    }
                    c
                })
                .collect();
            if !containers.is_empty() {
                object["spec"]["template"]["spec"]["containers"] = json!(containers);
            }
            if let Some(replicas) = replicas {
                object["spec"]["replicas"] = json!(replicas);
            }
            if let Some(paused) = paused {
                object["spec"]["paused"] = json!(paused);
            }
            object
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn applying_twice_changes_nothing(a in configs(), b in configs()) {
        let live = forced(None, &a, "a");
        let once = forced(Some(&live), &b, "b");
        let later = Writer { now: at(9), ..writer("b") };
        let twice = apply(&deployments(), Some(&once), &b, &later, Force::No).unwrap();
        prop_assert_eq!(twice, once);
    }

    /// Whatever A applies next, every field that B owns keeps B's value, or A took it by force.
    #[test]
    fn nothing_of_others_is_lost(a1 in configs(), b in configs(), a2 in configs()) {
        let live = forced(None, &a1, "a");
        let live = forced(Some(&live), &b, "b");
        let shape = deployments().shape;
        let Ok(next) = applied(Some(&live), &a2, "a") else { return Ok(()) };
        let owned_by_b = compare::to_set(&b, shape);
        let differs = compare::compare(&live, &next, shape);
        prop_assert!(owned_by_b.intersection(&differs.modified).is_empty());
        prop_assert!(owned_by_b.intersection(&differs.removed).is_empty());
        prop_assert_eq!(fields_of(&next, "b", "Apply"), fields_of(&live, "b", "Apply"));
    }

    /// The configuration is in the result, and what only the applier had and dropped is not.
    #[test]
    fn the_result_is_the_configuration(a1 in configs(), a2 in configs()) {
        let live = forced(None, &a1, "a");
        let next = forced(Some(&live), &a2, "a");
        let alone = forced(None, &a2, "a");
        let shape = deployments().shape;
        let plain = |o: &Value| without_managed_fields(o);
        let differs = compare::compare(&plain(&alone), &plain(&next), shape);
        prop_assert!(differs.modified.is_empty() && differs.removed.is_empty() && differs.added.is_empty(),
            "{:?}", differs);
    }

    #[test]
    fn field_sets_go_round(a in configs(), b in configs()) {
        let shape = deployments().shape;
        let (a, b) = (compare::to_set(&a, shape), compare::to_set(&b, shape));
        prop_assert_eq!(FieldSet::decode(&a.encode()).unwrap(), a.clone());
        prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
        prop_assert_eq!(a.union(&b), b.union(&a));
        prop_assert!(a.difference(&a).is_empty());
        prop_assert!(a.recursive_difference(&a).is_empty());
    }

    #[test]
    fn updates_never_lose_an_owner_of_what_stays(a in configs(), b in configs()) {
        let live = forced(None, &a, "a");
        let mut new = b.clone();
        update(&deployments(), Some(&live), &mut new, &writer("u"));
        let shape = deployments().shape;
        let differs = compare::compare(&without_managed_fields(&live), &without_managed_fields(&new), shape);
        let owned = FieldSet::decode(&fields_of(&live, "a", "Apply")).unwrap_or_default();
        let changed = differs.modified.union(&differs.added).union(&differs.removed);
        let still = FieldSet::decode(&fields_of(&new, "a", "Apply")).unwrap_or_default();
        prop_assert_eq!(still, owned.difference(&changed));
    }
}
