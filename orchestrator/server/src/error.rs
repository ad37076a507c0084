//! Failures as HTTP: every error that a client sees is a Kubernetes `Status`.

use http::{HeaderValue, Response, header};

use catamaran_api::status::{GroupResource, Status};
use catamaran_store::StoreError;

use crate::body::{self, Body};
use crate::media::{self, Layout};
use crate::negotiate::Media;

/// A failed operation on one object of a resource, as a Status.
pub(crate) fn from_store(error: StoreError, resource: GroupResource<'_>, name: &str) -> Status {
    match error {
        StoreError::NotFound => Status::not_found(resource, name),
        StoreError::Conflict { .. } => Status::modified(resource, name),
        StoreError::Compacted { asked, compacted, .. } => Status::too_old_resource_version(asked, compacted),
        StoreError::Future { asked, current } => Status::too_large_resource_version(asked, current),
        StoreError::SlowWatcher => Status::expired("the watcher was too slow; list again"),
        StoreError::Closed => Status::service_unavailable("the server is shutting down"),
        other => {
            tracing::error!(error = &other as &dyn std::error::Error, "the store failed");
            Status::internal_error(chain(&other))
        }
    }
}

/// An error with everything that caused it, for the one place where it is printed.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The response that carries a Status, as JSON.
pub(crate) fn response(status: &Status) -> Response<Body> {
    negotiated(status, Media::Json)
}

/// The response that carries a Status.
pub(crate) fn negotiated(status: &Status, media: Media) -> Response<Body> {
    let bytes = match media {
        // In Kubernetes' order of fields.
        Media::Json => status.to_json().into(),
        other => media::object(other, Layout::Compact, &status.to_value()).unwrap_or_default(),
    };
    let mut response = body::typed(status.code, media.as_str(), bytes);
    if let Some(seconds) = status.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// What Kubernetes answers outside of its resources.
pub(crate) fn page_not_found() -> Response<Body> {
    body::typed(404, "text/plain; charset=utf-8", "404 page not found\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_becomes_a_header() {
        let response = response(&Status::too_many_requests("later", 5));
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "5");
    }

    #[test]
    fn store_errors() {
        let pods = GroupResource::new("", "pods");
        let table = [
            (StoreError::NotFound, 404),
            (StoreError::Conflict { current: None }, 409),
            (StoreError::Compacted { asked: 1, compacted: 5, current: 9 }, 410),
            (StoreError::Future { asked: 10, current: 9 }, 504),
            (StoreError::Closed, 503),
        ];
        for (error, code) in table {
            assert_eq!(from_store(error, pods, "x").code, code);
        }
    }
}
