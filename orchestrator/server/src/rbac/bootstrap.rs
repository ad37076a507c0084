//! At start: the roles and bindings that every cluster has are made, and brought up to date where they are there.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;

use catamaran_api::meta;
use catamaran_api::status::{Reason, Status};
use catamaran_store::Range;

use super::reconcile::{self, Next};
use super::{PREFIX, aggregate, policy};
use crate::bootstrap;
use crate::context::Context;
use crate::core::{Core, ServerError};
use crate::options::{DeleteOptions, WriteOptions};
use crate::query::Query;
use crate::registry::{self, Missing};
use crate::strategy::Part;
use crate::verbs::delete;
use crate::{encode, error};

/// Writes at one time: the store puts those that wait on disk together.
const AT_ONCE: usize = 32;

/// Makes what is missing. Nothing is written where nothing is.
pub(crate) async fn run(core: &Arc<Core>) -> Result<(), ServerError> {
    let failed = |object: &str| {
        let object = object.to_owned();
        move |source| ServerError::Bootstrap { object, source: Box::new(source) }
    };
    let present = present(core).await.map_err(failed("roles and bindings"))?;
    let (roles, bindings): (Vec<Value>, Vec<Value>) =
        policy::objects().into_iter().partition(|object| object["roleRef"].is_null());
    for objects in [roles, bindings] {
        let writes = objects.into_iter().map(|object| {
            let name = format!("{} {}", object["kind"].as_str().unwrap_or_default(), meta::name(&object));
            let present = &present;
            async move { ensure(core, object, present).await.map_err(failed(&name)) }
        });
        let writes: Vec<_> = writes.collect();
        stream::iter(writes).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    }
    aggregate::settle(core).await.map_err(failed("aggregated ClusterRoles"))
}

/// What there is, by key.
async fn present(core: &Core) -> Result<HashMap<String, Value>, Status> {
    let range = Range { prefix: PREFIX.to_owned(), ..Range::default() };
    let resource = catamaran_api::status::GroupResource::new(super::GROUP, "roles");
    let page = core.store.range(range).await.map_err(|error| error::from_store(error, resource, ""))?;
    let decoded = page.entries.iter().filter_map(|entry| {
        Some((entry.key.to_string(), encode::decode(&entry.value, entry.mod_revision).ok()?))
    });
    Ok(decoded.collect())
}

async fn ensure(core: &Arc<Core>, object: Value, present: &HashMap<String, Value>) -> Result<(), Status> {
    let context = bootstrap::context(core, &object)?;
    let Some(present) = present.get(&context.key()) else { return create(&context, object).await };
    match reconcile::next(present, &object) {
        Next::Nothing => Ok(()),
        Next::Recreate => {
            let options = DeleteOptions::parse(Value::Null, &Query::default())?;
            delete::delete_object(&context, &options).await?;
            create(&context, object).await
        }
        Next::Update(_) => {
            let options = WriteOptions::parse(&Query::default(), "UpdateOptions")?;
            let change = |current: Option<&Value>| {
                let current = current.cloned().unwrap_or_default();
                Ok(match reconcile::next(&current, &object) {
                    Next::Update(new) => new,
                    Next::Nothing | Next::Recreate => current,
                })
            };
            registry::update(&context, (Part::Main, Missing::Refuse), &options, change).await.map(drop)
        }
    }
}

async fn create(context: &Context, object: Value) -> Result<(), Status> {
    let options = WriteOptions::parse(&Query::default(), "CreateOptions")?;
    match registry::create(context, object, &options).await {
        Err(status) if status.reason != Some(Reason::AlreadyExists) => Err(status),
        _ => Ok(()),
    }
}
