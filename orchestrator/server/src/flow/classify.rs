//! Which FlowSchema a request belongs to: subjects and rules, in the order of precedence. Pure.

use std::sync::Arc;

use serde_json::Value;

use crate::authenticate::UserInfo;
use crate::authorize::{Action, Attributes};

/// What is asked for.
pub(crate) type Asked<'a> = Action<'a>;

/// One of `spec.rules`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ResourceRule {
    verbs: Words,
    groups: Words,
    resources: Words,
    namespaces: Words,
    cluster: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PathRule {
    verbs: Words,
    paths: Words,
}

/// A list of words, or `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Words {
    All,
    These(Arc<[String]>),
}

impl Words {
    fn of(value: &Value) -> Self {
        let words: Vec<String> =
            value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        if words.iter().any(|word| word == "*") { Words::All } else { Words::These(words.into()) }
    }

    fn have(&self, fits: impl Fn(&str) -> bool) -> bool {
        match self {
            Words::All => true,
            Words::These(words) => words.iter().any(|word| fits(word)),
        }
    }
}

impl Rule {
    /// From an item of `spec.rules`.
    pub(super) fn of(value: &Value) -> Self {
        let list = |field: &str| value[field].as_array().into_iter().flatten();
        Rule {
            subjects: list("subjects").filter_map(Subject::of).collect(),
            resources: list("resourceRules")
                .map(|rule| ResourceRule {
                    verbs: Words::of(&rule["verbs"]),
                    groups: Words::of(&rule["apiGroups"]),
                    resources: Words::of(&rule["resources"]),
                    namespaces: Words::of(&rule["namespaces"]),
                    cluster: rule["clusterScope"].as_bool().unwrap_or_default(),
                })
                .collect(),
            paths: list("nonResourceRules")
                .map(|rule| PathRule {
                    verbs: Words::of(&rule["verbs"]),
                    paths: Words::of(&rule["nonResourceURLs"]),
                })
                .collect(),
        }
    }

    /// Whether somebody's request is meant.
    pub(super) fn matches(&self, user: &UserInfo, asked: &Asked<'_>) -> bool {
        self.subjects.iter().any(|subject| subject.is(user))
            && match asked {
                Action::Resource(wanted) => self.resources.iter().any(|rule| rule.matches(wanted)),
                Action::Path { verb, path } => self.paths.iter().any(|rule| rule.matches(verb, path)),
            }
    }
}

impl Subject {
    fn of(value: &Value) -> Option<Self> {
        let text = |part: &str, field: &str| value[part][field].as_str().map(str::to_owned);
        match value["kind"].as_str()? {
            "User" => Some(Subject::User(text("user", "name")?)),
            "Group" => Some(Subject::Group(text("group", "name")?)),
            "ServiceAccount" => Some(Subject::ServiceAccount {
                namespace: text("serviceAccount", "namespace")?,
                name: text("serviceAccount", "name")?,
            }),
            _ => None,
        }
    }

    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || user.member_of(name),
            Subject::ServiceAccount { namespace, name } => {
                let account = user.name.strip_prefix("system:serviceaccount:");
                account
                    .and_then(|account| account.split_once(':'))
                    .is_some_and(|(place, account)| place == namespace && (name == "*" || name == account))
            }
        }
    }
}

impl ResourceRule {
    fn matches(&self, wanted: &Attributes<'_>) -> bool {
        let resource = |word: &str| match word.split_once('/') {
            Some((resource, subresource)) => resource == wanted.resource && subresource == wanted.subresource,
            None => word == wanted.resource && wanted.subresource.is_empty(),
        };
        self.verbs.have(|verb| verb == wanted.verb)
            && self.resources.have(resource)
            && self.groups.have(|group| group == wanted.group)
            && if wanted.namespace.is_empty() {
                self.cluster
            } else {
                self.namespaces.have(|namespace| namespace == wanted.namespace)
            }
    }
}

impl PathRule {
    fn matches(&self, verb: &str, path: &str) -> bool {
        let below = |rule: &str| {
            let prefix = rule.strip_suffix('*').unwrap_or(rule);
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            path == rule || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
        };
        self.verbs.have(|word| word == verb) && self.paths.have(below)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked<'a>(text: &'a str) -> Asked<'a> {
        let words: Vec<&str> = text.split(' ').collect();
        match *words.as_slice() {
            [verb, path] => Action::Path { verb, path },
            [verb, group, resource, namespace] => {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                let empty = |word: &'a str| if word == "-" { "" } else { word };
                Action::Resource(Attributes {
                    verb,
                    group: empty(group),
                    resource,
                    subresource,
                    namespace: empty(namespace),
                    name: "",
                })
            }
            _ => panic!("{text}"),
        }
    }

    #[test]
    fn rules() {
        let nodes = json!({
            "subjects": [{"kind": "Group", "group": {"name": "system:nodes"}}],
            "resourceRules": [
                {"verbs": ["*"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "clusterScope": true,
                 "namespaces": ["*"]},
                {"verbs": ["get", "update"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
                 "namespaces": ["kube-node-lease"]},
            ],
        });
        let paths = json!({
            "subjects": [{"kind": "User", "user": {"name": "*"}}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/a/*"]}],
        });
        let accounts = json!({
            "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube", "name": "*"}},
                         {"kind": "ServiceAccount", "serviceAccount": {"namespace": "d", "name": "one"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}],
        });
        let table = [
            (&nodes, "n", "patch - nodes/status -", true),
            (&nodes, "n", "patch - nodes/proxy -", false),
            (&nodes, "x", "patch - nodes/status -", false),
            (&nodes, "n", "update coordination.k8s.io leases kube-node-lease", true),
            (&nodes, "n", "update coordination.k8s.io leases d", false),
            (&nodes, "n", "list coordination.k8s.io leases -", false),
            (&nodes, "n", "get /healthz", false),
            (&paths, "x", "get /healthz", true),
            (&paths, "x", "get /healthz/ping", true),
            (&paths, "x", "get /healthzz", false),
            (&paths, "x", "get /a/b", true),
            (&paths, "x", "get /ab", false),
            (&paths, "x", "post /healthz", false),
            (&accounts, "system:serviceaccount:kube:a", "get - pods d", true),
            (&accounts, "system:serviceaccount:kube:a", "get - nodes -", false),
            (&accounts, "system:serviceaccount:kub:e", "get - pods d", false),
            (&accounts, "system:serviceaccount:d:one", "get - pods d", true),
            (&accounts, "system:serviceaccount:d:two", "get - pods d", false),
        ];
        for (rule, user, text, expected) in table {
            let groups: &[&str] = if user == "n" { &["system:nodes"] } else { &[] };
            let user = UserInfo::new(user, groups);
            assert_eq!(Rule::of(rule).matches(&user, &asked(text)), expected, "{} {text}", user.name);
        }
    }
}
