//! OpenAPI documents made from the kind table and the schema table: v3 per group version, a stub of v2.
//! They are written as text, piece by piece, so that making one costs little more than its own size.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::kind::{self, Resource};

mod custom;
mod paths;
mod schemas;
mod writer;

use writer::Writer;

const VERSION: &str = "v1.33.0";

/// The v3 document of a group version; `None` when nothing is served there.
pub fn document(group: &str, version: &str) -> Option<Bytes> {
    let resources =
        kind::resources().iter().filter(|r| r.group == group && r.version == version).collect::<Vec<_>>();
    if resources.is_empty() {
        return None;
    }
    Some(write(
        |w| paths::write(w, group, version, &resources),
        |w| {
            schemas::write(w, group, version, &resources);
        },
    ))
}

/// The v3 document of a group version of custom resources: each row with the schema of its definition.
pub fn custom_document(group: &str, version: &str, resources: &[(&'static Resource, &Value)]) -> Bytes {
    let rows: Vec<&Resource> = resources.iter().map(|(resource, _)| *resource).collect();
    write(
        |w| paths::write(w, group, version, &rows),
        |w| {
            schemas::write(w, group, version, &rows);
            resources.iter().for_each(|(resource, schema)| custom::write(w, resource, schema));
        },
    )
}

fn write(paths: impl FnOnce(&mut Writer), schemas: impl FnOnce(&mut Writer)) -> Bytes {
    let mut writer = Writer::default();
    writer.object(|w| {
        w.field("openapi").text("3.0.0");
        w.field("info").object(|w| {
            w.field("title").text("Kubernetes");
            w.field("version").text(VERSION);
        });
        w.field("paths").object(paths);
        w.field("components").object(|w| {
            w.field("schemas").object(schemas);
            w.field("securitySchemes").raw(
                r#"{"BearerToken":{"type":"apiKey","description":"Bearer Token authentication","name":"authorization","in":"header"}}"#,
            );
        });
    });
    writer.finish()
}

/// The hash of a document, as the index and the document's address carry it.
pub fn hash(document: &[u8]) -> String {
    Sha256::digest(document).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The document at `/openapi/v3`: for each group version (`api/v1`, `apis/apps/v1`) an address that holds for that content alone.
pub fn index<'a>(hashes: impl Iterator<Item = (&'a str, &'a str, &'a str)>) -> Value {
    let paths: BTreeMap<String, Value> = hashes
        .map(|(group, version, hash)| {
            let path = kind::root_path(group, version);
            let address = format!("/openapi/v3{path}?hash={hash}");
            (path.trim_start_matches('/').to_owned(), json!({"serverRelativeURL": address}))
        })
        .collect();
    json!({"paths": paths})
}

/// A v2 document that is valid and says nothing: clients turn to v3.
pub fn v2() -> Bytes {
    let document =
        json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": VERSION}, "paths": {}});
    Bytes::from(document.to_string())
}

/// The same in protobuf (gnostic's `openapi.v2.Document`: 1 swagger, 2 info with 1 title and 2 version, 8 paths).
pub fn v2_protobuf() -> Bytes {
    let field = |tag: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).expect("a constant of a few bytes");
        [&[tag << 3 | 2, length], content].concat()
    };
    let info = [field(1, b"Kubernetes"), field(2, VERSION.as_bytes())].concat();
    Bytes::from([field(1, b"2.0"), field(2, &info), field(8, b"")].concat())
}
