//! `meta.k8s.io/v1 Status`: what every refusal of the API looks like, with the words that clients match on.
//! Codes and wordings follow Kubernetes' `apimachinery/pkg/api/errors`.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

mod reason;

pub use crate::field_error::{ErrorType, FieldError, Path};
pub use reason::Reason;

/// One cause inside `details.causes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// For example `FieldValueInvalid`, `FieldManagerConflict`, `ResourceVersionTooLarge`; empty for internal errors.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What a person reads.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Path of the field, empty where none is meant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// `status.details`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// Name of the object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Resource (plural) for most reasons, kind for `Invalid`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// UID of the object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One for each thing that was wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds after which the same request may succeed; also to be sent as `Retry-After`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Whether the operation worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The operation was done.
    Success,
    /// The operation was refused or broke; `reason` and `message` say why.
    Failure,
}

/// `metav1.ListMeta` as far as a Status uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusMeta {
    /// A token for an inconsistent continuation, on `Expired` list pages.
    #[serde(rename = "continue", default, skip_serializing_if = "Option::is_none")]
    pub continue_token: Option<Box<str>>,
}

/// `meta.k8s.io/v1 Status`, also the error type of the API's pure functions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// List metadata, nearly always empty.
    #[serde(default)]
    pub metadata: StatusMeta,
    /// Success or Failure.
    pub status: Outcome,
    /// What a person reads.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What a program reads; `None` on success and for unknown failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// About which object, and the causes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Details>>,
    /// HTTP status code.
    pub code: u16,
}

/// A failed [`Status`]; the name that Kubernetes uses for the error.
pub type StatusError = Status;

/// Group and plural, displayed as `pods` or `deployments.apps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupResource<'a> {
    /// API group, empty for core.
    pub group: &'a str,
    /// Plural name.
    pub resource: &'a str,
}

impl<'a> GroupResource<'a> {
    /// From group and plural.
    pub fn new(group: &'a str, resource: &'a str) -> Self {
        Self { group, resource }
    }

    fn details(self, name: &str) -> Details {
        Details {
            name: name.into(),
            group: self.group.into(),
            kind: self.resource.into(),
            ..Details::default()
        }
    }
}

impl fmt::Display for GroupResource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group {
            "" => f.write_str(self.resource),
            group => write!(f, "{}.{group}", self.resource),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// The message of a stale resourceVersion, to be used with [`Status::conflict`].
pub const OPTIMISTIC_LOCK: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

impl Status {
    fn failure(reason: Reason, message: impl Into<String>, details: Option<Details>) -> Self {
        Status {
            metadata: StatusMeta::default(),
            status: Outcome::Failure,
            message: message.into(),
            reason: Some(reason),
            details: details.map(Box::new),
            code: reason.code(),
        }
    }

    /// What a deletion returns: `Success` with name, group, plural and uid.
    pub fn success(resource: GroupResource<'_>, name: &str, uid: &str) -> Self {
        let details = Details { uid: uid.into(), ..resource.details(name) };
        Status {
            metadata: StatusMeta::default(),
            status: Outcome::Success,
            message: String::new(),
            reason: None,
            details: Some(Box::new(details)),
            code: 200,
        }
    }

    /// 404 `pods "x" not found`.
    pub fn not_found(resource: GroupResource<'_>, name: &str) -> Self {
        Self::failure(
            Reason::NotFound,
            format!("{resource} {} not found", quoted(name)),
            Some(resource.details(name)),
        )
    }

    /// 404 for a path that names no resource that is served.
    pub fn no_such_resource() -> Self {
        let details = Details::default();
        Self::failure(Reason::NotFound, "the server could not find the requested resource", Some(details))
    }

    /// 409 `pods "x" already exists`.
    pub fn already_exists(resource: GroupResource<'_>, name: &str) -> Self {
        Self::failure(
            Reason::AlreadyExists,
            format!("{resource} {} already exists", quoted(name)),
            Some(resource.details(name)),
        )
    }

    /// 409 on creation while the old object waits for its finalizers.
    pub fn being_deleted(resource: GroupResource<'_>, name: &str) -> Self {
        let message = format!("object is being deleted: {resource} {} already exists", quoted(name));
        Self::failure(Reason::AlreadyExists, message, Some(resource.details(name)))
    }

    /// 409 when no generated name was free after all attempts.
    pub fn generate_name_conflict(resource: GroupResource<'_>, name: &str) -> Self {
        let message = format!(
            "{resource} {} already exists, the server was not able to generate a unique name for the object",
            quoted(name)
        );
        let details = Details { retry_after_seconds: 1, ..resource.details(name) };
        Self::failure(Reason::AlreadyExists, message, Some(details))
    }

    /// 401; what Kubernetes tells an unknown caller is only `Unauthorized`.
    pub fn unauthorized(reason: &str) -> Self {
        Self::failure(Reason::Unauthorized, if reason.is_empty() { "not authorized" } else { reason }, None)
    }

    /// 403 `pods "x" is forbidden: WHY`; without name `pods is forbidden: WHY`; without resource `forbidden: WHY`.
    pub fn forbidden(resource: GroupResource<'_>, name: &str, why: &str) -> Self {
        let message = match (resource.resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{resource} is forbidden: {why}"),
            _ => format!("{resource} {} is forbidden: {why}", quoted(name)),
        };
        Self::failure(Reason::Forbidden, message, Some(resource.details(name)))
    }

    /// 409 `Operation cannot be fulfilled on pods "x": WHY`.
    pub fn conflict(resource: GroupResource<'_>, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {}: {why}", quoted(name));
        Self::failure(Reason::Conflict, message, Some(resource.details(name)))
    }

    /// 409 for a stale resourceVersion.
    pub fn modified(resource: GroupResource<'_>, name: &str) -> Self {
        Self::conflict(resource, name, OPTIMISTIC_LOCK)
    }

    /// 409 for a uid precondition that does not hold.
    pub fn uid_precondition(resource: GroupResource<'_>, name: &str, wanted: &str, found: &str) -> Self {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
        Self::conflict(resource, name, &why)
    }

    /// 409 of a server-side apply: one cause for each field that another manager owns.
    pub fn apply_conflict(causes: Vec<Cause>, message: impl Into<String>) -> Self {
        let details = Details { causes, ..Details::default() };
        Self::failure(Reason::Conflict, message, Some(details))
    }

    /// 410 `Gone`.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::failure(Reason::Gone, message, None)
    }

    /// 410 `Expired`.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(Reason::Expired, message, None)
    }

    /// 410 of a watch or list from a revision whose history is compacted.
    pub fn too_old_resource_version(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// 410 of a continue token whose revision is compacted; `token` resumes at the same key, inconsistently.
    pub fn continue_expired(token: Option<String>) -> Self {
        let mut status = Self::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
        );
        status.metadata.continue_token = token.map(String::into_boxed_str);
        status
    }

    /// 422 `Deployment.apps "x" is invalid: …`, one cause for each error.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let causes = errors.iter().map(FieldError::to_cause).collect();
        let kind_and_group = GroupResource::new(group, kind);
        let mut message = format!("{kind_and_group} {} is invalid", quoted(name));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&aggregate(errors));
        }
        let details = Details { causes, ..kind_and_group.details(name) };
        Self::failure(Reason::Invalid, message, Some(details))
    }

    /// 422 without causes: a patch that does not fit its object.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::failure(Reason::Invalid, message, Some(Details::default()))
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(Reason::BadRequest, message, None)
    }

    /// 405 `patch is not supported on resources of kind "x"`.
    pub fn method_not_supported(resource: GroupResource<'_>, action: &str) -> Self {
        let message =
            format!("{action} is not supported on resources of kind {}", quoted(&resource.to_string()));
        Self::failure(Reason::MethodNotAllowed, message, Some(resource.details("")))
    }

    /// 405 for a verb that a path does not have at all.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::failure(Reason::MethodNotAllowed, message, Some(Details::default()))
    }

    /// 406, with the media types that are served.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::failure(Reason::NotAcceptable, message, None)
    }

    /// 415, with the media types that are understood.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::failure(Reason::UnsupportedMediaType, message, None)
    }

    /// 413 `Request entity too large: …`.
    pub fn request_entity_too_large(message: &str) -> Self {
        Self::failure(Reason::RequestEntityTooLarge, format!("Request entity too large: {message}"), None)
    }

    /// 429 with a number of seconds to wait.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let details = Details { retry_after_seconds, ..Details::default() };
        Self::failure(Reason::TooManyRequests, message, Some(details))
    }

    /// 500 with a retry: the operation was not completed.
    pub fn server_timeout(resource: GroupResource<'_>, operation: &str, retry_after_seconds: u32) -> Self {
        let message = format!(
            "The {operation} operation against {resource} could not be completed at this time, please try again."
        );
        let details = Details { retry_after_seconds, ..resource.details(operation) };
        Self::failure(Reason::ServerTimeout, message, Some(details))
    }

    /// 504 `Timeout: …`.
    pub fn timeout(message: &str, retry_after_seconds: u32) -> Self {
        let details = Details { retry_after_seconds, ..Details::default() };
        Self::failure(Reason::Timeout, format!("Timeout: {message}"), Some(details))
    }

    /// 504 for a resourceVersion that the store has not reached.
    pub fn too_large_resource_version(asked: u64, current: u64) -> Self {
        let mut status =
            Self::timeout(&format!("Too large resource version: {asked}, current: {current}"), 1);
        if let Some(details) = &mut status.details {
            details.causes.push(Cause {
                reason: "ResourceVersionTooLarge".into(),
                message: "Too large resource version".into(),
                field: String::new(),
            });
        }
        status
    }

    /// 503.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::failure(Reason::ServiceUnavailable, message, None)
    }

    /// 500 `Internal error occurred: …`.
    pub fn internal_error(error: impl fmt::Display) -> Self {
        let message = error.to_string();
        let causes = vec![Cause { message: message.clone(), ..Cause::default() }];
        let details = Details { causes, ..Details::default() };
        Self::failure(Reason::InternalError, format!("Internal error occurred: {message}"), Some(details))
    }

    /// Adds a cause, for reasons whose constructor takes none (such as `NamespaceTerminating` on `Forbidden`).
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Self {
        let cause = Cause { reason: reason.into(), message: message.into(), field: field.into() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// The value for a `Retry-After` header, when there is one.
    pub fn retry_after(&self) -> Option<u32> {
        self.details.as_ref().map(|d| d.retry_after_seconds).filter(|&s| s > 0)
    }

    /// The object with `kind` and `apiVersion`, as it goes over the wire.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(Wire { kind: "Status", api_version: "v1", status: self })
            .expect("a Status holds strings and numbers only")
    }

    /// The bytes of [`Status::to_value`], in Kubernetes' order of fields.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&Wire { kind: "Status", api_version: "v1", status: self })
            .expect("a Status holds strings and numbers only")
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    kind: &'static str,
    api_version: &'static str,
    #[serde(flatten)]
    status: &'a Status,
}

/// Joins errors as Kubernetes' aggregate does: one plainly, several as `[a, b]`, equal ones once.
fn aggregate(errors: &[FieldError]) -> String {
    let mut texts: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// A string in double quotes, escaped as Go's `%q` does it.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PODS: GroupResource<'static> = GroupResource { group: "", resource: "pods" };
    const DEPLOYMENTS: GroupResource<'static> = GroupResource { group: "apps", resource: "deployments" };

    #[test]
    fn words_and_codes() {
        let cases: Vec<(Status, u16, &str)> = vec![
            (Status::not_found(PODS, "x"), 404, "pods \"x\" not found"),
            (Status::not_found(DEPLOYMENTS, "x"), 404, "deployments.apps \"x\" not found"),
            (Status::already_exists(PODS, "x"), 409, "pods \"x\" already exists"),
            (Status::being_deleted(PODS, "x"), 409, "object is being deleted: pods \"x\" already exists"),
            (Status::unauthorized(""), 401, "not authorized"),
            (Status::forbidden(PODS, "", "no"), 403, "pods is forbidden: no"),
            (Status::forbidden(PODS, "x", "no"), 403, "pods \"x\" is forbidden: no"),
            (Status::forbidden(GroupResource::new("", ""), "", "no"), 403, "forbidden: no"),
            (
                Status::modified(PODS, "x"),
                409,
                "Operation cannot be fulfilled on pods \"x\": the object has been modified; please apply your changes to the latest version and try again",
            ),
            (Status::too_old_resource_version(3, 7), 410, "too old resource version: 3 (7)"),
            (
                Status::method_not_supported(DEPLOYMENTS, "deletecollection"),
                405,
                "deletecollection is not supported on resources of kind \"deployments.apps\"",
            ),
            (
                Status::too_large_resource_version(9, 5),
                504,
                "Timeout: Too large resource version: 9, current: 5",
            ),
            (
                Status::not_acceptable(&["application/json", "application/yaml"]),
                406,
                "only the following media types are accepted: application/json, application/yaml",
            ),
            (
                Status::unsupported_media_type(&["application/json"]),
                415,
                "the body of the request was in an unknown format - accepted media types include: application/json",
            ),
            (
                Status::request_entity_too_large("limit is 3145728"),
                413,
                "Request entity too large: limit is 3145728",
            ),
            (Status::too_many_requests("slow down", 1), 429, "slow down"),
            (Status::internal_error("boom"), 500, "Internal error occurred: boom"),
        ];
        for (status, code, message) in cases {
            assert_eq!((status.code, status.message.as_str()), (code, message));
        }
    }

    #[test]
    fn wire_form() {
        let text = String::from_utf8(Status::not_found(DEPLOYMENTS, "web").to_json()).unwrap();
        assert_eq!(
            text,
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"deployments.apps \"web\" not found","reason":"NotFound","details":{"name":"web","group":"apps","kind":"deployments"},"code":404}"#
        );
        let expired = Status::continue_expired(Some("abc".into())).to_value();
        assert_eq!(expired["metadata"], json!({"continue": "abc"}));
        assert_eq!(Status::too_large_resource_version(9, 5).retry_after(), Some(1));
    }

    #[test]
    fn reads_back_what_it_writes() {
        let status = Status::forbidden(PODS, "x", "no").with_cause("NamespaceTerminating", "m", "");
        assert_eq!(serde_json::from_value::<Status>(status.to_value()).unwrap(), status);
    }

    #[test]
    fn invalid_lists_its_causes() {
        let root = Path::root("spec");
        let one = FieldError::required(&root.child("selector"), "");
        let two = FieldError::invalid(&root.child("replicas"), -1, "must be greater than or equal to 0");
        let single = Status::invalid("apps", "Deployment", "web", std::slice::from_ref(&one));
        assert_eq!(single.message, "Deployment.apps \"web\" is invalid: spec.selector: Required value");
        let both = Status::invalid("apps", "Deployment", "web", &[one.clone(), two, one]);
        assert_eq!(
            both.message,
            "Deployment.apps \"web\" is invalid: [spec.selector: Required value, spec.replicas: Invalid value: -1: must be greater than or equal to 0]"
        );
        let value = both.to_value();
        assert_eq!(value["code"], 422);
        assert_eq!(
            value["details"]["causes"][1],
            json!({"reason": "FieldValueInvalid", "message": "Invalid value: -1: must be greater than or equal to 0", "field": "spec.replicas"})
        );
    }

    #[test]
    fn quotes_as_go_does() {
        assert_eq!(quoted("a\"b\\c\n\u{1}é'"), "\"a\\\"b\\\\c\\n\\x01é'\"");
    }
}
