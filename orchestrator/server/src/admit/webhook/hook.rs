//! Webhooks as their configurations describe them, and which requests they want to see. Pure.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

use catamaran_api::kind::{self, Resource};
use catamaran_api::meta;
use catamaran_api::selector::LabelSelector;

/// One webhook of a configuration.
#[derive(Debug)]
pub(super) struct Hook {
    /// Unique among all webhooks of a kind.
    pub(super) uid: String,
    pub(super) name: String,
    rules: Vec<Rule>,
    /// Whether other versions of the same objects do not count.
    exact: bool,
    pub(super) namespaces: LabelSelector,
    pub(super) objects: LabelSelector,
    pub(super) failure: FailurePolicy,
    pub(super) timeout: Duration,
    pub(super) reinvocation: Reinvocation,
    pub(super) dry_run: DryRunSupport,
    pub(super) target: Target,
    /// Authorities of the webhook's certificate, PEM; empty means those of the system.
    pub(super) ca_bundle: Vec<u8>,
}

/// What happens when a webhook cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailurePolicy {
    Fail,
    Ignore,
}

/// Whether a webhook is asked again when others changed the object after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reinvocation {
    Never,
    IfNeeded,
}

/// Whether a webhook may be asked about what will not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DryRunSupport {
    Yes,
    No,
}

/// Where a webhook listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Url(String),
    Service { namespace: String, name: String, path: String, port: i64 },
}

#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

/// What is done, in the words of rules and reviews.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// What rules look at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) operation: Operation,
    pub(super) resource: &'static Resource,
    pub(super) subresource: &'a str,
    /// Empty for cluster scope.
    pub(super) namespace: &'a str,
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// The webhooks of a configuration, which is defaulted and validated.
pub(super) fn parse(configuration: &Value) -> Vec<Hook> {
    let hooks = configuration["webhooks"].as_array().into_iter().flatten().enumerate();
    hooks.map(|(place, hook)| one(configuration, place, hook)).collect()
}

fn one(configuration: &Value, place: usize, hook: &Value) -> Hook {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = text(&hook["name"]);
    let service = &hook["clientConfig"]["service"];
    let target = if service.is_object() {
        Target::Service {
            namespace: text(&service["namespace"]),
            name: text(&service["name"]),
            path: text(&service["path"]),
            port: service["port"].as_i64().unwrap_or(443),
        }
    } else {
        Target::Url(text(&hook["clientConfig"]["url"]))
    };
    // A selector that cannot be read was refused when it was written.
    let selector =
        |value: &Value| LabelSelector::from_value(value).unwrap_or_else(|_| LabelSelector::nothing());
    let harmless = matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun"));
    Hook {
        uid: format!("{}/{name}/{place}", meta::name(configuration)),
        name,
        rules: hook["rules"].as_array().into_iter().flatten().map(rule).collect(),
        exact: hook["matchPolicy"] == "Exact",
        namespaces: selector(&hook["namespaceSelector"]),
        objects: selector(&hook["objectSelector"]),
        failure: if hook["failurePolicy"] == "Ignore" { FailurePolicy::Ignore } else { FailurePolicy::Fail },
        timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(10)),
        reinvocation: match hook["reinvocationPolicy"].as_str() {
            Some("IfNeeded") => Reinvocation::IfNeeded,
            _ => Reinvocation::Never,
        },
        dry_run: if harmless { DryRunSupport::Yes } else { DryRunSupport::No },
        target,
        ca_bundle: BASE64_STANDARD.decode(text(&hook["clientConfig"]["caBundle"])).unwrap_or_default(),
    }
}

fn rule(rule: &Value) -> Rule {
    Rule {
        operations: texts(&rule["operations"]),
        groups: texts(&rule["apiGroups"]),
        versions: texts(&rule["apiVersions"]),
        resources: texts(&rule["resources"]),
        scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
    }
}

impl Hook {
    /// The resource as which the webhook wants to see a request; none when it does not.
    pub(super) fn wants(&self, subject: Subject<'_>) -> Option<&'static Resource> {
        if self.rules.iter().any(|rule| rule.matches(subject, subject.resource)) {
            return Some(subject.resource);
        }
        if self.exact {
            return None;
        }
        let others = || equivalents(subject.resource);
        self.rules.iter().find_map(|rule| others().find(|other| rule.matches(subject, other)))
    }
}

/// Other versions under which the same objects are served.
fn equivalents(resource: &'static Resource) -> impl Iterator<Item = &'static Resource> {
    let key = |resource: &Resource| resource.stored_as().map(|stored| (stored.group, stored.version));
    kind::resources().iter().filter(move |other| {
        other.plural == resource.plural
            && (other.group, other.version) != (resource.group, resource.version)
            && key(other).is_some()
            && key(other) == key(resource)
    })
}

impl Rule {
    fn matches(&self, subject: Subject<'_>, resource: &Resource) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        has(&self.operations, subject.operation.as_str())
            && has(&self.groups, resource.group)
            && has(&self.versions, resource.version)
            && self.has_resource(resource.plural, subject.subresource)
            && self.has_scope(subject, resource)
    }

    /// `pods` is not its subresources; `pods/*` and `*/*` are the object as well.
    fn has_resource(&self, plural: &str, subresource: &str) -> bool {
        self.resources.iter().any(|item| {
            let (wanted, below) = item.split_once('/').unwrap_or((item, ""));
            (wanted == "*" || wanted == plural) && (below == "*" || below == subresource)
        })
    }

    fn has_scope(&self, subject: Subject<'_>, resource: &Resource) -> bool {
        let is_namespace = resource.group.is_empty() && resource.plural == "namespaces";
        let clusterwide = is_namespace || subject.namespace.is_empty();
        match self.scope.as_str() {
            "Cluster" => clusterwide,
            "Namespaced" => !clusterwide,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hook(fields: Value) -> Hook {
        let mut hook = json!({"name": "a.b.c", "clientConfig": {"url": "https://x/"}, "namespaceSelector": {}, "objectSelector": {}});
        hook.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        parse(&json!({"metadata": {"name": "m"}, "webhooks": [hook]})).remove(0)
    }

    fn rules(group: &str, version: &str, resources: Value) -> Value {
        json!([{"operations": ["CREATE", "UPDATE"], "apiGroups": [group], "apiVersions": [version], "resources": resources}])
    }

    #[test]
    fn rules_decide() {
        let subject = |operation, group, version, plural, subresource, namespace| Subject {
            operation,
            resource: kind::find(group, version, plural).unwrap(),
            subresource,
            namespace,
        };
        let create = Operation::Create;
        let pods = subject(create, "", "v1", "pods", "", "n");
        let deletion = subject(Operation::Delete, "", "v1", "pods", "", "n");
        let status = subject(Operation::Update, "", "v1", "pods", "status", "n");
        let node = subject(create, "", "v1", "nodes", "", "");
        let namespace = subject(create, "", "v1", "namespaces", "", "n");
        let scoped = |scope: &str| {
            let mut rules = rules("*", "*", json!(["*"]));
            rules[0]["scope"] = scope.into();
            rules
        };
        let table = [
            (rules("", "v1", json!(["pods"])), pods, true),
            (rules("", "v1", json!(["pods"])), deletion, false),
            (rules("", "v1", json!(["pods"])), status, false),
            (rules("", "v1", json!(["pods/*"])), status, true),
            (rules("", "v1", json!(["pods/*"])), pods, true),
            (rules("", "v1", json!(["*/status"])), status, true),
            (rules("", "v1", json!(["*"])), status, false),
            (rules("*", "*", json!(["*/*"])), status, true),
            (rules("apps", "v1", json!(["*"])), pods, false),
            (rules("", "v2", json!(["pods"])), pods, false),
            (scoped("Cluster"), node, true),
            (scoped("Cluster"), pods, false),
            (scoped("Namespaced"), pods, true),
            (scoped("Namespaced"), namespace, false),
            (scoped("Cluster"), namespace, true),
        ];
        for (rules, subject, expected) in table {
            let wanted = hook(json!({"rules": rules.clone()})).wants(subject).is_some();
            assert_eq!(wanted, expected, "{rules} {} {}", subject.resource.plural, subject.subresource);
        }
    }

    #[test]
    fn another_version_is_as_good_unless_it_must_be_exact() {
        let subject = Subject {
            operation: Operation::Create,
            resource: kind::find("autoscaling", "v2", "horizontalpodautoscalers").unwrap(),
            subresource: "",
            namespace: "n",
        };
        let rules = rules("autoscaling", "v1", json!(["horizontalpodautoscalers"]));
        let wanted = hook(json!({"rules": rules.clone()})).wants(subject).unwrap();
        assert_eq!((wanted.group, wanted.version), ("autoscaling", "v1"));
        assert!(hook(json!({"rules": rules, "matchPolicy": "Exact"})).wants(subject).is_none());
    }

    #[test]
    fn settings_are_read() {
        let hook = hook(json!({
            "failurePolicy": "Ignore", "timeoutSeconds": 3, "sideEffects": "None", "reinvocationPolicy": "IfNeeded",
            "clientConfig": {"service": {"namespace": "n", "name": "s", "path": "/p", "port": 8443}, "caBundle": "YWJj"},
        }));
        assert_eq!(
            (hook.failure, hook.timeout, hook.reinvocation, hook.dry_run),
            (FailurePolicy::Ignore, Duration::from_secs(3), Reinvocation::IfNeeded, DryRunSupport::Yes)
        );
        let target =
            Target::Service { namespace: "n".into(), name: "s".into(), path: "/p".into(), port: 8443 };
        assert_eq!((hook.target, hook.ca_bundle, hook.uid.as_str()), (target, b"abc".to_vec(), "m/a.b.c/0"));
    }
}
