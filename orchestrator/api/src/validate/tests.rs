//! Validation: what is refused and in which words, what passes, what may change.

use super::*;
use crate::kind;
use serde_json::json;

fn resource(group: &str, plural: &str) -> &'static Resource {
    kind::resources().iter().find(|r| r.group == group && r.plural == plural).unwrap()
}

fn created(group: &str, plural: &str, object: &Value) -> Vec<String> {
    create(resource(group, plural), object).iter().map(ToString::to_string).collect()
}

fn updated(group: &str, plural: &str, new: &Value, old: &Value) -> Vec<String> {
    let errors = update(resource(group, plural), new, old, Subresource::Main);
    errors.iter().map(ToString::to_string).collect()
}

fn with(base: &Value, pointer: &str, value: Value) -> Value {
    let mut object = base.clone();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap();
    match (value, parent) {
        (Value::Null, Value::Object(map)) => drop(map.remove(field)),
        (value, Value::Array(list)) => list[field.parse::<usize>().unwrap()] = value,
        (value, parent) => parent[field] = value,
    }
    object
}

/// Each line is a case: where (`C` for the first container), what, and how an error begins that it makes.
fn check_cases(group: &str, plural: &str, base: &Value, cases: &str) {
    assert_eq!(created(group, plural, base), Vec::<String>::new(), "{plural}");
    for case in cases.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let [pointer, value, error] = case.splitn(3, " | ").collect::<Vec<_>>()[..] else {
            panic!("not a case: {case}")
        };
        let pointer = pointer.replace("C/", "/spec/containers/0/");
        let value: Value = serde_json::from_str(value).unwrap_or_else(|e| panic!("{case}: {e}"));
        let errors = created(group, plural, &with(base, &pointer, value));
        assert!(errors.iter().any(|e| e.starts_with(error)), "{plural} {case}: got {errors:?}");
    }
}

/// A case whose value is too long to be written out.
fn check_long(group: &str, plural: &str, base: &Value, pointer: &str, value: Value, error: &str) {
    let errors = created(group, plural, &with(base, pointer, value));
    assert!(errors.iter().any(|e| e.starts_with(error)), "{plural} {pointer}: got {errors:?}");
}

fn pod() -> Value {
    json!({
        "metadata": {"name": "p", "namespace": "d"},
        "spec": {
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
            "containers": [{
                "name": "a", "image": "x", "imagePullPolicy": "Always", "terminationMessagePolicy": "File",
                "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}],
                "env": [{"name": "A", "value": "1"}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}},
                "readinessProbe": {"httpGet": {"path": "/", "port": "http", "scheme": "HTTP"}, "successThreshold": 2},
            }],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
    })
}

#[test]
fn metadata_rules() {
    let base = json!({"metadata": {"name": "c", "namespace": "d"}});
    let owner =
        |uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true});
    let cases = r#"
        /metadata/name | null | metadata.name: Required value: name or generateName is required
        /metadata/name | "A" | metadata.name: Invalid value: "A": a lowercase RFC 1123 subdomain must
        /metadata/namespace | null | metadata.namespace: Required value
        /metadata/namespace | "A.b" | metadata.namespace: Invalid value: "A.b": a lowercase RFC 1123 label
        /metadata/labels | {"-a": "b"} | metadata.labels: Invalid value: "-a": name part must consist of
        /metadata/labels | {"a": "b c"} | metadata.labels: Invalid value: "b c": a valid label must be
        /metadata/annotations | {"a b": ""} | metadata.annotations: Invalid value: "a b": name part must
        /metadata/finalizers | ["orphan", "foregroundDeletion"] | metadata.finalizers: Invalid value: ["orphan","foregroundDeletion"]: finalizer orphan and foregroundDeletion cannot be both set
    "#;
    check_cases("", "configmaps", &base, cases);
    check_long(
        "",
        "configmaps",
        &base,
        "/metadata/annotations",
        json!({"a": "x".repeat(300_000)}),
        "metadata.annotations: Too long: may not be more than 262144 bytes",
    );
    check_long(
        "",
        "configmaps",
        &base,
        "/metadata/ownerReferences",
        json!([owner("")]),
        "metadata.ownerReferences[0].uid: Invalid value: \"\": must not be empty",
    );
    check_long(
        "",
        "configmaps",
        &base,
        "/metadata/ownerReferences",
        json!([owner("u"), owner("w")]),
        "metadata.ownerReferences: Invalid value: ",
    );
    let namespace = json!({"metadata": {"name": "n"}});
    let cases = r#"
        /metadata/name | "a.b" | metadata.name: Invalid value: "a.b": must not contain dots
        /metadata/namespace | "x" | metadata.namespace: Forbidden: not allowed on this type
    "#;
    check_cases("", "namespaces", &namespace, cases);
}

#[test]
fn metadata_that_may_not_change() {
    let old = json!({"metadata": {"name": "c", "namespace": "d", "uid": "u", "deletionTimestamp": "2024-05-01T10:00:00Z", "finalizers": ["a/b"]}});
    assert_eq!(updated("", "configmaps", &old, &old), Vec::<String>::new());
    let uid = with(&old, "/metadata/uid", json!("w"));
    assert_eq!(
        updated("", "configmaps", &uid, &old),
        ["metadata.uid: Invalid value: \"w\": field is immutable"]
    );
    let finalizer = with(&old, "/metadata/finalizers", json!(["a/b", "c/d"]));
    assert_eq!(
        updated("", "configmaps", &finalizer, &old),
        [
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"c/d\"}"
        ]
    );
}

#[test]
fn pod_rules() {
    let cases = r#"
        /spec/containers | [] | spec.containers: Required value
        C/name | null | spec.containers[0].name: Required value
        C/name | "A" | spec.containers[0].name: Invalid value: "A": a lowercase RFC 1123 label
        C/image | null | spec.containers[0].image: Required value
        C/image | " x" | spec.containers[0].image: Invalid value: " x": must not have leading or trailing whitespace
        C/imagePullPolicy | "Now" | spec.containers[0].imagePullPolicy: Unsupported value: "Now": supported values: "Always", "IfNotPresent", "Never"
        C/ports/0/containerPort | 0 | spec.containers[0].ports[0].containerPort: Required value
        C/ports/0/containerPort | 70000 | spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive
        C/ports/0/name | "HTTP" | spec.containers[0].ports[0].name: Invalid value: "HTTP": must contain only alpha-numeric
        C/ports/0/protocol | "ICMP" | spec.containers[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"
        C/env/0/name | "A=B" | spec.containers[0].env[0].name: Invalid value: "A=B"
        C/env/0/valueFrom | {} | spec.containers[0].env[0].valueFrom: Invalid value: "": must specify one of: `fieldRef`
        C/env/0/valueFrom | {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}} | spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty
        C/env/0 | {"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.foo"}}} | spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "spec.foo": supported values: "metadata.name"
        C/envFrom | [{}] | spec.containers[0].envFrom[0]: Invalid value: "": must specify one of: `configMapRef` or `secretRef`
        C/volumeMounts/0/name | "w" | spec.containers[0].volumeMounts[0].name: Not found: "w"
        C/volumeMounts/0/mountPath | null | spec.containers[0].volumeMounts[0].mountPath: Required value
        C/volumeMounts/0/subPath | "../x" | spec.containers[0].volumeMounts[0].subPath: Invalid value: "../x": must not contain '..'
        C/resources/requests/cpu | "2" | spec.containers[0].resources.requests[cpu]: Invalid value: "2": must be less than or equal to cpu limit of 1
        C/resources/limits/cpu | "-1" | spec.containers[0].resources.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0
        C/resources/limits | {"power": "1"} | spec.containers[0].resources.limits[power]: Invalid value: "power": must be a standard resource for containers
        C/livenessProbe | {} | spec.containers[0].livenessProbe: Required value: must specify a handler type
        C/livenessProbe | {"exec": {"command": ["x"]}, "successThreshold": 2} | spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1
        C/livenessProbe | {"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}} | spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type
        C/restartPolicy | "Always" | spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers
        C/securityContext | {"privileged": true, "allowPrivilegeEscalation": false} | spec.containers[0].securityContext: Invalid value: 
        C/securityContext | {"runAsUser": -1} | spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive
        /spec/initContainers | [{"name": "a", "image": "x", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}] | spec.initContainers[0].name: Duplicate value: "a"
        /spec/ephemeralContainers | [{"name": "e", "image": "x", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}] | spec.ephemeralContainers: Forbidden: cannot be set on create
        /spec/volumes | [{"name": "v"}] | spec.volumes[0]: Required value: must specify a volume type
        /spec/volumes | [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}] | spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type
        /spec/volumes | [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}] | spec.volumes[1].name: Duplicate value: "v"
        /spec/volumes | [{"name": "v", "secret": {}}] | spec.volumes[0].secret.secretName: Required value
        /spec/volumes | [{"name": "v", "hostPath": {"path": "/a/../b"}}] | spec.volumes[0].hostPath.path: Invalid value: "/a/../b": must not contain '..'
        /spec/restartPolicy | "Maybe" | spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always", "OnFailure", "Never"
        /spec/dnsPolicy | "None" | spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None
        /spec/activeDeadlineSeconds | 0 | spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive
        /spec/tolerations | [{"operator": "Equal"}] | spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when `key` is empty
        /spec/hostname | "A.b" | spec.hostname: Invalid value: "A.b"
        /spec/imagePullSecrets | [{}] | spec.imagePullSecrets[0].name: Required value
        /spec/securityContext | {"sysctls": [{"name": "-a"}]} | spec.securityContext.sysctls[0].name: Invalid value: "-a": must have at most 253 characters and match regex
        /spec | null | spec.containers: Required value
    "#;
    check_cases("", "pods", &pod(), cases);
    check_long(
        "",
        "pods",
        &pod(),
        "/spec/volumes",
        json!([{"name": "v", "configMap": {"name": "c", "defaultMode": 0o1000}}]),
        "spec.volumes[0].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
    );
}

#[test]
fn what_may_change_in_a_pod() {
    let old = pod();
    let image = with(&old, "/spec/containers/0/image", json!("y"));
    assert_eq!(updated("", "pods", &image, &old), Vec::<String>::new());
    let deadline = with(&old, "/spec/activeDeadlineSeconds", json!(5));
    assert_eq!(updated("", "pods", &deadline, &old), Vec::<String>::new());
    assert_eq!(
        updated("", "pods", &old, &deadline),
        [
            "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"
        ]
    );
    let toleration = with(&old, "/spec/tolerations", json!([{"key": "a", "operator": "Exists"}]));
    assert_eq!(updated("", "pods", &toleration, &old), Vec::<String>::new());
    assert!(
        updated("", "pods", &old, &toleration)[0]
            .starts_with("spec.tolerations: Forbidden: existing toleration")
    );
    let env = with(&old, "/spec/containers/0/env/0/value", json!("2"));
    let errors = updated("", "pods", &env, &old);
    assert!(errors[0].starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds`"));
    assert!(errors[0].contains("changed: spec.containers[0].env[0].value"));
    let more =
        with(&old, "/spec/containers", json!([old["spec"]["containers"][0], old["spec"]["containers"][0]]));
    assert_eq!(
        updated("", "pods", &more, &old),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
    let sub = |new: &Value, s| -> Vec<String> {
        update(resource("", "pods"), new, &old, s).iter().map(ToString::to_string).collect()
    };
    let debug = with(
        &old,
        "/spec/ephemeralContainers",
        json!([{"name": "d", "image": "x", "targetContainerName": "a"}]),
    );
    assert_eq!(sub(&debug, Subresource::EphemeralContainers), Vec::<String>::new());
    let taken = with(&old, "/spec/ephemeralContainers", json!([{"name": "a", "image": "x"}]));
    assert_eq!(sub(&taken, Subresource::EphemeralContainers).len(), 1);
    let cpu =
        with(&old, "/spec/containers/0/resources", json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}));
    assert_eq!(sub(&cpu, Subresource::Resize), Vec::<String>::new());
    assert_eq!(sub(&image, Subresource::Resize).len(), 1);
    assert_eq!(sub(&env, Subresource::Status), Vec::<String>::new());
}

fn deployment() -> Value {
    let mut spec = pod()["spec"].take();
    spec["containers"][0]["name"] = json!("a");
    json!({
        "metadata": {"name": "w", "namespace": "d"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "w"}}, "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": {"app": "w"}}, "spec": spec},
        },
    })
}

#[test]
fn workload_rules() {
    let cases = r#"
        /spec/selector | null | spec.selector: Required value
        /spec/selector | {} | spec.selector: Invalid value: {}: empty selector is invalid for deployment
        /spec/selector | {"matchLabels": {"app": "x"}} | spec.template.metadata.labels: Invalid value: {"app":"w"}: `selector` does not match template `labels`
        /spec/replicas | -1 | spec.replicas: Invalid value: -1: must be greater than or equal to 0
        /spec/template/spec/restartPolicy | "Never" | spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"
        /spec/template/spec/containers/0/image | "" | spec.template.spec.containers[0].image: Required value
        /spec/strategy | {"type": "Recreate", "rollingUpdate": {}} | spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'
        /spec/strategy/rollingUpdate | {"maxSurge": 0, "maxUnavailable": 0} | spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0
        /spec/strategy/rollingUpdate | {"maxSurge": "x"} | spec.strategy.rollingUpdate.maxSurge: Invalid value: "x": a valid percent string must be
        /spec/minReadySeconds | 600 | spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds
    "#;
    check_cases("apps", "deployments", &deployment(), cases);
    let changed = with(&deployment(), "/spec/selector/matchLabels/app", json!("x"));
    let changed = with(&changed, "/spec/template/metadata/labels/app", json!("x"));
    assert_eq!(
        updated("apps", "deployments", &changed, &deployment()),
        ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\"}}: field is immutable"]
    );
    let set = with(&deployment(), "/spec/strategy", json!(null));
    assert_eq!(created("apps", "replicasets", &set), Vec::<String>::new());
    let stateful = with(&set, "/spec/podManagementPolicy", json!("OrderedReady"));
    let stateful = with(&stateful, "/spec/updateStrategy", json!({"type": "RollingUpdate"}));
    assert_eq!(created("apps", "statefulsets", &stateful), Vec::<String>::new());
    let mut claiming = stateful.clone();
    let mount = json!([{"name": "data", "mountPath": "/data"}]);
    claiming["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = mount;
    assert!(created("apps", "statefulsets", &claiming)[0].contains("volumeMounts[0].name: Not found"));
    claiming["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}]);
    assert_eq!(created("apps", "statefulsets", &claiming), Vec::<String>::new());
    let renamed = with(&stateful, "/spec/serviceName", json!("x"));
    assert!(
        updated("apps", "statefulsets", &renamed, &stateful)[0]
            .contains("updates to statefulset spec for fields other than")
    );
}

#[test]
fn job_rules() {
    let mut template = deployment()["spec"]["template"].take();
    template["spec"]["restartPolicy"] = json!("Never");
    let job = json!({"metadata": {"name": "j", "namespace": "d"}, "spec": {"parallelism": 1, "template": template}});
    let cases = r#"
        /spec/template/spec/restartPolicy | "Always" | spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"
        /spec/backoffLimit | -1 | spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0
        /spec/completionMode | "Indexed" | spec.completions: Required value: when completion mode is Indexed
    "#;
    check_cases("batch", "jobs", &job, cases);
    let changed = with(&job, "/spec/template/spec/containers/0/image", json!("y"));
    assert!(updated("batch", "jobs", &changed, &job)[0].contains("field is immutable"));
    let cron = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"schedule": "*/5 0-6,8 * jan mon", "concurrencyPolicy": "Allow", "jobTemplate": {"spec": job["spec"]}}});
    let cases = r#"
        /spec/schedule | "* * *" | spec.schedule: Invalid value: "* * *": expected exactly 5 fields, found 3
        /spec/schedule | "61 * * * *" | spec.schedule: Invalid value
        /spec/schedule | "5-1 * * * *" | spec.schedule: Invalid value
        /spec/schedule | "@never" | spec.schedule: Invalid value
        /spec/concurrencyPolicy | "x" | spec.concurrencyPolicy: Unsupported value
    "#;
    check_cases("batch", "cronjobs", &cron, cases);
}

#[test]
fn service_rules() {
    let service = json!({
        "metadata": {"name": "s", "namespace": "d"},
        "spec": {"type": "ClusterIP", "sessionAffinity": "None", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": "http"}]},
    });
    let two =
        json!([{"port": 80, "protocol": "TCP", "name": "a"}, {"port": 80, "protocol": "TCP", "name": "b"}]);
    let cases = r#"
        /metadata/name | "1s" | metadata.name: Invalid value: "1s": a DNS-1035 label must
        /spec/ports | [] | spec.ports: Required value
        /spec/ports | [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}] | spec.ports[0].name: Required value
        /spec/ports/0/port | 0 | spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive
        /spec/ports/0/nodePort | 30000 | spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'
        /spec/type | "Magic" | spec.type: Unsupported value: "Magic": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"
        /spec/clusterIP | "x" | spec.clusterIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
        /spec/sessionAffinity | "x" | spec.sessionAffinity: Unsupported value
        /spec/externalIPs | ["127.0.0.1"] | spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range
    "#;
    check_cases("", "services", &service, cases);
    check_long(
        "",
        "services",
        &service,
        "/spec/ports",
        two,
        "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
    );
    let node_port = with(&service, "/spec/type", json!("NodePort"));
    let low = with(&node_port, "/spec/ports/0/nodePort", json!(80));
    assert_eq!(
        created("", "services", &low),
        [
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
        ]
    );
    let moved = with(
        &with(&service, "/spec/clusterIP", json!("10.96.0.8")),
        "/spec/clusterIPs",
        json!(["10.96.0.8"]),
    );
    assert_eq!(
        updated("", "services", &moved, &service),
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.8\"]: may not change once set"]
    );
    let slice = json!({"metadata": {"name": "s", "namespace": "d"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80, "protocol": "TCP", "name": ""}]});
    let cases = r#"
        /addressType | "IPv6" | endpoints[0].addresses[0]: Invalid value: "10.0.0.1": must be a valid IPv6 address
        /endpoints | [{"addresses": []}] | endpoints[0].addresses: Required value: must contain at least 1 address
    "#;
    check_cases("discovery.k8s.io", "endpointslices", &slice, cases);
}

#[test]
fn config_rules() {
    let map = json!({"metadata": {"name": "c", "namespace": "d"}, "data": {"a": "b"}, "immutable": true});
    let cases = r#"
        /data | {"a b": ""} | data[a b]: Invalid value: "a b": a valid config key must consist of
        /data | {"": ""} | data[]: Invalid value: "": a valid config key
        /binaryData | {"a": ""} | data[a]: Invalid value: "a": duplicate of key present in binaryData
    "#;
    check_cases("", "configmaps", &map, cases);
    check_long(
        "",
        "configmaps",
        &map,
        "/data",
        json!({"a": "x".repeat(1024 * 1024 + 1)}),
        ": Too long: may not be more than 1048576 bytes",
    );
    let changed = with(&map, "/data/a", json!("c"));
    assert_eq!(
        updated("", "configmaps", &changed, &map),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
    let secret = json!({"metadata": {"name": "c", "namespace": "d"}, "type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}});
    check_cases("", "secrets", &secret, r#"/data | {} | data[tls.crt]: Required value"#);
    let other = with(&secret, "/type", json!("Opaque"));
    assert_eq!(
        updated("", "secrets", &other, &secret),
        ["type: Invalid value: \"Opaque\": field is immutable"]
    );
}

#[test]
fn roles_and_bindings() {
    let binding = json!({"metadata": {"name": "b:x"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"}});
    check_cases(
        "rbac.authorization.k8s.io",
        "clusterrolebindings",
        &binding,
        r#"
        /roleRef/kind | "Role" | roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"
        /roleRef/apiGroup | "x" | roleRef.apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io"
        /roleRef/name | "" | roleRef.name: Required value
        /roleRef/name | "a/b" | roleRef.name: Invalid value: "a/b": may not contain '/'
        /subjects | [{"kind": "User", "name": ""}] | subjects[0].name: Required value
        /subjects | [{"kind": "Robot", "name": "r"}] | subjects[0].kind: Unsupported value: "Robot": supported values: "ServiceAccount", "User", "Group"
        /subjects | [{"kind": "ServiceAccount", "name": "a"}] | subjects[0].namespace: Required value
        /subjects | [{"kind": "ServiceAccount", "name": "A", "namespace": "d"}] | subjects[0].name: Invalid value: "A": a lowercase RFC 1123 subdomain
        "#,
    );
    let mut local = binding.clone();
    local["metadata"]["namespace"] = "d".into();
    local["subjects"] = json!([{"kind": "ServiceAccount", "name": "a"}]);
    check_cases(
        "rbac.authorization.k8s.io",
        "rolebindings",
        &local,
        r#"/roleRef/kind | "x" | roleRef.kind: Unsupported value: "x": supported values: "Role", "ClusterRole""#,
    );
    let role = json!({"metadata": {"name": "r"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
    check_cases(
        "rbac.authorization.k8s.io",
        "clusterroles",
        &role,
        r#"
        /rules/0/verbs | [] | rules[0].verbs: Required value: verbs must contain at least one value
        /rules/0/apiGroups | [] | rules[0].apiGroups: Required value: resource rules must supply at least one api group
        /rules/0/resources | [] | rules[0].resources: Required value: resource rules must supply at least one resource
        /rules/0/nonResourceURLs | ["/x"] | rules[0].nonResourceURLs: Invalid value: ["/x"]: rules cannot apply to both regular resources and non-resource URLs
        /aggregationRule | {"clusterRoleSelectors": []} | aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil
        /aggregationRule | {"clusterRoleSelectors": [{"matchLabels": {"a b": "c"}}]} | aggregationRule.clusterRoleSelectors[0].matchLabels: Invalid value: "a b"
        "#,
    );
    let mut role = role;
    role["metadata"]["namespace"] = "d".into();
    check_cases(
        "rbac.authorization.k8s.io",
        "roles",
        &role,
        r#"/rules/0 | {"verbs": ["get"], "nonResourceURLs": ["/x"]} | rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs"#,
    );
}

#[test]
fn webhook_rules() {
    let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": "w", "uid": "u"}, "webhooks": [{
        "name": "a.example.com", "admissionReviewVersions": ["v1", "v1beta1"], "sideEffects": "None", "timeoutSeconds": 10,
        "clientConfig": {"service": {"namespace": "n", "name": "s", "path": "/p", "port": 443}},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods", "pods/*"], "scope": "*"}],
    }]});
    let cases = r#"
        /webhooks/0/name | "short" | webhooks[0].name: Invalid value: "short": should be a domain with at least three segments separated by dots
        /webhooks/0/name | "" | webhooks[0].name: Required value
        /webhooks/0/admissionReviewVersions | ["v1beta1"] | webhooks[0].admissionReviewVersions: Invalid value: ["v1beta1"]: must include at least one of v1
        /webhooks/0/admissionReviewVersions | [] | webhooks[0].admissionReviewVersions: Required value: must specify one of v1
        /webhooks/0/sideEffects | null | webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun
        /webhooks/0/sideEffects | "Some" | webhooks[0].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"
        /webhooks/0/timeoutSeconds | 31 | webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds
        /webhooks/0/failurePolicy | "Maybe" | webhooks[0].failurePolicy: Unsupported value: "Maybe"
        /webhooks/0/matchConditions | [{"name": "c", "expression": "true"}] | webhooks[0].matchConditions: Forbidden: this server does not evaluate conditions
        /webhooks/0/clientConfig | {} | webhooks[0].clientConfig: Required value: exactly one of url or service is required
        /webhooks/0/clientConfig | {"url": "http://x/"} | webhooks[0].clientConfig.url: Invalid value: "http://x/": 'https' is the only allowed URL scheme
        /webhooks/0/clientConfig | {"url": "https://x/?a=b"} | webhooks[0].clientConfig.url: Invalid value: "https://x/?a=b": query parameters are not permitted
        /webhooks/0/clientConfig/service/name | "" | webhooks[0].clientConfig.service.name: Required value: service name is required
        /webhooks/0/clientConfig/service/path | "p" | webhooks[0].clientConfig.service.path: Invalid value: "p": must start with a '/'
        /webhooks/0/rules/0/operations | ["READ"] | webhooks[0].rules[0].operations[0]: Unsupported value: "READ"
        /webhooks/0/rules/0/apiGroups | ["*", "apps"] | webhooks[0].rules[0].apiGroups: Invalid value: ["*","apps"]: if '*' is present, must not specify other API groups
        /webhooks/0/rules/0/resources | [] | webhooks[0].rules[0].resources: Required value
        /webhooks/0/rules/0/scope | "Some" | webhooks[0].rules[0].scope: Unsupported value: "Some"
    "#;
    for plural in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        check_cases("admissionregistration.k8s.io", plural, &configuration, cases);
    }
}

#[test]
fn other_kinds() {
    let node = json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    let cases = r#"/spec/taints/0/effect | "x" | spec.taints[0].effect: Unsupported value: "x""#;
    check_cases("", "nodes", &node, cases);
    let class = json!({"metadata": {"name": "wasm"}, "handler": "wasm"});
    check_cases("node.k8s.io", "runtimeclasses", &class, r#"/handler | "" | handler: Required value"#);
    let changed = with(&class, "/handler", json!("x"));
    assert_eq!(
        updated("node.k8s.io", "runtimeclasses", &changed, &class),
        ["handler: Invalid value: \"x\": field is immutable"]
    );
    let lease = json!({"metadata": {"name": "l", "namespace": "d"}, "spec": {"leaseDurationSeconds": 40}});
    check_cases(
        "coordination.k8s.io",
        "leases",
        &lease,
        r#"/spec/leaseDurationSeconds | 0 | spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"#,
    );
    let event = json!({"metadata": {"name": "e", "namespace": "d"}, "involvedObject": {"namespace": "d"}});
    check_cases(
        "",
        "events",
        &event,
        r#"/involvedObject/namespace | "x" | involvedObject.namespace: Invalid value: "x": does not match event.namespace"#,
    );
    let budget = json!({"metadata": {"name": "b", "namespace": "d"}, "spec": {"minAvailable": 1}});
    check_cases(
        "policy",
        "poddisruptionbudgets",
        &budget,
        r#"/spec/maxUnavailable | 1 | spec: Invalid value"#,
    );
    let claim = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    check_cases(
        "",
        "persistentvolumeclaims",
        &claim,
        r#"/spec/accessModes | [] | spec.accessModes: Required value"#,
    );
    let ingress = json!({"metadata": {"name": "i", "namespace": "d"}, "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
    check_cases(
        "networking.k8s.io",
        "ingresses",
        &ingress,
        r#"/spec/defaultBackend | null | spec: Invalid value: "": either `defaultBackend` or `rules` must be specified"#,
    );
    let policy = json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}});
    check_cases(
        "networking.k8s.io",
        "networkpolicies",
        &policy,
        r#"/spec/ingress/0/from/0 | {} | spec.ingress[0].from[0]: Required value: must specify a peer"#,
    );
}

proptest::proptest! {
    /// Objects of any shape make errors, never a panic.
    #[test]
    fn never_panics(index in 0_usize..60, seed in proptest::arbitrary::any::<u64>()) {
        let resources = kind::resources();
        let resource = &resources[index % resources.len()];
        let junk = junk(seed, 4);
        let mut object = json!({"metadata": junk.clone(), "spec": junk.clone(), "data": junk.clone(), "subsets": junk.clone(), "roleRef": junk});
        if seed % 3 == 0 {
            object["spec"] = json!({"containers": [object["spec"].clone()], "ports": [object["data"].clone()], "template": object["spec"].clone()});
        }
        create(resource, &object);
        update(resource, &object, &json!({}), Subresource::Main);
        update(resource, &json!({}), &object, Subresource::EphemeralContainers);
    }
}

/// Some JSON value made from a number.
fn junk(seed: u64, depth: u32) -> Value {
    let next = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let fields = [
        "name",
        "containers",
        "ports",
        "selector",
        "matchLabels",
        "template",
        "spec",
        "labels",
        "volumes",
        "type",
    ];
    match (next >> 33) % if depth == 0 { 4 } else { 6 } {
        0 => Value::Null,
        1 => json!((next >> 7) as i64),
        2 => json!("é-x"),
        3 => json!(next.is_multiple_of(2)),
        4 => Value::Array((0..3).map(|i| junk(next ^ i, depth - 1)).collect()),
        _ => (0..4_u64)
            .map(|i| (fields[((next >> (i * 5)) % 10) as usize].to_owned(), junk(next ^ (i + 9), depth - 1)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}
