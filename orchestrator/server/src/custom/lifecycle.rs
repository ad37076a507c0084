//! The end of definitions: their objects go first, then they do. And names that became free go to those who wait.
//!
//! One task for all definitions, woken by their changes; it holds nothing that the store does not.

use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::Value;

use catamaran_api::custom::{CLEANUP_FINALIZER, condition, is_terminating, set_condition};
use catamaran_api::meta;
use catamaran_api::status::{GroupResource, Reason, Status};
use catamaran_store::Range;

use super::{Custom, GROUP, PLURAL, PREFIX};
use crate::authenticate::UserInfo;
use crate::bootstrap;
use crate::context::{Asked, Context};
use crate::core::Core;
use crate::hub::Cursor;
use crate::options::{DeleteOptions, WriteOptions};
use crate::query::Query;
use crate::registry::{self, Missing};
use crate::route::{ResourceRequest, Verb};
use crate::strategy::Part;
use crate::verbs::delete;
use crate::{encode, error};

/// The time between two looks at objects that wait for their finalizers.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The time after which everything is looked at again although nothing happened.
const LONGEST: Duration = Duration::from_secs(600);

/// Starts the task; it ends with the server.
pub(crate) fn start(core: &Arc<Core>) {
    tokio::spawn(run(Arc::downgrade(core)));
}

async fn run(core: Weak<Core>) {
    loop {
        let Some(strong) = core.upgrade() else { return };
        let mut stopping = strong.stopping.subscribe();
        let (cursor, pause) = match pass(&strong).await {
            Ok((cursor, Remains::Nothing)) => (cursor, LONGEST),
            Ok((cursor, Remains::Something)) => (cursor, LOOK_AGAIN),
            Err(status) => {
                tracing::warn!(%status, "definitions of custom resources cannot be looked after; tried again");
                (None, LOOK_AGAIN)
            }
        };
        drop(strong);
        let changed = async {
            match cursor {
                Some(mut cursor) => drop(cursor.ready().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep(pause) => {}
            // True when the server stops, an error when it is gone.
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// Whether something has to be looked at again.
#[derive(Clone, Copy, PartialEq)]
enum Remains {
    Nothing,
    Something,
}

/// Looks at every definition once. The cursor stands where the look began.
async fn pass(core: &Arc<Core>) -> Result<(Option<Cursor>, Remains), Status> {
    let failed = |error| error::from_store(error, GroupResource::new(GROUP, PLURAL), "");
    let hub = core.hubs.of(PREFIX).await.map_err(failed)?;
    let page =
        core.store.range(Range { prefix: PREFIX.to_owned(), ..Range::default() }).await.map_err(failed)?;
    let mut remains = Remains::Nothing;
    for entry in &page.entries {
        let definition = encode::decode(&entry.value, entry.mod_revision).map_err(Status::internal_error)?;
        if meta::is_being_deleted(&definition) {
            if meta::finalizers(&definition).any(|finalizer| finalizer == CLEANUP_FINALIZER)
                && end(core, &definition).await? == Remains::Something
            {
                remains = Remains::Something;
            }
        } else if condition(&definition, "NamesAccepted").is_none_or(|found| found["status"] != "True") {
            // Writing it is enough: its names are judged again on the way, and nothing is stored if they stay.
            change(core, &definition, Part::Main, |_| {}).await?;
        }
    }
    Ok((hub.after(page.revision), remains))
}

/// Deletes the objects of a definition; with the last of them the definition itself goes.
async fn end(core: &Arc<Core>, definition: &Value) -> Result<Remains, Status> {
    let now = jiff::Timestamp::now();
    if !is_terminating(definition) {
        let words = ("InstanceDeletionInProgress", "CustomResource deletion is in progress");
        let mark = |new: &mut Value| set_condition(new, ("Terminating", "True"), words, now);
        change(core, definition, Part::Status, mark).await?;
        core.customs.in_force().await;
    }
    if let Some(custom) = core.customs.stored(meta::name(definition)).await?
        && empty(core, &custom).await? == Remains::Something
    {
        return Ok(Remains::Something);
    }
    let release = |new: &mut Value| meta::remove_finalizer(new, CLEANUP_FINALIZER);
    change(core, definition, Part::Main, release).await?;
    core.customs.in_force().await;
    Ok(Remains::Nothing)
}

/// Deletes what there is, and says whether some of it waits for its finalizers.
async fn empty(core: &Arc<Core>, custom: &Arc<Custom>) -> Result<Remains, Status> {
    let prefix = crate::keys::all(custom.stored);
    let failed = |error| error::from_store(error, GroupResource::new(GROUP, PLURAL), "");
    let found =
        core.store.range(Range { prefix: prefix.clone(), ..Range::default() }).await.map_err(failed)?;
    let options = DeleteOptions::parse(Value::Null, &Query::default())?;
    let mut remains = Remains::Nothing;
    for entry in &found.entries {
        let path = entry.key.strip_prefix(&prefix).unwrap_or_default();
        let place = match path.split_once('/') {
            Some((namespace, name)) => (Some(namespace), Some(name)),
            None => (None, Some(path)),
        };
        match delete::delete_object(&objects(core, custom, place), &options).await {
            Ok(delete::Deleted::Gone(..)) => {}
            Ok(delete::Deleted::Waits(..)) => remains = Remains::Something,
            Err(status) if status.reason == Some(Reason::NotFound) => {}
            Err(status) => return Err(status),
        }
    }
    Ok(remains)
}

/// The server itself dealing with objects of a definition.
fn objects(
    core: &Arc<Core>,
    custom: &Arc<Custom>,
    (namespace, name): (Option<&str>, Option<&str>),
) -> Context {
    let resource = custom.stored;
    let request = ResourceRequest {
        verb: Verb::Delete,
        group: resource.group.to_owned(),
        version: resource.version.to_owned(),
        namespace: namespace.map(str::to_owned),
        resource: resource.plural.to_owned(),
        name: name.map(str::to_owned),
        subresource: None,
        rest: String::new(),
    };
    let asked = Asked {
        query: Query::default(),
        headers: http::HeaderMap::new(),
        user: UserInfo::server(),
        now: jiff::Timestamp::now(),
    };
    Context::new(core.clone(), request, resource, asked).with_custom(Some(custom.clone()))
}

/// Changes a definition; one that is gone meanwhile needs no change.
async fn change(
    core: &Arc<Core>,
    definition: &Value,
    part: Part,
    edit: impl Fn(&mut Value),
) -> Result<(), Status> {
    let context = bootstrap::context(core, definition)?;
    let options = WriteOptions::parse(&Query::default(), "UpdateOptions")?;
    let uid = meta::uid(definition).to_owned();
    let changed = registry::update(&context, (part, Missing::Refuse), &options, |current| {
        let mut new = current.cloned().unwrap_or_default();
        if meta::uid(&new) == uid {
            edit(&mut new);
        }
        Ok(new)
    });
    match changed.await {
        Err(status) if status.reason == Some(Reason::NotFound) => Ok(()),
        done => done.map(drop),
    }
}
