//! Bodies of custom resources: values as they are, metadata like that of every object, the rest pruned by the
//! structural schema.

use serde::de::DeserializeSeed;
use serde_json::{Map, Value};

use super::node::Node;
use super::{AnyRoot, ContentType, Context, DecodeError, Decoded, Place, Strictness};
use super::{check_depth, check_type_meta, json, settle};
use crate::custom::{self, Schema};
use crate::kind::{GroupVersionKind, Resource};
use crate::{schema, yaml};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Decodes the body of a custom resource. Defaults are not filled in.
///
/// # Errors
/// The body is malformed, of another kind or version, has malformed metadata, or (strict) an unknown or duplicate
/// field. Values are judged by [`custom::validate`].
pub fn decode_custom(
    body: &[u8],
    content_type: ContentType,
    (resource, schema): (&Resource, &Schema),
    strictness: Strictness,
) -> Result<Decoded, DecodeError> {
    let mut context = Context::new(matches!(content_type, ContentType::Yaml));
    let wanted = resource.gvk();
    let syntax = |reason: String| DecodeError::Syntax { wanted: wanted.kind, reason };
    let seed = AnyRoot(&mut context);
    let object = match content_type {
        ContentType::Json => json(body, seed).map_err(|e| syntax(format!("json parse error: {e}")))?,
        ContentType::Yaml => yaml::with(body, |de| seed.deserialize(de))
            .map_err(|e| syntax(format!("yaml parse error: {e}")))?,
        ContentType::Protobuf => return Err(syntax("custom resources have no protobuf form".to_owned())),
    };
    finish(object, (wanted, schema), context, strictness)
}

/// Brings the result of a patch of a custom resource into the form that [`decode_custom`] gives.
///
/// # Errors
/// As [`decode_custom`]. Duplicates cannot be seen any more.
pub fn normalize_custom(
    object: Value,
    (resource, schema): (&Resource, &Schema),
    strictness: Strictness,
) -> Result<Decoded, DecodeError> {
    finish(object, (resource.gvk(), schema), Context::new(false), strictness)
}

fn finish(
    mut object: Value,
    (wanted, schema): (GroupVersionKind, &Schema),
    mut context: Context,
    strictness: Strictness,
) -> Result<Decoded, DecodeError> {
    if !object.is_object() {
        let reason = "the body is no object".to_owned();
        return Err(DecodeError::Syntax { wanted: wanted.kind, reason });
    }
    check_depth(&object, wanted.kind)?;
    check_type_meta(&object, wanted)?;
    for path in custom::prune(schema, &mut object) {
        context.note_path("unknown", &path);
    }
    let mut coerced = Ok(());
    if let Value::Object(fields) = &mut object {
        fields.insert("apiVersion".into(), wanted.api_version().into());
        fields.insert("kind".into(), wanted.kind.into());
        coerced = metadata(fields, &Place::ROOT, &mut context);
    }
    let coerced = coerced.and_then(|()| {
        custom::embedded_metadata(schema, &mut object, "", &mut |path, fields| {
            if path.is_empty() {
                return Ok(());
            }
            metadata(fields, &Place::ROOT.key(path), &mut context)
        })
    });
    if let Err(error) = coerced {
        let reason = context.failure.take().unwrap_or_else(|| error.to_string());
        return Err(DecodeError::Value { kind: wanted.kind, version: wanted.version, reason });
    }
    settle(object, wanted, context, strictness)
}

/// Reads `metadata` as every object has it.
fn metadata(
    fields: &mut Map<String, Value>,
    place: &Place<'_>,
    context: &mut Context,
) -> Result<(), serde_json::Error> {
    let Some(found) = fields.remove("metadata") else { return Ok(()) };
    let Some(ty) = schema::named(OBJECT_META).map(schema::Struct::as_type) else { return Ok(()) };
    let place = place.key("metadata");
    let read: Option<Value> = Node { ty, place: &place, context }.deserialize(found)?;
    if let Some(read) = read {
        fields.insert("metadata".into(), read);
    }
    Ok(())
}
