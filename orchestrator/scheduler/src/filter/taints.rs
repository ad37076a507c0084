//! Taints of the node against tolerations of the pod.

use k8s_openapi::api::core::v1::Toleration;

use super::Refusal;
use crate::node::NodeRow;
use crate::pod::Request;

/// The first taint that keeps the pod away.
pub(super) fn check(request: &Request, node: &NodeRow) -> Result<(), Refusal> {
    let keeps_away = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute");
    for taint in node.taints.iter().filter(|taint| keeps_away(&taint.effect)) {
        let value = taint.value.clone().unwrap_or_default();
        if !bears(request, &taint.key, &value, &taint.effect) {
            return Err(Refusal::Taint { key: taint.key.clone(), value });
        }
    }
    Ok(())
}

/// Whether one of the pod's tolerations bears a taint.
pub(super) fn bears(request: &Request, key: &str, value: &str, effect: &str) -> bool {
    request.tolerations.iter().any(|toleration| tolerates(toleration, key, value, effect))
}

fn tolerates(toleration: &Toleration, key: &str, value: &str, effect: &str) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let effect_matches = text(&toleration.effect).is_empty() || text(&toleration.effect) == effect;
    let key_matches = text(&toleration.key).is_empty() || text(&toleration.key) == key;
    let value_matches = match text(&toleration.operator).as_str() {
        "Exists" => true,
        "" | "Equal" => !text(&toleration.key).is_empty() && text(&toleration.value) == value,
        _ => false,
    };
    effect_matches && key_matches && value_matches
}
