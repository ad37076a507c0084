//! The reference driver: the index alone. Nothing survives the process.

use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch::Receiver;

use crate::index::{Index, Planned, Reach};
use crate::store::{Entry, Expect, Page, Put, Range, Revision, Store, StoreError};
use crate::watch::Watch;

/// A store in memory with its whole history since the last compaction.
pub struct MemoryStore {
    index: Mutex<Index>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore { index: Mutex::new(Index::new([], 0, 0, usize::MAX)) }
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().expect("no verb panics while it holds the index")
    }

    fn write(
        &self,
        key: &str,
        plan: impl FnOnce(Option<&Entry>, Revision) -> Result<Planned, StoreError>,
    ) -> Result<Entry, StoreError> {
        let mut index = self.index();
        let event = plan(index.get(key), index.revision() + 1)?.event;
        index.commit(std::slice::from_ref(&event));
        Ok(event.entry.clone())
    }
}

fn whole<T>(reach: Reach<T>, index: &Index) -> Result<T, StoreError> {
    match reach {
        Reach::Here(found) => Ok(found),
        Reach::Older => {
            Err(StoreError::Compacted { asked: 0, compacted: index.compacted(), current: index.revision() })
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.index().get(key).cloned())
    }

    async fn get_at(&self, key: &str, revision: Revision) -> Result<Option<Entry>, StoreError> {
        let index = self.index();
        whole(index.get_at(key, revision)?, &index)
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        let index = self.index();
        whole(index.range(&range)?, &index)
    }

    async fn count(&self, prefix: &str) -> Result<u64, StoreError> {
        Ok(self.index().count(prefix))
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry, StoreError> {
        self.write(key, |current, revision| Index::plan_put(key, value, expect, current, revision))
    }

    async fn put_all(&self, puts: Vec<Put>) -> Result<Vec<Entry>, StoreError> {
        let mut index = self.index();
        let events = index.plan_all(&puts, |_| None, index.revision() + 1)?;
        index.commit(&events);
        Ok(events.iter().map(|event| event.entry.clone()).collect())
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<Entry, StoreError> {
        self.write(key, |current, revision| Index::plan_delete(expect, current, revision))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.index().watch(prefix, after, Vec::new())
    }

    fn revision(&self) -> Revision {
        self.index().revision()
    }

    fn revisions(&self) -> Receiver<Revision> {
        self.index().revisions()
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let mut index = self.index();
        index.check_compact(revision)?;
        index.compact(revision);
        Ok(())
    }

    fn compacted(&self) -> Revision {
        self.index().compacted()
    }
}
