//! Pods and pod templates: containers, probes, volumes.

use serde_json::{Value, json};

use super::{Object, each, is_true, made, put, put_number, put_text, text, within};

const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// A pod itself: what templates get and, beyond that, requests from limits, host ports and service links.
pub(super) fn pod(object: &mut Object) {
    made(object, "spec", |spec| {
        spec_defaults(spec);
        put(spec, "enableServiceLinks", true);
        for list in &CONTAINER_LISTS[..2] {
            each(spec, list, requests_from_limits);
        }
        if is_true(spec, "hostNetwork") {
            for list in &CONTAINER_LISTS[..2] {
                each(spec, list, |container| each(container, "ports", host_port));
            }
        }
    });
}

/// The `template` of a workload.
pub(super) fn template(owner: &mut Object) {
    made(owner, "template", |template| made(template, "spec", spec_defaults));
}

fn spec_defaults(spec: &mut Object) {
    put_text(spec, "dnsPolicy", "ClusterFirst");
    put_text(spec, "restartPolicy", "Always");
    put(spec, "securityContext", json!({}));
    put(spec, "terminationGracePeriodSeconds", 30);
    put_text(spec, "schedulerName", "default-scheduler");
    for list in CONTAINER_LISTS {
        each(spec, list, container);
    }
    each(spec, "volumes", volume);
}

fn container(container: &mut Object) {
    let policy = if has_moving_tag(text(container, "image")) { "Always" } else { "IfNotPresent" };
    put_text(container, "imagePullPolicy", policy);
    put_text(container, "terminationMessagePath", "/dev/termination-log");
    put_text(container, "terminationMessagePolicy", "File");
    put(container, "resources", json!({}));
    each(container, "ports", |port| put_text(port, "protocol", "TCP"));
    each(container, "env", |env| within(env, "valueFrom", field_ref));
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        within(container, name, probe);
    }
    within(container, "lifecycle", |lifecycle| {
        for hook in ["postStart", "preStop"] {
            within(lifecycle, hook, |handler| within(handler, "httpGet", http_get));
        }
    });
}

/// Without a digest, and without a tag or with the tag `latest`.
fn has_moving_tag(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe(probe: &mut Object) {
    put_number(probe, "timeoutSeconds", 1);
    put_number(probe, "periodSeconds", 10);
    put_number(probe, "successThreshold", 1);
    put_number(probe, "failureThreshold", 3);
    within(probe, "httpGet", http_get);
    within(probe, "grpc", |grpc| put(grpc, "service", ""));
}

fn http_get(action: &mut Object) {
    put_text(action, "path", "/");
    put_text(action, "scheme", "HTTP");
}

fn field_ref(source: &mut Object) {
    within(source, "fieldRef", |field| put_text(field, "apiVersion", "v1"));
    within(source, "resourceFieldRef", |field| put(field, "divisor", "0"));
}

fn requests_from_limits(container: &mut Object) {
    within(container, "resources", |resources| {
        let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
        if limits.is_empty() {
            return;
        }
        made(resources, "requests", |requests| {
            for (name, limit) in limits {
                requests.entry(name).or_insert(limit);
            }
        });
    });
}

fn host_port(port: &mut Object) {
    if let Some(number) = port.get("containerPort").and_then(Value::as_i64) {
        put_number(port, "hostPort", number);
    }
}

fn volume(volume: &mut Object) {
    if volume.keys().all(|name| name == "name") {
        volume.insert("emptyDir".into(), json!({}));
    }
    for name in ["secret", "configMap", "projected", "downwardAPI"] {
        within(volume, name, |source| put(source, "defaultMode", 0o644));
    }
    within(volume, "downwardAPI", |source| each(source, "items", field_ref));
    within(volume, "projected", |source| {
        each(source, "sources", |source| {
            within(source, "serviceAccountToken", |token| put(token, "expirationSeconds", 3600));
            within(source, "downwardAPI", |source| each(source, "items", field_ref));
        });
    });
    within(volume, "ephemeral", |source| {
        within(source, "volumeClaimTemplate", |template| {
            made(template, "spec", |spec| put_text(spec, "volumeMode", "Filesystem"));
        });
    });
    volume_source(volume);
}

/// Sources that a pod's volume and a persistent volume have in common.
pub(super) fn volume_source(source: &mut Object) {
    within(source, "hostPath", |path| put(path, "type", ""));
    within(source, "iscsi", |iscsi| put_text(iscsi, "iscsiInterface", "default"));
    within(source, "rbd", |rbd| {
        put_text(rbd, "pool", "rbd");
        put_text(rbd, "user", "admin");
        put_text(rbd, "keyring", "/etc/ceph/keyring");
    });
    within(source, "azureDisk", |disk| {
        put_text(disk, "cachingMode", "ReadWrite");
        put_text(disk, "kind", "Shared");
        put_text(disk, "fsType", "ext4");
        put(disk, "readOnly", false);
    });
    within(source, "scaleIO", |scale| {
        put_text(scale, "storageMode", "ThinProvisioned");
        put_text(scale, "fsType", "xfs");
    });
}

/// A new pod's status is the server's: pending, with the class of service that its resources give.
pub(super) fn on_create(object: &mut Object) {
    let class = qos_class(object.get("spec").unwrap_or(&Value::Null));
    object.insert("status".into(), json!({"phase": "Pending", "qosClass": class}));
}

/// The class of service of a pod's spec: `Guaranteed` when every container limits processor and memory and requests the same,
/// `BestEffort` when none says anything of either, else `Burstable`.
pub fn qos_class(spec: &Value) -> &'static str {
    let containers =
        ["containers", "initContainers"].iter().filter_map(|list| spec[list].as_array()).flatten();
    let own = spec.get("resources").filter(|resources| is_said(resources));
    let mut any = own.is_some();
    let mut all = own.is_none_or(guaranteed);
    if own.is_none() {
        for container in containers {
            any |= is_said(&container["resources"]);
            all &= guaranteed(&container["resources"]);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

const COMPUTE: [&str; 2] = ["cpu", "memory"];

fn amount(list: &Value, name: &str) -> Option<crate::quantity::Quantity> {
    list.get(name)
        .and_then(|value| crate::quantity::Quantity::from_value(value).ok())
        .filter(|q| !q.is_zero())
}

fn is_said(resources: &Value) -> bool {
    COMPUTE
        .iter()
        .any(|name| amount(&resources["requests"], name).or(amount(&resources["limits"], name)).is_some())
}

fn guaranteed(resources: &Value) -> bool {
    COMPUTE.iter().all(|name| {
        let limit = amount(&resources["limits"], name);
        limit.is_some() && amount(&resources["requests"], name).or(limit) == limit
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_decides_on_pulling() {
        for (image, moving) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.27", false),
            ("localhost:5000/a/nginx", true),
            ("localhost:5000/a/nginx:1", false),
            ("nginx:latest@sha256:0123", false),
            ("", true),
        ] {
            assert_eq!(has_moving_tag(image), moving, "{image}");
        }
    }

    #[test]
    fn resources_decide_on_the_class_of_service() {
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        for (resources, class) in [
            (json!([{}]), "BestEffort"),
            (json!([{"limits": {"cpu": "0"}}]), "BestEffort"),
            (json!([full]), "Guaranteed"),
            (json!([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}}]), "Guaranteed"),
            (json!([full, {}]), "Burstable"),
            (json!([{"requests": {"cpu": "1"}}]), "Burstable"),
            (json!([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}]), "Burstable"),
        ] {
            let containers: Vec<_> =
                resources.as_array().unwrap().iter().map(|r| json!({"resources": r})).collect();
            assert_eq!(qos_class(&json!({"containers": containers})), class, "{resources}");
        }
    }
}
