//! Small questions about an object's metadata.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// The object's resourceVersion as a number; 0 when it has none.
///
/// The server's revisions are one decimal counter over all kinds, so that two of them can be compared.
#[must_use]
pub fn revision(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The owner reference with `controller: true`, of which there is at most one.
#[must_use]
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

/// Has the object a deletionTimestamp?
#[must_use]
pub fn is_being_deleted(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// The object's uid, or an empty string before the server gave it one.
#[must_use]
pub fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// The object's name, or an empty string before the server gave it one.
#[must_use]
pub fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// The object's namespace; empty for cluster scope.
#[must_use]
pub fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

/// The value of one annotation.
#[must_use]
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The value of one label.
#[must_use]
pub fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

/// A reference that makes `owner` the controller of an object, blocking its foreground deletion.
#[must_use]
pub fn controller_reference(api_version: &str, kind: &str, owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: name(owner).to_owned(),
        uid: uid(owner).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_is_the_marked_owner() {
        let mut plain = controller_reference("v1", "Node", &ObjectMeta::default());
        plain.controller = None;
        let marked = controller_reference("apps/v1", "ReplicaSet", &ObjectMeta::default());
        let meta =
            ObjectMeta { owner_references: Some(vec![plain, marked.clone()]), ..ObjectMeta::default() };
        assert_eq!(controller_of(&meta), Some(&marked));
        assert_eq!(controller_of(&ObjectMeta::default()), None);
    }

    #[test]
    fn a_revision_is_a_number_or_zero() {
        let meta = |text: &str| ObjectMeta { resource_version: Some(text.into()), ..ObjectMeta::default() };
        assert_eq!(revision(&meta("42")), 42);
        assert_eq!(revision(&meta("x")), 0);
        assert_eq!(revision(&ObjectMeta::default()), 0);
    }
}
