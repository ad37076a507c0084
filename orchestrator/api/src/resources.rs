//! What a pod asks for as a whole: over containers, init containers that run one after the other, those that stay
//! (KEP-753), resources of the pod itself (KEP-2837) and the overhead of its runtime class (KEP-688).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity::Quantity;

/// Amounts by the name of the resource.
pub type Amounts = BTreeMap<String, Quantity>;

/// Which half of `resources`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What is set aside.
    Requests,
    /// What is the most.
    Limits,
}

impl Side {
    /// The field.
    pub fn field(self) -> &'static str {
        match self {
            Side::Requests => "requests",
            Side::Limits => "limits",
        }
    }
}

/// The amounts of one `resources`; what is no quantity is left out, since validation says so.
pub fn amounts(resources: &Value, side: Side) -> Amounts {
    list(&resources[side.field()])
}

/// A map of quantities, such as `hard` of a quota.
pub fn list(map: &Value) -> Amounts {
    let amount = |(name, value): (&String, &Value)| Some((name.clone(), Quantity::from_value(value).ok()?));
    map.as_object().into_iter().flatten().filter_map(amount).collect()
}

/// What the containers of a pod's spec need together, or, where that is more, what one init container needs while
/// those run that were started before it and stay. What the pod says of itself goes before both.
pub fn of_pod(spec: &Value, side: Side) -> Amounts {
    let containers = |field: &str| spec[field].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut staying = Amounts::new();
    let mut most = Amounts::new();
    for init in containers("initContainers") {
        let mut need = amounts(&init["resources"], side);
        if init["restartPolicy"] == "Always" {
            add(&mut staying, need);
            need = staying.clone();
        } else {
            add(&mut need, staying.clone());
        }
        raise(&mut most, need);
    }
    let mut all = staying;
    for container in containers("containers") {
        add(&mut all, amounts(&container["resources"], side));
    }
    raise(&mut all, most);
    let own = amounts(&spec["resources"], side).into_iter();
    all.extend(own.filter(|(name, _)| is_pod_level(name)));
    all
}

/// As [`of_pod`], with the overhead: part of the requests, and of those limits that there are.
pub fn of_pod_with_overhead(spec: &Value, side: Side) -> Amounts {
    let mut all = of_pod(spec, side);
    for (name, overhead) in list(&spec["overhead"]) {
        match all.get_mut(&name) {
            Some(amount) if side == Side::Requests || !amount.is_zero() => *amount = sum(*amount, overhead),
            None if side == Side::Requests => drop(all.insert(name, overhead)),
            _ => {}
        }
    }
    all
}

/// Resources that a pod may give as a whole.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn add(to: &mut Amounts, more: Amounts) {
    for (name, amount) in more {
        to.entry(name).and_modify(|sofar| *sofar = sum(*sofar, amount)).or_insert(amount);
    }
}

fn raise(to: &mut Amounts, other: Amounts) {
    for (name, amount) in other {
        to.entry(name).and_modify(|sofar| *sofar = (*sofar).max(amount)).or_insert(amount);
    }
}

/// The sum, written as the first part that is not zero.
fn sum(one: Quantity, other: Quantity) -> Quantity {
    if one.is_zero() { other } else { one + other }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(requests: Value) -> Value {
        json!({"resources": {"requests": requests}})
    }

    #[test]
    fn totals() {
        let stays = json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}});
        let table = [
            (json!({}), json!({})),
            (json!({"containers": [{}, container(json!({"cpu": "1"}))]}), json!({"cpu": "1"})),
            (
                json!({"containers": [container(json!({"cpu": "1", "memory": "1Gi"})), container(json!({"cpu": "500m"}))]}),
                json!({"cpu": "1500m", "memory": "1Gi"}),
            ),
            (
                json!({"initContainers": [container(json!({"cpu": "3"}))], "containers": [container(json!({"cpu": "1"}))]}),
                json!({"cpu": "3"}),
            ),
            (
                json!({"initContainers": [stays, container(json!({"cpu": "3"}))], "containers": [container(json!({"cpu": "2"}))]}),
                json!({"cpu": "4"}),
            ),
            (
                json!({"initContainers": [container(json!({"cpu": "3"})), stays], "containers": [container(json!({"cpu": "5"}))]}),
                json!({"cpu": "6"}),
            ),
            (
                json!({"resources": {"requests": {"cpu": "9", "example.com/x": "1"}}, "containers": [container(json!({"cpu": "1"}))]}),
                json!({"cpu": "9"}),
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(of_pod(&spec, Side::Requests), list(&expected), "{spec}");
        }
    }

    #[test]
    fn overhead_is_requested_and_raises_only_limits_that_there_are() {
        let both = json!({"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}});
        let spec = json!({"containers": [both], "overhead": {"cpu": "100m", "memory": "1Mi"}});
        assert_eq!(
            of_pod_with_overhead(&spec, Side::Requests),
            list(&json!({"cpu": "1100m", "memory": "1Mi"}))
        );
        assert_eq!(of_pod_with_overhead(&spec, Side::Limits), list(&json!({"cpu": "2100m"})));
    }
}
