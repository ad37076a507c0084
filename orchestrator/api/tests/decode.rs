//! Bodies into objects: what is taken, dropped, told and refused.

use catamaran_api::decode::{ContentType, DecodeError, Strictness, decode, decode_kind, normalize, untyped};
use catamaran_api::kind::{self, GroupVersionKind, Resource};
use serde_json::{Value, json};

fn deployments() -> &'static Resource {
    kind::find("apps", "v1", "deployments").expect("a known resource or a good body")
}

fn pods() -> &'static Resource {
    kind::find("", "v1", "pods").expect("a known resource or a good body")
}

fn warn(resource: &Resource, body: &str) -> (Value, Vec<String>) {
    let decoded = decode(body.as_bytes(), ContentType::Json, resource, Strictness::Warn)
        .expect("a known resource or a good body");
    (decoded.object, decoded.warnings)
}

fn refuse(resource: &Resource, body: &str, strictness: Strictness) -> String {
    decode(body.as_bytes(), ContentType::Json, resource, strictness).expect_err("a refusal").to_string()
}

#[test]
fn unknown_and_duplicate_fields_are_told_with_their_paths() {
    let body = r#"{"apiVersion":"apps/v1","kind":"Deployment","foo":1,"metadata":{"name":"a","labels":{"x":"1","x":"2"}},
        "spec":{"replicas":1,"replicas":2,"template":{"spec":{"containers":[{"name":"c","imagee":"i"},{"name":"d","bar":{"deep":1}}]}}}}"#;
    let (object, warnings) = warn(deployments(), body);
    assert_eq!(
        warnings,
        [
            "unknown field \"foo\"",
            "duplicate field \"metadata.labels.x\"",
            "duplicate field \"spec.replicas\"",
            "unknown field \"spec.template.spec.containers[0].imagee\"",
            "unknown field \"spec.template.spec.containers[1].bar\"",
        ]
    );
    assert_eq!(object["spec"]["replicas"], 2);
    assert_eq!(object["metadata"]["labels"], json!({"x": "2"}));
    assert_eq!(object["spec"]["template"]["spec"]["containers"], json!([{"name": "c"}, {"name": "d"}]));
    assert_eq!(object.get("foo"), None);
}

#[test]
fn strict_refuses_in_kubernetes_words_and_ignore_says_nothing() {
    let body = r#"{"spec":{"foo":1,"replicas":1,"replicas":1}}"#;
    assert_eq!(
        refuse(deployments(), body, Strictness::Strict),
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: \
         unknown field \"spec.foo\", duplicate field \"spec.replicas\""
    );
    let ignored = decode(body.as_bytes(), ContentType::Json, deployments(), Strictness::Ignore).unwrap();
    assert!(ignored.warnings.is_empty());
    assert_eq!(ignored.object["apiVersion"], "apps/v1");
    assert_eq!(ignored.object["kind"], "Deployment");
}

#[test]
fn wrong_types_name_field_found_and_wanted() {
    for (body, wanted) in [
        (
            r#"{"spec":{"replicas":"3"}}"#,
            "json: cannot unmarshal string into field spec.replicas of type int32",
        ),
        (
            r#"{"spec":{"replicas":1.5}}"#,
            "json: cannot unmarshal number 1.5 into field spec.replicas of type int32",
        ),
        (r#"{"spec":{"replicas":4294967296}}"#, "number 4294967296 into field spec.replicas of type int32"),
        (r#"{"spec":{"paused":"yes"}}"#, "string into field spec.paused of type bool"),
        (r#"{"spec":[]}"#, "array into field spec of type DeploymentSpec (object)"),
        (
            r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#,
            "object into field spec.template.spec.containers of type array",
        ),
        (r#"{"metadata":{"labels":{"a":1}}}"#, "number into field metadata.labels.a of type string"),
        (
            r#"{"metadata":{"creationTimestamp":"yesterday"}}"#,
            "field metadata.creationTimestamp: \"yesterday\" is no time",
        ),
        (r#"[]"#, "array into an object of type Deployment (object)"),
    ] {
        let message = refuse(deployments(), body, Strictness::Warn);
        assert!(message.contains(wanted), "{message}");
        assert!(
            message.starts_with("Deployment in version \"v1\" cannot be handled as a Deployment: "),
            "{message}"
        );
    }
    let secrets = kind::find("", "v1", "secrets").unwrap();
    assert!(
        refuse(secrets, r#"{"data":{"a":"%%"}}"#, Strictness::Warn)
            .contains("field data.a: illegal base64 data")
    );
    assert!(
        refuse(pods(), r#"{"spec":{"overhead":{"cpu":"much"}}}"#, Strictness::Warn)
            .contains("spec.overhead.cpu")
    );
}

#[test]
fn malformed_bodies_are_refused() {
    for body in ["", "{", "{\"a\":}", "nonsense", "{} {}"] {
        let message = refuse(pods(), body, Strictness::Ignore);
        assert!(
            message.starts_with("the object provided is unrecognized (must be of type Pod): "),
            "{message}"
        );
    }
}

#[test]
fn another_kind_or_version_is_refused_whatever_its_fields() {
    let service = r#"{"apiVersion":"v1","kind":"Service","spec":{"selector":{"a":"b"}}}"#;
    let error = decode(service.as_bytes(), ContentType::Json, deployments(), Strictness::Warn).unwrap_err();
    assert!(
        matches!(&error, DecodeError::Kind { kind, wanted: "Deployment", .. } if kind == "Service"),
        "{error}"
    );
    assert!(error.to_string().starts_with("Service in version \"v1\" cannot be handled as a Deployment: "));
    assert_eq!(
        refuse(deployments(), r#"{"apiVersion":"apps/v1beta1","kind":"Deployment"}"#, Strictness::Warn),
        "the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)"
    );
}

#[test]
fn null_means_absence() {
    let (object, warnings) = warn(
        pods(),
        r#"{"metadata":{"creationTimestamp":null,"name":"a"},"spec":{"securityContext":null,"containers":[{"name":"c","env":null}]},"status":null}"#,
    );
    assert!(warnings.is_empty());
    assert_eq!(
        object,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}})
    );
}

#[test]
fn zero_values_stay_only_where_they_say_something() {
    let (object, _) = warn(
        deployments(),
        r#"{"metadata":{"labels":{},"generation":0},"spec":{"replicas":0,"minReadySeconds":0,"paused":false,"strategy":{},
            "template":{"spec":{"nodeName":"","enableServiceLinks":false,"hostNetwork":false,"volumes":[],
            "securityContext":{},"containers":[{"name":"","ports":[{"containerPort":0,"hostPort":0}],"resources":{}}]}}}}"#,
    );
    assert_eq!(
        object,
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {},
            "spec": {"replicas": 0, "strategy": {}, "template": {"spec": {
                "enableServiceLinks": false, "securityContext": {},
                "containers": [{"name": "", "ports": [{"containerPort": 0}], "resources": {}}]
            }}}
        })
    );
}

#[test]
fn quantities_times_and_bytes_become_canonical() {
    let (object, _) = warn(
        pods(),
        r#"{"metadata":{"creationTimestamp":"2024-05-01T12:00:00.5+02:00"},
            "spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":0.5,"memory":"1024Mi","pods":2}}}]}}"#,
    );
    assert_eq!(object["metadata"]["creationTimestamp"], "2024-05-01T10:00:00Z");
    assert_eq!(
        object["spec"]["containers"][0]["resources"]["limits"],
        json!({"cpu": "500m", "memory": "1Gi", "pods": "2"})
    );
    let leases = kind::find("coordination.k8s.io", "v1", "leases").unwrap();
    let (lease, _) = warn(leases, r#"{"spec":{"renewTime":"2024-05-01T10:00:00.123456Z"}}"#);
    assert_eq!(lease["spec"]["renewTime"], "2024-05-01T10:00:00.123456Z");
    let (secret, _) = warn(kind::find("", "v1", "secrets").unwrap(), r#"{"data":{"a":"aGVs\nbG8="}}"#);
    assert_eq!(secret["data"]["a"], "aGVsbG8=");
}

#[test]
fn an_int_or_string_keeps_its_form() {
    let services = kind::find("", "v1", "services").unwrap();
    let (object, _) =
        warn(services, r#"{"spec":{"ports":[{"port":80,"targetPort":"http"},{"port":81,"targetPort":0}]}}"#);
    assert_eq!(
        object["spec"]["ports"],
        json!([{"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 0}])
    );
}

#[test]
fn embedded_objects_and_field_sets_are_kept_whole() {
    let revisions = kind::find("apps", "v1", "controllerrevisions").unwrap();
    let (object, warnings) = warn(
        revisions,
        r#"{"metadata":{"managedFields":[{"manager":"m","fieldsV1":{"f:spec":{".":{},"k:{\"name\":\"a\"}":{}}}}]},"data":{"spec":{"any":[1,null]}},"revision":1}"#,
    );
    assert!(warnings.is_empty());
    assert_eq!(object["data"], json!({"spec": {"any": [1, null]}}));
    assert_eq!(object["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["k:{\"name\":\"a\"}"], json!({}));
}

#[test]
fn the_schema_of_a_custom_resource_is_read_with_its_unions() {
    let crds = kind::find("apiextensions.k8s.io", "v1", "customresourcedefinitions").unwrap();
    let (object, warnings) = warn(
        crds,
        r#"{"spec":{"versions":[{"name":"v1","schema":{"openAPIV3Schema":{"type":"object","nope":1,"properties":{
            "a":{"type":"array","items":{"type":"string","nope":1}},"b":{"additionalProperties":true},"c":{"default":{"x":null}}}}}}]}}"#,
    );
    assert_eq!(warnings, ["unknown field \"spec.versions[0].schema.openAPIV3Schema.nope\""]);
    let schema = &object["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    assert_eq!(schema["properties"]["a"]["items"], json!({"type": "string"}));
    assert_eq!(schema["properties"]["b"]["additionalProperties"], true);
    assert_eq!(schema["properties"]["c"]["default"], json!({"x": null}));
}

#[test]
fn yaml_is_read_as_kubernetes_reads_it() {
    let yaml = "apiVersion: v1\nkind: Pod\nmetadata: &m\n  name: a\nspec:\n  hostNetwork: yes\n  terminationGracePeriodSeconds: 1e1\n  \
                volumes:\n  - name: s\n    secret: {secretName: s, defaultMode: 0644}\n  containers:\n  - name: c\n    name: d\n";
    let decoded = decode(yaml.as_bytes(), ContentType::Yaml, pods(), Strictness::Warn).unwrap();
    assert_eq!(decoded.warnings, ["duplicate field \"spec.containers[0].name\""]);
    assert_eq!(
        decoded.object["spec"],
        json!({
            "hostNetwork": true, "terminationGracePeriodSeconds": 10, "containers": [{"name": "d"}],
            "volumes": [{"name": "s", "secret": {"secretName": "s", "defaultMode": 420}}]
        })
    );
    let error = decode(b"metadata: {name: yes}", ContentType::Yaml, pods(), Strictness::Warn).unwrap_err();
    assert!(
        error.to_string().contains("cannot unmarshal bool into field metadata.name of type string"),
        "{error}"
    );
    let error = decode(b"metadata: {name: a", ContentType::Yaml, pods(), Strictness::Warn).unwrap_err();
    assert!(matches!(error, DecodeError::Syntax { .. }), "{error}");
}

#[test]
fn other_bodies_have_kinds_of_their_own() {
    let eviction = GroupVersionKind { group: "policy", version: "v1", kind: "Eviction" };
    let body = br#"{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"},"deleteOptions":{"gracePeriodSeconds":0}}"#;
    let decoded = decode_kind(body, ContentType::Json, eviction, Strictness::Strict).unwrap();
    assert_eq!(decoded.object["deleteOptions"]["gracePeriodSeconds"], 0);
    let options = GroupVersionKind { group: "", version: "v1", kind: "DeleteOptions" };
    for body in [
        r#"{"propagationPolicy":"Foreground"}"#,
        r#"{"kind":"DeleteOptions","apiVersion":"apps/v1","propagationPolicy":"Foreground"}"#,
    ] {
        let decoded = decode_kind(body.as_bytes(), ContentType::Json, options, Strictness::Strict).unwrap();
        assert_eq!(decoded.object["propagationPolicy"], "Foreground");
    }
}

#[test]
fn a_value_is_brought_into_the_same_form() {
    let patched = json!({"kind": "Pod", "apiVersion": "v1", "spec": {"containers": [], "nodeSelector": {}, "nope": 1}, "status": null});
    let decoded = normalize(patched.clone(), pods().gvk(), Strictness::Warn).unwrap();
    assert_eq!(decoded.warnings, ["unknown field \"spec.nope\""]);
    assert_eq!(decoded.object, json!({"kind": "Pod", "apiVersion": "v1", "spec": {"containers": []}}));
    assert!(normalize(patched, pods().gvk(), Strictness::Strict).is_err());
    let wrong = normalize(json!({"spec": {"containers": 1}}), pods().gvk(), Strictness::Ignore).unwrap_err();
    assert!(
        wrong.to_string().contains("cannot unmarshal number into field spec.containers of type array"),
        "{wrong}"
    );
}

#[test]
fn a_body_without_schema_keeps_everything_and_tells_duplicates() {
    let body = br#"{"a":{"b":[{"c":1,"c":2.5}]},"n":null}"#;
    let decoded = untyped(body, ContentType::Json, Strictness::Warn).unwrap();
    assert_eq!(decoded.warnings, ["duplicate field \"a.b[0].c\""]);
    assert_eq!(decoded.object, json!({"a": {"b": [{"c": 2.5}]}, "n": null}));
    assert!(untyped(body, ContentType::Json, Strictness::Strict).is_err());
}

#[test]
fn findings_are_bounded() {
    let fields: Vec<String> = (0..500).map(|i| format!("\"f{i}\":1")).collect();
    let (_, warnings) = warn(pods(), &format!("{{{}}}", fields.join(",")));
    assert_eq!(warnings.len(), 100);
}
