//! The cluster's certificate authority and its key for tokens, as controllers see them. They live in the server;
//! whoever wires the parts together hands them over.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

/// Whom a certificate request is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// CN.
    pub common_name: String,
    /// O.
    pub organizations: Vec<String>,
    /// Number of host names and addresses.
    pub hosts: usize,
    /// Whether there are alternative names of another kind.
    pub other_names: bool,
}

/// What only the holder of the keys can do. Errors are texts for people.
pub trait Authority: Send + Sync + 'static {
    /// Whom a request (PEM) is for.
    ///
    /// # Errors
    /// When it is no request.
    fn read(&self, request: &[u8]) -> Result<Subject, String>;

    /// A certificate (PEM) for a request.
    ///
    /// # Errors
    /// When it cannot be made.
    fn sign(&self, request: &[u8], usages: &[String], lasts: Duration) -> Result<String, String>;

    /// A token without an end for a service account (name and uid) that is kept in a Secret.
    ///
    /// # Errors
    /// When it cannot be made.
    fn token(&self, namespace: &str, account: (&str, &str), secret: &str) -> Result<String, String>;
}

/// A shared [`Authority`].
#[derive(Clone)]
pub struct Keys(Arc<dyn Authority>);

impl Keys {
    /// Shares an authority.
    pub fn new(authority: impl Authority) -> Self {
        Self(Arc::new(authority))
    }
}

impl Deref for Keys {
    type Target = dyn Authority;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Keys")
    }
}
