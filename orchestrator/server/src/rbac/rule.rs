//! One rule of a role: which verbs on which resources or paths. Matching as in Kubernetes' `PolicyRule`.

use serde_json::{Map, Value};

use crate::authorize::{Action, Attributes};

/// A rule, either about resources or about paths that are no resources.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// Verbs; `*` is all.
    pub verbs: Vec<String>,
    /// API groups; the empty one is core, `*` is all.
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale` (that subresource of all), `*` (everything).
    pub resources: Vec<String>,
    /// Names of objects; none means all.
    pub resource_names: Vec<String>,
    /// Paths, with `*` only at the end.
    pub non_resource_urls: Vec<String>,
}

/// The strings in a list; nothing for anything else.
pub(super) fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == wanted)
}

fn has_or_all(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

/// Whether a path of a rule stands for `path`.
pub(super) fn path_matches(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        // Several stars at the end are as good as one.
        Some(prefix) => path.starts_with(prefix.trim_end_matches('*')),
        None => rule == path,
    }
}

impl Rule {
    /// From the JSON of a `PolicyRule`; fields of the wrong type count as absent.
    pub fn from_value(value: &Value) -> Self {
        Rule {
            verbs: strings(&value["verbs"]),
            api_groups: strings(&value["apiGroups"]),
            resources: strings(&value["resources"]),
            resource_names: strings(&value["resourceNames"]),
            non_resource_urls: strings(&value["nonResourceURLs"]),
        }
    }

    /// The rules of a role.
    pub fn list(role: &Value) -> Vec<Self> {
        role["rules"].as_array().into_iter().flatten().map(Rule::from_value).collect()
    }

    /// As JSON, without empty lists.
    pub fn to_value(&self) -> Value {
        let fields = [
            ("verbs", &self.verbs),
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.non_resource_urls),
        ];
        let fields = fields.into_iter().filter(|(_, list)| !list.is_empty());
        Value::Object(
            fields.map(|(name, list)| (name.to_owned(), list.clone().into())).collect::<Map<_, _>>(),
        )
    }

    /// Everything there is, in two rules.
    pub(crate) fn full_authority() -> [Self; 2] {
        let all = || vec!["*".to_owned()];
        [
            Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
            Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
        ]
    }

    /// Whether the rule allows the action.
    pub fn allows(&self, action: &Action<'_>) -> bool {
        match action {
            Action::Resource(wanted) => self.allows_resource(wanted),
            Action::Path { verb, path } => {
                has_or_all(&self.verbs, verb)
                    && self.non_resource_urls.iter().any(|rule| path_matches(rule, path))
            }
        }
    }

    fn allows_resource(&self, wanted: &Attributes<'_>) -> bool {
        has_or_all(&self.verbs, wanted.verb)
            && has_or_all(&self.api_groups, wanted.group)
            && self.resources.iter().any(|rule| resource_matches(rule, wanted))
            && (self.resource_names.is_empty() || has(&self.resource_names, wanted.name))
    }
}

fn resource_matches(rule: &str, wanted: &Attributes<'_>) -> bool {
    if rule == "*" {
        return true;
    }
    if wanted.subresource.is_empty() {
        return rule == wanted.resource;
    }
    // A resource that is itself called `a/b` cannot be asked for by a request, but by a review.
    rule.strip_suffix(wanted.subresource)
        .and_then(|rest| rest.strip_suffix('/'))
        .is_some_and(|resource| resource == "*" || resource == wanted.resource)
}
