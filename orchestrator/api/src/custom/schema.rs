//! A structural schema, compiled: what the JSON of a definition says, in the form in which pruning, defaults and
//! validation walk it. The form comes from `apiextensions/v1 JSONSchemaProps`.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use super::format::Format;
use super::rules::Rule;

/// The types of JSON values in OpenAPI's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    pub(super) fn parse(text: &str) -> Option<Type> {
        Some(match text {
            "object" => Type::Object,
            "array" => Type::Array,
            "string" => Type::String,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "boolean" => Type::Boolean,
            _ => return None,
        })
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Type::Object => "object",
            Type::Array => "array",
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
        }
    }
}

/// What may stand beside the named properties.
#[derive(Debug, Default)]
pub(super) enum Additional {
    /// Nothing: it is pruned.
    #[default]
    Nothing,
    /// Anything.
    Anything,
    /// Values of one schema: the object is a map.
    Values(Box<Schema>),
}

/// How items of a list are told apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum ListType {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

/// A compiled schema, or one node of it.
#[derive(Debug, Default)]
pub struct Schema {
    pub(super) ty: Option<Type>,
    pub(super) int_or_string: bool,
    pub(super) nullable: bool,
    pub(super) default: Option<Value>,
    pub(super) properties: BTreeMap<String, Schema>,
    pub(super) additional: Additional,
    pub(super) items: Option<Box<Schema>>,
    pub(super) preserve: bool,
    pub(super) embedded: bool,
    pub(super) list_type: ListType,
    pub(super) map_is_atomic: bool,
    pub(super) format: Option<Format>,
    pub(super) limits: Limits,
    pub(super) all_of: Vec<Schema>,
    pub(super) any_of: Vec<Schema>,
    pub(super) one_of: Vec<Schema>,
    pub(super) not: Option<Box<Schema>>,
    pub(super) rules: Vec<Rule>,
    has_rules: bool,
    has_defaults: bool,
}

/// What a value must satisfy, besides its type.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub(super) values: Vec<Value>,
    /// As it was written, and compiled.
    pub(super) pattern: Option<(String, Regex)>,
    pub(super) maximum: Option<f64>,
    pub(super) exclusive_maximum: bool,
    pub(super) minimum: Option<f64>,
    pub(super) exclusive_minimum: bool,
    pub(super) multiple_of: Option<f64>,
    pub(super) max_length: Option<usize>,
    pub(super) min_length: Option<usize>,
    pub(super) max_items: Option<usize>,
    pub(super) min_items: Option<usize>,
    pub(super) max_properties: Option<usize>,
    pub(super) min_properties: Option<usize>,
    pub(super) unique_items: bool,
    pub(super) required: Vec<String>,
}

/// Patterns that take more memory than this are refused.
const PATTERN_LIMIT: usize = 4 * 1024 * 1024;

/// Compiles a pattern.
///
/// # Errors
/// What the parser of expressions says.
pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    crate::pattern::compile(text, PATTERN_LIMIT)
}

impl Schema {
    /// Compiles the `openAPIV3Schema` of a version.
    ///
    /// # Errors
    /// A pattern or a rule that cannot be compiled, which validation of the definition refuses.
    pub fn compile(schema: &Value) -> Result<Schema, String> {
        Self::node(schema, true)
    }

    /// As [`Schema::compile`], for looking at fields only.
    pub(super) fn compile_without_rules(schema: &Value) -> Result<Schema, String> {
        Self::node(schema, false)
    }

    /// A schema that says nothing but "an object with any fields".
    pub fn anything() -> Schema {
        Schema { ty: Some(Type::Object), preserve: true, ..Schema::default() }
    }

    /// Whether there are rules anywhere in it.
    pub fn has_rules(&self) -> bool {
        self.has_rules
    }

    fn node(json: &Value, with_rules: bool) -> Result<Schema, String> {
        let text = |name: &str| json.get(name).and_then(Value::as_str).unwrap_or_default();
        let flag = |name: &str| json.get(name).and_then(Value::as_bool).unwrap_or(false);
        let nested = |name: &str| -> Result<Vec<Schema>, String> {
            let list = json.get(name).and_then(Value::as_array);
            list.into_iter().flatten().map(|schema| Self::node(schema, false)).collect()
        };
        let one = |name: &str, rules: bool| -> Result<Option<Box<Schema>>, String> {
            let found = json.get(name).filter(|schema| schema.is_object());
            found.map(|schema| Self::node(schema, rules).map(Box::new)).transpose()
        };
        let mut properties = BTreeMap::new();
        for (name, property) in json.get("properties").and_then(Value::as_object).into_iter().flatten() {
            properties.insert(name.clone(), Self::node(property, with_rules)?);
        }
        let additional = match json.get("additionalProperties") {
            Some(Value::Bool(true)) => Additional::Anything,
            Some(schema @ Value::Object(_)) => Additional::Values(Box::new(Self::node(schema, with_rules)?)),
            _ => Additional::Nothing,
        };
        let ty = Type::parse(text("type"));
        let mut node = Schema {
            ty,
            int_or_string: flag("x-kubernetes-int-or-string"),
            nullable: flag("nullable"),
            default: json.get("default").filter(|default| !default.is_null()).cloned(),
            properties,
            additional,
            items: one("items", with_rules)?,
            preserve: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            list_type: list_type(json),
            map_is_atomic: text("x-kubernetes-map-type") == "atomic",
            format: Format::parse(ty, text("format")),
            limits: limits(json)?,
            all_of: nested("allOf")?,
            any_of: nested("anyOf")?,
            one_of: nested("oneOf")?,
            not: one("not", false)?,
            rules: if with_rules { Rule::compile_all(json)? } else { Vec::new() },
            has_rules: false,
            has_defaults: false,
        };
        node.has_rules = !node.rules.is_empty() || node.children().any(|child| child.has_rules);
        node.has_defaults = node.default.is_some() || node.children().any(|child| child.has_defaults);
        Ok(node)
    }

    /// Whether there are defaults anywhere in it.
    pub(super) fn has_defaults(&self) -> bool {
        self.has_defaults
    }

    /// The schemas of what lies below.
    fn children(&self) -> impl Iterator<Item = &Schema> {
        let additional = match &self.additional {
            Additional::Values(schema) => Some(&**schema),
            _ => None,
        };
        self.properties.values().chain(self.items.as_deref()).chain(additional)
    }

    /// The schema of a field.
    pub(super) fn field(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or(match &self.additional {
            Additional::Values(schema) => Some(schema),
            _ => None,
        })
    }

    /// The type in error messages.
    pub(super) fn type_name(&self) -> &'static str {
        match self.ty {
            _ if self.int_or_string => "integer,string",
            Some(ty) => ty.as_str(),
            None => "",
        }
    }
}

fn list_type(json: &Value) -> ListType {
    match json.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => ListType::Set,
        Some("map") => {
            let keys = json.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            ListType::Map(keys.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect())
        }
        _ => ListType::Atomic,
    }
}

fn limits(json: &Value) -> Result<Limits, String> {
    let number = |name: &str| json.get(name).and_then(Value::as_f64);
    let count =
        |name: &str| json.get(name).and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok());
    let flag = |name: &str| json.get(name).and_then(Value::as_bool).unwrap_or(false);
    let list = |name: &str| json.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = json.get("pattern").and_then(Value::as_str).filter(|text| !text.is_empty());
    Ok(Limits {
        values: list("enum"),
        pattern: text.map(|text| Ok::<_, String>((text.to_owned(), pattern(text)?))).transpose()?,
        maximum: number("maximum"),
        exclusive_maximum: flag("exclusiveMaximum"),
        minimum: number("minimum"),
        exclusive_minimum: flag("exclusiveMinimum"),
        multiple_of: number("multipleOf"),
        max_length: count("maxLength"),
        min_length: count("minLength"),
        max_items: count("maxItems"),
        min_items: count("minItems"),
        max_properties: count("maxProperties"),
        min_properties: count("minProperties"),
        unique_items: flag("uniqueItems"),
        required: list("required").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
    })
}
