//! The pods that a StatefulSet makes of its template: each with a name, a host name and claims of its own.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume};

use super::{KIND, name};
use crate::history::REVISION_LABEL;
use crate::own::{body, pod_metadata, set_label};
use catamaran_client::object;

/// The label of a pod with its own name.
pub(super) const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// The label of a pod with its ordinal.
pub(super) const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The pod of `ordinal`, as the body of a request.
pub(super) fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Vec<u8> {
    let set_name = object::name(&set.metadata);
    let own_name = name::pod(set_name, ordinal);
    let mut metadata = pod_metadata(&KIND, &set.metadata, template.metadata.as_ref());
    set_label(&mut metadata, POD_NAME, own_name.as_str());
    set_label(&mut metadata, POD_INDEX, ordinal.to_string());
    set_label(&mut metadata, REVISION_LABEL, revision);
    let mut spec = template.spec.clone().unwrap_or_default();
    spec.hostname = Some(own_name.clone());
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    let claims = set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten());
    let volumes = spec.volumes.get_or_insert_default();
    for claim in claims {
        let volume = object::name(&claim.metadata);
        volumes.retain(|other| other.name != volume);
        volumes.push(Volume {
            name: volume.to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: name::claim(volume, set_name, ordinal),
                read_only: None,
            }),
            ..Volume::default()
        });
    }
    metadata.name = Some(own_name);
    body(&metadata, &spec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_pod_has_an_identity_and_claims() {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "ns", "uid": "u"},
            "spec": {"selector": {}, "serviceName": "peers", "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
                     "template": {"metadata": {"labels": {"app": "db"}}, "spec": {
                         "containers": [], "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}}}
        }))
        .unwrap();
        let template = &set.spec.as_ref().unwrap().template;
        let pod: Value = serde_json::from_slice(&pod(&set, template, "db-1x", 3)).unwrap();
        assert_eq!(pod["metadata"]["name"], "db-3");
        let labels = json!({"app": "db", POD_NAME: "db-3", POD_INDEX: "3", REVISION_LABEL: "db-1x"});
        assert_eq!(pod["metadata"]["labels"], labels);
        assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("db-3"), &json!("peers")));
        let volumes = json!([{"name": "tmp", "emptyDir": {}},
                             {"name": "data", "persistentVolumeClaim": {"claimName": "data-db-3"}}]);
        assert_eq!(pod["spec"]["volumes"], volumes);
    }
}
