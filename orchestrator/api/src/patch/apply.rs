//! Server-side apply: merging an applied configuration into the live object by field ownership (structured merge and
//! diff), and keeping `metadata.managedFields` for every other write.

mod compare;
mod element;
mod managed;
mod merge;
mod remove;
mod scale;
mod set;
mod shape;
mod updater;

use jiff::Timestamp;
use serde_json::{Map, Value};

use self::managed::{Managed, ManagerId, Operation};
use self::updater::Conflicts;
use super::PatchError;
use crate::kind::{self, GroupVersionKind, Resource};
use crate::status::{Cause, Status, quoted};
use crate::{meta, schema};

pub use element::Element;
pub use scale::{to_parent as scale_managers_to_parent, to_scale as parent_managers_to_scale};
pub use set::{FieldSet, FieldsError};
pub use shape::Shape;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// As many characters as the name of a field manager may have.
pub const MANAGER_MAX: usize = 128;

/// Which objects are written: their schema, version, and the fields that this path may not own.
pub struct Target<'a> {
    shape: Shape<'a>,
    api_version: String,
    versions: Vec<String>,
    reset: FieldSet,
}

impl Target<'static> {
    /// Objects of a built-in resource, written at the main path (`""`) or a subresource.
    pub fn builtin(resource: &Resource, subresource: &str) -> Self {
        let same_kind = |r: &&Resource| r.group == resource.group && r.kind == resource.kind;
        Target {
            shape: Shape::of_struct(schema::of(resource)),
            api_version: resource.api_version(),
            versions: kind::resources().iter().filter(same_kind).map(Resource::api_version).collect(),
            reset: reset_fields(resource.status, subresource),
        }
    }
}

impl Target<'static> {
    /// Objects of a kind that is no resource of its own, such as `Scale`; none when it has no schema.
    pub fn of_kind(kind: GroupVersionKind) -> Option<Self> {
        let of = schema::of_kind(kind.group, kind.version, kind.kind)?;
        Some(Target {
            shape: Shape::of_struct(of),
            api_version: kind.api_version(),
            versions: vec![kind.api_version()],
            reset: reset_fields(true, ""),
        })
    }
}

impl<'a> Target<'a> {
    /// Objects of a custom resource with the structural schema of its version; `versions` are all that are served.
    pub fn custom(
        schema: &'a Value,
        api_version: &str,
        versions: Vec<String>,
        has_status: bool,
        subresource: &str,
    ) -> Self {
        Target {
            shape: Shape::custom(schema),
            api_version: api_version.to_owned(),
            versions,
            reset: reset_fields(has_status, subresource),
        }
    }
}

/// The main path cannot own the status, the status path nothing but it.
fn reset_fields(has_status: bool, subresource: &str) -> FieldSet {
    let mut reset = FieldSet::default();
    match subresource {
        "status" => {
            reset.insert(&[Element::field("spec")]);
            for field in ["deletionTimestamp", "ownerReferences"] {
                reset.insert(&[Element::field("metadata"), Element::field(field)]);
            }
        }
        _ if has_status => reset.insert(&[Element::field("status")]),
        _ => {}
    }
    reset
}

/// Who writes, where and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The field manager, from `?fieldManager=` or the first part of the user agent.
    pub manager: &'a str,
    /// The subresource, empty for the main path.
    pub subresource: &'a str,
    /// The present.
    pub now: Timestamp,
}

/// Whether an apply takes fields away from other managers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// It does.
    Yes,
    /// It fails with a conflict.
    No,
}

/// The name of a manager from a user agent: what stands before the first slash, cut to the limit.
pub fn manager_of_user_agent(agent: &str) -> String {
    let name = agent.split('/').next().unwrap_or_default();
    name.chars().filter(|c| !c.is_control()).take(MANAGER_MAX).collect()
}

/// Keeps `managedFields` for a create (no live object), PUT or any patch but apply. `new` is what will be stored.
pub fn update(target: &Target<'_>, live: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let mut managed = managed_of_request(live, new, writer.subresource);
    meta::set(new, "managedFields", Value::Null);
    // An object that was never tracked stays so until its first apply.
    if live.is_none() || !managed.is_empty() {
        let empty = empty_object();
        let live = live.map_or(empty, without_managed_fields);
        updater::update(target, &live, new, &mut managed, &update_id(target, writer), writer.now);
        managed.cap();
    }
    set_managed(new, &managed);
}

fn update_id(target: &Target<'_>, writer: &Writer<'_>) -> ManagerId {
    ManagerId {
        manager: writer.manager.to_owned(),
        operation: Operation::Update,
        api_version: target.api_version.clone(),
        subresource: writer.subresource.to_owned(),
    }
}

fn empty_object() -> Value {
    Value::Object(Map::new())
}

fn without_managed_fields(object: &Value) -> Value {
    let mut copy = object.clone();
    if let Some(metadata) = copy.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    copy
}

/// Takes managers from the new object where it names some, so that clients may edit them; `[]` and `[{}]` reset.
fn managed_of_request(live: Option<&Value>, new: &Value, subresource: &str) -> Managed {
    let of_live = || live.and_then(|l| Managed::decode(l).ok()).unwrap_or_default();
    if !subresource.is_empty() {
        return of_live();
    }
    match new.get("metadata").and_then(|m| m.get("managedFields")).and_then(Value::as_array) {
        Some(list) if list.is_empty() => Managed::default(),
        Some(list) if list.len() == 1 && list[0].as_object().is_some_and(Map::is_empty) => Managed::default(),
        Some(_) => Managed::decode(new).ok().filter(|m| !m.is_empty()).unwrap_or_else(of_live),
        None => of_live(),
    }
}

fn set_managed(object: &mut Value, managed: &Managed) {
    meta::set(object, "managedFields", if managed.is_empty() { Value::Null } else { managed.encode() });
}

/// Applies a configuration; without a live object it becomes the new one. The result is not yet defaulted or checked.
/// `config` is the decoded body of the request, with nothing added by defaults.
pub fn apply(
    target: &Target<'_>,
    live: Option<&Value>,
    config: &Value,
    writer: &Writer<'_>,
    force: Force,
) -> Result<Value, PatchError> {
    check_config(target, config)?;
    let mut managed = live.map_or_else(|| Ok(Managed::default()), Managed::decode).map_err(|e| {
        PatchError::Malformed(format!("failed to decode managed fields of the live object: {e}"))
    })?;
    let live_object = live.map_or_else(empty_object, without_managed_fields);
    if managed.is_empty() && live.is_some() {
        let id = ManagerId {
            manager: BEFORE_FIRST_APPLY.into(),
            ..update_id(target, &Writer { subresource: "", ..*writer })
        };
        updater::update(target, &empty_object(), &live_object, &mut managed, &id, writer.now);
    }
    let id = ManagerId {
        manager: writer.manager.to_owned(),
        operation: Operation::Apply,
        api_version: String::new(),
        subresource: writer.subresource.to_owned(),
    };
    let run = |force: Force, managed: &Managed| {
        let mut managed = managed.clone();
        updater::apply(target, &live_object, config, &mut managed, &id, force).map(|object| (object, managed))
    };
    let outcome = match run(force, &managed) {
        Err(updater::ApplyError::Conflicts(conflicts)) => {
            let left = after_last_applied(target, &live_object, conflicts, writer.manager);
            if left.is_empty() { run(Force::Yes, &managed) } else { return Err(conflict_error(&left)) }
        }
        other => other,
    };
    let (mut object, mut managed) = outcome.map_err(|e| match e {
        updater::ApplyError::Invalid(message) => PatchError::Malformed(message),
        updater::ApplyError::Conflicts(conflicts) => conflict_error(&conflicts),
    })?;
    // The time of an apply that changes nothing stays, so that nothing is written.
    if object != live_object {
        managed.touch(&id, writer.now);
    }
    keep_last_applied(&mut object, config, writer.manager);
    set_managed(&mut object, &managed);
    Ok(object)
}

fn check_config(target: &Target<'_>, config: &Value) -> Result<(), PatchError> {
    let version = config.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if version != target.api_version {
        return Err(PatchError::Malformed(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            target.api_version
        )));
    }
    let managed = config.get("metadata").and_then(|m| m.get("managedFields"));
    if managed.is_some_and(|m| !m.is_null()) {
        return Err(PatchError::Malformed("metadata.managedFields must be nil".into()));
    }
    Ok(())
}

/// Conflicts that remain when `kubectl apply --server-side` takes over from client-side apply: fields that the
/// last-applied annotation already had, with the value that is live, are the same person's.
fn after_last_applied(target: &Target<'_>, live: &Value, conflicts: Conflicts, manager: &str) -> Conflicts {
    let allowed = || -> Option<FieldSet> {
        let last: Value = serde_json::from_str(meta::annotation(live, LAST_APPLIED)?).ok()?;
        if last.get("apiVersion")?.as_str()? != target.api_version {
            return None;
        }
        let differs = compare::compare(&last, live, target.shape);
        let set = compare::to_set(&last, target.shape);
        Some(set.difference(&differs.modified).difference(&differs.added).difference(&differs.removed))
    };
    if manager != "kubectl" {
        return conflicts;
    }
    match allowed() {
        Some(allowed) => conflicts.into_iter().filter(|(_, path)| !allowed.has(path)).collect(),
        None => conflicts,
    }
}

/// Keeps the annotation of client-side apply in step, so that both ways of kubectl can be mixed.
fn keep_last_applied(object: &mut Value, config: &Value, manager: &str) {
    if manager != "kubectl" || meta::annotation(object, LAST_APPLIED).is_none() {
        return;
    }
    let mut last = config.clone();
    if let Some(Value::Object(annotations)) = last.get_mut("metadata").and_then(|m| m.get_mut("annotations"))
    {
        annotations.remove(LAST_APPLIED);
    }
    meta::set_annotation(object, LAST_APPLIED, &format!("{last}\n"));
}

fn manager_text(id: &ManagerId) -> String {
    let mut text = quoted(&id.manager);
    if !id.subresource.is_empty() {
        text.push_str(&format!(" with subresource {}", quoted(&id.subresource)));
    }
    if id.operation == Operation::Update {
        text.push_str(&format!(" using {}", id.api_version));
    }
    text
}

fn conflict_error(conflicts: &Conflicts) -> PatchError {
    let causes = conflicts
        .iter()
        .map(|(manager, path)| Cause {
            reason: "FieldManagerConflict".into(),
            message: format!("conflict with {}", manager_text(manager)),
            field: element::path_text(path),
        })
        .collect();
    let message = match conflicts.as_slice() {
        [(manager, path)] => format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            manager_text(manager),
            element::path_text(path)
        ),
        many => {
            let mut lines = Vec::new();
            let mut last = None;
            for (manager, path) in many {
                if last != Some(manager) {
                    lines.push(format!("conflicts with {}:", manager_text(manager)));
                    last = Some(manager);
                }
                lines.push(format!("- {}", element::path_text(path)));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    PatchError::Conflict(Box::new(Status::apply_conflict(causes, message)))
}

#[cfg(test)]
mod tests;
