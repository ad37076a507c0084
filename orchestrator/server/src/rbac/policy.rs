//! The roles and bindings of every cluster, from the table in `policy.txt`, which explains its own form. Pure.

use serde_json::{Value, json};

use super::GROUP;
use super::rule::Rule;

const TABLE: &str = include_str!("policy.txt");
/// Of the label that marks what was made at start.
pub(super) const BOOTSTRAPPING: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");
/// The annotation by which an administrator keeps an object from being brought up to date (`false`).
pub(super) const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// All objects: roles before the bindings that refer to them.
pub(super) fn objects() -> Vec<Value> {
    let (mut roles, mut bindings): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(words) = line.strip_prefix("  ") {
            if let (Some(rule), Some(rules)) = (rule(words), roles.last_mut().map(|role| &mut role["rules"]))
            {
                // A role that gathers its rules has none of its own.
                if let Some(rules) = rules.as_array_mut() {
                    rules.push(rule.to_value());
                }
            }
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["clusterrole" | "aggregate", name, labels @ ..] => roles.push(cluster_role(name, labels)),
            ["controller", account] => {
                let name = format!("system:controller:{account}");
                let subject = format!("ServiceAccount/kube-system/{account}");
                roles.push(cluster_role(&name, &[]));
                bindings.push(binding(None, (&name, &name), &[&subject]));
            }
            ["role", namespace, name] => {
                let mut role = object("Role", Some(namespace), name);
                role["rules"] = json!([]);
                roles.push(role);
            }
            ["clusterbinding", name, role, subjects @ ..] => {
                bindings.push(binding(None, (name, role), subjects));
            }
            ["binding", namespace, name, role, subjects @ ..] => {
                bindings.push(binding(Some(namespace), (name, role), subjects));
            }
            _ => {}
        }
    }
    roles.append(&mut bindings);
    roles
}

fn object(kind: &str, namespace: Option<&str>, name: &str) -> Value {
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": {
            "name": name,
            "annotations": {AUTOUPDATE: "true"},
            "labels": {BOOTSTRAPPING.0: BOOTSTRAPPING.1},
        },
    });
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = namespace.into();
    }
    object
}

fn cluster_role(name: &str, labels: &[&str]) -> Value {
    let mut role = object("ClusterRole", None, name);
    role["rules"] = json!([]);
    for word in labels {
        if let Some(label) = word.strip_prefix('>') {
            role["metadata"]["labels"][format!("{GROUP}/{label}")] = "true".into();
        }
        if let Some(label) = word.strip_prefix('<') {
            let label = format!("{GROUP}/{label}");
            role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
            role["rules"] = Value::Null;
        }
    }
    role
}

fn binding(namespace: Option<&str>, (name, role): (&str, &str), subjects: &[&str]) -> Value {
    let kinds =
        if namespace.is_some() { ("RoleBinding", "Role") } else { ("ClusterRoleBinding", "ClusterRole") };
    let mut binding = object(kinds.0, namespace, name);
    binding["roleRef"] = json!({"apiGroup": GROUP, "kind": kinds.1, "name": role});
    if !subjects.is_empty() {
        binding["subjects"] = subjects.iter().filter_map(|text| subject(text)).collect();
    }
    binding
}

fn subject(text: &str) -> Option<Value> {
    let (kind, name) = text.split_once('/')?;
    Some(match (kind, name.split_once('/')) {
        ("ServiceAccount", Some((namespace, name))) => {
            json!({"kind": kind, "name": name, "namespace": namespace})
        }
        _ => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
    })
}

fn rule(line: &str) -> Option<Rule> {
    let mut words = line.split_whitespace();
    let (verbs, groups, what) = (words.next()?, words.next()?, words.next()?);
    let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let verbs = verbs.split(',').flat_map(|verb| {
        list(match verb {
            "read" => "get,list,watch",
            "write" => "create,delete,deletecollection,patch,update",
            "tell" => "create,patch,update",
            one => one,
        })
    });
    let mut verbs: Vec<String> = verbs.collect();
    verbs.sort();
    if groups == "url" {
        return Some(Rule { verbs, non_resource_urls: list(what), ..Rule::default() });
    }
    let api_groups =
        list(groups).into_iter().map(|group| if group == "core" { String::new() } else { group });
    Some(Rule {
        verbs,
        api_groups: api_groups.collect(),
        resources: list(what),
        resource_names: words.next().and_then(|names| names.strip_prefix('=')).map(list).unwrap_or_default(),
        ..Rule::default()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use catamaran_api::{defaults, kind, meta, validate};

    use super::*;

    /// Every line of the table becomes something valid, and every binding finds its role.
    #[test]
    fn the_table_is_whole() {
        let objects = objects();
        let mut roles = BTreeSet::new();
        let mut rules = 0;
        for object in &objects {
            let (kind, name) = (object["kind"].as_str().unwrap(), meta::name(object));
            let resource = kind::find_kind(GROUP, "v1", kind).unwrap();
            let mut valid = object.clone();
            defaults::apply(resource, &mut valid);
            assert!(validate::create(resource, &valid).is_empty(), "{object}");
            rules += object["rules"].as_array().map_or(0, Vec::len);
            let role = match kind {
                "Role" | "ClusterRole" => {
                    let whole = object["aggregationRule"].is_object() != object["rules"].is_array();
                    assert!(whole, "{name} has rules of its own, or gathers them");
                    assert!(!object["rules"].as_array().is_some_and(Vec::is_empty), "{name} has rules");
                    assert!(roles.insert((kind, meta::namespace(object), name)), "{name} is there twice");
                    continue;
                }
                "RoleBinding" => {
                    ("Role", meta::namespace(object), object["roleRef"]["name"].as_str().unwrap())
                }
                _ => ("ClusterRole", "", object["roleRef"]["name"].as_str().unwrap()),
            };
            assert!(roles.contains(&role), "{name} refers to {role:?}");
        }
        let indented = TABLE.lines().filter(|line| line.starts_with("  ")).count();
        assert_eq!(rules, indented);
        let headers = TABLE.lines().filter(|line| line.starts_with(char::is_alphabetic)).count();
        let controllers = TABLE.lines().filter(|line| line.starts_with("controller ")).count();
        assert_eq!(objects.len(), headers + controllers);
    }

    #[test]
    fn lines() {
        let made = rule("read,escalate core,apps pods,pods/log =a,b").unwrap();
        assert_eq!(made.verbs, ["escalate", "get", "list", "watch"]);
        assert_eq!(made.api_groups, ["", "apps"]);
        assert_eq!(made.resources, ["pods", "pods/log"]);
        assert_eq!(made.resource_names, ["a", "b"]);
        let made = rule("get url /api,/api/*").unwrap();
        assert_eq!(made.non_resource_urls, ["/api", "/api/*"]);
    }
}
