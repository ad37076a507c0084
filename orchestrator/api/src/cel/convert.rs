//! `int(…)`, `string(…)` and the other conversions.

use std::rc::Rc;

use base64::Engine;

use super::eval::{EvalError, Result};
use super::ops::no_overload;
use super::value::Val;
use crate::time;

/// A conversion by name; none when there is no such.
pub(super) fn call<'a>(name: &str, value: &Val<'a>) -> Option<Result<Val<'a>>> {
    Some(match name {
        "int" => int(value),
        "uint" => uint(value),
        "double" => double(value),
        "string" => string(value),
        "bytes" => bytes(value),
        "bool" => boolean(value),
        "timestamp" => timestamp(value),
        "duration" => duration(value),
        "dyn" => Ok(value.clone()),
        "type" => Ok(Val::Type(value.type_name())),
        _ => return None,
    })
}

fn failed(what: &str) -> EvalError {
    EvalError::Failed(format!("type conversion error: {what}"))
}

fn int<'a>(value: &Val<'a>) -> Result<Val<'a>> {
    Ok(Val::Int(match value {
        Val::Int(value) => *value,
        Val::Uint(value) => i64::try_from(*value).map_err(|_| failed("integer overflow"))?,
        #[allow(clippy::cast_possible_truncation)]
        Val::Double(value) if value.abs() < 9.223_372_036_854_775e18 => *value as i64,
        Val::Double(_) => return Err(failed("integer overflow")),
        Val::Text(text) => text.parse().map_err(|_| failed("invalid integer"))?,
        Val::Timestamp(time) => time.as_second(),
        Val::Duration(nanos) => *nanos,
        other => return Err(no_overload("int", &[other])),
    }))
}

fn uint<'a>(value: &Val<'a>) -> Result<Val<'a>> {
    Ok(Val::Uint(match value {
        Val::Uint(value) => *value,
        Val::Int(value) => u64::try_from(*value).map_err(|_| failed("unsigned integer overflow"))?,
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Val::Double(value) if *value >= 0.0 && *value < 1.844_674_407_370_955e19 => *value as u64,
        Val::Double(_) => return Err(failed("unsigned integer overflow")),
        Val::Text(text) => text.parse().map_err(|_| failed("invalid unsigned integer"))?,
        other => return Err(no_overload("uint", &[other])),
    }))
}

fn double<'a>(value: &Val<'a>) -> Result<Val<'a>> {
    #[allow(clippy::cast_precision_loss)]
    Ok(Val::Double(match value {
        Val::Double(value) => *value,
        Val::Int(value) => *value as f64,
        Val::Uint(value) => *value as f64,
        Val::Text(text) => text.parse().map_err(|_| failed("invalid number"))?,
        other => return Err(no_overload("double", &[other])),
    }))
}

fn string<'a>(value: &Val<'a>) -> Result<Val<'a>> {
    Ok(Val::Text(match value {
        Val::Text(text) => text.clone(),
        Val::Bool(value) => value.to_string().into(),
        Val::Int(value) => value.to_string().into(),
        Val::Uint(value) => value.to_string().into(),
        Val::Double(value) => value.to_string().into(),
        Val::Bytes(bytes) => {
            String::from_utf8(bytes.to_vec()).map_err(|_| failed("invalid UTF-8 in bytes"))?.into()
        }
        Val::Timestamp(time) => time.to_string().into(),
        Val::Duration(nanos) => seconds(*nanos).into(),
        Val::Quantity(quantity) => quantity.to_string().into(),
        Val::Ip(address) => address.to_string().into(),
        Val::Cidr(address, prefix) => format!("{address}/{prefix}").into(),
        other => return Err(no_overload("string", &[other])),
    }))
}

/// A duration in seconds with a fraction.
fn seconds(nanos: i64) -> String {
    let all = nanos.unsigned_abs();
    let sign = if nanos < 0 { "-" } else { "" };
    let fraction = format!(".{:09}", all % 1_000_000_000);
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{sign}{}{fraction}s", all / 1_000_000_000)
}

fn bytes<'a>(value: &Val<'a>) -> Result<Val<'a>> {
    match value {
        Val::Bytes(_) => Ok(value.clone()),
        Val::Text(text) => Ok(Val::Bytes(Rc::from(text.as_bytes()))),
        other => Err(no_overload("bytes", &[other])),
    }
}

fn boolean<'a>(value: &Val<'a>) -> Result<Val<'a>> {
    match value {
        Val::Bool(_) => Ok(value.clone()),
        Val::Text(text) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
            _ => Err(failed("invalid bool")),
        },
        other => Err(no_overload("bool", &[other])),
    }
}

fn timestamp<'a>(value: &Val<'a>) -> Result<Val<'a>> {
    match value {
        Val::Timestamp(_) => Ok(value.clone()),
        Val::Text(text) => time::parse(text).map(Val::Timestamp).ok_or_else(|| failed("invalid timestamp")),
        Val::Int(seconds) => jiff::Timestamp::from_second(*seconds)
            .map(Val::Timestamp)
            .map_err(|_| failed("timestamp out of range")),
        other => Err(no_overload("timestamp", &[other])),
    }
}

fn duration<'a>(value: &Val<'a>) -> Result<Val<'a>> {
    match value {
        Val::Duration(_) => Ok(value.clone()),
        Val::Text(text) => {
            time::parse_duration(text).map(Val::Duration).ok_or_else(|| failed("invalid duration"))
        }
        other => Err(no_overload("duration", &[other])),
    }
}

/// `base64.encode(…)` and `base64.decode(…)`.
pub(super) fn base64<'a>(name: &str, value: &Val<'a>) -> Option<Result<Val<'a>>> {
    let engine = &base64::prelude::BASE64_STANDARD;
    match (name, value) {
        ("base64.encode", Val::Bytes(bytes)) => Some(Ok(Val::Text(engine.encode(bytes).into()))),
        ("base64.decode", Val::Text(text)) => {
            let decoded = engine.decode(&**text).map(|bytes| Val::Bytes(Rc::from(bytes)));
            Some(decoded.map_err(|_| EvalError::Failed("invalid base64".into())))
        }
        _ => None,
    }
}
