//! Definitions in the manner of cert-manager and of the Gateway API, written for these tests.

use serde_json::{Value, json};

/// Certificates: namespaced, one version, status, columns, conditions as a keyed list.
pub(crate) fn certificates() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "certificates.certs.example.com"},
        "spec": {
            "group": "certs.example.com", "scope": "Namespaced",
            "names": {"plural": "certificates", "kind": "Certificate", "shortNames": ["cert"], "categories": ["security"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "selectableFields": [{"jsonPath": ".spec.issuerRef.name"}],
                "additionalPrinterColumns": [
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
                    {"name": "Secret", "type": "string", "jsonPath": ".spec.secretName"},
                    {"name": "Issuer", "type": "string", "jsonPath": ".spec.issuerRef.name", "priority": 1},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object", "description": "A certificate that is kept in a Secret.", "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
                        "spec": certificate_spec(),
                        "status": {"type": "object", "properties": {
                            "revision": {"type": "integer"},
                            "notAfter": {"type": "string", "format": "date-time"},
                            "conditions": {
                                "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
                                "items": {"type": "object", "required": ["type", "status"], "properties": {
                                    "type": {"type": "string"},
                                    "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                                    "message": {"type": "string"},
                                }},
                            },
                        }},
                    },
                }},
            }],
        },
    })
}

fn certificate_spec() -> Value {
    json!({
        "type": "object", "required": ["secretName", "issuerRef"], "description": "What is wanted.",
        "properties": {
            "secretName": {"type": "string", "minLength": 1, "description": "Where the certificate is kept."},
            "duration": {"type": "string"},
            "dnsNames": {"type": "array", "x-kubernetes-list-type": "set", "maxItems": 3, "items": {"type": "string"}},
            "usages": {"type": "array", "items": {"type": "string", "enum": ["server auth", "client auth"]}},
            "revisionHistoryLimit": {"type": "integer", "format": "int32", "minimum": 1},
            "isCA": {"type": "boolean", "default": false},
            "issuerRef": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string"},
                "kind": {"type": "string", "default": "Issuer"},
                "group": {"type": "string"},
            }},
            "privateKey": {"type": "object", "default": {}, "properties": {
                "algorithm": {"type": "string", "enum": ["RSA", "ECDSA"], "default": "RSA"},
                "size": {"type": "integer"},
            }},
            "keystores": {
                "type": "object",
                "properties": {
                    "jks": {"type": "object", "properties": {"alias": {"type": "string"}}},
                    "pkcs12": {"type": "object", "properties": {"profile": {"type": "string"}}},
                },
                "oneOf": [{"required": ["jks"]}, {"required": ["pkcs12"]}],
            },
            "secretTemplate": {"type": "object", "properties": {
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            }},
            "solver": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        },
    })
}

pub(crate) fn certificate(name: &str) -> Value {
    json!({
        "apiVersion": "certs.example.com/v1", "kind": "Certificate", "metadata": {"name": name},
        "spec": {"secretName": "tls", "issuerRef": {"name": "ca"}, "dnsNames": ["a.example"]},
    })
}

/// Routes: two versions, rules, a keyed list inside of lists, ports as numbers or names, scale.
pub(crate) fn routes() -> Value {
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage,
            "subresources": {"status": {}, "scale": {
                "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            }},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": route_spec(),
                "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            }}},
        })
    };
    let mut old = version("v1beta1", false);
    old["deprecated"] = true.into();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "httproutes.gateway.networking.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "https://example.com/approval"},
        },
        "spec": {
            "group": "gateway.networking.k8s.io", "scope": "Namespaced",
            "names": {"plural": "httproutes", "kind": "HTTPRoute", "listKind": "HTTPRouteList", "singular": "httproute"},
            "versions": [old, version("v1", true)],
        },
    })
}

fn route_spec() -> Value {
    let backend = json!({
        "type": "object", "required": ["name"],
        "properties": {
            "name": {"type": "string", "maxLength": 253, "minLength": 1},
            "kind": {"type": "string", "default": "Service"},
            "port": {"x-kubernetes-int-or-string": true},
            "weight": {"type": "integer", "format": "int32", "default": 1, "minimum": 0, "maximum": 1_000_000},
        },
        "x-kubernetes-validations": [
            {"message": "Must have port for Service reference", "rule": "self.kind == 'Service' ? has(self.port) : true"},
        ],
    });
    let rule = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "matches": {
                "type": "array", "maxItems": 8,
                "default": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "items": {"type": "object", "properties": {"path": {
                    "type": "object", "default": {"type": "PathPrefix", "value": "/"},
                    "properties": {
                        "type": {"type": "string", "default": "PathPrefix", "enum": ["Exact", "PathPrefix", "RegularExpression"]},
                        "value": {"type": "string", "default": "/", "maxLength": 1024},
                    },
                    "x-kubernetes-validations": [
                        {"rule": "(self.type in ['Exact','PathPrefix']) ? self.value.startsWith('/') : true",
                            "message": "value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']"},
                    ],
                }}},
            },
            "backendRefs": {"type": "array", "maxItems": 16, "items": backend},
        },
    });
    json!({
        "type": "object",
        "properties": {
            "replicas": {"type": "integer", "minimum": 0},
            "hostnames": {"type": "array", "maxItems": 16, "items": {
                "type": "string", "maxLength": 253, "pattern": "^(\\*\\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
            }},
            "className": {"type": "string", "x-kubernetes-validations": [
                {"rule": "self == oldSelf", "message": "className is immutable", "reason": "FieldValueForbidden"},
            ]},
            "rules": {
                "type": "array", "maxItems": 16, "default": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}],
                "items": rule,
                "x-kubernetes-validations": [
                    {"rule": "self.all(l1, !has(l1.name) || self.exists_one(l2, has(l2.name) && l1.name == l2.name))",
                        "message": "Rule name must be unique within the route"},
                ],
            },
            "parentRefs": {
                "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name", "section"],
                "items": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string"}, "section": {"type": "string", "default": ""},
                    "labels": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
                }},
            },
        },
    })
}

pub(crate) fn route(name: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name},
        "spec": {"hostnames": ["a.example"], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]},
    })
}

/// Classes: cluster-wide, without a status of their own, with an object inside.
pub(crate) fn classes() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "classes.example.com"},
        "spec": {
            "group": "example.com", "scope": "Cluster", "names": {"plural": "classes", "kind": "Class", "singular": "class"},
            "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object",
                "properties": {
                    "template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
                    "size": {"type": "integer"},
                    "status": {"type": "object", "properties": {"seen": {"type": "boolean"}}},
                },
            }}}],
        },
    })
}
