//! Validation rules in the Common Expression Language, as the Gateway API uses them.

use serde_json::{Value, json};

use super::api::{Api, DEFINITIONS};
use super::manifests::{classes, route, routes};

const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes";

#[tokio::test]
async fn defaults_in_nested_lists() {
    let api = Api::new().await;
    api.define(&[routes()]).await;
    let mut bare = route("bare");
    bare["spec"] = json!({});
    let made = api.post(ROUTES, &bare).await.ok();
    assert_eq!(made["spec"]["rules"], json!([{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}]));
    let mut partly = route("partly");
    partly["spec"]["rules"] = json!([{"matches": [{}, {"path": {"value": "/x"}}]}]);
    let made = api.post(ROUTES, &partly).await.ok();
    let path = |value: &str| json!({"path": {"type": "PathPrefix", "value": value}});
    assert_eq!(made["spec"]["rules"][0]["matches"], json!([path("/"), path("/x")]));
}

#[tokio::test]
async fn rules_hold() {
    let api = Api::new().await;
    api.define(&[routes()]).await;
    let with = |spec: Value| {
        let mut object = route("r");
        object["spec"] = spec;
        object
    };
    let table = [
        (
            json!({"rules": [{"backendRefs": [{"name": "web"}]}]}),
            [
                "spec.rules[0].backendRefs[0]",
                "Invalid value: \"object\": Must have port for Service reference",
            ],
        ),
        (
            json!({"rules": [{"matches": [{"path": {"type": "Exact", "value": "x"}}]}]}),
            [
                "spec.rules[0].matches[0].path",
                "Invalid value: \"object\": value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']",
            ],
        ),
        (
            json!({"rules": [{"name": "a"}, {"name": "a"}]}),
            ["spec.rules", "Invalid value: \"array\": Rule name must be unique within the route"],
        ),
    ];
    for (spec, [field, message]) in table {
        let causes = api.post(ROUTES, &with(spec.clone())).await.causes();
        assert_eq!(causes, [[field, "FieldValueInvalid", message].map(str::to_owned)], "{spec}");
    }
    let named =
        api.post(ROUTES, &with(json!({"rules": [{"backendRefs": [{"name": "web", "port": "http"}]}]}))).await;
    named.ok();
}

#[tokio::test]
async fn changes_are_judged_against_what_was() {
    let api = Api::new().await;
    api.define(&[routes()]).await;
    let mut object = route("r");
    object["spec"]["className"] = "a".into();
    api.post(ROUTES, &object).await.ok();
    let uri = format!("{ROUTES}/r");
    let class = |name: &str| json!({"spec": {"className": name}});
    let causes = api.patch("merge-patch+json", &uri, &class("b")).await.causes();
    assert_eq!(
        causes,
        [["spec.className", "FieldValueForbidden", "Forbidden: className is immutable"].map(str::to_owned)]
    );
    api.patch("merge-patch+json", &uri, &class("a")).await.ok();
}

#[tokio::test]
async fn a_stricter_definition_does_not_lock_old_objects() {
    let api = Api::new().await;
    api.define(&[routes()]).await;
    api.post(ROUTES, &route("r")).await.ok();
    let uri = format!("{DEFINITIONS}/httproutes.gateway.networking.k8s.io");
    let mut definition = api.get(&uri).await.ok();
    let hostnames = &mut definition["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        ["properties"]["hostnames"];
    hostnames["items"]["pattern"] = "^b".into();
    hostnames["x-kubernetes-validations"] = json!([{"rule": "self.size() > 1"}]);
    api.put(&uri, &definition).await.ok();
    let route = format!("{ROUTES}/r");
    api.patch("merge-patch+json", &route, &json!({"spec": {"replicas": 1}})).await.ok();
    let changed = api.patch("merge-patch+json", &route, &json!({"spec": {"hostnames": ["c.example"]}})).await;
    assert_eq!(changed.code, 422);
}

#[tokio::test]
async fn bad_rules_are_refused_with_the_definition() {
    let api = Api::new().await;
    let mut bad = classes();
    bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["size"]["x-kubernetes-validations"] =
        json!([{"rule": "self >"}, {"rule": "other == 1"}]);
    let causes = api.post(DEFINITIONS, &bad).await.causes();
    let place = "spec.versions[0].schema.openAPIV3Schema.properties[size].x-kubernetes-validations";
    assert_eq!(causes[0][0], format!("{place}[0].rule"));
    assert!(causes[1][2].contains("undeclared reference to 'other'"), "{causes:?}");
}

#[tokio::test]
async fn a_costly_rule_ends() {
    let api = Api::new().await;
    let mut costly = classes();
    costly["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["list"] = json!({
        "type": "array", "items": {"type": "integer"},
        "x-kubernetes-validations": [{"rule": "self.all(a, self.all(b, self.all(c, a + b + c >= 0)))"}],
    });
    api.define(&[costly]).await;
    let list: Vec<u32> = (0..1000).collect();
    let object = json!({"apiVersion": "example.com/v1alpha1", "kind": "Class", "metadata": {"name": "c"}, "list": list});
    let causes = api.post("/apis/example.com/v1alpha1/classes", &object).await.causes();
    assert!(causes[0][2].contains("cost exceeds limit"), "{causes:?}");
}
