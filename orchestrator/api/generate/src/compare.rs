//! Compares the table with published definitions (`$defs` of a JSON Schema file with `x-kubernetes-*`), such as those in the PyPI package
//! kubernetes-validate: `-- --compare FILE`.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::schema::{Field, SPECIAL, Types, is_special};

/// Lists every difference; any is an error.
pub(crate) fn compare(types: &Types, file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let published: Value = serde_json::from_str(&text).context("read definitions")?;
    let definitions = published["$defs"].as_object().context("$defs in the definitions")?;
    let mut differences = Vec::new();
    let mut compared = 0;
    for (name, read) in types.iter().filter(|(name, _)| !is_special(name)) {
        let Some(definition) = definitions.get(name) else {
            // Metrics are served by another project and published elsewhere.
            if !name.starts_with("io.k8s.metrics.") {
                differences.push(format!("{name} is not published"));
            }
            continue;
        };
        compared += 1;
        let no_fields = serde_json::Map::new();
        let properties = definition["properties"].as_object().unwrap_or(&no_fields);
        let ours: BTreeSet<&String> = read.fields.keys().collect();
        for field in properties.keys().collect::<BTreeSet<_>>().symmetric_difference(&ours) {
            differences.push(format!("{name}.{field} is on one side only"));
        }
        let atomic = read.attributes.iter().any(|attribute| attribute == "map=atomic");
        if atomic != (definition["x-kubernetes-map-type"] == "atomic") {
            differences.push(format!("{name}: map type"));
        }
        for (field_name, field) in &read.fields {
            let Some(property) = properties.get(field_name) else { continue };
            let required =
                definition["required"].as_array().is_some_and(|list| list.iter().any(|r| r == field_name));
            differences.extend(
                field_differences(field, property, required)
                    .map(|what| format!("{name}.{field_name}: {what}")),
            );
        }
    }
    println!("{compared} types compared");
    if !differences.is_empty() {
        bail!("{} differences:\n{}", differences.len(), differences.join("\n"));
    }
    Ok(())
}

fn field_differences(field: &Field, property: &Value, required: bool) -> impl Iterator<Item = String> {
    let attribute = |key: &str| field.attributes.iter().find_map(|a| a.strip_prefix(key)?.strip_prefix('='));
    let text = |key: &str| property[key].as_str();
    let keys = property["x-kubernetes-list-map-keys"]
        .as_array()
        .map(|keys| keys.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","));
    let checks = [
        ("required", field.required == required),
        ("shape", shape(property).as_deref() == Some(field.shape.as_str())),
        ("list type", attribute("list") == text("x-kubernetes-list-type")),
        ("list map keys", attribute("keys") == keys.as_deref()),
        ("patch strategy", attribute("strategy") == text("x-kubernetes-patch-strategy")),
        ("merge key", attribute("merge") == text("x-kubernetes-patch-merge-key")),
        (
            "map type",
            (attribute("map") == Some("atomic")) == (text("x-kubernetes-map-type") == Some("atomic")),
        ),
    ];
    checks
        .into_iter()
        .filter(|(_, same)| !same)
        .map(|(what, _)| what.to_owned())
        .collect::<Vec<_>>()
        .into_iter()
}

/// The table's notation of a published property; `null` beside a type only says that it may be absent.
fn shape(property: &Value) -> Option<String> {
    if let Some(reference) = property["$ref"].as_str() {
        let name = reference.rsplit('/').next()?;
        let special = SPECIAL.iter().find(|(special, _)| *special == name);
        return Some(special.map_or_else(|| format!("@{name}"), |(_, notation)| (*notation).to_owned()));
    }
    let ty = property["type"].as_str().or_else(|| property["type"][0].as_str())?;
    Some(match (ty, property["format"].as_str()) {
        ("array", _) => format!("[]{}", shape(&property["items"])?),
        ("object", _) => format!("{{}}{}", shape(&property["additionalProperties"])?),
        ("string", Some("byte")) => "bytes".into(),
        ("boolean", _) => "bool".into(),
        ("integer" | "number", Some(format)) => format.to_owned(),
        (ty, _) => ty.to_owned(),
    })
}
