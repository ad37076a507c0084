//! The server's keys as controllers use them: the one place that knows both.

use std::time::Duration;

use catamaran_controllers::{Authority, Subject};
use catamaran_server::{Order, RequestSubject, Server};
use jiff::SignedDuration;

/// Signs with the keys of a server in this process.
pub(crate) struct ServerKeys(pub(crate) Server);

impl Authority for ServerKeys {
    fn read(&self, request: &[u8]) -> Result<Subject, String> {
        let found = RequestSubject::of(request).map_err(|error| error.to_string())?;
        Ok(Subject {
            hosts: found.names.len() + found.addresses.len(),
            common_name: found.common_name,
            organizations: found.organizations,
            other_names: found.other_names,
        })
    }

    fn sign(&self, request: &[u8], usages: &[String], lasts: Duration) -> Result<String, String> {
        let lasts = SignedDuration::try_from(lasts).map_err(|error| error.to_string())?;
        self.0.sign(&Order { request, usages, lasts }).map_err(|error| error.to_string())
    }

    fn token(&self, namespace: &str, account: (&str, &str), secret: &str) -> Result<String, String> {
        self.0.legacy_token(namespace, account, secret).map_err(|error| crate::cluster::chain(&error))
    }
}
