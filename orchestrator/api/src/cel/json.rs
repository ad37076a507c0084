//! JSON values seen through a schema: a whole number in a field of type `number` is a double, a text with the format
//! `date-time` is a time. Lists and maps stay where they are and are read when needed.

use std::rc::Rc;

use serde_json::Value;

use super::value::Val;
use crate::time;

/// What is known of the type of a value.
pub trait Typing {
    /// The type of a field or of the values of a map.
    fn field(&self, name: &str) -> Option<&dyn Typing>;
    /// Whether only named fields are there, so that another one is a mistake.
    fn closed(&self) -> bool;
    /// The type of the items of a list.
    fn item(&self) -> Option<&dyn Typing>;
    /// How a plain value is read.
    fn hint(&self) -> Hint;
    /// How items of a list are told apart.
    fn list_kind(&self) -> ListKind<'_>;
    /// Whether fields are named by a schema, which escapes what is no name in the language.
    fn is_object(&self) -> bool;
}

/// How a plain value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// As it is.
    Plain,
    /// A number is a double.
    Double,
    /// A text is a time.
    Timestamp,
    /// A text is a duration.
    Duration,
    /// A text is base64.
    Bytes,
}

/// How items of a list are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind<'a> {
    /// By their place.
    Atomic,
    /// By their value: the order does not matter.
    Set,
    /// By key fields: the order does not matter.
    Map(&'a [String]),
}

/// A value as the language sees it.
pub(super) fn read<'a>(value: &'a Value, typing: Option<&'a dyn Typing>) -> Val<'a> {
    let hint = typing.map_or(Hint::Plain, |typing| typing.hint());
    match value {
        Value::Null => Val::Null,
        Value::Bool(value) => Val::Bool(*value),
        Value::Number(number) => match (number.as_i64(), hint) {
            (Some(value), Hint::Double) => {
                // Kubernetes loses the same digits.
                #[allow(clippy::cast_precision_loss)]
                Val::Double(value as f64)
            }
            (Some(value), _) => Val::Int(value),
            (None, _) => Val::Double(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => scalar(text, hint),
        Value::Array(items) => Val::JsonList(items, typing),
        Value::Object(fields) => Val::JsonMap(fields, typing),
    }
}

fn scalar(text: &str, hint: Hint) -> Val<'_> {
    let special = match hint {
        Hint::Timestamp => time::parse(text).map(Val::Timestamp),
        Hint::Duration => time::parse_duration(text).map(Val::Duration),
        Hint::Bytes => {
            let decoded = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, text).ok();
            decoded.map(|bytes| Val::Bytes(Rc::from(bytes)))
        }
        Hint::Plain | Hint::Double => None,
    };
    // What does not fit its format has an error of its own.
    special.unwrap_or(Val::Text(text.into()))
}

/// The name of a field behind its escaped form (`__dot__`, `__namespace__`).
pub(super) fn unescape(name: &str) -> String {
    if !name.contains("__") {
        return name.to_owned();
    }
    let keyword = name.strip_prefix("__").and_then(|name| name.strip_suffix("__"));
    const KEYWORDS: [&str; 21] = [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    if let Some(keyword) = keyword.filter(|keyword| KEYWORDS.contains(keyword)) {
        return keyword.to_owned();
    }
    let table = [("__underscores__", "\0"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")];
    let plain = table.iter().fold(name.to_owned(), |name, (escaped, plain)| name.replace(escaped, plain));
    plain.replace('\0', "__")
}
