//! The columns of a custom resource: the name, and what `additionalPrinterColumns` says; without that, the age.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::jsonpath::JsonPath;
use crate::{meta, time};

/// The columns of one version.
#[derive(Clone, Debug)]
pub struct Columns {
    definitions: Value,
    columns: Vec<(Cell, Option<JsonPath>)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Cell {
    Text,
    Integer,
    Number,
    Boolean,
    Date,
}

impl Columns {
    /// From the `additionalPrinterColumns` of a version.
    pub(super) fn read(columns: &[Value]) -> Self {
        let age = [
            json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp", "description": AGE}),
        ];
        let columns = if columns.is_empty() { &age } else { columns };
        let mut definitions = vec![json!({
            "name": "Name", "type": "string", "format": "name", "priority": 0,
            "description": "Name of the object, unique within its namespace and kind.",
        })];
        let mut read = Vec::new();
        for column in columns {
            let text = |name: &str| column[name].as_str().unwrap_or_default();
            let path = text("jsonPath");
            let description = match text("description") {
                "" => format!("Custom resource definition column (in JSONPath format): {path}"),
                said => said.to_owned(),
            };
            definitions.push(json!({
                "name": text("name"), "type": text("type"), "format": text("format"),
                "description": description, "priority": column["priority"].as_i64().unwrap_or(0),
            }));
            let cell = match text("type") {
                "integer" => Cell::Integer,
                "number" => Cell::Number,
                "boolean" => Cell::Boolean,
                "date" => Cell::Date,
                _ => Cell::Text,
            };
            read.push((cell, JsonPath::parse(path).ok()));
        }
        Columns { definitions: definitions.into(), columns: read }
    }

    /// The `columnDefinitions` of a Table.
    pub fn definitions(&self) -> &Value {
        &self.definitions
    }

    /// The cells of one object.
    pub fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut cells = vec![Value::from(meta::name(object))];
        for (cell, path) in &self.columns {
            let found = path.as_ref().and_then(|path| path.first(object)).filter(|value| !value.is_null());
            cells.push(found.map_or(Value::Null, |value| cell.show(value, now)));
        }
        cells
    }
}

const AGE: &str = "Time since the object was created.";

impl Cell {
    fn show(self, value: &Value, now: Timestamp) -> Value {
        match (self, value) {
            (Cell::Text, Value::String(text)) => text.as_str().into(),
            (Cell::Text, other) => other.to_string().into(),
            (Cell::Integer, Value::Number(number)) => {
                // A fraction is cut off, as Go does it.
                #[allow(clippy::cast_possible_truncation)]
                let cut = || number.as_f64().map(|float| float as i64);
                number.as_i64().or_else(cut).map_or(Value::Null, Value::from)
            }
            (Cell::Number, Value::Number(_)) | (Cell::Boolean, Value::Bool(_)) => value.clone(),
            (Cell::Date, Value::String(text)) => match time::parse(text) {
                Some(_) => time::age(Some(text), now).into(),
                None => "<invalid>".into(),
            },
            _ => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_the_type_of_their_column() {
        let columns = Columns::read(&[
            json!({"name": "Text", "type": "string", "jsonPath": ".spec"}),
            json!({"name": "Count", "type": "integer", "jsonPath": ".spec.count", "priority": 1}),
            json!({"name": "Since", "type": "date", "jsonPath": ".spec.since"}),
            json!({"name": "On", "type": "boolean", "jsonPath": ".spec.count"}),
            json!({"name": "None", "type": "string", "jsonPath": ".spec.none"}),
        ]);
        let object =
            json!({"metadata": {"name": "a"}, "spec": {"count": 3.7, "since": "2026-01-01T00:00:00Z"}});
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let expected =
            json!(["a", "{\"count\":3.7,\"since\":\"2026-01-01T00:00:00Z\"}", 3, "60s", null, null]);
        assert_eq!(Value::from(columns.row(&object, now)), expected);
        assert_eq!(columns.definitions()[2]["priority"], 1);
        let plain = Columns::read(&[]);
        assert_eq!(plain.definitions()[1]["name"], "Age");
    }
}
