//! Stored bytes: `apiVersion`, `kind` and `metadata` come first, so that a resourceVersion is spliced in and a
//! list item made without decoding. Stored objects carry no resourceVersion; the store's revision is it.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use catamaran_store::Revision;

const METADATA: &[u8] = b"\"metadata\":{";
const HEAD: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// The stored form of an object; `metadata.resourceVersion` is left out.
pub(crate) fn encode(object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    out.push(b'{');
    if let Value::Object(fields) = object {
        for name in HEAD {
            if let Some(value) = fields.get(name) {
                field(&mut out, name, value, name == "metadata");
            }
        }
        for (name, value) in fields.iter().filter(|(name, _)| !HEAD.contains(&name.as_str())) {
            field(&mut out, name, value, false);
        }
    }
    out.push(b'}');
    Bytes::from(out)
}

fn field(out: &mut Vec<u8>, name: &str, value: &Value, is_metadata: bool) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    write_json(out, &name);
    out.push(b':');
    match value {
        Value::Object(fields) if is_metadata => {
            out.push(b'{');
            for (name, value) in fields.iter().filter(|(name, _)| *name != "resourceVersion") {
                field(out, name, value, false);
            }
            out.push(b'}');
        }
        value => write_json(out, value),
    }
}

fn write_json(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    serde_json::to_writer(out, value).expect("JSON values with string keys go into memory");
}

/// Where the fields of `metadata` begin. Only `apiVersion` and `kind`, plain words, stand before it.
fn metadata_at(stored: &[u8]) -> Option<usize> {
    stored.windows(METADATA.len()).position(|window| window == METADATA)
}

/// Appends the object with its resourceVersion.
pub(crate) fn splice_into(out: &mut impl BufMut, stored: &[u8], revision: Revision) {
    append(out, stored, 0, revision);
}

/// Appends the object as an item of a list: without `apiVersion` and `kind`.
pub(crate) fn splice_item_into(out: &mut impl BufMut, stored: &[u8], revision: Revision) {
    let Some(at) = metadata_at(stored) else { return out.put_slice(stored) };
    out.put_u8(b'{');
    append(out, stored, at, revision);
}

fn append(out: &mut impl BufMut, stored: &[u8], from: usize, revision: Revision) {
    let Some(at) = metadata_at(stored) else { return out.put_slice(stored) };
    let inside = at + METADATA.len();
    out.put_slice(&stored[from..inside]);
    out.put_slice(b"\"resourceVersion\":\"");
    out.put_slice(revision.to_string().as_bytes());
    out.put_u8(b'"');
    if stored.get(inside) != Some(&b'}') {
        out.put_u8(b',');
    }
    out.put_slice(&stored[inside..]);
}

/// The object with its resourceVersion.
pub(crate) fn splice(stored: &[u8], revision: Revision) -> Bytes {
    let mut out = BytesMut::with_capacity(stored.len() + 48);
    splice_into(&mut out, stored, revision);
    out.freeze()
}

/// The object as a value, with its resourceVersion.
///
/// # Errors
/// When the store holds something that is no JSON object.
pub(crate) fn decode(stored: &[u8], revision: Revision) -> Result<Value, serde_json::Error> {
    let mut object: Value = serde_json::from_slice(stored)?;
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".to_owned(), Value::String(revision.to_string()));
    }
    Ok(object)
}

/// The parts of stored bytes that lie on `paths` (each a list of fields), without building the rest.
pub(crate) fn only(stored: &[u8], paths: &[Vec<&str>]) -> Result<Value, serde_json::Error> {
    let paths: Vec<&[&str]> = paths.iter().map(Vec::as_slice).collect();
    Only(&paths).deserialize(&mut serde_json::Deserializer::from_slice(stored))
}

/// Builds what lies on the paths.
struct Only<'a>(&'a [&'a [&'a str]]);

impl<'de> DeserializeSeed<'de> for Only<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.0.iter().any(|path| path.is_empty()) {
            return Value::deserialize(deserializer);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Only<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let tails: Vec<&[&str]> = self
                .0
                .iter()
                .filter_map(|path| path.split_first())
                .filter(|(head, _)| **head == key)
                .map(|(_, tail)| tail)
                .collect();
            if tails.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else {
                let value = map.next_value_seed(Only(&tails))?;
                out.insert(key, value);
            }
        }
        Ok(Value::Object(out))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[derive(Deserialize)]
struct OnlyMetadata {
    metadata: OnlyUid,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OnlyUid {
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    deletion_timestamp: Option<Timestamp>,
}

/// The labels in stored bytes, without building the rest.
pub(crate) fn labels(stored: &[u8]) -> BTreeMap<String, String> {
    serde_json::from_slice::<LabelsOnly>(stored).map(|object| object.metadata.labels).unwrap_or_default()
}

#[derive(Deserialize)]
struct LabelsOnly {
    metadata: Labels,
}

#[derive(Deserialize)]
struct Labels {
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// The uid in stored bytes, without building the rest.
pub(crate) fn uid(stored: &[u8]) -> Option<String> {
    uid_and_deletion(stored).map(|(uid, _)| uid)
}

/// The uid in stored bytes and when the object is to be gone, without building the rest.
pub(crate) fn uid_and_deletion(stored: &[u8]) -> Option<(String, Option<Timestamp>)> {
    let metadata = serde_json::from_slice::<OnlyMetadata>(stored).ok()?.metadata;
    Some((metadata.uid?, metadata.deletion_timestamp))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn metadata_is_found_in_spite_of_data_that_looks_like_it() {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "data": {"metadata": "{\"metadata\":{\"x\":1}}"},
            "metadata": {"name": "a", "resourceVersion": "3"},
        });
        let stored = encode(&object);
        assert!(
            text(&stored)
                .starts_with(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data""#)
        );
        let served = splice(&stored, 7);
        assert_eq!(decode(&stored, 7).unwrap(), serde_json::from_slice::<Value>(&served).unwrap());
        assert_eq!(decode(&stored, 7).unwrap()["metadata"]["resourceVersion"], "7");
        let mut item = Vec::new();
        splice_item_into(&mut item, &stored, 7);
        assert!(
            text(&item).starts_with(r#"{"metadata":{"resourceVersion":"7","name":"a"},"#),
            "{}",
            text(&item)
        );
    }

    #[test]
    fn empty_metadata() {
        let stored = encode(&json!({"kind": "X", "metadata": {}}));
        assert_eq!(text(&splice(&stored, 1)), r#"{"kind":"X","metadata":{"resourceVersion":"1"}}"#);
    }

    #[test]
    fn parts_without_the_rest() {
        let stored = br#"{"metadata":{"name":"a","labels":{"x":"y"}},"spec":{"nodeName":"n","list":[{"a":1}],"other":{}},"status":null}"#;
        let got =
            only(stored, &[vec!["spec", "nodeName"], vec!["metadata", "labels"], vec!["status", "phase"]])
                .unwrap();
        assert_eq!(
            got,
            json!({"metadata": {"labels": {"x": "y"}}, "spec": {"nodeName": "n"}, "status": null})
        );
    }

    #[test]
    fn uid_without_the_rest() {
        let stored = br#"{"kind":"Pod","metadata":{"uid":"u"},"spec":{}}"#;
        assert_eq!(uid_and_deletion(stored), Some(("u".to_owned(), None)));
        assert_eq!(uid_and_deletion(b"nonsense"), None);
    }
}
