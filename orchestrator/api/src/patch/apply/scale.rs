//! Ownership through `/scale`: who owns `spec.replicas` of the scaled object owns the same field of its Scale.

use serde_json::{Value, json};

use super::element::Element;
use super::managed::{Managed, Operation};
use super::set::FieldSet;

const SCALE_VERSION: &str = "autoscaling/v1";

fn replicas() -> FieldSet {
    let mut set = FieldSet::default();
    set.insert(&[Element::field("spec"), Element::field("replicas")]);
    set
}

/// The `managedFields` of a Scale from those of its parent: only owners of the replicas, as `autoscaling/v1`.
pub fn to_scale(parent: &Value) -> Value {
    let mut managed = Managed::decode(parent).unwrap_or_default();
    let replicas = replicas();
    let owners = std::mem::take(&mut managed.owners);
    for (mut id, mut owned) in owners {
        owned.fields = owned.fields.intersection(&replicas);
        if owned.fields.is_empty() {
            continue;
        }
        owned.api_version = SCALE_VERSION.into();
        if id.operation == Operation::Update {
            id.api_version = SCALE_VERSION.into();
        }
        managed.owners.insert(id, owned);
    }
    managed.encode()
}

/// The `managedFields` of a parent after its Scale was written: other fields keep their owners, the replicas get
/// those of the Scale, in the parent's version.
pub fn to_parent(scale: &Value, parent: &Value, parent_version: &str) -> Value {
    let mut managed = Managed::decode(parent).unwrap_or_default();
    let replicas = replicas();
    for owned in managed.owners.values_mut() {
        owned.fields = owned.fields.difference(&replicas);
    }
    for (mut id, owned) in Managed::decode(scale).unwrap_or_default().owners {
        if !owned.fields.has(&[Element::field("spec"), Element::field("replicas")]) {
            continue;
        }
        if id.operation == Operation::Update {
            id.api_version = parent_version.to_owned();
        }
        let slot = managed.owners.entry(id).or_insert_with(|| super::managed::Owned {
            fields: FieldSet::default(),
            api_version: parent_version.to_owned(),
            time: owned.time,
        });
        slot.fields = slot.fields.union(&replicas);
        slot.time = slot.time.max(owned.time);
    }
    managed.owners.retain(|_, owned| !owned.fields.is_empty());
    if managed.is_empty() { json!([]) } else { managed.encode() }
}
