//! Measures what a decision costs: the index of roles and bindings against a look at every binding, which is
//! what an authorizer without an index does.
//!
//! `cargo run --release -p catamaran-server --example authorize -- [NAMESPACES]`

use std::hint::black_box;
use std::time::{Duration, Instant};

use catamaran_server::UserInfo;
use catamaran_server::authorize::{Action, Attributes};
use catamaran_server::rbac::{Index, Reviewed, Rule};
use serde_json::{Value, json};

/// Bindings in each namespace.
const EACH: usize = 10;
const ROUNDS: usize = 200_000;

fn main() {
    let namespaces: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1000);
    let rules = json!([
        {"verbs": ["get", "list", "watch"], "apiGroups": ["", "apps"], "resources": ["pods", "deployments", "pods/log"]},
        {"verbs": ["*"], "apiGroups": ["batch"], "resources": ["*"]},
    ]);
    let mut index = Index::default();
    let mut bindings: Vec<(String, Value)> = Vec::new();
    let prefix = "/registry/rbac.authorization.k8s.io";
    index.put(&format!("{prefix}/clusterroles/reader"), Some(&json!({"rules": rules})));
    for namespace in 0..namespaces {
        for place in 0..EACH {
            let binding = json!({
                "roleRef": {"kind": "ClusterRole", "name": "reader"},
                "subjects": [{"kind": "User", "name": format!("u{namespace}-{place}")}],
            });
            let namespace = format!("ns{namespace}");
            index.put(&format!("{prefix}/rolebindings/{namespace}/b{place}"), Some(&binding));
            bindings.push((namespace, binding));
        }
    }
    let rules: Vec<Rule> = rules.as_array().into_iter().flatten().map(Rule::from_value).collect();
    let user = UserInfo::new(format!("u{}-3", namespaces / 2), &["dev", "ops"]);
    let namespace = format!("ns{}", namespaces / 2);
    let ask = |verb| {
        let (group, resource) = ("apps", "deployments");
        Action::Resource(Attributes {
            verb,
            group,
            resource,
            subresource: "",
            namespace: &namespace,
            name: "x",
        })
    };
    println!("{} bindings in {namespaces} namespaces", bindings.len());
    for (what, action) in [("allowed", ask("get")), ("refused", ask("delete"))] {
        let indexed = time(ROUNDS, || matches!(index.review(&user, &action), Reviewed::Allowed(_)));
        let scanned = time(ROUNDS / bindings.len() + 1, || scan(&bindings, &rules, (&user, &action)));
        let ratio = scanned.as_nanos() as f64 / indexed.as_nanos().max(1) as f64;
        println!("{what}: index {indexed:?}, every binding {scanned:?}, {ratio:.0} times");
    }
}

fn time(rounds: usize, work: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    for _ in 0..rounds {
        black_box(work());
    }
    began.elapsed() / u32::try_from(rounds).unwrap_or(u32::MAX)
}

fn scan(bindings: &[(String, Value)], rules: &[Rule], (user, action): (&UserInfo, &Action<'_>)) -> bool {
    bindings.iter().any(|(namespace, binding)| {
        let mine = binding["subjects"].as_array().into_iter().flatten();
        namespace == action.namespace()
            && mine.into_iter().any(|subject| subject["name"].as_str() == Some(&user.name))
            && rules.iter().any(|rule| rule.allows(action))
    })
}
