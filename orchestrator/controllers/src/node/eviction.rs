//! Which pods a node's NoExecute taints drive away, and when: a function of values.
//!
//! Time counts from when the taint was added, so that a restart of the controller gives nobody more of it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

use crate::pod::Pod;

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Stays,
    /// It tolerates the taints for this much longer.
    GoesAfter(Duration),
    Goes,
}

/// Has the node a taint that drives pods away?
pub(super) fn has_no_execute(node: &Node) -> bool {
    no_execute(node).next().is_some()
}

fn no_execute(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().filter(|taint| taint.effect == "NoExecute")
}

/// What becomes of a pod on the node.
pub(super) fn judge(node: &Node, pod: &Pod, now: Timestamp) -> Fate {
    if pod.is_terminating() || pod.is_terminal() {
        return Fate::Stays;
    }
    let mut fate = Fate::Stays;
    for taint in no_execute(node) {
        let mut tolerating =
            pod.spec.tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if tolerating.peek().is_none() {
            return Fate::Goes;
        }
        // The shortest of those that match counts; one without a number bears it for ever.
        let Some(seconds) = tolerating.filter_map(|toleration| toleration.toleration_seconds).min() else {
            continue;
        };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let due = since.checked_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
        let left = Duration::try_from(now.duration_until(due)).unwrap_or_default();
        if left.is_zero() {
            return Fate::Goes;
        }
        fate = match fate {
            Fate::GoesAfter(earlier) => Fate::GoesAfter(earlier.min(left)),
            Fate::Stays | Fate::Goes => Fate::GoesAfter(left),
        };
    }
    fate
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    let effect = empty(&toleration.effect) || toleration.effect.as_deref() == Some(&taint.effect);
    let key = empty(&toleration.key) || toleration.key.as_deref() == Some(&taint.key);
    let value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        _ => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
    };
    effect && key && value
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fate(tolerations: serde_json::Value, second: i64) -> Fate {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n"},
            "spec": {"taints": [{"key": "gone", "effect": "NoExecute", "timeAdded": "1970-01-01T00:00:00Z"},
                                {"key": "other", "effect": "NoSchedule"}]}
        }))
        .unwrap();
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"tolerations": tolerations}}))
                .unwrap();
        judge(&node, &pod, Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn tolerations_and_time() {
        let table = [
            (json!([]), 0, Fate::Goes),
            (json!([{"operator": "Exists"}]), 9999, Fate::Stays),
            (json!([{"key": "gone", "operator": "Exists", "effect": "NoSchedule"}]), 0, Fate::Goes),
            (
                json!([{"key": "gone", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]),
                100,
                Fate::GoesAfter(Duration::from_secs(200)),
            ),
            (json!([{"key": "gone", "operator": "Exists", "tolerationSeconds": 300}]), 300, Fate::Goes),
            (json!([{"key": "gone", "operator": "Equal", "value": "x"}]), 0, Fate::Goes),
        ];
        for (tolerations, second, expected) in table {
            assert_eq!(fate(tolerations.clone(), second), expected, "{tolerations} at {second}");
        }
    }
}
