//! The reasons of failures and their HTTP codes.

use serde::{Deserialize, Serialize};

/// Machine-readable reason of a failure (`metav1.StatusReason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// 401: no valid credentials.
    Unauthorized,
    /// 403: known, but not allowed.
    Forbidden,
    /// 404.
    NotFound,
    /// 409 on creation.
    AlreadyExists,
    /// 409 on a stale resourceVersion or on fields that another manager owns.
    Conflict,
    /// 410: a watch or object that is gone.
    Gone,
    /// 422: causes say which fields.
    Invalid,
    /// 410: a resourceVersion or continue token that is too old.
    Expired,
    /// 500 with a retry: the server could not do it in time.
    ServerTimeout,
    /// 500: the store holds what cannot be decoded.
    StorageReadError,
    /// 504.
    Timeout,
    /// 429.
    TooManyRequests,
    /// 400.
    BadRequest,
    /// 405.
    MethodNotAllowed,
    /// 406.
    NotAcceptable,
    /// 413.
    RequestEntityTooLarge,
    /// 415.
    UnsupportedMediaType,
    /// 500.
    InternalError,
    /// 503.
    ServiceUnavailable,
}

impl Reason {
    /// The HTTP status code that goes with the reason.
    pub fn code(self) -> u16 {
        match self {
            Reason::BadRequest => 400,
            Reason::Unauthorized => 401,
            Reason::Forbidden => 403,
            Reason::NotFound => 404,
            Reason::MethodNotAllowed => 405,
            Reason::NotAcceptable => 406,
            Reason::AlreadyExists | Reason::Conflict => 409,
            Reason::Gone | Reason::Expired => 410,
            Reason::RequestEntityTooLarge => 413,
            Reason::UnsupportedMediaType => 415,
            Reason::Invalid => 422,
            Reason::TooManyRequests => 429,
            Reason::ServerTimeout | Reason::StorageReadError | Reason::InternalError => 500,
            Reason::ServiceUnavailable => 503,
            Reason::Timeout => 504,
        }
    }
}
