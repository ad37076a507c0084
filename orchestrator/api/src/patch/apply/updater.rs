//! How ownership moves: on updates everything that changed goes to the writer, on apply the configuration does,
//! and what the applier no longer mentions goes away unless somebody else owns it.

use jiff::Timestamp;
use serde_json::Value;

use super::compare::{Comparison, compare, to_set};
use super::element::Element;
use super::managed::{Managed, ManagerId, Operation, Owned};
use super::merge::merge;
use super::remove::{Removal, remove};
use super::set::FieldSet;
use super::{Force, Target};

/// Fields that are owned by others, sorted by owner.
pub(super) type Conflicts = Vec<(ManagerId, Vec<Element>)>;

pub(super) enum ApplyError {
    Conflicts(Conflicts),
    Invalid(String),
}

/// Fields that nobody owns.
fn never_owned() -> FieldSet {
    let mut set = FieldSet::default();
    for field in ["apiVersion", "kind", "metadata"] {
        set.insert(&[Element::field(field)]);
    }
    for field in [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ] {
        set.insert(&[Element::field("metadata"), Element::field(field)]);
    }
    set
}

/// Takes what changed away from everybody but the writer; what is gone is nobody's.
fn move_ownership(
    target: &Target<'_>,
    differs: &Comparison,
    managed: &mut Managed,
    writer: Option<&ManagerId>,
    force: Force,
) -> Result<(), Conflicts> {
    // Entries of versions that are no longer served cannot be compared.
    managed.owners.retain(|_, owned| target.versions.contains(&owned.api_version));
    let changed = differs.modified.union(&differs.added);
    let others = || managed.owners.iter().filter(|(id, _)| Some(*id) != writer);
    if force == Force::No {
        let conflicts: Conflicts = others()
            .flat_map(|(id, owned)| {
                let paths = owned.fields.intersection(&changed).paths();
                paths.into_iter().map(|path| (id.clone(), path))
            })
            .collect();
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
    }
    for (_, owned) in managed.owners.iter_mut().filter(|(id, _)| Some(*id) != writer) {
        owned.fields = owned.fields.difference(&changed).difference(&differs.removed);
    }
    managed.owners.retain(|_, owned| !owned.fields.is_empty());
    Ok(())
}

/// Moves ownership for a write that is no apply.
pub(super) fn update(
    target: &Target<'_>,
    live: &Value,
    new: &Value,
    managed: &mut Managed,
    writer: &ManagerId,
    now: Timestamp,
) {
    let differs = compare(live, new, target.shape).without(&target.reset);
    // Forced: an update takes whatever it changes, from its own earlier entry as well.
    let moved = move_ownership(target, &differs, managed, None, Force::Yes);
    debug_assert!(moved.is_ok(), "a forced move has no conflicts");
    let fields = differs.modified.union(&differs.added).recursive_difference(&target.reset);
    let fields = fields.difference(&never_owned());
    if fields.is_empty() {
        return;
    }
    let owned = managed.owners.entry(writer.clone()).or_insert_with(|| Owned {
        fields: FieldSet::default(),
        api_version: target.api_version.clone(),
        time: None,
    });
    owned.fields = owned.fields.union(&fields);
    owned.api_version.clone_from(&target.api_version);
    owned.time = Some(now);
    debug_assert_eq!(writer.operation, Operation::Update);
}

/// Applies a configuration; returns the merged object.
pub(super) fn apply(
    target: &Target<'_>,
    live: &Value,
    config: &Value,
    managed: &mut Managed,
    applier: &ManagerId,
    force: Force,
) -> Result<Value, ApplyError> {
    let merged = merge(live, config, target.shape).map_err(ApplyError::Invalid)?;
    let fields = to_set(config, target.shape).recursive_difference(&target.reset);
    let last = managed.owners.get(applier).cloned();
    let time = last.as_ref().and_then(|owned| owned.time);
    let owned = Owned { fields, api_version: target.api_version.clone(), time };
    managed.owners.insert(applier.clone(), owned);
    let object = match last.filter(|l| target.versions.contains(&l.api_version) && !l.fields.is_empty()) {
        Some(last) => prune(target, &merged, managed, &last.fields),
        None => merged,
    };
    let differs = compare(live, &object, target.shape).without(&target.reset);
    move_ownership(target, &differs, managed, Some(applier), force).map_err(ApplyError::Conflicts)?;
    if let Some(owned) = managed.owners.get_mut(applier) {
        owned.fields = owned.fields.difference(&never_owned());
        if owned.fields.is_empty() {
            managed.owners.remove(applier);
        }
    }
    Ok(object)
}

/// Removes what the applier had applied before and now does not, unless somebody owns it or something in it.
fn prune(target: &Target<'_>, merged: &Value, managed: &Managed, last: &FieldSet) -> Value {
    let shape = target.shape;
    let last = last.with_named_fields(shape);
    let owned = managed.owners.values().fold(FieldSet::default(), |all, owned| all.union(&owned.fields));
    let named_owned = owned.with_named_fields(shape);
    let all = to_set(merged, shape).with_named_fields(shape);
    let fields_of = |object: &Value| to_set(object, shape).with_named_fields(shape);
    let without = |fields: &FieldSet| remove(merged, &Removal { fields, owned: &owned }, shape);
    // Without everything of the last configuration, then with what anybody owns put back.
    let bare = without(&last);
    let kept = without(&all.difference(&fields_of(&bare).union(&named_owned)));
    // Only what the applier itself had owned may vanish: unowned items inside removed ones are put back.
    without(&all.difference(&fields_of(&kept)).intersection(&last))
}
