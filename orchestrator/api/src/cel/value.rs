//! Values of the language.

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::json::{Typing, read, unescape};
use crate::quantity::Quantity;

/// A value.
#[derive(Clone)]
pub enum Val<'a> {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number without a sign.
    Uint(u64),
    /// A number.
    Double(f64),
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes.
    Bytes(Rc<[u8]>),
    /// A list that an expression made.
    List(Rc<Vec<Val<'a>>>),
    /// A map that an expression made.
    Map(Rc<Vec<(Val<'a>, Val<'a>)>>),
    /// A list in an object.
    JsonList(&'a [Value], Option<&'a dyn Typing>),
    /// A map or object in an object.
    JsonMap(&'a Map<String, Value>, Option<&'a dyn Typing>),
    /// A time.
    Timestamp(Timestamp),
    /// A duration in nanoseconds.
    Duration(i64),
    /// The name of a type.
    Type(&'static str),
    /// Something or nothing.
    Optional(Option<Rc<Val<'a>>>),
    /// A resource quantity.
    Quantity(Quantity),
    /// A URL.
    Url(Rc<super::network::Url>),
    /// An IP address.
    Ip(IpAddr),
    /// A network: address and length of the prefix.
    Cidr(IpAddr, u8),
}

impl<'a> Val<'a> {
    /// A value of an object, seen through its schema.
    pub fn json(value: &'a Value, typing: Option<&'a dyn Typing>) -> Val<'a> {
        read(value, typing)
    }

    /// Text.
    pub fn text(text: impl Into<Cow<'a, str>>) -> Val<'a> {
        Val::Text(text.into())
    }

    /// The name of the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Val::Null => "null_type",
            Val::Bool(_) => "bool",
            Val::Int(_) => "int",
            Val::Uint(_) => "uint",
            Val::Double(_) => "double",
            Val::Text(_) => "string",
            Val::Bytes(_) => "bytes",
            Val::List(_) | Val::JsonList(..) => "list",
            Val::Map(_) | Val::JsonMap(..) => "map",
            Val::Timestamp(_) => "google.protobuf.Timestamp",
            Val::Duration(_) => "google.protobuf.Duration",
            Val::Type(_) => "type",
            Val::Optional(_) => "optional_type",
            Val::Quantity(_) => "kubernetes.Quantity",
            Val::Url(_) => "kubernetes.URL",
            Val::Ip(_) => "net.IP",
            Val::Cidr(..) => "net.CIDR",
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Val::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number of items, if it is a list.
    pub(super) fn list_len(&self) -> Option<usize> {
        match self {
            Val::List(items) => Some(items.len()),
            Val::JsonList(items, _) => Some(items.len()),
            _ => None,
        }
    }

    /// An item of a list.
    pub(super) fn item(&self, at: usize) -> Option<Val<'a>> {
        match self {
            Val::List(items) => items.get(at).cloned(),
            Val::JsonList(items, typing) => {
                Some(read(items.get(at)?, typing.and_then(|typing| typing.item())))
            }
            _ => None,
        }
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Option<impl Iterator<Item = Val<'a>>> {
        let length = self.list_len()?;
        Some((0..length).filter_map(|at| self.item(at)))
    }

    /// The number of entries, if it is a map.
    pub(super) fn map_len(&self) -> Option<usize> {
        match self {
            Val::Map(entries) => Some(entries.len()),
            Val::JsonMap(fields, _) => Some(fields.len()),
            _ => None,
        }
    }

    /// The entries of a map.
    pub(super) fn entries(&self) -> Option<Vec<(Val<'a>, Val<'a>)>> {
        match self {
            Val::Map(entries) => Some(entries.to_vec()),
            Val::JsonMap(fields, typing) => Some(
                fields
                    .iter()
                    .map(|(name, value)| {
                        let below = typing.and_then(|typing| typing.field(name));
                        (Val::Text(name.as_str().into()), read(value, below))
                    })
                    .collect(),
            ),
            _ => None,
        }
    }

    /// The value of a key of a map.
    pub(super) fn entry(&self, key: &Val<'_>) -> Option<Val<'a>> {
        match (self, key) {
            (Val::Map(entries), key) => entries
                .iter()
                .find(|(known, _)| super::ops::equal(known, key))
                .map(|(_, value)| value.clone()),
            (Val::JsonMap(fields, typing), Val::Text(name)) => {
                let below = typing.and_then(|typing| typing.field(name));
                fields.get(&**name).map(|value| read(value, below))
            }
            _ => None,
        }
    }

    /// The value of a field as it is written with a dot.
    pub(super) fn field(&self, name: &str) -> Option<Val<'a>> {
        match self {
            Val::JsonMap(fields, typing) if typing.is_some_and(|typing| typing.is_object()) => {
                let name = unescape(name);
                let below = typing.and_then(|typing| typing.field(&name));
                fields.get(&name).map(|value| read(value, below))
            }
            other => other.entry(&Val::Text(name.into())),
        }
    }

    pub(super) fn list(items: Vec<Val<'a>>) -> Val<'a> {
        Val::List(Rc::new(items))
    }

    pub(super) fn some(value: Val<'a>) -> Val<'a> {
        Val::Optional(Some(Rc::new(value)))
    }

    /// About how many bytes an operation has to look at.
    pub(super) fn weight(&self) -> usize {
        match self {
            Val::Text(text) => text.len(),
            Val::Bytes(bytes) => bytes.len(),
            Val::List(_) | Val::JsonList(..) => self.list_len().unwrap_or(0) * 10,
            Val::Map(_) | Val::JsonMap(..) => self.map_len().unwrap_or(0) * 10,
            _ => 1,
        }
    }
}
