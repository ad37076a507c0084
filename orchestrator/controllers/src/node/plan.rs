//! The conditions and taints of a node: a function of what it last said and of how long that is ago.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Conditions that become Unknown with the node.
const WATCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// The state of the `Ready` condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    True,
    False,
    Unknown,
    /// The node is new and has not said yet.
    Unsaid,
}

/// What is to be written.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) ready: Ready,
    /// Conditions to change.
    pub(super) conditions: Option<Vec<NodeCondition>>,
    /// All taints, if they change.
    pub(super) taints: Option<Vec<Taint>>,
    /// When silence alone changes something.
    pub(super) look_again: Option<Duration>,
}

/// Plans for a node that was not heard of for `silence` and may be silent for `grace`.
pub(super) fn plan(node: &Node, silence: Duration, grace: Duration, now: Timestamp) -> Plan {
    let lost = silence >= grace;
    let conditions = if lost { unknown(node, now) } else { Vec::new() };
    let ready = match ready_of(node) {
        _ if lost => Ready::Unknown,
        Some("True") => Ready::True,
        Some("False") => Ready::False,
        Some(_) => Ready::Unknown,
        None => Ready::Unsaid,
    };
    let wanted = taints(node, ready, &conditions, now);
    let current = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    Plan {
        ready,
        conditions: (!conditions.is_empty()).then_some(conditions),
        taints: (wanted != current).then_some(wanted),
        look_again: (!lost).then(|| grace - silence + Duration::from_millis(100)),
    }
}

fn ready_of(node: &Node) -> Option<&str> {
    status_of(node, &[], "Ready")
}

fn status_of<'a>(node: &'a Node, fresh: &'a [NodeCondition], type_: &str) -> Option<&'a str> {
    let old = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let found = fresh.iter().chain(old).find(|condition| condition.type_ == type_)?;
    Some(&found.status)
}

/// The conditions that are to become Unknown.
fn unknown(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let old = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let change = |type_: &&str| {
        let current = old.iter().find(|condition| condition.type_ == *type_);
        if current.is_some_and(|current| current.status == "Unknown") {
            return None;
        }
        let (reason, message) = match current {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        let heartbeat = current.and_then(|current| current.last_heartbeat_time.clone());
        Some(NodeCondition {
            type_: (*type_).to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: heartbeat.or_else(|| node.metadata.creation_timestamp.clone()),
            last_transition_time: Some(Time(now)),
        })
    };
    WATCHED.iter().filter_map(change).collect()
}

/// The taints that the node should have: those of its conditions, and those of others as they are.
fn taints(node: &Node, ready: Ready, fresh: &[NodeCondition], now: Timestamp) -> Vec<Taint> {
    let current = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let is = |type_: &str| status_of(node, fresh, type_) == Some("True");
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let table = [
        (NOT_READY, "NoSchedule", matches!(ready, Ready::False | Ready::Unsaid)),
        (UNREACHABLE, "NoSchedule", ready == Ready::Unknown),
        (NOT_READY, "NoExecute", ready == Ready::False),
        (UNREACHABLE, "NoExecute", ready == Ready::Unknown),
        ("node.kubernetes.io/memory-pressure", "NoSchedule", is("MemoryPressure")),
        ("node.kubernetes.io/disk-pressure", "NoSchedule", is("DiskPressure")),
        ("node.kubernetes.io/pid-pressure", "NoSchedule", is("PIDPressure")),
        ("node.kubernetes.io/network-unavailable", "NoSchedule", is("NetworkUnavailable")),
        ("node.kubernetes.io/unschedulable", "NoSchedule", cordoned),
    ];
    let is_ruled =
        |taint: &Taint| table.iter().any(|(key, effect, _)| taint.key == *key && taint.effect == *effect);
    let mut wanted: Vec<Taint> = current
        .iter()
        .filter(|taint| {
            !is_ruled(taint) || table.iter().any(|row| row.2 && taint.key == row.0 && taint.effect == row.1)
        })
        .cloned()
        .collect();
    for (key, effect, holds) in table {
        if holds && !wanted.iter().any(|taint| taint.key == key && taint.effect == effect) {
            wanted.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: Some(Time(now)),
            });
        }
    }
    wanted
}

/// The newest heartbeat in the node's conditions.
pub(super) fn heartbeat(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let said = conditions.iter().filter(|condition| condition.status != "Unknown");
    said.filter_map(|condition| condition.last_heartbeat_time.as_ref()).map(|time| time.0).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const GRACE: Duration = Duration::from_secs(50);

    fn node(ready: Option<&str>, taints: &[(&str, &str)], cordoned: bool) -> Node {
        let conditions: Vec<_> =
            ready.iter().map(|status| json!({"type": "Ready", "status": status})).collect();
        let taints: Vec<_> =
            taints.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "n"}, "spec": {"taints": taints, "unschedulable": cordoned},
            "status": {"conditions": conditions}
        }))
        .unwrap()
    }

    fn names(plan: &Plan) -> Option<Vec<String>> {
        let taints = plan.taints.as_ref()?;
        Some(
            taints
                .iter()
                .map(|taint| format!("{}:{}", taint.key.rsplit('/').next().unwrap(), taint.effect))
                .collect(),
        )
    }

    #[test]
    fn taints_follow_the_conditions() {
        let now = Timestamp::UNIX_EPOCH;
        let (short, long) = (Duration::from_secs(10), Duration::from_secs(51));
        let unreachable = [(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")];
        let table: [(Node, Duration, Ready, Option<&[&str]>); 7] = [
            (node(Some("True"), &[], false), short, Ready::True, None),
            (
                node(Some("False"), &[], false),
                short,
                Ready::False,
                Some(&["not-ready:NoSchedule", "not-ready:NoExecute"]),
            ),
            (
                node(Some("True"), &[], false),
                long,
                Ready::Unknown,
                Some(&["unreachable:NoSchedule", "unreachable:NoExecute"]),
            ),
            (node(Some("Unknown"), &unreachable, false), long, Ready::Unknown, None),
            (node(Some("True"), &unreachable, false), short, Ready::True, Some(&[])),
            (
                node(Some("True"), &[("own", "NoSchedule")], true),
                short,
                Ready::True,
                Some(&["own:NoSchedule", "unschedulable:NoSchedule"]),
            ),
            (node(None, &[], false), short, Ready::Unsaid, Some(&["not-ready:NoSchedule"])),
        ];
        for (at, (node, silence, ready, taints)) in table.into_iter().enumerate() {
            let plan = plan(&node, silence, GRACE, now);
            assert_eq!(plan.ready, ready, "row {at}");
            let expected = taints.map(|taints| taints.iter().map(|taint| (*taint).to_owned()).collect());
            assert_eq!(names(&plan), expected, "row {at}");
        }
    }

    #[test]
    fn silence_makes_everything_unknown_once() {
        let lost = plan(&node(Some("True"), &[], false), GRACE, GRACE, Timestamp::UNIX_EPOCH);
        let conditions = lost.conditions.unwrap();
        assert_eq!(conditions.len(), 4);
        assert_eq!(conditions[0].message.as_deref(), Some("Kubelet stopped posting node status."));
        assert_eq!(conditions[1].message.as_deref(), Some("Kubelet never posted node status."));
        let mut again = node(None, &[], false);
        again.status.as_mut().unwrap().conditions = Some(conditions);
        assert_eq!(plan(&again, GRACE, GRACE, Timestamp::UNIX_EPOCH).conditions, None);
    }

    #[test]
    fn a_node_is_looked_at_again_when_its_time_is_up() {
        let fine =
            plan(&node(Some("True"), &[], false), Duration::from_secs(20), GRACE, Timestamp::UNIX_EPOCH);
        assert_eq!(fine.look_again.unwrap().as_secs(), 30);
    }
}
