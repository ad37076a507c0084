//! Rows of the resource table that definitions add while the server runs. A row is interned: the same names give
//! the same `&'static` row for ever, so that a row costs its bytes once and everything else treats it like a
//! built-in one. What a row does not say (schema, columns, paths) is held by the server and goes with the definition.

use std::cmp::{Ordering, Reverse};
use std::collections::{HashMap, HashSet};
use std::sync::{LazyLock, Mutex, PoisonError};

use super::table::{SCALE_VERBS, STANDARD};
use super::{GroupVersionKind, Resource, Scope, Storage, Subresource};

/// Bytes that rows may take in all; some ten thousand different definitions.
const LIMIT: usize = 32 * 1024 * 1024;

/// The names of a custom resource in one version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// API group.
    pub group: String,
    /// Served version.
    pub version: String,
    /// Kind of one object.
    pub kind: String,
    /// Kind of a collection.
    pub list_kind: String,
    /// Name in paths.
    pub plural: String,
    /// Name for one object on the command line.
    pub singular: String,
    /// Abbreviations for the command line.
    pub short_names: Vec<String>,
    /// Groups of resources for the command line.
    pub categories: Vec<String>,
    /// Namespaced or cluster-wide.
    pub scope: Scope,
    /// Whether there is a `/status` subresource.
    pub status: bool,
    /// Whether there is a `/scale` subresource.
    pub scale: bool,
    /// Fields for selectors, as paths with dots.
    pub selectable_fields: Vec<String>,
}

#[derive(Default)]
struct Interned {
    rows: HashMap<Row, &'static Resource>,
    words: HashSet<&'static str>,
    bytes: usize,
}

/// The one row of these names; `None` when there is no room for further ones in this process.
pub fn intern(row: &Row) -> Option<&'static Resource> {
    static INTERNED: LazyLock<Mutex<Interned>> = LazyLock::new(Mutex::default);
    let mut interned = INTERNED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = interned.rows.get(row) {
        return Some(known);
    }
    if interned.bytes > LIMIT {
        return None;
    }
    let made = interned.make(row);
    interned.rows.insert(row.clone(), made);
    Some(made)
}

impl Interned {
    fn make(&mut self, row: &Row) -> &'static Resource {
        let (group, version) = (self.word(&row.group), self.word(&row.version));
        let kind = self.word(&row.kind);
        let mut subresources = Vec::new();
        if row.scale {
            let kind = GroupVersionKind { group: "autoscaling", version: "v1", kind: "Scale" };
            subresources.push(Subresource { name: "scale", kind, verbs: SCALE_VERBS });
        }
        if row.status {
            let kind = GroupVersionKind { group, version, kind };
            subresources.push(Subresource { name: "status", kind, verbs: SCALE_VERBS });
        }
        // Twice: the row is also the key under which it is found.
        self.bytes += 2 * (size_of::<Resource>() + size_of::<Row>());
        Box::leak(Box::new(Resource {
            group,
            version,
            kind,
            list_kind: self.word(&row.list_kind),
            plural: self.word(&row.plural),
            singular: self.word(&row.singular),
            short_names: self.words(&row.short_names),
            categories: self.words(&row.categories),
            scope: row.scope,
            verbs: STANDARD,
            subresources: subresources.leak(),
            storage: Storage::At { group, version },
            status: row.status,
            generation: true,
            preferred: false,
            create_on_update: false,
            unconditional_update: false,
            custom: true,
            selectable_fields: self.words(&row.selectable_fields),
        }))
    }

    fn words(&mut self, words: &[String]) -> &'static [&'static str] {
        let words: Vec<&'static str> = words.iter().map(|word| self.word(word)).collect();
        self.bytes += words.len() * size_of::<&str>();
        words.leak()
    }

    fn word(&mut self, word: &str) -> &'static str {
        if let Some(known) = self.words.get(word) {
            return known;
        }
        self.bytes += 2 * word.len() + size_of::<&str>();
        let leaked: &'static str = Box::leak(word.to_owned().into_boxed_str());
        self.words.insert(leaked);
        leaked
    }
}

/// Best version first: `v2`, `v1`, `v2beta1`, `v1beta2`, `v1alpha1`, then other names by the alphabet
/// (`apimachinery/pkg/version`).
pub fn version_order(one: &str, other: &str) -> Ordering {
    let key = |text: &str| parse_version(text).map(Reverse);
    match (key(one), key(other)) {
        (Some(one), Some(other)) => one.cmp(&other),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => one.cmp(other),
    }
}

/// Stability (2 is stable), major, minor.
fn parse_version(text: &str) -> Option<(u8, u64, u64)> {
    let rest = text.strip_prefix('v')?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (major, rest) = rest.split_at(digits);
    let major = major.parse().ok().filter(|major| *major > 0)?;
    let (stability, minor) = match (rest.strip_prefix("alpha"), rest.strip_prefix("beta")) {
        (Some(minor), _) => (0, minor),
        (_, Some(minor)) => (1, minor),
        _ if rest.is_empty() => return Some((2, major, 0)),
        _ => return None,
    };
    Some((stability, major, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(plural: &str) -> Row {
        Row {
            group: "example.com".into(),
            version: "v1".into(),
            kind: "Widget".into(),
            list_kind: "WidgetList".into(),
            plural: plural.into(),
            singular: "widget".into(),
            short_names: vec!["wd".into()],
            categories: vec!["all".into()],
            scope: Scope::Namespaced,
            status: true,
            scale: true,
            selectable_fields: vec!["spec.color".into()],
        }
    }

    #[test]
    fn the_same_names_are_the_same_row() {
        let (one, again, other) = (intern(&row("widgets")), intern(&row("widgets")), intern(&row("others")));
        assert!(std::ptr::eq(one.unwrap(), again.unwrap()));
        assert!(!std::ptr::eq(one.unwrap(), other.unwrap()));
        let one = one.unwrap();
        assert_eq!((one.group_resource(), one.short_names), ("widgets.example.com".into(), &["wd"][..]));
        assert!(one.custom && one.subresource("status").is_some() && one.subresource("scale").is_some());
    }

    #[test]
    fn versions_in_order() {
        let mut versions =
            ["foo1", "v1alpha1", "v10", "v2", "v11beta2", "v3beta1", "v12alpha1", "v11alpha2", "foo10", "v1"];
        versions.sort_by(|one, other| version_order(one, other));
        let expected =
            ["v10", "v2", "v1", "v11beta2", "v3beta1", "v12alpha1", "v11alpha2", "v1alpha1", "foo1", "foo10"];
        assert_eq!(versions, expected);
    }
}
