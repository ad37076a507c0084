//! YAML as Kubernetes reads and writes it: the booleans and octal numbers of YAML 1.1, anchors and merge keys, one document.

use serde_json::{Map, Value};
use serde_saphyr::options::DuplicateKeyPolicy;

/// Hands a deserializer over the first document to `read`. Duplicate keys reach the reader.
///
/// # Errors
/// What the parser or the reader says.
pub(crate) fn with<'b, R>(
    body: &'b [u8],
    read: impl for<'e> FnOnce(serde_saphyr::Deserializer<'b, 'e>) -> Result<R, serde_saphyr::Error>,
) -> Result<R, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::with_deserializer_from_slice_with_options(body, options, read)
}

/// An object as YAML in block form, so that readers of YAML 1.1 and of 1.2 read the same: text that could be taken for
/// something else stands in quotes, as JSON writes it.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => object(fields, 0, &mut out),
        Value::Array(items) if !items.is_empty() => array(items, 0, &mut out),
        other => {
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
    out
}

fn object(fields: &Map<String, Value>, depth: usize, out: &mut String) {
    for (at, (name, value)) in fields.iter().enumerate() {
        // The first field follows the dash of the item that it is in, if it is in one.
        if at > 0 || out.is_empty() || out.ends_with('\n') {
            out.push_str(&"  ".repeat(depth));
        }
        out.push_str(&plain_or_quoted(name));
        out.push(':');
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                out.push('\n');
                object(fields, depth + 1, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                array(items, depth, out);
            }
            other => {
                out.push(' ');
                out.push_str(&scalar(other));
                out.push('\n');
            }
        }
    }
}

fn array(items: &[Value], depth: usize, out: &mut String) {
    for item in items {
        if out.is_empty() || out.ends_with('\n') {
            out.push_str(&"  ".repeat(depth));
        }
        out.push_str("- ");
        match item {
            Value::Object(fields) if !fields.is_empty() => object(fields, depth + 1, out),
            Value::Array(items) if !items.is_empty() => array(items, depth + 1, out),
            other => {
                out.push_str(&scalar(other));
                out.push('\n');
            }
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => plain_or_quoted(text),
        other => other.to_string(),
    }
}

fn plain_or_quoted(text: &str) -> String {
    const WORDS: [&str; 12] =
        ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "infinity"];
    let mut bytes = text.bytes();
    let plain = bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/'))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode::{ContentType, Strictness, untyped};

    #[test]
    fn what_is_written_is_read_again() {
        let value = json!({
            "kind": "ConfigMap", "yes": "no", "empty": {}, "none": [], "null": null, "number": 1.5, "flag": true,
            "text": ["", "1", "1e3", "0x1", "~", "a: b", "- a", "#", "lines\nof text", "tab\t", "ü", "a/b.c-d_e", "off", "=", "<<"],
            "nested": [[1, [2, {"a": [3]}]], {"a": {"b": "c"}, "d": [{"e": 1, "f": [{}]}]}],
        });
        let text = text(&value);
        let read = untyped(text.as_bytes(), ContentType::Yaml, Strictness::Strict).unwrap();
        assert_eq!(read.object, value, "{text}");
        assert!(text.starts_with("empty: {}\n") && text.contains("\nkind: ConfigMap\n"), "{text}");
        assert!(text.contains("\"yes\": \"no\"\n"), "{text}");
    }

    #[test]
    fn other_values_stand_alone() {
        assert_eq!(text(&json!({})), "{}\n");
        assert_eq!(text(&json!([1, "a"])), "- 1\n- a\n");
        assert_eq!(text(&json!("x")), "x\n");
    }
}
