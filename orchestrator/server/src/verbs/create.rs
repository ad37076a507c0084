//! POST to a collection.

use bytes::Bytes;
use http::Response;

use catamaran_api::status::Status;

use crate::body::Body;
use crate::context::Context;
use crate::options::WriteOptions;
use crate::registry;

pub(crate) async fn create(context: &Context, body: &Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(&context.query, "CreateOptions")?;
    context.accepted()?;
    let object = registry::decode_body(context, body, context.resource.gvk(), &options)?;
    let written = registry::create(context, object, &options).await?;
    written.respond(context, 201)
}
