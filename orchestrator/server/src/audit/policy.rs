//! What is noted of which request: the first rule that fits decides (audit.k8s.io/v1, Policy). Pure but for reading.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use catamaran_api::decode::{self, ContentType, Strictness};

use crate::authenticate::UserInfo;
use crate::authorize::{Action, Attributes};

/// Why a policy is refused.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is no policy.
    #[error("{path} is not a Policy of audit.k8s.io/v1: {reason}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// How much is noted; each level has what the one before has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
pub(super) enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who asked for what, when, with what result.
    Metadata,
    /// Also what was sent.
    Request,
    /// Also what was answered.
    RequestResponse,
}

impl Level {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// When it is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// What the policy says about one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) level: Level,
    pub(super) omitted: Vec<Stage>,
    pub(super) managed_fields: bool,
}

/// The rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Policy {
    api_version: String,
    kind: String,
    metadata: serde_json::Value,
    rules: Vec<Rule>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Rule {
    level: Option<Level>,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Resources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    paths: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Resources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

impl Policy {
    /// From a YAML or JSON file.
    ///
    /// # Errors
    /// When the file is not a policy.
    pub(super) fn read(path: &Path) -> Result<Self, PolicyError> {
        let text =
            std::fs::read(path).map_err(|source| PolicyError::Read { path: path.to_owned(), source })?;
        Policy::parse(&text).map_err(|reason| PolicyError::Form { path: path.to_owned(), reason })
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let decoded = decode::untyped(text, ContentType::Yaml, Strictness::Strict);
        let value = decoded.map_err(|error| error.to_string())?.object;
        let policy: Policy = serde_json::from_value(value).map_err(|error| error.to_string())?;
        if policy.kind != "Policy" || policy.api_version != "audit.k8s.io/v1" {
            return Err(format!("it is a {} of {}", policy.kind, policy.api_version));
        }
        if policy.rules.is_empty() {
            return Err("rules: at least one is needed".to_owned());
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            rule.check().map_err(|reason| format!("rules[{index}]: {reason}"))?;
        }
        Ok(policy)
    }

    /// Level and stages for a request; nothing fits, nothing is noted.
    pub(super) fn judge(&self, user: &UserInfo, action: &Action<'_>) -> Judged {
        let found = self.rules.iter().find(|rule| rule.matches(user, action));
        let own = found.map(|rule| rule.omit_stages.as_slice()).unwrap_or_default();
        Judged {
            level: found.and_then(|rule| rule.level).unwrap_or_default(),
            omitted: self.omit_stages.iter().chain(own).copied().collect(),
            managed_fields: !found
                .and_then(|rule| rule.omit_managed_fields)
                .unwrap_or(self.omit_managed_fields),
        }
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        if self.level.is_none() {
            return Err("level: None, Metadata, Request or RequestResponse is needed".to_owned());
        }
        if !(self.paths.is_empty() || self.resources.is_empty() && self.namespaces.is_empty()) {
            return Err(
                "a rule is for nonResourceURLs or for resources and namespaces, not for both".to_owned()
            );
        }
        for path in &self.paths {
            let body = path.strip_suffix('*').unwrap_or(path);
            if body.contains('*') || !(path == "*" || path.starts_with('/')) {
                return Err(format!(
                    "nonResourceURLs: {path:?} must begin with '/', and '*' stands at its end only"
                ));
            }
        }
        for resources in &self.resources {
            if !resources.resource_names.is_empty() && resources.resources.is_empty() {
                return Err("resourceNames: they need resources".to_owned());
            }
        }
        Ok(())
    }

    fn matches(&self, user: &UserInfo, action: &Action<'_>) -> bool {
        let any = |list: &[String], fits: &dyn Fn(&str) -> bool| {
            list.is_empty() || list.iter().any(|word| fits(word))
        };
        any(&self.users, &|name| name == user.name)
            && any(&self.user_groups, &|group| user.member_of(group))
            && match action {
                Action::Resource(wanted) => {
                    any(&self.verbs, &|verb| verb == wanted.verb)
                        && self.paths.is_empty()
                        && any(&self.namespaces, &|namespace| namespace == wanted.namespace)
                        && (self.resources.is_empty()
                            || self.resources.iter().any(|resources| resources.have(wanted)))
                }
                Action::Path { verb, path } => {
                    any(&self.verbs, &|word| word == *verb)
                        && self.resources.is_empty()
                        && self.namespaces.is_empty()
                        && any(&self.paths, &|rule| covers(rule, path))
                }
            }
    }
}

fn covers(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => rule == path,
    }
}

impl Resources {
    fn have(&self, wanted: &Attributes<'_>) -> bool {
        let resource = |word: &String| match word.split_once('/') {
            Some((resource, subresource)) => {
                (resource == "*" || resource == wanted.resource)
                    && !wanted.subresource.is_empty()
                    && (subresource == "*" || subresource == wanted.subresource)
            }
            None => word == "*" || word == wanted.resource && wanted.subresource.is_empty(),
        };
        let named =
            self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == wanted.name);
        self.group == wanted.group
            && (self.resources.is_empty() || self.resources.iter().any(resource) && named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:kube-proxy"]
  verbs: [watch]
  resources:
  - group: ""
    resources: [endpoints, services]
- level: None
  userGroups: ["system:authenticated"]
  nonResourceURLs: ["/api*", "/version"]
- level: Request
  resources:
  - group: ""
    resources: [configmaps]
    resourceNames: [one]
  namespaces: [kube-system]
- level: Metadata
  resources:
  - group: ""
    resources: [secrets, "pods/log", "*/scale"]
- level: RequestResponse
  omitManagedFields: true
  resources:
  - group: apps
  omitStages: [Panic]
- level: Metadata
"#;

    #[test]
    fn the_first_rule_that_fits() {
        let policy = Policy::parse(POLICY.as_bytes()).unwrap();
        let jane = UserInfo::new("jane", &[]);
        let proxy = UserInfo::new("system:kube-proxy", &[]);
        let resource = |verb, group, resource: &'static str, namespace, name| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            Action::Resource(Attributes { verb, group, resource, subresource, namespace, name })
        };
        let path = |path| Action::Path { verb: "get", path };
        let table = [
            (&proxy, resource("watch", "", "services", "", ""), Level::None),
            (&proxy, resource("get", "", "services", "d", "x"), Level::Metadata),
            (&jane, resource("watch", "", "services", "", ""), Level::Metadata),
            (&jane, path("/api/v1"), Level::None),
            (&jane, path("/version"), Level::None),
            (&jane, path("/versions"), Level::Metadata),
            (&jane, resource("update", "", "configmaps", "kube-system", "one"), Level::Request),
            (&jane, resource("update", "", "configmaps", "kube-system", "two"), Level::Metadata),
            (&jane, resource("update", "apps", "deployments", "d", "x"), Level::RequestResponse),
            (&jane, resource("update", "apps", "deployments/scale", "d", "x"), Level::RequestResponse),
            (&jane, resource("get", "", "pods/log", "d", "x"), Level::Metadata),
        ];
        for (user, action, expected) in table {
            assert_eq!(policy.judge(user, &action).level, expected, "{} {action:?}", user.name);
        }
        let judged = policy.judge(&jane, &resource("get", "apps", "deployments", "d", "x"));
        assert_eq!(judged.omitted, [Stage::RequestReceived, Stage::Panic]);
        assert!(!judged.managed_fields);
    }

    #[test]
    fn what_is_no_policy() {
        let rules = |rules: &str| format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n{rules}");
        let table = [
            ("kind: Policy".to_owned(), "it is a Policy of "),
            ("apiVersion: audit.k8s.io/v1\nkind: Policy".to_owned(), "at least one"),
            (rules("- users: [a]"), "rules[0]: level"),
            (rules("- level: Some"), "unknown variant"),
            (rules("- level: None\n  user: [a]"), "unknown field"),
            (rules("- level: None\n  nonResourceURLs: [\"/a\"]\n  namespaces: [d]"), "not for both"),
            (rules("- level: None\n  nonResourceURLs: [\"/a*b\"]"), "'*' stands at its end"),
            (rules("- level: None\n  resources: [{group: \"\", resourceNames: [a]}]"), "they need resources"),
        ];
        for (text, expected) in table {
            let error = Policy::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
