//! How deep values may nest. Reading stored JSON ends at 128 levels, and what walks over values is recursive: a
//! value that is deeper could be written but never be read, or exhaust the stack.

use serde_json::Value;

/// Levels of maps and lists that an object may have.
pub(crate) const LIMIT: usize = 100;

/// Levels of maps and lists in a value: 0 for a plain one. Not recursive itself.
pub(crate) fn of(value: &Value) -> usize {
    let mut deepest = 0;
    let mut open = vec![(value, 0)];
    while let Some((value, above)) = open.pop() {
        match value {
            Value::Array(items) => {
                deepest = deepest.max(above + 1);
                open.extend(items.iter().map(|item| (item, above + 1)));
            }
            Value::Object(fields) => {
                deepest = deepest.max(above + 1);
                open.extend(fields.values().map(|field| (field, above + 1)));
            }
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn levels() {
        let table = [(json!(1), 0), (json!([]), 1), (json!({"a": [1, {"b": 2}], "c": {}}), 3)];
        for (value, expected) in table {
            assert_eq!(of(&value), expected, "{value}");
        }
    }
}
