//! DELETE of one object: preconditions, propagation, grace, finalizers.

use bytes::Bytes;
use http::Response;
use serde_json::Value;
use tracing::Instrument;

use catamaran_api::decode;
use catamaran_api::kind::GroupVersionKind;
use catamaran_api::meta::{self, FOREGROUND_FINALIZER, ORPHAN_FINALIZER};
use catamaran_api::status::{GroupResource, Status};
use catamaran_store::{Entry, Expect, Revision, StoreError};

use crate::body::Body;
use crate::context::Context;
use crate::options::{DeleteOptions, DryRun, Propagation};
use crate::{admit, custom, encode, error, registry, strategy};

const OPTIONS: GroupVersionKind = GroupVersionKind { group: "", version: "v1", kind: "DeleteOptions" };
const ATTEMPTS: usize = 64;

/// What became of the object.
pub(crate) enum Deleted {
    /// It is gone; its last state.
    Gone(Bytes, Revision),
    /// It waits for grace or finalizers; its present state.
    Waits(Bytes, Revision),
}

pub(crate) async fn delete(context: &Context, body: &Bytes) -> Result<Response<Body>, Status> {
    let options = options(context, body)?;
    let deleted = delete_object(context, &options).await?;
    match deleted {
        Deleted::Waits(bytes, revision) => {
            let bytes = custom::convert::bytes(context, bytes).await?;
            context.stored(options.code_while_waiting(), &bytes, revision)
        }
        Deleted::Gone(bytes, revision) if returns_object(context) => context.stored(200, &bytes, revision),
        Deleted::Gone(bytes, _) => {
            let uid = encode::uid(&bytes).unwrap_or_default();
            Ok(context.status(&Status::success(context.group_resource(), context.name(), &uid)))
        }
    }
}

/// The options in the body (any group version's `DeleteOptions`) or in the query.
pub(crate) fn options(context: &Context, body: &Bytes) -> Result<DeleteOptions, Status> {
    let object = if body.iter().all(u8::is_ascii_whitespace) {
        Value::Null
    } else {
        let content_type = registry::content_type(context)?;
        let decoded = decode::untyped(body, content_type, decode::Strictness::Ignore)
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let kind = decoded.object["kind"].as_str().unwrap_or(OPTIONS.kind);
        if kind != OPTIONS.kind {
            return Err(Status::bad_request(format!(
                "the object provided is unrecognized (must be of type DeleteOptions): it is a {kind}"
            )));
        }
        without_type(decoded.object)
    };
    DeleteOptions::parse(object, &context.query)
}

fn without_type(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    object
}

/// Kinds whose last state is the answer; the others get a Status.
fn returns_object(context: &Context) -> bool {
    const KINDS: [&str; 8] = [
        "pods",
        "services",
        "serviceaccounts",
        "persistentvolumes",
        "persistentvolumeclaims",
        "podtemplates",
        "resourcequotas",
        "namespaces",
    ];
    context.stored.group.is_empty() && KINDS.contains(&context.stored.plural)
}

/// Deletes the object that the path names, or begins to.
pub(crate) async fn delete_object(context: &Context, options: &DeleteOptions) -> Result<Deleted, Status> {
    for _ in 0..ATTEMPTS {
        let (entry, old) = registry::load_object(context).await?;
        check(context, options, &old)?;
        let admitting = admit::delete(context, &old, options.dry_run);
        admitting.instrument(tracing::info_span!("admit")).await?;
        let next = plan(context, options, &old);
        let done = apply(context, options, &entry, next).instrument(tracing::info_span!("store")).await;
        match done {
            Err(StoreError::Conflict { .. }) => {}
            Ok(deleted) => return Ok(deleted),
            Err(error) => return Err(error::from_store(error, context.group_resource(), context.name())),
        }
    }
    Err(Status::modified(context.group_resource(), context.name()))
}

fn check(context: &Context, options: &DeleteOptions, old: &Value) -> Result<(), Status> {
    // Here Kubernetes names the kind where others name the resource.
    let kind = GroupResource::new(context.resource.group, context.resource.kind);
    let (uid, version) = (meta::uid(old), meta::resource_version(old));
    if let Some(wanted) = options.preconditions.uid.as_deref().filter(|wanted| *wanted != uid) {
        let why = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(kind, context.name(), &why));
    }
    if let Some(wanted) =
        options.preconditions.resource_version.as_deref().filter(|wanted| *wanted != version)
    {
        let why = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
        );
        return Err(Status::conflict(kind, context.name(), &why));
    }
    Ok(())
}

/// What a deletion does next.
enum Next {
    Remove,
    /// Shows the object as one that is being deleted, then removes it: a pod that runs is not gone without a word.
    Announce(Box<Value>),
    Keep(Box<Value>),
    Nothing,
}

fn plan(context: &Context, options: &DeleteOptions, old: &Value) -> Next {
    let left = meta::deletion_grace_period(old).filter(|left| *left > 0 && meta::is_being_deleted(old));
    if left.is_some_and(|left| options.grace_seconds.is_none_or(|wanted| wanted >= left)) {
        return Next::Nothing;
    }
    let mut new = old.clone();
    set_propagation(&mut new, options.propagation);
    let grace = match left {
        Some(_) => options.grace_seconds.unwrap_or_default(),
        None => strategy::grace_seconds(context.stored, old, options.grace_seconds),
    };
    let namespace = context.stored.plural == "namespaces" && context.stored.group.is_empty();
    let begun = meta::begin_deletion(context.stored, &mut new, context.now, grace);
    if namespace {
        new["status"]["phase"] = "Terminating".into();
    }
    let runs = context.stored.plural == "pods" && new["spec"]["nodeName"].is_string();
    if strategy::is_gone(context.stored, &new) {
        return if runs && !meta::is_being_deleted(old) {
            Next::Announce(Box::new(new))
        } else {
            Next::Remove
        };
    }
    if begun || !meta::unchanged(&new, old) { Next::Keep(Box::new(new)) } else { Next::Nothing }
}

/// Sets the finalizers that stand for what becomes of the dependents; an explicit policy beats those already set.
fn set_propagation(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    for (finalizer, wanted) in
        [(ORPHAN_FINALIZER, Propagation::Orphan), (FOREGROUND_FINALIZER, Propagation::Foreground)]
    {
        if propagation == wanted {
            meta::add_finalizer(object, finalizer);
        } else {
            meta::remove_finalizer(object, finalizer);
        }
    }
}

async fn apply(
    context: &Context,
    options: &DeleteOptions,
    entry: &Entry,
    next: Next,
) -> Result<Deleted, StoreError> {
    let store = &context.core.store;
    let expect = Expect::Revision(entry.mod_revision);
    match next {
        Next::Nothing => Ok(Deleted::Waits(entry.value.clone(), entry.mod_revision)),
        Next::Remove if options.dry_run == DryRun::All => {
            Ok(Deleted::Gone(entry.value.clone(), entry.mod_revision))
        }
        Next::Remove => {
            let deleted = store.delete(&entry.key, expect).await?;
            Ok(Deleted::Gone(deleted.value, deleted.mod_revision))
        }
        Next::Announce(object) => {
            let bytes = encode::encode(&object);
            if options.dry_run == DryRun::All {
                return Ok(Deleted::Gone(bytes, entry.mod_revision));
            }
            // Whoever comes after a crash in between finds a pod without grace: its node, or another deletion,
            // removes it.
            let marked = store.put(&entry.key, bytes, expect).await?;
            remove_announced(context, marked).await
        }
        Next::Keep(object) => {
            let bytes = encode::encode(&object);
            if options.dry_run == DryRun::All {
                return Ok(Deleted::Waits(bytes, entry.mod_revision));
            }
            let kept = store.put(&entry.key, bytes, expect).await?;
            Ok(Deleted::Waits(kept.value, kept.mod_revision))
        }
    }
}

/// Removes an object that was just announced. Its node may write its end meanwhile, or remove it itself.
async fn remove_announced(context: &Context, marked: Entry) -> Result<Deleted, StoreError> {
    let mut last = marked;
    loop {
        match context.core.store.delete(&last.key, Expect::Revision(last.mod_revision)).await {
            Ok(deleted) => return Ok(Deleted::Gone(deleted.value, deleted.mod_revision)),
            Err(StoreError::Conflict { current: Some(newer) })
                if encode::uid(&newer.value) == encode::uid(&last.value) =>
            {
                last = newer;
            }
            Err(StoreError::Conflict { .. } | StoreError::NotFound) => {
                return Ok(Deleted::Gone(last.value, last.mod_revision));
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn propagation_becomes_finalizers() {
        let table = [
            (None, json!(["orphan"]), json!(["orphan"])),
            (Some(Propagation::Background), json!(["orphan", "a/b"]), json!(["a/b"])),
            (Some(Propagation::Foreground), json!(["orphan"]), json!(["foregroundDeletion"])),
            (Some(Propagation::Orphan), json!([]), json!(["orphan"])),
        ];
        for (propagation, before, after) in table {
            let mut object = json!({"metadata": {"finalizers": before}});
            set_propagation(&mut object, propagation);
            assert_eq!(object["metadata"]["finalizers"], after, "{propagation:?}");
        }
    }
}
