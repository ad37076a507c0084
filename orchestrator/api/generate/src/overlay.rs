//! What neither crate knows: list types, merge keys, defaults, kinds, types of other groups.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::schema::{Field, Type, Types, kind};

/// The lines of `overlay.txt`.
pub(crate) struct Overlay {
    entries: Vec<Entry>,
}

struct Entry {
    name: String,
    new: bool,
    attributes: Vec<String>,
    fields: Vec<(String, Vec<String>)>,
}

pub(crate) fn read(path: &Path) -> Result<Overlay> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let mut words = line.split_whitespace().map(str::to_owned);
        let name = words.next().context("a name")?;
        if line.starts_with(' ') {
            let entry = entries.last_mut().with_context(|| format!("field {name} before any type"))?;
            entry.fields.push((name, words.collect()));
        } else {
            let new = name.starts_with('+');
            let name = name.trim_start_matches('+').to_owned();
            entries.push(Entry { name, new, attributes: words.collect(), fields: Vec::new() });
        }
    }
    Ok(Overlay { entries })
}

impl Overlay {
    /// Adds what the overlay says to the types; an entry that fits nothing is an error.
    pub(crate) fn apply(&self, types: &mut Types) -> Result<()> {
        for entry in &self.entries {
            if entry.new {
                types.insert(
                    entry.name.clone(),
                    Type { description: new_description(&entry.name), ..Type::default() },
                );
            }
            let read =
                types.get_mut(&entry.name).with_context(|| format!("overlay: no type {}", entry.name))?;
            for attribute in &entry.attributes {
                match attribute.strip_prefix("gvk=") {
                    Some(gvk) => read.gvk = Some(gvk.to_owned()),
                    None => read.attributes.push(attribute.clone()),
                }
            }
            for (name, attributes) in &entry.fields {
                if entry.new {
                    read.fields.insert(name.clone(), Field::default());
                }
                let field = read
                    .fields
                    .get_mut(name)
                    .with_context(|| format!("overlay: no field {}.{name}", entry.name))?;
                for attribute in attributes {
                    apply_field(field, attribute)?;
                }
            }
        }
        Ok(())
    }
}

fn apply_field(field: &mut Field, attribute: &str) -> Result<()> {
    if let Some(shape) = attribute.strip_prefix("type=") {
        field.shape = shape.to_owned();
    } else if let Some(tag) = attribute.strip_prefix("tag=") {
        field.tags =
            tag.split('.').map(str::parse).collect::<Result<_, _>>().with_context(|| attribute.to_owned())?;
    } else if attribute == "required" || attribute == "optional" {
        field.required = attribute == "required";
    } else if ["list", "keys", "merge", "strategy", "map", "default", "enum", "always"]
        .contains(&attribute.split('=').next().unwrap_or_default())
    {
        field.attributes.push(attribute.to_owned());
    } else {
        bail!("overlay: unknown attribute {attribute}");
    }
    Ok(())
}

fn new_description(name: &str) -> String {
    match kind(name) {
        "ContainerMetrics" => "ContainerMetrics sets resource usage metrics of a container.".into(),
        "NodeMetrics" => "NodeMetrics sets resource usage metrics of a node.".into(),
        "PodMetrics" => "PodMetrics sets resource usage metrics of a pod.".into(),
        "WatchEvent" => "Event represents a single event to a watched resource.".into(),
        list => format!("{list} is a list of {} objects.", list.trim_end_matches("List")),
    }
}
