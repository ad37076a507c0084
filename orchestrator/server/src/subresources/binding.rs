//! `pods/NAME/binding` and the older `bindings`: puts a pod on a node.

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use tracing::Instrument;

use catamaran_api::kind::{self, GroupVersionKind};
use catamaran_api::status::Status;
use catamaran_api::{meta, time};

use crate::admit;
use crate::body::Body;
use crate::context::Context;
use crate::options::WriteOptions;
use crate::registry::{self, Missing};
use crate::strategy::Part;

const KIND: GroupVersionKind = GroupVersionKind { group: "", version: "v1", kind: "Binding" };

pub(crate) async fn create(context: &Context, body: &Bytes) -> Result<Response<Body>, Status> {
    bind(context, body).instrument(tracing::info_span!("bind")).await
}

async fn bind(context: &Context, body: &Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(&context.query, "CreateOptions")?;
    let mut binding = registry::decode_body(context, body, KIND, &options)?;
    let name =
        if context.name().is_empty() { meta::name(&binding).to_owned() } else { context.name().to_owned() };
    if binding["target"]["name"].as_str().is_none_or(str::is_empty) {
        return Err(Status::bad_request("a binding needs target.name, the name of a node"));
    }
    let Some(pods) = kind::find("", "v1", "pods") else { return Err(Status::no_such_resource()) };
    let pod = context.about(pods, context.request.namespace.as_deref(), Some(&name));
    let asked = (admit::Operation::Create, "binding");
    admit::act(&pod, asked, (KIND, &mut binding), options.dry_run).await?;
    let change = |current: Option<&Value>| {
        let mut new = current.cloned().unwrap_or_default();
        place(&pod, &mut new, &binding)?;
        Ok(new)
    };
    registry::update(&pod, (Part::Binding, Missing::Refuse), &options, change).await?;
    let done =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(context.plain(201, &done))
}

/// Sets the node of a pod that has none.
fn place(context: &Context, pod: &mut Value, binding: &Value) -> Result<(), Status> {
    let refuse = |why: String| Status::conflict(context.group_resource(), context.name(), &why);
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    let uid = meta::uid(binding);
    if !uid.is_empty() && uid != meta::uid(pod) {
        return Err(Status::uid_precondition(context.group_resource(), context.name(), uid, meta::uid(pod)));
    }
    if meta::is_being_deleted(pod) {
        return Err(refuse(format!("pod {} is being deleted, cannot be assigned to a host", context.name())));
    }
    let present = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if !present.is_empty() {
        return Err(refuse(format!("pod {} is already assigned to node \"{present}\"", context.name())));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(refuse(format!("pod {} has non-empty .spec.schedulingGates", context.name())));
    }
    pod["spec"]["nodeName"] = node.into();
    for (key, value) in binding["metadata"]["annotations"].as_object().into_iter().flatten() {
        meta::set_annotation(pod, key, value.as_str().unwrap_or_default());
    }
    scheduled(pod, &time::format(context.now));
    Ok(())
}

/// The condition that says so.
fn scheduled(pod: &mut Value, now: &str) {
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
    });
    let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.retain(|condition| condition["type"] != "PodScheduled");
    conditions.push(condition);
    pod["status"]["conditions"] = conditions.into();
}
