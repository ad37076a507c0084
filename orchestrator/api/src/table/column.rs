//! Column definitions.

use serde_json::{Value, json};

/// The OpenAPI type of a column's cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// Text.
    String,
    /// A number.
    Integer,
    /// True or false.
    Boolean,
}

/// One column of a table (`metav1.TableColumnDefinition`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Header, in title case; kubectl prints it in capitals.
    pub name: &'static str,
    /// Type of the cells.
    pub kind: ColumnType,
    /// `name` for the column that names the object, else empty or an OpenAPI format.
    pub format: &'static str,
    /// What the cells mean.
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: u8,
}

impl Column {
    /// The JSON form.
    pub fn to_value(&self) -> Value {
        let kind = match self.kind {
            ColumnType::String => "string",
            ColumnType::Integer => "integer",
            ColumnType::Boolean => "boolean",
        };
        json!({
            "name": self.name,
            "type": kind,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }
}

const fn column(name: &'static str, kind: ColumnType, description: &'static str) -> Column {
    Column { name, kind, format: "", description, priority: 0 }
}

/// A text column.
pub(super) const fn text(name: &'static str, description: &'static str) -> Column {
    column(name, ColumnType::String, description)
}

/// A number column.
pub(super) const fn integer(name: &'static str, description: &'static str) -> Column {
    column(name, ColumnType::Integer, description)
}

/// A boolean column.
pub(super) const fn boolean(name: &'static str, description: &'static str) -> Column {
    column(name, ColumnType::Boolean, description)
}

/// A text column that only wide output shows.
pub(super) const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { priority: 1, ..text(name, description) }
}

pub(super) const NAME: Column =
    Column { format: "name", ..text("Name", "Name of the object, unique within its namespace and kind.") };
pub(super) const AGE: Column = text("Age", "Time since the object was created.");
pub(super) const CREATED_AT: Column =
    Column { format: "date-time", ..text("Created At", "Time at which the object was created.") };
pub(super) const CONTAINERS: Column = wide("Containers", "Names of the containers in the template.");
pub(super) const IMAGES: Column = wide("Images", "Images of the containers in the template.");
pub(super) const SELECTOR: Column = wide("Selector", "Labels that the selected pods carry.");
