//! Kubernetes' protobuf encoding, driven by the schema table: `k8s\0`, then `runtime.Unknown` with the kind and the message.
//! Every built-in kind that has a schema is read into the JSON form and written from it.

use serde_json::{Map, Value};

use crate::kind;
use crate::schema;

mod read;
mod special;
mod stream;
mod wire;
mod write;

pub use stream::{List, event};
use wire::Reader;

/// The first bytes of every body.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// Why bytes are no object, or an object cannot be bytes.
#[derive(Debug, thiserror::Error)]
pub enum ProtobufError {
    /// Other bytes at the start.
    #[error("the body does not start with the bytes of Kubernetes' protobuf encoding (k8s\\0)")]
    Magic,
    /// A length or number runs past the end.
    #[error("the protobuf message ends too early")]
    Truncated,
    /// Wire types that proto2 does not use any more, a field number of zero, or a number that is too long.
    #[error("the protobuf message is malformed")]
    Malformed,
    /// More levels than any object has.
    #[error("the protobuf message is nested too deeply")]
    Depth,
    /// Neither table nor message tell what it is.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    Kind {
        /// `apiVersion` in the envelope.
        api_version: String,
        /// `kind` in the envelope.
        kind: String,
    },
    /// A field's bytes do not fit its type.
    #[error("field {field} holds no {wanted}")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// What it should hold.
        wanted: &'static str,
    },
    /// Embedded JSON is malformed.
    #[error("embedded JSON is malformed")]
    Json(#[source] serde_json::Error),
}

/// Reads a body into the JSON form, with `apiVersion` and `kind`.
///
/// # Errors
/// The bytes are malformed, or of a kind without a schema.
pub fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = body.strip_prefix(&MAGIC).ok_or(ProtobufError::Magic)?;
    let mut api_version = String::new();
    let mut kind = String::new();
    let mut content_type = "";
    let mut raw: &[u8] = &[];
    let mut reader = Reader::new(envelope);
    while let Some((tag, value)) = reader.next()? {
        match tag {
            1 => {
                let mut type_meta = Reader::new(value.bytes()?);
                while let Some((tag, value)) = type_meta.next()? {
                    match tag {
                        1 => value.text("apiVersion")?.clone_into(&mut api_version),
                        2 => value.text("kind")?.clone_into(&mut kind),
                        _ => {}
                    }
                }
            }
            2 => raw = value.bytes()?,
            4 => content_type = value.text("contentType")?,
            _ => {}
        }
    }
    if content_type == "application/json" {
        return serde_json::from_slice(raw).map_err(ProtobufError::Json);
    }
    let of = struct_of(&api_version, &kind)?;
    let mut fields = Map::new();
    read::message(of, raw, &mut fields)?;
    fields.insert("apiVersion".into(), api_version.into());
    fields.insert("kind".into(), kind.into());
    Ok(Value::Object(fields))
}

/// Writes an object with its envelope; fields without a schema are left out.
///
/// # Errors
/// The object's kind has no schema, or a field holds a value of a wrong type.
pub fn encode(object: &Value) -> Result<Vec<u8>, ProtobufError> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let of = struct_of(api_version, kind)?;
    let mut raw = Vec::new();
    let no_fields = Map::new();
    write::message(of, object.as_object().unwrap_or(&no_fields), &mut raw)?;
    Ok(envelope(api_version, kind, &raw))
}

/// Whether objects of a kind have this encoding: those that come from definitions do not.
pub fn has(group: &str, version: &str, kind: &str) -> bool {
    schema::of_kind(group, version, kind).is_some()
}

/// `runtime.Unknown` around a message: 1 the kind, 2 the bytes, 3 and 4 empty as Go writes them.
fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut type_meta = Vec::new();
    wire::put_bytes(&mut type_meta, 1, api_version.as_bytes());
    wire::put_bytes(&mut type_meta, 2, kind.as_bytes());
    let mut body = Vec::with_capacity(raw.len() + type_meta.len() + 20);
    body.extend_from_slice(&MAGIC);
    wire::put_bytes(&mut body, 1, &type_meta);
    wire::put_bytes(&mut body, 2, raw);
    wire::put_bytes(&mut body, 3, b"");
    wire::put_bytes(&mut body, 4, b"");
    body
}

fn struct_of(api_version: &str, kind: &str) -> Result<&'static schema::Struct, ProtobufError> {
    // Bare metadata has no schema of its own; its one field has the number that it has in every object, and so
    // have the two fields of its list.
    let (group, version, named) = match (kind::split_api_version(api_version), kind) {
        (Some(("meta.k8s.io", _)), "PartialObjectMetadata") => ("", "v1", "ConfigMap"),
        (Some(("meta.k8s.io", _)), "PartialObjectMetadataList") => ("", "v1", "ConfigMapList"),
        (Some((group, version)), kind) => (group, version, kind),
        (None, kind) => ("", "", kind),
    };
    schema::of_kind(group, version, named)
        .ok_or_else(|| ProtobufError::Kind { api_version: api_version.to_owned(), kind: kind.to_owned() })
}
