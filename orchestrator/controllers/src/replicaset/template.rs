//! The pod that a template makes.

use k8s_openapi::api::apps::v1::ReplicaSet;

use crate::own::{OwnerKind, body, pod_metadata};
use catamaran_client::object;

/// The body of a request; all pods of a set have the same one.
pub(super) fn pod(kind: &OwnerKind, set: &ReplicaSet) -> Vec<u8> {
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let meta = template.and_then(|template| template.metadata.as_ref());
    let mut metadata = pod_metadata(kind, &set.metadata, meta);
    metadata.generate_name = Some(format!("{}-", object::name(&set.metadata)));
    body(&metadata, &template.and_then(|template| template.spec.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replicaset::kind::Replicated;
    use serde_json::json;

    #[test]
    fn a_pod_is_made_of_the_template() {
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "web-1", "namespace": "ns", "uid": "rs"},
            "spec": {"selector": {}, "template": {
                "metadata": {"labels": {"app": "web"}, "annotations": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}}
        }))
        .unwrap();
        let pod: serde_json::Value = serde_json::from_slice(&pod(&ReplicaSet::KIND, &set)).unwrap();
        assert_eq!(pod["metadata"]["generateName"], "web-1-");
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "rs");
        assert_eq!(pod["metadata"]["ownerReferences"][0]["controller"], true);
        assert_eq!(pod["metadata"]["labels"]["app"], "web");
        assert_eq!(pod["metadata"]["annotations"]["a"], "b");
        assert_eq!(pod["spec"]["containers"][0]["image"], "i");
        assert!(pod["metadata"].get("finalizers").is_none());
    }
}
