//! Strategic merge patch on built-in kinds: merge keys, directives, order, refusals.

use super::*;
use crate::kind;
use proptest::prelude::*;
use serde_json::json;

fn pods() -> &'static Resource {
    kind::find("", "v1", "pods").unwrap()
}

/// Patches a pod's spec.
fn spec(current: Value, patch: Value) -> Result<Value, PatchError> {
    apply(pods(), &json!({"spec": current}), &json!({"spec": patch})).map(|mut pod| pod["spec"].take())
}

fn metadata(current: Value, patch: Value) -> Result<Value, PatchError> {
    let patched = apply(pods(), &json!({"metadata": current}), &json!({"metadata": patch}));
    patched.map(|mut pod| pod["metadata"].take())
}

#[test]
fn objects_and_scalars() {
    let cases = [
        (json!({"a": 1}), json!({"a": 2}), json!({"a": 2})),
        (json!({"a": 1}), json!({"a": null}), json!({})),
        (json!({}), json!({"a": null}), json!({})),
        (json!({"a": {"b": 1}}), json!({"a": {"c": 2}}), json!({"a": {"b": 1, "c": 2}})),
        (json!({"a": {"b": 1}}), json!({"a": "x"}), json!({"a": "x"})),
        (json!({"a": [1]}), json!({"a": [2]}), json!({"a": [2]})),
        (json!({"a": {"b": 1}}), json!({"a": {"$patch": "replace", "c": 2}}), json!({"a": {"c": 2}})),
        (json!({"a": {"b": 1}}), json!({"a": {"$patch": "delete"}}), json!({"a": {}})),
        (json!({}), json!({"a": {"$patch": "delete"}}), json!({})),
        (json!({}), json!({"a": {"b": null, "c": 1}}), json!({"a": {"c": 1}})),
    ];
    for (current, patch, expected) in cases {
        assert_eq!(spec(current.clone(), patch.clone()).unwrap(), expected, "{current} {patch}");
    }
    assert!(spec(json!({"a": {}}), json!({"a": {"$patch": "jump"}})).is_err());
}

#[test]
fn lists_of_objects_merge_by_key() {
    let a = || json!({"name": "a", "image": "a:1"});
    let b = || json!({"name": "b", "image": "b:1"});
    let cases = [
        (
            json!([a(), b()]),
            json!([{"name": "b", "image": "b:2"}]),
            json!([a(), {"name": "b", "image": "b:2"}]),
        ),
        (json!([a()]), json!([b()]), json!([b(), a()])),
        (json!([a(), b()]), json!([{"name": "a", "$patch": "delete"}]), json!([b()])),
        (json!([a(), b()]), json!([{"$patch": "replace"}, {"name": "c"}]), json!([{"name": "c"}])),
        (json!([a(), b()]), json!([{"$patch": "replace"}]), json!([])),
        (json!([a(), b()]), json!([b(), a()]), json!([b(), a()])),
        (json!([a()]), json!([{"name": "a", "image": null}]), json!([{"name": "a"}])),
        (json!([a()]), json!([]), json!([a()])),
    ];
    for (current, patch, expected) in cases {
        let patched = spec(json!({"containers": current}), json!({"containers": patch.clone()})).unwrap();
        assert_eq!(patched["containers"], expected, "{patch}");
    }
    let nested = spec(
        json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}], "ports": [{"containerPort": 80}]}]}),
        json!({"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}], "ports": [{"containerPort": 80, "name": "http"}]}]}),
    );
    assert_eq!(
        nested.unwrap()["containers"][0],
        json!({"name": "a", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}], "ports": [{"containerPort": 80, "name": "http"}]})
    );
}

#[test]
fn lists_that_the_schema_does_not_merge_are_replaced() {
    let current = json!({"containers": [{"name": "a", "args": ["x"]}], "tolerations": [{"key": "a"}]});
    let patch = json!({"containers": [{"name": "a", "args": ["y", "z"]}], "tolerations": [{"key": "b"}]});
    let expected = json!({"containers": [{"name": "a", "args": ["y", "z"]}], "tolerations": [{"key": "b"}]});
    assert_eq!(spec(current, patch).unwrap(), expected);
}

#[test]
fn missing_merge_keys_are_refused() {
    let current = json!({"containers": [{"name": "a"}]});
    for patch in [
        json!([{"image": "x"}]),
        json!([{"$patch": "delete"}]),
        json!([{"name": "a", "$patch": "merge"}]),
        json!(["a"]),
    ] {
        assert!(spec(current.clone(), json!({"containers": patch.clone()})).is_err(), "{patch}");
    }
}

#[test]
fn lists_of_scalars_merge_as_sets() {
    let cases = [
        (json!(["a"]), json!({"finalizers": ["b"]}), json!(["b", "a"])),
        (json!(["a", "b"]), json!({"finalizers": ["b"]}), json!(["a", "b"])),
        (json!(["a", "b"]), json!({"$deleteFromPrimitiveList/finalizers": ["a"]}), json!(["b"])),
        (
            json!(["a", "b"]),
            json!({"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"], "$setElementOrder/finalizers": ["b", "c"]}),
            json!(["b", "c"]),
        ),
    ];
    for (current, patch, expected) in cases {
        assert_eq!(
            metadata(json!({"finalizers": current}), patch.clone()).unwrap()["finalizers"],
            expected,
            "{patch}"
        );
    }
    assert!(metadata(json!({}), json!({"$deleteFromPrimitiveList/finalizers": "a"})).is_err());
}

#[test]
fn element_order() {
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    let list = |names: &[&str]| -> Value { names.iter().map(|n| json!({"name": n})).collect() };
    type Names = &'static [&'static str];
    let cases: &[(Names, Names, Names, Names)] = &[
        // server, patch, order, expected
        (&["a", "b"], &[], &["b", "a"], &["b", "a"]),
        (&["a", "b"], &["c"], &["a", "c", "b"], &["a", "c", "b"]),
        (&["a", "s", "b"], &[], &["b", "a"], &["s", "b", "a"]),
        (&["s", "a", "b"], &["c"], &["c", "b", "a"], &["c", "s", "b", "a"]),
        (&["a", "b", "s"], &["a"], &["a", "b"], &["a", "b", "s"]),
    ];
    for (server, patch, order, expected) in cases {
        let mut body = json!({"$setElementOrder/containers": list(order)});
        if !patch.is_empty() {
            body["containers"] = list(patch);
        }
        let patched = spec(json!({"containers": list(server)}), body).unwrap();
        assert_eq!(&names(&patched["containers"]), expected, "{server:?} {patch:?} {order:?}");
    }
    let wrong = json!({"$setElementOrder/containers": list(&["b"]), "containers": list(&["a"])});
    assert!(spec(json!({"containers": list(&["a"])}), wrong).is_err());
}

#[test]
fn retained_keys() {
    let current = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
    let patch =
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]});
    assert_eq!(
        spec(current.clone(), patch).unwrap()["volumes"],
        json!([{"name": "v", "configMap": {"name": "c"}}])
    );
    let unlisted = json!({"volumes": [{"name": "v", "$retainKeys": ["name"], "configMap": {"name": "c"}}]});
    assert!(spec(current, unlisted).is_err());
    let deployments = kind::find("apps", "v1", "deployments").unwrap();
    let patched = apply(
        deployments,
        &json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        &json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
    );
    assert_eq!(patched.unwrap(), json!({"spec": {"strategy": {"type": "Recreate"}}}));
}

#[test]
fn service_ports_merge_by_port() {
    let services = kind::find("", "v1", "services").unwrap();
    let current = json!({"spec": {"ports": [{"port": 80, "nodePort": 30000}, {"port": 443}]}});
    let patch = json!({"spec": {"ports": [{"port": 443, "name": "tls"}]}});
    let expected =
        json!({"spec": {"ports": [{"port": 80, "nodePort": 30000}, {"port": 443, "name": "tls"}]}});
    assert_eq!(apply(services, &current, &patch).unwrap(), expected);
}

fn containers() -> impl Strategy<Value = Value> {
    let container = ("[a-e]", "[x-z]").prop_map(|(name, image)| json!({"name": name, "image": image}));
    prop::collection::vec(container, 0..5).prop_map(|list| {
        let mut seen = std::collections::BTreeSet::new();
        list.into_iter().filter(|c| seen.insert(c["name"].to_string())).collect()
    })
}

proptest! {
    #[test]
    fn a_patch_without_directives_is_idempotent(current in containers(), patch in containers()) {
        let patch = json!({"containers": patch});
        let once = spec(json!({"containers": current}), patch.clone()).unwrap();
        prop_assert_eq!(spec(once.clone(), patch).unwrap(), once);
    }

    #[test]
    fn nothing_of_the_server_is_lost(current in containers(), patch in containers()) {
        let merged = spec(json!({"containers": current.clone()}), json!({"containers": patch.clone()})).unwrap();
        let named = |list: &Value, name: &Value| list.as_array().unwrap().iter().find(|c| &c["name"] == name).cloned();
        for container in current.as_array().unwrap() {
            let expected = named(&patch, &container["name"]).unwrap_or_else(|| container.clone());
            prop_assert_eq!(named(&merged["containers"], &container["name"]), Some(expected));
        }
    }
}
