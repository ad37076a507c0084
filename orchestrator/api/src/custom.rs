//! Custom resources: what a CustomResourceDefinition says, and what its schemas do to objects — pruning, defaults,
//! validation, rules, columns. Pure functions of the definition, the object and the present.

use serde_json::Value;

use crate::field_error::{ErrorType, FieldError};

mod check;
mod columns;
mod correlate;
mod default;
mod definition;
mod format;
mod jsonpath;
mod lists;
mod number;
mod prune;
mod rules;
mod schema;
mod status;
mod structural;
mod validate_definition;

pub use columns::Columns;
pub use default::default;
pub use definition::{Conversion, Definition, ScalePaths, Version};
pub use prune::{embedded_metadata, prune};
pub use schema::Schema;
pub use status::{
    CLEANUP_FINALIZER, Names, condition, is_established, is_terminating, names, renew, set_condition,
};
pub(crate) use validate_definition::{
    create as validate_definition, update as validate_definition_update,
    update_status as validate_definition_status,
};

/// What is wrong with a new custom resource, or with the new state of one: values, lists, then rules.
/// What did not change is not judged again, so that a stricter schema does not lock old objects.
pub fn validate(schema: &Schema, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = check::check(schema, new, old);
    let old_is_good = |old| lists::check(schema, old).is_empty();
    if old.is_none_or(old_is_good) {
        errors.extend(lists::check(schema, new));
    }
    // Rules may rely on types and lengths: with those wrong, their messages would mislead.
    if errors.iter().any(blocks_rules) {
        let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
        if schema.has_rules() {
            errors.push(error(ErrorType::Invalid, "<nil>", Some(Value::Null), detail));
        }
        return errors;
    }
    if schema.has_rules() {
        errors.extend(rules::check(schema, new, old));
    }
    errors
}

fn blocks_rules(error: &FieldError) -> bool {
    use ErrorType::{Duplicate, Invalid, Required, TooLong, TooMany, TypeInvalid};
    let composite = error.kind == Invalid && error.field == "<nil>";
    composite || matches!(error.kind, Required | TooLong | Duplicate | TooMany | TypeInvalid)
}

/// What is wrong with the paths that the scale subresource reads.
pub fn validate_scale(paths: &ScalePaths, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for path in [&paths.replicas, &paths.status_replicas] {
        if let Some(value) = jsonpath::dotted(object, path).filter(|value| !value.is_null()) {
            let number = value.as_i64();
            let detail = match number {
                None => "should be an integer",
                Some(number) if number < 0 => "should be a non-negative integer",
                Some(number) if number > i64::from(i32::MAX) => "should be less than or equal to 2147483647",
                Some(_) => continue,
            };
            errors.push(error(ErrorType::Invalid, path.trim_start_matches('.'), Some(value.clone()), detail));
        }
    }
    errors
}

fn error(kind: ErrorType, field: &str, value: Option<Value>, detail: impl Into<String>) -> FieldError {
    FieldError { kind, field: field.to_owned(), value, detail: detail.into() }
}

#[cfg(test)]
mod tests;
