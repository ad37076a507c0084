//! Protobuf field numbers, read from the attributes in k8s-pb's generated source and matched by name without case and punctuation.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::schema::{Types, is_special, kind};

struct Message {
    fields: Vec<Number>,
}

struct Number {
    name: String,
    tag: u32,
    /// Last part of the message type's name, folded; empty for scalars.
    message: String,
}

/// Fields that exist in JSON alone: the type's own name travels in the envelope.
const ENVELOPE: &[&str] = &["apiVersion", "kind"];

/// Fills in the tags of every field; a field without one is an error.
pub(crate) fn tag(types: &mut Types, source: &Path) -> Result<()> {
    let mut modules: HashMap<String, HashMap<String, Message>> = HashMap::new();
    for (name, read) in types.iter_mut() {
        if is_special(name) || read.fields.values().all(|f| !f.tags.is_empty()) {
            continue;
        }
        let top_level = read.gvk.is_some()
            || ENVELOPE.iter().all(|e| read.fields.contains_key(*e)) && read.fields.contains_key("metadata");
        let module = module(name)?;
        if !modules.contains_key(&module) {
            let path = source.join(&module).join("mod.rs");
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            modules.insert(module.clone(), parse(&text)?);
        }
        let messages = &modules[&module];
        for (field_name, field) in &mut read.fields {
            if !field.tags.is_empty() || top_level && ENVELOPE.contains(&field_name.as_str()) {
                continue;
            }
            field.tags = find(messages, &fold(kind(name)), &fold(field_name), 3)
                .with_context(|| format!("{name}.{field_name} has no protobuf field"))?;
        }
    }
    Ok(())
}

/// The path of numbers to a field, through structs that JSON inlines; the shortest one.
fn find(messages: &HashMap<String, Message>, message: &str, field: &str, depth: usize) -> Option<Vec<u32>> {
    let fields = &messages.get(message)?.fields;
    if let Some(number) = fields.iter().find(|n| n.name == field) {
        return Some(vec![number.tag]);
    }
    if depth == 1 {
        return None;
    }
    fields
        .iter()
        .filter(|number| inlined(message, &number.name))
        .filter_map(|number| {
            let mut path = find(messages, &number.message, field, depth - 1)?;
            path.insert(0, number.tag);
            Some(path)
        })
        .min_by_key(Vec::len)
}

/// The complete list of structs that protobuf nests and JSON does not (message, field).
fn inlined(message: &str, field: &str) -> bool {
    matches!(
        (message, field),
        ("volume", "volumesource")
            | ("persistentvolumespec", "persistentvolumesource")
            | ("ephemeralcontainer", "ephemeralcontainercommon")
            | ("probe" | "lifecyclehandler", "handler")
            | ("ingressrule", "ingressrulevalue")
            | (
                "configmapenvsource"
                    | "configmapkeyselector"
                    | "configmapprojection"
                    | "configmapvolumesource",
                "localobjectreference"
            )
            | ("secretenvsource" | "secretkeyselector" | "secretprojection", "localobjectreference")
            | ("rulewithoperations", "rule")
            | ("namedrulewithoperations", "rulewithoperations")
    )
}

fn module(name: &str) -> Result<String> {
    let package = name.rsplit_once('.').context("a package")?.0;
    let path = package.strip_prefix("io.k8s.").context("a name below io.k8s")?;
    let path = match path.split_once('.') {
        Some((top @ ("apiextensions-apiserver" | "kube-aggregator"), rest)) => {
            format!("{}.{rest}", top.replace('-', "_"))
        }
        _ => path.to_owned(),
    };
    Ok(path.replace('.', "/"))
}

/// Reads structs, tags and field names out of prost's output.
fn parse(text: &str) -> Result<HashMap<String, Message>> {
    let mut messages: HashMap<String, Message> = HashMap::new();
    let mut current = String::new();
    let mut tag = None;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            current = fold(rest.trim_end_matches(['{', '}', ' ']));
            messages.insert(current.clone(), Message { fields: Vec::new() });
        } else if line.starts_with("#[prost(") {
            let number = line.split("tag = \"").nth(1).and_then(|rest| rest.split('"').next());
            tag = Some(number.context("a tag")?.parse::<u32>().with_context(|| line.to_owned())?);
        } else if let (Some(tag), Some(rest)) = (tag, line.strip_prefix("pub ")) {
            let (name, shape) = rest.split_once(':').context("a field")?;
            let message = shape.trim_end_matches([',', '>']).rsplit("::").next().unwrap_or_default();
            let message = message.rsplit('<').next().unwrap_or_default();
            let number = Number { name: fold(name.trim_start_matches("r#")), tag, message: fold(message) };
            messages.get_mut(&current).context("a struct")?.fields.push(number);
        }
        if line.starts_with("pub ") {
            tag = None;
        }
    }
    if messages.is_empty() {
        bail!("no messages found");
    }
    Ok(messages)
}

fn fold(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}
