//! Label selectors: the text form (`a=b,c in (d,e),!f`) and the `LabelSelector` object form.
//! As in Kubernetes, `!=` and `notin` match objects that lack the key.

mod parse;

use std::fmt;

use serde_json::{Map, Value};

use crate::field_error::{FieldError, Path};
use crate::name;

pub use parse::SelectorError;

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// The value is one of a set (`=`, `==`, `in`).
    In,
    /// The key is absent or its value is none of a set (`!=`, `notin`).
    NotIn,
    /// The key is present.
    Exists,
    /// The key is absent.
    DoesNotExist,
    /// The value is an integer above another.
    GreaterThan,
    /// The value is an integer below another.
    LessThan,
}

/// One condition on one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// How it compares.
    pub operator: Operator,
    /// Sorted values; empty for `Exists` and `DoesNotExist`, one for the comparisons.
    pub values: Vec<String>,
    /// Whether it was written with `=` or `!=`, which only matters for writing it again.
    equality: Equality,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Equality {
    Written,
    Set,
}

impl Requirement {
    /// A requirement with checked key and values.
    pub fn new(key: &str, operator: Operator, values: &[&str]) -> Result<Self, SelectorError> {
        let mut values: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
        values.sort();
        values.dedup();
        parse::check(key, operator, &values)?;
        Ok(Requirement { key: key.into(), operator, values, equality: Equality::Set })
    }

    /// Whether labels satisfy the condition.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        let value = labels.label(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|v| self.values.iter().any(|w| w == v)),
            Operator::NotIn => value.is_none_or(|v| self.values.iter().all(|w| w != v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.compare(value, |have, want| have > want),
            Operator::LessThan => self.compare(value, |have, want| have < want),
        }
    }

    fn compare(&self, value: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        let have = value.and_then(|v| v.parse().ok());
        let want = self.values.first().and_then(|v| v.parse().ok());
        have.zip(want).is_some_and(|(have, want)| holds(have, want))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let values = self.values.join(",");
        match (self.operator, self.equality) {
            (Operator::In, Equality::Written) => write!(f, "{key}={values}"),
            (Operator::NotIn, Equality::Written) => write!(f, "{key}!={values}"),
            (Operator::In, Equality::Set) => write!(f, "{key} in ({values})"),
            (Operator::NotIn, Equality::Set) => write!(f, "{key} notin ({values})"),
            (Operator::Exists, _) => f.write_str(key),
            (Operator::DoesNotExist, _) => write!(f, "!{key}"),
            (Operator::GreaterThan, _) => write!(f, "{key}>{values}"),
            (Operator::LessThan, _) => write!(f, "{key}<{values}"),
        }
    }
}

/// Where labels can be looked up.
pub trait Labels {
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

/// `metadata.labels`, which may be null or absent.
impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl Labels for std::collections::BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl<L: Labels> Labels for Option<L> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref().and_then(|labels| labels.label(key))
    }
}

impl<L: Labels> Labels for &L {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

/// A conjunction of requirements. The empty selector matches everything; [`LabelSelector::nothing`] nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    requirements: Option<Vec<Requirement>>,
}

impl Default for LabelSelector {
    fn default() -> Self {
        Self::everything()
    }
}

impl LabelSelector {
    /// Matches every object.
    pub fn everything() -> Self {
        LabelSelector { requirements: Some(Vec::new()) }
    }

    /// Matches no object: what an absent `LabelSelector` means where one is required.
    pub fn nothing() -> Self {
        LabelSelector { requirements: None }
    }

    /// Parses the text form, as in `?labelSelector=`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let requirements = parse::parse(text)?;
        Ok(LabelSelector { requirements: Some(requirements) })
    }

    /// From the object form (`matchLabels`, `matchExpressions`); null matches nothing, `{}` everything.
    pub fn from_value(selector: &Value) -> Result<Self, SelectorError> {
        let Value::Object(fields) = selector else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in fields.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            requirements.push(equals(key, value.as_str().unwrap_or_default())?);
        }
        for expression in fields.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            requirements.push(from_expression(expression)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector { requirements: Some(requirements) })
    }

    /// From a plain map such as a Service's selector; null and the empty map match nothing.
    pub fn from_map(map: &Value) -> Result<Self, SelectorError> {
        let Some(map) = map.as_object().filter(|m| !m.is_empty()) else { return Ok(Self::nothing()) };
        let requirements =
            map.iter().map(|(k, v)| equals(k, v.as_str().unwrap_or_default())).collect::<Result<_, _>>()?;
        Ok(LabelSelector { requirements: Some(requirements) })
    }

    /// Whether an object's labels satisfy every requirement.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        self.requirements.as_ref().is_some_and(|all| all.iter().all(|r| r.matches(labels)))
    }

    /// Whether there is nothing to check.
    pub fn is_everything(&self) -> bool {
        self.requirements.as_ref().is_some_and(Vec::is_empty)
    }

    /// The requirements; none for [`LabelSelector::nothing`] as well.
    pub fn requirements(&self) -> &[Requirement] {
        self.requirements.as_deref().unwrap_or_default()
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements().iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

fn equals(key: &str, value: &str) -> Result<Requirement, SelectorError> {
    let requirement = Requirement::new(key, Operator::In, &[value])?;
    Ok(Requirement { equality: Equality::Written, ..requirement })
}

fn from_expression(expression: &Value) -> Result<Requirement, SelectorError> {
    let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or_default();
    let operator = match text("operator") {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        other => return Err(SelectorError::Operator(other.to_owned())),
    };
    let values: Vec<&str> = expression
        .get("values")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    Requirement::new(text("key"), operator, &values)
}

/// Checks the object form of a selector, as the field of an object that is being written.
pub fn validate(selector: &Value, path: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let labels_path = path.child("matchLabels");
    for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        let bad_key =
            name::qualified_name(key).into_iter().map(|m| FieldError::invalid(&labels_path, key.as_str(), m));
        errors.extend(bad_key);
        let value = value.as_str().unwrap_or_default();
        errors.extend(
            name::label_value(value).into_iter().map(|m| FieldError::invalid(&labels_path, value, m)),
        );
    }
    let list_path = path.child("matchExpressions");
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    for (i, expression) in expressions.into_iter().flatten().enumerate() {
        validate_expression(expression, &list_path.index(i), &mut errors);
    }
    errors
}

fn validate_expression(expression: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or_default();
    let values = expression.get("values").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    match text("operator") {
        "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
            &path.child("values"),
            "must be specified when `operator` is 'In' or 'NotIn'",
        )),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
            &path.child("values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => {
            errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator"))
        }
    }
    let key = text("key");
    errors.extend(
        name::qualified_name(key).into_iter().map(|m| FieldError::invalid(&path.child("key"), key, m)),
    );
    for (i, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or_default();
        let values_path = path.child("values");
        let bad = name::label_value(value);
        errors.extend(bad.into_iter().map(|m| FieldError::invalid(&values_path.index(i), value, m)));
    }
}

#[cfg(test)]
mod tests;
