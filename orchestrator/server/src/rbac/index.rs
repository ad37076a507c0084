//! Roles and bindings by subject: what a user may do is found without looking at anybody else's bindings. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use catamaran_api::selector::LabelSelector;
use catamaran_api::status::quoted;

use super::PREFIX;
use super::rule::Rule;
use crate::authenticate::UserInfo;
use crate::authorize::Action;

/// A role as evaluation needs it.
#[derive(Debug, Clone)]
pub(super) struct Role {
    pub(super) rules: Vec<Rule>,
    labels: BTreeMap<String, String>,
    /// Selectors of the roles that are gathered into this one.
    aggregates: Option<Vec<LabelSelector>>,
}

/// What a binding refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RoleRef {
    pub(super) kind: RoleKind,
    pub(super) name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RoleKind {
    Role,
    ClusterRole,
}

impl RoleRef {
    /// From a `roleRef`; none when its kind is unknown.
    pub(super) fn from_value(value: &Value) -> Option<Self> {
        let kind = match value["kind"].as_str()? {
            "Role" => RoleKind::Role,
            "ClusterRole" => RoleKind::ClusterRole,
            _ => return None,
        };
        Some(RoleRef { kind, name: value["name"].as_str()?.to_owned() })
    }

    pub(super) fn kind_name(&self) -> &'static str {
        match self.kind {
            RoleKind::Role => "Role",
            RoleKind::ClusterRole => "ClusterRole",
        }
    }
}

#[derive(Debug)]
struct Binding {
    /// None for all namespaces.
    namespace: Option<String>,
    name: String,
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// A subject as it is looked up, and as messages call it.
#[derive(Debug)]
struct Subject {
    whose: Whose,
    name: String,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Whose {
    User,
    Group,
}

/// The bindings of one subject, each with the place of the subject in it.
#[derive(Debug, Default)]
struct Held {
    everywhere: Vec<(Arc<Binding>, usize)>,
    within: HashMap<String, Vec<(Arc<Binding>, usize)>>,
}

/// What evaluation found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reviewed {
    /// Allowed, and by what.
    Allowed(String),
    /// Nothing allows it; with the bindings' faults met on the way (`RBAC: …`), or empty.
    NoOpinion(String),
}

/// All roles and bindings.
#[derive(Debug, Default)]
pub struct Index {
    cluster_roles: BTreeMap<String, Arc<Role>>,
    roles: HashMap<String, HashMap<String, Arc<Role>>>,
    bindings: HashMap<String, Arc<Binding>>,
    users: HashMap<String, Held>,
    groups: HashMap<String, Held>,
}

impl Index {
    /// Takes in the present state of the object under a key of the store; `None` when it is gone.
    pub fn put(&mut self, key: &str, object: Option<&Value>) {
        let Some((plural, place)) = key.strip_prefix(PREFIX).and_then(|rest| rest.split_once('/')) else {
            return;
        };
        let (namespace, name) = match place.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, place),
        };
        match (plural, namespace) {
            ("clusterroles", None) => match object {
                Some(object) => drop(self.cluster_roles.insert(name.to_owned(), Arc::new(role(object)))),
                None => drop(self.cluster_roles.remove(name)),
            },
            ("roles", Some(namespace)) => self.put_role(namespace, name, object),
            ("clusterrolebindings", None) | ("rolebindings", Some(_)) => {
                self.remove_binding(key);
                if let Some(binding) = object.and_then(|object| binding(namespace, name, object)) {
                    self.add_binding(key, binding);
                }
            }
            _ => {}
        }
    }

    fn put_role(&mut self, namespace: &str, name: &str, object: Option<&Value>) {
        if let Some(object) = object {
            let roles = self.roles.entry(namespace.to_owned()).or_default();
            roles.insert(name.to_owned(), Arc::new(role(object)));
        } else if let Some(roles) = self.roles.get_mut(namespace) {
            roles.remove(name);
            if roles.is_empty() {
                self.roles.remove(namespace);
            }
        }
    }

    fn holders(&mut self, whose: Whose) -> &mut HashMap<String, Held> {
        match whose {
            Whose::User => &mut self.users,
            Whose::Group => &mut self.groups,
        }
    }

    fn add_binding(&mut self, key: &str, binding: Binding) {
        let binding = Arc::new(binding);
        for (place, subject) in binding.subjects.iter().enumerate() {
            let held = self.holders(subject.whose).entry(subject.name.clone()).or_default();
            let list = match &binding.namespace {
                Some(namespace) => held.within.entry(namespace.clone()).or_default(),
                None => &mut held.everywhere,
            };
            list.push((binding.clone(), place));
        }
        self.bindings.insert(key.to_owned(), binding);
    }

    fn remove_binding(&mut self, key: &str) {
        let Some(binding) = self.bindings.remove(key) else { return };
        for subject in &binding.subjects {
            let holders = self.holders(subject.whose);
            let Some(held) = holders.get_mut(&subject.name) else { continue };
            let others = |held: &(Arc<Binding>, usize)| !Arc::ptr_eq(&held.0, &binding);
            held.everywhere.retain(others);
            if let Some(namespace) = &binding.namespace
                && let Some(list) = held.within.get_mut(namespace)
            {
                list.retain(others);
                if list.is_empty() {
                    held.within.remove(namespace);
                }
            }
            if held.everywhere.is_empty() && held.within.is_empty() {
                holders.remove(&subject.name);
            }
        }
    }

    /// The bindings of a user that count in a namespace (empty: only those for all of them).
    fn bindings_of<'a>(
        &'a self,
        user: &'a UserInfo,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Binding, &'a Subject)> {
        let groups = user.groups.iter().filter_map(|group| self.groups.get(group));
        let held = self.users.get(&user.name).into_iter().chain(groups);
        held.flat_map(move |held| {
            let within = held.within.get(namespace).filter(|_| !namespace.is_empty());
            held.everywhere.iter().chain(within.into_iter().flatten())
        })
        .map(|(binding, place)| (&**binding, &binding.subjects[*place]))
    }

    pub(super) fn role(&self, role: &RoleRef, namespace: Option<&str>) -> Option<&Role> {
        match role.kind {
            RoleKind::ClusterRole => self.cluster_roles.get(&role.name),
            RoleKind::Role => self.roles.get(namespace?)?.get(&role.name),
        }
        .map(|role| &**role)
    }

    /// Whether the user may do that.
    pub fn review(&self, user: &UserInfo, action: &Action<'_>) -> Reviewed {
        let mut faults: Vec<String> = Vec::new();
        for (binding, subject) in self.bindings_of(user, action.namespace()) {
            match self.role(&binding.role, binding.namespace.as_deref()) {
                Some(role) if role.rules.iter().any(|rule| rule.allows(action)) => {
                    return Reviewed::Allowed(reason(binding, subject));
                }
                Some(_) => {}
                None => faults.push(fault(&binding.role)),
            }
        }
        faults.sort();
        faults.dedup();
        Reviewed::NoOpinion(match faults.as_slice() {
            [] => String::new(),
            [fault] => format!("RBAC: {fault}"),
            faults => format!("RBAC: [{}]", faults.join(", ")),
        })
    }

    /// Every rule that counts for a user in a namespace, binding by binding, with the bindings' faults.
    pub fn rules_of(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut faults) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for (binding, _) in self.bindings_of(user, namespace) {
            if !seen.insert(std::ptr::from_ref(binding)) {
                continue;
            }
            match self.role(&binding.role, binding.namespace.as_deref()) {
                Some(role) => rules.extend(role.rules.iter().cloned()),
                None => faults.push(fault(&binding.role)),
            }
        }
        (rules, faults)
    }

    /// The rules that aggregated cluster roles should have, of those that have others. A role may gather roles
    /// that are themselves aggregated.
    pub(super) fn to_aggregate(&self) -> Vec<(String, Vec<Rule>)> {
        let aggregates: Vec<(&String, &Arc<Role>)> =
            self.cluster_roles.iter().filter(|(_, role)| role.aggregates.is_some()).collect();
        let mut made: HashMap<&str, Vec<Rule>> = HashMap::new();
        // Every round settles at least one more level; roles that gather each other settle as well or are cut off.
        for _ in 0..=aggregates.len() {
            let mut changed = false;
            for (name, role) in &aggregates {
                let gathered = self.gather(name, role, &made);
                if made.get(name.as_str()) != Some(&gathered) {
                    made.insert(name, gathered);
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        let changed = aggregates.into_iter().filter_map(|(name, role)| {
            let rules = made.remove(name.as_str())?;
            (rules != role.rules).then(|| (name.clone(), rules))
        });
        changed.collect()
    }

    fn gather(&self, name: &str, role: &Role, made: &HashMap<&str, Vec<Rule>>) -> Vec<Rule> {
        let (mut rules, mut seen) = (Vec::new(), HashSet::new());
        for selector in role.aggregates.iter().flatten() {
            let selected = self.cluster_roles.iter();
            let selected = selected.filter(|(other, role)| *other != name && selector.matches(&role.labels));
            for (other, role) in selected {
                let present: &[Rule] = match (&role.aggregates, made.get(other.as_str())) {
                    (Some(_), Some(made)) => made,
                    (Some(_), None) => &[],
                    (None, _) => &role.rules,
                };
                rules.extend(present.iter().filter(|rule| seen.insert(*rule)).cloned());
            }
        }
        rules
    }
}

fn role(object: &Value) -> Role {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    let selectors = object["aggregationRule"]["clusterRoleSelectors"].as_array();
    Role {
        rules: Rule::list(object),
        labels: labels.collect(),
        // Validation lets no broken selector in; should there be one, it selects nothing.
        aggregates: selectors.filter(|_| object["aggregationRule"].is_object()).map(|selectors| {
            selectors.iter().filter_map(|selector| LabelSelector::from_value(selector).ok()).collect()
        }),
    }
}

fn binding(namespace: Option<&str>, name: &str, object: &Value) -> Option<Binding> {
    let subjects = object["subjects"].as_array().into_iter().flatten();
    // Once each: who is named again and again has the same rights.
    let mut known = HashSet::new();
    let subjects = subjects.filter_map(|value| subject(value, namespace));
    let subjects = subjects.filter(|subject| known.insert((subject.whose, subject.name.clone()))).collect();
    Some(Binding {
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
        role: RoleRef::from_value(&object["roleRef"])?,
        subjects,
    })
}

fn subject(value: &Value, binding_namespace: Option<&str>) -> Option<Subject> {
    let name = value["name"].as_str()?;
    let (whose, looked_up, text) = match value["kind"].as_str()? {
        kind @ "User" => (Whose::User, name.to_owned(), format!("{kind} {}", quoted(name))),
        kind @ "Group" => (Whose::Group, name.to_owned(), format!("{kind} {}", quoted(name))),
        kind @ "ServiceAccount" => {
            let own = value["namespace"].as_str().filter(|namespace| !namespace.is_empty());
            let namespace = own.or(binding_namespace)?;
            let text = format!("{kind} {}", quoted(&format!("{name}/{namespace}")));
            (Whose::User, format!("system:serviceaccount:{namespace}:{name}"), text)
        }
        _ => return None,
    };
    Some(Subject { whose, name: looked_up, text })
}

fn reason(binding: &Binding, subject: &Subject) -> String {
    let (kind, name) = match &binding.namespace {
        Some(namespace) => ("RoleBinding", format!("{}/{namespace}", binding.name)),
        None => ("ClusterRoleBinding", binding.name.clone()),
    };
    let (role_kind, role_name) = (binding.role.kind_name(), quoted(&binding.role.name));
    format!("RBAC: allowed by {kind} {} of {role_kind} {role_name} to {}", quoted(&name), subject.text)
}

fn fault(role: &RoleRef) -> String {
    let kind = role.kind_name().to_ascii_lowercase();
    format!("{kind}.{} {} not found", super::GROUP, quoted(&role.name))
}
