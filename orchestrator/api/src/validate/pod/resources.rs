//! Requests and limits.

use serde_json::Value;

use super::super::Errors;
use super::super::check::{messages, quantity};
use crate::field_error::{FieldError, Path};
use crate::fields::{at, map};
use crate::name;
use crate::quantity::Quantity;

/// Resources of a container.
pub(super) fn container(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(resources) = at(container, "resources") else { return };
    let path = path.child("resources");
    let (limits, requests) = (path.child("limits"), path.child("requests"));
    for (resource, value) in map(resources, "limits") {
        amount(resource, value, &limits, errors);
    }
    for (resource, value) in map(resources, "requests") {
        amount(resource, value, &requests, errors);
        let limit = resources.get("limits").and_then(|l| l.get(resource));
        request_within_limit(resource, value, limit, &requests, errors);
    }
}

/// The name and the amount of one resource.
pub(super) fn amount(resource: &str, value: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.key(resource);
    messages(name::qualified_name(resource), resource, &path, errors);
    let standard =
        matches!(resource, "cpu" | "memory" | "ephemeral-storage") || resource.starts_with("hugepages-");
    if !standard && !resource.contains('/') {
        errors.push(FieldError::invalid(&path, resource, "must be a standard resource for containers"));
    }
    if let Some(amount) = quantity(value, &path, errors)
        && !standard
        && !amount.is_integer()
    {
        errors.push(FieldError::invalid(&path, amount.to_string(), "must be an integer"));
    }
}

fn request_within_limit(
    resource: &str,
    request: &Value,
    limit: Option<&Value>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let parsed = |value: &Value| Quantity::from_value(value).ok();
    let Some((request, limit)) = parsed(request).zip(limit.and_then(parsed)) else { return };
    let native = !resource.contains('/') && !resource.starts_with("hugepages-");
    let key = path.key(resource);
    if native && request > limit {
        let message = format!("must be less than or equal to {resource} limit of {limit}");
        errors.push(FieldError::invalid(&key, request.to_string(), message));
    } else if !native && request != limit {
        let message = format!("must be equal to {resource} limit of {limit}");
        errors.push(FieldError::invalid(&key, request.to_string(), message));
    }
}
