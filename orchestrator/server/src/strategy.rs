//! What differs from kind to kind when objects are written: which part a path writes, how long a deletion waits,
//! and when an object that is being deleted is gone. Pure.

use serde_json::Value;

use catamaran_api::kind::Resource;
use catamaran_api::meta;
use catamaran_api::validate::Subresource;

/// The part of an object that a request writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything but status.
    Main,
    /// Only status.
    Status,
    /// `spec.finalizers` of a namespace.
    Finalize,
    /// Replicas, by the scale subresource.
    Scale,
    /// `spec.nodeName` of a pod.
    Binding,
    /// Ephemeral containers of a pod.
    EphemeralContainers,
    /// Resources of a pod's containers.
    Resize,
    /// Conditions of a certificate request.
    Approval,
}

impl Part {
    /// What validation calls it.
    pub(crate) fn written(self) -> Subresource {
        Subresource::from_name(if self == Part::Scale { "" } else { self.subresource() })
    }

    /// The last part of the path.
    pub(crate) fn subresource(self) -> &'static str {
        match self {
            Part::Main => "",
            Part::Scale => "scale",
            Part::Status => "status",
            Part::Finalize => "finalize",
            Part::Binding => "binding",
            Part::EphemeralContainers => "ephemeralcontainers",
            Part::Resize => "resize",
            Part::Approval => "approval",
        }
    }
}

/// Restores what the written part does not reach.
pub(crate) fn prepare_update(resource: &Resource, part: Part, new: &mut Value, old: &Value) {
    match part {
        Part::Main | Part::Scale => {
            let finalizers = (resource.plural == "namespaces").then(|| old["spec"]["finalizers"].clone());
            if let Some(finalizers) = finalizers.filter(|finalizers| !finalizers.is_null()) {
                new["spec"]["finalizers"] = finalizers;
            }
            meta::prepare_update(resource, new, old);
        }
        Part::Status | Part::Approval => meta::prepare_status_update(resource, new, old),
        Part::Finalize => meta::prepare_update(resource, new, old),
        Part::Binding => {
            // A binding sets a condition along with the node.
            let status = new.get("status").cloned();
            meta::prepare_update(resource, new, old);
            if let Some(status) = status {
                new["status"] = status;
            }
        }
        Part::EphemeralContainers => {
            let wanted = new["spec"]["ephemeralContainers"].clone();
            *new = old.clone();
            if !wanted.is_null() {
                new["spec"]["ephemeralContainers"] = wanted;
            }
            meta::prepare_update(resource, new, old);
        }
        Part::Resize => {
            let wanted = new["spec"]["containers"].take();
            *new = old.clone();
            resize(new, &wanted);
            meta::prepare_update(resource, new, old);
        }
    }
}

fn resize(pod: &mut Value, wanted: &Value) {
    let containers = pod.pointer_mut("/spec/containers").and_then(Value::as_array_mut);
    let Some(containers) = containers else { return };
    for container in containers {
        let same = |other: &&Value| other["name"] == container["name"];
        let Some(other) = wanted.as_array().into_iter().flatten().find(same) else { continue };
        for field in ["resources", "resizePolicy"] {
            if !other[field].is_null() {
                container[field] = other[field].clone();
            }
        }
    }
}

/// Whether an object that is being deleted has nothing left to wait for.
pub(crate) fn is_gone(resource: &Resource, object: &Value) -> bool {
    let waits = match (resource.group, resource.plural) {
        ("", "namespaces") => object["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty()),
        ("", "pods") => meta::deletion_grace_period(object).is_some_and(|grace| grace > 0),
        _ => false,
    };
    meta::is_being_deleted(object) && meta::finalizers(object).next().is_none() && !waits
}

/// Seconds that a deletion lets pass: only pods that run somewhere get any.
pub(crate) fn grace_seconds(resource: &Resource, object: &Value, wanted: Option<i64>) -> i64 {
    if (resource.group, resource.plural) != ("", "pods") {
        return 0;
    }
    let unscheduled = object["spec"]["nodeName"].as_str().is_none_or(str::is_empty);
    let ended = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unscheduled || ended {
        return 0;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    let grace = wanted.unwrap_or(own);
    if grace < 0 { 1 } else { grace }
}

#[cfg(test)]
mod tests {
    use catamaran_api::kind;
    use serde_json::json;

    use super::*;

    #[test]
    fn grace() {
        let pods = kind::find("", "v1", "pods").unwrap();
        let maps = kind::find("", "v1", "configmaps").unwrap();
        let running = json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 5}});
        let table = [
            (pods, running.clone(), None, 5),
            (pods, running.clone(), Some(0), 0),
            (pods, running.clone(), Some(9), 9),
            (pods, json!({"spec": {"nodeName": "n"}}), None, 30),
            (pods, json!({"spec": {}}), Some(9), 0),
            (pods, json!({"spec": {"nodeName": "n"}, "status": {"phase": "Failed"}}), None, 0),
            (maps, running, Some(9), 0),
        ];
        for (resource, object, wanted, expected) in table {
            assert_eq!(grace_seconds(resource, &object, wanted), expected, "{object} {wanted:?}");
        }
    }

    #[test]
    fn gone() {
        let pods = kind::find("", "v1", "pods").unwrap();
        let namespaces = kind::find("", "v1", "namespaces").unwrap();
        let table = [
            (pods, json!({"metadata": {}}), false),
            (pods, json!({"metadata": {"deletionTimestamp": "t", "deletionGracePeriodSeconds": 3}}), false),
            (pods, json!({"metadata": {"deletionTimestamp": "t", "deletionGracePeriodSeconds": 0}}), true),
            (pods, json!({"metadata": {"deletionTimestamp": "t", "finalizers": ["a/b"]}}), false),
            (
                namespaces,
                json!({"metadata": {"deletionTimestamp": "t"}, "spec": {"finalizers": ["kubernetes"]}}),
                false,
            ),
            (namespaces, json!({"metadata": {"deletionTimestamp": "t"}, "spec": {}}), true),
        ];
        for (resource, object, expected) in table {
            assert_eq!(is_gone(resource, &object), expected, "{object}");
        }
    }
}
