//! Types and fields as JSON Schema describes them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use schemars::SchemaGenerator;
use serde_json::Value;

use crate::roots;

/// Everything known of one type.
#[derive(Default)]
pub(crate) struct Type {
    pub(crate) description: String,
    /// Words after the name on the type's line.
    pub(crate) attributes: Vec<String>,
    pub(crate) gvk: Option<String>,
    pub(crate) fields: BTreeMap<String, Field>,
}

/// Everything known of one field.
#[derive(Default)]
pub(crate) struct Field {
    pub(crate) description: String,
    /// In the table's own notation.
    pub(crate) shape: String,
    pub(crate) required: bool,
    /// Protobuf field numbers from the outside to the inside; more than one where Go inlines a struct.
    pub(crate) tags: Vec<u32>,
    pub(crate) attributes: Vec<String>,
}

pub(crate) type Types = BTreeMap<String, Type>;

/// Types with a form of their own: full name, notation.
pub(crate) const SPECIAL: &[(&str, &str)] = &[
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "time"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "micro"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "fields"),
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "quantity"),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "intstr"),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "raw"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "json"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", "schema|array"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", "schema|bool"),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
        "schema|strings",
    ),
];

/// Every type reached from the roots, with list kinds added.
pub(crate) fn types() -> Result<Types> {
    let mut generator = SchemaGenerator::default();
    roots::register(&mut generator);
    let mut types = Types::new();
    for (name, schema) in generator.take_definitions(true) {
        let read = read_type(&schema).with_context(|| name.clone())?;
        types.insert(name, read);
    }
    add_lists(&mut types);
    Ok(types)
}

fn read_type(schema: &Value) -> Result<Type> {
    let mut read = Type { description: description(schema), ..Type::default() };
    let required: Vec<&str> = schema["required"]
        .as_array()
        .map(|a| a.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let Some(properties) = schema["properties"].as_object() else { return Ok(read) };
    let is_object = properties.contains_key("kind") && properties.contains_key("apiVersion");
    for (name, property) in properties {
        let field = Field {
            description: description(property),
            shape: shape(property).with_context(|| name.clone())?,
            // k8s-openapi asks for the metadata of every object, the published schemas of none.
            required: required.contains(&name.as_str()) && !(is_object && name == "metadata"),
            ..Field::default()
        };
        read.fields.insert(name.clone(), field);
    }
    Ok(read)
}

fn description(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().to_owned()
}

fn shape(schema: &Value) -> Result<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.strip_prefix("#/$defs/").context("a reference into $defs")?;
        let special = SPECIAL.iter().find(|(special, _)| *special == name);
        return Ok(special.map_or_else(|| format!("@{name}"), |(_, notation)| (*notation).to_owned()));
    }
    let format = schema["format"].as_str();
    Ok(match (schema["type"].as_str(), format) {
        (Some("string"), None) => "string".into(),
        (Some("string"), Some("byte")) => "bytes".into(),
        (Some("boolean"), None) => "bool".into(),
        (Some("integer"), Some("int32")) => "int32".into(),
        (Some("integer"), Some("int64")) => "int64".into(),
        (Some("number"), Some("double")) => "double".into(),
        (Some("array"), None) => format!("[]{}", shape(&schema["items"])?),
        (Some("object"), None) if schema["additionalProperties"].is_object() => {
            format!("{{}}{}", shape(&schema["additionalProperties"])?)
        }
        _ => bail!("a schema without a notation: {schema}"),
    })
}

/// k8s-openapi has one generic list; the published schemas have a type for each kind.
fn add_lists(types: &mut Types) {
    let kinds: Vec<String> = types
        .iter()
        .filter(|(_, t)| {
            t.fields.contains_key("kind")
                && t.fields.contains_key("apiVersion")
                && t.fields.contains_key("metadata")
        })
        .map(|(name, _)| name.clone())
        .filter(|name| !roots::LONELY.contains(&kind(name)) && !kind(name).ends_with("Reference"))
        .collect();
    for name in kinds {
        let (api_version, kind_field) = {
            let fields = &types[&name].fields;
            (fields["apiVersion"].description.clone(), fields["kind"].description.clone())
        };
        let meta = "@io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
        let mut list = Type {
            description: format!("{} is a list of {} objects.", kind(&name).to_owned() + "List", kind(&name)),
            ..Type::default()
        };
        for (field, shape, description, tag) in [
            ("apiVersion", "string".to_owned(), api_version, None),
            ("kind", "string".to_owned(), kind_field, None),
            ("items", format!("[]@{name}"), "The objects of the list.".to_owned(), Some(2)),
            ("metadata", meta.to_owned(), "Standard list metadata.".to_owned(), Some(1)),
        ] {
            let field_of_list = Field {
                description,
                shape,
                required: field == "items",
                tags: tag.into_iter().collect(),
                ..Field::default()
            };
            list.fields.insert(field.to_owned(), field_of_list);
        }
        types.insert(format!("{name}List"), list);
    }
}

/// The last part of a type's name.
pub(crate) fn kind(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Types that the table writes in a notation of their own and not as structs.
pub(crate) fn is_special(name: &str) -> bool {
    SPECIAL.iter().any(|(special, _)| *special == name)
}
