//! What drivers of storage tell: drivers, their nodes, capacities, attachments.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Errors;
use super::check::{IMMUTABLE, immutable, messages, optional_one_of, quantity, required, required_name};
use crate::field_error::{FieldError, Path};
use crate::fields::{at, list, text, texts};
use crate::name;

const SPEC: Path<'static> = Path::root("spec");
const ROOT: Path<'static> = Path::root("");
const DRIVER_NAME_MAX: usize = 63;
const NODE_ID_MAX: usize = 256;

/// The rules of every state.
pub(super) fn validate(plural: &str, o: &Value, errors: &mut Errors) {
    match plural {
        "csidrivers" => {
            driver_name(text(o, "metadata.name"), &Path::root("metadata").child("name"), errors);
            let policies = ["File", "None", "ReadWriteOnceWithFSType"];
            optional_one_of(&o["spec"], "fsGroupPolicy", &policies, &SPEC, errors);
            let path = SPEC.child("volumeLifecycleModes");
            for mode in texts(o, "spec.volumeLifecycleModes") {
                if !matches!(mode, "Persistent" | "Ephemeral") {
                    errors.push(FieldError::not_supported(&path, mode, &["Ephemeral", "Persistent"]));
                }
            }
        }
        "csinodes" => node(o, errors),
        "csistoragecapacities" => {
            required_name(o, "storageClassName", name::dns1123_subdomain, &ROOT, errors);
            for field in ["capacity", "maximumVolumeSize"] {
                if let Some(value) = at(o, field) {
                    quantity(value, &Path::root(field), errors);
                }
            }
        }
        "volumeattachments" => attachment(&o["spec"], errors),
        _ => {}
    }
}

fn driver_name(driver: &str, path: &Path<'_>, errors: &mut Errors) {
    if driver.len() > DRIVER_NAME_MAX {
        errors.push(FieldError::too_long(path, DRIVER_NAME_MAX));
    }
    messages(name::dns1123_subdomain(&driver.to_lowercase()), driver, path, errors);
}

fn node(o: &Value, errors: &mut Errors) {
    let drivers = SPEC.child("drivers");
    let mut names = BTreeSet::new();
    for (i, driver) in list(o, "spec.drivers").iter().enumerate() {
        let path = drivers.index(i);
        if let Some(name) = required(driver, "name", &path, errors) {
            driver_name(name, &path.child("name"), errors);
            if !names.insert(name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
        }
        if let Some(id) = required(driver, "nodeID", &path, errors).filter(|id| id.len() > NODE_ID_MAX) {
            let message = format!("must be {NODE_ID_MAX} characters or less");
            errors.push(FieldError::invalid(&path.child("nodeID"), id, message));
        }
        let keys = path.child("topologyKeys");
        for key in texts(driver, "topologyKeys") {
            messages(name::qualified_name(key), key, &keys, errors);
        }
    }
}

fn attachment(spec: &Value, errors: &mut Errors) {
    if let Some(attacher) = required(spec, "attacher", &SPEC, errors) {
        driver_name(attacher, &SPEC.child("attacher"), errors);
    }
    required_name(spec, "nodeName", name::dns1123_subdomain, &SPEC, errors);
    let source = SPEC.child("source");
    match (at(spec, "source.persistentVolumeName"), at(spec, "source.inlineVolumeSpec")) {
        (None, None) => {
            let message = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
            errors.push(FieldError::required(&source, message));
        }
        (Some(_), Some(_)) => {
            let message = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
            errors.push(FieldError::forbidden(&source, message));
        }
        _ => {}
    }
}

/// What may not change.
pub(super) fn update(plural: &str, new: &Value, old: &Value, errors: &mut Errors) {
    match plural {
        "csidrivers" => {
            for field in ["attachRequired", "volumeLifecycleModes"] {
                immutable(&new["spec"], &old["spec"], field, &SPEC, errors);
            }
        }
        "csinodes" => {
            let drivers = SPEC.child("drivers");
            for driver in list(new, "spec.drivers") {
                let name = text(driver, "name");
                let before = list(old, "spec.drivers").iter().find(|one| text(one, "name") == name);
                if before.is_some_and(|before| without_count(before) != without_count(driver)) {
                    errors.push(FieldError::invalid(&drivers, driver.clone(), IMMUTABLE));
                }
            }
        }
        "csistoragecapacities" => {
            for field in ["nodeTopology", "storageClassName"] {
                immutable(new, old, field, &ROOT, errors);
            }
        }
        "volumeattachments" if new["spec"] != old["spec"] => {
            errors.push(FieldError::invalid(&SPEC, new["spec"].clone(), IMMUTABLE));
        }
        _ => {}
    }
}

/// How many volumes a driver takes may change.
fn without_count(driver: &Value) -> Vec<(&String, &Value)> {
    let fields = driver.as_object().into_iter().flatten();
    fields.filter(|(field, _)| field.as_str() != "allocatable").collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(plural: &str, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut errors = Errors::new();
        match old {
            Some(old) => update(plural, new, old, &mut errors),
            None => validate(plural, new, &mut errors),
        }
        errors.iter().map(|error| error.field.clone()).collect()
    }

    #[test]
    fn states() {
        let table = [
            (
                "csidrivers",
                json!({"metadata": {"name": "d.example.com"}, "spec": {"fsGroupPolicy": "Some"}}),
                vec!["spec.fsGroupPolicy"],
            ),
            (
                "csinodes",
                json!({"spec": {"drivers": [{"name": "d", "nodeID": "n"}, {"name": "d"}]}}),
                vec!["spec.drivers[1].name", "spec.drivers[1].nodeID"],
            ),
            ("csistoragecapacities", json!({"capacity": "1Gi"}), vec!["storageClassName"]),
            (
                "volumeattachments",
                json!({"spec": {"attacher": "a", "nodeName": "n", "source": {}}}),
                vec!["spec.source"],
            ),
            (
                "volumeattachments",
                json!({"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}}),
                vec![],
            ),
        ];
        for (plural, object, expected) in table {
            assert_eq!(told(plural, &object, None), expected, "{object}");
        }
    }

    #[test]
    fn changes() {
        let driver = |count: i64, id: &str| json!({"spec": {"drivers": [{"name": "d", "nodeID": id, "allocatable": {"count": count}}]}});
        assert!(told("csinodes", &driver(2, "n"), Some(&driver(1, "n"))).is_empty());
        assert_eq!(told("csinodes", &driver(1, "m"), Some(&driver(1, "n"))), ["spec.drivers"]);
        let class = |name: &str| json!({"storageClassName": name});
        assert_eq!(told("csistoragecapacities", &class("a"), Some(&class("b"))), ["storageClassName"]);
        let attacher = |name: &str| json!({"spec": {"attacher": name}});
        assert_eq!(told("volumeattachments", &attacher("a"), Some(&attacher("b"))), ["spec"]);
    }
}
