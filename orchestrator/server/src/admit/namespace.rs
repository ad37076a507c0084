//! Namespaces: nothing is created in a missing or ending one, and the initial ones stay.

use serde_json::Value;

use catamaran_api::meta;
use catamaran_api::status::{GroupResource, Status};

use super::look_up;
use crate::context::Context;

const PROTECTED: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Refuses a new object in a namespace that is missing or ends.
pub(super) async fn exists(context: &Context, object: &Value) -> Result<(), Status> {
    let Some(name) = context.namespace() else { return Ok(()) };
    let Some(namespace) = look_up(context, ("", "v1", "namespaces"), None, name).await? else {
        return Err(Status::not_found(GroupResource::new("", "namespaces"), name));
    };
    if !meta::is_being_deleted(&namespace) {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {name} because it is being terminated");
    let status = Status::forbidden(context.group_resource(), meta::name(object), &why);
    let cause = format!("namespace {name} is being terminated");
    Err(status.with_cause("NamespaceTerminating", cause, "metadata.namespace"))
}

/// Refuses the deletion of a namespace that every cluster has.
pub(super) fn deletable(context: &Context) -> Result<(), Status> {
    let namespaces = context.stored.group.is_empty() && context.stored.plural == "namespaces";
    if namespaces && PROTECTED.contains(&context.name()) {
        return Err(Status::forbidden(
            context.group_resource(),
            context.name(),
            "this namespace may not be deleted",
        ));
    }
    Ok(())
}
