//! The pods that a Job makes of its template.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, PodSpec};

use super::plan::NewPod;
use crate::own::{OwnerKind, body, pod_metadata, set_annotation, set_label};
use crate::pod::{COMPLETION_INDEX, INDEX_FAILURES, INDEX_IGNORED_FAILURES};
use catamaran_client::object;

/// The variable with the index.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// What a generated name may have before its random end.
const LONGEST_PREFIX: usize = 58;

/// The pod as the body of a request.
pub(super) fn pod(kind: &OwnerKind, job: &Job, new: &NewPod) -> Vec<u8> {
    let template = job.spec.as_ref().map(|spec| &spec.template);
    let mut metadata =
        pod_metadata(kind, &job.metadata, template.and_then(|template| template.metadata.as_ref()));
    let mut spec = template.and_then(|template| template.spec.clone()).unwrap_or_default();
    let name = object::name(&job.metadata);
    match new.index {
        None => metadata.generate_name = Some(format!("{name}-")),
        Some(index) => {
            let end = format!("-{index}-");
            let kept: String = name.chars().take(LONGEST_PREFIX.saturating_sub(end.len())).collect();
            metadata.generate_name = Some(format!("{kept}{end}"));
            set_annotation(&mut metadata, COMPLETION_INDEX, index.to_string());
            set_label(&mut metadata, COMPLETION_INDEX, index.to_string());
            spec.hostname = Some(format!("{name}-{index}"));
            add_index(&mut spec);
        }
    }
    if let Some((counted, ignored)) = new.failures {
        set_annotation(&mut metadata, INDEX_FAILURES, counted.to_string());
        if ignored > 0 {
            set_annotation(&mut metadata, INDEX_IGNORED_FAILURES, ignored.to_string());
        }
    }
    body(&metadata, &spec)
}

fn add_index(spec: &mut PodSpec) {
    let source = EnvVarSource {
        field_ref: Some(ObjectFieldSelector {
            field_path: format!("metadata.annotations['{COMPLETION_INDEX}']"),
            ..ObjectFieldSelector::default()
        }),
        ..EnvVarSource::default()
    };
    let add = |container: &mut Container| {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|variable| variable.name == INDEX_VARIABLE) {
            env.push(EnvVar {
                name: INDEX_VARIABLE.to_owned(),
                value: None,
                value_from: Some(source.clone()),
            });
        }
    };
    spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(add);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::KIND;
    use serde_json::{Value, json};

    #[test]
    fn a_pod_knows_its_index_and_its_owner() {
        let job: Job = serde_json::from_value(json!({
            "metadata": {"name": "sum", "namespace": "ns", "uid": "u"},
            "spec": {"completionMode": "Indexed", "template": {
                "metadata": {"labels": {"job-name": "sum"}},
                "spec": {"restartPolicy": "Never", "initContainers": [{"name": "i"}],
                         "containers": [{"name": "c", "env": [{"name": "A", "value": "b"}]}]}}}
        }))
        .unwrap();
        let make = |new: &NewPod| -> Value { serde_json::from_slice(&pod(&KIND, &job, new)).unwrap() };
        let plain = make(&NewPod::default());
        assert_eq!(plain["metadata"]["generateName"], "sum-");
        assert_eq!(plain["metadata"]["finalizers"], json!(["batch.kubernetes.io/job-tracking"]));
        assert_eq!(plain["metadata"]["ownerReferences"][0]["kind"], "Job");
        assert!(plain["spec"].get("hostname").is_none());
        let indexed = make(&NewPod { index: Some(3), failures: Some((2, 0)) });
        assert_eq!(indexed["metadata"]["generateName"], "sum-3-");
        assert_eq!(indexed["metadata"]["labels"][COMPLETION_INDEX], "3");
        assert_eq!(indexed["metadata"]["annotations"][COMPLETION_INDEX], "3");
        assert_eq!(indexed["metadata"]["annotations"][INDEX_FAILURES], "2");
        assert!(indexed["metadata"]["annotations"].get(INDEX_IGNORED_FAILURES).is_none());
        assert_eq!(indexed["spec"]["hostname"], "sum-3");
        let path = "metadata.annotations['batch.kubernetes.io/job-completion-index']";
        assert_eq!(indexed["spec"]["containers"][0]["env"][1]["valueFrom"]["fieldRef"]["fieldPath"], path);
        assert_eq!(indexed["spec"]["initContainers"][0]["env"][0]["name"], INDEX_VARIABLE);
    }
}
