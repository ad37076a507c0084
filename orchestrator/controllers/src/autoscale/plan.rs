//! What an autoscaler does and reports, given its target, its pods and what they used: a function of values.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition,
    HorizontalPodAutoscalerStatus, MetricStatus, MetricValueStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use catamaran_api::quantity::Quantity;

use super::behaviour::{Allowed, History, Limited, Range};
use super::metrics::{Figures, Metric};
use super::replicas::{Proposal, TOLERANCE, propose};

/// What is observed.
pub(super) struct Observed<'a> {
    pub(super) autoscaler: &'a HorizontalPodAutoscaler,
    /// `spec.replicas` of its target's scale.
    pub(super) current: i32,
    pub(super) pods: &'a [Pod],
    /// What the pods used, or why that is not known.
    pub(super) figures: &'a Result<Figures, String>,
    pub(super) now: Timestamp,
}

/// What is to be done and reported.
#[derive(Debug)]
pub(super) struct Plan {
    /// The number to set, where it is another one, with the words of the event.
    pub(super) rescale: Option<(i32, String)>,
    pub(super) status: HorizontalPodAutoscalerStatus,
    /// Reason and message of a warning.
    pub(super) warning: Option<(String, String)>,
}

/// What the metrics ask for together.
struct Wanted {
    replicas: i32,
    /// The metric that asks for most.
    because: String,
    statuses: Vec<MetricStatus>,
    /// The first that could not be had, though others could.
    failure: Option<(String, String)>,
}

/// Plans one look.
pub(super) fn plan(observed: &Observed<'_>, history: &mut History) -> Plan {
    let spec = observed.autoscaler.spec.clone().unwrap_or_default();
    let range = Range { least: spec.min_replicas.unwrap_or(1), most: spec.max_replicas };
    let mut report = Report::new(observed);
    if observed.current == 0 && range.least != 0 {
        let text = "scaling is disabled since the replica count of the target is zero";
        report.condition("AbleToScale", "True", "SucceededGetScale", GOT_SCALE);
        report.condition("ScalingActive", "False", "ScalingDisabled", text);
        return report.plan(0, None, None);
    }
    report.condition("AbleToScale", "True", "SucceededGetScale", GOT_SCALE);
    let wanted = match outside(observed.current, range) {
        Some((replicas, because)) => {
            let wanted =
                Wanted { replicas, because: because.to_owned(), statuses: Vec::new(), failure: None };
            return report.rescaled(&wanted, replicas);
        }
        None => want(observed, &spec.metrics.clone().unwrap_or_default()),
    };
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err((reason, message)) => {
            let text = format!("the HPA was unable to compute the replica count: {message}");
            report.condition("ScalingActive", "False", &reason, &text);
            return report.plan(observed.current, None, Some((reason, message)));
        }
    };
    let text = format!("the HPA was able to successfully calculate a replica count from {}", wanted.because);
    report.condition("ScalingActive", "True", "ValidMetricFound", &text);
    let behaviour = spec.behavior.clone().unwrap_or_default();
    let allowed = history.allow(&behaviour, (observed.current, wanted.replicas), range, observed.now);
    report.limits(allowed, wanted.replicas, range);
    report.rescaled(&wanted, allowed.replicas)
}

/// The status when the target's scale cannot be read.
pub(super) fn unable(
    autoscaler: &HorizontalPodAutoscaler,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> HorizontalPodAutoscalerStatus {
    let figures = Ok(Figures::default());
    let before = autoscaler.status.as_ref();
    let current = before.and_then(|status| status.current_replicas).unwrap_or(0);
    let desired = before.map_or(0, |status| status.desired_replicas);
    let observed = Observed { autoscaler, current, pods: &[], figures: &figures, now };
    let mut report = Report::new(&observed);
    report.condition("AbleToScale", "False", reason, message);
    report.plan(desired, None, None).status
}

const GOT_SCALE: &str = "the HPA controller was able to get the target's current scale";

/// A number that its owner's bounds forbid is corrected whatever the metrics say.
fn outside(current: i32, range: Range) -> Option<(i32, &'static str)> {
    if current > range.most {
        return Some((range.most, "Current number of replicas above Spec.MaxReplicas"));
    }
    (current < range.least).then_some((range.least, "Current number of replicas below Spec.MinReplicas"))
}

/// The most that any metric asks for. When one cannot be had the others may still let the number grow.
fn want(
    observed: &Observed<'_>,
    specs: &[k8s_openapi::api::autoscaling::v2::MetricSpec],
) -> Result<Wanted, (String, String)> {
    let mut wanted: Option<Wanted> = None;
    let (mut failure, mut statuses) = (None, Vec::new());
    for spec in specs {
        match measure(observed, spec) {
            Ok((metric, proposal)) => {
                statuses.push(status(&metric, proposal));
                if wanted.as_ref().is_none_or(|best| proposal.replicas > best.replicas) {
                    let because = describe(&metric, proposal);
                    wanted = Some(Wanted {
                        replicas: proposal.replicas,
                        because,
                        statuses: Vec::new(),
                        failure: None,
                    });
                }
            }
            Err(cause) => failure = failure.or(Some(cause)),
        }
    }
    match (wanted, failure) {
        (Some(best), Some(cause)) if best.replicas < observed.current => Err(cause),
        (Some(best), failure) => Ok(Wanted { statuses, failure, ..best }),
        (None, Some(cause)) => Err(cause),
        (None, None) => Err(("InvalidMetricSourceType".to_owned(), "no metrics are set".to_owned())),
    }
}

fn measure<'a>(
    observed: &Observed<'_>,
    spec: &'a k8s_openapi::api::autoscaling::v2::MetricSpec,
) -> Result<(Metric<'a>, Proposal), (String, String)> {
    let metric = Metric::of(spec).map_err(|(reason, text)| (reason.to_owned(), text))?;
    let failed = |text: String| {
        let kind = if metric.container.is_some() { "container resource" } else { "resource" };
        (
            metric.failure().to_owned(),
            format!("failed to get {} {kind} metric value: {text}", metric.resource),
        )
    };
    let figures = observed.figures.as_ref().map_err(|text| failed(text.clone()))?;
    let samples = metric.samples(&figures.items);
    if samples.is_empty() {
        let text = format!(
            "unable to get metrics for resource {}: no metrics returned from resource metrics API",
            metric.resource
        );
        return Err(failed(text));
    }
    let asked = (metric.measured(), metric.target, TOLERANCE);
    let proposal =
        propose(&metric.requesting(observed.pods), &samples, asked, observed.current, observed.now)
            .map_err(failed)?;
    Ok((metric, proposal))
}

fn describe(metric: &Metric<'_>, proposal: Proposal) -> String {
    let of = metric.container.map_or_else(String::new, |name| format!(" of container {name}"));
    match proposal.utilization {
        Some(_) => format!("{} resource utilization (percentage of request){of}", metric.resource),
        None => format!("{} resource{of}", metric.resource),
    }
}

fn status(metric: &Metric<'_>, proposal: Proposal) -> MetricStatus {
    let text = Text(Quantity::from_milli(proposal.average).to_string());
    let current = MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: Some(text),
        value: None,
    };
    let (resource, container_resource) = match metric.container {
        None => (Some(ResourceMetricStatus { name: metric.resource.to_owned(), current }), None),
        Some(container) => {
            let (name, container) = (metric.resource.to_owned(), container.to_owned());
            (None, Some(ContainerResourceMetricStatus { name, container, current }))
        }
    };
    let type_ = if metric.container.is_some() { "ContainerResource" } else { "Resource" };
    MetricStatus { type_: type_.to_owned(), resource, container_resource, ..MetricStatus::default() }
}

/// The status as it grows.
struct Report<'a> {
    observed: &'a Observed<'a>,
    conditions: Vec<HorizontalPodAutoscalerCondition>,
    before: HorizontalPodAutoscalerStatus,
}

impl<'a> Report<'a> {
    fn new(observed: &'a Observed<'a>) -> Self {
        let before = observed.autoscaler.status.clone().unwrap_or_default();
        Report { observed, conditions: before.conditions.clone().unwrap_or_default(), before }
    }

    fn condition(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let now = Some(Time(self.observed.now));
        let old = self.conditions.iter().find(|condition| condition.type_ == kind);
        let since =
            old.filter(|old| old.status == status).map_or(now, |old| old.last_transition_time.clone());
        let condition = HorizontalPodAutoscalerCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: since,
        };
        match self.conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(place) => *place = condition,
            None => self.conditions.push(condition),
        }
    }

    /// Conditions about what holds the number back.
    fn limits(&mut self, allowed: Allowed, wanted: i32, range: Range) {
        match allowed.stabilized {
            Limited::UpStabilized => {
                let text = "recent recommendations were lower than current one, applying the lowest recent recommendation";
                self.condition("AbleToScale", "True", "ScaleUpStabilized", text);
            }
            Limited::DownStabilized => {
                let text = "recent recommendations were higher than current one, applying the highest recent recommendation";
                self.condition("AbleToScale", "True", "ScaleDownStabilized", text);
            }
            _ => {
                let text = "recommended size matches current size";
                self.condition("AbleToScale", "True", "ReadyForNewScale", text);
            }
        }
        let (status, reason, text) = match allowed.limited {
            Limited::TooManyReplicas => (
                "True",
                "TooManyReplicas",
                "the desired replica count is more than the maximum replica count",
            ),
            Limited::ScaleUpLimit => (
                "True",
                "ScaleUpLimit",
                "the desired replica count is increasing faster than the maximum scale rate",
            ),
            Limited::ScaleDownLimit => (
                "True",
                "ScaleDownLimit",
                "the desired replica count is decreasing faster than the maximum scale rate",
            ),
            Limited::TooFewReplicas => {
                ("True", "TooFewReplicas", "the desired replica count is less than the minimum replica count")
            }
            _ if wanted < range.least => {
                ("True", "TooFewReplicas", "the desired replica count is less than the minimum replica count")
            }
            _ => ("False", "DesiredWithinRange", "the desired count is within the acceptable range"),
        };
        self.condition("ScalingLimited", status, reason, text);
    }

    /// The plan to have `replicas`.
    fn rescaled(mut self, wanted: &Wanted, replicas: i32) -> Plan {
        let current = self.observed.current;
        let rescale = (replicas != current).then(|| {
            let because = match wanted.replicas {
                _ if wanted.statuses.is_empty() => wanted.because.clone(),
                more if more > current => format!("{} above target", wanted.because),
                _ => "All metrics below target".to_owned(),
            };
            (replicas, format!("New size: {replicas}; reason: {because}"))
        });
        if rescale.is_some() {
            let text = format!("the HPA controller was able to update the target scale to {replicas}");
            self.condition("AbleToScale", "True", "SucceededRescale", &text);
        }
        let mut plan = self.plan(replicas, rescale, wanted.failure.clone());
        plan.status.current_metrics = Some(wanted.statuses.clone()).filter(|list| !list.is_empty());
        plan
    }

    fn plan(self, desired: i32, rescale: Option<(i32, String)>, warning: Option<(String, String)>) -> Plan {
        let scaled = rescale.is_some().then_some(Time(self.observed.now));
        let status = HorizontalPodAutoscalerStatus {
            conditions: Some(self.conditions),
            current_metrics: self.before.current_metrics,
            current_replicas: Some(self.observed.current),
            desired_replicas: desired,
            last_scale_time: scaled.or(self.before.last_scale_time),
            observed_generation: self.observed.autoscaler.metadata.generation,
        };
        Plan { rescale, status, warning }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn autoscaler(spec: Value) -> HorizontalPodAutoscaler {
        let mut whole = json!({"maxReplicas": 10, "scaleTargetRef": {"kind": "Deployment", "name": "web"}, "metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "web", "generation": 2}, "spec": whole})).unwrap()
    }

    fn pods(count: usize) -> Vec<Pod> {
        let pod = |n| {
            json!({"metadata": {"name": format!("p{n}")},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
            "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"}]}})
        };
        (0..count).map(|n| serde_json::from_value(pod(n)).unwrap()).collect()
    }

    fn figures(milli: &[i64]) -> Result<Figures, String> {
        let item = |(n, milli): (usize, &i64)| {
            json!({"metadata": {"name": format!("p{n}")}, "timestamp": NOW,
            "window": "15s", "containers": [{"name": "c", "usage": {"cpu": format!("{milli}m"), "memory": "1Mi"}}]})
        };
        let items: Vec<_> = milli.iter().enumerate().map(item).collect();
        Ok(serde_json::from_value(json!({"items": items})).unwrap())
    }

    fn look(spec: Value, current: i32, figures: &Result<Figures, String>) -> Plan {
        let (autoscaler, pods) = (autoscaler(spec), pods(usize::try_from(current).unwrap()));
        let now = NOW.parse().unwrap();
        let observed = Observed { autoscaler: &autoscaler, current, pods: &pods, figures, now };
        plan(&observed, &mut History::default())
    }

    fn condition(plan: &Plan, kind: &str) -> (String, String) {
        let all = plan.status.conditions.as_ref().unwrap();
        let found = all.iter().find(|c| c.type_ == kind).unwrap_or_else(|| panic!("{kind} of {all:?}"));
        (found.status.clone(), found.reason.clone().unwrap())
    }

    #[test]
    fn use_above_the_target_grows() {
        let plan = look(json!({}), 2, &figures(&[100, 100]));
        let (replicas, event) = plan.rescale.clone().unwrap();
        assert_eq!(replicas, 4);
        assert_eq!(
            event,
            "New size: 4; reason: cpu resource utilization (percentage of request) above target"
        );
        assert_eq!(condition(&plan, "AbleToScale"), ("True".into(), "SucceededRescale".into()));
        assert_eq!(condition(&plan, "ScalingActive"), ("True".into(), "ValidMetricFound".into()));
        assert_eq!(condition(&plan, "ScalingLimited"), ("False".into(), "DesiredWithinRange".into()));
        let status = plan.status;
        assert_eq!(
            (status.current_replicas, status.desired_replicas, status.observed_generation),
            (Some(2), 4, Some(2))
        );
        let current = status.current_metrics.unwrap()[0].resource.clone().unwrap().current;
        assert_eq!(
            (current.average_utilization, current.average_value.unwrap().0),
            (Some(100), "100m".to_owned())
        );
    }

    #[test]
    fn what_is_right_stays() {
        let plan = look(json!({}), 2, &figures(&[50, 52]));
        assert_eq!(plan.rescale, None);
        assert_eq!(condition(&plan, "AbleToScale"), ("True".into(), "ReadyForNewScale".into()));
    }

    #[test]
    fn bounds_hold_whatever_is_measured() {
        let unknown = Err("no answer".to_owned());
        assert_eq!(look(json!({"maxReplicas": 3}), 7, &unknown).rescale.unwrap().0, 3);
        assert_eq!(look(json!({"minReplicas": 2}), 1, &unknown).rescale.unwrap().0, 2);
        let most = look(json!({"maxReplicas": 3}), 2, &figures(&[500, 500]));
        assert_eq!(most.rescale.clone().unwrap().0, 3);
        assert_eq!(condition(&most, "ScalingLimited"), ("True".into(), "TooManyReplicas".into()));
    }

    #[test]
    fn what_cannot_be_measured_is_told_and_changes_nothing() {
        let plan = look(json!({}), 2, &Err("the server is away".to_owned()));
        assert_eq!((plan.rescale, plan.status.desired_replicas), (None, 2));
        let (reason, message) = plan.warning.unwrap();
        assert_eq!(reason, "FailedGetResourceMetric");
        assert_eq!(message, "failed to get cpu resource metric value: the server is away");
    }

    #[test]
    fn one_metric_that_fails_forbids_to_shrink_only() {
        let metrics = json!({"metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
            {"type": "External", "external": {"metric": {"name": "queue"}, "target": {"type": "Value", "value": "1"}}}]});
        assert_eq!(look(metrics.clone(), 4, &figures(&[5, 5, 5, 5])).rescale, None);
        let grown = look(metrics, 2, &figures(&[100, 100]));
        assert_eq!(
            (grown.rescale.unwrap().0, grown.warning.unwrap().0),
            (4, "FailedGetExternalMetric".to_owned())
        );
    }

    #[test]
    fn a_target_at_zero_is_left_alone() {
        let plan = look(json!({}), 0, &figures(&[]));
        assert_eq!(plan.rescale, None);
        assert_eq!(condition(&plan, "ScalingActive"), ("False".into(), "ScalingDisabled".into()));
    }
}
