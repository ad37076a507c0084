//! The policy that the labels of a namespace ask for (KEP-2579). Pure.

use std::fmt;

use serde_json::Value;

use catamaran_api::field_error::{FieldError, Path};
use catamaran_api::meta;

/// The version whose rules `latest` means: that of the API.
pub(super) const NEWEST: u32 = 33;

const PREFIX: &str = "pod-security.kubernetes.io/";

/// How much is allowed; from most to least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "privileged" => Ok(Level::Privileged),
            "baseline" => Ok(Level::Baseline),
            "restricted" => Ok(Level::Restricted),
            _ => Err("must be one of privileged, baseline, restricted"),
        }
    }
}

/// Whose rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Latest,
    /// The minor number of v1.
    Minor(u32),
}

impl Version {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "latest" {
            return Ok(Version::Latest);
        }
        let minor = text.strip_prefix("v1.").filter(|minor| {
            minor.bytes().all(|byte| byte.is_ascii_digit()) && (*minor == "0" || !minor.starts_with('0'))
        });
        let minor = minor.and_then(|minor| minor.parse().ok());
        minor.map(Version::Minor).ok_or("must be \"latest\" or \"v1.x\"")
    }

    /// The minor number of the rules that are applied.
    pub(super) fn minor(self) -> u32 {
        match self {
            Version::Latest => NEWEST,
            Version::Minor(minor) => minor.min(NEWEST),
        }
    }
}

/// A level as of a version; `restricted:latest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) level: Level,
    pub(super) version: Version,
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })?;
        match self.version {
            Version::Latest => f.write_str(":latest"),
            Version::Minor(minor) => write!(f, ":v1.{minor}"),
        }
    }
}

/// What a namespace asks for in each mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) enforce: Rules,
    pub(super) audit: Rules,
    pub(super) warn: Rules,
}

impl Policy {
    /// The policy of a namespace without labels.
    const DEFAULT: Policy = {
        let rules = Rules { level: Level::Privileged, version: Version::Latest };
        Policy { enforce: rules, audit: rules, warn: rules }
    };

    /// From the labels of a namespace, with what is wrong with them. Enforcement fails closed, the others open.
    pub(super) fn of(namespace: &Value) -> (Policy, Vec<FieldError>) {
        let mut policy = Policy::DEFAULT;
        let mut errors = Vec::new();
        let label = |name: &str| meta::label(namespace, &format!("{PREFIX}{name}"));
        let mut mode = |name: &str, rules: &mut Rules, otherwise: Level| -> (bool, bool) {
            let (level, version) = (label(name), label(&format!("{name}-version")));
            if let Some(text) = level {
                let parsed = Level::parse(text);
                rules.level = parsed.unwrap_or(otherwise);
                errors.extend(parsed.err().map(|why| wrong(name, text, why)));
            }
            if let Some(text) = version {
                let parsed = Version::parse(text);
                rules.version = parsed.unwrap_or(Version::Latest);
                errors.extend(parsed.err().map(|why| wrong(&format!("{name}-version"), text, why)));
            }
            (level.is_some(), version.is_some())
        };
        mode("enforce", &mut policy.enforce, Level::Restricted);
        mode("audit", &mut policy.audit, Level::Privileged);
        let (own_level, own_version) = mode("warn", &mut policy.warn, Level::Privileged);
        // Who is refused something is also warned of it, unless they said otherwise.
        let enforced = label("enforce").is_some_and(|text| Level::parse(text).is_ok());
        if !own_level && enforced && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if !own_version {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }

    pub(super) fn allows_everything(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|rules| rules.level == Level::Privileged)
    }
}

fn wrong(label: &str, value: &str, why: &str) -> FieldError {
    let label = format!("{PREFIX}{label}");
    FieldError::invalid(&Path::root("metadata").child("labels").key(&label), value, why)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn of(labels: &[(&str, &str)]) -> (Policy, Vec<FieldError>) {
        let labels: Map<String, Value> =
            labels.iter().map(|(name, value)| (format!("{PREFIX}{name}"), json!(value))).collect();
        Policy::of(&json!({"metadata": {"labels": labels}}))
    }

    #[test]
    fn labels() {
        type Case = (&'static [(&'static str, &'static str)], [&'static str; 3], usize);
        let table: &[Case] = &[
            (&[], ["privileged:latest"; 3], 0),
            (&[("enforce", "baseline")], ["baseline:latest", "privileged:latest", "baseline:latest"], 0),
            (
                &[("enforce", "baseline"), ("enforce-version", "v1.20")],
                ["baseline:v1.20", "privileged:latest", "baseline:v1.20"],
                0,
            ),
            (
                &[("enforce", "restricted"), ("warn", "privileged"), ("audit", "baseline")],
                ["restricted:latest", "baseline:latest", "privileged:latest"],
                0,
            ),
            (&[("enforce", "nonsense")], ["restricted:latest", "privileged:latest", "privileged:latest"], 1),
            (
                &[("warn", "nonsense"), ("audit-version", "1.2"), ("enforce-version", "v1.02")],
                ["privileged:latest"; 3],
                3,
            ),
        ];
        for (labels, expected, errors) in table {
            let (policy, wrong) = of(labels);
            let said = [policy.enforce, policy.audit, policy.warn].map(|rules| rules.to_string());
            assert_eq!(
                (&said.each_ref().map(String::as_str), wrong.len()),
                (expected, *errors),
                "{labels:?}"
            );
        }
        let (_, wrong) = of(&[("enforce", "x")]);
        assert_eq!(
            wrong[0].to_string(),
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"x\": must be one of privileged, baseline, restricted"
        );
    }

    #[test]
    fn a_version_to_come_means_the_newest() {
        assert_eq!(Version::Minor(99).minor(), NEWEST);
        assert_eq!(Version::Minor(20).minor(), 20);
    }
}
