//! Kinds that are served in two forms but kept in one: events (core and events.k8s.io) and horizontal pod
//! autoscalers (v1 and v2). Pure.

use serde_json::{Map, Value, json};

use catamaran_api::kind::Resource;

/// Whether a resource is kept in another form than it is served in.
pub(crate) fn needed(served: &Resource, stored: &Resource) -> bool {
    (served.group, served.version) != (stored.group, stored.version)
}

/// Pairs of names: in `events.k8s.io`, in core.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// From the form of a request to the form that is kept.
pub(crate) fn to_stored(object: &mut Value, served: &Resource, stored: &Resource) {
    if !needed(served, stored) {
        return;
    }
    object["apiVersion"] = stored.api_version().into();
    match served.plural {
        "events" => rename(object, EVENT_FIELDS.iter().copied()),
        "horizontalpodautoscalers" => autoscaler_to_v2(object),
        _ => {}
    }
}

/// From the form that is kept to the form of an answer.
pub(crate) fn to_served(object: &mut Value, served: &Resource, stored: &Resource) {
    if !needed(served, stored) {
        return;
    }
    object["apiVersion"] = served.api_version().into();
    match served.plural {
        "events" => rename(object, EVENT_FIELDS.iter().map(|(new, old)| (*old, *new))),
        "horizontalpodautoscalers" => autoscaler_to_v1(object),
        _ => {}
    }
}

fn rename<'a>(object: &mut Value, names: impl Iterator<Item = (&'a str, &'a str)>) {
    let Some(fields) = object.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}

fn take(object: &mut Value, part: &str, field: &str) -> Option<Value> {
    object.get_mut(part)?.as_object_mut()?.remove(field)
}

fn put(object: &mut Value, part: &str, field: &str, value: Value) {
    let Some(fields) = object.as_object_mut() else { return };
    let part = fields.entry(part).or_insert_with(|| Value::Object(Map::new()));
    if let Some(part) = part.as_object_mut() {
        part.insert(field.to_owned(), value);
    }
}

fn cpu_metric(target: Value) -> Value {
    json!({"type": "Resource", "resource": {
        "name": "cpu", "target": {"type": "Utilization", "averageUtilization": target},
    }})
}

fn autoscaler_to_v2(object: &mut Value) {
    if let Some(target) = take(object, "spec", "targetCPUUtilizationPercentage") {
        put(object, "spec", "metrics", json!([cpu_metric(target)]));
    }
    if let Some(current) = take(object, "status", "currentCPUUtilizationPercentage") {
        let metric = json!({"type": "Resource", "resource": {
            "name": "cpu", "current": {"averageUtilization": current},
        }});
        put(object, "status", "currentMetrics", json!([metric]));
    }
}

fn autoscaler_to_v1(object: &mut Value) {
    let is_cpu = |metric: &Value| metric["type"] == "Resource" && metric["resource"]["name"] == "cpu";
    if let Some(Value::Array(metrics)) = take(object, "spec", "metrics") {
        let target = metrics.iter().find(|metric| is_cpu(metric));
        let target = target.map(|metric| metric["resource"]["target"]["averageUtilization"].clone());
        if let Some(target) = target.filter(|target| !target.is_null()) {
            put(object, "spec", "targetCPUUtilizationPercentage", target);
        }
    }
    take(object, "spec", "behavior");
    if let Some(Value::Array(metrics)) = take(object, "status", "currentMetrics") {
        let current = metrics.iter().find(|metric| is_cpu(metric));
        let current = current.map(|metric| metric["resource"]["current"]["averageUtilization"].clone());
        if let Some(current) = current.filter(|current| !current.is_null()) {
            put(object, "status", "currentCPUUtilizationPercentage", current);
        }
    }
    take(object, "status", "conditions");
    // The old form always tells it.
    if object.get("status").is_some_and(|status| status.get("currentReplicas").is_none()) {
        put(object, "status", "currentReplicas", 0.into());
    }
}

#[cfg(test)]
mod tests {
    use catamaran_api::kind;

    use super::*;

    #[test]
    fn events_change_names_and_come_back() {
        let served = kind::find("events.k8s.io", "v1", "events").unwrap();
        let stored = kind::find("", "v1", "events").unwrap();
        let event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n", "regarding": {"name": "p"},
            "reportingController": "c", "eventTime": "t", "deprecatedCount": 2,
        });
        let mut object = event.clone();
        to_stored(&mut object, served, stored);
        assert_eq!(object["apiVersion"], "v1");
        assert_eq!(object["message"], "n");
        assert_eq!(object["involvedObject"]["name"], "p");
        assert_eq!(object["count"], 2);
        to_served(&mut object, served, stored);
        assert_eq!(object, event);
    }

    #[test]
    fn an_old_autoscaler_comes_back() {
        let served = kind::find("autoscaling", "v1", "horizontalpodautoscalers").unwrap();
        let stored = kind::find("autoscaling", "v2", "horizontalpodautoscalers").unwrap();
        let old = json!({"apiVersion": "autoscaling/v1", "spec": {"targetCPUUtilizationPercentage": 70}});
        let mut object = old.clone();
        to_stored(&mut object, served, stored);
        assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
        to_served(&mut object, served, stored);
        assert_eq!(object, old);
    }
}
