//! FlowSchemas and PriorityLevelConfigurations.

use serde_json::Value;

use super::Errors;
use super::check::{in_range, messages, not_negative, one_of, required};
use crate::field_error::{FieldError, Path};
use crate::fields::{at, flag, integer, list, number, text, texts};
use crate::{meta, name};

const SPEC: Path<'static> = Path::root("spec");
/// Kubernetes' bound on the number of queues.
const QUEUES: i64 = 10_000_000;
/// Bits of the hash by which flows are dealt their queues.
const HASH_BITS: f64 = 60.0;
const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// The rules of every state.
pub(super) fn validate(plural: &str, o: &Value, errors: &mut Errors) {
    match plural {
        "flowschemas" => schema(meta::name(o), &o["spec"], errors),
        "prioritylevelconfigurations" => level(meta::name(o), &o["spec"], errors),
        _ => {}
    }
}

fn schema(own: &str, spec: &Value, errors: &mut Errors) {
    let precedence = integer(spec, "matchingPrecedence");
    let path = SPEC.child("matchingPrecedence");
    let wrong = match precedence {
        ..=0 => Some("must be a positive value"),
        1 if own != "exempt" => Some("only the schema named 'exempt' may have matchingPrecedence 1"),
        10_001.. => Some("must not be greater than 10000"),
        _ => None,
    };
    errors.extend(wrong.map(|message| FieldError::invalid(&path, precedence, message)));
    if let Some(method) = at(spec, "distinguisherMethod") {
        one_of(method, "type", &["ByNamespace", "ByUser"], &SPEC.child("distinguisherMethod"), errors);
    }
    let (reference, level) =
        (SPEC.child("priorityLevelConfiguration"), text(spec, "priorityLevelConfiguration.name"));
    if level.is_empty() {
        errors.push(FieldError::required(&reference.child("name"), "must reference a priority level"));
    } else {
        messages(name::dns1123_subdomain(level), level, &reference.child("name"), errors);
    }
    let rules = SPEC.child("rules");
    for (i, item) in list(spec, "rules").iter().enumerate() {
        rule(item, &rules.index(i), errors);
    }
}

fn rule(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    let subjects = path.child("subjects");
    if list(rule, "subjects").is_empty() {
        errors.push(FieldError::required(&subjects, "subjects must contain at least one value"));
    }
    for (i, item) in list(rule, "subjects").iter().enumerate() {
        subject(item, &subjects.index(i), errors);
    }
    if list(rule, "resourceRules").is_empty() && list(rule, "nonResourceRules").is_empty() {
        let message = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(path, message));
    }
    let resources = path.child("resourceRules");
    for (i, item) in list(rule, "resourceRules").iter().enumerate() {
        resource_rule(item, &resources.index(i), errors);
    }
    let paths = path.child("nonResourceRules");
    for (i, item) in list(rule, "nonResourceRules").iter().enumerate() {
        path_rule(item, &paths.index(i), errors);
    }
}

fn subject(subject: &Value, path: &Path<'_>, errors: &mut Errors) {
    let parts = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = text(subject, "kind");
    let Some((_, own)) = parts.iter().find(|(known, _)| *known == kind) else {
        let known = ["Group", "ServiceAccount", "User"];
        errors.push(FieldError::not_supported(&path.child("kind"), kind, &known));
        return;
    };
    for (other, field) in parts.iter().filter(|(_, field)| field != own) {
        if at(subject, field).is_some() {
            let message = format!("{field} is forbidden when subject kind is not '{other}'");
            errors.push(FieldError::forbidden(&path.child(field), message));
        }
    }
    let inner = path.child(own);
    let Some(part) = at(subject, own) else {
        errors.push(FieldError::required(&inner, format!("{own} is required when subject kind is '{kind}'")));
        return;
    };
    let account = required(part, "name", &inner, errors);
    if kind == "ServiceAccount" {
        if let Some(account) = account.filter(|name| *name != "*") {
            messages(name::dns1123_subdomain(account), account, &inner.child("name"), errors);
        }
        match text(part, "namespace") {
            "" => errors.push(FieldError::required(
                &inner.child("namespace"),
                "must specify namespace for service account",
            )),
            namespace => {
                messages(name::dns1123_label(namespace), namespace, &inner.child("namespace"), errors)
            }
        }
    }
}

/// A list with at least one item, and nothing beside `*`.
fn words(o: &Value, (field, what): (&str, &str), missing: &str, path: &Path<'_>, errors: &mut Errors) {
    let found = list(o, field);
    let path = path.child(field);
    if found.is_empty() {
        errors.push(FieldError::required(&path, missing));
    } else if found.len() > 1 && texts(o, field).any(|word| word == "*") {
        let message = format!("if '*' is present, must not specify other {what}");
        errors.push(FieldError::invalid(&path, found.to_vec(), message));
    }
}

fn verbs(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    words(rule, ("verbs", "verbs"), "verbs must contain at least one value", path, errors);
    let all = texts(rule, "verbs").any(|verb| verb == "*");
    if !all && texts(rule, "verbs").any(|verb| !VERBS.contains(&verb)) {
        let found = list(rule, "verbs").to_vec();
        errors.push(FieldError::not_supported(&path.child("verbs"), found, &VERBS));
    }
}

fn resource_rule(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    verbs(rule, path, errors);
    let missing = "resource rules must supply at least one api group";
    words(rule, ("apiGroups", "api groups"), missing, path, errors);
    let missing = "resource rules must supply at least one resource";
    words(rule, ("resources", "resources"), missing, path, errors);
    if list(rule, "namespaces").is_empty() && flag(rule, "clusterScope") {
        return;
    }
    let missing = "resource rules that are not cluster scoped must supply at least one namespace";
    words(rule, ("namespaces", "namespaces"), missing, path, errors);
    let namespaces = path.child("namespaces");
    for (i, namespace) in texts(rule, "namespaces").enumerate().filter(|(_, namespace)| *namespace != "*") {
        for message in name::dns1123_label(namespace) {
            let message = format!("each member of this list must be '*' or a DNS-1123 label; {message}");
            errors.push(FieldError::invalid(&namespaces.index(i), namespace, message));
        }
    }
}

fn path_rule(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    verbs(rule, path, errors);
    let missing = "nonResourceURLs must contain at least one value";
    words(rule, ("nonResourceURLs", "non-resource URLs"), missing, path, errors);
    let urls = path.child("nonResourceURLs");
    for (i, url) in texts(rule, "nonResourceURLs").enumerate().filter(|(_, url)| *url != "*") {
        errors.extend(url_fault(url).map(|message| FieldError::invalid(&urls.index(i), url, message)));
    }
}

fn url_fault(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || stars == 1 && !url.ends_with("/*") => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

fn level(own: &str, spec: &Value, errors: &mut Errors) {
    let kind = text(spec, "type");
    if (own == "exempt") != (kind == "Exempt") {
        let message = "type must be 'Exempt' if and only if name is 'exempt'";
        errors.push(FieldError::invalid(&SPEC.child("type"), kind, message));
    }
    match kind {
        "Exempt" => {
            if at(spec, "limited").is_some() {
                let message = "must be nil if the type is not Limited";
                errors.push(FieldError::forbidden(&SPEC.child("limited"), message));
            }
            if let Some(exempt) = at(spec, "exempt") {
                shares(exempt, &SPEC.child("exempt"), errors);
            }
        }
        "Limited" => {
            if at(spec, "exempt").is_some() {
                let message = "must be nil if the type is Limited";
                errors.push(FieldError::forbidden(&SPEC.child("exempt"), message));
            }
            match at(spec, "limited") {
                None => errors.push(FieldError::required(
                    &SPEC.child("limited"),
                    "must not be empty when type is Limited",
                )),
                Some(limited) => self::limited(limited, &SPEC.child("limited"), errors),
            }
        }
        _ => errors.push(FieldError::not_supported(&SPEC.child("type"), kind, &["Exempt", "Limited"])),
    }
}

fn shares(part: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(shares) = number(part, "nominalConcurrencyShares").filter(|shares| *shares < 0) {
        let message = "must be a non-negative integer";
        errors.push(FieldError::invalid(&path.child("nominalConcurrencyShares"), shares, message));
    }
    in_range(part, "lendablePercent", 0, 100, path, errors);
}

fn limited(limited: &Value, path: &Path<'_>, errors: &mut Errors) {
    shares(limited, path, errors);
    not_negative(limited, "borrowingLimitPercent", path, errors);
    let path = path.child("limitResponse");
    let response = &limited["limitResponse"];
    let queuing = at(response, "queuing");
    match text(response, "type") {
        "Reject" => {
            if queuing.is_some() {
                let message = "must be nil if limited.limitResponse.type is not Limited";
                errors.push(FieldError::forbidden(&path.child("queuing"), message));
            }
        }
        "Queue" => match queuing {
            None => errors.push(FieldError::required(
                &path.child("queuing"),
                "must not be empty if limited.limitResponse.type is Limited",
            )),
            Some(queuing) => queues(queuing, &path.child("queuing"), errors),
        },
        other => errors.push(FieldError::not_supported(&path.child("type"), other, &["Queue", "Reject"])),
    }
}

fn queues(queuing: &Value, path: &Path<'_>, errors: &mut Errors) {
    let amount = |field: &str| integer(queuing, field);
    let (queues, hand) = (amount("queues"), amount("handSize"));
    let mut fault = |field: &str, value: i64, message: String| {
        errors.push(FieldError::invalid(&path.child(field), value, message));
    };
    if amount("queueLengthLimit") <= 0 {
        fault("queueLengthLimit", amount("queueLengthLimit"), "must be positive".to_owned());
    }
    match queues {
        ..=0 => fault("queues", queues, "must be positive".to_owned()),
        1..=QUEUES => {}
        _ => fault("queues", queues, format!("must not be greater than {QUEUES}")),
    }
    if hand <= 0 {
        fault("handSize", hand, "must be positive".to_owned());
    } else if hand > queues {
        fault("handSize", hand, format!("should not be greater than queues ({queues})"));
    } else if entropy(queues, hand) > HASH_BITS {
        let message = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than 60"
        );
        fault("handSize", hand, message);
    }
}

/// Bits that it takes to name one hand out of all that can be dealt in order.
fn entropy(queues: i64, hand: i64) -> f64 {
    let mut bits = 0.0;
    for dealt in 0..hand {
        // Beyond this it is too much whatever comes.
        if bits > HASH_BITS {
            break;
        }
        bits += f64::from(i32::try_from(queues - dealt).unwrap_or(i32::MAX)).log2();
    }
    bits.ceil()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(plural: &str, name: &str, spec: &Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate(plural, &json!({"metadata": {"name": name}, "spec": spec}), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    fn cases(plural: &str, good: &Value, table: &[(&str, Value, &str)]) {
        assert_eq!(check(plural, "x", good), Vec::<String>::new());
        for (pointer, value, expected) in table {
            let mut spec = good.clone();
            *spec.pointer_mut(pointer).unwrap() = value.clone();
            let errors = check(plural, "x", &spec);
            assert!(errors.iter().any(|error| error.starts_with(expected)), "{errors:?} for {expected}");
        }
    }

    #[test]
    fn schemas() {
        let good = json!({
            "matchingPrecedence": 100, "distinguisherMethod": {"type": "ByUser"},
            "priorityLevelConfiguration": {"name": "system"},
            "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "a"}},
                    {"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "d"}}],
                "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/a/*"]}],
            }],
        });
        let rule = "spec.rules[0]";
        let table = [
            (
                "/matchingPrecedence",
                json!(0),
                "spec.matchingPrecedence: Invalid value: 0: must be a positive value",
            ),
            ("/matchingPrecedence", json!(1), "spec.matchingPrecedence: Invalid value: 1: only the schema"),
            (
                "/matchingPrecedence",
                json!(10_001),
                "spec.matchingPrecedence: Invalid value: 10001: must not be greater",
            ),
            (
                "/distinguisherMethod/type",
                json!("ByColour"),
                "spec.distinguisherMethod.type: Unsupported value",
            ),
            (
                "/priorityLevelConfiguration/name",
                json!(""),
                "spec.priorityLevelConfiguration.name: Required value",
            ),
            ("/rules/0/subjects", json!([]), "spec.rules[0].subjects: Required value"),
            ("/rules/0/subjects/0/kind", json!("Cat"), "spec.rules[0].subjects[0].kind: Unsupported value"),
            ("/rules/0/subjects/0/kind", json!("Group"), "spec.rules[0].subjects[0].user: Forbidden"),
            (
                "/rules/0/subjects/1/serviceAccount/namespace",
                json!(""),
                "spec.rules[0].subjects[1].serviceAccount.namespace: Required",
            ),
            (
                "/rules/0/resourceRules/0/verbs",
                json!(["fly"]),
                "spec.rules[0].resourceRules[0].verbs: Unsupported value",
            ),
            (
                "/rules/0/resourceRules/0/verbs",
                json!(["*", "get"]),
                "spec.rules[0].resourceRules[0].verbs: Invalid value",
            ),
            (
                "/rules/0/resourceRules/0/namespaces",
                json!([]),
                "spec.rules[0].resourceRules[0].namespaces: Required",
            ),
            (
                "/rules/0/resourceRules/0/namespaces",
                json!(["A"]),
                "spec.rules[0].resourceRules[0].namespaces[0]: Invalid",
            ),
            (
                "/rules/0/nonResourceRules/0/nonResourceURLs",
                json!(["a"]),
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"a\": must start with slash",
            ),
            (
                "/rules/0/nonResourceRules/0/nonResourceURLs",
                json!(["/a*"]),
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid",
            ),
        ];
        cases("flowschemas", &good, &table);
        let mut bare = good;
        bare["rules"][0] = json!({"subjects": [{"kind": "Group", "group": {"name": "g"}}]});
        assert!(
            check("flowschemas", "x", &bare)[0]
                .starts_with(&format!("{rule}: Required value: at least one of"))
        );
    }

    #[test]
    fn levels() {
        let good = json!({
            "type": "Limited",
            "limited": {
                "nominalConcurrencyShares": 0, "lendablePercent": 100, "borrowingLimitPercent": 500,
                "limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": 6, "queueLengthLimit": 50}},
            },
        });
        let queuing = "spec.limited.limitResponse.queuing";
        let at = |field: &str| format!("/limited/limitResponse/queuing/{field}");
        let (hand, queues, length) = (at("handSize"), at("queues"), at("queueLengthLimit"));
        let texts: Vec<String> = [
            "handSize: Invalid value: 65: should not",
            "handSize: Invalid value: 11: required entropy",
            "queues: Invalid value: 0",
            "queueLengthLimit: Invalid value: 0",
        ]
        .map(|text| format!("{queuing}.{text}"))
        .to_vec();
        let table = [
            (hand.as_str(), json!(65), texts[0].as_str()),
            (&hand, json!(11), &texts[1]),
            (&queues, json!(0), &texts[2]),
            (&length, json!(0), &texts[3]),
            ("/type", json!("Exempt"), "spec.type: Invalid value: \"Exempt\": type must be 'Exempt'"),
            ("/type", json!("Odd"), "spec.type: Unsupported value"),
            ("/limited", Value::Null, "spec.limited: Required value"),
            (
                "/limited/nominalConcurrencyShares",
                json!(-1),
                "spec.limited.nominalConcurrencyShares: Invalid value: -1",
            ),
            ("/limited/lendablePercent", json!(101), "spec.limited.lendablePercent: Invalid value: 101"),
            ("/limited/limitResponse/type", json!("Reject"), "spec.limited.limitResponse.queuing: Forbidden"),
            ("/limited/limitResponse/queuing", Value::Null, "spec.limited.limitResponse.queuing: Required"),
        ];
        cases("prioritylevelconfigurations", &good, &table);
        assert!(!check("prioritylevelconfigurations", "exempt", &good).is_empty());
        let exempt =
            json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
        assert_eq!(check("prioritylevelconfigurations", "exempt", &exempt), Vec::<String>::new());
    }
}
