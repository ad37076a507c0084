//! What is wrong with one field of an object, and where: `apimachinery/pkg/util/validation/field` in our words.
//! A path is a chain of borrowed parts, so that validating a good object allocates nothing.

use std::fmt;

use serde_json::Value;

use crate::status::{Cause, quoted};

/// The kinds of field errors, with the cause reasons that clients see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// A referenced thing is absent.
    NotFound,
    /// The field must be set.
    Required,
    /// The value must occur once only.
    Duplicate,
    /// The value is malformed or out of bounds.
    Invalid,
    /// The value is not in the list of those allowed.
    NotSupported,
    /// The field may not be set or changed here.
    Forbidden,
    /// Too many bytes.
    TooLong,
    /// Too many items.
    TooMany,
    /// Our fault.
    Internal,
    /// The value has another JSON type.
    TypeInvalid,
}

impl ErrorType {
    /// The words in front of the value.
    pub fn words(self) -> &'static str {
        match self {
            ErrorType::NotFound => "Not found",
            ErrorType::Required => "Required value",
            ErrorType::Duplicate => "Duplicate value",
            ErrorType::Invalid | ErrorType::TypeInvalid => "Invalid value",
            ErrorType::NotSupported => "Unsupported value",
            ErrorType::Forbidden => "Forbidden",
            ErrorType::TooLong => "Too long",
            ErrorType::TooMany => "Too many",
            ErrorType::Internal => "Internal error",
        }
    }

    /// The reason inside `details.causes`.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::Internal => "InternalError",
            ErrorType::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// A field of an object, displayed as `spec.containers[0].name` or `metadata.labels[a/b]`.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    part: Part<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Part<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// A top-level field; the empty name means the object itself.
    pub const fn root(name: &'a str) -> Self {
        Path { parent: None, part: Part::Field(name) }
    }

    /// A field below this one; several at once may be written with dots.
    pub fn child<'b>(&'b self, name: &'b str) -> Path<'b> {
        Path { parent: Some(self), part: Part::Field(name) }
    }

    /// An item of this list.
    pub fn index(&self, index: usize) -> Path<'_> {
        Path { parent: Some(self), part: Part::Index(index) }
    }

    /// A key of this map.
    pub fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path { parent: Some(self), part: Part::Key(key) }
    }

    fn is_empty(&self) -> bool {
        self.parent.is_none() && matches!(self.part, Part::Field(""))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            if let Part::Field(_) = self.part
                && !parent.is_empty()
            {
                f.write_str(".")?;
            }
        }
        match self.part {
            Part::Field(name) => f.write_str(name),
            Part::Index(index) => write!(f, "[{index}]"),
            Part::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// One thing that is wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What kind of error.
    pub kind: ErrorType,
    /// The path, for example `spec.ports[0].port`.
    pub field: String,
    /// The value that was refused, where it is to be shown.
    pub value: Option<Value>,
    /// What a good value looks like, may be empty.
    pub detail: String,
}

impl FieldError {
    fn new(kind: ErrorType, path: &Path<'_>, value: Option<Value>, detail: impl Into<String>) -> Self {
        FieldError { kind, field: path.to_string(), value, detail: detail.into() }
    }

    /// The field must be set.
    pub fn required(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Required, path, None, detail)
    }

    /// The value is malformed or out of bounds.
    pub fn invalid(path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Invalid, path, Some(value.into()), detail)
    }

    /// The value has another type than the field.
    pub fn type_invalid(path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::TypeInvalid, path, Some(value.into()), detail)
    }

    /// The value occurs more than once.
    pub fn duplicate(path: &Path<'_>, value: impl Into<Value>) -> Self {
        Self::new(ErrorType::Duplicate, path, Some(value.into()), "")
    }

    /// What the value refers to is absent.
    pub fn not_found(path: &Path<'_>, value: impl Into<Value>) -> Self {
        Self::new(ErrorType::NotFound, path, Some(value.into()), "")
    }

    /// The value is none of `supported`.
    pub fn not_supported(path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            let list: Vec<String> = supported.iter().map(|s| quoted(s)).collect();
            format!("supported values: {}", list.join(", "))
        };
        Self::new(ErrorType::NotSupported, path, Some(value.into()), detail)
    }

    /// The field may not be set or changed.
    pub fn forbidden(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Forbidden, path, None, detail)
    }

    /// More than `max` bytes.
    pub fn too_long(path: &Path<'_>, max: usize) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::new(ErrorType::TooLong, path, None, format!("may not be more than {max} {unit}"))
    }

    /// More than `max` items.
    pub fn too_many(path: &Path<'_>, count: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        Self::new(
            ErrorType::TooMany,
            path,
            Some(Value::from(count)),
            format!("must have at most {max} {unit}"),
        )
    }

    /// The message without the field.
    pub fn body(&self) -> String {
        let mut text = self.kind.words().to_owned();
        if let Some(value) = &self.value {
            text.push_str(": ");
            match value {
                Value::String(s) => text.push_str(&quoted(s)),
                other => text.push_str(&other.to_string()),
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }

    /// The entry for `details.causes`.
    pub fn to_cause(&self) -> Cause {
        Cause { reason: self.kind.reason().into(), message: self.body(), field: self.field.clone() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for FieldError {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_read_as_in_kubernetes() {
        let spec = Path::root("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        assert_eq!(first.child("name").to_string(), "spec.containers[0].name");
        let labels = Path::root("metadata").child("labels").key("a/b").to_string();
        assert_eq!(labels, "metadata.labels[a/b]");
        assert_eq!(Path::root("").child("spec").to_string(), "spec");
    }

    #[test]
    fn bodies() {
        let p = Path::root("f");
        let cases = [
            (FieldError::required(&p, ""), "f: Required value"),
            (FieldError::required(&p, "must be set"), "f: Required value: must be set"),
            (FieldError::invalid(&p, "a\"", "bad"), "f: Invalid value: \"a\\\"\": bad"),
            (FieldError::invalid(&p, json!({"a": 1}), "bad"), "f: Invalid value: {\"a\":1}: bad"),
            (FieldError::duplicate(&p, "x"), "f: Duplicate value: \"x\""),
            (FieldError::not_found(&p, "x"), "f: Not found: \"x\""),
            (
                FieldError::not_supported(&p, "x", &["A", "B"]),
                "f: Unsupported value: \"x\": supported values: \"A\", \"B\"",
            ),
            (FieldError::forbidden(&p, "no"), "f: Forbidden: no"),
            (FieldError::too_long(&p, 63), "f: Too long: may not be more than 63 bytes"),
            (FieldError::too_many(&p, 5, 3), "f: Too many: 5: must have at most 3 items"),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }
}
