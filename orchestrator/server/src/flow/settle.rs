//! What the server itself writes: the objects of every cluster at start, those that must not be missing, and in the
//! status of each FlowSchema whether its level exists.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde_json::{Value, json};

use catamaran_api::status::{GroupResource, Reason, Status};
use catamaran_api::{meta, time};
use catamaran_store::Range;

use super::{GROUP, PREFIX, defaults, level_of};
use crate::context::Context;
use crate::core::{Core, ServerError};
use crate::options::WriteOptions;
use crate::query::Query;
use crate::registry::{self, Missing};
use crate::strategy::Part;
use crate::{bootstrap, encode, error};

/// Writes at one time: the store puts those that wait on disk together.
const AT_ONCE: usize = 32;

/// At start: makes what is missing and brings up to date what nobody has taken into his own hands.
pub(crate) async fn bootstrap(core: &Arc<Core>) -> Result<(), ServerError> {
    // Levels first: a schema says whether its level exists.
    let (levels, schemas): (Vec<Value>, Vec<Value>) =
        defaults::objects().into_iter().partition(|object| object["kind"] != "FlowSchema");
    for objects in [levels, schemas] {
        let writes: Vec<_> = objects
            .into_iter()
            .map(|object| async move {
                let name = format!("{} {}", object["kind"].as_str().unwrap_or_default(), meta::name(&object));
                let failed = |source| ServerError::Bootstrap { object: name, source: Box::new(source) };
                ensure(core, object).await.map_err(failed)
            })
            .collect();
        stream::iter(writes).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        core.flow.in_force().await;
    }
    let failed = |source| ServerError::Bootstrap { object: "flow schemas".into(), source: Box::new(source) };
    settle(core).await.map_err(failed)
}

/// After a change: what must be there is there again, the change is in force, and each schema says whether its
/// level exists.
pub(crate) async fn settle(core: &Arc<Core>) -> Result<(), Status> {
    for object in defaults::mandatory() {
        let context = bootstrap::context(core, &object)?;
        if registry::load(&context).await?.is_none() {
            create(&context, object).await?;
        }
    }
    core.flow.in_force().await;
    let range = Range { prefix: format!("{PREFIX}flowschemas/"), ..Range::default() };
    let resource = GroupResource::new(GROUP, "flowschemas");
    let page = core.store.range(range).await.map_err(|error| error::from_store(error, resource, ""))?;
    let table = core.flow.table().await?;
    let schemas =
        page.entries.iter().filter_map(|entry| encode::decode(&entry.value, entry.mod_revision).ok());
    let writes: Vec<_> = schemas
        .filter(|schema| said(schema) != Some(!table.has_level(level_of(schema))))
        .map(|schema| async move { say(core, &schema).await })
        .collect();
    stream::iter(writes).buffer_unordered(AT_ONCE).try_collect::<()>().await
}

/// What the condition `Dangling` says.
pub(super) fn said(schema: &Value) -> Option<bool> {
    let conditions = schema["status"]["conditions"].as_array()?;
    let dangling = conditions.iter().find(|condition| condition["type"] == "Dangling")?;
    Some(dangling["status"] == "True")
}

/// Sets the condition `Dangling`.
pub(super) fn set(schema: &mut Value, (level, dangling): (&str, bool), now: Timestamp) {
    let (status, reason, fact) = match dangling {
        true => ("True", "NotFound", "but there is no such object"),
        false => ("False", "Found", "and it exists"),
    };
    let about = "This FlowSchema references the PriorityLevelConfiguration object named";
    let condition = json!({
        "type": "Dangling", "status": status, "reason": reason, "message": format!("{about} {level:?} {fact}"),
        "lastTransitionTime": time::format(now),
    });
    let mut conditions = schema["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.retain(|other| other["type"] != "Dangling");
    conditions.push(condition);
    schema["status"] = json!({"conditions": conditions});
}

/// A write of the status as it is: admission sets the condition.
async fn say(core: &Arc<Core>, schema: &Value) -> Result<(), Status> {
    let context = bootstrap::context(core, schema)?;
    let change = |current: Option<&Value>| Ok(current.cloned().unwrap_or_default());
    let options = WriteOptions::parse(&Query::default(), "UpdateOptions")?;
    match registry::update(&context, (Part::Status, Missing::Refuse), &options, change).await {
        // Somebody deleted it meanwhile, and settles what follows from that.
        Err(status) if status.reason != Some(Reason::NotFound) => Err(status),
        _ => Ok(()),
    }
}

async fn ensure(core: &Arc<Core>, object: Value) -> Result<(), Status> {
    let context = bootstrap::context(core, &object)?;
    let Some(entry) = registry::load(&context).await? else { return create(&context, object).await };
    let present = encode::decode(&entry.value, entry.mod_revision).map_err(Status::internal_error)?;
    if !follows(&present) || present["spec"] == object["spec"] {
        return Ok(());
    }
    let change = |current: Option<&Value>| {
        let mut new = current.cloned().unwrap_or_default();
        new["spec"] = object["spec"].clone();
        Ok(new)
    };
    let options = WriteOptions::parse(&Query::default(), "UpdateOptions")?;
    registry::update(&context, (Part::Main, Missing::Refuse), &options, change).await.map(drop)
}

/// Whether an object is to be as it is by default: it says so, or nobody has changed it.
fn follows(present: &Value) -> bool {
    if defaults::is_mandatory(meta::name(present)) {
        return false;
    }
    match meta::annotation(present, defaults::AUTOUPDATE) {
        Some(said) => said == "true",
        None => meta::generation(present) == 1,
    }
}

async fn create(context: &Context, object: Value) -> Result<(), Status> {
    let options = WriteOptions::parse(&Query::default(), "CreateOptions")?;
    match registry::create(context, object, &options).await {
        Err(status) if status.reason != Some(Reason::AlreadyExists) => Err(status),
        _ => Ok(()),
    }
}
