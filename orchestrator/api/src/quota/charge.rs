//! What a new or changed object adds to the quotas that cover it, or why it may not. The words are those of
//! Kubernetes' ResourceQuota admission.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::usage::{self, Counted, Measure};
use crate::quantity::Quantity;
use crate::resources::{self, Amounts};

/// A creation, or a change of something that quotas measure.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// API group, empty for the core group.
    pub group: &'a str,
    /// Plural of the kind.
    pub plural: &'a str,
    /// The object as it is to be.
    pub new: &'a Value,
    /// The object as it is; none for a creation.
    pub old: Option<&'a Value>,
}

/// What becomes of a quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// These values of `status.used` are new.
    Used(BTreeMap<String, String>),
    /// The quota covers the object, but its status does not say so yet. It is to be written as it is, so that
    /// whoever counts at this moment begins anew.
    Touched,
}

/// Why a quota stands against an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The quota is about resources that some containers do not mention.
    #[error("failed quota: {quota}: must specify {missing}")]
    Unspecified {
        /// Name of the quota.
        quota: String,
        /// `limits.cpu for: a,b; limits.memory for: a`
        missing: String,
    },
    /// Nobody has counted yet.
    #[error("status unknown for quota: {quota}, resources: {resources}")]
    Unknown {
        /// Name of the quota.
        quota: String,
        /// Names, with commas.
        resources: String,
    },
    /// The object asks for less than nothing.
    #[error("quota usage is negative for resource(s): {resources}")]
    Negative {
        /// Names, with commas.
        resources: String,
    },
    /// There is not enough left.
    #[error("exceeded quota: {quota}, requested: {requested}, used: {used}, limited: {limited}")]
    Exceeded {
        /// Name of the quota.
        quota: String,
        /// `cpu=1,pods=1`
        requested: String,
        /// In the same form.
        used: String,
        /// In the same form.
        limited: String,
    },
}

/// What the change does to each of the quotas of its namespace; the number is the place in the list. Quotas that it
/// does not concern are left out.
///
/// # Errors
/// The first quota that stands against it.
pub fn charge(quotas: &[Value], change: Change<'_>) -> Result<Vec<(usize, Effect)>, Refusal> {
    let mut covering = Vec::new();
    let mut effects = Vec::new();
    for (place, quota) in quotas.iter().enumerate() {
        let view = View::of(quota, change);
        if !view.covers(change.new) {
            continue;
        }
        if view.uncounted {
            effects.push((place, Effect::Touched));
        }
        if view.names.is_empty() {
            continue;
        }
        view.check_specified(change)?;
        view.check_known()?;
        covering.push((place, view));
    }
    check_not_negative(covering.iter().map(|(_, view)| view), change)?;
    for (place, view) in covering {
        let used = view.add(change)?;
        if !used.is_empty() {
            effects.retain(|(touched, _)| *touched != place);
            effects.push((place, Effect::Used(used)));
        }
    }
    Ok(effects)
}

/// A quota as far as one kind is concerned.
struct View<'a> {
    quota: &'a str,
    kind: Counted,
    scopes: Vec<usage::Scope>,
    hard: Amounts,
    used: Amounts,
    /// Names in `status.hard` that measure the kind.
    names: Vec<(String, Measure<'a>)>,
    /// Whether `spec.hard` measures the kind in a way that `status.hard` does not have yet.
    uncounted: bool,
}

impl<'a> View<'a> {
    fn of(quota: &'a Value, change: Change<'_>) -> Self {
        let kind = Counted { group: change.group.to_owned(), plural: change.plural.to_owned() };
        let measures = |map: &'a Value| {
            let names = map.as_object().into_iter().flatten().map(|(name, _)| name);
            let kind = &kind;
            let found = names.filter_map(move |name| {
                let (counted, measure) = usage::measure(name)?;
                (counted == *kind).then(|| (name.clone(), measure))
            });
            found.collect::<Vec<_>>()
        };
        let names = measures(&quota["status"]["hard"]);
        let wanted = measures(&quota["spec"]["hard"]);
        View {
            quota: crate::meta::name(quota),
            scopes: usage::scopes(&quota["spec"]),
            hard: resources::list(&quota["status"]["hard"]),
            used: resources::list(&quota["status"]["used"]),
            uncounted: wanted.iter().any(|(name, _)| names.iter().all(|(known, _)| known != name)),
            names,
            kind,
        }
    }

    fn covers(&self, object: &Value) -> bool {
        (self.uncounted || !self.names.is_empty()) && usage::in_scopes(&self.kind, object, &self.scopes)
    }

    /// A quota of processor or memory is about pods whose containers all say how much they want. Kubernetes
    /// regrets this rule and keeps it to these names.
    fn check_specified(&self, change: Change<'_>) -> Result<(), Refusal> {
        const REQUIRED: [&str; 6] =
            ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
        let spec = &change.new["spec"];
        // What the pod says as a whole is enough.
        if self.kind.plural != "pods" || spec["resources"].as_object().is_some_and(|own| !own.is_empty()) {
            return Ok(());
        }
        let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for container in ["containers", "initContainers"].iter().filter_map(|f| spec[f].as_array()).flatten()
        {
            for (name, measure) in &self.names {
                let Measure::Containers(side, resource) = measure else { continue };
                let said = !container["resources"][side.field()][resource].is_null();
                if REQUIRED.contains(&name.as_str()) && !said {
                    let container = container["name"].as_str().unwrap_or_default();
                    missing.entry(name).or_default().insert(container);
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let one = |(name, containers): (&str, BTreeSet<&str>)| {
            format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
        };
        let missing = missing.into_iter().map(one).collect::<Vec<_>>().join("; ");
        Err(Refusal::Unspecified { quota: self.quota.to_owned(), missing })
    }

    fn check_known(&self) -> Result<(), Refusal> {
        if self.names.iter().all(|(name, _)| self.used.contains_key(name)) {
            return Ok(());
        }
        let names: Vec<&str> = self.names.iter().map(|(name, _)| name.as_str()).collect();
        Err(Refusal::Unknown { quota: self.quota.to_owned(), resources: names.join(",") })
    }

    /// The new values of what is used.
    fn add(&self, change: Change<'_>) -> Result<BTreeMap<String, String>, Refusal> {
        let old = change.old.filter(|old| usage::in_scopes(&self.kind, old, &self.scopes));
        let mut new_used = BTreeMap::new();
        let mut exceeded: [Vec<String>; 3] = Default::default();
        for (name, measure) in &self.names {
            let before = old.map_or(Quantity::ZERO, |old| usage::amount(*measure, old));
            let requested = usage::amount(*measure, change.new) - before;
            if requested.is_zero() {
                continue;
            }
            let used = self.used.get(name).copied().unwrap_or_default();
            let hard = self.hard.get(name).copied().unwrap_or_default();
            let after = (used + requested).max(Quantity::ZERO);
            if !requested.is_negative() && after > hard {
                for (list, amount) in exceeded.iter_mut().zip([requested, used, hard]) {
                    list.push(format!("{name}={amount}"));
                }
            }
            new_used.insert(name.clone(), after.to_string());
        }
        if exceeded[0].is_empty() {
            return Ok(new_used);
        }
        let [requested, used, limited] = exceeded.map(|list| list.join(","));
        Err(Refusal::Exceeded { quota: self.quota.to_owned(), requested, used, limited })
    }
}

fn check_not_negative<'a>(
    views: impl Iterator<Item = &'a View<'a>>,
    change: Change<'_>,
) -> Result<(), Refusal> {
    let below_zero = |(name, measure): &'a (String, Measure<'a>)| {
        usage::amount(*measure, change.new).is_negative().then_some(name.as_str())
    };
    let names: BTreeSet<&str> = views.flat_map(|view| &view.names).filter_map(below_zero).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Refusal::Negative { resources: names.into_iter().collect::<Vec<_>>().join(",") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn quota(name: &str, hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": name}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
    }

    fn pod(resources: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    fn of_pod(new: &Value) -> Change<'_> {
        Change { group: "", plural: "pods", new, old: None }
    }

    fn said(quotas: &[Value], change: Change<'_>) -> String {
        match charge(quotas, change) {
            Err(refusal) => refusal.to_string(),
            Ok(effects) => {
                let one = |(place, effect): &(usize, Effect)| match effect {
                    Effect::Touched => format!("{place}: touched"),
                    Effect::Used(used) => {
                        let used: Vec<String> = used.iter().map(|(n, v)| format!("{n}={v}")).collect();
                        format!("{place}: {}", used.join(","))
                    }
                };
                effects.iter().map(one).collect::<Vec<_>>().join("; ")
            }
        }
    }

    #[test]
    fn pods_are_charged_or_refused() {
        let small = pod(json!({"requests": {"cpu": "500m", "memory": "64Mi"}}));
        let silent = pod(json!({}));
        let less = pod(json!({"requests": {"cpu": "-1"}}));
        let table = [
            (quota("q", json!({"pods": "2"}), json!({"pods": "1"})), &small, "0: pods=2"),
            (
                quota("q", json!({"pods": "2"}), json!({"pods": "2"})),
                &small,
                "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2",
            ),
            (
                quota(
                    "q",
                    json!({"cpu": "1", "pods": "9", "requests.memory": "1Gi"}),
                    json!({"cpu": "600m", "pods": "1", "requests.memory": "1Gi"}),
                ),
                &small,
                "exceeded quota: q, requested: cpu=500m,requests.memory=64Mi, used: cpu=600m,requests.memory=1Gi, limited: cpu=1,requests.memory=1Gi",
            ),
            (
                quota(
                    "q",
                    json!({"limits.cpu": "1", "requests.cpu": "1"}),
                    json!({"limits.cpu": "0", "requests.cpu": "0"}),
                ),
                &silent,
                "failed quota: q: must specify limits.cpu for: c; requests.cpu for: c",
            ),
            (
                quota("q", json!({"cpu": "1", "pods": "1"}), json!({"pods": "0"})),
                &small,
                "status unknown for quota: q, resources: cpu,pods",
            ),
            (
                quota("q", json!({"cpu": "1"}), json!({"cpu": "0"})),
                &less,
                "quota usage is negative for resource(s): cpu",
            ),
            (quota("q", json!({"configmaps": "0", "wishes": "0"}), json!({})), &small, ""),
            // More is used than allowed, but not of what this pod asks for.
            (
                quota(
                    "q",
                    json!({"requests.example.com/gpu": "0", "pods": "5"}),
                    json!({"requests.example.com/gpu": "2", "pods": "1"}),
                ),
                &silent,
                "0: pods=2",
            ),
            (json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}}), &small, "0: touched"),
            (json!({"metadata": {"name": "q"}, "spec": {"hard": {"services": "0"}}}), &small, ""),
        ];
        for (quota, pod, expected) in table {
            assert_eq!(said(std::slice::from_ref(&quota), of_pod(pod)), expected, "{quota} {pod}");
        }
    }

    #[test]
    fn a_pod_that_speaks_for_its_containers_need_not_repeat_itself() {
        let whole = json!({"spec": {"resources": {"requests": {"cpu": "1"}}, "containers": [{"name": "c"}]}});
        let quota = quota("q", json!({"cpu": "2"}), json!({"cpu": "1"}));
        assert_eq!(said(&[quota], of_pod(&whole)), "0: cpu=2");
    }

    #[test]
    fn scopes_decide() {
        let scoped = |scopes: Value| {
            let mut quota = quota("q", json!({"pods": "0"}), json!({"pods": "0"}));
            quota["spec"].as_object_mut().unwrap().extend(scopes.as_object().unwrap().clone());
            quota
        };
        let class = |operator: &str, values: Value| {
            json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": values}]}})
        };
        let low = json!({"spec": {"priorityClassName": "low", "containers": [{"name": "c"}]}});
        let table = [
            (json!({"scopes": ["BestEffort"]}), true),
            (json!({"scopes": ["NotBestEffort"]}), false),
            (json!({"scopes": ["Terminating"]}), false),
            (json!({"scopes": ["NotTerminating", "BestEffort"]}), true),
            (class("In", json!(["low", "high"])), true),
            (class("In", json!(["high"])), false),
            (class("NotIn", json!(["high"])), true),
            (class("Exists", json!([])), true),
            (class("DoesNotExist", json!([])), false),
        ];
        for (scopes, covered) in table {
            let refused = charge(&[scoped(scopes.clone())], of_pod(&low)).is_err();
            assert_eq!(refused, covered, "{scopes}");
        }
        let maps = Change { group: "", plural: "configmaps", ..of_pod(&low) };
        let mut quota = scoped(json!({"scopes": ["BestEffort"]}));
        quota["status"]["hard"] = json!({"configmaps": "0"});
        assert_eq!(said(&[quota], maps), "", "only pods are ever in a scope");
    }

    #[test]
    fn every_quota_is_charged_and_the_first_that_refuses_speaks() {
        let pod = pod(json!({}));
        let open = |name: &str| quota(name, json!({"pods": "5"}), json!({"pods": "1"}));
        let full = quota("full", json!({"count/pods": "1"}), json!({"count/pods": "1"}));
        assert_eq!(said(&[open("a"), open("b")], of_pod(&pod)), "0: pods=2; 1: pods=2");
        let refused = said(&[open("a"), full], of_pod(&pod));
        assert!(refused.starts_with("exceeded quota: full, requested: count/pods=1"), "{refused}");
    }

    #[test]
    fn changes_are_charged_by_the_difference() {
        let service =
            |kind: &str, ports: usize| json!({"spec": {"type": kind, "ports": vec![json!({}); ports]}});
        let quota = |used: &str| {
            quota(
                "q",
                json!({"services": "1", "services.nodeports": "2"}),
                json!({"services": "1", "services.nodeports": used}),
            )
        };
        let table = [
            ("0", service("ClusterIP", 1), service("ClusterIP", 2), ""),
            ("0", service("ClusterIP", 1), service("NodePort", 2), "0: services.nodeports=2"),
            (
                "1",
                service("NodePort", 1),
                service("NodePort", 3),
                "exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=1, limited: services.nodeports=2",
            ),
            // Using less is always allowed, and counted at once.
            ("3", service("NodePort", 3), service("NodePort", 1), "0: services.nodeports=1"),
            ("1", service("NodePort", 3), service("ClusterIP", 1), "0: services.nodeports=0"),
        ];
        for (used, old, new, expected) in table {
            let change = Change { group: "", plural: "services", new: &new, old: Some(&old) };
            assert_eq!(said(&[quota(used)], change), expected, "{old} {new}");
        }
    }

    #[test]
    fn claims_and_counted_kinds() {
        let claim =
            json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "2Gi"}}}});
        let hard = json!({
            "persistentvolumeclaims": "3", "requests.storage": "3Gi",
            "fast.storageclass.storage.k8s.io/requests.storage": "1Gi",
            "slow.storageclass.storage.k8s.io/persistentvolumeclaims": "0",
        });
        let used = json!({
            "persistentvolumeclaims": "0", "requests.storage": "0",
            "fast.storageclass.storage.k8s.io/requests.storage": "0",
            "slow.storageclass.storage.k8s.io/persistentvolumeclaims": "0",
        });
        let change = Change { group: "", plural: "persistentvolumeclaims", new: &claim, old: None };
        assert_eq!(
            said(&[quota("q", hard, used)], change),
            "exceeded quota: q, requested: fast.storageclass.storage.k8s.io/requests.storage=2Gi, used: fast.storageclass.storage.k8s.io/requests.storage=0, limited: fast.storageclass.storage.k8s.io/requests.storage=1Gi"
        );
        let deployment = json!({});
        let change = Change { group: "apps", plural: "deployments", new: &deployment, old: None };
        let counted =
            quota("q", json!({"count/deployments.apps": "1"}), json!({"count/deployments.apps": "0"}));
        assert_eq!(said(&[counted], change), "0: count/deployments.apps=1");
    }
}
