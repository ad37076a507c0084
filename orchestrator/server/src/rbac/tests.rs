//! The index against a slow oracle that does what Kubernetes' documentation says, step by step; and tables.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::covers::missing;
use super::index::{Index, Reviewed};
use super::rule::Rule;
use crate::UserInfo;
use crate::authorize::{Action, Attributes};

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
    Rule {
        verbs: words(verbs),
        api_groups: words(groups),
        resources: words(resources),
        resource_names: words(names),
        non_resource_urls: Vec::new(),
    }
}

fn urls(verbs: &[&str], urls: &[&str]) -> Rule {
    Rule { verbs: words(verbs), non_resource_urls: words(urls), ..Rule::default() }
}

fn asks<'a>(verb: &'a str, group: &'a str, resource: &'a str, name: &'a str) -> Action<'a> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Action::Resource(Attributes { verb, group, resource, subresource, namespace: "", name })
}

#[test]
fn rules_about_resources() {
    let table = [
        (rule(&["get"], &[""], &["pods"], &[]), asks("get", "", "pods", "a"), true),
        (rule(&["get"], &[""], &["pods"], &[]), asks("list", "", "pods", ""), false),
        (rule(&["*"], &[""], &["pods"], &[]), asks("anything", "", "pods", ""), true),
        (rule(&["get"], &["apps"], &["pods"], &[]), asks("get", "", "pods", ""), false),
        (rule(&["get"], &["*"], &["pods"], &[]), asks("get", "apps", "pods", ""), true),
        (rule(&["get"], &[""], &["pods"], &[]), asks("get", "", "pods/log", "a"), false),
        (rule(&["get"], &[""], &["pods/log"], &[]), asks("get", "", "pods/log", "a"), true),
        (rule(&["get"], &[""], &["pods/log"], &[]), asks("get", "", "pods", "a"), false),
        (rule(&["get"], &[""], &["*/log"], &[]), asks("get", "", "pods/log", "a"), true),
        (rule(&["get"], &[""], &["*/log"], &[]), asks("get", "", "pods/catalog", "a"), false),
        (rule(&["get"], &[""], &["pods/*"], &[]), asks("get", "", "pods/log", "a"), false),
        (rule(&["get"], &[""], &["*"], &[]), asks("get", "", "pods/log", "a"), true),
        (rule(&["get"], &[""], &["pods"], &["a"]), asks("get", "", "pods", "a"), true),
        (rule(&["get"], &[""], &["pods"], &["a"]), asks("get", "", "pods", "b"), false),
        (rule(&["list"], &[""], &["pods"], &["a"]), asks("list", "", "pods", ""), false),
        (rule(&["*"], &["*"], &["*"], &[]), asks("*", "*", "*", ""), true),
        (rule(&["get"], &["*"], &["*"], &[]), asks("*", "*", "*", ""), false),
        (rule(&["*"], &["*"], &["*"], &[]), Action::Path { verb: "get", path: "/x" }, false),
        (urls(&["get"], &["/x"]), asks("get", "", "x", ""), false),
    ];
    for (rule, action, expected) in table {
        assert_eq!(rule.allows(&action), expected, "{rule:?} {action:?}");
    }
}

#[test]
fn rules_about_paths() {
    let table = [
        ("/apis", "/apis", true),
        ("/apis", "/apis/", false),
        ("/apis/*", "/apis/apps", true),
        ("/apis/*", "/apis", false),
        ("/apis*", "/apis", true),
        ("*", "/anything", true),
        ("/a/*/b", "/a/x/b", false),
    ];
    for (held, path, expected) in table {
        assert_eq!(
            urls(&["get"], &[held]).allows(&Action::Path { verb: "get", path }),
            expected,
            "{held} {path}"
        );
        assert!(!urls(&["get"], &[held]).allows(&Action::Path { verb: "post", path }), "{held} {path}");
    }
}

#[test]
fn rules_with_too_many_parts_are_not_broken_down() {
    let many = |word: &str| (0..300).map(|n| format!("{word}{n}")).collect::<Vec<_>>();
    let huge = Rule {
        verbs: many("v"),
        api_groups: many("g"),
        resources: many("r"),
        resource_names: many("n"),
        ..Rule::default()
    };
    assert!(missing(&[], std::slice::from_ref(&huge)).is_err());
    let everything = Rule::full_authority();
    assert!(missing(&everything, std::slice::from_ref(&huge)).unwrap().is_empty(), "covered as a whole");
}

#[test]
fn what_is_missing() {
    let all = Rule::full_authority();
    let table = [
        (
            vec![],
            vec![rule(&["get", "list"], &[""], &["pods"], &[])],
            r#"{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}"#,
        ),
        (vec![rule(&["get"], &[""], &["pods"], &[])], vec![rule(&["get"], &[""], &["pods"], &["a"])], ""),
        (
            vec![rule(&["get"], &[""], &["pods"], &["a"])],
            vec![rule(&["get"], &[""], &["pods"], &[])],
            r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#,
        ),
        (
            vec![rule(&["get"], &[""], &["pods"], &["a"])],
            vec![rule(&["get"], &[""], &["pods"], &["a", "b"])],
            r#"{APIGroups:[""], Resources:["pods"], ResourceNames:["b"], Verbs:["get"]}"#,
        ),
        (vec![rule(&["get"], &[""], &["*/scale"], &[])], vec![rule(&["get"], &[""], &["x/scale"], &[])], ""),
        (vec![rule(&["*"], &["*"], &["*"], &[])], vec![rule(&["*"], &["*"], &["*"], &["x"])], ""),
        (
            vec![rule(&["get", "list"], &[""], &["pods"], &[]), rule(&["get"], &["apps"], &["x"], &[])],
            vec![rule(&["get"], &["", "apps"], &["pods", "x"], &[])],
            "{APIGroups:[\"\"], Resources:[\"x\"], Verbs:[\"get\"]}\n{APIGroups:[\"apps\"], Resources:[\"pods\"], Verbs:[\"get\"]}",
        ),
        (vec![urls(&["get"], &["/a*"])], vec![urls(&["get"], &["/a", "/a/*"])], ""),
        (
            vec![urls(&["get"], &["/a"])],
            vec![urls(&["get", "post"], &["/a"])],
            r#"{NonResourceURLs:["/a"], Verbs:["post"]}"#,
        ),
        (vec![], vec![], ""),
        (all.to_vec(), all.to_vec(), ""),
    ];
    for (held, wanted, expected) in table {
        assert_eq!(missing(&held, &wanted).unwrap().describe(), expected, "{held:?} {wanted:?}");
    }
}

fn key(kind: &str, namespace: &str, name: &str) -> String {
    let plural = format!("{}s", kind.to_lowercase());
    let place = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
    format!("{}{plural}/{place}", super::PREFIX)
}

fn index(objects: &[(&str, &str, &str, Value)]) -> Index {
    let mut index = Index::default();
    for (kind, namespace, name, object) in objects {
        index.put(&key(kind, namespace, name), Some(object));
    }
    index
}

#[test]
fn reasons_and_faults() {
    let pods = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
    let subject = |kind: &str, name: &str| json!({"kind": kind, "name": name, "namespace": "d"});
    let to = |kind: &str, role: &str, subject: Value| json!({"roleRef": {"kind": kind, "name": role}, "subjects": [subject]});
    let index = index(&[
        ("ClusterRole", "", "reader", pods.clone()),
        ("Role", "d", "local", pods),
        ("ClusterRoleBinding", "", "all", to("ClusterRole", "reader", subject("User", "jane"))),
        ("RoleBinding", "d", "here", to("Role", "local", subject("Group", "dev"))),
        ("RoleBinding", "e", "account", to("ClusterRole", "reader", subject("ServiceAccount", "sa"))),
        ("RoleBinding", "d", "broken", to("Role", "gone", subject("User", "joe"))),
        ("ClusterRoleBinding", "", "broken", to("ClusterRole", "gone", subject("User", "joe"))),
    ]);
    let allowed = |text: &str| Reviewed::Allowed(text.to_owned());
    let no = |text: &str| Reviewed::NoOpinion(text.to_owned());
    let table = [
        (
            "jane",
            "",
            allowed(r#"RBAC: allowed by ClusterRoleBinding "all" of ClusterRole "reader" to User "jane""#),
        ),
        (
            "jane",
            "x",
            allowed(r#"RBAC: allowed by ClusterRoleBinding "all" of ClusterRole "reader" to User "jane""#),
        ),
        ("of dev", "d", allowed(r#"RBAC: allowed by RoleBinding "here/d" of Role "local" to Group "dev""#)),
        ("of dev", "e", no("")),
        ("of dev", "", no("")),
        (
            "system:serviceaccount:d:sa",
            "e",
            allowed(
                r#"RBAC: allowed by RoleBinding "account/e" of ClusterRole "reader" to ServiceAccount "sa/d""#,
            ),
        ),
        ("system:serviceaccount:d:sa", "d", no("")),
        ("joe", "e", no(r#"RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found"#)),
        (
            "joe",
            "d",
            no(
                r#"RBAC: [clusterrole.rbac.authorization.k8s.io "gone" not found, role.rbac.authorization.k8s.io "gone" not found]"#,
            ),
        ),
    ];
    for (name, namespace, expected) in table {
        let user = UserInfo::new(name, if name == "of dev" { &["dev"] } else { &[] });
        let wanted =
            Attributes { verb: "get", group: "", resource: "pods", subresource: "", namespace, name: "p" };
        assert_eq!(index.review(&user, &Action::Resource(wanted)), expected, "{name} in {namespace:?}");
    }
}

#[test]
fn aggregation() {
    let role = |labels: Value, rules: Value| json!({"metadata": {"labels": labels}, "rules": rules});
    let gathers = |label: &str, labels: Value| {
        json!({
            "metadata": {"labels": labels},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]},
        })
    };
    let one = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["one"]});
    let two = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["two"]});
    let mut index = index(&[
        ("ClusterRole", "", "a", role(json!({"to-view": "true"}), json!([one]))),
        ("ClusterRole", "", "b", role(json!({"to-edit": "true"}), json!([two, one]))),
        ("ClusterRole", "", "view", gathers("to-view", json!({"to-edit": "true"}))),
        ("ClusterRole", "", "edit", gathers("to-edit", json!({"to-view": "true"}))),
    ]);
    let rules = |values: &[&Value]| values.iter().map(|value| Rule::from_value(value)).collect::<Vec<_>>();
    // They gather each other, which ends as well.
    let expected = [("edit".to_owned(), rules(&[&two, &one])), ("view".to_owned(), rules(&[&one, &two]))];
    assert_eq!(index.to_aggregate(), expected);
    for (name, rules) in expected {
        let mut object = gathers(
            if name == "view" { "to-view" } else { "to-edit" },
            json!({"to-edit": "true", "to-view": "true"}),
        );
        object["rules"] = rules.iter().map(Rule::to_value).collect();
        index.put(&key("ClusterRole", "", &name), Some(&object));
    }
    assert_eq!(index.to_aggregate(), [], "settled");
    index.put(&key("ClusterRole", "", "b"), None);
    let left: Vec<_> = index.to_aggregate().into_iter().map(|(_, rules)| rules.len()).collect();
    assert_eq!(left, [1, 1]);
}

const VERBS: [&str; 4] = ["get", "list", "create", "*"];
const GROUPS: [&str; 3] = ["", "apps", "*"];
const RESOURCES: [&str; 7] =
    ["pods", "pods/log", "deployments", "deployments/scale", "*/scale", "*/log", "*"];
const NAMES: [&str; 3] = ["a", "b", "c"];
const PATHS: [&str; 6] = ["/a", "/a/b", "/a/*", "/a*", "*", "/c"];
const NAMESPACES: [&str; 3] = ["", "d", "e"];
const ROLES: [&str; 3] = ["r", "s", "gone"];

fn some(of: &'static [&'static str], least: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(select(of).prop_map(str::to_owned), least..4)
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let about_resources = (some(&VERBS, 1), some(&GROUPS, 1), some(&RESOURCES, 1), some(&NAMES, 0)).prop_map(
        |(verbs, api_groups, resources, mut resource_names)| {
            // Most rules name no objects.
            if resource_names.len() < 2 {
                resource_names.clear();
            }
            Rule { verbs, api_groups, resources, resource_names, non_resource_urls: Vec::new() }
        },
    );
    let about_paths = (some(&VERBS, 1), some(&PATHS, 1)).prop_map(|(verbs, non_resource_urls)| Rule {
        verbs,
        non_resource_urls,
        ..Rule::default()
    });
    prop_oneof![4 => about_resources, 1 => about_paths]
}

fn any_subject() -> impl Strategy<Value = Value> {
    let namespaces = select(&NAMESPACES[..]);
    (select(&["User", "Group", "ServiceAccount"][..]), select(&NAMES[..]), namespaces)
        .prop_map(|(kind, name, namespace)| json!({"kind": kind, "name": name, "namespace": namespace}))
}

/// An object at a place, or its deletion.
type Step = ((&'static str, &'static str, &'static str), Option<Value>);

fn any_step() -> impl Strategy<Value = Step> {
    let rules = prop::collection::vec(any_rule(), 0..3);
    let subjects = prop::collection::vec(any_subject(), 0..3);
    let place = (any::<bool>(), select(&NAMESPACES[..]), select(&ROLES[..2]));
    let reference = (any::<bool>(), select(&ROLES[..]));
    (place, rules, subjects, reference, 0..4u8).prop_map(
        |((is_role, namespace, name), rules, subjects, (local, role), fate)| {
            let kind = match (is_role, namespace.is_empty()) {
                (true, true) => "ClusterRole",
                (true, false) => "Role",
                (false, true) => "ClusterRoleBinding",
                (false, false) => "RoleBinding",
            };
            let rules: Value = rules.iter().map(Rule::to_value).collect();
            let role_kind = if local && !namespace.is_empty() { "Role" } else { "ClusterRole" };
            let object = if is_role {
                json!({"rules": rules})
            } else {
                json!({"roleRef": {"kind": role_kind, "name": role}, "subjects": subjects})
            };
            ((kind, namespace, name), (fate > 0).then_some(object))
        },
    )
}

/// Every object, one after the other, as the documentation of RBAC reads.
fn oracle(steps: &[Step], user: &UserInfo, action: &Action<'_>) -> bool {
    let find = |kind: &str, namespace: &str, name: &str| {
        let last = steps.iter().rev().find(|((k, ns, n), _)| (*k, *ns, *n) == (kind, namespace, name));
        last.and_then(|(_, object)| object.clone())
    };
    let asked = action.namespace();
    for name in &ROLES[..2] {
        for (kind, namespace) in [("ClusterRoleBinding", ""), ("RoleBinding", asked)] {
            let Some(binding) = find(kind, namespace, name) else { continue };
            let is_subject = binding["subjects"].as_array().unwrap().iter().any(|subject| {
                let name = subject["name"].as_str().unwrap();
                let own = subject["namespace"].as_str().filter(|own| !own.is_empty()).unwrap_or(namespace);
                match subject["kind"].as_str().unwrap() {
                    "User" => user.name == name,
                    "Group" => user.groups.iter().any(|group| group == name),
                    _ => !own.is_empty() && user.name == format!("system:serviceaccount:{own}:{name}"),
                }
            });
            let role_kind = binding["roleRef"]["kind"].as_str().unwrap();
            let role_namespace = if role_kind == "Role" { namespace } else { "" };
            let role = find(role_kind, role_namespace, binding["roleRef"]["name"].as_str().unwrap());
            let Some(role) = role.filter(|_| is_subject) else { continue };
            if role["rules"].as_array().unwrap().iter().any(|rule| rule_allows(rule, action)) {
                return true;
            }
        }
    }
    false
}

fn rule_allows(rule: &Value, action: &Action<'_>) -> bool {
    let list = |field: &str| -> Vec<String> {
        rule[field].as_array().into_iter().flatten().map(|item| item.as_str().unwrap().to_owned()).collect()
    };
    let has = |field: &str, wanted: &str| list(field).iter().any(|item| item == "*" || item == wanted);
    match action {
        Action::Path { verb, path } => {
            has("verbs", verb)
                && list("nonResourceURLs")
                    .iter()
                    .any(|url| url == path || (url.ends_with('*') && path.starts_with(&url[..url.len() - 1])))
        }
        Action::Resource(wanted) => {
            let whole = if wanted.subresource.is_empty() {
                wanted.resource.to_owned()
            } else {
                format!("{}/{}", wanted.resource, wanted.subresource)
            };
            let anybodys = format!("*/{}", wanted.subresource);
            has("verbs", wanted.verb)
                && has("apiGroups", wanted.group)
                && (has("resources", &whole)
                    || (!wanted.subresource.is_empty() && list("resources").contains(&anybodys)))
                && (list("resourceNames").is_empty()
                    || list("resourceNames").iter().any(|name| name == wanted.name))
        }
    }
}

fn any_user() -> impl Strategy<Value = UserInfo> {
    let names = ["a", "b", "system:serviceaccount:d:a", "system:serviceaccount:e:b", "x"];
    (select(names.to_vec()), some(&NAMES, 0)).prop_map(|(name, groups)| UserInfo {
        name: name.to_owned(),
        groups,
        ..UserInfo::default()
    })
}

fn actions(namespace: &'static str) -> Vec<Action<'static>> {
    let mut actions = Vec::new();
    for verb in ["get", "list", "delete"] {
        for group in ["", "apps"] {
            for (resource, subresource) in
                [("pods", ""), ("pods", "log"), ("deployments", "scale"), ("deployments", "")]
            {
                for name in ["", "a"] {
                    actions.push(Action::Resource(Attributes {
                        verb,
                        group,
                        resource,
                        subresource,
                        namespace,
                        name,
                    }));
                }
            }
        }
        if namespace.is_empty() {
            actions.extend(["/a", "/a/b", "/ab", "/c", "/d"].map(|path| Action::Path { verb, path }));
        }
    }
    actions
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is written and deleted in whatever order, the index says what a look at every object says.
    #[test]
    fn the_index_agrees_with_the_oracle(
        steps in prop::collection::vec(any_step(), 0..16),
        user in any_user(),
        namespace in select(&NAMESPACES[..]),
    ) {
        let mut index = Index::default();
        for ((kind, namespace, name), object) in &steps {
            index.put(&key(kind, namespace, name), object.as_ref());
        }
        let (rules, _) = index.rules_of(&user, namespace);
        for action in actions(namespace) {
            let expected = oracle(&steps, &user, &action);
            let reviewed = index.review(&user, &action);
            prop_assert_eq!(matches!(reviewed, Reviewed::Allowed(_)), expected, "{:?}", &action);
            prop_assert_eq!(rules.iter().any(|rule| rule.allows(&action)), expected, "{:?}", &action);
        }
    }

    /// Who covers rules may do all that they allow; and what is missing is all that lacks.
    #[test]
    fn covered_rules_allow_nothing_more(
        held in prop::collection::vec(any_rule(), 0..4),
        wanted in prop::collection::vec(any_rule(), 0..3),
    ) {
        let lacking = missing(&held, &wanted).unwrap();
        for action in actions("").iter().chain(&actions("d")) {
            let allowed = |rules: &[Rule]| rules.iter().any(|rule| rule.allows(action));
            if lacking.is_empty() && allowed(&wanted) {
                prop_assert!(allowed(&held), "{:?}", action);
            }
        }
        let mut all = held;
        all.extend(lacking.rules());
        prop_assert!(missing(&all, &wanted).unwrap().is_empty());
        prop_assert!(missing(&wanted, &wanted).unwrap().is_empty());
    }

    /// An index that everything was removed from is empty again.
    #[test]
    fn nothing_is_left_behind(steps in prop::collection::vec(any_step(), 0..16)) {
        let mut index = Index::default();
        for ((kind, namespace, name), object) in &steps {
            index.put(&key(kind, namespace, name), object.as_ref());
        }
        for ((kind, namespace, name), _) in &steps {
            index.put(&key(kind, namespace, name), None);
        }
        prop_assert_eq!(format!("{index:?}"), format!("{:?}", Index::default()));
    }
}
