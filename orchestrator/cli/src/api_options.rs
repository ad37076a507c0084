//! Settings of the API server that an administrator may choose, under the names of kube-apiserver's flags.

use std::path::PathBuf;

use catamaran_server::{AuditConfig, ServerConfig};
use clap::Args;
use serde::{Deserialize, Serialize};

const MEGABYTE: u64 = 1_000_000;

/// Flags of `up` and `server`; `up` keeps them for the next start. An empty path switches off what an earlier start
/// had switched on.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ApiOptions {
    /// What the audit log notes of which request: a Policy of audit.k8s.io/v1
    #[arg(long, value_name = "FILE")]
    audit_policy_file: Option<PathBuf>,
    /// The audit log, one line of JSON an event; `-` is standard output
    #[arg(long, value_name = "FILE")]
    audit_log_path: Option<PathBuf>,
    /// Megabytes after which the audit log is put aside [default: 100; 0 never]
    #[arg(long, value_name = "MB")]
    audit_log_maxsize: Option<u64>,
    /// Audit logs put aside that are kept [default: 10; 0 all]
    #[arg(long, value_name = "N")]
    audit_log_maxbackup: Option<usize>,
    /// Which kinds are encrypted at rest with which keys: an EncryptionConfiguration of apiserver.config.k8s.io/v1
    #[arg(long, value_name = "FILE")]
    encryption_provider_config: Option<PathBuf>,
    /// Requests at one time; with the mutating ones they are the seats that priority levels share [default: 400]
    #[arg(long, value_name = "N")]
    max_requests_inflight: Option<u32>,
    /// Mutating requests at one time [default: 200]
    #[arg(long, value_name = "N")]
    max_mutating_requests_inflight: Option<u32>,
    /// Longest time in seconds that a service-account token is given for [default: as long as is asked for]
    #[arg(long, value_name = "SECONDS")]
    service_account_max_token_expiration: Option<u32>,
}

impl ApiOptions {
    /// These, and what they leave open from `earlier`. Paths are made absolute: the server runs elsewhere.
    pub(crate) fn or(self, earlier: Option<&ApiOptions>) -> Self {
        let earlier = earlier.cloned().unwrap_or_default();
        let path = |now: Option<PathBuf>, before: Option<PathBuf>| {
            let stands = |path: &PathBuf| path.as_os_str() == "-" || path.as_os_str().is_empty();
            now.map(|path| if stands(&path) { path } else { std::path::absolute(&path).unwrap_or(path) })
                .or(before)
                .filter(|path| !path.as_os_str().is_empty())
        };
        ApiOptions {
            audit_policy_file: path(self.audit_policy_file, earlier.audit_policy_file),
            audit_log_path: path(self.audit_log_path, earlier.audit_log_path),
            audit_log_maxsize: self.audit_log_maxsize.or(earlier.audit_log_maxsize),
            audit_log_maxbackup: self.audit_log_maxbackup.or(earlier.audit_log_maxbackup),
            encryption_provider_config: path(
                self.encryption_provider_config,
                earlier.encryption_provider_config,
            ),
            max_requests_inflight: self.max_requests_inflight.or(earlier.max_requests_inflight),
            max_mutating_requests_inflight: self
                .max_mutating_requests_inflight
                .or(earlier.max_mutating_requests_inflight),
            service_account_max_token_expiration: self
                .service_account_max_token_expiration
                .or(earlier.service_account_max_token_expiration),
        }
    }

    /// Puts them into the configuration of a server.
    ///
    /// # Errors
    /// When one is given without another that it needs.
    pub(crate) fn apply(&self, config: &mut ServerConfig) -> Result<(), String> {
        config.audit = match (&self.audit_policy_file, &self.audit_log_path) {
            (Some(policy), Some(log)) => {
                let mut audit = AuditConfig::new(policy, log);
                if let Some(megabytes) = self.audit_log_maxsize {
                    audit.max_bytes = megabytes.saturating_mul(MEGABYTE);
                }
                audit.max_backups = self.audit_log_maxbackup.unwrap_or(audit.max_backups);
                Some(audit)
            }
            (None, None) => None,
            (Some(_), None) => return Err("--audit-policy-file needs --audit-log-path".to_owned()),
            (None, Some(_)) => return Err("--audit-log-path needs --audit-policy-file".to_owned()),
        };
        config.encryption = self.encryption_provider_config.clone();
        config.max_token_seconds = self.service_account_max_token_expiration.map(i64::from);
        let (reading, mutating) = (self.max_requests_inflight, self.max_mutating_requests_inflight);
        let seats = reading.unwrap_or(400).saturating_add(mutating.unwrap_or(200));
        if seats == 0 {
            return Err(
                "--max-requests-inflight and --max-mutating-requests-inflight must not both be 0".to_owned()
            );
        }
        config.requests_in_flight = seats;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_choices_stay_until_they_are_changed() {
        let first = ApiOptions {
            audit_policy_file: Some("/p".into()),
            audit_log_path: Some("-".into()),
            max_requests_inflight: Some(10),
            ..ApiOptions::default()
        };
        let kept = ApiOptions::default().or(Some(&first));
        assert_eq!(kept, first);
        let off = ApiOptions {
            audit_policy_file: Some("".into()),
            audit_log_path: Some("".into()),
            encryption_provider_config: Some("keys.yaml".into()),
            ..ApiOptions::default()
        };
        let off = off.or(Some(&first));
        assert_eq!((off.audit_policy_file.clone(), off.audit_log_path.clone()), (None, None));
        assert!(off.encryption_provider_config.as_ref().is_some_and(|path| path.is_absolute()));
        let mut config = ServerConfig::new("/tmp/x");
        first.apply(&mut config).unwrap();
        assert_eq!((config.requests_in_flight, config.audit.is_some()), (210, true));
        off.apply(&mut config).unwrap();
        assert!(config.audit.is_none() && config.encryption.is_some());
    }

    #[test]
    fn one_without_the_other() {
        let mut config = ServerConfig::new("/tmp/x");
        let only = ApiOptions { audit_log_path: Some("/l".into()), ..ApiOptions::default() };
        assert_eq!(only.apply(&mut config), Err("--audit-log-path needs --audit-policy-file".to_owned()));
        let none = ApiOptions {
            max_requests_inflight: Some(0),
            max_mutating_requests_inflight: Some(0),
            ..ApiOptions::default()
        };
        assert!(none.apply(&mut config).is_err());
    }
}
