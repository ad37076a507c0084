//! `/scale`: replicas of a workload as `autoscaling/v1 Scale`.

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use catamaran_api::custom::ScalePaths;
use catamaran_api::field_error::{FieldError, Path};
use catamaran_api::kind::GroupVersionKind;
use catamaran_api::meta;
use catamaran_api::patch::apply::{parent_managers_to_scale, scale_managers_to_parent};
use catamaran_api::selector::LabelSelector;
use catamaran_api::status::Status;

use crate::body::Body;
use crate::context::Context;
use crate::custom;
use crate::fields;
use crate::options::WriteOptions;
use crate::registry::{self, Missing};
use crate::strategy::Part;
use crate::verbs::patch::Patch;

pub(crate) const KIND: GroupVersionKind =
    GroupVersionKind { group: "autoscaling", version: "v1", kind: "Scale" };

pub(crate) async fn get(context: &Context) -> Result<Response<Body>, Status> {
    let (entry, object) = registry::load_object(context).await?;
    if context.custom.is_none() {
        return context.value(200, &of(context, &object));
    }
    let bytes = custom::convert::bytes(context, entry.value).await?;
    let object = context.decode(&bytes, entry.mod_revision)?;
    if let Some(paths) = paths(context).filter(|paths| at(&object, &paths.replicas).is_none()) {
        let path = &paths.replicas;
        return Err(Status::internal_error(format!("the spec replicas field {path:?} does not exist")));
    }
    context.value(200, &of(context, &object))
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
        let mut scale = change(&of(context, &object))?;
        registry::check_place(context, &mut scale)?;
        check(context, &scale)?;
        let managers = scale_managers_to_parent(&scale, &object, &context.resource.api_version());
        let owned = managers.as_array().is_some_and(|managers| !managers.is_empty());
        meta::set(&mut object, "managedFields", if owned { managers } else { Value::Null });
        for field in ["resourceVersion", "uid"] {
            let said = scale["metadata"][field].clone();
            meta::set(&mut object, field, said);
        }
        set_replicas(context, &mut object, scale["spec"]["replicas"].as_i64().unwrap_or(0).into());
        Ok(object)
    })
    .await?;
    let object = context.decode(&written.bytes, written.revision)?;
    context.value(200, &of(context, &object))
}

/// Where a custom resource has its numbers.
fn paths(context: &Context) -> Option<&ScalePaths> {
    context.custom.as_ref()?.version().scale.as_ref()
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.trim_start_matches('.').split('.')
}

fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    parts(path).try_fold(object, |value, part| value.get(part)).filter(|value| !value.is_null())
}

fn put(object: &mut Value, path: &str, replicas: Value) {
    let mut slot = object;
    for part in parts(path) {
        if !slot.is_object() {
            *slot = json!({});
        }
        slot = &mut slot[part];
    }
    *slot = replicas;
}

/// Sets the replicas of the object that is scaled.
pub(crate) fn set_replicas(context: &Context, object: &mut Value, replicas: Value) {
    match paths(context) {
        Some(paths) => put(object, &paths.replicas, replicas),
        None => object["spec"]["replicas"] = replicas,
    }
}

/// The Scale of an object.
pub(crate) fn of(context: &Context, object: &Value) -> Value {
    match paths(context) {
        Some(paths) => of_custom(paths, object),
        None => of_workload(object),
    }
}

fn of_custom(paths: &ScalePaths, object: &Value) -> Value {
    let number = |path: &str| at(object, path).and_then(Value::as_i64).unwrap_or(0);
    let mut scale = bare(object, number(&paths.replicas), number(&paths.status_replicas));
    let selector = paths.selector.as_deref().and_then(|path| at(object, path)?.as_str());
    if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

fn bare(object: &Value, replicas: i64, present: i64) -> Value {
    let metadata = &object["metadata"];
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {},
        "status": {"replicas": present},
    });
    if metadata["namespace"].is_string() {
        scale["metadata"]["namespace"] = metadata["namespace"].clone();
    }
    if replicas != 0 {
        scale["spec"]["replicas"] = replicas.into();
    }
    let managers = parent_managers_to_scale(object);
    if managers.as_array().is_some_and(|managers| !managers.is_empty()) {
        scale["metadata"]["managedFields"] = managers;
    }
    scale
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
fn of_workload(object: &Value) -> Value {
    let selector = &object["spec"]["selector"];
    // Replication controllers have a plain map.
    let plain = object["kind"] == "ReplicationController";
    let selector =
        if plain { LabelSelector::from_map(selector) } else { LabelSelector::from_value(selector) };
    let number = |part: &str| object[part]["replicas"].as_i64().unwrap_or(0);
    let mut scale = bare(object, number("spec"), number("status"));
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
        let scale = of_workload(&object);
        assert_eq!(scale["metadata"]["uid"], "u");
        assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&3.into(), &2.into()));
        assert_eq!(scale["status"]["selector"], "a=b");
    }

    #[test]
    fn a_custom_resource_says_where_its_numbers_are() {
        let paths = ScalePaths {
            replicas: ".spec.size.wanted".into(),
            status_replicas: ".status.size".into(),
            selector: Some(".status.selector".into()),
        };
        let mut object = json!({"metadata": {"name": "a"}, "status": {"size": 2, "selector": "a=b"}});
        put(&mut object, &paths.replicas, 4.into());
        assert_eq!(object["spec"]["size"]["wanted"], 4);
        let scale = of_custom(&paths, &object);
        assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&4.into(), &2.into()));
        assert_eq!((&scale["status"]["selector"], scale["metadata"].get("namespace")), (&"a=b".into(), None));
    }
}
