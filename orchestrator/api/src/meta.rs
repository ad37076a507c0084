//! `metadata` of objects that are JSON values: reading, writing, and what the server fills in, keeps and ignores on
//! creation, update, status update and deletion. Ids and times are arguments.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::kind::Resource;
use crate::schema::{self, Type};
use crate::time;

/// The finalizer that leaves dependents alone when their owner goes.
pub const ORPHAN_FINALIZER: &str = "orphan";
/// The finalizer that keeps an owner until its blocking dependents are gone.
pub const FOREGROUND_FINALIZER: &str = "foregroundDeletion";

/// No deletion waits for longer (100 years): any number may be asked for, and the end must be a time.
const LONGEST_GRACE: i64 = 100 * 365 * 86_400;

/// A text field of `metadata`, empty when absent.
fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// `metadata.name`, empty when absent.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.generateName`, empty when absent.
pub fn generate_name(object: &Value) -> &str {
    text(object, "generateName")
}

/// `metadata.namespace`, empty when absent.
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`, empty when absent.
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// `metadata.resourceVersion`, empty when absent.
pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

/// `metadata.creationTimestamp`.
pub fn creation_timestamp(object: &Value) -> Option<Timestamp> {
    time::parse(text(object, "creationTimestamp"))
}

/// `metadata.deletionTimestamp`.
pub fn deletion_timestamp(object: &Value) -> Option<Timestamp> {
    time::parse(text(object, "deletionTimestamp"))
}

/// Whether a deletion has begun.
pub fn is_being_deleted(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// `metadata.deletionGracePeriodSeconds`.
pub fn deletion_grace_period(object: &Value) -> Option<i64> {
    object.get("metadata")?.get("deletionGracePeriodSeconds")?.as_i64()
}

/// `metadata.generation`, 0 when absent.
pub fn generation(object: &Value) -> i64 {
    object.get("metadata").and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or(0)
}

/// `metadata.labels`.
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.get("labels")?.as_object()
}

/// The value of one label.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}

/// `metadata.annotations`.
pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.get("annotations")?.as_object()
}

/// The value of one annotation.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    annotations(object)?.get(key)?.as_str()
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    let list = object.get("metadata").and_then(|m| m.get("finalizers")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

/// One entry of `metadata.ownerReferences`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerReference<'a> {
    /// Group and version of the owner.
    pub api_version: &'a str,
    /// Kind of the owner.
    pub kind: &'a str,
    /// Name of the owner, in the same namespace or cluster-wide.
    pub name: &'a str,
    /// UID of the owner; a reference to another UID is to nobody.
    pub uid: &'a str,
    /// Whether this owner manages the object; at most one does.
    pub controller: bool,
    /// Whether a foreground deletion of the owner waits for the object.
    pub block_owner_deletion: bool,
}

impl OwnerReference<'_> {
    /// The JSON form.
    pub fn to_value(self) -> Value {
        json!({
            "apiVersion": self.api_version,
            "kind": self.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": self.controller,
            "blockOwnerDeletion": self.block_owner_deletion,
        })
    }
}

/// `metadata.ownerReferences`.
pub fn owner_references(object: &Value) -> impl Iterator<Item = OwnerReference<'_>> {
    let list = object.get("metadata").and_then(|m| m.get("ownerReferences")).and_then(Value::as_array);
    list.into_iter().flatten().map(|reference| {
        let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
        let flag = |field: &str| reference.get(field).and_then(Value::as_bool).unwrap_or(false);
        OwnerReference {
            api_version: text("apiVersion"),
            kind: text("kind"),
            name: text("name"),
            uid: text("uid"),
            controller: flag("controller"),
            block_owner_deletion: flag("blockOwnerDeletion"),
        }
    })
}

/// The owner that manages the object.
pub fn controller_of(object: &Value) -> Option<OwnerReference<'_>> {
    owner_references(object).find(|owner| owner.controller)
}

/// `metadata` for writing; made when it is absent or no map.
///
/// # Panics
/// When the object is no JSON map, which decoding rules out.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    let fields = object.as_object_mut().expect("a decoded object is a map");
    let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut().expect("made a map just above")
}

/// Sets a field of `metadata`; null removes it.
pub fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    match value.into() {
        Value::Null => metadata_mut(object).remove(field),
        value => metadata_mut(object).insert(field.to_owned(), value),
    };
}

/// Sets one label.
pub fn set_label(object: &mut Value, key: &str, value: &str) {
    set_in_map(object, "labels", key, value);
}

/// Sets one annotation.
pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    set_in_map(object, "annotations", key, value);
}

fn set_in_map(object: &mut Value, map: &str, key: &str, value: &str) {
    let entry = metadata_mut(object).entry(map).or_insert_with(|| Value::Object(Map::new()));
    if !entry.is_object() {
        *entry = Value::Object(Map::new());
    }
    entry[key] = Value::from(value);
}

/// Adds a finalizer unless it is there.
pub fn add_finalizer(object: &mut Value, finalizer: &str) {
    if finalizers(object).any(|f| f == finalizer) {
        return;
    }
    let entry = metadata_mut(object).entry("finalizers").or_insert_with(|| Value::Array(Vec::new()));
    if !entry.is_array() {
        *entry = Value::Array(Vec::new());
    }
    entry.as_array_mut().expect("made an array just above").push(finalizer.into());
}

/// Removes a finalizer; the list goes when it is empty.
pub fn remove_finalizer(object: &mut Value, finalizer: &str) {
    let metadata = metadata_mut(object);
    if let Some(Value::Array(list)) = metadata.get_mut("finalizers") {
        list.retain(|f| f.as_str() != Some(finalizer));
        if list.is_empty() {
            metadata.remove("finalizers");
        }
    }
}

/// What the server decides about a new object.
#[derive(Clone, Copy, Debug)]
pub struct Creation<'a> {
    /// A fresh random UID.
    pub uid: &'a str,
    /// The present.
    pub now: Timestamp,
    /// The namespace of the request; empty for cluster scope.
    pub namespace: &'a str,
}

/// Fills the metadata of a new object and drops what clients may not set.
/// The name must be settled by then (see [`crate::name::generate`]).
pub fn prepare_create(resource: &Resource, object: &mut Value, creation: &Creation<'_>) {
    let metadata = metadata_mut(object);
    for field in
        ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "generation"]
    {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), creation.uid.into());
    metadata.insert("creationTimestamp".into(), time::format(creation.now).into());
    if creation.namespace.is_empty() {
        metadata.remove("namespace");
    } else {
        metadata.insert("namespace".into(), creation.namespace.into());
    }
    if resource.generation {
        metadata.insert("generation".into(), 1.into());
    }
    if drops_status_on_create(resource)
        && let Some(fields) = object.as_object_mut()
    {
        match first_status(resource) {
            Some(status) => fields.insert("status".to_owned(), status),
            None => fields.remove("status"),
        };
    }
}

/// The status of a new object: the counters that are always there, at zero. Nothing for what comes from a definition.
fn first_status(resource: &Resource) -> Option<Value> {
    let of = schema::of_kind(resource.group, resource.version, resource.kind)?;
    let counters = of.field("status")?.ty.as_struct()?.fields.iter().filter(|field| field.required);
    let zero = |field: &schema::Field| match field.ty {
        Type::Bool => Some((field.name.to_owned(), Value::Bool(false))),
        Type::Int32 | Type::Int64 => Some((field.name.to_owned(), 0.into())),
        _ => None,
    };
    Some(Value::Object(counters.filter_map(zero).collect()))
}

/// Nodes register with their status; leases and others have none to drop.
fn drops_status_on_create(resource: &Resource) -> bool {
    resource.status && (resource.group, resource.plural) != ("", "nodes")
}

/// Prepares a PUT or patch of the main resource: restores what clients may not change and counts the generation.
pub fn prepare_update(resource: &Resource, new: &mut Value, old: &Value) {
    restore_metadata(new, old);
    if resource.status {
        copy_field(new, old, "status");
    }
    if resource.generation {
        let step = i64::from(spec_changed(resource, new, old));
        set(new, "generation", generation(old) + step);
    } else {
        copy_metadata(new, old, "generation");
    }
}

/// Prepares a write of the `/status` subresource: only status and free metadata come from the new object; of a
/// custom resource only the status.
pub fn prepare_status_update(resource: &Resource, new: &mut Value, old: &Value) {
    if resource.custom {
        let status = new.get("status").cloned();
        let managed = new.get("metadata").and_then(|metadata| metadata.get("managedFields")).cloned();
        new.clone_from(old);
        set(new, "managedFields", managed.unwrap_or_default());
        copy_field(
            new,
            &Value::Object(status.map(|status| ("status".into(), status)).into_iter().collect()),
            "status",
        );
        return;
    }
    restore_metadata(new, old);
    copy_metadata(new, old, "generation");
    copy_metadata(new, old, "ownerReferences");
    if (resource.group, resource.plural) == ("apps", "deployments") {
        copy_metadata(new, old, "labels");
    }
    let fields = new.as_object_mut().expect("a decoded object is a map");
    fields.retain(|field, _| matches!(field.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
    for (field, value) in old.as_object().into_iter().flatten() {
        if !matches!(field.as_str(), "metadata" | "status") {
            fields.insert(field.clone(), value.clone());
        }
    }
}

fn restore_metadata(new: &mut Value, old: &Value) {
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        copy_metadata(new, old, field);
    }
    metadata_mut(new).remove("selfLink");
}

fn copy_metadata(new: &mut Value, old: &Value, field: &str) {
    let value = old.get("metadata").and_then(|m| m.get(field)).cloned().unwrap_or(Value::Null);
    set(new, field, value);
}

fn copy_field(new: &mut Value, old: &Value, field: &str) {
    let fields = new.as_object_mut().expect("a decoded object is a map");
    match old.get(field) {
        Some(value) => fields.insert(field.to_owned(), value.clone()),
        None => fields.remove(field),
    };
}

/// Whether a write changed the desired state: anything but metadata and status (and a Deployment's annotations).
pub fn spec_changed(resource: &Resource, new: &Value, old: &Value) -> bool {
    // Without a status of its own a custom resource's field of that name is one like any other.
    let plain = resource.custom && !resource.status;
    let desired = |object: &Value| -> Map<String, Value> {
        let fields = object.as_object().into_iter().flatten();
        let not_desired = ["apiVersion", "kind", "metadata", if plain { "" } else { "status" }];
        fields
            .filter(|(field, _)| !not_desired.contains(&field.as_str()))
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect()
    };
    let annotations_count = (resource.group, resource.plural) == ("apps", "deployments");
    let equal_spec = match (new.get("spec"), old.get("spec")) {
        (Some(a), Some(b)) if !plain && only_spec(new) && only_spec(old) => a == b,
        _ => desired(new) == desired(old),
    };
    !equal_spec || (annotations_count && annotations(new) != annotations(old))
}

/// Most objects hold nothing else: then the comparison needs no copies.
fn only_spec(object: &Value) -> bool {
    let known = ["apiVersion", "kind", "metadata", "status", "spec"];
    object.as_object().is_some_and(|fields| fields.keys().all(|k| known.contains(&k.as_str())))
}

/// Whether a write changes nothing: equal but for `resourceVersion` and the times inside `managedFields`.
pub fn unchanged(new: &Value, old: &Value) -> bool {
    let (Some(new_fields), Some(old_fields)) = (new.as_object(), old.as_object()) else { return new == old };
    let ignored = |fields: &Map<String, Value>, field: &str| {
        field == "metadata" || (fields.get(field).is_some_and(Value::is_null))
    };
    let subset = |a: &Map<String, Value>, b: &Map<String, Value>| {
        a.iter().all(|(field, value)| ignored(a, field) || b.get(field) == Some(value))
    };
    subset(new_fields, old_fields)
        && subset(old_fields, new_fields)
        && comparable_metadata(new) == comparable_metadata(old)
}

fn comparable_metadata(object: &Value) -> Value {
    let mut metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    if let Some(fields) = metadata.as_object_mut() {
        fields.remove("resourceVersion");
        if let Some(Value::Array(entries)) = fields.get_mut("managedFields") {
            for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
                entry.remove("time");
            }
        }
    }
    metadata
}

/// Marks an object as being deleted, or shortens the time that it has left. Returns whether anything changed.
pub fn begin_deletion(resource: &Resource, object: &mut Value, now: Timestamp, grace_seconds: i64) -> bool {
    if let (true, Some(current)) = (is_being_deleted(object), deletion_grace_period(object))
        && grace_seconds >= current
    {
        return false;
    }
    let first = !is_being_deleted(object);
    let begun = match (deletion_timestamp(object), deletion_grace_period(object)) {
        (Some(end), Some(grace)) => end.checked_sub(jiff::SignedDuration::from_secs(grace)).unwrap_or(now),
        _ => now,
    };
    let mut grace_seconds = grace_seconds.min(LONGEST_GRACE);
    let mut end = begun.checked_add(jiff::SignedDuration::from_secs(grace_seconds)).unwrap_or(begun);
    if end < now {
        // The shorter time has passed already: the least that still lets somebody else finish it.
        end = now;
        grace_seconds = grace_seconds.min(1);
    }
    set(object, "deletionTimestamp", time::format(end));
    set(object, "deletionGracePeriodSeconds", grace_seconds);
    if first && resource.generation {
        let next = generation(object) + 1;
        set(object, "generation", next);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind;

    fn now() -> Timestamp {
        time::parse("2024-05-01T10:00:00Z").unwrap()
    }

    fn deployments() -> &'static Resource {
        kind::find("apps", "v1", "deployments").unwrap()
    }

    #[test]
    fn creation_ignores_what_the_client_may_not_set() {
        let mut object = json!({
            "metadata": {"name": "a", "namespace": "x", "uid": "mine", "generation": 7, "resourceVersion": "3",
                "deletionTimestamp": "2020-01-01T00:00:00Z", "labels": {"a": "b"}},
            "spec": {"replicas": 1}, "status": {"replicas": 5},
        });
        prepare_create(deployments(), &mut object, &Creation { uid: "u", now: now(), namespace: "d" });
        assert_eq!(
            object,
            json!({
                "metadata": {"name": "a", "namespace": "d", "uid": "u", "generation": 1,
                    "creationTimestamp": "2024-05-01T10:00:00Z", "labels": {"a": "b"}},
                "spec": {"replicas": 1}, "status": {},
            })
        );
        let mut set = json!({"metadata": {"name": "a"}});
        let creation = Creation { uid: "u", now: now(), namespace: "d" };
        prepare_create(kind::find("apps", "v1", "daemonsets").unwrap(), &mut set, &creation);
        assert_eq!(
            set["status"],
            json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0})
        );
        let mut node = json!({"metadata": {"name": "n"}, "status": {"capacity": {}}});
        let creation = Creation { uid: "u", now: now(), namespace: "" };
        prepare_create(kind::find("", "v1", "nodes").unwrap(), &mut node, &creation);
        assert!(node.get("status").is_some());
    }

    #[test]
    fn generation_counts_desired_state_only() {
        let old = json!({"metadata": {"name": "a", "uid": "u", "generation": 3}, "spec": {"replicas": 1}, "status": {"x": 1}});
        let cases = [
            (json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}, "status": {"x": 2}}), 3),
            (json!({"metadata": {"name": "a", "labels": {"a": "b"}}, "spec": {"replicas": 1}}), 3),
            (json!({"metadata": {"name": "a", "annotations": {"a": "b"}}, "spec": {"replicas": 1}}), 4),
            (json!({"metadata": {"name": "a", "generation": 9}, "spec": {"replicas": 2}}), 4),
        ];
        for (mut new, expected) in cases {
            prepare_update(deployments(), &mut new, &old);
            assert_eq!(generation(&new), expected, "{new}");
            assert_eq!(new["status"], json!({"x": 1}));
            assert_eq!(uid(&new), "u");
        }
    }

    #[test]
    fn a_status_write_changes_the_status_alone() {
        let old = json!({"metadata": {"name": "a", "generation": 3, "labels": {"a": "b"}}, "spec": {"replicas": 1}});
        let mut new = json!({"metadata": {"name": "a", "labels": {}}, "spec": {"replicas": 5}, "status": {"x": 1}, "extra": 1});
        prepare_status_update(deployments(), &mut new, &old);
        assert_eq!(
            new,
            json!({"metadata": {"name": "a", "generation": 3, "labels": {"a": "b"}}, "spec": {"replicas": 1}, "status": {"x": 1}})
        );
    }

    #[test]
    fn no_change_is_seen() {
        let old = json!({"metadata": {"name": "a", "resourceVersion": "1", "managedFields": [{"manager": "m", "time": "t1"}]}, "data": {"a": "b"}});
        let mut new = old.clone();
        new["metadata"]["resourceVersion"] = "2".into();
        new["metadata"]["managedFields"][0]["time"] = "t2".into();
        assert!(unchanged(&new, &old));
        new["data"]["a"] = "c".into();
        assert!(!unchanged(&new, &old));
    }

    #[test]
    fn a_deletion_ends_some_day() {
        let pods = kind::find("", "v1", "pods").unwrap();
        for wanted in [i64::MAX, LONGEST_GRACE + 1] {
            let mut pod = json!({"metadata": {"name": "a"}});
            assert!(begin_deletion(pods, &mut pod, now(), wanted));
            assert!(deletion_timestamp(&pod).is_some_and(|end| end > now()));
            assert!(!begin_deletion(pods, &mut pod, now(), wanted), "not longer");
            assert!(begin_deletion(pods, &mut pod, now(), 1));
        }
        // A value that no server wrote.
        let mut odd = json!({"metadata": {"deletionTimestamp": "2024-05-01T10:00:00Z", "deletionGracePeriodSeconds": i64::MAX}});
        assert!(begin_deletion(pods, &mut odd, now(), 0));
    }

    #[test]
    fn a_deletion_may_only_become_shorter() {
        let pods = kind::find("", "v1", "pods").unwrap();
        let mut pod = json!({"metadata": {"name": "a", "generation": 1}});
        assert!(begin_deletion(pods, &mut pod, now(), 30));
        assert_eq!(pod["metadata"]["deletionTimestamp"], "2024-05-01T10:00:30Z");
        let later = now() + jiff::SignedDuration::from_secs(10);
        assert!(!begin_deletion(pods, &mut pod, later, 60));
        assert!(begin_deletion(pods, &mut pod, later, 15));
        assert_eq!(pod["metadata"]["deletionTimestamp"], "2024-05-01T10:00:15Z");
        assert_eq!(deletion_grace_period(&pod), Some(15));
        assert!(begin_deletion(pods, &mut pod, later, 5), "a time that has passed already");
        assert_eq!(pod["metadata"]["deletionTimestamp"], "2024-05-01T10:00:10Z");
        assert_eq!(deletion_grace_period(&pod), Some(1));
        let generation_was_counted_once = if pods.generation { 2 } else { 1 };
        assert_eq!(generation(&pod), generation_was_counted_once);
    }

    #[test]
    fn finalizers_and_owners() {
        let mut object = json!({"metadata": {}});
        add_finalizer(&mut object, "a/b");
        add_finalizer(&mut object, "a/b");
        assert_eq!(finalizers(&object).collect::<Vec<_>>(), ["a/b"]);
        remove_finalizer(&mut object, "a/b");
        assert_eq!(object, json!({"metadata": {}}));
        let owner = OwnerReference {
            api_version: "apps/v1",
            kind: "ReplicaSet",
            name: "r",
            uid: "u",
            controller: true,
            block_owner_deletion: true,
        };
        set(&mut object, "ownerReferences", vec![owner.to_value()]);
        assert_eq!(controller_of(&object), Some(owner));
    }
}
