//! What a schema does to a write: pruning at decoding, defaults, validation. For built-in kinds these do what they
//! always did.

use serde_json::Value;

use catamaran_api::custom::{self, Schema};
use catamaran_api::decode::{self, ContentType, DecodeError, Decoded, Strictness};
use catamaran_api::defaults;
use catamaran_api::field_error::FieldError;
use catamaran_api::kind::GroupVersionKind;
use catamaran_api::status::Status;

use crate::context::Context;
use crate::strategy::Part;

/// The schema, when a body of this kind is a custom resource of the request.
fn schema_of(context: &Context, kind: GroupVersionKind) -> Option<&Schema> {
    let custom = context.custom.as_ref().filter(|custom| custom.resource.gvk() == kind)?;
    Some(&custom.version().schema)
}

/// Decodes a body of a kind.
pub(crate) fn decode(
    context: &Context,
    body: &[u8],
    content_type: ContentType,
    (kind, strictness): (GroupVersionKind, Strictness),
) -> Result<Decoded, DecodeError> {
    match schema_of(context, kind) {
        Some(schema) => decode::decode_custom(body, content_type, (context.resource, schema), strictness),
        None => decode::decode_kind(body, content_type, kind, strictness),
    }
}

/// Brings the result of a patch into the form of a decoded body.
pub(crate) fn normalize(
    context: &Context,
    object: Value,
    kind: GroupVersionKind,
    strictness: Strictness,
) -> Result<Decoded, DecodeError> {
    match schema_of(context, kind) {
        Some(schema) => decode::normalize_custom(object, (context.resource, schema), strictness),
        None => decode::normalize(object, kind, strictness),
    }
}

/// Fills in the defaults of the version that is asked for.
pub(crate) fn fill(context: &Context, object: &mut Value) {
    match &context.custom {
        Some(custom) => custom::default(&custom.version().schema, object),
        None => defaults::apply(context.resource, object),
    }
}

/// What the schema says against a new object.
pub(crate) fn check_create(context: &Context, object: &Value) -> Vec<FieldError> {
    check(context, object, None)
}

/// What the schema says against a changed object. What is gone once it is written need not be right.
pub(crate) fn check_update(context: &Context, _part: Part, new: &Value, old: &Value) -> Vec<FieldError> {
    check(context, new, Some(old))
}

fn check(context: &Context, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let Some(custom) = &context.custom else { return Vec::new() };
    let version = custom.version();
    let mut errors = custom::validate(&version.schema, new, old);
    if let Some(paths) = &version.scale {
        errors.extend(custom::validate_scale(paths, new));
    }
    errors
}

/// Nothing is created while the definition is being deleted.
pub(crate) fn refuse_new(context: &Context) -> Result<(), Status> {
    match &context.custom {
        Some(custom) if custom.definition.terminating => {
            let mut status = Status::method_not_supported(context.group_resource(), "create");
            status.message = "create not allowed while custom resource definition is terminating".into();
            Err(status)
        }
        _ => Ok(()),
    }
}
