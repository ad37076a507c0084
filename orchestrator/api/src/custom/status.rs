//! The status of a definition: which names it got, whether it is served (`apiextensions` naming and establishing
//! controllers). A name belongs to whoever had it first.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{meta, time};

/// Kept on a definition until the last of its objects is gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The names of a definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// In paths.
    pub plural: String,
    /// For one object on the command line.
    pub singular: String,
    /// Abbreviations.
    pub short_names: Vec<String>,
    /// Kind of one object.
    pub kind: String,
    /// Kind of a collection.
    pub list_kind: String,
    /// Groups of resources on the command line.
    pub categories: Vec<String>,
}

impl Names {
    /// Reads `spec.names` or `status.acceptedNames`.
    pub fn read(names: &Value) -> Names {
        let text = |field: &str| names[field].as_str().unwrap_or_default().to_owned();
        let texts = |field: &str| -> Vec<String> {
            let list = names[field].as_array().map(Vec::as_slice).unwrap_or_default();
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Names {
            plural: text("plural"),
            singular: text("singular"),
            short_names: texts("shortNames"),
            kind: text("kind"),
            list_kind: text("listKind"),
            categories: texts("categories"),
        }
    }

    fn to_value(&self) -> Value {
        let mut value = json!({"kind": self.kind, "plural": self.plural});
        for (field, text) in [("singular", &self.singular), ("listKind", &self.list_kind)] {
            if !text.is_empty() {
                value[field] = text.as_str().into();
            }
        }
        for (field, texts) in [("shortNames", &self.short_names), ("categories", &self.categories)] {
            if !texts.is_empty() {
                value[field] = texts.clone().into();
            }
        }
        value
    }
}

/// The names that a definition of a group has accepted.
pub fn names(definition: &Value) -> Names {
    Names::read(&definition["status"]["acceptedNames"])
}

/// The condition of a type.
pub fn condition<'a>(definition: &'a Value, kind: &str) -> Option<&'a Value> {
    definition["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn is_true(definition: &Value, kind: &str) -> bool {
    condition(definition, kind).is_some_and(|condition| condition["status"] == "True")
}

/// Whether the resources of a definition are served.
pub fn is_established(definition: &Value) -> bool {
    is_true(definition, "Established")
}

/// Whether the objects of a definition are being deleted along with it.
pub fn is_terminating(definition: &Value) -> bool {
    is_true(definition, "Terminating")
}

/// Sets a condition; the time of its last change stays while the status does.
pub fn set_condition(
    definition: &mut Value,
    (kind, status): (&str, &str),
    (reason, message): (&str, &str),
    now: Timestamp,
) {
    let since = condition(definition, kind)
        .filter(|condition| condition["status"] == status)
        .and_then(|condition| condition["lastTransitionTime"].as_str())
        .map_or_else(|| time::format(now), str::to_owned);
    let made = json!({
        "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since,
    });
    if !definition["status"].is_object() {
        definition["status"] = json!({});
    }
    if !definition["status"]["conditions"].is_array() {
        definition["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = definition["status"]["conditions"].as_array_mut() else { return };
    match conditions.iter_mut().find(|condition| condition["type"] == kind) {
        Some(condition) => *condition = made,
        None => conditions.push(made),
    }
}

/// Brings the status of a definition up to date: accepted names, conditions, stored versions.
/// `others` are the names that the other definitions of the group have, and those of built-in resources.
pub fn renew(definition: &mut Value, others: &[Names], now: Timestamp) {
    let wanted = Names::read(&definition["spec"]["names"]);
    let (accepted, conflict) = accept(&wanted, names(definition), others);
    let (status, reason, message) = match &conflict {
        None => ("True", "NoConflicts", "no conflicts found"),
        Some((reason, message)) => ("False", *reason, message.as_str()),
    };
    set_condition(definition, ("NamesAccepted", status), (reason, message), now);
    definition["status"]["acceptedNames"] = accepted.to_value();
    if !is_established(definition) {
        let (status, reason, message) = match conflict {
            None => ("True", "InitialNamesAccepted", "the initial names have been accepted"),
            Some(_) => ("False", "NotAccepted", "not all names are accepted"),
        };
        set_condition(definition, ("Established", status), (reason, message), now);
    }
    store_version(definition);
    if !meta::is_being_deleted(definition) {
        meta::add_finalizer(definition, CLEANUP_FINALIZER);
    }
}

/// Notes the version in which objects are kept from now on.
fn store_version(definition: &mut Value) {
    let versions = definition["spec"]["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(name) = versions.iter().find(|version| version["storage"] == true).map(|v| v["name"].clone())
    else {
        return;
    };
    if !definition["status"]["storedVersions"].is_array() {
        definition["status"]["storedVersions"] = json!([]);
    }
    if let Some(stored) = definition["status"]["storedVersions"].as_array_mut()
        && !stored.contains(&name)
    {
        stored.push(name);
    }
}

type Conflict = Option<(&'static str, String)>;

/// Takes each name that is free; the others stay as they were. Says which was not to be had, the last one found.
fn accept(wanted: &Names, mut accepted: Names, others: &[Names]) -> (Names, Conflict) {
    let resources: BTreeSet<&str> = others
        .iter()
        .flat_map(|names| [&names.plural, &names.singular].into_iter().chain(&names.short_names))
        .map(String::as_str)
        .collect();
    let kinds: BTreeSet<&str> =
        others.iter().flat_map(|names| [&names.kind, &names.list_kind]).map(String::as_str).collect();
    let taken = |name: &str| format!("{} is already in use", crate::status::quoted(name));
    let mut conflict = None;
    let mut settle = |wanted: &str, slot: &mut String, used: &BTreeSet<&str>, reason| {
        if wanted != slot && used.contains(wanted) {
            conflict = Some((reason, taken(wanted)));
        } else {
            wanted.clone_into(slot);
        }
    };
    settle(&wanted.plural, &mut accepted.plural, &resources, "PluralConflict");
    settle(&wanted.singular, &mut accepted.singular, &resources, "SingularConflict");
    settle(&wanted.kind, &mut accepted.kind, &kinds, "KindConflict");
    settle(&wanted.list_kind, &mut accepted.list_kind, &kinds, "ListKindConflict");
    let clashes: Vec<String> = wanted
        .short_names
        .iter()
        .filter(|name| !accepted.short_names.contains(name) && resources.contains(name.as_str()))
        .map(|name| taken(name))
        .collect();
    match clashes.as_slice() {
        [] => accepted.short_names.clone_from(&wanted.short_names),
        [one] => conflict = Some(("ShortNamesConflict", one.clone())),
        many => conflict = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
    }
    accepted.categories.clone_from(&wanted.categories);
    (accepted, conflict)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str) -> Value {
        json!({"metadata": {"name": format!("{plural}.example.com")}, "spec": {
            "group": "example.com", "versions": [{"name": "v1", "served": true, "storage": true}],
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind,
                "listKind": format!("{kind}List"), "shortNames": ["w"]},
        }})
    }

    #[test]
    fn names_belong_to_the_first() {
        let now = Timestamp::UNIX_EPOCH;
        let mut one = definition("widgets", "Widget");
        renew(&mut one, &[], now);
        assert!(is_established(&one));
        assert_eq!(one["status"]["storedVersions"], json!(["v1"]));
        assert_eq!(one["metadata"]["finalizers"], json!([CLEANUP_FINALIZER]));
        let before = one.clone();
        renew(&mut one, &[], "2026-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(one, before, "a second time changes nothing");
        let mut two = definition("gadgets", "Gadget");
        renew(&mut two, &[names(&one)], now);
        assert!(!is_established(&two));
        let found = condition(&two, "NamesAccepted").unwrap();
        assert_eq!(
            (&found["reason"], &found["message"]),
            (&"ShortNamesConflict".into(), &"\"w\" is already in use".into())
        );
        renew(&mut two, &[], now);
        assert!(is_established(&two));
        let mut three = definition("wids", "Widget");
        three["spec"]["names"]["shortNames"] = json!([]);
        renew(&mut three, &[names(&one)], now);
        assert_eq!(condition(&three, "NamesAccepted").unwrap()["reason"], "ListKindConflict");
        assert_eq!(names(&three).plural, "wids");
    }
}
