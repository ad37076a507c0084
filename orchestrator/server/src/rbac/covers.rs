//! Whether a set of rules grants everything that another one grants, and if not, what is missing. Pure; the
//! base of escalation checks and of reconciliation.

use std::collections::{BTreeSet, HashMap};

use super::rule::{Rule, path_matches};
use catamaran_api::status::quoted;

/// Parts (a verb on a resource or path) that are looked at one by one. A small rule can have billions of them.
const MOST_PARTS: usize = 10_000;

/// The wanted rules have more parts than can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the rules grant more than {MOST_PARTS} combinations of verb and resource; split them, or use \"*\"")]
pub struct TooLarge;

/// What `held` lacks of `wanted`, in rules of one verb on one resource or path each.
///
/// # Errors
/// The rules that no held rule covers whole have more than [`MOST_PARTS`] parts.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Result<Missing, TooLarge> {
    let open: Vec<&Rule> =
        wanted.iter().filter(|wanted| !held.iter().any(|rule| covers(rule, wanted))).collect();
    let all = open.iter().try_fold(0_usize, |all, rule| all.checked_add(parts(rule)?));
    if all.is_none_or(|all| all > MOST_PARTS) {
        return Err(TooLarge);
    }
    Ok(lacking(held, open))
}

/// The same for wanted rules that are known to be few.
pub(super) fn lacking<'a>(held: &[Rule], wanted: impl IntoIterator<Item = &'a Rule>) -> Missing {
    let parts = wanted.into_iter().flat_map(break_down);
    Missing(parts.filter(|part| !held.iter().any(|rule| covers(rule, part))).collect())
}

/// How many parts a rule has; none when that cannot be counted.
fn parts(rule: &Rule) -> Option<usize> {
    let places = rule.api_groups.len().checked_mul(rule.resources.len())?;
    let places = places.checked_mul(rule.resource_names.len().max(1))?;
    places.checked_add(rule.non_resource_urls.len())?.checked_mul(rule.verbs.len())
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
