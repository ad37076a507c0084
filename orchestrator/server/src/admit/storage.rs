//! Storage: the default class of a claim, finalizers that keep claims and volumes while they are in use, and what a
//! claim may grow to.

use serde_json::Value;

use catamaran_api::quantity::Quantity;
use catamaran_api::status::Status;
use catamaran_api::{kind, meta};
use catamaran_store::Range;

use super::look_up;
use crate::context::Context;
use crate::{encode, error, keys};

/// StorageObjectInUseProtection: what keeps a claim or a volume until the controller says that nobody uses it.
pub(super) const OF_CLAIMS: &str = "kubernetes.io/pvc-protection";
pub(super) const OF_VOLUMES: &str = "kubernetes.io/pv-protection";
const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
const WAS_DEFAULT: &str = "storageclass.beta.kubernetes.io/is-default-class";
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// DefaultStorageClass: gives a claim that names no class the default one. An empty name is a name.
pub(super) async fn default_class(context: &Context, claim: &mut Value) -> Result<(), Status> {
    if !claim["spec"]["storageClassName"].is_null() || meta::annotation(claim, CLASS).is_some() {
        return Ok(());
    }
    let classes = all(context, ("storage.k8s.io", "v1", "storageclasses")).await?;
    if let Some(class) = newest_default(&classes, &[IS_DEFAULT, WAS_DEFAULT]) {
        claim["spec"]["storageClassName"] = class.into();
    }
    Ok(())
}

/// PersistentVolumeClaimResize: only a bound claim of a class that says so may grow.
pub(super) async fn growth(context: &Context, new: &Value, old: &Value) -> Result<(), Status> {
    let size = |claim: &Value| {
        Quantity::from_value(&claim["spec"]["resources"]["requests"]["storage"]).unwrap_or_default()
    };
    if size(new) <= size(old) {
        return Ok(());
    }
    let refuse = |why: &str| Err(Status::forbidden(context.group_resource(), meta::name(new), why));
    if old["status"]["phase"] != "Bound" {
        return refuse("Only bound persistent volume claims can be expanded");
    }
    let class = match old["spec"]["storageClassName"].as_str().filter(|name| !name.is_empty()) {
        Some(name) => look_up(context, ("storage.k8s.io", "v1", "storageclasses"), None, name).await?,
        None => None,
    };
    if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
        return Ok(());
    }
    refuse(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    )
}

/// Every object of a kind that belongs to the whole cluster.
pub(super) async fn all(
    context: &Context,
    (group, version, plural): (&str, &str, &str),
) -> Result<Vec<Value>, Status> {
    let Some(resource) = kind::find(group, version, plural) else { return Ok(Vec::new()) };
    let range = Range { prefix: keys::all(resource), ..Range::default() };
    let page = context.core.store.range(range).await;
    let page = page.map_err(|error| error::from_store(error, context.group_resource(), ""))?;
    let decode = |entry: catamaran_store::Entry| encode::decode(&entry.value, entry.mod_revision);
    page.entries.into_iter().map(|entry| decode(entry).map_err(Status::internal_error)).collect()
}

/// The name of the class that is marked as the default; of several the newest, then the first by name.
pub(super) fn newest_default<'a>(classes: &'a [Value], marks: &[&str]) -> Option<&'a str> {
    let marked = |class: &&Value| marks.iter().any(|mark| meta::annotation(class, mark) == Some("true"));
    let newest = classes.iter().filter(marked).min_by(|a, b| {
        let newer = meta::creation_timestamp(b).cmp(&meta::creation_timestamp(a));
        newer.then_with(|| meta::name(a).cmp(meta::name(b)))
    });
    newest.map(meta::name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_default_is_taken() {
        let class = |name: &str, mark: &str, made: &str| json!({"metadata": {"name": name, "creationTimestamp": made, "annotations": {IS_DEFAULT: mark}}});
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let table = [
            (vec![], None),
            (vec![class("a", "false", new)], None),
            (vec![class("a", "true", old), class("b", "true", new)], Some("b")),
            (vec![class("b", "true", new), class("a", "true", new)], Some("a")),
        ];
        for (classes, expected) in table {
            assert_eq!(newest_default(&classes, &[IS_DEFAULT]), expected, "{classes:?}");
        }
    }
}
