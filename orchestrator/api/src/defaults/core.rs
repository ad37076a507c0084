//! The core group.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Object, each, made, pod, put, put_text, text, within};

pub(super) fn fill(kind: &str, object: &mut Object) {
    match kind {
        "Pod" => pod::pod(object),
        "PodTemplate" => pod::template(object),
        "ReplicationController" => replication_controller(object),
        "Service" => service(object),
        "Endpoints" => {
            each(object, "subsets", |subset| each(subset, "ports", |port| put_text(port, "protocol", "TCP")))
        }
        "Secret" => secret(object),
        "Namespace" => namespace(object),
        "Node" => made(object, "status", |status| {
            if let Some(capacity) = status.get("capacity").cloned() {
                put(status, "allocatable", capacity);
            }
        }),
        "PersistentVolumeClaim" => claim(object),
        "PersistentVolume" => {
            made(object, "status", |status| put_text(status, "phase", "Pending"));
            made(object, "spec", |spec| {
                put_text(spec, "persistentVolumeReclaimPolicy", "Retain");
                put_text(spec, "volumeMode", "Filesystem");
                pod::volume_source(spec);
            });
        }
        "LimitRange" => within(object, "spec", |spec| each(spec, "limits", limit_range_item)),
        _ => {}
    }
}

fn replication_controller(object: &mut Object) {
    let labels = object.get("spec").and_then(|spec| spec.pointer("/template/metadata/labels")).cloned();
    if let Some(labels) = labels.filter(|labels| labels.as_object().is_some_and(|l| !l.is_empty())) {
        made(object, "metadata", |metadata| put(metadata, "labels", labels.clone()));
        made(object, "spec", |spec| put(spec, "selector", labels));
    }
    made(object, "spec", |spec| {
        put(spec, "replicas", 1);
        if spec.contains_key("template") {
            pod::template(spec);
        }
    });
}

fn service(object: &mut Object) {
    made(object, "spec", |spec| {
        put_text(spec, "sessionAffinity", "None");
        if text(spec, "sessionAffinity") == "ClientIP" {
            made(spec, "sessionAffinityConfig", |config| {
                made(config, "clientIP", |client| put(client, "timeoutSeconds", 10800));
            });
        } else {
            spec.remove("sessionAffinityConfig");
        }
        put_text(spec, "type", "ClusterIP");
        each(spec, "ports", |port| {
            put_text(port, "protocol", "TCP");
            let target = port.get("targetPort");
            if target.is_none_or(|target| *target == json!(0) || *target == json!("")) {
                let number = port.get("port").cloned().unwrap_or(Value::Null);
                port.insert("targetPort".into(), number);
            }
        });
        let kind = text(spec, "type").to_owned();
        let has_external =
            spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || kind == "ClusterIP" && has_external {
            put_text(spec, "externalTrafficPolicy", "Cluster");
        }
        if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            put(spec, "internalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            put(spec, "allocateLoadBalancerNodePorts", true);
        }
    });
    made(object, "status", |status| {
        made(status, "loadBalancer", |balancer| {
            each(balancer, "ingress", |ingress| {
                if !text(ingress, "ip").is_empty() {
                    put(ingress, "ipMode", "VIP");
                }
            });
        });
    });
}

/// `stringData` is for writing only: its texts win over `data` and are gone.
fn secret(object: &mut Object) {
    put_text(object, "type", "Opaque");
    let Some(Value::Object(texts)) = object.remove("stringData") else { return };
    if texts.is_empty() {
        return;
    }
    made(object, "data", |data| {
        for (name, text) in texts {
            data.insert(name, STANDARD.encode(text.as_str().unwrap_or_default()).into());
        }
    });
}

fn namespace(object: &mut Object) {
    made(object, "status", |status| put_text(status, "phase", "Active"));
    made(object, "spec", |_| {});
    let name = object.get("metadata").and_then(|m| m["name"].as_str()).unwrap_or_default().to_owned();
    if !name.is_empty() {
        made(object, "metadata", |metadata| {
            made(metadata, "labels", |labels| {
                labels.insert("kubernetes.io/metadata.name".into(), name.into());
            });
        });
    }
}

/// The namespace controller takes the finalizer away when the namespace is empty.
pub(super) fn namespace_on_create(object: &mut Object) {
    object.insert("status".into(), json!({"phase": "Active"}));
    made(object, "spec", |spec| {
        made_list(spec, "finalizers", "kubernetes");
    });
}

fn made_list(object: &mut Object, name: &str, item: &str) {
    put(object, name, Value::Array(Vec::new()));
    if let Some(Value::Array(items)) = object.get_mut(name)
        && !items.iter().any(|known| known == item)
    {
        items.push(item.into());
    }
}

/// A claim, also as the template of a StatefulSet.
pub(super) fn claim(object: &mut Object) {
    made(object, "status", |status| put_text(status, "phase", "Pending"));
    made(object, "spec", |spec| put_text(spec, "volumeMode", "Filesystem"));
}

/// For containers the maximum is the default limit, the limit the default request, and the minimum the last resort.
fn limit_range_item(item: &mut Object) {
    if text(item, "type") != "Container" {
        return;
    }
    for (target, source) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
        let Some(values) = item.get(source).and_then(Value::as_object).filter(|v| !v.is_empty()).cloned()
        else {
            continue;
        };
        made(item, target, |filled| {
            for (name, value) in values {
                filled.entry(name).or_insert(value);
            }
        });
    }
}
