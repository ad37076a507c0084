//! ResourceQuotas: an object and what it adds to the quotas of its namespace are written in one step, or neither.
//! So nobody ever sees more objects than are charged, and the limit holds however many create at once. What goes
//! is counted by the controller, whose writes hold only for the state that it counted.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;
use tokio::sync::RwLock;

use catamaran_api::kind;
use catamaran_api::meta;
use catamaran_api::quota::{self, Change, Effect};
use catamaran_api::status::Status;
use catamaran_store::{Entry, Expect, Put, Range, StoreError};

use crate::context::Context;
use crate::strategy::Part;
use crate::{encode, error, keys};

/// How often a charge is tried again on top of somebody else's.
const ATTEMPTS: usize = 64;
const STRIPES: usize = 256;

/// By namespace: held shared by those whom no quota covers, until their object is written; held alone by those who
/// charge, so that they need not try against each other, and by those who make or change a quota, so that nobody
/// who did not see it is still on the way when it is counted.
pub(crate) struct Locks(Vec<RwLock<()>>);

impl Default for Locks {
    fn default() -> Self {
        Locks(std::iter::repeat_with(RwLock::default).take(STRIPES).collect())
    }
}

impl Locks {
    fn of(&self, namespace: &str) -> &RwLock<()> {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        let stripe = usize::try_from(hasher.finish() % STRIPES as u64).unwrap_or_default();
        &self.0[stripe]
    }
}

/// Writes an object, together with its charge where a quota covers it. The inner error is the store's about the
/// object itself.
///
/// # Errors
/// 403 when a quota stands against it.
pub(crate) async fn put(
    context: &Context,
    part: Part,
    (new, old): (&Value, Option<&Value>),
    write: Put,
) -> Result<Result<Entry, StoreError>, Status> {
    let store = &context.core.store;
    let Some(namespace) = context.namespace().filter(|_| measured(context, part, old)) else {
        return Ok(store.put(&write.key, write.value, write.expect).await);
    };
    let lock = context.core.quotas.of(namespace);
    if !is_quota(context) {
        let _shared = lock.read().await;
        let quotas = load(context, namespace).await?;
        if charges(context, (new, old), &quotas)?.is_empty() {
            return Ok(store.put(&write.key, write.value, write.expect).await);
        }
    }
    let _alone = lock.write().await;
    for _ in 0..ATTEMPTS {
        let quotas = load(context, namespace).await?;
        let charges = charges(context, (new, old), &quotas)?;
        if charges.is_empty() {
            return Ok(store.put(&write.key, write.value, write.expect).await);
        }
        let puts = std::iter::once(write.clone()).chain(charges).collect();
        match store.put_all(puts).await {
            Ok(mut entries) => return Ok(Ok(entries.swap_remove(0))),
            Err(StoreError::Conflict { current }) if about_quota(current.as_ref(), &write) => {}
            Err(error) => return Ok(Err(error)),
        }
    }
    Err(Status::conflict(context.group_resource(), meta::name(new), "the quotas change too often; try again"))
}

/// What [`put`] would say, for a dry run.
///
/// # Errors
/// 403 when a quota stands against the object.
pub(crate) async fn check(
    context: &Context,
    part: Part,
    (new, old): (&Value, Option<&Value>),
) -> Result<(), Status> {
    let Some(namespace) = context.namespace().filter(|_| measured(context, part, old)) else { return Ok(()) };
    charges(context, (new, old), &load(context, namespace).await?).map(drop)
}

/// Creations, and those changes that change what is measured. Events are never counted, as in Kubernetes.
fn measured(context: &Context, part: Part, old: Option<&Value>) -> bool {
    match (context.stored.group, context.stored.plural, part) {
        ("" | "events.k8s.io", "events", _) => false,
        _ if old.is_none() => true,
        ("", "services" | "persistentvolumeclaims" | "resourcequotas", Part::Main) => true,
        ("", "pods", Part::Resize) => true,
        _ => false,
    }
}

fn is_quota(context: &Context) -> bool {
    (context.stored.group, context.stored.plural) == ("", "resourcequotas")
}

/// Whether it was a quota, not the object, that was not as expected. When it is gone nothing says whose it was:
/// a new object cannot be gone.
fn about_quota(current: Option<&Entry>, write: &Put) -> bool {
    match current {
        Some(entry) => *entry.key != *write.key,
        None => write.expect == Expect::Absent,
    }
}

async fn load(context: &Context, namespace: &str) -> Result<Vec<(Entry, Value)>, Status> {
    let Some(resource) = kind::find("", "v1", "resourcequotas") else { return Ok(Vec::new()) };
    let range = Range { prefix: keys::within(resource, Some(namespace)), ..Range::default() };
    let page = context.core.store.range(range).await;
    let page = page.map_err(|error| error::from_store(error, context.group_resource(), ""))?;
    let decoded = page.entries.into_iter().map(|entry| {
        let quota = encode::decode(&entry.value, entry.mod_revision).map_err(Status::internal_error)?;
        Ok((entry, quota))
    });
    decoded.collect()
}

/// The quotas as they are to be written along with the object.
fn charges(
    context: &Context,
    (new, old): (&Value, Option<&Value>),
    quotas: &[(Entry, Value)],
) -> Result<Vec<Put>, Status> {
    let values: Vec<Value> = quotas.iter().map(|(_, quota)| quota.clone()).collect();
    let (group, plural) = (context.stored.group, context.stored.plural);
    let effects = quota::charge(&values, Change { group, plural, new, old }).map_err(|refusal| {
        Status::forbidden(context.group_resource(), meta::name(new), &refusal.to_string())
    })?;
    let puts = effects.into_iter().map(|(place, effect)| {
        let (entry, quota) = &quotas[place];
        let value = match effect {
            Effect::Touched => entry.value.clone(),
            Effect::Used(used) => {
                let mut quota = quota.clone();
                for (name, amount) in used {
                    quota["status"]["used"][name] = amount.into();
                }
                encode::encode(&quota)
            }
        };
        Put { key: entry.key.to_string(), value, expect: Expect::Revision(entry.mod_revision) }
    });
    Ok(puts.collect())
}
