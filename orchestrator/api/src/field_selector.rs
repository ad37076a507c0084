//! Field selectors (`status.phase!=Running,metadata.name=x`): which fields a kind offers, parsing, matching.

use std::fmt;

use serde_json::Value;

use crate::kind::{Resource, Scope};

/// Whether the value must be equal or differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `=` or `==`.
    Equals,
    /// `!=`.
    NotEquals,
}

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// Path with dots, as the client wrote it (aliases replaced).
    pub field: String,
    /// Equal or not.
    pub operator: Operator,
    /// The value as text.
    pub value: String,
}

/// A conjunction of conditions; the empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    requirements: Vec<Requirement>,
}

/// Why a field selector was refused (400).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldSelectorError {
    /// A part without operator.
    #[error("invalid selector: '{selector}'; can't understand '{part}'")]
    Shape {
        /// The whole selector.
        selector: String,
        /// The part.
        part: String,
    },
    /// A backslash before a character that needs none.
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    /// `,`, `=` or `\` without a backslash in a value.
    #[error("invalid field selector: unescaped character in value: {0}")]
    Unescaped(char),
    /// The kind does not offer the field.
    #[error("field label not supported: {0}")]
    Unsupported(String),
    /// A boolean field that is compared with something else.
    #[error("strconv.ParseBool: parsing {}: invalid syntax", crate::status::quoted(.0))]
    Boolean(String),
}

impl FieldSelector {
    /// Parses a selector and checks its fields against those that the resource offers.
    pub fn parse(text: &str, resource: &Resource) -> Result<Self, FieldSelectorError> {
        Self::parse_with(text, resource, &[])
    }

    /// As [`FieldSelector::parse`], with further fields (the `selectableFields` of a custom resource).
    pub fn parse_with(text: &str, resource: &Resource, more: &[String]) -> Result<Self, FieldSelectorError> {
        let mut selector = Self::parse_any(text)?;
        for requirement in &mut selector.requirements {
            let name = alias(resource, &requirement.field);
            let offered = match name {
                "metadata.name" => true,
                "metadata.namespace" => resource.scope == Scope::Namespaced,
                other => {
                    fields(resource.group, resource.plural).contains(&other)
                        || resource.selectable_fields.contains(&other)
                        || more.iter().any(|f| f == other)
                }
            };
            if !offered {
                return Err(FieldSelectorError::Unsupported(requirement.field.clone()));
            }
            requirement.field = name.to_owned();
        }
        Ok(selector)
    }

    /// Parses without a look at the fields.
    pub fn parse_any(text: &str) -> Result<Self, FieldSelectorError> {
        let mut requirements = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let (field, operator, value) = split_operator(part).ok_or_else(|| FieldSelectorError::Shape {
                selector: text.to_owned(),
                part: part.to_owned(),
            })?;
            let requirement = Requirement { field: field.to_owned(), operator, value: unescape(value)? };
            requirements.push(requirement);
        }
        Ok(FieldSelector { requirements })
    }

    /// The selector of one name, as used for a watch on a single object.
    pub fn name(name: &str) -> Self {
        let requirement =
            Requirement { field: "metadata.name".into(), operator: Operator::Equals, value: name.into() };
        FieldSelector { requirements: vec![requirement] }
    }

    /// Whether an object satisfies every condition.
    pub fn matches(&self, object: &Value) -> bool {
        self.requirements.iter().all(|r| {
            let equal = field_equals(object, &r.field, &r.value);
            equal == (r.operator == Operator::Equals)
        })
    }

    /// Whether there is nothing to check.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The conditions.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// The value that a field must have, when the selector asks for exactly one: lets a list become a look-up.
    pub fn exact(&self, field: &str) -> Option<&str> {
        let found = self.requirements.iter().find(|r| r.field == field && r.operator == Operator::Equals);
        found.map(|r| r.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if r.operator == Operator::Equals { "=" } else { "!=" };
            write!(f, "{comma}{}{operator}{}", r.field, escape(&r.value))?;
        }
        Ok(())
    }
}

/// The fields that a resource offers besides name and namespace.
pub fn fields(group: &str, plural: &str) -> &'static [&'static str] {
    match (group, plural) {
        ("", "pods") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        ("", "events") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("events.k8s.io", "events") => &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        ("", "nodes") => &["spec.unschedulable"],
        ("", "namespaces") => &["status.phase"],
        ("", "replicationcontrollers") | ("apps", "replicasets") => &["status.replicas"],
        ("", "secrets") => &["type"],
        ("", "services") => &["spec.clusterIP", "spec.type"],
        ("batch", "jobs") => &["status.successful"],
        ("certificates.k8s.io", "certificatesigningrequests") => &["spec.signerName"],
        _ => &[],
    }
}

fn alias<'a>(resource: &Resource, field: &'a str) -> &'a str {
    match (resource.group, resource.plural, field) {
        ("", "pods", "spec.host") => "spec.nodeName",
        _ => field,
    }
}

/// Compares a field as text; what the field is when absent depends on the field.
fn field_equals(object: &Value, field: &str, wanted: &str) -> bool {
    match field {
        "source" => event_source(object) == wanted,
        "reportingComponent" => first_text(object, &["reportingComponent", "source.component"]) == wanted,
        "status.successful" => text_of(at(object, "status.succeeded")).unwrap_or("0".into()) == wanted,
        "status.podIPs" => {
            let ips = at(object, "status.podIPs").and_then(Value::as_array);
            ips.is_some_and(|ips| ips.iter().any(|ip| ip.get("ip").and_then(Value::as_str) == Some(wanted)))
        }
        // Fields that Kubernetes prints from a Go bool or int: absent means the zero value.
        "spec.unschedulable" | "spec.hostNetwork" => {
            text_of(at(object, field)).unwrap_or("false".into()) == wanted
        }
        "status.replicas" => text_of(at(object, field)).unwrap_or("0".into()) == wanted,
        _ => match at(object, field) {
            Some(Value::String(text)) => text == wanted,
            other => text_of(other).unwrap_or_default() == wanted,
        },
    }
}

fn event_source(object: &Value) -> String {
    first_text(object, &["source.component", "reportingComponent"]).to_owned()
}

fn first_text<'a>(object: &'a Value, paths: &[&str]) -> &'a str {
    let texts = paths.iter().filter_map(|p| at(object, p).and_then(Value::as_str));
    texts.into_iter().find(|t| !t.is_empty()).unwrap_or_default()
}

fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(object, |value, part| value.get(part))
}

fn text_of(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Splits at commas that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn split_operator(part: &str) -> Option<(&str, Operator, &str)> {
    for (i, _) in part.char_indices() {
        let rest = &part[i..];
        for (symbol, operator) in
            [("!=", Operator::NotEquals), ("==", Operator::Equals), ("=", Operator::Equals)]
        {
            if let Some(value) = rest.strip_prefix(symbol) {
                return Some((&part[..i], operator, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, FieldSelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(FieldSelectorError::Escape(format!("\\{c}"))),
                None => return Err(FieldSelectorError::Escape("\\".into())),
            },
            ',' | '=' => return Err(FieldSelectorError::Unescaped(c)),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\\' | ',' | '=') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(plural: &str, text: &str) -> Result<FieldSelector, FieldSelectorError> {
        FieldSelector::parse(text, kind::find("", "v1", plural).unwrap())
    }

    #[test]
    fn what_matches() {
        let pod = json!({
            "metadata": {"name": "a", "namespace": "d"},
            "spec": {"nodeName": "n1"},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
        });
        let cases = [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==a,metadata.namespace=d", true),
            ("metadata.name!=a", false),
            ("spec.nodeName=n1", true),
            ("spec.host=n1", true),
            ("spec.nodeName=", false),
            ("spec.hostNetwork=false", true),
            ("spec.hostNetwork=true", false),
            ("status.phase!=Succeeded,status.phase!=Failed", true),
            ("status.podIPs=10.0.0.1", true),
            ("status.nominatedNodeName=", true),
        ];
        for (text, expected) in cases {
            assert_eq!(parse("pods", text).unwrap().matches(&pod), expected, "{text}");
        }
        assert!(parse("nodes", "spec.unschedulable=false").unwrap().matches(&json!({})));
        let event = json!({"source": {"component": "kubelet"}, "involvedObject": {"kind": "Pod"}});
        assert!(parse("events", "source=kubelet,involvedObject.kind=Pod").unwrap().matches(&event));
        assert!(parse("events", "reportingComponent=kubelet").unwrap().matches(&event));
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(
            parse("pods", "spec.foo=a").unwrap_err().to_string(),
            "field label not supported: spec.foo"
        );
        assert!(parse("nodes", "metadata.namespace=a").is_err());
        assert_eq!(
            parse("pods", "metadata.name").unwrap_err().to_string(),
            "invalid selector: 'metadata.name'; can't understand 'metadata.name'"
        );
        for text in ["metadata.name=a=b", "metadata.name=a\\b", "metadata.name=a\\"] {
            assert!(parse("pods", text).is_err(), "{text}");
        }
        assert_eq!(
            parse("pods", "metadata.name=a,spec.nodeName=b").unwrap().exact("spec.nodeName"),
            Some("b")
        );
        assert_eq!(parse("pods", "spec.nodeName!=b").unwrap().exact("spec.nodeName"), None);
    }

    proptest! {
        #[test]
        fn writing_then_parsing_changes_nothing(value in "[a-z,=\\\\]{0,12}") {
            let first = FieldSelector::name(&value);
            prop_assert_eq!(FieldSelector::parse_any(&first.to_string()).unwrap(), first);
        }

        #[test]
        fn never_panics(text in ".{0,60}") {
            let _ = FieldSelector::parse_any(&text);
        }
    }
}
