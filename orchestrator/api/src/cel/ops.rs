//! Operators: equality, order, arithmetic.

use std::cmp::Ordering;

use serde_json::Value;

use super::ast::Operator;
use super::eval::{EvalError, Result};
use super::json::ListKind;
use super::value::Val;

pub(super) fn no_overload(name: &str, values: &[&Val<'_>]) -> EvalError {
    let types: Vec<&str> = values.iter().map(|value| value.type_name()).collect();
    EvalError::NoOverload(format!("{name}({})", types.join(", ")))
}

/// How much there is to compare, in bytes.
pub(super) fn weight(value: &Val<'_>) -> usize {
    fn json(value: &Value) -> usize {
        match value {
            Value::Array(items) => 10 + items.iter().map(json).sum::<usize>(),
            Value::Object(fields) => {
                10 + fields.iter().map(|(name, value)| name.len() + json(value)).sum::<usize>()
            }
            Value::String(text) => text.len(),
            _ => 1,
        }
    }
    match value {
        Val::JsonList(items, _) => 10 + items.iter().map(json).sum::<usize>(),
        Val::JsonMap(fields, _) => 10 + fields.values().map(json).sum::<usize>(),
        Val::List(items) => 10 + items.iter().map(weight).sum::<usize>(),
        Val::Map(entries) => {
            10 + entries.iter().map(|(key, value)| weight(key) + weight(value)).sum::<usize>()
        }
        other => other.weight(),
    }
}

/// Whether two values are equal; values of different kinds are not, but numbers are compared as numbers.
pub(super) fn equal(one: &Val<'_>, other: &Val<'_>) -> bool {
    match (one, other) {
        (Val::Null, Val::Null) => true,
        (Val::Bool(one), Val::Bool(other)) => one == other,
        (Val::Text(one), Val::Text(other)) => one == other,
        (Val::Bytes(one), Val::Bytes(other)) => one == other,
        (Val::Type(one), Val::Type(other)) => one == other,
        (Val::Url(one), Val::Url(other)) => one == other,
        (Val::Ip(one), Val::Ip(other)) => one == other,
        (Val::Cidr(one, a), Val::Cidr(other, b)) => (one, a) == (other, b),
        (Val::Quantity(one), Val::Quantity(other)) => one.nanos() == other.nanos(),
        (Val::Optional(one), Val::Optional(other)) => match (one, other) {
            (Some(one), Some(other)) => equal(one, other),
            (None, None) => true,
            _ => false,
        },
        _ if one.list_len().is_some() => other.list_len().is_some() && equal_lists(one, other),
        _ if one.map_len().is_some() => other.map_len().is_some() && equal_maps(one, other),
        _ => compare(one, other) == Some(Ordering::Equal),
    }
}

fn list_kind<'a>(list: &Val<'a>) -> ListKind<'a> {
    match list {
        Val::JsonList(_, Some(typing)) => typing.list_kind(),
        _ => ListKind::Atomic,
    }
}

fn equal_lists(one: &Val<'_>, other: &Val<'_>) -> bool {
    if one.list_len() != other.list_len() {
        return false;
    }
    let items = |list: &Val<'_>| list.list_len().unwrap_or(0);
    match (list_kind(one), list_kind(other)) {
        (ListKind::Atomic, ListKind::Atomic) => (0..items(one))
            .all(|at| matches!((one.item(at), other.item(at)), (Some(a), Some(b)) if equal(&a, &b))),
        // Their order says nothing. Items are distinct, so it is enough to find each one.
        _ => (0..items(one)).all(|at| {
            let found =
                |item: Val<'_>| (0..items(other)).any(|at| other.item(at).is_some_and(|b| equal(&item, &b)));
            one.item(at).is_some_and(found)
        }),
    }
}

fn equal_maps(one: &Val<'_>, other: &Val<'_>) -> bool {
    one.map_len() == other.map_len()
        && one
            .entries()
            .into_iter()
            .flatten()
            .all(|(key, value)| other.entry(&key).is_some_and(|other| equal(&value, &other)))
}

/// The order of two values, if they have one.
pub(super) fn compare(one: &Val<'_>, other: &Val<'_>) -> Option<Ordering> {
    #[allow(clippy::cast_precision_loss)]
    Some(match (one, other) {
        (Val::Int(one), Val::Int(other)) => one.cmp(other),
        (Val::Uint(one), Val::Uint(other)) => one.cmp(other),
        (Val::Int(one), Val::Uint(other)) => i128::from(*one).cmp(&i128::from(*other)),
        (Val::Uint(one), Val::Int(other)) => i128::from(*one).cmp(&i128::from(*other)),
        (Val::Double(one), Val::Double(other)) => return one.partial_cmp(other),
        (Val::Double(one), Val::Int(other)) => return one.partial_cmp(&(*other as f64)),
        (Val::Int(one), Val::Double(other)) => return (*one as f64).partial_cmp(other),
        (Val::Double(one), Val::Uint(other)) => return one.partial_cmp(&(*other as f64)),
        (Val::Uint(one), Val::Double(other)) => return (*one as f64).partial_cmp(other),
        (Val::Bool(one), Val::Bool(other)) => one.cmp(other),
        (Val::Text(one), Val::Text(other)) => one.cmp(other),
        (Val::Bytes(one), Val::Bytes(other)) => one.cmp(other),
        (Val::Timestamp(one), Val::Timestamp(other)) => one.cmp(other),
        (Val::Duration(one), Val::Duration(other)) => one.cmp(other),
        (Val::Quantity(one), Val::Quantity(other)) => one.nanos().cmp(&other.nanos()),
        _ => return None,
    })
}

/// A whole number that may stand in brackets behind a list.
pub(super) fn as_index(value: &Val<'_>) -> Option<i64> {
    match value {
        Val::Int(at) => Some(*at),
        Val::Uint(at) => i64::try_from(*at).ok(),
        #[allow(clippy::cast_possible_truncation)]
        Val::Double(at) if at.fract() == 0.0 && at.abs() < 1e15 => Some(*at as i64),
        _ => None,
    }
}

pub(super) fn negate<'a>(value: &Val<'a>) -> Result<Val<'a>> {
    let overflow = || EvalError::Failed("integer overflow".into());
    match value {
        Val::Int(value) => value.checked_neg().map(Val::Int).ok_or_else(overflow),
        Val::Double(value) => Ok(Val::Double(-value)),
        Val::Duration(value) => value.checked_neg().map(Val::Duration).ok_or_else(overflow),
        other => Err(no_overload("-", &[other])),
    }
}

pub(super) fn add<'a>(one: &Val<'a>, other: &Val<'a>) -> Result<Val<'a>> {
    let shifted = |time: &jiff::Timestamp, nanos: i64| {
        time.checked_add(jiff::SignedDuration::from_nanos(nanos))
            .map(Val::Timestamp)
            .map_err(|_| EvalError::Failed("timestamp overflow".into()))
    };
    match (one, other) {
        (Val::Text(one), Val::Text(other)) => Ok(Val::Text(format!("{one}{other}").into())),
        (Val::Bytes(one), Val::Bytes(other)) => Ok(Val::Bytes([&**one, &**other].concat().into())),
        (Val::Timestamp(time), Val::Duration(nanos)) | (Val::Duration(nanos), Val::Timestamp(time)) => {
            shifted(time, *nanos)
        }
        (Val::Duration(one), Val::Duration(other)) => {
            let sum = one.checked_add(*other).map(Val::Duration);
            sum.ok_or_else(|| EvalError::Failed("duration overflow".into()))
        }
        _ if one.list_len().is_some() && other.list_len().is_some() => Ok(concatenate(one, other)),
        _ => arithmetic(Operator::Add, one, other),
    }
}

/// Lists one behind the other; sets and keyed lists take in what is new, and what has the same key is replaced.
fn concatenate<'a>(one: &Val<'a>, other: &Val<'a>) -> Val<'a> {
    let mut list: Vec<Val<'a>> = one.items().into_iter().flatten().collect();
    for item in other.items().into_iter().flatten() {
        let same = |known: &Val<'_>| match list_kind(one) {
            ListKind::Atomic => false,
            ListKind::Set => equal(known, &item),
            ListKind::Map(keys) => keys.iter().all(|key| match (known.field(key), item.field(key)) {
                (Some(one), Some(other)) => equal(&one, &other),
                (None, None) => true,
                _ => false,
            }),
        };
        match list.iter().position(same) {
            Some(at) => list[at] = item,
            None => list.push(item),
        }
    }
    Val::list(list)
}

pub(super) fn arithmetic<'a>(operator: Operator, one: &Val<'a>, other: &Val<'a>) -> Result<Val<'a>> {
    let zero = || {
        let what = if operator == Operator::Modulo { "modulus by zero" } else { "division by zero" };
        EvalError::Failed(what.into())
    };
    match (one, other) {
        (Val::Int(a), Val::Int(b)) => {
            let done = match operator {
                Operator::Add => a.checked_add(*b),
                Operator::Subtract => a.checked_sub(*b),
                Operator::Multiply => a.checked_mul(*b),
                Operator::Divide | Operator::Modulo if *b == 0 => return Err(zero()),
                Operator::Divide => a.checked_div(*b),
                _ => a.checked_rem(*b),
            };
            done.map(Val::Int).ok_or_else(|| EvalError::Failed("integer overflow".into()))
        }
        (Val::Uint(a), Val::Uint(b)) => {
            let done = match operator {
                Operator::Add => a.checked_add(*b),
                Operator::Subtract => a.checked_sub(*b),
                Operator::Multiply => a.checked_mul(*b),
                Operator::Divide | Operator::Modulo if *b == 0 => return Err(zero()),
                Operator::Divide => a.checked_div(*b),
                _ => a.checked_rem(*b),
            };
            done.map(Val::Uint).ok_or_else(|| EvalError::Failed("unsigned integer overflow".into()))
        }
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(match operator {
            Operator::Add => a + b,
            Operator::Subtract => a - b,
            Operator::Multiply => a * b,
            Operator::Divide => a / b,
            _ => return Err(no_overload("%", &[one, other])),
        })),
        (Val::Timestamp(a), Val::Timestamp(b)) if operator == Operator::Subtract => {
            let nanos = i64::try_from(a.as_nanosecond() - b.as_nanosecond());
            nanos.map(Val::Duration).map_err(|_| EvalError::Failed("duration overflow".into()))
        }
        (Val::Timestamp(_), Val::Duration(nanos)) if operator == Operator::Subtract => {
            add(one, &Val::Duration(nanos.saturating_neg()))
        }
        (Val::Duration(a), Val::Duration(b)) if operator == Operator::Subtract => {
            a.checked_sub(*b).map(Val::Duration).ok_or_else(|| EvalError::Failed("duration overflow".into()))
        }
        _ => {
            let name = match operator {
                Operator::Add => "_+_",
                Operator::Subtract => "_-_",
                Operator::Multiply => "_*_",
                Operator::Divide => "_/_",
                _ => "_%_",
            };
            Err(no_overload(name, &[one, other]))
        }
    }
}

/// A value for a message.
pub(super) fn show(value: &Val<'_>) -> String {
    match value {
        Val::Text(text) => text.to_string(),
        Val::Int(value) => value.to_string(),
        Val::Uint(value) => value.to_string(),
        Val::Double(value) => value.to_string(),
        Val::Bool(value) => value.to_string(),
        other => other.type_name().to_owned(),
    }
}
