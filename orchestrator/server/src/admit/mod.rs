//! Checks and additions between decoding and the store, one file each, in the order in which they are listed here.

mod namespace;
mod priority;
mod runtimeclass;
mod service;
mod serviceaccount;
mod tolerations;

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{Mutex, OwnedMutexGuard};

use catamaran_api::kind;
use catamaran_api::status::Status;

use crate::context::Context;
use crate::strategy::Part;
use crate::{custom, encode, error, keys, rbac};

/// Lets one request at a time choose addresses and ports. What is taken is read from the stored Services, so
/// nothing is lost with the process.
#[derive(Default)]
pub(crate) struct Allocator(Arc<Mutex<()>>);

/// Held from the choice of an address until the object is stored.
pub(crate) type Reserved = Option<OwnedMutexGuard<()>>;

impl Allocator {
    async fn reserve(&self) -> OwnedMutexGuard<()> {
        self.0.clone().lock_owned().await
    }
}

/// Completes a new object, or refuses it.
pub(crate) async fn create(context: &Context, object: &mut Value) -> Result<Reserved, Status> {
    namespace::exists(context, object).await?;
    match (context.stored.group, context.stored.plural) {
        ("", "pods") => {
            serviceaccount::admit(context, object).await?;
            priority::admit(context, object).await?;
            tolerations::admit(object);
            runtimeclass::admit(context, object).await?;
            Ok(None)
        }
        ("", "services") => service::admit(context, object, None).await,
        (rbac::GROUP, _) => rbac::escalate::check(context, object, None).await.map(|()| None),
        (custom::GROUP, custom::PLURAL) => custom::admit(context, object).await,
        _ => Ok(None),
    }
}

/// Completes a changed object, or refuses the change.
pub(crate) async fn update(
    context: &Context,
    part: Part,
    new: &mut Value,
    old: &Value,
) -> Result<Reserved, Status> {
    match (context.stored.group, context.stored.plural, part) {
        (rbac::GROUP, _, Part::Main) => rbac::escalate::check(context, new, Some(old)).await.map(|()| None),
        (custom::GROUP, custom::PLURAL, Part::Main) => custom::admit(context, new).await,
        ("", "services", Part::Main) => service::admit(context, new, Some(old)).await,
        ("", "pods", Part::Main) => {
            priority::keep(new, old);
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// Refuses deletions.
pub(crate) async fn delete(context: &Context, _old: &Value) -> Result<(), Status> {
    namespace::deletable(context)
}

/// An object of another kind that a check needs.
async fn look_up(
    context: &Context,
    (group, version, plural): (&str, &str, &str),
    namespace: Option<&str>,
    name: &str,
) -> Result<Option<Value>, Status> {
    let Some(resource) = kind::find(group, version, plural) else { return Ok(None) };
    let found = context.core.store.get(&keys::one(resource, namespace, name)).await;
    let entry = found.map_err(|error| error::from_store(error, context.group_resource(), name))?;
    entry
        .map(|entry| encode::decode(&entry.value, entry.mod_revision).map_err(Status::internal_error))
        .transpose()
}
