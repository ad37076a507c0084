//! The name of a pod template or of a revision: a short hash of what is in it, and when two are the same.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

/// The label that tells the pods of two ReplicaSets of one Deployment apart.
pub(crate) const TEMPLATE_HASH: &str = "pod-template-hash";

/// Letters that make neither words nor doubt (Kubernetes' `rand.SafeEncodeString`).
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The hash of a template; another `collisions` count gives another hash for the same template.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    letters(&canonical(template), collisions)
}

/// The hash of the data of a ControllerRevision.
pub(crate) fn hash_data(data: &Value, collisions: Option<i32>) -> String {
    letters(&stripped(data), collisions)
}

/// Are the data of two ControllerRevisions the same, but for what is absent here and empty there?
pub(crate) fn is_same_data(one: &Value, other: &Value) -> bool {
    one == other || stripped(one) == stripped(other)
}

fn stripped(data: &Value) -> Value {
    let mut data = data.clone();
    strip(&mut data);
    data
}

fn letters(value: &Value, collisions: Option<i32>) -> String {
    let mut sum = fnv1a(FNV_START, serde_json::to_vec(value).unwrap_or_default().as_slice());
    if let Some(collisions) = collisions {
        sum = fnv1a(sum, &collisions.to_le_bytes());
    }
    sum.to_string().bytes().map(|digit| LETTERS[usize::from(digit) % LETTERS.len()] as char).collect()
}

/// Are the templates the same, but for the hash label and for what is absent here and empty there?
pub(crate) fn is_same(one: &PodTemplateSpec, other: &PodTemplateSpec) -> bool {
    one == other || canonical(one) == canonical(other)
}

const FNV_START: u32 = 2_166_136_261;

fn fnv1a(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(16_777_619))
}

fn canonical(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).unwrap_or_default();
    if let Some(labels) = value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(TEMPLATE_HASH);
    }
    strip(&mut value);
    value
}

/// Removes nulls, empty lists and those maps that mean the same empty as absent.
fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(strip);
            map.retain(|key, value| !is_nothing(key, value));
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

fn is_nothing(key: &str, value: &Value) -> bool {
    const MAPS: [&str; 8] = [
        "metadata",
        "labels",
        "annotations",
        "nodeSelector",
        "limits",
        "requests",
        "matchLabels",
        "overhead",
    ];
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty() && MAPS.contains(&key),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(json: Value) -> PodTemplateSpec {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_label_and_emptiness_do_not_count() {
        let one = template(serde_json::json!({
            "metadata": {"labels": {"app": "web", TEMPLATE_HASH: "x"}, "annotations": {}},
            "spec": {"containers": [{"name": "c", "image": "a", "env": []}]}}));
        let other = template(serde_json::json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "a"}]}}));
        assert!(is_same(&one, &other));
        assert_eq!(hash(&one, None), hash(&other, None));
        assert_ne!(hash(&one, None), hash(&one, Some(1)));
    }

    #[test]
    fn another_image_is_another_template() {
        let image = |image: &str| {
            template(serde_json::json!({"spec": {"containers": [{"name": "c", "image": image}]}}))
        };
        assert!(!is_same(&image("a"), &image("b")));
        assert_ne!(hash(&image("a"), None), hash(&image("b"), None));
        assert!(hash(&image("a"), None).bytes().all(|letter| LETTERS.contains(&letter)));
    }

    #[test]
    fn an_empty_volume_source_is_not_nothing() {
        let with = template(
            serde_json::json!({"spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]}}),
        );
        let without = template(serde_json::json!({"spec": {"containers": [], "volumes": [{"name": "v"}]}}));
        assert!(!is_same(&with, &without));
    }
}
