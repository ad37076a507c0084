//! Amounts of CPU and memory: parsing, the quality of service class that follows from them, cgroup figures. Pure.

use catamaran_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, PodSpec};

/// `status.qosClass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// What a container asks for and may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(crate) cpu_request: Option<i64>,
    pub(crate) cpu_limit: Option<i64>,
    pub(crate) memory_request: Option<i64>,
    pub(crate) memory_limit: Option<i64>,
}

// === impl ===

impl Class {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Class::Guaranteed => "Guaranteed",
            Class::Burstable => "Burstable",
            Class::BestEffort => "BestEffort",
        }
    }

    /// The folder of the class among cgroups.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Class::Guaranteed => "guaranteed",
            Class::Burstable => "burstable",
            Class::BestEffort => "besteffort",
        }
    }
}

impl Amounts {
    /// Thousandths of a core, and bytes. What does not parse was refused by the server: it counts as not given.
    pub(crate) fn of(container: &Container) -> Self {
        let Some(resources) = &container.resources else { return Amounts::default() };
        let get = |map: &Option<std::collections::BTreeMap<_, _>>, key: &str| {
            let quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity =
                map.as_ref()?.get(key)?;
            Quantity::parse(&quantity.0).ok()
        };
        let cpu_limit = get(&resources.limits, "cpu").map(Quantity::milli_value);
        let memory_limit = get(&resources.limits, "memory").map(Quantity::value);
        Amounts {
            cpu_request: get(&resources.requests, "cpu").map(Quantity::milli_value).or(cpu_limit),
            cpu_limit,
            memory_request: get(&resources.requests, "memory").map(Quantity::value).or(memory_limit),
            memory_limit,
        }
    }
}

/// The class of a pod.
pub(crate) fn class(spec: &PodSpec) -> Class {
    let all: Vec<Amounts> =
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(Amounts::of).collect();
    // An amount of zero is none.
    let given = |amount: Option<i64>| amount.is_some_and(|amount| amount > 0);
    let any = |amounts: &Amounts| {
        [amounts.cpu_request, amounts.cpu_limit, amounts.memory_request, amounts.memory_limit]
            .into_iter()
            .any(given)
    };
    if !all.iter().any(any) {
        return Class::BestEffort;
    }
    let guaranteed = all.iter().all(|amounts| {
        given(amounts.cpu_limit)
            && given(amounts.memory_limit)
            && amounts.cpu_request == amounts.cpu_limit
            && amounts.memory_request == amounts.memory_limit
    });
    if guaranteed { Class::Guaranteed } else { Class::Burstable }
}

/// `cpu.shares` for thousandths of a core: 1024 a core, at least 2.
pub(crate) fn cpu_shares(milli: i64) -> u64 {
    let shares = milli.saturating_mul(1024) / 1000;
    u64::try_from(shares).unwrap_or(0).clamp(2, 262_144)
}

/// `cpu.cfs_quota_us` for thousandths of a core in a period of 100 ms: at least 1 ms.
pub(crate) fn cpu_quota(milli: i64) -> i64 {
    milli.saturating_mul(100).max(1000)
}

/// `oom_score_adj` by class; a burstable container's falls with its share of the node's memory.
pub(crate) fn oom_score_adj(class: Class, memory_request: Option<i64>, node_memory: i64) -> i32 {
    match class {
        Class::Guaranteed => -997,
        Class::BestEffort => 1000,
        Class::Burstable => {
            let share = 1000_i64.saturating_mul(memory_request.unwrap_or(0)) / node_memory.max(1);
            i32::try_from((1000 - share).clamp(3, 999)).unwrap_or(999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(resources: serde_json::Value) -> PodSpec {
        serde_json::from_value(serde_json::json!({"containers": [{"name": "c", "resources": resources}]}))
            .unwrap()
    }

    #[test]
    fn classes() {
        let table = [
            (serde_json::json!({}), Class::BestEffort),
            (serde_json::json!({"requests": {"cpu": "1"}}), Class::Burstable),
            (serde_json::json!({"requests": {"cpu": "0", "memory": "0"}}), Class::BestEffort),
            (serde_json::json!({"limits": {"cpu": "0", "memory": "1Gi"}}), Class::Burstable),
            (serde_json::json!({"limits": {"cpu": "1", "memory": "1Gi"}}), Class::Guaranteed),
            (
                serde_json::json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}),
                Class::Burstable,
            ),
        ];
        for (resources, expected) in table {
            assert_eq!(class(&spec(resources.clone())), expected, "{resources}");
        }
    }

    #[test]
    fn figures_for_cgroups() {
        assert_eq!([0, 1, 250, 1000, 4000].map(cpu_shares), [2, 2, 256, 1024, 4096]);
        assert_eq!([1, 5, 500, 2000].map(cpu_quota), [1000, 1000, 50_000, 200_000]);
        let gi = 1 << 30;
        assert_eq!(oom_score_adj(Class::Burstable, Some(gi), 4 * gi), 750);
        assert_eq!(oom_score_adj(Class::Burstable, None, 4 * gi), 999);
        assert_eq!(oom_score_adj(Class::Guaranteed, Some(gi), 4 * gi), -997);
    }
}
