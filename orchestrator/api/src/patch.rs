//! The four kinds of patches: JSON patch, merge patch, strategic merge patch, server-side apply.
//! Each is a pure function from the current object and the patch to the new object.

pub mod apply;
pub mod json;
pub mod merge;
pub mod strategic;

use crate::status::Status;

/// Why a patch could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The body is no patch of its kind (400).
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: a failed test, a missing path, a missing merge key (422).
    #[error("{0}")]
    Failed(String),
    /// More operations or copied bytes than are allowed (413).
    #[error("{0}")]
    TooLarge(String),
    /// Fields that others own (409).
    #[error("{0}")]
    Conflict(Box<Status>),
}

impl PatchError {
    /// The answer to the client.
    pub fn to_status(&self) -> Status {
        match self {
            PatchError::Malformed(message) => Status::bad_request(message.clone()),
            PatchError::TooLarge(message) => Status::request_entity_too_large(message),
            PatchError::Failed(message) => Status::unprocessable(message.clone()),
            PatchError::Conflict(status) => (**status).clone(),
        }
    }
}
