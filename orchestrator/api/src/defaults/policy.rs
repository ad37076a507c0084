//! Everything else: networking, storage, access, admission, extension.

use serde_json::{Value, json};

use super::{Object, each, made, put, put_number, put_text, text, within};
use crate::kind::GroupVersionKind;

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) fn fill(gvk: GroupVersionKind, object: &mut Object) {
    match gvk.kind {
        "NetworkPolicy" => made(object, "spec", network_policy),
        "IngressClass" => {
            within(object, "spec", |spec| within(spec, "parameters", |p| put_text(p, "scope", "Cluster")))
        }
        "EndpointSlice" => each(object, "ports", |port| {
            put(port, "name", "");
            put_text(port, "protocol", "TCP");
        }),
        "RoleBinding" | "ClusterRoleBinding" => binding(object),
        "StorageClass" => {
            put_text(object, "reclaimPolicy", "Delete");
            put_text(object, "volumeBindingMode", "Immediate");
        }
        "CSIDriver" => made(object, "spec", csi_driver),
        "PriorityClass" => put_text(object, "preemptionPolicy", "PreemptLowerPriority"),
        "MutatingWebhookConfiguration" => each(object, "webhooks", |hook| {
            webhook(hook);
            put_text(hook, "reinvocationPolicy", "Never");
        }),
        "ValidatingWebhookConfiguration" => each(object, "webhooks", webhook),
        "ValidatingAdmissionPolicy" => made(object, "spec", |spec| {
            put_text(spec, "failurePolicy", "Fail");
            within(spec, "matchConstraints", match_resources);
        }),
        "ValidatingAdmissionPolicyBinding" => {
            within(object, "spec", |spec| within(spec, "matchResources", match_resources));
        }
        "CustomResourceDefinition" => made(object, "spec", custom_resource_definition),
        "APIService" => {
            within(object, "spec", |spec| within(spec, "service", |service| put(service, "port", 443)))
        }
        "FlowSchema" => made(object, "spec", |spec| put_number(spec, "matchingPrecedence", 1000)),
        "PriorityLevelConfiguration" => made(object, "spec", priority_level),
        "TokenRequest" => made(object, "spec", |spec| put(spec, "expirationSeconds", 3600)),
        _ => {}
    }
}

fn network_policy(spec: &mut Object) {
    for direction in ["ingress", "egress"] {
        each(spec, direction, |rule| each(rule, "ports", |port| put(port, "protocol", "TCP")));
    }
    let has_egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    put(spec, "policyTypes", if has_egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
}

fn binding(object: &mut Object) {
    within(object, "roleRef", |role| put_text(role, "apiGroup", RBAC));
    each(object, "subjects", |subject| {
        if matches!(text(subject, "kind"), "User" | "Group") {
            put_text(subject, "apiGroup", RBAC);
        }
    });
}

fn csi_driver(spec: &mut Object) {
    put(spec, "attachRequired", true);
    put(spec, "podInfoOnMount", false);
    put(spec, "storageCapacity", false);
    put(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    put(spec, "volumeLifecycleModes", json!(["Persistent"]));
    put(spec, "requiresRepublish", false);
    put(spec, "seLinuxMount", false);
}

fn webhook(hook: &mut Object) {
    put_text(hook, "failurePolicy", "Fail");
    put_number(hook, "timeoutSeconds", 10);
    match_resources_of(hook, "rules");
    within(hook, "clientConfig", |client| within(client, "service", |service| put(service, "port", 443)));
}

fn match_resources(constraints: &mut Object) {
    match_resources_of(constraints, "resourceRules");
    each(constraints, "excludeResourceRules", |rule| put(rule, "scope", "*"));
}

fn match_resources_of(object: &mut Object, rules: &str) {
    put_text(object, "matchPolicy", "Equivalent");
    put(object, "namespaceSelector", json!({}));
    put(object, "objectSelector", json!({}));
    each(object, rules, |rule| put(rule, "scope", "*"));
}

fn custom_resource_definition(spec: &mut Object) {
    made(spec, "names", |names| {
        let kind = text(names, "kind").to_owned();
        put_text(names, "singular", &kind.to_lowercase());
        if !kind.is_empty() {
            put_text(names, "listKind", &format!("{kind}List"));
        }
    });
    made(spec, "conversion", |conversion| {
        put_text(conversion, "strategy", "None");
        within(conversion, "webhook", |hook| {
            within(hook, "clientConfig", |client| {
                within(client, "service", |service| put(service, "port", 443))
            });
        });
    });
}

fn priority_level(spec: &mut Object) {
    within(spec, "exempt", |exempt| {
        put(exempt, "nominalConcurrencyShares", 0);
        put(exempt, "lendablePercent", 0);
    });
    within(spec, "limited", |limited| {
        put(limited, "nominalConcurrencyShares", 30);
        put(limited, "lendablePercent", 0);
        within(limited, "limitResponse", |response| {
            within(response, "queuing", |queuing| {
                put_number(queuing, "handSize", 8);
                put_number(queuing, "queues", 64);
                put_number(queuing, "queueLengthLimit", 50);
            });
        });
    });
}
