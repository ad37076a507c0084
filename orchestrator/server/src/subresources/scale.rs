//! `/scale`: replicas of a workload as `autoscaling/v1 Scale`.

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use catamaran_api::field_error::{FieldError, Path};
use catamaran_api::kind::GroupVersionKind;
use catamaran_api::meta;
use catamaran_api::patch::apply::{parent_managers_to_scale, scale_managers_to_parent};
use catamaran_api::selector::LabelSelector;
use catamaran_api::status::Status;

use crate::body::Body;
use crate::context::Context;
use crate::options::WriteOptions;
use crate::registry::{self, Missing};
use crate::strategy::Part;
use crate::verbs::patch::Patch;
use crate::{encode, fields};

pub(crate) const KIND: GroupVersionKind =
    GroupVersionKind { group: "autoscaling", version: "v1", kind: "Scale" };

pub(crate) async fn get(context: &Context) -> Result<Response<Body>, Status> {
    let (_, object) = registry::load_object(context).await?;
    context.value(200, &of(&object))
}

pub(crate) async fn update(context: &Context, body: &Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(&context.query, "UpdateOptions")?;
    context.accepted()?;
    let mut scale = registry::decode_body(context, body, KIND, &options)?;
    registry::check_place(context, &mut scale)?;
    write(context, &options, |current| {
        let mut new = scale.clone();
        fields::scaled(context, KIND, (&mut new, current), &options)?;
        Ok(new)
    })
    .await
}

pub(crate) async fn patch(context: &Context, body: &Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(&context.query, "PatchOptions")?;
    context.accepted()?;
    let patch = Patch::parse(context, body, KIND, &options)?;
    write(context, &options, |current| {
        let patched = match &patch {
            Patch::Apply(wanted) => {
                let applied = fields::apply_scale(context, KIND, (current, wanted), &options)?;
                return registry::normalize(context, applied, KIND, &options);
            }
            // The few fields of a Scale have no lists: both merges are the same.
            Patch::Strategic(wanted) => {
                catamaran_api::patch::merge::apply(current, wanted).map_err(|error| error.to_status())?
            }
            other => other.apply(context, current, &options)?,
        };
        let mut new = registry::normalize(context, patched, KIND, &options)?;
        fields::scaled(context, KIND, (&mut new, current), &options)?;
        Ok(new)
    })
    .await
}

async fn write(
    context: &Context,
    options: &WriteOptions,
    change: impl Fn(&Value) -> Result<Value, Status>,
) -> Result<Response<Body>, Status> {
    // The books on fields are kept here: who owns the replicas of the Scale owns those of the workload.
    let options = WriteOptions { applies: true, ..options.clone() };
    let written = registry::update(context, (Part::Scale, Missing::Refuse), &options, |current| {
        let mut object = current.cloned().unwrap_or_default();
        let mut scale = change(&of(&object))?;
        registry::check_place(context, &mut scale)?;
        check(context, &scale)?;
        let managers = scale_managers_to_parent(&scale, &object, &context.resource.api_version());
        let owned = managers.as_array().is_some_and(|managers| !managers.is_empty());
        meta::set(&mut object, "managedFields", if owned { managers } else { Value::Null });
        for field in ["resourceVersion", "uid"] {
            let said = scale["metadata"][field].clone();
            meta::set(&mut object, field, said);
        }
        object["spec"]["replicas"] = scale["spec"]["replicas"].as_i64().unwrap_or(0).into();
        Ok(object)
    })
    .await?;
    let object = encode::decode(&written.bytes, written.revision).map_err(Status::internal_error)?;
    context.value(200, &of(&object))
}

fn check(context: &Context, scale: &Value) -> Result<(), Status> {
    let Some(replicas) = scale["spec"]["replicas"].as_i64().filter(|replicas| *replicas < 0) else {
        return Ok(());
    };
    let path = Path::root("spec.replicas");
    let error = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
    Err(Status::invalid(KIND.group, KIND.kind, context.name(), &[error]))
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
    let managers = parent_managers_to_scale(object);
    if managers.as_array().is_some_and(|managers| !managers.is_empty()) {
        scale["metadata"]["managedFields"] = managers;
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
