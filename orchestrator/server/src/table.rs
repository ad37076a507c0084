//! Other shapes of objects: Tables and bare metadata.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use catamaran_api::field_error::{FieldError, Path};
use catamaran_api::kind::Resource;
use catamaran_api::status::Status;
use catamaran_api::table;

use crate::query::Query;

/// How much of the object each row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    Nothing,
    Metadata,
    Object,
}

/// How a Table is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) version: &'static str,
    pub(crate) include: Include,
}

impl Options {
    /// Reads `includeObject`.
    pub(crate) fn parse(query: &Query, version: &'static str) -> Result<Self, Status> {
        let include = match query.get("includeObject") {
            None | Some("Metadata") => Include::Metadata,
            Some("None") => Include::Nothing,
            Some("Object") => Include::Object,
            Some(other) => {
                let why = "must be 'Metadata', 'Object', 'None', or empty";
                let error = FieldError::invalid(&Path::root("includeObject"), other, why);
                return Err(Status::bad_request(format!("Unable to convert to Table as requested: {error}")));
            }
        };
        Ok(Options { version, include })
    }
}

/// A resource with the columns that its definition gives it, if one does.
#[derive(Clone, Copy)]
pub(crate) struct Printed<'a> {
    pub(crate) resource: &'a Resource,
    pub(crate) columns: Option<&'a catamaran_api::custom::Columns>,
}

impl Printed<'_> {
    fn definitions(self) -> Value {
        match self.columns {
            Some(columns) => columns.definitions().clone(),
            None => table::column_definitions(self.resource),
        }
    }

    fn cells(self, object: &Value, now: Timestamp) -> Vec<Value> {
        match self.columns {
            Some(columns) => columns.row(object, now),
            None => table::row(self.resource, object, now),
        }
    }

    fn conditions(self, object: &Value) -> Option<Value> {
        self.columns.is_none().then(|| table::row_conditions(self.resource, object)).flatten()
    }
}

/// Whether the columns are said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Columns {
    Said,
    LeftOut,
}

/// A Table of rows, with the metadata of the list.
pub(crate) fn of_rows(
    printed: Printed<'_>,
    rows: Vec<Value>,
    (metadata, columns): (Value, Columns),
    options: &Options,
) -> Value {
    let definitions = match columns {
        Columns::Said => printed.definitions(),
        Columns::LeftOut => Value::Array(Vec::new()),
    };
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{}", options.version),
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

/// The row of one object.
pub(crate) fn row(printed: Printed<'_>, object: &Value, options: &Options, now: Timestamp) -> Value {
    finish_row(printed.cells(object, now), object, printed.conditions(object), options)
}

/// The row of a bookmark, whose metadata has to be seen.
pub(crate) fn bookmark_row(printed: Printed<'_>, object: &Value, options: &Options, now: Timestamp) -> Value {
    let include = match options.include {
        Include::Object => Include::Object,
        Include::Nothing | Include::Metadata => Include::Metadata,
    };
    row(printed, object, &Options { include, ..*options }, now)
}

fn finish_row(cells: Vec<Value>, object: &Value, conditions: Option<Value>, options: &Options) -> Value {
    let mut row = json!({"cells": cells});
    match options.include {
        Include::Nothing => {}
        Include::Metadata => row["object"] = metadata(object, options.version),
        Include::Object => row["object"] = object.clone(),
    }
    if let Some(conditions) = conditions {
        row["conditions"] = conditions;
    }
    row
}

/// A Table with one row.
pub(crate) fn of_one(
    printed: Printed<'_>,
    subresource: Option<&str>,
    object: &Value,
    (options, now): (&Options, Timestamp),
) -> Value {
    let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
    let metadata = json!({"resourceVersion": version});
    if subresource == Some("scale") {
        let row = finish_row(table::scale_row(object, now), object, None, options);
        let mut made = of_rows(printed, vec![row], (metadata, Columns::LeftOut), options);
        made["columnDefinitions"] = table::scale_columns().iter().map(table::Column::to_value).collect();
        return made;
    }
    of_rows(printed, vec![row(printed, object, options, now)], (metadata, Columns::Said), options)
}

/// `PartialObjectMetadata` of an object.
pub(crate) fn metadata(object: &Value, version: &str) -> Value {
    let mut out = Map::new();
    out.insert("kind".to_owned(), "PartialObjectMetadata".into());
    out.insert("apiVersion".to_owned(), format!("meta.k8s.io/{version}").into());
    out.insert("metadata".to_owned(), object.get("metadata").cloned().unwrap_or_default());
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use catamaran_api::kind;

    use super::*;

    #[test]
    fn a_row_carries_what_is_asked_for() {
        let resource = Printed { resource: kind::find("", "v1", "configmaps").unwrap(), columns: None };
        let object = json!({"metadata": {"name": "a", "resourceVersion": "4"}, "data": {"x": "y"}});
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        for (include, expected) in [
            (Include::Nothing, None),
            (Include::Metadata, Some("PartialObjectMetadata")),
            (Include::Object, None),
        ] {
            let made = of_one(resource, None, &object, (&Options { version: "v1", include }, now));
            assert_eq!(made["metadata"]["resourceVersion"], "4");
            assert_eq!(made["rows"][0]["cells"][0], "a");
            assert_eq!(made["rows"][0]["object"]["kind"].as_str(), expected);
            assert_eq!(made["rows"][0]["object"]["data"]["x"].is_string(), include == Include::Object);
        }
    }

    #[test]
    fn options() {
        let parse = |raw| Options::parse(&Query::parse(Some(raw)), "v1");
        assert_eq!(parse("includeObject=Object").unwrap().include, Include::Object);
        assert_eq!(parse("").unwrap().include, Include::Metadata);
        assert_eq!(parse("includeObject=x").unwrap_err().code, 400);
    }
}
