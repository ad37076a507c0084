//! DELETE of a collection: every selected object, each on its own; the answer is the list of what was there.

use bytes::Bytes;
use http::Response;

use catamaran_api::kind;
use catamaran_api::status::{Reason, Status};

use super::{delete, list};
use crate::body::Body;
use crate::context::Context;
use crate::keys;
use crate::options::ListOptions;

pub(crate) async fn delete_collection(context: &Context, body: &Bytes) -> Result<Response<Body>, Status> {
    if !context.resource.allows(kind::Verb::DeleteCollection) {
        return Err(Status::method_not_supported(context.group_resource(), "deletecollection"));
    }
    let options = delete::options(context, body)?;
    let selected = ListOptions::parse(&context.query, context.resource, false)?;
    let accepted = context.accepted()?;
    let found = list::find(context, &selected).await?;
    let prefix = keys::all(context.stored);
    for entry in &found.entries {
        let path = entry.key.strip_prefix(&prefix).unwrap_or_default();
        let (namespace, name) = match path.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, path),
        };
        let one = context.about(context.resource, namespace, Some(name));
        match delete::delete_object(&one, &options).await {
            Err(status) if status.reason != Some(Reason::NotFound) => return Err(status),
            _ => {}
        }
    }
    list::answer(context, accepted, &found)
}
