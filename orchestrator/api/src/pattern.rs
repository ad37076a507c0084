//! Regular expressions as Go writes them (RE2), which is what schemas and rules are written in.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use regex::{Regex, RegexBuilder};

/// Expressions that are kept compiled.
const KEPT: usize = 256;

/// The expression, if it was compiled by [`keep`] lately.
pub(crate) fn kept(text: &str) -> Option<Regex> {
    CACHE.lock().unwrap_or_else(PoisonError::into_inner).get(text).cloned()
}

/// Compiles an expression and keeps it for the next time.
pub(crate) fn keep(text: &str, limit: usize) -> Result<Regex, String> {
    let made = compile(text, limit)?;
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    // Expressions that objects bring along may push out the others: those are made again.
    if cache.len() >= KEPT {
        cache.clear();
    }
    cache.insert(text.to_owned(), made.clone());
    Ok(made)
}

static CACHE: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);

/// Compiles an expression; one that takes more than `limit` bytes is refused.
pub(crate) fn compile(text: &str, limit: usize) -> Result<Regex, String> {
    RegexBuilder::new(&translate(text)).size_limit(limit).build().map_err(|error| error.to_string())
}

/// In Go's classes `[`, `&&`, `--` and `~~` stand for themselves; here they would nest and combine classes.
fn translate(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    // Inside a class: how many characters were read of it.
    let mut class: Option<usize> = None;
    let mut last = '\0';
    while let Some(c) = chars.next() {
        match (class, c) {
            (_, '\\') => {
                out.push(c);
                out.extend(chars.next());
                class = class.map(|read| read + 1);
                last = '\0';
                continue;
            }
            (None, '[') => {
                class = Some(0);
                out.push(c);
                if chars.peek() == Some(&'^') {
                    out.extend(chars.next());
                }
                last = '\0';
                continue;
            }
            // A bracket at the beginning is one of the characters.
            (Some(0), ']') => out.push_str("\\]"),
            (Some(_), ']') => {
                class = None;
                out.push(c);
                continue;
            }
            (Some(_), '[') if chars.peek() == Some(&':') => {
                out.push(c);
                for inner in chars.by_ref() {
                    out.push(inner);
                    if inner == ']' {
                        break;
                    }
                }
            }
            (Some(_), '[') => out.push_str("\\["),
            (Some(_), '&' | '-' | '~') if last == c => {
                out.push('\\');
                out.push(c);
            }
            (_, c) => out.push(c),
        }
        class = class.map(|read| read + 1);
        last = c;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_gos() {
        let table = [
            ("^[[a]+$", "[a[", true),
            ("^[[:alpha:]_]+$", "ab_", true),
            ("^[a&&b]+$", "a&b", true),
            ("^[]a]+$", "]a", true),
            ("^[^]a]+$", "]", false),
            (r"^[\]\-a]+$", "]-a", true),
            ("^[+--]+$", ",", true),
            ("^[!-~]+$", "x~", true),
            (r"^\[x\]$", "[x]", true),
            ("^[~~]$", "~", true),
        ];
        for (text, value, expected) in table {
            assert_eq!(compile(text, 1 << 20).unwrap().is_match(value), expected, "{text} {value}");
        }
        assert!(compile("(", 1 << 20).is_err());
    }
}
