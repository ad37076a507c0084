//! The least object of every resource that the server accepts, and a status for those that have one.

use base64::Engine as _;
use catamaran_api::kind::Resource;
use serde_json::{Value, json};

/// The namespace of all objects that have one.
pub(crate) const NAMESPACE: &str = "matrix";

/// An object of that name, with the label by which a test finds its own.
pub(crate) fn object(resource: &Resource, name: &str, label: &str) -> Value {
    let mut object = json!({
        "apiVersion": resource.api_version(), "kind": resource.kind,
        "metadata": {"name": object_name(resource, name), "labels": {"matrix": label}},
    });
    let fields = fields(resource, name);
    for (field, value) in fields.as_object().into_iter().flatten() {
        object[field.as_str()] = value.clone();
    }
    object
}

/// Some kinds have names that follow from what they are.
pub(crate) fn object_name(resource: &Resource, name: &str) -> String {
    match (resource.group, resource.plural) {
        ("apiregistration.k8s.io", _) => format!("v1.{name}.example.com"),
        ("apiextensions.k8s.io", _) => format!("{}s.matrix.example.com", letters(name)),
        ("networking.k8s.io", "ipaddresses") => format!("10.97.{}", octets(name)),
        _ => name.to_owned(),
    }
}

fn letters(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// Two numbers that differ from name to name.
fn octets(name: &str) -> String {
    let sum = name.bytes().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    format!("{}.{}", sum / 250 % 250 + 1, sum % 250 + 1)
}

fn pod_spec() -> Value {
    json!({"containers": [{"name": "c", "image": "i:1"}]})
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": pod_spec()})
}

fn selector() -> Value {
    json!({"matchLabels": {"app": "a"}})
}

fn fields(resource: &Resource, name: &str) -> Value {
    match resource.group {
        "" => core(resource.plural, name),
        "apps" | "batch" | "autoscaling" | "policy" => workload(resource, name),
        "networking.k8s.io" | "discovery.k8s.io" | "events.k8s.io" => network(resource.plural, name),
        "storage.k8s.io" => storage(resource.plural),
        _ => extension(resource.plural, name),
    }
}

fn core(plural: &str, name: &str) -> Value {
    match plural {
        "configmaps" => json!({"data": {"k": "v"}}),
        "endpoints" => json!({"subsets": [{"addresses": [{"ip": "10.128.9.9"}], "ports": [{"port": 80}]}]}),
        "events" => json!({
            "involvedObject": {"kind": "Pod", "name": name, "namespace": NAMESPACE}, "reason": "R", "type": "Normal",
        }),
        "limitranges" => json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "8"}}]}}),
        "namespaces" | "serviceaccounts" => json!({}),
        "nodes" => json!({"spec": {"podCIDR": "10.128.9.0/24", "podCIDRs": ["10.128.9.0/24"]}}),
        "persistentvolumeclaims" => {
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
        }
        "persistentvolumes" => json!({"spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/tmp/matrix"},
        }}),
        "pods" => json!({"spec": pod_spec()}),
        "podtemplates" => json!({"template": template()}),
        "replicationcontrollers" => json!({"spec": {"selector": {"app": "a"}, "template": template()}}),
        "resourcequotas" => json!({"spec": {"hard": {"services.loadbalancers": "3"}}}),
        "secrets" => json!({"stringData": {"k": "v"}}),
        "services" => json!({"spec": {"selector": {"app": "a"}, "ports": [{"port": 80}]}}),
        other => panic!("no sample of {other}"),
    }
}

fn workload(resource: &Resource, name: &str) -> Value {
    let job = json!({"metadata": {}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}});
    match (resource.version, resource.plural) {
        (_, "controllerrevisions") => json!({"revision": 1, "data": {"k": "v"}}),
        (_, "daemonsets" | "deployments" | "replicasets") => {
            json!({"spec": {"selector": selector(), "template": template()}})
        }
        (_, "statefulsets") => {
            json!({"spec": {"serviceName": "s", "selector": selector(), "template": template()}})
        }
        (_, "jobs") => json!({"spec": {"template": job}}),
        (_, "cronjobs") => {
            json!({"spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": job}}}})
        }
        (version, "horizontalpodautoscalers") => {
            let mut spec = json!({
                "maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            });
            if version == "v1" {
                spec["targetCPUUtilizationPercentage"] = 80.into();
            }
            json!({"spec": spec})
        }
        (_, "poddisruptionbudgets") => json!({"spec": {"minAvailable": 1, "selector": selector()}}),
        (_, other) => panic!("no sample of {other}"),
    }
}

fn network(plural: &str, name: &str) -> Value {
    match plural {
        "endpointslices" => json!({
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.128.9.9"]}], "ports": [{"port": 80}],
        }),
        "events" => json!({
            "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "example.com/c",
            "reportingInstance": "i", "action": "Test", "reason": "Testing", "type": "Normal",
            "regarding": {"kind": "Pod", "name": name, "namespace": NAMESPACE},
        }),
        "ingressclasses" => json!({"spec": {"controller": "example.com/c"}}),
        "ingresses" => {
            json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}})
        }
        "ipaddresses" => json!({
            "spec": {"parentRef": {"group": "", "resource": "services", "namespace": "default", "name": "kubernetes"}},
        }),
        "networkpolicies" => json!({"spec": {"podSelector": {}}}),
        "servicecidrs" => json!({"spec": {"cidrs": ["10.97.0.0/16"]}}),
        other => panic!("no sample of {other}"),
    }
}

fn storage(plural: &str) -> Value {
    match plural {
        "csidrivers" => json!({"spec": {"attachRequired": true}}),
        "csinodes" => json!({"spec": {"drivers": [{"name": "d.example.com", "nodeID": "n"}]}}),
        "csistoragecapacities" => json!({"storageClassName": "c", "capacity": "1Gi"}),
        "storageclasses" => json!({"provisioner": "example.com/p"}),
        "volumeattachments" => {
            json!({"spec": {"attacher": "example.com", "nodeName": "n", "source": {"persistentVolumeName": "v"}}})
        }
        other => panic!("no sample of {other}"),
    }
}

fn extension(plural: &str, name: &str) -> Value {
    // Nobody has objects of this group: what is registered for it stands in nobody's way.
    let rules = json!([{"apiGroups": ["matrix.example.com"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["nothings"]}]);
    let webhooks = json!([{
        "name": "w.example.com", "clientConfig": {"url": "https://example.com/w"}, "rules": rules,
        "sideEffects": "None", "admissionReviewVersions": ["v1"],
    }]);
    match plural {
        "apiservices" => json!({"spec": {
            "group": format!("{name}.example.com"), "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
            "insecureSkipTLSVerify": true, "service": {"name": "s", "namespace": "default"},
        }}),
        "certificatesigningrequests" => json!({"spec": {
            "request": request(), "signerName": "example.com/signer", "usages": ["client auth"],
        }}),
        "clusterroles" | "roles" => {
            json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]})
        }
        "clusterrolebindings" => json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}, "subjects": [],
        }),
        "rolebindings" => json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}, "subjects": [],
        }),
        "mutatingwebhookconfigurations" | "validatingwebhookconfigurations" => json!({"webhooks": webhooks}),
        "validatingadmissionpolicies" => json!({"spec": {
            "matchConstraints": {"resourceRules": rules}, "validations": [{"expression": "true"}],
        }}),
        "validatingadmissionpolicybindings" => {
            json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}})
        }
        "customresourcedefinitions" => {
            let word = letters(name);
            json!({"spec": {
                "group": "matrix.example.com", "scope": "Namespaced",
                "names": {"plural": format!("{word}s"), "singular": word, "kind": format!("K{word}"), "listKind": format!("K{word}List")},
                "versions": [{"name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
            }})
        }
        "priorityclasses" => json!({"value": 10}),
        "leases" => json!({"spec": {"holderIdentity": "h", "leaseDurationSeconds": 40}}),
        "runtimeclasses" => json!({"handler": "h"}),
        "flowschemas" => json!({"spec": {
            "matchingPrecedence": 9000, "priorityLevelConfiguration": {"name": "catch-all"},
            "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "nobody-of-the-matrix"}}],
                "nonResourceRules": [{"nonResourceURLs": ["/matrix"], "verbs": ["get"]}],
            }],
        }}),
        "prioritylevelconfigurations" => json!({"spec": {
            "type": "Limited", "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}},
        }}),
        other => panic!("no sample of {other}"),
    }
}

/// A request for a certificate, as the API takes it.
fn request() -> String {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "matrix");
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    base64::prelude::BASE64_STANDARD.encode(pem)
}

/// A status, and the field in it that shows whether it was written.
pub(crate) fn status(resource: &Resource) -> (Value, &'static str) {
    let condition = |kind: &str| {
        json!({"conditions": [{
            "type": kind, "status": "True", "reason": "R", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]})
    };
    match (resource.group, resource.plural) {
        ("", "namespaces") => (
            json!({"phase": "Active", "conditions": [{
                "type": "Matrix", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "R", "message": "m",
            }]}),
            "conditions",
        ),
        ("", "nodes") => (json!({"capacity": {"cpu": "3"}}), "capacity"),
        ("", "persistentvolumeclaims" | "persistentvolumes") => (json!({"phase": "Bound"}), "phase"),
        ("", "pods") => (json!({"phase": "Running", "message": "m"}), "message"),
        ("", "resourcequotas") => (
            json!({"hard": {"services.loadbalancers": "3"}, "used": {"services.loadbalancers": "1"}}),
            "used",
        ),
        ("", "services") | ("networking.k8s.io", "ingresses") => {
            (json!({"loadBalancer": {"ingress": [{"ip": "10.9.9.9"}]}}), "loadBalancer")
        }
        ("", "replicationcontrollers") | ("apps", "replicasets" | "statefulsets") => {
            (json!({"replicas": 1, "readyReplicas": 1}), "readyReplicas")
        }
        ("apps", "deployments") => {
            (json!({"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}), "readyReplicas")
        }
        ("apps", "daemonsets") => (
            json!({"currentNumberScheduled": 1, "desiredNumberScheduled": 1, "numberMisscheduled": 0, "numberReady": 1}),
            "numberReady",
        ),
        ("batch", "jobs") => {
            (json!({"active": 1, "ready": 1, "startTime": "2026-01-01T00:00:00Z"}), "active")
        }
        ("batch", "cronjobs") => (json!({"lastScheduleTime": "2026-01-01T00:00:00Z"}), "lastScheduleTime"),
        ("autoscaling", _) => (json!({"currentReplicas": 1, "desiredReplicas": 2}), "desiredReplicas"),
        ("policy", _) => (
            json!({"disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}),
            "currentHealthy",
        ),
        ("storage.k8s.io", _) => (json!({"attached": true}), "attached"),
        ("certificates.k8s.io", _) => (condition("Failed"), "conditions"),
        ("admissionregistration.k8s.io", _) => (
            json!({"typeChecking": {"expressionWarnings": [
                {"fieldRef": "spec.validations[0].expression", "warning": "w"},
            ]}}),
            "typeChecking",
        ),
        ("apiextensions.k8s.io", _) => {
            let mut status = condition("Matrix");
            status["storedVersions"] = json!(["v1"]);
            (status, "conditions")
        }
        _ => (condition("Matrix"), "conditions"),
    }
}
