//! Objects, lists and watch events in the media type of an answer.

use bytes::Bytes;
use serde_json::{Value, json};

use catamaran_api::protobuf::{self, ProtobufError};
use catamaran_api::status::Status;
use catamaran_api::yaml;

use crate::error;
use crate::negotiate::Media;

/// How text is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    Compact,
    Pretty,
}

/// An object as the body of an answer.
///
/// # Errors
/// 500 when it does not fit its schema, or 406 when it has no such form.
pub(crate) fn object(media: Media, layout: Layout, value: &Value) -> Result<Bytes, Status> {
    match media {
        Media::Json if layout == Layout::Pretty => {
            let mut text = serde_json::to_vec_pretty(value).map_err(Status::internal_error)?;
            text.push(b'\n');
            Ok(text.into())
        }
        Media::Json => serde_json::to_vec(value).map(Bytes::from).map_err(Status::internal_error),
        Media::Yaml => Ok(yaml::text(value).into()),
        Media::Protobuf => protobuf::encode(value).map(Bytes::from).map_err(|error| refused(&error)),
    }
}

/// A failed encoding, told as what it means to the caller.
pub(crate) fn refused(cause: &ProtobufError) -> Status {
    match cause {
        ProtobufError::Kind { .. } => Status::not_acceptable(&["application/json", "application/yaml"]),
        other => Status::internal_error(error::chain(other)),
    }
}

/// One event of a watch, framed.
pub(crate) fn event(media: Media, kind: &str, object: &Value) -> Bytes {
    if media == Media::Protobuf {
        let encoded = protobuf::encode(object).or_else(|error| {
            tracing::error!(error = error::chain(&error), "an object does not fit its schema");
            protobuf::encode(&refused(&error).to_value())
        });
        return protobuf::event(kind, &encoded.unwrap_or_default()).into();
    }
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_in_all_forms() {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        let table = [
            (Media::Json, Layout::Compact, &b"{\"apiVersion\":\"v1\""[..]),
            (Media::Json, Layout::Pretty, b"{\n  \"apiVersion\": \"v1\""),
            (Media::Yaml, Layout::Compact, b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n"),
            (Media::Protobuf, Layout::Compact, b"k8s\0"),
        ];
        for (media, layout, start) in table {
            assert!(object(media, layout, &map).unwrap().starts_with(start), "{media:?}");
        }
        let custom = json!({"apiVersion": "example.com/v1", "kind": "Custom"});
        assert_eq!(object(Media::Protobuf, Layout::Compact, &custom).unwrap_err().code, 406);
    }
}
