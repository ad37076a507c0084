//! Errors of the distribution API: a code, a message, an HTTP status.

use http::Response;
use serde_json::json;

use crate::body::{self, Body};

/// A refused request.
#[derive(Debug)]
pub(super) struct RegistryError {
    status: u16,
    code: &'static str,
    message: String,
}

impl RegistryError {
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        RegistryError { status, code, message: message.into() }
    }

    pub(super) fn name_invalid(name: &str) -> Self {
        RegistryError::new(400, "NAME_INVALID", format!("{name:?} is no repository name"))
    }

    pub(super) fn digest_invalid(message: impl Into<String>) -> Self {
        RegistryError::new(400, "DIGEST_INVALID", message)
    }

    pub(super) fn blob_unknown(digest: &str) -> Self {
        RegistryError::new(404, "BLOB_UNKNOWN", format!("blob {digest} is not in this repository"))
    }

    pub(super) fn manifest_unknown(reference: &str) -> Self {
        RegistryError::new(404, "MANIFEST_UNKNOWN", format!("manifest {reference} is not in this repository"))
    }

    pub(super) fn manifest_invalid(message: impl Into<String>) -> Self {
        RegistryError::new(400, "MANIFEST_INVALID", message)
    }

    pub(super) fn upload_unknown(id: &str) -> Self {
        RegistryError::new(404, "BLOB_UPLOAD_UNKNOWN", format!("there is no upload {id}"))
    }

    pub(super) fn upload_invalid(message: impl Into<String>) -> Self {
        RegistryError::new(400, "BLOB_UPLOAD_INVALID", message)
    }

    pub(super) fn range(message: impl Into<String>) -> Self {
        RegistryError::new(416, "BLOB_UPLOAD_INVALID", message)
    }

    pub(super) fn unsupported() -> Self {
        RegistryError::new(405, "UNSUPPORTED", "the operation is not supported")
    }

    pub(super) fn response(&self) -> Response<Body> {
        let error = json!({"errors": [{"code": self.code, "message": self.message}]});
        body::json(self.status, error.to_string())
    }
}

impl From<std::io::Error> for RegistryError {
    fn from(error: std::io::Error) -> Self {
        tracing::error!(%error, "the image registry's disk failed");
        RegistryError::new(500, "UNKNOWN", format!("the registry's disk failed: {error}"))
    }
}
