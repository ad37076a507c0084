//! What a Job's own rules say: about a pod that failed, and about the indexes that are enough.

use k8s_openapi::api::batch::v1::{Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};

use super::index::Indexes;
use crate::pod::{ContainerStatus, Pod};
use catamaran_client::object;

/// What the failure of a pod means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts against the back-off limit.
    Count,
    /// It does not count at all.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The Job has failed, for this reason.
    FailJob(String),
}

/// The action of the first rule of `spec.podFailurePolicy` that matches a failed pod.
pub(super) fn judge(job: &Job, pod: &Pod) -> Verdict {
    let policy = job.spec.as_ref().and_then(|spec| spec.pod_failure_policy.as_ref());
    for (number, rule) in policy.iter().flat_map(|policy| &policy.rules).enumerate() {
        let Some(why) = match_rule(rule, pod) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" if per_index(job) => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{why} matching FailJob rule at index {number}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn per_index(job: &Job) -> bool {
    job.spec.as_ref().is_some_and(|spec| spec.backoff_limit_per_index.is_some())
}

/// Why the rule matches, if it does.
fn match_rule(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let (namespace, name) = (object::namespace(&pod.metadata), object::name(&pod.metadata));
    if let Some(codes) = &rule.on_exit_codes {
        let statuses = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
        let (status, code) =
            statuses.filter_map(|status| Some((status, failed_with(codes, status)?))).next()?;
        let container = &status.name;
        return Some(format!(
            "Container {container} for pod {namespace}/{name} failed with exit code {code}"
        ));
    }
    let patterns = rule.on_pod_conditions.iter().flatten();
    let matching = patterns.filter(|pattern| {
        pod.condition(&pattern.type_).is_some_and(|condition| condition.status == pattern.status)
    });
    let pattern = matching.into_iter().next()?;
    Some(format!("Pod {namespace}/{name} has condition {}", pattern.type_))
}

fn failed_with(codes: &PodFailurePolicyOnExitCodesRequirement, status: &ContainerStatus) -> Option<i32> {
    let code = status.state.terminated.as_ref()?.exit_code;
    let named = codes.container_name.as_ref().is_none_or(|name| *name == status.name);
    let among = codes.values.contains(&code);
    let matches = match codes.operator.as_str() {
        "In" => among,
        "NotIn" => !among,
        _ => false,
    };
    (code != 0 && named && matches).then_some(code)
}

/// The number of the rule of `spec.successPolicy` that the completed indexes satisfy.
pub(super) fn succeeded(job: &Job, completions: i32, completed: &Indexes) -> Option<usize> {
    let policy = job.spec.as_ref()?.success_policy.as_ref()?;
    policy.rules.iter().position(|rule| {
        let (done, all) = match &rule.succeeded_indexes {
            Some(wanted) => {
                let wanted = Indexes::parse(wanted, completions);
                (wanted.common(completed), wanted.len())
            }
            None => (completed.len(), completions),
        };
        done >= rule.succeeded_count.unwrap_or(all)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn job(spec: Value) -> Job {
        let mut spec = spec;
        spec["template"] = json!({});
        serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": spec})).unwrap()
    }

    #[test]
    fn the_first_rule_that_matches() {
        let job = job(json!({"backoffLimitPerIndex": 1, "podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 42]}}]}}));
        let pod = |code: i32, container: &str, conditions: Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "p", "namespace": "ns"},
                "status": {"phase": "Failed", "conditions": conditions, "containerStatuses": [
                    {"name": container, "state": {"terminated": {"exitCode": code}}}]}
            }))
            .unwrap()
        };
        let disrupted = json!([{"type": "DisruptionTarget", "status": "True"}]);
        let message = "Container main for pod ns/p failed with exit code 42 matching FailJob rule at index 1";
        let table = [
            (pod(42, "main", json!([])), Verdict::FailJob(message.into())),
            (pod(42, "main", disrupted), Verdict::Ignore),
            (pod(42, "other", json!([])), Verdict::Count),
            (pod(1, "main", json!([])), Verdict::Count),
            (pod(7, "main", json!([])), Verdict::FailIndex),
            (pod(0, "main", json!([])), Verdict::Count),
        ];
        for (pod, expected) in table {
            assert_eq!(judge(&job, &pod), expected, "{:?}", pod.status);
        }
    }

    #[test]
    fn enough_indexes() {
        let rules = |rules: Value| job(json!({"completions": 6, "successPolicy": {"rules": rules}}));
        // (rules, completed, number of the rule)
        let table = [
            (json!([{"succeededIndexes": "0"}]), "1-5", None),
            (json!([{"succeededIndexes": "0"}]), "0,4", Some(0)),
            (json!([{"succeededIndexes": "0-2", "succeededCount": 2}]), "1,2", Some(0)),
            (json!([{"succeededIndexes": "0-2", "succeededCount": 2}]), "2-5", None),
            (json!([{"succeededIndexes": "5"}, {"succeededCount": 3}]), "0-2", Some(1)),
        ];
        for (text, completed, expected) in table {
            let found = succeeded(&rules(text.clone()), 6, &Indexes::parse(completed, 6));
            assert_eq!(found, expected, "{text} {completed}");
        }
    }
}
