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

/// Whether the columns are said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Columns {
    Said,
    LeftOut,
}

/// A Table of rows, with the metadata of the list.
pub(crate) fn of_rows(
    resource: &Resource,
    rows: Vec<Value>,
    (metadata, columns): (Value, Columns),
    options: &Options,
) -> Value {
    let definitions = match columns {
        Columns::Said => table::column_definitions(resource),
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
pub(crate) fn row(resource: &Resource, object: &Value, options: &Options, now: Timestamp) -> Value {
    finish_row(table::row(resource, object, now), object, table::row_conditions(resource, object), options)
}

/// The row of a bookmark, whose metadata has to be seen.
pub(crate) fn bookmark_row(resource: &Resource, object: &Value, options: &Options, now: Timestamp) -> Value {
    let include = match options.include {
        Include::Object => Include::Object,
        Include::Nothing | Include::Metadata => Include::Metadata,
    };
    row(resource, object, &Options { include, ..*options }, now)
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
    resource: &Resource,
    subresource: Option<&str>,
    object: &Value,
    (options, now): (&Options, Timestamp),
) -> Value {
    let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
    let metadata = json!({"resourceVersion": version});
    if subresource == Some("scale") {
        let row = finish_row(table::scale_row(object, now), object, None, options);
        let mut made = of_rows(resource, vec![row], (metadata, Columns::LeftOut), options);
        made["columnDefinitions"] = table::scale_columns().iter().map(table::Column::to_value).collect();
        return made;
    }
    of_rows(resource, vec![row(resource, object, options, now)], (metadata, Columns::Said), options)
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
        let resource = kind::find("", "v1", "configmaps").unwrap();
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
