//! The protobuf encoding: round trips of made-up objects of every kind, known bytes, hostile bytes.

use catamaran_api::decode::{ContentType, Strictness, decode_kind, normalize};
use catamaran_api::protobuf::{ProtobufError, decode, encode};
use catamaran_api::schema::{self, Struct};
use objects::Dice;
use proptest::prelude::*;
use serde_json::json;

mod objects;

fn kinds() -> Vec<&'static Struct> {
    // A watch event stands on the wire without an envelope.
    schema::structs().iter().filter(|s| s.gvk.is_some() && s.field("kind").is_some()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_kind_survives_the_round_trip(seed: u64, which in 0..kinds().len()) {
        let of = kinds()[which];
        let gvk = of.gvk.unwrap();
        let mut object = objects::object(of, &mut Dice(seed), 6);
        object["apiVersion"] = gvk.api_version().into();
        object["kind"] = gvk.kind.into();
        // What the decoder makes of it is its normal form.
        let normal = normalize(object, gvk, Strictness::Strict).unwrap().object;
        let bytes = encode(&normal).unwrap();
        prop_assert_eq!(&decode(&bytes).unwrap(), &normal);
        // The three encodings of one object decode to the same.
        let json = normal.to_string();
        let from_json = decode_kind(json.as_bytes(), ContentType::Json, gvk, Strictness::Strict).unwrap();
        prop_assert_eq!(&from_json.object, &normal);
        let from_yaml = decode_kind(json.as_bytes(), ContentType::Yaml, gvk, Strictness::Strict).unwrap();
        prop_assert_eq!(&from_yaml.object, &normal);
        let from_protobuf = decode_kind(&bytes, ContentType::Protobuf, gvk, Strictness::Strict).unwrap();
        prop_assert_eq!(&from_protobuf.object, &normal);
    }

    #[test]
    fn hostile_bytes_are_refused_or_read_but_never_fatal(seed: u64, which in 0..kinds().len(), at: prop::sample::Index, byte: u8) {
        let of = kinds()[which];
        let gvk = of.gvk.unwrap();
        let mut object = objects::object(of, &mut Dice(seed), 4);
        object["apiVersion"] = gvk.api_version().into();
        object["kind"] = gvk.kind.into();
        let mut bytes = encode(&object).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = decode(&bytes) {
            prop_assert!(read.is_object());
        }
        prop_assert!(decode(&bytes[..at]).is_err() || at >= 4);
    }
}

#[test]
fn a_namespace_has_the_bytes_that_kubectl_sends() {
    // What `kubectl create namespace a` sends: empty text, empty metadata times and statuses are written and mean nothing.
    let body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12\x17\x0a\x11\x0a\x01a\x12\x00\x1a\x00\x22\x00\x2a\x00\x32\x00\x38\x00\x42\x00\x12\x00\x1a\x00\x1a\x00\x22\x00";
    assert_eq!(
        decode(body).unwrap(),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}, "spec": {}, "status": {}})
    );
}

#[test]
fn inlined_structs_are_nested_on_the_wire() {
    let volume = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]}});
    let bytes = encode(&volume).unwrap();
    // Volume { 1: "v", 2: VolumeSource { 2: EmptyDir { 1: "Memory" } } }
    let wanted = b"\x0a\x01v\x12\x0a\x12\x08\x0a\x06Memory";
    assert!(bytes.windows(wanted.len()).any(|window| window == wanted));
    assert_eq!(decode(&bytes).unwrap(), volume);
}

#[test]
fn a_newer_field_is_skipped() {
    // Namespace with field 15 (text) and field 300 (number), neither of which v1.33 has.
    let body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12\x07\x7a\x02hi\xe0\x12\x05";
    assert_eq!(decode(body).unwrap(), json!({"apiVersion": "v1", "kind": "Namespace"}));
}

#[test]
fn packed_and_single_numbers_are_the_same() {
    // PodSecurityContext.supplementalGroups is field 4 of field 14 of PodSpec.
    let pod = |groups: &[u8]| {
        let context = [&[0x72, groups.len() as u8], groups].concat();
        let spec = [&[0x12, context.len() as u8], context.as_slice()].concat();
        let head = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12";
        decode(&[head, &[spec.len() as u8][..], &spec].concat()).unwrap()["spec"]["securityContext"]["supplementalGroups"].clone()
    };
    assert_eq!(pod(b"\x20\x01\x20\x02"), json!([1, 2]));
    assert_eq!(pod(b"\x22\x02\x01\x02"), json!([1, 2]));
}

#[test]
fn other_bodies_are_refused_by_what_is_wrong() {
    assert!(matches!(decode(b"{}"), Err(ProtobufError::Magic)));
    assert!(matches!(decode(b"k8s\0\x0a\xff"), Err(ProtobufError::Truncated)));
    assert!(matches!(decode(b"k8s\0"), Err(ProtobufError::Kind { .. })));
    assert!(matches!(encode(&json!({"apiVersion": "a/v1", "kind": "B"})), Err(ProtobufError::Kind { .. })));
    let wrong = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": 1}});
    assert!(matches!(encode(&wrong), Err(ProtobufError::Value { field: "name", .. })));
}
