//! The revisions of a workload: each pod template that it had, kept as a ControllerRevision.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};

use catamaran_client::error::{is_already_exists, is_not_found};
use catamaran_client::{Key, object};

use crate::caches::Caches;
use crate::claim::adopt_patch;
use crate::hash::{hash_data, is_same_data};
use crate::own::OwnerKind;
use crate::write::Written;

/// The label of a pod that names the revision of its template.
pub(crate) const REVISION_LABEL: &str = "controller-revision-hash";

/// Why the history of a workload could not be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    /// A revision could not be created, read or adopted.
    #[error("cannot create the ControllerRevision {name}")]
    Create {
        /// The revision.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// A revision could not get a new number.
    #[error("cannot renumber the ControllerRevision {name}")]
    Renumber {
        /// The revision.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// A revision could not be deleted.
    #[error("cannot delete the ControllerRevision {name}")]
    Delete {
        /// The revision.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
}

/// The revision of the template as it is now.
pub(crate) enum Current {
    /// It is there.
    There(Arc<ControllerRevision>),
    /// Its name belongs to another one: the hash must be salted.
    Collision,
}

/// What must be done so that the newest revision is that of the template.
#[derive(Debug)]
enum Step {
    /// It is already.
    Nothing(Arc<ControllerRevision>),
    /// An earlier one is used again.
    Renumber(Arc<ControllerRevision>, i64),
    /// There is none.
    Create(Box<ControllerRevision>),
}

/// The histories of the workloads of one kind.
pub(crate) struct History {
    client: Client,
    caches: Caches,
    kind: OwnerKind,
    /// The label of a revision with its hash.
    label: &'static str,
    written: Written<Key>,
}

impl History {
    pub(crate) fn new(client: Client, caches: Caches, kind: OwnerKind, label: &'static str) -> Self {
        Self { client, caches, kind, label, written: Written::default() }
    }

    /// The revisions of `owner`, the oldest first; `None` while the cache is behind our own writes.
    pub(crate) fn list(&self, key: &Key, owner: &ObjectMeta) -> Option<Vec<Arc<ControllerRevision>>> {
        if self.written.is_ahead_of(key, self.caches.revisions.progress().revision) {
            return None;
        }
        let mut revisions = self.caches.revisions_by_owner.get(object::uid(owner));
        revisions.sort_by_key(|one| (one.revision, one.metadata.name.clone()));
        Some(revisions)
    }

    /// Makes sure that the newest of `revisions` is that of `template`, and returns it.
    pub(crate) async fn current(
        &self,
        key: &Key,
        owner: &ObjectMeta,
        template: &PodTemplateSpec,
        collisions: i32,
        revisions: &mut Vec<Arc<ControllerRevision>>,
    ) -> Result<Current, HistoryError> {
        match step(&self.kind, self.label, owner, template, collisions, revisions) {
            Step::Nothing(revision) => Ok(Current::There(revision)),
            Step::Renumber(revision, number) => {
                let renumbered = Arc::new(self.renumber(key, &revision, number).await?);
                revisions.retain(|one| one.metadata.uid != revision.metadata.uid);
                revisions.push(Arc::clone(&renumbered));
                Ok(Current::There(renumbered))
            }
            Step::Create(revision) => {
                let Some(created) = self.create(key, owner, &revision).await? else {
                    return Ok(Current::Collision);
                };
                let created = Arc::new(created);
                revisions.push(Arc::clone(&created));
                Ok(Current::There(created))
            }
        }
    }

    async fn renumber(
        &self,
        key: &Key,
        revision: &ControllerRevision,
        number: i64,
    ) -> Result<ControllerRevision, HistoryError> {
        let name = object::name(&revision.metadata);
        let patch = json!({"metadata": {"uid": revision.metadata.uid}, "revision": number});
        let written = self
            .api(&key.namespace)
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(|source| HistoryError::Renumber { name: name.to_owned(), source })?;
        self.written.note(key, object::revision(&written.metadata));
        Ok(written)
    }

    /// `None` when the name belongs to a revision of something else.
    async fn create(
        &self,
        key: &Key,
        owner: &ObjectMeta,
        revision: &ControllerRevision,
    ) -> Result<Option<ControllerRevision>, HistoryError> {
        let (api, name) = (self.api(&key.namespace), object::name(&revision.metadata));
        let failed = |source| HistoryError::Create { name: name.to_owned(), source };
        let created = match api.create(&PostParams::default(), revision).await {
            Err(error) if is_already_exists(&error) => {
                let existing = api.get(name).await.map_err(failed)?;
                if !is_same_data(data_of(&existing), data_of(revision)) {
                    return Ok(None);
                }
                match object::controller_of(&existing.metadata) {
                    Some(controller) if controller.uid == object::uid(owner) => existing,
                    Some(_) => return Ok(None),
                    // It was orphaned by an earlier owner of the same name.
                    None => {
                        let patch = adopt_patch(&self.kind.reference(owner), object::uid(&existing.metadata));
                        let params = PatchParams::default();
                        api.patch(name, &params, &Patch::Strategic(patch)).await.map_err(failed)?
                    }
                }
            }
            result => result.map_err(failed)?,
        };
        self.written.note(key, object::revision(&created.metadata));
        Ok(Some(created))
    }

    /// Deletes the oldest revisions that are more than `limit` and that nobody uses.
    pub(crate) async fn sweep(
        &self,
        revisions: &[Arc<ControllerRevision>],
        live: &HashSet<String>,
        limit: i32,
    ) -> Result<(), HistoryError> {
        for revision in old(revisions, live, limit) {
            let name = object::name(&revision.metadata);
            let same = Preconditions { uid: revision.metadata.uid.clone(), resource_version: None };
            let api = self.api(object::namespace(&revision.metadata));
            match api.delete(name, &DeleteParams::default().preconditions(same)).await {
                Err(source) if !is_not_found(&source) => {
                    return Err(HistoryError::Delete { name: name.to_owned(), source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn api(&self, namespace: &str) -> Api<ControllerRevision> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// The hash in the label `label` of a revision.
pub(crate) fn hash_of<'a>(revision: &'a ControllerRevision, label: &str) -> &'a str {
    object::label(&revision.metadata, label).unwrap_or_default()
}

/// The template that a revision keeps.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = data_of(revision).pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

fn data_of(revision: &ControllerRevision) -> &Value {
    static NULL: Value = Value::Null;
    revision.data.as_ref().map_or(&NULL, |data| &data.0)
}

/// The data of a revision: a strategic merge patch that brings the template back.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

fn step(
    kind: &OwnerKind,
    label: &str,
    owner: &ObjectMeta,
    template: &PodTemplateSpec,
    collisions: i32,
    revisions: &[Arc<ControllerRevision>],
) -> Step {
    let data = data(template);
    let newest = revisions.last().map_or(0, |revision| revision.revision);
    match revisions.iter().rev().find(|revision| is_same_data(data_of(revision), &data)) {
        Some(same) if same.revision == newest => Step::Nothing(Arc::clone(same)),
        Some(same) => Step::Renumber(Arc::clone(same), newest + 1),
        None => {
            let hash = hash_data(&data, Some(collisions).filter(|count| *count > 0));
            let mut labels: BTreeMap<String, String> =
                template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
            labels.insert(label.to_owned(), hash.clone());
            let metadata = ObjectMeta {
                name: Some(format!("{}-{hash}", object::name(owner))),
                namespace: owner.namespace.clone(),
                labels: Some(labels),
                annotations: owner.annotations.clone(),
                owner_references: Some(vec![kind.reference(owner)]),
                ..ObjectMeta::default()
            };
            Step::Create(Box::new(ControllerRevision {
                metadata,
                data: Some(RawExtension(data)),
                revision: newest + 1,
            }))
        }
    }
}

fn old<'a>(
    revisions: &'a [Arc<ControllerRevision>],
    live: &HashSet<String>,
    limit: i32,
) -> impl Iterator<Item = &'a Arc<ControllerRevision>> {
    let unused: Vec<_> = revisions.iter().filter(|one| !live.contains(object::name(&one.metadata))).collect();
    let excess = unused.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    unused.into_iter().take(excess)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: OwnerKind = OwnerKind {
        api_version: "apps/v1",
        kind: "DaemonSet",
        finalizer: None,
        wording: crate::own::Wording::Plain,
    };

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({"metadata": {"labels": {"app": "web"}},
                                      "spec": {"containers": [{"name": "c", "image": image}]}}))
        .unwrap()
    }

    fn owner() -> ObjectMeta {
        serde_json::from_value(json!({"name": "web", "namespace": "ns", "uid": "u"})).unwrap()
    }

    fn take(image: &str, collisions: i32, revisions: &[Arc<ControllerRevision>]) -> Step {
        step(&KIND, REVISION_LABEL, &owner(), &template(image), collisions, revisions)
    }

    fn create(image: &str, revisions: &[Arc<ControllerRevision>]) -> Arc<ControllerRevision> {
        match take(image, 0, revisions) {
            Step::Create(revision) => Arc::from(revision),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn revisions_are_made_and_used_again() {
        let first = create("a", &[]);
        assert_eq!((first.revision, hash_of(&first, REVISION_LABEL).is_empty()), (1, false));
        assert_eq!(first.metadata.labels.as_ref().unwrap()["app"], "web");
        assert_eq!(template_of(&first).unwrap(), template("a"));
        let second = create("b", std::slice::from_ref(&first));
        assert_eq!(second.revision, 2);
        let both = [Arc::clone(&first), second];
        assert!(matches!(take("b", 0, &both), Step::Nothing(_)));
        let Step::Renumber(again, 3) = take("a", 0, &both) else { panic!("the first is used again") };
        assert_eq!(again.metadata.name, first.metadata.name);
        let Step::Create(salted) = take("a", 1, &[]) else { panic!("there is none") };
        assert_ne!(salted.metadata.name, first.metadata.name);
    }

    #[test]
    fn the_oldest_unused_go() {
        let revisions: Vec<Arc<ControllerRevision>> = (1..=5)
            .map(|n| {
                let json = json!({"metadata": {"name": format!("r{n}")}, "revision": n});
                Arc::new(serde_json::from_value(json).unwrap())
            })
            .collect();
        let live = HashSet::from(["r1".to_owned(), "r5".to_owned()]);
        let names = |limit| -> Vec<&str> {
            old(&revisions, &live, limit).map(|one| object::name(&one.metadata)).collect()
        };
        assert_eq!(names(1), ["r2", "r3"]);
        assert!(names(3).is_empty());
    }
}
