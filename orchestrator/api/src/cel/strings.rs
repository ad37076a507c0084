//! Methods of texts. Places are counted in characters.

use regex::Regex;

use super::convert;
use super::eval::{EvalError, Result, Scope};
use super::ops::as_index;
use super::value::Val;

/// Patterns that take more memory than this are refused.
const PATTERN_LIMIT: usize = 512 * 1024;
/// What making an automaton costs: about a millisecond.
const PATTERN_COST: usize = 20_000;

fn pattern(scope: &Scope<'_, '_>, text: &str) -> Result<Regex> {
    scope.spend(text.len() / 10)?;
    if let Some(kept) = crate::pattern::kept(text) {
        return Ok(kept);
    }
    scope.spend(PATTERN_COST)?;
    let made = crate::pattern::keep(text, PATTERN_LIMIT);
    made.map_err(|error| EvalError::Failed(format!("invalid regular expression: {error}")))
}

fn int<'a>(number: usize) -> Val<'a> {
    Val::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

/// A method of a text; none when there is no such.
pub(super) fn method<'a>(
    scope: &Scope<'a, '_>,
    text: &str,
    name: &str,
    arguments: &[Val<'a>],
) -> Result<Option<Val<'a>>> {
    let owned = |text: String| Val::Text(text.into());
    Ok(Some(match (name, arguments) {
        ("size", []) => int(text.chars().count()),
        ("contains", [Val::Text(part)]) => Val::Bool(text.contains(&**part)),
        ("startsWith", [Val::Text(part)]) => Val::Bool(text.starts_with(&**part)),
        ("endsWith", [Val::Text(part)]) => Val::Bool(text.ends_with(&**part)),
        ("matches", [Val::Text(expression)]) => Val::Bool(pattern(scope, expression)?.is_match(text)),
        ("find", [Val::Text(expression)]) => {
            let found = pattern(scope, expression)?.find(text).map_or("", |found| found.as_str()).to_owned();
            owned(found)
        }
        ("findAll", [Val::Text(expression), rest @ ..]) => {
            let most = limit(rest)?;
            let found = pattern(scope, expression)?;
            Val::list(
                found.find_iter(text).take(most).map(|found| owned(found.as_str().to_owned())).collect(),
            )
        }
        ("lowerAscii", []) => owned(text.to_ascii_lowercase()),
        ("upperAscii", []) => owned(text.to_ascii_uppercase()),
        ("trim", []) => owned(text.trim().to_owned()),
        ("reverse", []) => owned(text.chars().rev().collect()),
        ("charAt", [at]) => {
            let at = place(at, text, "charAt")?;
            owned(text.chars().nth(at).map(String::from).unwrap_or_default())
        }
        ("substring", [from]) => {
            let from = place(from, text, "substring")?;
            owned(text.chars().skip(from).collect())
        }
        ("substring", [from, to]) => {
            let (from, to) = (place(from, text, "substring")?, place(to, text, "substring")?);
            if to < from {
                return Err(EvalError::Failed(format!("invalid substring range. start: {from}, end: {to}")));
            }
            owned(text.chars().skip(from).take(to - from).collect())
        }
        ("indexOf", [Val::Text(part), rest @ ..]) => index_of(text, part, rest)?,
        ("lastIndexOf", [Val::Text(part), rest @ ..]) => last_index_of(text, part, rest)?,
        ("replace", [Val::Text(from), Val::Text(to), rest @ ..]) => {
            let most = limit(rest)?;
            let hits = if from.is_empty() { text.len() + 1 } else { text.len() / from.len() };
            scope.spend(hits.saturating_mul(to.len()) / 10)?;
            owned(if most == usize::MAX {
                text.replace(&**from, to)
            } else {
                text.replacen(&**from, to, most)
            })
        }
        ("split", [Val::Text(separator), rest @ ..]) => {
            let most = limit(rest)?;
            scope.spend(text.len())?;
            Val::list(match (most, &**separator) {
                (0, _) => Vec::new(),
                (most, "") => split_characters(text, most).into_iter().map(owned).collect(),
                (most, separator) => {
                    text.splitn(most, separator).map(|part| owned(part.to_owned())).collect()
                }
            })
        }
        ("format", [list]) => owned(format(scope, text, list)?),
        _ => return Ok(None),
    }))
}

/// How often, at most; below zero there is no limit.
fn limit(arguments: &[Val<'_>]) -> Result<usize> {
    match arguments {
        [] => Ok(usize::MAX),
        [most] => {
            let most = as_index(most).ok_or_else(|| EvalError::NoOverload("limit must be an int".into()))?;
            Ok(usize::try_from(most).unwrap_or(usize::MAX))
        }
        _ => Err(EvalError::NoOverload("too many arguments".into())),
    }
}

fn split_characters(text: &str, most: usize) -> Vec<String> {
    let mut parts: Vec<String> = text.chars().map(String::from).collect();
    if parts.len() > most {
        let rest = parts.split_off(most - 1).concat();
        parts.push(rest);
    }
    parts
}

fn place(at: &Val<'_>, text: &str, name: &str) -> Result<usize> {
    let wrong = || EvalError::Failed(format!("{name}: index out of range"));
    let at = as_index(at).and_then(|at| usize::try_from(at).ok()).ok_or_else(wrong)?;
    if at > text.chars().count() { Err(wrong()) } else { Ok(at) }
}

fn index_of<'a>(text: &str, part: &str, rest: &[Val<'_>]) -> Result<Val<'a>> {
    let from = match rest {
        [] => 0,
        [from, ..] => place(from, text, "indexOf")?,
    };
    let byte = text.char_indices().nth(from).map_or(text.len(), |(at, _)| at);
    Ok(match text[byte..].find(part) {
        Some(found) => int(from + text[byte..byte + found].chars().count()),
        None => Val::Int(-1),
    })
}

fn last_index_of<'a>(text: &str, part: &str, rest: &[Val<'_>]) -> Result<Val<'a>> {
    let end = match rest {
        [] => text.len(),
        [last, ..] => {
            let last = place(last, text, "lastIndexOf")?;
            let byte = text.char_indices().nth(last).map_or(text.len(), |(at, _)| at);
            (byte + part.len()).min(text.len())
        }
    };
    let end = (0..=end).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    Ok(match text[..end].rfind(part) {
        Some(found) => int(text[..found].chars().count()),
        None => Val::Int(-1),
    })
}

/// `"%s has %d".format([name, count])`.
fn format<'a>(scope: &Scope<'a, '_>, text: &str, list: &Val<'a>) -> Result<String> {
    let mut values = list.items().ok_or_else(|| EvalError::NoOverload("format needs a list".into()))?;
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut precision = String::new();
        if chars.peek() == Some(&'.') {
            chars.next();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                precision.push(digit);
            }
        }
        let verb = chars.next().ok_or_else(|| EvalError::Failed("format ends in %".into()))?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = values.next().ok_or_else(|| EvalError::Failed("format: too few arguments".into()))?;
        scope.spend(value.weight() / 10)?;
        let precision = precision.parse::<usize>().ok().filter(|digits| *digits <= 100).unwrap_or(6);
        out.push_str(&one(verb, precision, &value)?);
    }
    Ok(out)
}

fn one(verb: char, precision: usize, value: &Val<'_>) -> Result<String> {
    let wrong = || EvalError::Failed(format!("format: %{verb} does not take a {}", value.type_name()));
    #[allow(clippy::cast_precision_loss)]
    let number = || match value {
        Val::Double(value) => Some(*value),
        Val::Int(value) => Some(*value as f64),
        Val::Uint(value) => Some(*value as f64),
        _ => None,
    };
    Ok(match (verb, value) {
        ('s', Val::Null) => "null".to_owned(),
        ('s', Val::Type(name)) => (*name).to_owned(),
        ('s', value) if value.list_len().is_some() => {
            let items: Result<Vec<String>> =
                value.items().into_iter().flatten().map(|item| one('s', precision, &item)).collect();
            format!("[{}]", items?.join(", "))
        }
        ('s', value) => match convert::call("string", value) {
            Some(Ok(Val::Text(text))) => text.into_owned(),
            _ => return Err(wrong()),
        },
        ('d', Val::Int(value)) => value.to_string(),
        ('d', Val::Uint(value)) => value.to_string(),
        ('f', _) => format!("{:.precision$}", number().ok_or_else(wrong)?),
        ('e', _) => format!("{:.precision$e}", number().ok_or_else(wrong)?),
        ('b', Val::Int(value)) => format!("{value:b}"),
        ('b', Val::Bool(value)) => u8::from(*value).to_string(),
        ('x', Val::Int(value)) => format!("{value:x}"),
        ('X', Val::Int(value)) => format!("{value:X}"),
        ('x', Val::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('o', Val::Int(value)) => format!("{value:o}"),
        _ => return Err(wrong()),
    })
}
