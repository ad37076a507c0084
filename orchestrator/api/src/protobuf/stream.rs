//! What goes out piece by piece: lists, one item after the other, and the frames of a watch.

use serde_json::{Map, Value};

use super::wire::put_bytes;
use super::{ProtobufError, envelope, struct_of, write};
use crate::schema::Struct;

/// Numbers of the fields that every list has.
const METADATA: u8 = 1;
const ITEMS: u8 = 2;

/// A list that is being written.
pub struct List {
    api_version: String,
    kind: String,
    item: &'static Struct,
    raw: Vec<u8>,
}

impl List {
    /// Begins with the metadata of the list.
    ///
    /// # Errors
    /// The kind has no schema, or is no list.
    pub fn new(api_version: &str, kind: &str, metadata: &Value) -> Result<Self, ProtobufError> {
        let no_list = || ProtobufError::Kind { api_version: api_version.to_owned(), kind: kind.to_owned() };
        let of = struct_of(api_version, kind)?;
        let item = of.field("items").and_then(|field| field.ty.item_struct()).ok_or_else(no_list)?;
        let mut inner = Vec::new();
        let of_metadata = of.field("metadata").and_then(|field| field.ty.as_struct()).ok_or_else(no_list)?;
        write::message(of_metadata, fields(metadata, &Map::new()), &mut inner)?;
        let mut raw = Vec::new();
        put_bytes(&mut raw, METADATA, &inner);
        Ok(List { api_version: api_version.to_owned(), kind: kind.to_owned(), item, raw })
    }

    /// Adds an item.
    ///
    /// # Errors
    /// A field holds a value of a wrong type.
    pub fn push(&mut self, object: &Value) -> Result<(), ProtobufError> {
        let mut inner = Vec::new();
        write::message(self.item, fields(object, &Map::new()), &mut inner)?;
        put_bytes(&mut self.raw, ITEMS, &inner);
        Ok(())
    }

    /// The body.
    pub fn finish(self) -> Vec<u8> {
        envelope(&self.api_version, &self.kind, &self.raw)
    }
}

fn fields<'a>(object: &'a Value, none: &'a Map<String, Value>) -> &'a Map<String, Value> {
    object.as_object().unwrap_or(none)
}

/// One frame of `application/vnd.kubernetes.protobuf;stream=watch`: four bytes of length, biggest first, then a
/// `WatchEvent` without an envelope (1 the type, 2 a `RawExtension` with the object's body as [`super::encode`] makes it).
pub fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut extension = Vec::with_capacity(object.len() + 8);
    put_bytes(&mut extension, 1, object);
    let mut frame = vec![0; 4];
    put_bytes(&mut frame, 1, kind.as_bytes());
    put_bytes(&mut frame, 2, &extension);
    let length = u32::try_from(frame.len() - 4).expect("no object is longer than a request may be");
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protobuf::{decode, encode};

    #[test]
    fn a_list_written_in_pieces_is_the_list() {
        let metadata = json!({"resourceVersion": "7", "continue": "x", "remainingItemCount": 3});
        let items =
            [json!({"metadata": {"name": "a"}, "data": {"k": "v"}}), json!({"metadata": {"name": "b"}})];
        let mut list = List::new("v1", "ConfigMapList", &metadata).unwrap();
        items.iter().for_each(|item| list.push(item).unwrap());
        let whole =
            json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": metadata, "items": items});
        let bytes = list.finish();
        assert_eq!(bytes, encode(&whole).unwrap());
        assert_eq!(decode(&bytes).unwrap(), whole);
        assert!(List::new("v1", "Pod", &metadata).is_err());
    }

    #[test]
    fn bare_metadata_is_the_metadata_of_any_object() {
        let bare = json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "a"},
        });
        assert_eq!(
            encode(&bare).unwrap(),
            b"k8s\0\x0a\x27\x0a\x0emeta.k8s.io/v1\x12\x15PartialObjectMetadata\x12\x05\x0a\x03\x0a\x01a\x1a\0\x22\0"
        );
    }

    #[test]
    fn a_frame_says_its_length() {
        let frame = event("ADDED", b"k8s\0");
        assert_eq!(frame, b"\0\0\0\x0f\x0a\x05ADDED\x12\x06\x0a\x04k8s\0");
    }
}
