//! Who belongs to whom: objects that a selector matches are adopted, objects it no longer matches are let go.
//!
//! The rules are those of Kubernetes' `ControllerRefManager`: an object has at most one controller, and a
//! controller takes only what has none.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::core::{Selector, SelectorExt};
use serde_json::{Value, json};

use catamaran_client::object;

/// What a controller does with an object it may own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is ours.
    Keep,
    /// It is nobody's and matches: make it ours.
    Adopt,
    /// It is ours and does not match any more: let it go.
    Release,
    /// It does not concern us.
    Ignore,
}

/// What the owner `owner` with `selector` does with an object.
pub(crate) fn claim(owner: &ObjectMeta, selector: &Selector, candidate: &ObjectMeta) -> Claim {
    let empty = std::collections::BTreeMap::new();
    let matches = selector.matches(candidate.labels.as_ref().unwrap_or(&empty));
    let leaving = object::is_being_deleted(owner);
    match object::controller_of(candidate) {
        Some(controller) if controller.uid != object::uid(owner) => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if leaving => Claim::Ignore,
        Some(_) => Claim::Release,
        None if leaving || !matches || object::is_being_deleted(candidate) => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// A strategic merge patch that makes `owner` the controller of the object with `uid`.
pub(crate) fn adopt_patch(owner: &OwnerReference, uid: &str) -> Value {
    json!({"metadata": {"uid": uid, "ownerReferences": [owner]}})
}

/// A strategic merge patch that takes the owner `owner_uid` off the object with `uid`.
pub(crate) fn release_patch(owner_uid: &str, uid: &str) -> Value {
    json!({"metadata": {"uid": uid, "ownerReferences": [{"$patch": "delete", "uid": owner_uid}]}})
}

/// The selector of a workload; `None` when it is malformed or empty (which would select everything).
pub(crate) fn selector_of(selector: &LabelSelector) -> Option<Selector> {
    Selector::try_from(selector.clone()).ok().filter(|selector| !selector.selects_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn meta(app: &str, controller: Option<&str>, deleted: bool) -> ObjectMeta {
        let owner = |uid: &str| OwnerReference {
            uid: uid.into(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        ObjectMeta {
            uid: Some("me".into()),
            labels: Some([("app".to_owned(), app.to_owned())].into()),
            owner_references: controller.map(|uid| vec![owner(uid)]),
            deletion_timestamp: deleted.then_some(Time(jiff::Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn who_is_taken_and_who_is_let_go() {
        let selector = Selector::from_iter([("app", "web")]);
        // (owner leaving?, candidate's app, its controller, candidate leaving?) → claim
        let table = [
            (false, "web", Some("me"), false, Claim::Keep),
            (false, "web", Some("me"), true, Claim::Keep),
            (false, "db", Some("me"), false, Claim::Release),
            (true, "db", Some("me"), false, Claim::Ignore),
            (true, "web", Some("me"), false, Claim::Keep),
            (false, "web", Some("you"), false, Claim::Ignore),
            (false, "web", None, false, Claim::Adopt),
            (false, "web", None, true, Claim::Ignore),
            (true, "web", None, false, Claim::Ignore),
            (false, "db", None, false, Claim::Ignore),
        ];
        for (leaving, app, controller, deleted, expected) in table {
            let owner = meta("web", None, leaving);
            let candidate = meta(app, controller, deleted);
            assert_eq!(
                claim(&owner, &selector, &candidate),
                expected,
                "{app} {controller:?} {deleted} {leaving}"
            );
        }
    }

    #[test]
    fn an_empty_selector_selects_nothing_here() {
        assert!(selector_of(&LabelSelector::default()).is_none());
    }
}
