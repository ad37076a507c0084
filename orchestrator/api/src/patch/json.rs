//! JSON patch (RFC 6902), with limits on the number of operations and on what `copy` may add.

use json_patch::PatchOperation;
use serde_json::Value;

use super::PatchError;
use crate::depth;

/// As many operations as Kubernetes takes.
pub const MAX_OPERATIONS: usize = 10_000;
/// As many bytes as `copy` operations may add in all.
pub const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Applies the operations of a patch body one after the other; all or none take effect.
pub fn apply(current: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let operations: Vec<Value> = serde_json::from_slice(patch)
        .map_err(|e| PatchError::Malformed(format!("error decoding patch: {e}")))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let operations: Vec<PatchOperation> = serde_json::from_value(Value::Array(operations))
        .map_err(|e| PatchError::Malformed(format!("error decoding patch: {e}")))?;
    let mut object = current.clone();
    let mut copied = 0;
    for operation in &operations {
        if let PatchOperation::Copy(copy) = operation
            && let Ok(source) = copy.from.resolve(&object)
        {
            copied += size(source, MAX_COPIED_BYTES);
            if copied > MAX_COPIED_BYTES {
                let message = format!("Unable to copy more than {MAX_COPIED_BYTES} bytes in a JSON patch");
                return Err(PatchError::TooLarge(message));
            }
        }
        check_depth(operation, &object)?;
        json_patch::patch(&mut object, std::slice::from_ref(operation)).map_err(|e| {
            PatchError::Failed(format!(
                "the server rejected our request due to an error in our request: {} at {:?}",
                e.kind,
                operation.path().to_string()
            ))
        })?;
    }
    Ok(object)
}

/// Every operation may put one value below another, and there may be thousands: what they add up to must still be
/// something that can be read (and dropped) again.
fn check_depth(operation: &PatchOperation, object: &Value) -> Result<(), PatchError> {
    let added = match operation {
        PatchOperation::Add(add) => depth::of(&add.value),
        PatchOperation::Replace(replace) => depth::of(&replace.value),
        PatchOperation::Move(from) => from.from.resolve(object).map_or(0, depth::of),
        PatchOperation::Copy(from) => from.from.resolve(object).map_or(0, depth::of),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => 0,
    };
    if operation.path().count() + added > depth::LIMIT {
        let message = format!("the patch nests values more than {} levels deep", depth::LIMIT);
        return Err(PatchError::Malformed(message));
    }
    Ok(())
}

/// A lower bound of the bytes of a value; stops counting above the limit.
fn size(value: &Value, limit: usize) -> usize {
    let mut total = 0;
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        total += match value {
            Value::String(text) => text.len() + 2,
            Value::Array(list) => {
                open.extend(list);
                2 + list.len()
            }
            Value::Object(map) => {
                open.extend(map.values());
                2 + map.keys().map(|k| k.len() + 4).sum::<usize>()
            }
            _ => 4,
        };
        if total > limit {
            break;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(patch: Value) -> Result<Value, PatchError> {
        let current = json!({"metadata": {"name": "a", "labels": {"a/b": "1"}}, "spec": {"list": [1, 2]}});
        apply(&current, patch.to_string().as_bytes())
    }

    #[test]
    fn operations() {
        let patched = run(json!([
            {"op": "test", "path": "/metadata/name", "value": "a"},
            {"op": "replace", "path": "/metadata/labels/a~1b", "value": "2"},
            {"op": "add", "path": "/spec/list/-", "value": 3},
            {"op": "add", "path": "/spec/list/0", "value": 0},
            {"op": "copy", "from": "/metadata/name", "path": "/spec/name"},
            {"op": "move", "from": "/spec/name", "path": "/spec/other"},
            {"op": "remove", "path": "/spec/list/1"},
        ]));
        let expected = json!({"metadata": {"name": "a", "labels": {"a/b": "2"}}, "spec": {"list": [0, 2, 3], "other": "a"}});
        assert_eq!(patched.unwrap(), expected);
    }

    #[test]
    fn answers_to_bad_patches() {
        let code = |patch: Value| run(patch).unwrap_err().to_status().code;
        assert_eq!(code(json!([{"op": "test", "path": "/metadata/name", "value": "b"}])), 422);
        assert_eq!(code(json!([{"op": "remove", "path": "/nothing"}])), 422);
        assert_eq!(code(json!([{"op": "jump", "path": "/a"}])), 400);
        assert_eq!(code(json!({"op": "add"})), 400);
        let many = vec![json!({"op": "test", "path": "/metadata/name", "value": "a"}); MAX_OPERATIONS + 1];
        assert_eq!(code(many.into()), 413);
    }

    #[test]
    fn copies_that_double_are_stopped() {
        let mut patch = vec![json!({"op": "add", "path": "/x", "value": ["0123456789"]})];
        for _ in 0..60 {
            patch.push(json!({"op": "copy", "from": "/x", "path": "/x/0"}));
        }
        assert_eq!(run(patch.into()).unwrap_err().to_status().code, 413);
    }
}
