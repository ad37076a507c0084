//! JSON into messages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::wire::{put_bytes, put_double, put_integer};
use super::{ProtobufError, special};
use crate::schema::{self, Field, JSON_SCHEMA, Struct, Type};

/// Writes the fields that the object has, by ascending number.
pub(super) fn message(
    of: &'static Struct,
    object: &Map<String, Value>,
    out: &mut Vec<u8>,
) -> Result<(), ProtobufError> {
    nested(of, &[], object, out)
}

/// Writes fields whose path of numbers starts with `path`, gathering what JSON inlines.
fn nested(
    of: &'static Struct,
    path: &[u8],
    object: &Map<String, Value>,
    out: &mut Vec<u8>,
) -> Result<(), ProtobufError> {
    let mut parts: Vec<(u8, Option<(&'static Field, &Value)>)> = Vec::new();
    for (name, value) in object {
        let Some(field) = of.field(name).filter(|_| !value.is_null()) else { continue };
        match field.tags.strip_prefix(path) {
            None | Some([] | [0, ..]) => {}
            Some([tag] | [tag, 0, ..]) => parts.push((*tag, Some((field, value)))),
            Some([tag, ..]) => parts.push((*tag, None)),
        }
    }
    parts.sort_by_key(|(tag, _)| *tag);
    parts.dedup_by_key(|(tag, _)| *tag);
    for (tag, part) in parts {
        match part {
            Some((field, value)) => field_value(field.name, field.ty, tag, value, out)?,
            None => {
                let mut inner = Vec::new();
                nested(of, &[path, &[tag]].concat(), object, &mut inner)?;
                put_bytes(out, tag, &inner);
            }
        }
    }
    Ok(())
}

fn field_value(
    name: &'static str,
    ty: Type,
    tag: u8,
    value: &Value,
    out: &mut Vec<u8>,
) -> Result<(), ProtobufError> {
    let wrong = |wanted| ProtobufError::Value { field: name, wanted };
    match ty {
        Type::List(_) => {
            let item = ty.item().unwrap_or(Type::Json);
            for element in value.as_array().ok_or_else(|| wrong("list"))? {
                one(name, item, tag, element, out)?;
            }
            Ok(())
        }
        Type::Map(_) => {
            let item = ty.item().unwrap_or(Type::Json);
            for (key, element) in value.as_object().ok_or_else(|| wrong("map"))? {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                one(name, item, 2, element, &mut entry)?;
                put_bytes(out, tag, &entry);
            }
            Ok(())
        }
        ty => one(name, ty, tag, value, out),
    }
}

fn one(name: &'static str, ty: Type, tag: u8, value: &Value, out: &mut Vec<u8>) -> Result<(), ProtobufError> {
    let wrong = |wanted| ProtobufError::Value { field: name, wanted };
    let text = || value.as_str().ok_or_else(|| wrong("text"));
    match ty {
        // Null stays where it is an element: no time, no embedded object.
        _ if value.is_null() && !ty.is_number() => put_bytes(out, tag, b""),
        Type::String => put_bytes(out, tag, text()?.as_bytes()),
        Type::Bytes => put_bytes(out, tag, &STANDARD.decode(text()?).map_err(|_| wrong("base64 text"))?),
        Type::Bool => put_integer(out, tag, i64::from(value.as_bool().ok_or_else(|| wrong("boolean"))?)),
        Type::Int32 | Type::Int64 => put_integer(out, tag, value.as_i64().ok_or_else(|| wrong("number"))?),
        Type::Double => put_double(out, tag, value.as_f64().ok_or_else(|| wrong("number"))?),
        Type::Time | Type::MicroTime => put_bytes(out, tag, &special::write_time(text()?, name)?),
        Type::Duration => put_bytes(out, tag, &special::write_duration(text()?, name)?),
        Type::Quantity => {
            let number;
            let text = if let Value::Number(n) = value {
                number = n.to_string();
                &number
            } else {
                text()?
            };
            let mut inner = Vec::new();
            put_bytes(&mut inner, 1, text.as_bytes());
            put_bytes(out, tag, &inner);
        }
        Type::IntOrString => put_bytes(out, tag, &special::write_int_or_string(value, name)?),
        Type::Raw | Type::Fields | Type::Json => put_bytes(out, tag, &special::write_raw(value)),
        Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings => {
            put_bytes(out, tag, &schema_or(name, ty, value)?);
        }
        Type::Struct(_) => {
            let mut inner = Vec::new();
            let of = ty.as_struct().ok_or_else(|| wrong("object"))?;
            message(of, value.as_object().ok_or_else(|| wrong("object"))?, &mut inner)?;
            put_bytes(out, tag, &inner);
        }
        Type::List(_) => {
            let mut inner = Vec::new();
            field_value(name, ty, 1, value, &mut inner)?;
            put_bytes(out, tag, &inner);
        }
        Type::Map(_) => return Err(wrong("map")),
    }
    Ok(())
}

/// The unions in the schema of a custom resource definition.
fn schema_or(name: &'static str, ty: Type, value: &Value) -> Result<Vec<u8>, ProtobufError> {
    let schema_type = schema::named(JSON_SCHEMA).map_or(Type::Json, Struct::as_type);
    let mut out = Vec::new();
    match (ty, value) {
        (Type::SchemaOrBool, Value::Bool(allows)) => put_integer(&mut out, 1, i64::from(*allows)),
        (Type::SchemaOrBool, schema) => {
            put_integer(&mut out, 1, 1);
            one(name, schema_type, 2, schema, &mut out)?;
        }
        (_, Value::Array(items)) => {
            let item = if ty == Type::SchemaOrArray { schema_type } else { Type::String };
            for element in items {
                one(name, item, 2, element, &mut out)?;
            }
        }
        (_, schema) => one(name, schema_type, 1, schema, &mut out)?,
    }
    Ok(out)
}
