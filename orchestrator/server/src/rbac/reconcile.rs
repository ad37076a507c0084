//! What becomes of a role or binding of every cluster that is there already: what is missing is added, what
//! somebody added stays, and what an administrator protects is left alone. Pure.

use serde_json::{Map, Value};

use catamaran_api::meta;

use super::covers;
use super::policy::AUTOUPDATE;
use super::rule::Rule;

/// What to do with a present object.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Next {
    Nothing,
    Update(Value),
    /// `roleRef` cannot be changed: delete it and create it anew.
    Recreate,
}

/// Compares an object with what it should have.
pub(super) fn next(present: &Value, expected: &Value) -> Next {
    if meta::annotation(present, AUTOUPDATE) == Some("false") {
        return Next::Nothing;
    }
    if expected["roleRef"].is_object() && present["roleRef"] != expected["roleRef"] {
        return Next::Recreate;
    }
    let mut new = present.clone();
    add_words(&mut new, expected, "labels");
    add_words(&mut new, expected, "annotations");
    add_selectors(&mut new, expected);
    add_rules(&mut new, expected);
    add_items(&mut new["subjects"], &expected["subjects"]);
    if new["subjects"].is_null() {
        new.as_object_mut().and_then(|fields| fields.remove("subjects"));
    }
    if new == *present { Next::Nothing } else { Next::Update(new) }
}

fn add_words(new: &mut Value, expected: &Value, field: &str) {
    for (key, value) in expected["metadata"][field].as_object().into_iter().flatten() {
        let words = meta::metadata_mut(new).entry(field).or_insert_with(|| Value::Object(Map::new()));
        // What is there already stays, whatever it says.
        if let Some(words) = words.as_object_mut()
            && !words.contains_key(key)
        {
            words.insert(key.clone(), value.clone());
        }
    }
}

fn add_selectors(new: &mut Value, expected: &Value) {
    if expected["aggregationRule"].is_object() {
        let wanted = &expected["aggregationRule"]["clusterRoleSelectors"];
        add_items(&mut new["aggregationRule"]["clusterRoleSelectors"], wanted);
    }
}

fn add_rules(new: &mut Value, expected: &Value) {
    if expected["aggregationRule"].is_object() {
        return;
    }
    let missing = covers::lacking(&Rule::list(new), &Rule::list(expected)).rules();
    if missing.is_empty() {
        return;
    }
    let mut rules = new["rules"].as_array().cloned().unwrap_or_default();
    rules.extend(missing.iter().map(Rule::to_value));
    new["rules"] = rules.into();
}

/// Adds the items that are not there yet.
fn add_items(present: &mut Value, expected: &Value) {
    let mut items = present.as_array().cloned().unwrap_or_default();
    let known = items.len();
    for item in expected.as_array().into_iter().flatten() {
        if !items.contains(item) {
            items.push(item.clone());
        }
    }
    if items.len() > known {
        *present = items.into();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn role(rules: Value) -> Value {
        json!({
            "metadata": {"name": "r", "labels": {"a": "b"}, "annotations": {AUTOUPDATE: "true"}},
            "rules": rules,
        })
    }

    fn binding(role: &str, subjects: Value) -> Value {
        json!({
            "metadata": {"name": "b", "labels": {"a": "b"}},
            "roleRef": {"kind": "ClusterRole", "name": role},
            "subjects": subjects,
        })
    }

    #[test]
    fn roles() {
        let get = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        let list = json!({"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]});
        let both = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]});
        let expected = role(json!([both]));
        assert_eq!(next(&expected, &expected), Next::Nothing);
        assert_eq!(next(&role(json!([list, get])), &expected), Next::Nothing, "said in another way");
        assert_eq!(next(&role(json!([get])), &expected), Next::Update(role(json!([get, list]))));
        let more = json!({"verbs": ["*"], "apiGroups": ["x"], "resources": ["y"]});
        assert_eq!(next(&role(json!([both, more])), &expected), Next::Nothing, "what was added stays");
        let mut protected = role(json!([]));
        protected["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        assert_eq!(next(&protected, &expected), Next::Nothing);
        let mut unlabelled = expected.clone();
        unlabelled["metadata"]["labels"] = json!({"c": "d"});
        let mut labelled = expected.clone();
        labelled["metadata"]["labels"] = json!({"c": "d", "a": "b"});
        assert_eq!(next(&unlabelled, &expected), Next::Update(labelled));
    }

    #[test]
    fn aggregated_roles() {
        let with = |selectors: Value, rules: Value| {
            let mut role = role(rules);
            role["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
            role
        };
        let own = json!({"matchLabels": {"x": "true"}});
        let expected = with(json!([own]), Value::Null);
        let gathered = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
        assert_eq!(next(&with(json!([own]), gathered.clone()), &expected), Next::Nothing);
        let other = json!({"matchLabels": {"y": "true"}});
        let both = with(json!([other, own]), gathered.clone());
        assert_eq!(next(&with(json!([other]), gathered), &expected), Next::Update(both));
    }

    #[test]
    fn bindings() {
        let (jane, joe) = (json!({"kind": "User", "name": "jane"}), json!({"kind": "User", "name": "joe"}));
        let expected = binding("r", json!([jane]));
        assert_eq!(next(&binding("r", json!([joe, jane])), &expected), Next::Nothing);
        assert_eq!(
            next(&binding("r", json!([joe])), &expected),
            Next::Update(binding("r", json!([joe, jane])))
        );
        assert_eq!(next(&binding("s", json!([jane])), &expected), Next::Recreate);
        let mut bare = expected.clone();
        bare.as_object_mut().unwrap().remove("subjects");
        assert_eq!(next(&bare, &bare), Next::Nothing, "no subjects are no change");
    }
}
