//! Values with a schema.

use std::fmt;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::any::{Any, whole};
use super::{Context, Place, scalar};
use crate::schema::{self, JSON_SCHEMA, Struct, Type};

/// Takes a value of one type. The result is `None` for null, which means absence.
pub(super) struct Node<'p, 'c> {
    pub(super) ty: Type,
    pub(super) place: &'p Place<'p>,
    pub(super) context: &'c mut Context,
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = Option<Value>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Node<'_, '_> {
    fn wrong<E: Error>(self, found: &str) -> E {
        self.context.mismatch(found, self.place, self.ty)
    }

    fn any(&mut self) -> Any<'_, '_> {
        Any { place: None, context: &mut *self.context }
    }

    fn text<E: Error>(self, text: &str) -> Result<Option<Value>, E> {
        match scalar::text(self.ty, text) {
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(reason)) => {
                let place = self.place.to_string();
                Err(self.context.fail(format!("field {place}: {reason}")))
            }
            None => Err(self.wrong("string")),
        }
    }

    /// What an object is decoded as.
    fn as_struct(&self) -> Option<&'static Struct> {
        match self.ty {
            Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings => schema::named(JSON_SCHEMA),
            ty => ty.as_struct(),
        }
    }

    fn item<'de, A: SeqAccess<'de>>(
        &mut self,
        seq: &mut A,
        ty: Type,
        index: usize,
    ) -> Result<Option<Value>, A::Error> {
        let place = self.place.index(index);
        let item = seq.next_element_seed(Node { ty, place: &place, context: &mut *self.context })?;
        Ok(item.map(|value| value.unwrap_or_else(|| zero(ty))))
    }

    fn fields<'de, A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
        of: &'static Struct,
    ) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        let mut seen: u128 = 0;
        while let Some(key) = map.next_key_seed(FieldName(of))? {
            let index = match key {
                Key::Known(index) => index,
                Key::Unknown(name) => {
                    map.next_value::<IgnoredAny>()?;
                    self.context.note("unknown", self.place, &name);
                    continue;
                }
            };
            let field = &of.fields[index];
            if seen & (1 << index) != 0 {
                self.context.note("duplicate", self.place, field.name);
                fields.remove(field.name);
            }
            seen |= 1 << index;
            let place = self.place.key(field.name);
            let value =
                map.next_value_seed(Node { ty: field.ty, place: &place, context: &mut *self.context })?;
            if let Some(value) = value.filter(|value| !field.leaves_out(value)) {
                fields.insert(field.name.to_owned(), value);
            }
        }
        Ok(Value::Object(fields))
    }

    fn entries<'de, A: MapAccess<'de>>(&mut self, map: &mut A, ty: Type) -> Result<Value, A::Error> {
        let mut entries = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let place = self.place.key(&name);
            let value = map.next_value_seed(Node { ty, place: &place, context: &mut *self.context })?;
            if entries.insert(name.clone(), value.unwrap_or_else(|| zero(ty))).is_some() {
                self.context.note("duplicate", self.place, &name);
            }
        }
        Ok(Value::Object(entries))
    }
}

/// What null means where absence is not possible: as an element of a list or map.
fn zero(ty: Type) -> Value {
    match ty {
        Type::String | Type::Bytes | Type::Duration => "".into(),
        Type::Bool => false.into(),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => 0.into(),
        Type::Quantity => "0".into(),
        Type::List(_) => Value::Array(Vec::new()),
        Type::Struct(_) | Type::Map(_) | Type::Fields => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

enum Key {
    Known(usize),
    Unknown(String),
}

/// Finds a field without keeping its name.
struct FieldName(&'static Struct);

impl<'de> DeserializeSeed<'de> for FieldName {
    type Value = Key;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Key, E> {
        Ok(self.0.index(name).map_or_else(|| Key::Unknown(name.to_owned()), Key::Known))
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        match self.ty {
            Type::Bool | Type::SchemaOrBool | Type::Json | Type::Raw => Ok(Some(value.into())),
            _ => Err(self.wrong("bool")),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        match self.ty {
            Type::Int32 | Type::IntOrString if i32::try_from(value).is_err() => {
                Err(self.wrong(&format!("number {value}")))
            }
            Type::Int32 | Type::IntOrString | Type::Int64 | Type::Double | Type::Json | Type::Raw => {
                Ok(Some(value.into()))
            }
            Type::Quantity => self.text(&value.to_string()),
            _ => Err(self.wrong("number")),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) if matches!(self.ty, Type::Double | Type::Json | Type::Raw) => Ok(Some(value.into())),
            Err(_) if self.ty == Type::Quantity => self.text(&value.to_string()),
            Err(_) => Err(self.wrong(&format!("number {value}"))),
        }
    }

    fn visit_f64<E: Error>(mut self, value: f64) -> Result<Self::Value, E> {
        if self.context.yaml
            && let Some(whole) = whole(value)
        {
            return self.visit_i64(whole);
        }
        match self.ty {
            Type::Double | Type::Json | Type::Raw => self.any().visit_f64(value).map(Some),
            Type::Quantity => self.text(&value.to_string()),
            _ => Err(self.wrong(&format!("number {value}"))),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        self.text(value)
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Self::Value, E> {
        match self.ty {
            Type::String => Ok(Some(value.into())),
            _ => self.text(&value),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Self::Value, A::Error> {
        let ty = match self.ty {
            Type::List(_) => self.ty.item(),
            Type::SchemaOrArray => schema::named(JSON_SCHEMA).map(Struct::as_type),
            Type::SchemaOrStrings => Some(Type::String),
            Type::Json | Type::Raw => return self.any().visit_seq(seq).map(Some),
            _ => None,
        };
        let Some(ty) = ty else { return Err(self.wrong("array")) };
        let silent = usize::from(!matches!(self.ty, Type::List(_)));
        self.context.silent += silent;
        let mut items = Vec::new();
        while let Some(item) = self.item(&mut seq, ty, items.len())? {
            items.push(item);
        }
        self.context.silent -= silent;
        Ok(Some(Value::Array(items)))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        if let Type::Map(_) = self.ty
            && let Some(ty) = self.ty.item()
        {
            return self.entries(&mut map, ty).map(Some);
        }
        if let Type::Json | Type::Raw | Type::Fields = self.ty {
            return self.any().visit_map(map).map(Some);
        }
        let Some(of) = self.as_struct() else { return Err(self.wrong("object")) };
        let silent = usize::from(!matches!(self.ty, Type::Struct(_)));
        self.context.silent += silent;
        let value = self.fields(&mut map, of)?;
        self.context.silent -= silent;
        Ok(Some(value))
    }
}
