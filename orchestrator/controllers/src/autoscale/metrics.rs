//! What the metrics of an autoscaler are measured from: the pods' figures of `metrics.k8s.io` and their requests.

use std::collections::BTreeMap;

use catamaran_api::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use serde::Deserialize;

use super::replicas::{Measured, Requesting, Sample, Target};
use k8s_openapi::api::autoscaling::v2::{MetricSpec, MetricTarget};

/// One metric of a spec, in the terms of the calculation.
pub(super) struct Metric<'a> {
    pub(super) resource: &'a str,
    /// Only this container of each pod.
    pub(super) container: Option<&'a str>,
    pub(super) target: Target,
}

impl<'a> Metric<'a> {
    /// # Errors
    /// In words for a condition: a source that this cluster does not have, or a target without a number.
    pub(super) fn of(spec: &'a MetricSpec) -> Result<Self, (&'static str, String)> {
        let of = |resource: &'a str, container, at: &MetricTarget| {
            let target = target(at).ok_or((
                "InvalidMetricSourceType",
                "invalid resource metric source: neither a utilization target nor a value target was set"
                    .to_owned(),
            ))?;
            Ok(Metric { resource, container, target })
        };
        let absent = |reason, api: &str| {
            Err((reason, format!("no metrics returned from {api} API: nothing serves it in this cluster")))
        };
        match (spec.type_.as_str(), &spec.resource, &spec.container_resource) {
            ("Resource", Some(source), _) => of(&source.name, None, &source.target),
            ("ContainerResource", _, Some(source)) => {
                of(&source.name, Some(&source.container), &source.target)
            }
            ("Pods", ..) => absent("FailedGetPodsMetric", "custom metrics"),
            ("Object", ..) => absent("FailedGetObjectMetric", "custom metrics"),
            ("External", ..) => absent("FailedGetExternalMetric", "external metrics"),
            (other, ..) => Err(("InvalidMetricSourceType", format!("unknown metric source type {other:?}"))),
        }
    }

    /// The reason of the condition when it cannot be had.
    pub(super) fn failure(&self) -> &'static str {
        if self.container.is_some() { "FailedGetContainerResourceMetric" } else { "FailedGetResourceMetric" }
    }

    pub(super) fn measured(&self) -> Measured {
        if self.resource == "cpu" { Measured::Cpu } else { Measured::Other }
    }

    /// What each pod used; a pod of which one container is not measured is not either.
    pub(super) fn samples(&self, figures: &[PodFigures]) -> BTreeMap<String, Sample> {
        let of = |pod: &PodFigures| {
            let containers =
                pod.containers.iter().filter(|c| self.container.is_none_or(|name| name == c.name));
            let used: Option<Vec<i64>> = containers.map(|c| milli(c.usage.get(self.resource)?)).collect();
            let used = used.filter(|used| !used.is_empty())?;
            let window = Quantity::parse(pod.window.trim_end_matches('s')).map_or(30, Quantity::value);
            let sample = Sample {
                milli: used.iter().sum(),
                at: pod.timestamp,
                window: SignedDuration::from_secs(window),
            };
            Some((pod.metadata.name.clone(), sample))
        };
        figures.iter().filter_map(of).collect()
    }

    /// The pods with what they request.
    pub(super) fn requesting<'p>(&self, pods: &'p [Pod]) -> Vec<Requesting<'p>> {
        pods.iter().map(|pod| Requesting { pod, requests: self.requests(pod) }).collect()
    }

    fn requests(&self, pod: &Pod) -> Result<i64, String> {
        let spec = pod.spec.as_ref();
        let containers = spec.map_or(&[][..], |spec| &spec.containers);
        let sidecars = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
        let sidecars = sidecars.iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let all = containers.iter().chain(sidecars);
        let mut sum = 0;
        for container in all.filter(|c| self.container.is_none_or(|name| name == c.name)) {
            sum += self.request(container).ok_or_else(|| {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                format!("missing request for {} in container {} of Pod {name}", self.resource, container.name)
            })?;
        }
        Ok(sum)
    }

    fn request(&self, container: &Container) -> Option<i64> {
        let requests = container.resources.as_ref()?.requests.as_ref()?;
        milli(&requests.get(self.resource)?.0)
    }
}

fn target(target: &MetricTarget) -> Option<Target> {
    match (target.average_utilization, &target.average_value) {
        (Some(percent), _) => Some(Target::Utilization(percent)),
        (None, Some(value)) => milli(&value.0).map(Target::AverageValue),
        (None, None) => None,
    }
}

fn milli(quantity: &str) -> Option<i64> {
    Quantity::parse(quantity).ok().map(Quantity::milli_value)
}

/// `PodMetricsList` of `metrics.k8s.io/v1beta1`, as far as it is read.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Figures {
    #[serde(default)]
    pub(super) items: Vec<PodFigures>,
}

/// `PodMetrics`.
#[derive(Debug, Deserialize)]
pub(super) struct PodFigures {
    metadata: Named,
    timestamp: Timestamp,
    /// A Go duration in seconds, such as `15s` or `14.8s`.
    window: String,
    #[serde(default)]
    containers: Vec<ContainerFigures>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

#[derive(Debug, Deserialize)]
struct ContainerFigures {
    name: String,
    usage: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> MetricSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn figures_are_summed_over_the_containers_that_count() {
        let figures: Figures = serde_json::from_value(json!({"items": [{
            "metadata": {"name": "p"}, "timestamp": "2026-01-01T00:00:00Z", "window": "14.8s",
            "containers": [{"name": "a", "usage": {"cpu": "250m", "memory": "1Ki"}}, {"name": "b", "usage": {"cpu": "1", "memory": "1Ki"}}]}]})).unwrap();
        let utilization = json!({"type": "Utilization", "averageUtilization": 50});
        let table = [
            (json!({"type": "Resource", "resource": {"name": "cpu", "target": utilization}}), Some(1250)),
            (
                json!({"type": "Resource", "resource": {"name": "memory", "target": utilization}}),
                Some(2_048_000),
            ),
            (json!({"type": "Resource", "resource": {"name": "gpu", "target": utilization}}), None),
            (
                json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "a", "target": utilization}}),
                Some(250),
            ),
        ];
        for (value, expected) in table {
            let spec = spec(value.clone());
            let metric = Metric::of(&spec).ok().unwrap();
            let samples = metric.samples(&figures.items);
            assert_eq!(samples.get("p").map(|sample| sample.milli), expected, "{value}");
            assert!(samples.values().all(|sample| sample.window == SignedDuration::from_secs(15)));
        }
    }

    #[test]
    fn requests_count_sidecars_and_name_what_is_missing() {
        let spec = spec(
            json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}),
        );
        let metric = Metric::of(&spec).ok().unwrap();
        let requests = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let pod = |second: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
                "initContainers": [{"name": "i", "resources": requests("9")}, {"name": "s", "restartPolicy": "Always", "resources": requests("50m")}],
                "containers": [{"name": "a", "resources": requests("100m")}, {"name": "b", "resources": second}]}})).unwrap()
        };
        assert_eq!(metric.requests(&pod(requests("1"))), Ok(1150));
        assert_eq!(
            metric.requests(&pod(json!({}))),
            Err("missing request for cpu in container b of Pod p".to_owned())
        );
    }

    #[test]
    fn sources_that_nothing_serves_are_named() {
        let of = |value| Metric::of(&spec(value)).err().unwrap();
        assert_eq!(of(json!({"type": "External"})).0, "FailedGetExternalMetric");
        assert_eq!(
            of(json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}})).0,
            "InvalidMetricSourceType"
        );
    }
}
