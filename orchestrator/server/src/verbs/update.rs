//! PUT: a whole object, or one part of it.

use bytes::Bytes;
use http::Response;

use catamaran_api::status::Status;

use crate::body::Body;
use crate::context::Context;
use crate::options::WriteOptions;
use crate::registry::{self, Missing};
use crate::strategy::Part;

pub(crate) async fn update(context: &Context, part: Part, body: &Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(&context.query, "UpdateOptions")?;
    context.accepted()?;
    let mut object = registry::decode_body(context, body, context.resource.gvk(), &options)?;
    registry::check_place(context, &mut object)?;
    let creates = context.resource.create_on_update && part == Part::Main;
    let missing = if creates { Missing::Create } else { Missing::Refuse };
    let written = registry::update(context, (part, missing), &options, |_| Ok(object.clone())).await?;
    written.respond(context, 200)
}
