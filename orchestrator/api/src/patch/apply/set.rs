//! Sets of fields, their algebra, and their form on the wire (`FieldsV1`).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::element::{Element, ElementError};
use super::shape::Shape;

/// A set of paths, kept as a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    entries: BTreeMap<Element, Entry>,
}

/// An element that is in the set itself, or has something below it that is, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    member: bool,
    children: FieldSet,
}

impl Entry {
    fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

/// Why a value is no `FieldsV1`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldsError {
    /// A key is no path element.
    #[error(transparent)]
    Element(#[from] ElementError),
    /// Something is no object.
    #[error("fields must be objects in objects")]
    Shape,
}

impl FieldSet {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a path; the empty path is nothing.
    pub fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else { return };
        let entry = self.entries.entry(first.clone()).or_default();
        if rest.is_empty() {
            entry.member = true;
        } else {
            entry.children.insert(rest);
        }
    }

    /// Whether exactly this path is in it.
    pub fn has(&self, path: &[Element]) -> bool {
        match path.split_first() {
            None => false,
            Some((first, [])) => self.has_element(first),
            Some((first, rest)) => self.below(first).is_some_and(|below| below.has(rest)),
        }
    }

    /// Whether an element at the top is in it.
    pub(super) fn has_element(&self, element: &Element) -> bool {
        self.entries.get(element).is_some_and(|entry| entry.member)
    }

    /// What is in it below an element, if anything.
    pub(super) fn below(&self, element: &Element) -> Option<&FieldSet> {
        self.entries.get(element).map(|entry| &entry.children).filter(|below| !below.is_empty())
    }

    /// Everything of both.
    #[must_use]
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut out = self.clone();
        for (element, entry) in &other.entries {
            let slot = out.entries.entry(element.clone()).or_default();
            slot.member |= entry.member;
            slot.children = slot.children.union(&entry.children);
        }
        out
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        self.combine(|element, entry| {
            let other = other.entries.get(element)?;
            Some(Entry {
                member: entry.member && other.member,
                children: entry.children.intersection(&other.children),
            })
        })
    }

    /// What is in this one and not in the other; a path does not stand for what is below it.
    #[must_use]
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        self.combine(|element, entry| {
            Some(match other.entries.get(element) {
                None => entry.clone(),
                Some(other) => Entry {
                    member: entry.member && !other.member,
                    children: entry.children.difference(&other.children),
                },
            })
        })
    }

    /// What is in this one and neither in the other nor below a path of the other.
    #[must_use]
    pub fn recursive_difference(&self, other: &FieldSet) -> FieldSet {
        self.combine(|element, entry| match other.entries.get(element) {
            None => Some(entry.clone()),
            Some(other) if other.member => None,
            Some(other) => Some(Entry {
                member: entry.member,
                children: entry.children.recursive_difference(&other.children),
            }),
        })
    }

    fn combine(&self, keep: impl Fn(&Element, &Entry) -> Option<Entry>) -> FieldSet {
        let kept = self.entries.iter().filter_map(|(element, entry)| {
            let entry = keep(element, entry)?;
            (!entry.is_empty()).then(|| (element.clone(), entry))
        });
        FieldSet { entries: kept.collect() }
    }

    /// Adds every named field of a struct that has something below it, so that emptied structs vanish as a whole.
    pub(super) fn with_named_fields(&self, shape: Shape<'_>) -> FieldSet {
        let entries = self.entries.iter().map(|(element, entry)| {
            let (named, child) = match element {
                Element::Field(name) => {
                    shape.field(name).map_or((false, Shape::Deduced), |s| (s.named, s.shape))
                }
                Element::Key(_) => (false, shape.item()),
                _ => (false, Shape::Leaf),
            };
            let member = entry.member || (named && !entry.children.is_empty());
            (element.clone(), Entry { member, children: entry.children.with_named_fields(child) })
        });
        FieldSet { entries: entries.collect() }
    }

    /// Every path, those of one level before what is below them.
    pub fn paths(&self) -> Vec<Vec<Element>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, prefix: &mut Vec<Element>, out: &mut Vec<Vec<Element>>) {
        for (element, _) in self.entries.iter().filter(|(_, entry)| entry.member) {
            out.push(prefix.iter().chain([element]).cloned().collect());
        }
        for (element, entry) in &self.entries {
            prefix.push(element.clone());
            entry.children.collect(prefix, out);
            prefix.pop();
        }
    }

    /// The `FieldsV1` form: `.` marks an element that is in the set together with something below it.
    pub fn encode(&self) -> Value {
        let fields = self.entries.iter().map(|(element, entry)| {
            let mut below = entry.children.encode();
            if entry.member
                && !entry.children.is_empty()
                && let Value::Object(fields) = &mut below
            {
                fields.insert(".".into(), Value::Object(Map::new()));
            }
            (element.encode(), below)
        });
        Value::Object(fields.collect())
    }

    /// Reads the `FieldsV1` form.
    pub fn decode(fields: &Value) -> Result<FieldSet, FieldsError> {
        Self::decode_entry(fields).map(|entry| entry.children)
    }

    fn decode_entry(fields: &Value) -> Result<Entry, FieldsError> {
        let fields = fields.as_object().ok_or(FieldsError::Shape)?;
        let mut entry = Entry { member: fields.is_empty(), children: FieldSet::default() };
        for (key, value) in fields {
            if key == "." {
                entry.member = true;
                continue;
            }
            entry.children.entries.insert(Element::decode(key)?, Self::decode_entry(value)?);
        }
        Ok(entry)
    }
}
