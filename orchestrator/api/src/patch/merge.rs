//! JSON merge patch (RFC 7386): objects are merged, null removes, everything else replaces.

use serde_json::Value;

use super::PatchError;

/// Merges a patch body into an object.
pub fn apply(current: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed("error decoding patch: a merge patch must be an object".into()));
    }
    let mut object = current.clone();
    json_patch::merge(&mut object, patch);
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merges() {
        let current = json!({"a": {"b": 1, "c": 2}, "l": [1, 2], "s": "x"});
        let patch = json!({"a": {"b": null, "d": {"e": null, "f": 1}}, "l": [3], "s": {"t": 1}, "n": null});
        let expected = json!({"a": {"c": 2, "d": {"f": 1}}, "l": [3], "s": {"t": 1}});
        assert_eq!(apply(&current, &patch).unwrap(), expected);
        assert!(apply(&current, &json!([1])).is_err());
        assert!(apply(&current, &Value::Null).is_err());
    }
}
