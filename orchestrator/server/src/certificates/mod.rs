//! CertificateSigningRequests: what the server itself sets and refuses (`admit`), what a request says (`request`), and
//! certificates from the cluster's authority (`issue`, in DER by `der`). Who approves and signs is a controller.

mod admit;
mod der;
mod issue;
mod request;

pub(crate) use admit::{create, update};
pub(crate) use issue::issue;
pub use issue::{IssueError, Order};
pub use request::{RequestError, RequestSubject};

/// API group.
pub(crate) const GROUP: &str = "certificates.k8s.io";
