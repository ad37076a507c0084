//! Types whose message looks different from their JSON: times, quantities, int-or-string, embedded JSON.

use jiff::Timestamp;
use serde_json::Value;

use super::wire::{Reader, put_bytes, put_integer};
use super::{MAGIC, ProtobufError, decode};
use crate::quantity::Quantity;
use crate::time::{self, format_duration as duration_text};

/// `Time` and `MicroTime`: 1 seconds, 2 nanoseconds; an empty message is no time.
pub(super) fn read_time(
    bytes: &[u8],
    field: &'static str,
    micro: bool,
) -> Result<Option<Value>, ProtobufError> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some((tag, value)) = reader.next()? {
        match tag {
            1 => seconds = value.integer()?,
            2 => nanos = value.integer()?,
            _ => {}
        }
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    let wrong = || ProtobufError::Value { field, wanted: "time" };
    let nanos = i32::try_from(nanos).map_err(|_| wrong())?;
    let moment = Timestamp::new(seconds, nanos).map_err(|_| wrong())?;
    Ok(Some(if micro { time::format_micro(moment) } else { time::format(moment) }.into()))
}

pub(super) fn write_time(text: &str, field: &'static str) -> Result<Vec<u8>, ProtobufError> {
    let moment = time::parse(text).ok_or(ProtobufError::Value { field, wanted: "time" })?;
    // Nanoseconds count forwards from the second, also before 1970.
    let nanos = moment.as_nanosecond();
    let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or_default();
    let rest = i64::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or_default();
    let mut out = Vec::new();
    put_integer(&mut out, 1, seconds);
    put_integer(&mut out, 2, rest);
    Ok(out)
}

/// `Quantity`: 1 text; empty is zero.
pub(super) fn read_quantity(bytes: &[u8], field: &'static str) -> Result<Value, ProtobufError> {
    let mut text = "";
    let mut reader = Reader::new(bytes);
    while let Some((tag, value)) = reader.next()? {
        if tag == 1 {
            text = value.text(field)?;
        }
    }
    if text.is_empty() {
        return Ok("0".into());
    }
    let quantity = Quantity::parse(text).map_err(|_| ProtobufError::Value { field, wanted: "quantity" })?;
    Ok(quantity.to_string().into())
}

/// `IntOrString`: 1 which of them (1 is text), 2 number, 3 text.
pub(super) fn read_int_or_string(bytes: &[u8], field: &'static str) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    let mut reader = Reader::new(bytes);
    while let Some((tag, value)) = reader.next()? {
        match tag {
            1 => is_text = value.integer()? == 1,
            2 => number = value.integer()?,
            3 => text = value.text(field)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

pub(super) fn write_int_or_string(value: &Value, field: &'static str) -> Result<Vec<u8>, ProtobufError> {
    let (kind, number, text) = match value {
        Value::String(text) => (1, 0, text.as_str()),
        _ => (0, value.as_i64().ok_or(ProtobufError::Value { field, wanted: "number or text" })?, ""),
    };
    let mut out = Vec::new();
    put_integer(&mut out, 1, kind);
    put_integer(&mut out, 2, number);
    put_bytes(&mut out, 3, text.as_bytes());
    Ok(out)
}

/// `RawExtension`, `FieldsV1`, `JSON`: 1 the JSON text, or for an object from a protobuf client its own envelope.
pub(super) fn read_raw(bytes: &[u8]) -> Result<Option<Value>, ProtobufError> {
    let mut raw: &[u8] = &[];
    let mut reader = Reader::new(bytes);
    while let Some((tag, value)) = reader.next()? {
        if tag == 1 {
            raw = value.bytes()?;
        }
    }
    if raw.is_empty() || raw == b"null" {
        return Ok(None);
    }
    if raw.starts_with(&MAGIC) {
        return decode(raw).map(Some);
    }
    serde_json::from_slice(raw).map(Some).map_err(ProtobufError::Json)
}

pub(super) fn write_raw(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, value.to_string().as_bytes());
    out
}

/// `Duration`: 1 nanoseconds. JSON has `1h2m3.5s`.
pub(super) fn read_duration(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let mut nanos = 0;
    let mut reader = Reader::new(bytes);
    while let Some((tag, value)) = reader.next()? {
        if tag == 1 {
            nanos = value.integer()?;
        }
    }
    Ok(duration_text(nanos).into())
}

pub(super) fn write_duration(text: &str, field: &'static str) -> Result<Vec<u8>, ProtobufError> {
    let nanos =
        crate::time::parse_duration(text).ok_or(ProtobufError::Value { field, wanted: "duration" })?;
    let mut out = Vec::new();
    put_integer(&mut out, 1, nanos);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_gos_text() {
        for (nanos, text) in [
            (0, "0s"),
            (30_000_000_000, "30s"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (-1_000_000_000, "-1s"),
        ] {
            assert_eq!(duration_text(nanos), text);
            assert_eq!(crate::time::parse_duration(text), Some(nanos));
        }
        assert_eq!(crate::time::parse_duration("soon"), None);
    }
}
