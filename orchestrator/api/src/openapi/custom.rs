//! The schemas of custom resources: what the definition says, with the metadata that every object has.

use serde_json::{Map, Value, json};

use super::schemas::META;
use super::writer::Writer;
use crate::kind::Resource;

/// `com.example.v1.Widget`: the group turned around, version, kind.
pub(super) fn name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{kind}", parts.join("."))
}

/// Writes the schema of an object and that of a list.
pub(super) fn write(w: &mut Writer, resource: &Resource, schema: &Value) {
    let (group, version) = (resource.group, resource.version);
    let kind = |kind: &str| json!([{"group": group, "kind": kind, "version": version}]);
    let own = name(group, version, resource.kind);
    let mut object = published(schema);
    add_type(&mut object, "ObjectMeta");
    object["x-kubernetes-group-version-kind"] = kind(resource.kind);
    w.field(&own).raw(&object.to_string());
    let mut list = json!({
        "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": {"items": {
            "description": format!("List of {}.", resource.plural),
            "type": "array",
            "items": {"$ref": format!("#/components/schemas/{own}")},
        }},
    });
    add_type(&mut list, "ListMeta");
    list["x-kubernetes-group-version-kind"] = kind(resource.list_kind);
    w.field(&name(group, version, resource.list_kind)).raw(&list.to_string());
}

/// Describes `apiVersion`, `kind` and `metadata`, as every kind has them.
fn add_type(schema: &mut Value, metadata: &str) {
    if !schema.is_object() {
        *schema = json!({"type": "object"});
    }
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    let said = |name: &str| schema["properties"][name]["description"].as_str().map(str::to_owned);
    let api_version = said("apiVersion").unwrap_or_else(|| {
        "APIVersion is the versioned schema of this representation of an object.".to_owned()
    });
    let kind = said("kind")
        .unwrap_or_else(|| "Kind names the REST resource that this object represents.".to_owned());
    schema["properties"]["apiVersion"] = json!({"type": "string", "description": api_version});
    schema["properties"]["kind"] = json!({"type": "string", "description": kind});
    schema["properties"]["metadata"] = json!({
        "description": "Standard object's metadata.",
        "allOf": [{"$ref": format!("#/components/schemas/{META}{metadata}")}],
    });
}

/// The schema as it is published: what stands for "integer or string" says so in OpenAPI's words.
fn published(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let mut out: Map<String, Value> =
                fields.iter().map(|(name, value)| (name.clone(), published_part(name, value))).collect();
            if fields.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true))
                && !out.contains_key("anyOf")
            {
                out.insert("anyOf".into(), json!([{"type": "integer"}, {"type": "string"}]));
            }
            if fields.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
                let mut object = Value::Object(out);
                add_type(&mut object, "ObjectMeta");
                return object;
            }
            Value::Object(out)
        }
        other => other.clone(),
    }
}

/// Only what holds schemas is looked into: defaults and examples are values.
fn published_part(name: &str, value: &Value) -> Value {
    match (name, value) {
        ("properties", Value::Object(fields)) => {
            fields.iter().map(|(name, schema)| (name.clone(), published(schema))).collect()
        }
        ("items" | "additionalProperties", schema) => published(schema),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_turned_around() {
        assert_eq!(name("cert-manager.io", "v1", "Issuer"), "io.cert-manager.v1.Issuer");
    }

    #[test]
    fn schemas_have_what_every_object_has() {
        let schema = json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"port": {"x-kubernetes-int-or-string": true}}},
        }});
        let mut made = published(&schema);
        add_type(&mut made, "ObjectMeta");
        assert_eq!(made["properties"]["spec"]["properties"]["port"]["anyOf"][1]["type"], "string");
        assert!(
            made["properties"]["metadata"]["allOf"][0]["$ref"].as_str().unwrap().ends_with("v1.ObjectMeta")
        );
    }
}
