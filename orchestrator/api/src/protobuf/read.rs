//! Messages into JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use super::wire::{Reader, Wire};
use super::{ProtobufError, special};
use crate::schema::{self, Field, JSON_SCHEMA, Struct, Tagged, Type};

/// No object of the API comes near this; it keeps a hostile body from exhausting the stack.
const DEPTH: usize = 100;

/// Reads a message's fields.
pub(super) fn message(
    of: &'static Struct,
    bytes: &[u8],
    fields: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    nested(of, &[], bytes, fields, DEPTH)
}

/// Reads fields whose path of numbers starts with `path`; messages that JSON inlines go into the same object.
fn nested(
    of: &'static Struct,
    path: &[u8],
    bytes: &[u8],
    fields: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    let depth = depth.checked_sub(1).ok_or(ProtobufError::Depth)?;
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.next()? {
        let Ok(tag) = u8::try_from(tag) else { continue };
        match tagged(of, path, tag) {
            Tagged::Field(index) => one(&of.fields[usize::from(index)], wire, fields, depth)?,
            Tagged::Inlined => nested(of, &[path, &[tag]].concat(), wire.bytes()?, fields, depth)?,
            // A field of a newer version.
            Tagged::Unknown => {}
        }
    }
    Ok(())
}

fn tagged(of: &'static Struct, path: &[u8], tag: u8) -> Tagged {
    if path.is_empty() {
        return of.tagged(tag);
    }
    let below = |field: &Field| {
        let rest = field.tags.strip_prefix(path)?.strip_prefix(&[tag])?;
        Some(rest.first().is_none_or(|next| *next == 0))
    };
    let found = of.fields.iter().enumerate().find_map(|(index, field)| Some((index, below(field)?)));
    match found {
        Some((index, true)) => u8::try_from(index).map_or(Tagged::Unknown, Tagged::Field),
        Some((_, false)) => Tagged::Inlined,
        None => Tagged::Unknown,
    }
}

fn one(
    field: &'static Field,
    wire: Wire<'_>,
    fields: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    match field.ty {
        Type::List(_) => {
            let item = field.ty.item().unwrap_or(Type::Json);
            let entry = fields.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = entry else { return Ok(()) };
            list_item(field.name, item, wire, items, depth)
        }
        Type::Map(_) => {
            let item = field.ty.item().unwrap_or(Type::Json);
            let entry = fields.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(entries) = entry else { return Ok(()) };
            map_entry(field.name, item, wire, entries, depth)
        }
        ty => {
            // A later occurrence takes the place of an earlier one.
            fields.remove(field.name);
            if let Some(value) = value(field.name, ty, wire, depth)?.filter(|value| !field.leaves_out(value))
            {
                fields.insert(field.name.to_owned(), value);
            }
            Ok(())
        }
    }
}

fn list_item(
    name: &'static str,
    item: Type,
    wire: Wire<'_>,
    items: &mut Vec<Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    if let (Wire::Bytes(bytes), Type::Int32 | Type::Int64 | Type::Bool) = (wire, item) {
        let mut reader = Reader::new(bytes);
        while let Some(number) = reader.packed()? {
            items.extend(value(name, item, Wire::Varint(number), depth)?);
        }
        return Ok(());
    }
    items.extend(value(name, item, wire, depth)?);
    Ok(())
}

fn map_entry(
    name: &'static str,
    item: Type,
    wire: Wire<'_>,
    entries: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    let mut key = "";
    let mut content = None;
    let mut reader = Reader::new(wire.bytes()?);
    while let Some((tag, value)) = reader.next()? {
        match tag {
            1 => key = value.text(name)?,
            2 => content = Some(value),
            _ => {}
        }
    }
    let value = value(name, item, content.unwrap_or(Wire::Bytes(&[])), depth)?;
    entries.insert(key.to_owned(), value.unwrap_or(Value::Null));
    Ok(())
}

fn value(name: &'static str, ty: Type, wire: Wire<'_>, depth: usize) -> Result<Option<Value>, ProtobufError> {
    let wrong = |wanted| ProtobufError::Value { field: name, wanted };
    Ok(Some(match ty {
        Type::String => wire.text(name)?.into(),
        Type::Bytes => STANDARD.encode(wire.bytes()?).into(),
        Type::Bool => (wire.integer()? != 0).into(),
        Type::Int32 => i32::try_from(wire.integer()?).map_err(|_| wrong("32-bit number"))?.into(),
        Type::Int64 => wire.integer()?.into(),
        Type::Double => match wire {
            Wire::Fixed64(bits) => {
                Value::Number(Number::from_f64(f64::from_bits(bits)).ok_or_else(|| wrong("number"))?)
            }
            _ => return Err(wrong("number")),
        },
        Type::Time => return special::read_time(wire.bytes()?, name, false),
        Type::MicroTime => return special::read_time(wire.bytes()?, name, true),
        Type::Duration => special::read_duration(wire.bytes()?)?,
        Type::Quantity => special::read_quantity(wire.bytes()?, name)?,
        Type::IntOrString => special::read_int_or_string(wire.bytes()?, name)?,
        Type::Raw | Type::Fields | Type::Json => return special::read_raw(wire.bytes()?),
        Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings => {
            return schema_or(name, ty, wire, depth).map(Some);
        }
        Type::Struct(_) => {
            let mut fields = Map::new();
            let of = ty.as_struct().ok_or(ProtobufError::Malformed)?;
            nested(of, &[], wire.bytes()?, &mut fields, depth)?;
            Value::Object(fields)
        }
        // A list as the value of a map is a message of its own with the items in field 1 (`ExtraValue`).
        Type::List(_) => {
            let mut items = Vec::new();
            let mut reader = Reader::new(wire.bytes()?);
            while let Some((tag, item)) = reader.next()? {
                if tag == 1 {
                    list_item(name, ty.item().unwrap_or(Type::Json), item, &mut items, depth)?;
                }
            }
            Value::Array(items)
        }
        Type::Map(_) => return Err(wrong("map")),
    }))
}

/// The unions in the schema of a custom resource definition.
fn schema_or(name: &'static str, ty: Type, wire: Wire<'_>, depth: usize) -> Result<Value, ProtobufError> {
    let schema_type = schema::named(JSON_SCHEMA).map_or(Type::Json, Struct::as_type);
    let (schema_tag, other_tag) = if ty == Type::SchemaOrBool { (2, 1) } else { (1, 2) };
    let mut found = None;
    let mut allows = false;
    let mut items = Vec::new();
    let mut reader = Reader::new(wire.bytes()?);
    while let Some((tag, wire)) = reader.next()? {
        if tag == schema_tag {
            found = value(name, schema_type, wire, depth)?;
        } else if tag == other_tag {
            match ty {
                Type::SchemaOrBool => allows = wire.integer()? != 0,
                Type::SchemaOrArray => items.extend(value(name, schema_type, wire, depth)?),
                _ => items.extend(value(name, Type::String, wire, depth)?),
            }
        }
    }
    Ok(found.unwrap_or(if ty == Type::SchemaOrBool { Value::Bool(allows) } else { Value::Array(items) }))
}
