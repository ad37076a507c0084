//! Conversion by webhook, ahead of everything that reads stored bytes: what goes out of here is in the version that
//! was asked for. For all other resources bytes pass through as they are.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use catamaran_api::custom::Conversion;
use catamaran_api::status::Status;
use catamaran_store::{Entry, Event, EventKind, Revision};

use super::webhook;
use crate::context::Context;
use crate::encode;
use crate::hub::{Change, ChangeKind};

/// The webhook of the request's resource, if it has one.
fn hook(context: &Context) -> Option<&Value> {
    match &context.custom.as_ref()?.definition.conversion {
        Conversion::Webhook(hook) => Some(hook),
        Conversion::None => None,
    }
}

/// Brings an object into another version.
async fn one(context: &Context, object: &mut Value, wanted: &str) -> Result<(), Status> {
    if let Some(hook) = hook(context).filter(|_| object["apiVersion"] != wanted) {
        let converted = webhook::convert(&context.core, hook, wanted, vec![std::mem::take(object)]).await?;
        *object = converted.into_iter().next().unwrap_or_default();
    }
    Ok(())
}

/// From the form that is kept to the version that is asked for.
pub(crate) async fn to_served(context: &Context, object: &mut Value) -> Result<(), Status> {
    one(context, object, &context.resource.api_version()).await?;
    context.to_served(object)
}

/// From the version that is asked for to the form that is kept.
pub(crate) async fn to_stored(context: &Context, object: &mut Value) -> Result<(), Status> {
    let Some(custom) = &context.custom else { return Ok(()) };
    one(context, object, &custom.stored.api_version()).await?;
    custom.to_stored(object)
}

/// Stored bytes, each in the version that is asked for; one question for all that have to be converted.
async fn all(context: &Context, mut stored: Vec<Bytes>) -> Result<Vec<Bytes>, Status> {
    let Some(hook) = hook(context) else { return Ok(stored) };
    let wanted = context.resource.api_version();
    let (mut places, mut objects) = (Vec::new(), Vec::new());
    for (place, bytes) in stored.iter().enumerate() {
        let object: Value = serde_json::from_slice(bytes).map_err(Status::internal_error)?;
        if object["apiVersion"] != wanted.as_str() {
            places.push(place);
            objects.push(object);
        }
    }
    if objects.is_empty() {
        return Ok(stored);
    }
    let converted = webhook::convert(&context.core, hook, &wanted, objects).await?;
    for (place, object) in places.into_iter().zip(converted) {
        stored[place] = encode::encode(&object);
    }
    Ok(stored)
}

/// The bytes of one object.
pub(crate) async fn bytes(context: &Context, bytes: Bytes) -> Result<Bytes, Status> {
    Ok(all(context, vec![bytes]).await?.pop().unwrap_or_default())
}

/// Entries of a list.
pub(crate) async fn entries(context: &Context, entries: Vec<Entry>) -> Result<Vec<Entry>, Status> {
    if hook(context).is_none() {
        return Ok(entries);
    }
    let values = all(context, entries.iter().map(|entry| entry.value.clone()).collect()).await?;
    Ok(entries.into_iter().zip(values).map(|(entry, value)| Entry { value, ..entry }).collect())
}

/// Changes on their way to a watcher.
pub(crate) async fn changes(
    context: &Context,
    changes: Vec<Arc<Change>>,
) -> Result<Vec<Arc<Change>>, Status> {
    if hook(context).is_none() {
        return Ok(changes);
    }
    let both = changes.iter().flat_map(|change| [Some(change.value.clone()), change.previous.clone()]);
    let mut values = all(context, both.flatten().collect()).await?.into_iter();
    let made = changes.iter().map(|change| {
        let value = values.next().unwrap_or_default();
        let previous = change.previous.as_ref().and_then(|_| values.next());
        let entry = |value| entry(change.key.clone(), value, change.revision);
        let kind = if change.kind == ChangeKind::Deleted { EventKind::Delete } else { EventKind::Put };
        Arc::new(Change::new(&Event { kind, entry: entry(value), previous: previous.map(entry) }))
    });
    Ok(made.collect())
}

fn entry(key: Arc<str>, value: Bytes, revision: Revision) -> Entry {
    Entry { key, value, create_revision: revision, mod_revision: revision, version: 1 }
}
