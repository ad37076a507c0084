//! Functions and methods: the standard ones, and Kubernetes' libraries for lists, sets, optional values, quantities,
//! times, texts and addresses.

use std::rc::Rc;

use jiff::tz::TimeZone;

use super::eval::{EvalError, Result, Scope};
use super::ops::{self, no_overload};
use super::value::Val;
use super::{convert, network, strings};
use crate::quantity::{Format, Quantity};

/// Names before a dot that are no values.
pub(super) const LIBRARIES: [&str; 4] = ["sets", "optional", "base64", "ip"];

/// Functions there are.
pub(super) const FUNCTIONS: [&str; 33] = [
    "size",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "bool",
    "timestamp",
    "duration",
    "dyn",
    "type",
    "matches",
    "quantity",
    "isQuantity",
    "url",
    "isURL",
    "ip",
    "isIP",
    "cidr",
    "isCIDR",
    "sets.contains",
    "sets.equivalent",
    "sets.intersects",
    "optional.of",
    "optional.none",
    "optional.ofNonZeroValue",
    "base64.encode",
    "base64.decode",
    "ip.isCanonical",
    "has",
    "contains",
    "startsWith",
    "endsWith",
];

/// Methods there are.
pub(super) const METHODS: [&str; 74] = [
    "size",
    "matches",
    "contains",
    "startsWith",
    "endsWith",
    "find",
    "findAll",
    "charAt",
    "indexOf",
    "lastIndexOf",
    "lowerAscii",
    "upperAscii",
    "replace",
    "split",
    "substring",
    "trim",
    "join",
    "reverse",
    "isSorted",
    "sum",
    "min",
    "max",
    "getScheme",
    "getHost",
    "getHostname",
    "getPort",
    "getEscapedPath",
    "getQuery",
    "sign",
    "isInteger",
    "asInteger",
    "asApproximateFloat",
    "add",
    "sub",
    "isLessThan",
    "isGreaterThan",
    "compareTo",
    "family",
    "isUnspecified",
    "isLoopback",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isGlobalUnicast",
    "containsIP",
    "containsCIDR",
    "prefixLength",
    "masked",
    "ip",
    "hasValue",
    "value",
    "or",
    "orValue",
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
    "all",
    "exists",
    "exists_one",
    "existsOne",
    "map",
    "filter",
    "transformList",
    "transformMap",
    "optMap",
    "optFlatMap",
    "format",
    "flatten",
];

/// Calls a function.
pub(super) fn call<'a>(scope: &Scope<'a, '_>, name: &str, arguments: &[Val<'a>]) -> Result<Val<'a>> {
    scope.spend(arguments.iter().map(Val::weight).sum::<usize>() / 10)?;
    let wrong = || no_overload(name, &arguments.iter().collect::<Vec<_>>());
    match (name, arguments) {
        ("size" | "matches" | "contains" | "startsWith" | "endsWith", [of, rest @ ..]) => {
            method(scope, of, name, rest)
        }
        ("quantity", [Val::Text(text)]) => {
            Quantity::parse(text).map(Val::Quantity).map_err(|error| EvalError::Failed(error.to_string()))
        }
        ("isQuantity", [Val::Text(text)]) => Ok(Val::Bool(Quantity::parse(text).is_ok())),
        ("optional.none", []) => Ok(Val::Optional(None)),
        ("optional.of", [value]) => Ok(Val::some(value.clone())),
        ("optional.ofNonZeroValue", [value]) => {
            Ok(if is_zero(value) { Val::Optional(None) } else { Val::some(value.clone()) })
        }
        ("sets.contains", [one, other]) => covers(scope, one, other).map(Val::Bool),
        ("sets.equivalent", [one, other]) => {
            Ok(Val::Bool(covers(scope, one, other)? && covers(scope, other, one)?))
        }
        ("sets.intersects", [one, other]) => {
            for item in one.items().ok_or_else(wrong)? {
                if let Val::Bool(true) = scope.contains(other, &item)? {
                    return Ok(Val::Bool(true));
                }
            }
            Ok(Val::Bool(false))
        }
        (_, [value]) => {
            let found = convert::call(name, value)
                .or_else(|| convert::base64(name, value))
                .or_else(|| network::call(name, value));
            found.unwrap_or_else(|| Err(wrong()))
        }
        _ => Err(wrong()),
    }
}

/// Whether every item of `other` is in `one`.
fn covers<'a>(scope: &Scope<'a, '_>, one: &Val<'a>, other: &Val<'a>) -> Result<bool> {
    for item in other.items().ok_or_else(|| no_overload("sets", &[one, other]))? {
        if let Val::Bool(false) = scope.contains(one, &item)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_zero(value: &Val<'_>) -> bool {
    match value {
        Val::Null => true,
        Val::Bool(value) => !value,
        Val::Int(value) => *value == 0,
        Val::Uint(value) => *value == 0,
        Val::Double(value) => *value == 0.0,
        Val::Text(text) => text.is_empty(),
        other => other.list_len().or(other.map_len()) == Some(0),
    }
}

/// Calls a method.
pub(super) fn method<'a>(
    scope: &Scope<'a, '_>,
    of: &Val<'a>,
    name: &str,
    arguments: &[Val<'a>],
) -> Result<Val<'a>> {
    scope.spend((of.weight() + arguments.iter().map(Val::weight).sum::<usize>()) / 10)?;
    let found = match of {
        Val::Text(text) => strings::method(scope, text, name, arguments)?,
        Val::Timestamp(time) => timestamp(*time, name, arguments)?,
        Val::Duration(nanos) => duration(*nanos, name),
        Val::Quantity(quantity) => self::quantity(*quantity, name, arguments),
        Val::Optional(inner) => optional(inner.as_ref(), name, arguments),
        Val::Url(_) | Val::Ip(_) | Val::Cidr(..) => network::method(of, name, arguments),
        _ if of.list_len().is_some() => list(scope, of, name, arguments)?,
        _ => None,
    };
    if let Some(value) = found {
        return Ok(value);
    }
    let length = match of {
        Val::Bytes(bytes) => Some(bytes.len()),
        of => of.list_len().or(of.map_len()),
    };
    match (name, arguments.is_empty(), length) {
        ("size", true, Some(length)) => Ok(Val::Int(i64::try_from(length).unwrap_or(i64::MAX))),
        _ => {
            let all: Vec<&Val<'_>> = std::iter::once(of).chain(arguments).collect();
            Err(no_overload(name, &all))
        }
    }
}

fn optional<'a>(inner: Option<&Rc<Val<'a>>>, name: &str, arguments: &[Val<'a>]) -> Option<Val<'a>> {
    match (name, inner, arguments) {
        ("hasValue", inner, []) => Some(Val::Bool(inner.is_some())),
        ("value" | "orValue", Some(inner), _) => Some((**inner).clone()),
        ("or", Some(inner), _) => Some(Val::Optional(Some(inner.clone()))),
        ("orValue" | "or", None, [other]) => Some(other.clone()),
        _ => None,
    }
}

fn timestamp<'a>(time: jiff::Timestamp, name: &str, arguments: &[Val<'a>]) -> Result<Option<Val<'a>>> {
    let zone = match arguments {
        [] => TimeZone::UTC,
        [Val::Text(zone)] => self::zone(zone)?,
        _ => return Ok(None),
    };
    let there = time.to_zoned(zone);
    Ok(Some(Val::Int(match name {
        "getFullYear" => i64::from(there.year()),
        "getMonth" => i64::from(there.month()) - 1,
        "getDate" => i64::from(there.day()),
        "getDayOfMonth" => i64::from(there.day()) - 1,
        "getDayOfWeek" => i64::from(there.weekday().to_sunday_zero_offset()),
        "getDayOfYear" => i64::from(there.day_of_year()) - 1,
        "getHours" => i64::from(there.hour()),
        "getMinutes" => i64::from(there.minute()),
        "getSeconds" => i64::from(there.second()),
        "getMilliseconds" => i64::from(there.millisecond()),
        _ => return Ok(None),
    })))
}

/// `UTC` or an offset such as `-08:00`; names of zones would need a database.
fn zone(text: &str) -> Result<TimeZone> {
    let unknown = || EvalError::Failed(format!("unknown time zone {text}: use UTC or an offset"));
    if matches!(text, "UTC" | "Z" | "") {
        return Ok(TimeZone::UTC);
    }
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (hours, minutes) = rest.split_once(':').ok_or_else(unknown)?;
    let number = |text: &str| text.parse::<i32>().map_err(|_| unknown());
    let seconds = sign * (number(hours)? * 3600 + number(minutes)? * 60);
    jiff::tz::Offset::from_seconds(seconds).map(TimeZone::fixed).map_err(|_| unknown())
}

fn duration<'a>(nanos: i64, name: &str) -> Option<Val<'a>> {
    Some(Val::Int(match name {
        "getHours" => nanos / 3_600_000_000_000,
        "getMinutes" => nanos / 60_000_000_000,
        "getSeconds" => nanos / 1_000_000_000,
        "getMilliseconds" => nanos / 1_000_000 % 1000,
        _ => return None,
    }))
}

fn quantity<'a>(one: Quantity, name: &str, arguments: &[Val<'a>]) -> Option<Val<'a>> {
    let nanos = one.nanos();
    let other = match arguments {
        [Val::Quantity(other)] => Some(*other),
        [Val::Int(units)] => Some(Quantity::from_units(*units, Format::DecimalSi)),
        _ => None,
    };
    #[allow(clippy::cast_precision_loss)]
    Some(match (name, other) {
        ("sign", None) => Val::Int(i64::try_from(nanos.signum()).unwrap_or_default()),
        ("isInteger", None) => Val::Bool(one.is_integer()),
        ("asInteger", None) if one.is_integer() => Val::Int(one.value()),
        ("asApproximateFloat", None) => Val::Double(nanos as f64 / 1e9),
        ("isLessThan", Some(other)) => Val::Bool(nanos < other.nanos()),
        ("isGreaterThan", Some(other)) => Val::Bool(nanos > other.nanos()),
        ("compareTo", Some(other)) => Val::Int(match nanos.cmp(&other.nanos()) {
            std::cmp::Ordering::Less => -1,
            std::cmp::Ordering::Equal => 0,
            std::cmp::Ordering::Greater => 1,
        }),
        ("add", Some(other)) => Val::Quantity(one.with_nanos(nanos.checked_add(other.nanos())?)),
        ("sub", Some(other)) => Val::Quantity(one.with_nanos(nanos.checked_sub(other.nanos())?)),
        _ => return None,
    })
}

fn list<'a>(
    scope: &Scope<'a, '_>,
    of: &Val<'a>,
    name: &str,
    arguments: &[Val<'a>],
) -> Result<Option<Val<'a>>> {
    let items = || of.items().into_iter().flatten();
    let at = |found: Option<usize>| Val::Int(found.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1));
    scope.spend(of.list_len().unwrap_or(0))?;
    Ok(Some(match (name, arguments) {
        ("isSorted", []) => {
            let all: Vec<Val<'a>> = items().collect();
            Val::Bool(all.windows(2).all(|pair| ops::compare(&pair[0], &pair[1]).is_some_and(|o| o.is_le())))
        }
        ("sum", []) => {
            let mut sum: Option<Val<'a>> = None;
            for item in items() {
                sum = Some(match sum {
                    Some(sum) => ops::add(&sum, &item)?,
                    None => item,
                });
            }
            sum.unwrap_or(Val::Int(0))
        }
        ("min" | "max", []) => {
            let mut best: Option<Val<'a>> = None;
            for item in items() {
                let better = best.as_ref().is_none_or(|best| {
                    ops::compare(&item, best)
                        .is_some_and(|o| if name == "min" { o.is_lt() } else { o.is_gt() })
                });
                if better {
                    best = Some(item);
                }
            }
            best.ok_or_else(|| EvalError::Failed(format!("{name} called on empty list")))?
        }
        ("indexOf", [wanted]) => at(items().position(|item| ops::equal(&item, wanted))),
        ("lastIndexOf", [wanted]) => {
            at(items().enumerate().filter(|(_, item)| ops::equal(item, wanted)).map(|(at, _)| at).last())
        }
        ("join", rest @ ([] | [Val::Text(_)])) => {
            let separator = rest.first().and_then(Val::as_text).unwrap_or_default();
            let mut texts = Vec::new();
            for item in items() {
                texts.push(item.as_text().ok_or_else(|| no_overload("join", &[&item]))?.to_owned());
            }
            scope.spend(texts.iter().map(String::len).sum::<usize>() / 10)?;
            Val::Text(texts.join(separator).into())
        }
        ("reverse", []) => {
            let mut all: Vec<Val<'a>> = items().collect();
            all.reverse();
            Val::list(all)
        }
        ("flatten", []) => {
            let mut flat = Vec::new();
            for item in items() {
                match item.list_len() {
                    Some(_) => flat.extend(item.items().into_iter().flatten()),
                    None => flat.push(item),
                }
            }
            scope.spend(flat.len())?;
            Val::list(flat)
        }
        _ => return Ok(None),
    }))
}
