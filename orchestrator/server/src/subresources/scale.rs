//! `/scale`: replicas of a workload as `autoscaling/v1 Scale`.

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use catamaran_api::custom::ScalePaths;
use catamaran_api::kind::GroupVersionKind;
use catamaran_api::meta;
use catamaran_api::selector::LabelSelector;
use catamaran_api::status::Status;

use crate::body::Body;
use crate::context::Context;
use crate::custom;
use crate::options::WriteOptions;
use crate::registry::{self, Missing};
use crate::strategy::Part;
use crate::verbs::patch::Patch;

const KIND: GroupVersionKind = GroupVersionKind { group: "autoscaling", version: "v1", kind: "Scale" };

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
        let scale = change(&of(context, &object))?;
        let version = meta::resource_version(&scale).to_owned();
        let version = if version.is_empty() { meta::resource_version(&object).to_owned() } else { version };
        meta::set(&mut object, "resourceVersion", version);
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        match paths(context) {
            Some(paths) => put(&mut object, &paths.replicas, replicas),
            None => object["spec"]["replicas"] = replicas.into(),
        }
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

fn put(object: &mut Value, path: &str, replicas: i64) {
    let mut slot = object;
    for part in parts(path) {
        if !slot.is_object() {
            *slot = json!({});
        }
        slot = &mut slot[part];
    }
    *slot = replicas.into();
}

/// The Scale of an object.
fn of(context: &Context, object: &Value) -> Value {
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
    scale
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
        put(&mut object, &paths.replicas, 4);
        assert_eq!(object["spec"]["size"]["wanted"], 4);
        let scale = of_custom(&paths, &object);
        assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&4.into(), &2.into()));
        assert_eq!((&scale["status"]["selector"], scale["metadata"].get("namespace")), (&"a=b".into(), None));
    }
}
