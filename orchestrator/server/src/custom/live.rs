//! The definitions of a running server. Whoever asks takes in the changes that wait in the watch cache first, as
//! with roles: no task to keep alive, and after a restart everything is read from the store.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use catamaran_api::custom::{self, Definition, Names};
use catamaran_api::kind::{self, Resource};
use catamaran_api::meta;
use catamaran_api::status::{GroupResource, Status};
use catamaran_store::{Range, Store, StoreError};

use super::{Catalog, Custom, GROUP, PLURAL, PREFIX};
use crate::hub::{ChangeKind, Cursor, CutOff, Hubs};
use crate::{encode, error};

/// How long an answer to a write waits until the write is in force; it always is, in a healthy server.
const IN_FORCE: Duration = Duration::from_secs(2);
/// The time between two looks at the watch cache while waiting for a write.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How often definitions are listed anew when the watch cache runs ahead of the list.
const LOADS: usize = 8;

/// Definitions as of now.
pub(crate) struct Customs {
    hubs: Arc<Hubs>,
    store: Arc<dyn Store>,
    state: RwLock<Option<State>>,
    loading: Mutex<()>,
    /// Held from the choice of names until they are stored.
    pub(super) naming: Arc<Mutex<()>>,
}

struct State {
    definitions: BTreeMap<String, Entry>,
    catalog: Arc<Catalog>,
    cursor: Cursor,
}

/// One definition.
struct Entry {
    group: String,
    names: Names,
    /// What the versions were made from.
    source: Source,
    versions: Vec<Arc<Custom>>,
    /// Watches of the objects end with it.
    ended: CancellationToken,
}

/// The part of a definition that its resources depend on.
#[derive(PartialEq)]
struct Source {
    /// What watchers see: with another one they begin anew.
    content: (String, Value, Value),
    /// Generation, established, terminating.
    state: (i64, bool, bool),
}

impl Source {
    fn of(definition: &Value) -> Self {
        let names = definition["status"]["acceptedNames"].clone();
        Source {
            content: (meta::uid(definition).to_owned(), definition["spec"].clone(), names),
            state: (
                meta::generation(definition),
                custom::is_established(definition),
                custom::is_terminating(definition) || meta::is_being_deleted(definition),
            ),
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

impl Entry {
    fn new(definition: &Value, source: Source, ended: CancellationToken) -> Self {
        Entry {
            group: definition["spec"]["group"].as_str().unwrap_or_default().to_owned(),
            names: custom::names(definition),
            source,
            versions: versions(definition, &ended),
            ended,
        }
    }
}

fn versions(definition: &Value, ended: &CancellationToken) -> Vec<Arc<Custom>> {
    if !custom::is_established(definition) {
        return Vec::new();
    }
    let name = meta::name(definition);
    let read = match Definition::read(definition) {
        Ok(read) => Arc::new(read),
        Err(why) => {
            tracing::error!(name, why, "a stored definition of custom resources cannot be served");
            return Vec::new();
        }
    };
    let rows: Option<Vec<&'static Resource>> =
        read.versions.iter().map(|version| kind::intern(&read.row(version))).collect();
    let stored = read.versions.iter().position(|version| version.storage);
    let (Some(rows), Some(stored)) = (rows, stored) else {
        tracing::error!(
            name,
            "there is no room for further names of custom resources until the server restarts"
        );
        return Vec::new();
    };
    let make = |(at, resource): (usize, &&'static Resource)| {
        let (definition, ended) = (read.clone(), ended.clone());
        Arc::new(Custom { resource, stored: rows[stored], definition, at, ended })
    };
    rows.iter().enumerate().map(make).collect()
}

impl State {
    fn catch_up(&mut self) -> Result<(), CutOff> {
        let changes = self.cursor.take(usize::MAX)?;
        if changes.is_empty() {
            return Ok(());
        }
        for change in changes {
            let name = change.key.strip_prefix(PREFIX).unwrap_or_default();
            match change.object().filter(|_| change.kind != ChangeKind::Deleted) {
                Some(definition) => put(&mut self.definitions, name, definition),
                None => drop(self.definitions.remove(name)),
            }
        }
        self.catalog = catalog(&self.definitions);
        Ok(())
    }
}

fn put(definitions: &mut BTreeMap<String, Entry>, name: &str, definition: &Value) {
    let source = Source::of(definition);
    let ended = match definitions.get_mut(name) {
        Some(known) if known.source == source => return,
        // Its end is near, or a name was given: the watches go on.
        Some(known) if known.source.content == source.content => std::mem::take(&mut known.ended),
        _ => CancellationToken::new(),
    };
    definitions.insert(name.to_owned(), Entry::new(definition, source, ended));
}

fn catalog(definitions: &BTreeMap<String, Entry>) -> Arc<Catalog> {
    Arc::new(Catalog::new(definitions.values().flat_map(|entry| entry.versions.iter().cloned())))
}

impl Customs {
    pub(crate) fn new(hubs: Arc<Hubs>, store: Arc<dyn Store>) -> Self {
        Customs {
            hubs,
            store,
            state: RwLock::new(None),
            loading: Mutex::new(()),
            naming: Arc::new(Mutex::new(())),
        }
    }

    /// Every served custom resource.
    ///
    /// # Errors
    /// When definitions cannot be read from the store.
    pub(crate) async fn catalog(&self) -> Result<Arc<Catalog>, Status> {
        self.ask(|state| state.catalog.clone()).await
    }

    /// The names that the other definitions of a group hold.
    pub(super) async fn names(&self, group: &str, but: &str) -> Result<Vec<Names>, Status> {
        self.ask(|state| {
            let others =
                state.definitions.iter().filter(|(name, entry)| *name != but && entry.group == group);
            others.map(|(_, entry)| entry.names.clone()).collect()
        })
        .await
    }

    /// The version of a definition in which its objects are kept, served or not.
    pub(super) async fn stored(&self, name: &str) -> Result<Option<Arc<Custom>>, Status> {
        self.ask(|state| {
            let entry = state.definitions.get(name)?;
            entry.versions.iter().find(|custom| std::ptr::eq(custom.resource, custom.stored)).cloned()
        })
        .await
    }

    async fn ask<T>(&self, question: impl Fn(&State) -> T) -> Result<T, Status> {
        for _ in 0..LOADS {
            if let Some(answer) = self.ask_current(&question) {
                return Ok(answer);
            }
            if !self.advance() {
                let failed = |error| error::from_store(error, GroupResource::new(GROUP, PLURAL), "");
                self.load().await.map_err(failed)?;
            }
        }
        Err(Status::service_unavailable("definitions change faster than they can be read; try again"))
    }

    fn ask_current<T>(&self, question: &impl Fn(&State) -> T) -> Option<T> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.as_ref().filter(|state| !state.cursor.is_behind()).map(question)
    }

    /// Takes in what waits; false when everything must be read anew.
    fn advance(&self) -> bool {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match state.as_mut().map(State::catch_up) {
            Some(Ok(())) => true,
            Some(Err(CutOff)) => {
                *state = None;
                false
            }
            None => false,
        }
    }

    async fn load(&self) -> Result<(), StoreError> {
        let _one = self.loading.lock().await;
        if self.state.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let hub = self.hubs.of(PREFIX).await?;
        let page = self.store.range(Range { prefix: PREFIX.to_owned(), ..Range::default() }).await?;
        let mut definitions = BTreeMap::new();
        for entry in &page.entries {
            if let Ok(definition) = encode::decode(&entry.value, entry.mod_revision) {
                put(&mut definitions, entry.key.strip_prefix(PREFIX).unwrap_or_default(), &definition);
            }
        }
        let catalog = catalog(&definitions);
        // None when the cache has moved on past the list: the caller comes again.
        let state = hub.after(page.revision).map(|cursor| State { definitions, catalog, cursor });
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }

    /// Waits until everything that is written by now is in force: served, or no longer, with its watches ended.
    pub(crate) async fn in_force(&self) {
        let written = self.store.revision();
        let wait = async {
            let Ok(hub) = self.hubs.of(PREFIX).await else { return };
            while hub.progress().await.is_some_and(|seen| seen < written) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        if tokio::time::timeout(IN_FORCE, wait).await.is_err() {
            tracing::warn!("a changed definition is not yet in force: the watch cache lags behind");
        }
        if let Err(status) = self.catalog().await {
            tracing::warn!(%status, "definitions of custom resources cannot be read");
        }
    }
}
