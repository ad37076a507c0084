//! Label selectors: what parses, what matches, what is written back.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn selector(text: &str) -> LabelSelector {
    LabelSelector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn what_matches() {
    let labels = json!({"app": "web", "tier": "front", "n": "5", "empty": ""});
    let cases = [
        ("", true),
        ("  ", true),
        ("app=web", true),
        ("app==web", true),
        (" app = web , tier in ( back , front ) ", true),
        ("app=db", false),
        ("app!=db", true),
        ("app!=web", false),
        ("gone!=x", true),
        ("gone notin (x)", true),
        ("gone in (x)", false),
        ("app notin (web,db)", false),
        ("app", true),
        ("!app", false),
        ("!gone", true),
        ("gone", false),
        ("n>4", true),
        ("n>5", false),
        ("n<6", true),
        ("app>1", false),
        ("empty=", true),
        ("empty=,app=web", true),
        ("empty in ()", true),
        ("app in (,web)", true),
        ("in=x", false),
        ("x.io/y", false),
        ("app=web,tier=back", false),
    ];
    for (text, expected) in cases {
        assert_eq!(selector(text).matches(&labels), expected, "{text}");
    }
    assert!(selector("!app").matches(&None::<&Value>));
    assert!(selector("").matches(&Value::Null));
}

#[test]
fn what_is_refused() {
    let cases = [
        "x=a||y=b",
        "x==a==b",
        "x===a",
        "!x=a",
        "x<a",
        "x in",
        "x in (a",
        "x in a)",
        "x in (a b)",
        "x notin",
        ",x",
        "x,",
        "x,,y",
        "x y",
        "a b=c",
        "=a",
        "x=a b",
        "-x",
        "x=-",
        "x/y/z=a",
        "x=(a)",
        "x>",
        "(x)",
    ];
    for text in cases {
        assert!(LabelSelector::parse(text).is_err(), "{text}");
    }
    assert_eq!(
        LabelSelector::parse("x,").unwrap_err().to_string(),
        "unable to parse requirement: found '', expected: identifier after ','"
    );
}

#[test]
fn written_back() {
    let cases = [
        ("b=1,a==2", "a=2,b=1"),
        ("x in (b,a)", "x in (a,b)"),
        ("x notin (a)", "x notin (a)"),
        ("x!=a", "x!=a"),
        ("!x", "!x"),
        ("x", "x"),
        ("x>1,y<2", "x>1,y<2"),
    ];
    for (text, canonical) in cases {
        assert_eq!(selector(text).to_string(), canonical);
    }
}

#[test]
fn object_form() {
    let object = json!({
        "matchLabels": {"app": "web"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["front", "back"]},
            {"key": "old", "operator": "DoesNotExist"},
        ],
    });
    let selector = LabelSelector::from_value(&object).unwrap();
    assert!(selector.matches(&json!({"app": "web", "tier": "back"})));
    assert!(!selector.matches(&json!({"app": "web", "tier": "back", "old": "1"})));
    assert!(!selector.matches(&json!({"app": "web"})));
    assert_eq!(selector.to_string(), "app=web,!old,tier in (back,front)");
    assert!(LabelSelector::from_value(&json!({})).unwrap().matches(&json!({"a": "b"})));
    assert!(!LabelSelector::from_value(&Value::Null).unwrap().matches(&json!({"a": "b"})));
    assert!(!LabelSelector::from_map(&json!({})).unwrap().matches(&json!({"a": "b"})));
    assert!(LabelSelector::from_map(&json!({"a": "b"})).unwrap().matches(&json!({"a": "b"})));
    assert!(
        LabelSelector::from_value(&json!({"matchExpressions": [{"key": "a", "operator": "Is"}]})).is_err()
    );
}

#[test]
fn object_form_is_validated() {
    let bad = json!({
        "matchLabels": {"-a": "b"},
        "matchExpressions": [
            {"key": "a", "operator": "In"},
            {"key": "a", "operator": "Exists", "values": ["x"]},
            {"key": "a", "operator": "Is"},
        ],
    });
    let fields: Vec<String> =
        validate(&bad, &Path::root("spec").child("selector")).iter().map(|e| e.field.clone()).collect();
    assert_eq!(
        fields,
        [
            "spec.selector.matchLabels",
            "spec.selector.matchExpressions[0].values",
            "spec.selector.matchExpressions[1].values",
            "spec.selector.matchExpressions[2].operator",
        ]
    );
}

proptest! {
    #[test]
    fn writing_then_parsing_changes_nothing(
        parts in prop::collection::vec(("[a-z]{1,5}", 0_usize..6, prop::collection::vec("[a-z0-9]{1,4}", 1..3), 0_i32..9), 0..4)
    ) {
        let mut all = Vec::new();
        for (key, operator, values, n) in &parts {
            let texts: Vec<&str> = values.iter().map(String::as_str).collect();
            let number = n.to_string();
            let requirement = match operator {
                0 => Requirement::new(key, Operator::In, &texts),
                1 => Requirement::new(key, Operator::NotIn, &texts),
                2 => Requirement::new(key, Operator::Exists, &[]),
                3 => Requirement::new(key, Operator::DoesNotExist, &[]),
                4 => Requirement::new(key, Operator::GreaterThan, &[&number]),
                _ => Requirement::new(key, Operator::LessThan, &[&number]),
            };
            all.push(requirement.unwrap().to_string());
        }
        let first = selector(&all.join(","));
        prop_assert_eq!(selector(&first.to_string()), first);
    }

    #[test]
    fn never_panics(text in ".{0,60}") {
        let _ = LabelSelector::parse(&text);
    }
}
