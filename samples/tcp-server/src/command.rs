//! What a line means. Pure.

use std::collections::BTreeMap;

/// What follows a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    Line(String),
    End,
}

/// Runs one command on the values.
pub fn run(line: &str, values: &mut BTreeMap<String, String>) -> Reply {
    let (verb, rest) = split(line);
    match (verb, split(rest)) {
        ("set", (key, value)) if !key.is_empty() && !value.is_empty() => {
            values.insert(key.to_owned(), value.to_owned());
            Reply::Line("ok".to_owned())
        }
        ("get", (key, "")) if !key.is_empty() => {
            Reply::Line(values.get(key).cloned().unwrap_or_else(|| "none".to_owned()))
        }
        ("quit", ("", "")) => Reply::End,
        _ => Reply::Line("error: set KEY VALUE, get KEY or quit".to_owned()),
    }
}

/// The first word, and what is after it.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    text.split_once(char::is_whitespace).map_or((text, ""), |(first, rest)| (first, rest.trim()))
}
