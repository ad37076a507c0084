//! A pod stays for five minutes on a node that is not ready or not reachable, unless it says otherwise.

use serde_json::{Value, json};

const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const SECONDS: i64 = 300;

/// Adds the tolerations that are missing.
pub(super) fn admit(pod: &mut Value) {
    let mut tolerations = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    for taint in TAINTS {
        let tolerated = tolerations.iter().any(|toleration| {
            let key = toleration["key"].as_str().unwrap_or_default();
            let effect = toleration["effect"].as_str().unwrap_or_default();
            (key == taint || key.is_empty()) && matches!(effect, "NoExecute" | "")
        });
        if !tolerated {
            tolerations.push(json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            }));
        }
    }
    pod["spec"]["tolerations"] = tolerations.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_added() {
        let table = [
            (json!([]), 2),
            (json!([{"operator": "Exists"}]), 1),
            (json!([{"key": TAINTS[0], "effect": "NoExecute", "operator": "Exists"}]), 2),
            (json!([{"key": TAINTS[0], "effect": "NoSchedule", "operator": "Exists"}]), 3),
        ];
        for (given, expected) in table {
            let mut pod = json!({"spec": {"tolerations": given}});
            admit(&mut pod);
            assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), expected, "{given}");
        }
    }
}
