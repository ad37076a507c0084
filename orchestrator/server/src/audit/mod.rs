//! The audit log (audit.k8s.io/v1): `policy` says what is noted of a request, `record` gathers it, `sink` writes it
//! as a line of JSON. A request never waits long for the log: what the disk cannot take in time is counted as lost.

mod policy;
mod record;
mod sink;

use std::path::PathBuf;

use http::request::Parts;
use jiff::Timestamp;

use crate::authenticate::UserInfo;
use crate::authorize::Action;

pub(crate) use record::{Ended, Peer, Record};

use policy::{Level, Policy, PolicyError};
use sink::{Sink, SinkError};

/// What is noted, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditConfig {
    /// The policy, a file in the form of audit.k8s.io/v1.
    pub policy: PathBuf,
    /// The log; `-` is standard output.
    pub log: PathBuf,
    /// Bytes after which the log is put aside and a new one begun; 0 never does.
    pub max_bytes: u64,
    /// Logs put aside that are kept; 0 keeps all.
    pub max_backups: usize,
}

impl AuditConfig {
    /// With Kubernetes' default of 100 MB a file, and the ten newest of them.
    pub fn new(policy: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        AuditConfig { policy: policy.into(), log: log.into(), max_bytes: 100_000_000, max_backups: 10 }
    }
}

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The policy.
    #[error("the audit policy is not usable")]
    Policy(#[from] PolicyError),
    /// The log file.
    #[error("the audit log cannot be written")]
    Sink(#[from] SinkError),
}

/// Policy and log of a running server.
pub(crate) struct Audit {
    policy: Policy,
    sink: Sink,
}

impl Audit {
    /// Reads the policy and opens the log.
    ///
    /// # Errors
    /// When either is unusable.
    pub(crate) fn open(config: &AuditConfig) -> Result<Self, AuditError> {
        Ok(Audit { policy: Policy::read(&config.policy)?, sink: Sink::open(config)? })
    }

    /// Begins to note a request; nothing when the policy says so.
    pub(crate) fn begin(
        &self,
        parts: &Parts,
        (user, impersonated): (&UserInfo, Option<&UserInfo>),
        action: &Action<'_>,
        (id, now): (&str, Timestamp),
    ) -> Option<Record> {
        let judged = self.policy.judge(impersonated.unwrap_or(user), action);
        if judged.level == Level::None {
            return None;
        }
        let record = Record::new(judged, parts, (user, impersonated), action, (id, now));
        Some(record.to(self.sink.clone()))
    }

    /// Waits until everything noted so far is written.
    pub(crate) async fn flush(&self) {
        self.sink.flush().await;
    }

    /// Prometheus' text.
    pub(crate) fn metrics(&self) -> String {
        let name = "apiserver_audit_error_total";
        format!("# TYPE {name} counter\n{name}{{plugin=\"log\"}} {}\n", self.sink.lost())
    }
}
