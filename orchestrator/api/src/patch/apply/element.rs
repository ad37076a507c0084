//! One step of a path into an object, and its text in `FieldsV1` and in messages.

use std::fmt;

use serde_json::{Map, Number, Value};

use crate::status::quoted;

/// A value inside a path: the key of a list item or a member of a set. Ordered, so that sets are written in one way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scalar {
    /// A whole number.
    Integer(i64),
    /// Any other number, as its JSON text.
    Float(String),
    /// A string.
    Text(String),
    /// A boolean.
    Bool(bool),
    /// What should not stand there, as its JSON text.
    Other(String),
}

impl Scalar {
    /// From a JSON value.
    pub(super) fn of(value: &Value) -> Scalar {
        match value {
            Value::String(text) => Scalar::Text(text.clone()),
            Value::Bool(flag) => Scalar::Bool(*flag),
            Value::Number(number) => match number.as_i64() {
                Some(integer) => Scalar::Integer(integer),
                None => Scalar::Float(number.to_string()),
            },
            other => Scalar::Other(other.to_string()),
        }
    }

    fn to_value(&self) -> Value {
        match self {
            Scalar::Integer(integer) => Value::from(*integer),
            Scalar::Float(text) => text.parse::<Number>().map_or(Value::Null, Value::Number),
            Scalar::Text(text) => Value::from(text.as_str()),
            Scalar::Bool(flag) => Value::from(*flag),
            Scalar::Other(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Text(text) => f.write_str(&quoted(text)),
            other => write!(f, "{}", other.to_value()),
        }
    }
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// A field of an object or a key of a map.
    Field(String),
    /// The item of a list that has these key fields (sorted by name).
    Key(Vec<(String, Scalar)>),
    /// A member of a set.
    Value(Scalar),
    /// A place in a list.
    Index(i64),
}

/// Why text is no step of a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no path element: it starts with f:, k:, v: or i:")]
pub struct ElementError(pub String);

impl Element {
    /// A field.
    pub fn field(name: &str) -> Element {
        Element::Field(name.to_owned())
    }

    /// The form of `FieldsV1`, such as `f:spec` or `k:{"name":"a"}`.
    pub fn encode(&self) -> String {
        match self {
            Element::Field(name) => format!("f:{name}"),
            Element::Key(fields) => {
                let parts: Vec<String> = fields
                    .iter()
                    .map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), value.to_value()))
                    .collect();
                format!("k:{{{}}}", parts.join(","))
            }
            Element::Value(value) => format!("v:{}", value.to_value()),
            Element::Index(index) => format!("i:{index}"),
        }
    }

    /// Reads the form of `FieldsV1`.
    pub fn decode(text: &str) -> Result<Element, ElementError> {
        let wrong = || ElementError(text.to_owned());
        match text.split_at_checked(2) {
            Some(("f:", name)) => Ok(Element::field(name)),
            Some(("k:", json)) => {
                let fields: Map<String, Value> = serde_json::from_str(json).map_err(|_| wrong())?;
                let mut key: Vec<_> = fields.iter().map(|(k, v)| (k.clone(), Scalar::of(v))).collect();
                key.sort();
                Ok(Element::Key(key))
            }
            Some(("v:", json)) => {
                let value: Value = serde_json::from_str(json).map_err(|_| wrong())?;
                Ok(Element::Value(Scalar::of(&value)))
            }
            Some(("i:", index)) => index.parse().map(Element::Index).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Field(name) => write!(f, ".{name}"),
            Element::Key(fields) => {
                let parts: Vec<String> =
                    fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "[{}]", parts.join(","))
            }
            Element::Value(value) => write!(f, "[={value}]"),
            Element::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A path as messages show it, such as `.spec.containers[name="a"].image`.
pub(super) fn path_text(path: &[Element]) -> String {
    path.iter().map(ToString::to_string).collect()
}
