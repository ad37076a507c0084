//! GET of one object.

use http::Response;

use catamaran_api::status::Status;

use crate::body::Body;
use crate::context::Context;
use crate::options::ListOptions;
use crate::{custom, error, registry};

/// Serves the stored bytes, or the shape that is asked for.
pub(crate) async fn get(context: &Context) -> Result<Response<Body>, Status> {
    if let Some(asked) = ListOptions::parse(&context.query, context.resource, false)?.resource_version {
        let current = context.core.store.revision();
        if asked > current {
            return Err(Status::too_large_resource_version(asked, current));
        }
    }
    let entry = registry::load(context).await?;
    let entry = entry.ok_or_else(|| Status::not_found(context.group_resource(), context.name()))?;
    let bytes = custom::convert::bytes(context, entry.value).await?;
    context.stored(200, &bytes, entry.mod_revision)
}

/// The same for the few kinds that are computed: an empty answer is "not found".
pub(crate) fn missing(context: &Context) -> Result<Response<Body>, Status> {
    Ok(error::response(&Status::not_found(context.group_resource(), context.name())))
}
