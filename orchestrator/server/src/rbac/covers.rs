//! Whether a set of rules grants everything that another one grants, and if not, what is missing. Pure; the
//! base of escalation checks and of reconciliation.

use std::collections::{BTreeSet, HashMap};

use super::rule::{Rule, path_matches};
use catamaran_api::status::quoted;

/// What `held` lacks of `wanted`, in rules of one verb on one resource or path each.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Missing {
    let parts = wanted.iter().flat_map(break_down);
    Missing(parts.filter(|part| !held.iter().any(|rule| covers(rule, part))).collect())
}

/// Rules that somebody lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(Vec<Rule>);

impl Missing {
    /// Whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The missing rules, with the verbs on the same resource in one.
    pub fn rules(&self) -> Vec<Rule> {
        let mut compact: Vec<Rule> = Vec::new();
        let mut places: HashMap<[&[String]; 3], usize> = HashMap::new();
        for rule in &self.0 {
            let key = [&rule.api_groups[..], &rule.resources[..], &rule.resource_names[..]];
            match places.get(&key) {
                Some(place) if rule.non_resource_urls.is_empty() => {
                    let verbs = &mut compact[*place].verbs;
                    let new = rule.verbs.iter().filter(|verb| !verbs.contains(verb)).cloned();
                    let new: Vec<String> = new.collect();
                    verbs.extend(new);
                }
                _ => {
                    if rule.non_resource_urls.is_empty() {
                        places.insert(key, compact.len());
                    }
                    compact.push(rule.clone());
                }
            }
        }
        compact
    }

    /// One line a rule, sorted, in the words of Kubernetes: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
    pub fn describe(&self) -> String {
        let lines: BTreeSet<String> = self.rules().iter().map(describe).collect();
        lines.into_iter().collect::<Vec<_>>().join("\n")
    }
}

fn describe(rule: &Rule) -> String {
    let fields = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let parts = fields.into_iter().filter(|(_, list)| !list.is_empty());
    let parts: Vec<String> = parts.map(|(name, list)| format!("{name}:{}", quoted_list(list))).collect();
    format!("{{{}}}", parts.join(", "))
}

/// `["a" "b"]`, as Go prints a list of strings.
pub(super) fn quoted_list(list: &[String]) -> String {
    format!("[{}]", list.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(" "))
}

/// One rule for each verb on each resource (and name) or path.
fn break_down(rule: &Rule) -> Vec<Rule> {
    let one = |item: &String| vec![item.clone()];
    let mut parts = Vec::new();
    for url in &rule.non_resource_urls {
        let of = |verb| Rule { verbs: one(verb), non_resource_urls: one(url), ..Rule::default() };
        parts.extend(rule.verbs.iter().map(of));
    }
    let names: Vec<Vec<String>> = if rule.resource_names.is_empty() {
        vec![Vec::new()]
    } else {
        rule.resource_names.iter().map(one).collect()
    };
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let of = |names: &Vec<String>| Rule {
                    verbs: one(verb),
                    api_groups: one(group),
                    resources: one(resource),
                    resource_names: names.clone(),
                    non_resource_urls: Vec::new(),
                };
                parts.extend(names.iter().map(of));
            }
        }
    }
    parts
}

/// Whether one rule grants all of a part.
fn covers(rule: &Rule, part: &Rule) -> bool {
    let all = |held: &[String], wanted: &[String]| {
        held.iter().any(|item| item == "*") || wanted.iter().all(|item| held.contains(item))
    };
    let resources = rule.resources.iter().any(|item| item == "*")
        || part.resources.iter().all(|wanted| {
            let any_parent = wanted.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
            rule.resources.iter().any(|held| held == wanted || Some(held) == any_parent.as_ref())
        });
    let names = rule.resource_names.is_empty()
        || (!part.resource_names.is_empty()
            && part.resource_names.iter().all(|name| rule.resource_names.contains(name)));
    let urls = part
        .non_resource_urls
        .iter()
        .all(|url| rule.non_resource_urls.iter().any(|held| path_matches(held, url)));
    all(&rule.verbs, &part.verbs) && all(&rule.api_groups, &part.api_groups) && resources && names && urls
}
