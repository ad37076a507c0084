//! Questions about an API error, and the chain of causes as one line for the log.

use std::error::Error;
use std::fmt;

/// Is the object not there (404)?
#[must_use]
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Was the write refused because somebody else wrote first (409 `Conflict`)?
#[must_use]
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason == "Conflict")
}

/// Is there an object of this name already (409 `AlreadyExists`)?
#[must_use]
pub fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists")
}

/// Was a creation refused because its namespace is being deleted (403 with cause `NamespaceTerminating`)?
#[must_use]
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status.code == 403
        && status
            .details
            .as_ref()
            .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
}

/// Did the server answer at all? When it did not, the write may have happened.
#[must_use]
pub fn is_answer(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code != 504)
}

/// Is there a passing disagreement (conflict, already gone) anywhere in the chain of causes? Such an error
/// is part of normal work and not worth a warning.
#[must_use]
pub fn is_transient(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(api) = current.downcast_ref::<kube::Error>() {
            return is_conflict(api) || is_not_found(api) || is_namespace_terminating(api);
        }
        cause = current.source();
    }
    false
}

/// An error with all its causes on one line: `outer: inner: innermost`.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = String::new();
        let mut cause = Some(self.0);
        while let Some(error) = cause {
            // The library prints the whole Status with its debug form; the server's message says it all.
            let (text, next) = match error.downcast_ref::<kube::Error>() {
                Some(kube::Error::Api(status)) => (status.message.clone(), None),
                _ => (error.to_string(), error.source()),
            };
            // Some libraries print their cause themselves; do not say it twice.
            if last.is_empty() {
                f.write_str(&text)?;
            } else if !last.contains(&text) {
                write!(f, ": {text}")?;
            }
            last = text;
            cause = next;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write the status")]
    struct Outer(#[source] kube::Error);

    fn api(code: u16, reason: &str) -> kube::Error {
        kube::Error::Api(Status::failure("said so", reason).with_code(code).boxed())
    }

    #[test]
    fn kinds_of_answers() {
        assert!(is_not_found(&api(404, "NotFound")));
        assert!(is_conflict(&api(409, "Conflict")));
        assert!(!is_conflict(&api(409, "AlreadyExists")));
        assert!(is_already_exists(&api(409, "AlreadyExists")));
        assert!(!is_namespace_terminating(&api(403, "Forbidden")));
        assert!(is_answer(&api(422, "Invalid")));
        assert!(!is_answer(&api(504, "Timeout")));
    }

    #[test]
    fn a_conflict_below_is_found() {
        assert!(is_transient(&Outer(api(409, "Conflict"))));
        assert!(!is_transient(&Outer(api(500, "InternalError"))));
    }

    #[test]
    fn the_chain_says_every_cause_once() {
        let text = Chain(&Outer(api(500, "InternalError"))).to_string();
        assert_eq!(text, "cannot write the status: said so");
    }
}
