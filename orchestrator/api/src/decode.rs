//! Bodies into objects: one pass over the tokens that checks types, drops what the schema does not know, notes duplicates and brings the
//! result into the form in which Kubernetes writes it (zero values of optional fields left out, quantities and times canonical).

use std::fmt;

use serde::de::DeserializeSeed;
use serde_json::{Map, Value};

use crate::kind::{self, GroupVersionKind, Resource};
use crate::schema::{self, Struct, Type};
use crate::{depth, protobuf, yaml};

mod any;
mod custom;
mod node;
mod place;
mod scalar;

pub use custom::{decode_custom, normalize_custom};

use any::Any;
use node::Node;
use place::Place;

/// The encoding of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContentType {
    /// `application/json`; also what a missing header means.
    #[default]
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

impl ContentType {
    /// Reads a `Content-Type` header; parameters such as a charset do not matter. `None` for anything else.
    pub fn parse(header: &str) -> Option<ContentType> {
        match header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "" | "application/json" => Some(ContentType::Json),
            "application/yaml" | "application/x-yaml" | "text/yaml" => Some(ContentType::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(ContentType::Protobuf),
            _ => None,
        }
    }
}

/// What becomes of unknown and duplicate fields (`fieldValidation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strictness {
    /// Dropped in silence.
    Ignore,
    /// Dropped with a warning.
    #[default]
    Warn,
    /// Refused.
    Strict,
}

impl Strictness {
    /// Reads the query parameter `fieldValidation`; empty means the default.
    pub fn parse(text: &str) -> Option<Strictness> {
        match text {
            "Ignore" => Some(Strictness::Ignore),
            "" | "Warn" => Some(Strictness::Warn),
            "Strict" => Some(Strictness::Strict),
            _ => None,
        }
    }
}

/// An object and what there is to tell the client.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object, with `apiVersion` and `kind` filled in.
    pub object: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.replicas"`: one warning each.
    pub warnings: Vec<String>,
}

/// Why a body is no object of the wanted kind. The text is the message of the `BadRequest` that the client gets.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, YAML or protobuf, or not an object.
    #[error(
        "the object provided is unrecognized (must be of type {wanted}): couldn't get version/kind; {reason}"
    )]
    Syntax {
        /// Kind that was expected.
        wanted: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// `kind` names something else.
    #[error(
        "{kind} in version \"{version}\" cannot be handled as a {wanted}: the object's kind is {kind}, this address takes {wanted}"
    )]
    Kind {
        /// Kind in the body.
        kind: String,
        /// Group version in the body.
        version: String,
        /// Kind that was expected.
        wanted: &'static str,
    },
    /// `apiVersion` names another group version.
    #[error("the API version in the data ({found}) does not match the expected API version ({wanted})")]
    Version {
        /// In the body.
        found: String,
        /// In the address.
        wanted: String,
    },
    /// A field holds a value of a wrong type.
    #[error("{kind} in version \"{version}\" cannot be handled as a {kind}: {reason}")]
    Value {
        /// Kind of the object.
        kind: &'static str,
        /// Version without its group.
        version: &'static str,
        /// Names the field, what was found and what was wanted.
        reason: String,
    },
    /// Unknown or duplicate fields under [`Strictness::Strict`].
    #[error("{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding error: {}", findings.join(", "))]
    Strict {
        /// Kind of the object.
        kind: &'static str,
        /// Version without its group.
        version: &'static str,
        /// One text for each field.
        findings: Vec<String>,
    },
}

/// Decodes the body of a resource.
///
/// # Errors
/// The body is malformed, of another kind or version, has a value of a wrong type, or (strict) an unknown or duplicate field.
pub fn decode(
    body: &[u8],
    content_type: ContentType,
    resource: &Resource,
    strictness: Strictness,
) -> Result<Decoded, DecodeError> {
    decode_kind(body, content_type, resource.gvk(), strictness)
}

/// Decodes the body of a kind: also `Scale`, `Eviction`, `TokenRequest`, `Binding`, `DeleteOptions`.
///
/// # Errors
/// As [`decode`]; a kind that the schema table lacks is refused as a wrong kind.
pub fn decode_kind(
    body: &[u8],
    content_type: ContentType,
    wanted: GroupVersionKind,
    strictness: Strictness,
) -> Result<Decoded, DecodeError> {
    let mut context = Context::new(matches!(content_type, ContentType::Yaml));
    let target = target(wanted)?;
    let syntax = |reason: String| DecodeError::Syntax { wanted: wanted.kind, reason };
    let parsed = match content_type {
        ContentType::Json => json(body, Root { ty: target.as_type(), context: &mut context })
            .map_err(|e| syntax(format!("json parse error: {e}"))),
        ContentType::Yaml => {
            yaml::with(body, |de| Root { ty: target.as_type(), context: &mut context }.deserialize(de))
                .map_err(|e| syntax(format!("yaml parse error: {e}")))
        }
        ContentType::Protobuf => protobuf::decode(body).map(Some).map_err(|e| syntax(e.to_string())),
    };
    match parsed {
        Ok(value) => finish(value, wanted, context, strictness),
        Err(error) => {
            let Some(reason) = context.failure.take() else { return Err(error) };
            // A body of another kind has wrong types all over: say that it is another kind.
            if let Ok(Decoded { object, .. }) = untyped(body, content_type, Strictness::Ignore) {
                check_type_meta(&object, wanted)?;
            }
            Err(DecodeError::Value { kind: wanted.kind, version: wanted.version, reason })
        }
    }
}

/// Brings an object that is a value already (the result of a patch, an object made by the server) into the form that [`decode`] gives.
///
/// # Errors
/// As [`decode`]. Duplicates cannot be seen any more.
pub fn normalize(
    object: Value,
    wanted: GroupVersionKind,
    strictness: Strictness,
) -> Result<Decoded, DecodeError> {
    let mut context = Context::new(false);
    let target = target(wanted)?;
    check_type_meta(&object, wanted)?;
    let result: Result<_, serde_json::Error> =
        Root { ty: target.as_type(), context: &mut context }.deserialize(object);
    match result {
        Ok(value) => finish(value, wanted, context, strictness),
        Err(error) => {
            let reason = context.failure.take().unwrap_or_else(|| error.to_string());
            Err(DecodeError::Value { kind: wanted.kind, version: wanted.version, reason })
        }
    }
}

/// Drops in silence what the schema of the kind does not know.
///
/// # Errors
/// A value of a wrong type.
pub fn prune(object: Value, wanted: GroupVersionKind) -> Result<Value, DecodeError> {
    normalize(object, wanted, Strictness::Ignore).map(|decoded| decoded.object)
}

/// Decodes a body without a schema (custom resources, patches): values as they are, duplicates noted.
///
/// # Errors
/// The body is malformed, or (strict) has a duplicate field.
pub fn untyped(
    body: &[u8],
    content_type: ContentType,
    strictness: Strictness,
) -> Result<Decoded, DecodeError> {
    let mut context = Context::new(matches!(content_type, ContentType::Yaml));
    let syntax = |reason: String| DecodeError::Syntax { wanted: "object", reason };
    let seed = AnyRoot(&mut context);
    let object = match content_type {
        ContentType::Json => json(body, seed).map_err(|e| syntax(format!("json parse error: {e}")))?,
        ContentType::Yaml => yaml::with(body, |de| seed.deserialize(de))
            .map_err(|e| syntax(format!("yaml parse error: {e}")))?,
        ContentType::Protobuf => protobuf::decode(body).map_err(|e| syntax(e.to_string()))?,
    };
    check_depth(&object, "object")?;
    settle(object, GroupVersionKind { group: "", version: "", kind: "object" }, context, strictness)
}

fn target(wanted: GroupVersionKind) -> Result<&'static Struct, DecodeError> {
    schema::of_kind(wanted.group, wanted.version, wanted.kind).ok_or_else(|| DecodeError::Kind {
        kind: wanted.kind.to_owned(),
        version: wanted.api_version(),
        wanted: "known kind",
    })
}

fn json<'de, S: DeserializeSeed<'de>>(body: &'de [u8], seed: S) -> Result<S::Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

fn finish(
    value: Option<Value>,
    wanted: GroupVersionKind,
    context: Context,
    strictness: Strictness,
) -> Result<Decoded, DecodeError> {
    let mut object = value.unwrap_or_else(|| Value::Object(Map::new()));
    check_depth(&object, wanted.kind)?;
    check_type_meta(&object, wanted)?;
    if let Value::Object(fields) = &mut object {
        fields.insert("apiVersion".into(), wanted.api_version().into());
        fields.insert("kind".into(), wanted.kind.into());
    }
    settle(object, wanted, context, strictness)
}

/// JSON bodies have their limit in the parser; YAML, protobuf and patches may come to more.
fn check_depth(object: &Value, wanted: &'static str) -> Result<(), DecodeError> {
    if depth::of(object) <= depth::LIMIT {
        return Ok(());
    }
    let reason = format!("values are nested more than {} levels deep", depth::LIMIT);
    Err(DecodeError::Syntax { wanted, reason })
}

fn settle(
    object: Value,
    wanted: GroupVersionKind,
    context: Context,
    strictness: Strictness,
) -> Result<Decoded, DecodeError> {
    match strictness {
        Strictness::Strict if !context.findings.is_empty() => Err(DecodeError::Strict {
            kind: wanted.kind,
            version: wanted.version,
            findings: context.findings,
        }),
        Strictness::Ignore => Ok(Decoded { object, warnings: Vec::new() }),
        Strictness::Warn | Strictness::Strict => Ok(Decoded { object, warnings: context.findings }),
    }
}

/// Both fields may be missing; what is there must fit.
fn check_type_meta(object: &Value, wanted: GroupVersionKind) -> Result<(), DecodeError> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let expected = wanted.api_version();
    let version = text("apiVersion").unwrap_or(&expected);
    if let Some(kind) = text("kind").filter(|kind| *kind != wanted.kind) {
        return Err(DecodeError::Kind {
            kind: kind.to_owned(),
            version: version.to_owned(),
            wanted: wanted.kind,
        });
    }
    // Every group version registers the options of a deletion.
    if version != expected && !(wanted.kind == "DeleteOptions" && kind::split_api_version(version).is_some())
    {
        return Err(DecodeError::Version { found: version.to_owned(), wanted: expected });
    }
    Ok(())
}

/// More findings than this are not told.
const FINDINGS: usize = 100;

/// What is gathered on the way.
struct Context {
    findings: Vec<String>,
    failure: Option<String>,
    yaml: bool,
    /// Above zero inside values whose own decoder tells nothing (schemas in custom resource definitions).
    silent: usize,
}

impl Context {
    fn new(yaml: bool) -> Context {
        Context { findings: Vec::new(), failure: None, yaml, silent: 0 }
    }

    fn note(&mut self, what: &str, place: &Place<'_>, name: &str) {
        if self.silent > 0 || self.findings.len() >= FINDINGS {
            return;
        }
        self.note_path(what, &place.key(name).to_string());
    }

    fn note_path(&mut self, what: &str, path: &str) {
        if self.findings.len() >= FINDINGS {
            return;
        }
        let finding = format!("{what} field \"{path}\"");
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Remembers why decoding ends; the deserializer's own error is only the way out.
    fn fail<E: serde::de::Error>(&mut self, reason: String) -> E {
        let error = E::custom(&reason);
        self.failure.get_or_insert(reason);
        error
    }

    fn mismatch<E: serde::de::Error>(&mut self, found: &str, place: &Place<'_>, ty: Type) -> E {
        let wanted = TypeName(ty);
        let reason = if place.is_root() {
            format!("json: cannot unmarshal {found} into an object of type {wanted}")
        } else {
            format!("json: cannot unmarshal {found} into field {place} of type {wanted}")
        };
        self.fail(reason)
    }
}

struct Root<'c> {
    ty: Type,
    context: &'c mut Context,
}

impl<'de> DeserializeSeed<'de> for Root<'_> {
    type Value = Option<Value>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Node { ty: self.ty, place: &Place::ROOT, context: self.context }.deserialize(deserializer)
    }
}

struct AnyRoot<'c>(&'c mut Context);

impl<'de> DeserializeSeed<'de> for AnyRoot<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Any { place: Some(&Place::ROOT), context: self.0 }.deserialize(deserializer)
    }
}

/// A type in the words of an error message.
struct TypeName(Type);

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Type::String => "string",
            Type::Bytes => "base64 string",
            Type::Bool => "bool",
            Type::Int32 => "int32",
            Type::Int64 => "int64",
            Type::Double => "number",
            Type::Time | Type::MicroTime => "time (RFC 3339 string)",
            Type::Duration => "duration (string)",
            Type::Quantity => "quantity (string or number)",
            Type::IntOrString => "integer or string",
            Type::Raw | Type::Fields | Type::Map(_) => "object",
            Type::Json => "any",
            Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings => "schema (object)",
            Type::List(_) => "array",
            Type::Struct(_) => {
                return write!(f, "{} (object)", self.0.as_struct().map_or("", Struct::short_name));
            }
        })
    }
}
