//! What is in force in a running server. Whoever asks takes in the changes that wait in the watch cache first, as
//! with roles: there is no task to keep alive, and no request pays for a list.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use catamaran_api::status::{GroupResource, Status};
use catamaran_store::{Range, Store, StoreError};

use super::schema::Table;
use super::{GROUP, PREFIX};
use crate::hub::{ChangeKind, Cursor, CutOff, Hubs};
use crate::{encode, error};

/// How long an answer to a write waits until the write is in force.
const IN_FORCE: Duration = Duration::from_secs(2);
/// The time between two looks at the watch cache while waiting for a write.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How often the objects are listed anew when the watch cache runs ahead of the list.
const LOADS: usize = 8;
/// How old a count of objects may be.
const COUNT_AGE: Duration = Duration::from_secs(10);

/// Schemas and levels as of now.
pub(crate) struct Flow {
    hubs: Arc<Hubs>,
    store: Arc<dyn Store>,
    /// Seats of the whole server.
    total: u32,
    state: RwLock<Option<State>>,
    loading: Mutex<()>,
    hasher: RandomState,
    counts: RwLock<HashMap<String, (Instant, u64)>>,
    press: Notify,
}

struct State {
    objects: BTreeMap<Arc<str>, Value>,
    table: Arc<Table>,
    cursor: Cursor,
}

impl State {
    fn catch_up(&mut self, total: u32) -> Result<(), CutOff> {
        for change in self.cursor.take(usize::MAX)? {
            match change.object() {
                Some(object) if change.kind != ChangeKind::Deleted => {
                    self.objects.insert(change.key.clone(), object.clone());
                }
                _ => drop(self.objects.remove(&change.key)),
            }
        }
        self.table = Arc::new(Table::build(self.objects.values(), Some(&self.table), total));
        Ok(())
    }
}

impl Flow {
    pub(crate) fn new(hubs: Arc<Hubs>, store: Arc<dyn Store>, total: u32) -> Self {
        Flow {
            hubs,
            store,
            total,
            state: RwLock::new(None),
            loading: Mutex::new(()),
            hasher: RandomState::new(),
            counts: RwLock::default(),
            press: Notify::new(),
        }
    }

    /// What is in force now.
    ///
    /// # Errors
    /// When the objects cannot be read from the store.
    pub(super) async fn table(&self) -> Result<Arc<Table>, Status> {
        for _ in 0..LOADS {
            if let Some(table) = self.current() {
                return Ok(table);
            }
            if !self.advance() {
                let failed = |error| error::from_store(error, GroupResource::new(GROUP, "flowschemas"), "");
                self.load().await.map_err(failed)?;
            }
        }
        Err(Status::service_unavailable("flow schemas change faster than they can be read; try again"))
    }

    fn current(&self) -> Option<Arc<Table>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.as_ref().filter(|state| !state.cursor.is_behind()).map(|state| state.table.clone())
    }

    /// Takes in what changed; false when everything has to be read anew.
    fn advance(&self) -> bool {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match state.as_mut().map(|state| state.catch_up(self.total)) {
            Some(Ok(())) => true,
            Some(Err(CutOff)) => {
                // The table stays behind for its levels; the cursor is what is lost.
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
        let objects: BTreeMap<Arc<str>, Value> = page
            .entries
            .iter()
            .filter_map(|entry| {
                Some((entry.key.clone(), encode::decode(&entry.value, entry.mod_revision).ok()?))
            })
            .collect();
        let table = Arc::new(Table::build(objects.values(), None, self.total));
        // None when the cache has moved on past the list: the caller comes again.
        let state = hub.after(page.revision).map(|cursor| State { objects, table, cursor });
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }

    /// Waits until everything that is written by now is in the watch cache, where the next request finds it.
    pub(super) async fn in_force(&self) {
        let written = self.store.revision();
        let wait = async {
            let Ok(hub) = self.hubs.of(PREFIX).await else { return };
            while hub.progress().await.is_some_and(|seen| seen < written) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        if tokio::time::timeout(IN_FORCE, wait).await.is_err() {
            tracing::warn!("a changed flow schema or priority level is not yet in force");
        }
    }

    /// A number for a flow, which nobody outside can choose.
    pub(super) fn hash(&self, schema: &str, distinguisher: &str) -> u64 {
        self.hasher.hash_one((schema, distinguisher))
    }

    /// Somebody has to wait.
    pub(super) fn press(&self) {
        self.press.notify_one();
    }

    /// Waits until somebody has to wait; from then on it counts how many seats are needed.
    pub(super) async fn pressed(&self) {
        self.press.notified().await;
        if let Some(table) = self.known() {
            for (_, level, _) in table.levels() {
                level.take_peak();
            }
        }
    }

    /// Lends idle seats to levels that need more; whether all is quiet and everybody has his own again.
    pub(super) fn adjust(&self) -> bool {
        self.known().is_none_or(|table| table.adjust())
    }

    /// What is in force as far as it is known without a look at the store.
    pub(super) fn known(&self) -> Option<Arc<Table>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.as_ref().map(|state| state.table.clone())
    }

    /// About how many objects there are below a prefix.
    pub(super) async fn count(&self, prefix: String) -> u64 {
        let known = self.counts.read().unwrap_or_else(PoisonError::into_inner).get(&prefix).copied();
        if let Some((_, count)) = known.filter(|(when, _)| when.elapsed() < COUNT_AGE) {
            return count;
        }
        let count = self.store.count(&prefix).await.unwrap_or_default();
        self.counts.write().unwrap_or_else(PoisonError::into_inner).insert(prefix, (Instant::now(), count));
        count
    }
}
