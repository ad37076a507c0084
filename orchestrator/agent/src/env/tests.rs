//! Where values come from, and what is said of those that do not.

use serde_json::json;

use super::*;

fn pod(container: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"a": "1", "b": "x y"}},
        "spec": {"nodeName": "n1", "serviceAccountName": "default", "containers": [container]},
    }))
    .unwrap()
}

fn sources() -> Sources {
    let map = serde_json::from_value(json!({"data": {"color": "red"}})).unwrap();
    let secret = serde_json::from_value(json!({"data": {"password": "aHVudGVyMg=="}})).unwrap();
    let service = json!({"metadata": {"name": "my-db", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "sql", "port": 5432}]}});
    Sources {
        config_maps: BTreeMap::from([("conf".to_owned(), Some(map)), ("gone".to_owned(), None)]),
        secrets: BTreeMap::from([("cred".to_owned(), Some(secret)), ("gone".to_owned(), None)]),
        services: vec![serde_json::from_value(service).unwrap()],
        pod_ip: Some(Ipv4Addr::new(10, 128, 0, 9)),
        host_ip: Some(Ipv4Addr::new(10, 128, 0, 1)),
        node_cpu_milli: 2000,
        node_memory: 1 << 30,
        node_storage: 5 << 30,
    }
}

fn of(container: serde_json::Value) -> Result<Vec<(String, String)>, ConfigError> {
    let pod = pod(container);
    let container = &spec(&pod).containers[0];
    environment(&pod, container, &sources())
}

fn get(container: serde_json::Value, name: &str) -> Option<String> {
    of(container).unwrap().into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

#[test]
fn values_from_everywhere() {
    let env = |entry: serde_json::Value| {
        json!({"name": "c", "env": [entry],
        "resources": {"limits": {"memory": "100Mi"}, "requests": {"cpu": "250m"}}})
    };
    let from = |source: serde_json::Value| env(json!({"name": "X", "valueFrom": source}));
    let field = |path: &str| from(json!({"fieldRef": {"fieldPath": path}}));
    let amount = |resource: &str, divisor: &str| {
        from(json!({"resourceFieldRef": {"resource": resource, "divisor": divisor}}))
    };
    let table = [
        (env(json!({"name": "X", "value": "v"})), "v"),
        (env(json!({"name": "X"})), ""),
        (
            env(json!({"name": "X", "value": "$(MY_DB_SERVICE_PORT) $$(PATH) $(PATH)"})),
            "5432 $(PATH) $(PATH)",
        ),
        (field("metadata.name"), "web"),
        (field("metadata.namespace"), "shop"),
        (field("metadata.labels['a']"), "1"),
        (field("metadata.labels"), "a=\"1\"\nb=\"x y\""),
        (field("spec.nodeName"), "n1"),
        (field("status.podIP"), "10.128.0.9"),
        (field("status.hostIP"), "10.128.0.1"),
        (amount("limits.memory", "1Mi"), "100"),
        (amount("limits.memory", "0"), "104857600"),
        (amount("requests.cpu", "1m"), "250"),
        (amount("requests.cpu", "1"), "1"),
        (amount("limits.cpu", "1"), "2"),
        (amount("limits.ephemeral-storage", "1Gi"), "5"),
        (from(json!({"configMapKeyRef": {"name": "conf", "key": "color"}})), "red"),
        (from(json!({"secretKeyRef": {"name": "cred", "key": "password"}})), "hunter2"),
    ];
    for (container, expected) in table {
        assert_eq!(get(container.clone(), "X").as_deref(), Some(expected), "{container}");
    }
}

#[test]
fn optional_references_may_lead_nowhere_and_others_say_where() {
    let from = |source: serde_json::Value| json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]});
    let optional = from(json!({"configMapKeyRef": {"name": "gone", "key": "k", "optional": true}}));
    assert_eq!(get(optional, "X"), None);
    let table = [
        (json!({"configMapKeyRef": {"name": "gone", "key": "k"}}), "configmap \"gone\" not found"),
        (json!({"secretKeyRef": {"name": "gone", "key": "k"}}), "secret \"gone\" not found"),
        (
            json!({"configMapKeyRef": {"name": "conf", "key": "k"}}),
            "couldn't find key k in ConfigMap shop/conf",
        ),
        (json!({"secretKeyRef": {"name": "cred", "key": "k"}}), "couldn't find key k in Secret shop/cred"),
        (
            json!({"fieldRef": {"fieldPath": "spec.containers"}}),
            "the field path \"spec.containers\" is not one",
        ),
    ];
    for (source, expected) in table {
        let error = of(from(source)).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn everything_of_an_object_with_a_prefix() {
    let container = json!({"name": "c", "envFrom": [
        {"prefix": "C_", "configMapRef": {"name": "conf"}},
        {"secretRef": {"name": "cred"}},
        {"configMapRef": {"name": "gone", "optional": true}}],
        "env": [{"name": "C_color", "value": "blue"}]});
    assert_eq!(get(container.clone(), "C_color").as_deref(), Some("blue"));
    assert_eq!(get(container, "password").as_deref(), Some("hunter2"));
    let gone = json!({"name": "c", "envFrom": [{"configMapRef": {"name": "gone"}}]});
    assert!(matches!(of(gone), Err(ConfigError::NoConfigMap(name)) if name == "gone"));
}

#[test]
fn services_are_named() {
    let container = json!({"name": "c"});
    assert_eq!(get(container.clone(), "MY_DB_SERVICE_HOST").as_deref(), Some("10.96.0.7"));
    assert_eq!(get(container.clone(), "MY_DB_SERVICE_PORT_SQL").as_deref(), Some("5432"));
    assert_eq!(get(container.clone(), "MY_DB_PORT_5432_TCP").as_deref(), Some("tcp://10.96.0.7:5432"));
    let mut pod = pod(container);
    pod.spec.as_mut().unwrap().enable_service_links = Some(false);
    assert!(service_variables(&pod, &sources().services).is_empty());
}

#[test]
fn names_that_are_needed() {
    let container: Container = serde_json::from_value(json!({"name": "c",
        "envFrom": [{"configMapRef": {"name": "b"}}, {"secretRef": {"name": "s"}}],
        "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "k"}}},
                {"name": "Y", "valueFrom": {"configMapKeyRef": {"name": "b", "key": "k"}}}]}))
    .unwrap();
    assert_eq!(needed(&container), (vec!["a".to_owned(), "b".to_owned()], vec!["s".to_owned()]));
}

#[test]
fn odd_dollars_stay() {
    for text in ["$", "$(", "$(X", "a$b", "$()"] {
        assert_eq!(expand(text, &[]), text);
    }
}

#[test]
fn the_pod_overrides_the_image() {
    let image = ["PATH=/bin".to_owned(), "LANG=C".to_owned(), "BARE".to_owned()];
    let env = over_image(&image, &[("LANG".into(), "de".into()), ("X".into(), "1".into())]);
    let pairs: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(pairs, [("PATH", "/bin"), ("LANG", "de"), ("BARE", ""), ("X", "1")]);
}
