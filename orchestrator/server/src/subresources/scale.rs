//! `/scale`: replicas of a workload as `autoscaling/v1 Scale`.

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use catamaran_api::kind::GroupVersionKind;
use catamaran_api::meta;
use catamaran_api::selector::LabelSelector;
use catamaran_api::status::Status;

use crate::body::Body;
use crate::context::Context;
use crate::encode;
use crate::options::WriteOptions;
use crate::registry::{self, Missing};
use crate::strategy::Part;
use crate::verbs::patch::Patch;

pub(crate) const KIND: GroupVersionKind =
    GroupVersionKind { group: "autoscaling", version: "v1", kind: "Scale" };

pub(crate) async fn get(context: &Context) -> Result<Response<Body>, Status> {
    let (_, object) = registry::load_object(context).await?;
    context.value(200, &of(&object))
}

pub(crate) async fn update(context: &Context, body: &Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(&context.query, "UpdateOptions")?;
    let mut scale = registry::decode_body(context, body, KIND, &options)?;
    registry::check_place(context, &mut scale)?;
    write(context, &options, |_| Ok(scale.clone())).await
}

pub(crate) async fn patch(context: &Context, body: &Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(&context.query, "PatchOptions")?;
    let patch = Patch::parse(context, body, KIND, &options)?;
    write(context, &options, |current| {
        let patched = match &patch {
            // The few fields of a Scale have no lists: both merges are the same.
            Patch::Strategic(wanted) | Patch::Apply(wanted) => {
                catamaran_api::patch::merge::apply(current, wanted).map_err(|error| error.to_status())?
            }
            other => other.apply(context, current, &options)?,
        };
        registry::normalize(context, patched, KIND, &options)
    })
    .await
}

async fn write(
    context: &Context,
    options: &WriteOptions,
    change: impl Fn(&Value) -> Result<Value, Status>,
) -> Result<Response<Body>, Status> {
    let written = registry::update(context, (Part::Scale, Missing::Refuse), options, |current| {
        let mut object = current.cloned().unwrap_or_default();
        let scale = change(&of(&object))?;
        let version = meta::resource_version(&scale).to_owned();
        meta::set(&mut object, "resourceVersion", version);
        object["spec"]["replicas"] = scale["spec"]["replicas"].as_i64().unwrap_or(0).into();
        Ok(object)
    })
    .await?;
    let object = encode::decode(&written.bytes, written.revision).map_err(Status::internal_error)?;
    context.value(200, &of(&object))
}

/// The Scale of a workload.
pub(crate) fn of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let selector = &object["spec"]["selector"];
    // Replication controllers have a plain map.
    let plain = object["kind"] == "ReplicationController";
    let selector =
        if plain { LabelSelector::from_map(selector) } else { LabelSelector::from_value(selector) };
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)},
    });
    if let Some(replicas) = object["spec"]["replicas"].as_i64().filter(|replicas| *replicas != 0) {
        scale["spec"]["replicas"] = replicas.into();
    }
    if let Ok(selector) = selector {
        scale["status"]["selector"] = selector.to_string().into();
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_has_the_parents_identity() {
        let object = json!({
            "kind": "Deployment", "metadata": {"name": "d", "namespace": "n", "uid": "u", "resourceVersion": "5"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}}, "status": {"replicas": 2},
        });
        let scale = of(&object);
        assert_eq!(scale["metadata"]["uid"], "u");
        assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&3.into(), &2.into()));
        assert_eq!(scale["status"]["selector"], "a=b");
    }
}
