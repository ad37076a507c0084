//! The verbs and their contract. `tests/contract.rs` states it again as a suite that every driver passes.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::watch::Watch;

/// Position in the one log of all changes. Starts at 1, grows by one with every write, never
/// reused. Fits an `i64`, as Kubernetes clients expect of a `resourceVersion`.
pub type Revision = u64;

/// One key as of some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Arc<str>,
    /// The value as written.
    pub value: Bytes,
    /// Revision of the write that created the key.
    pub create_revision: Revision,
    /// Revision of the last write.
    pub mod_revision: Revision,
    /// Number of writes since creation; 1 for a new key.
    pub version: u64,
}

/// What a write demands of the present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key must not exist.
    Absent,
    /// The key must exist with this `mod_revision`.
    Revision(Revision),
    /// Anything for `put`; `delete` demands that the key exists.
    Any,
}

/// One of several writes that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// What the present state must be.
    pub expect: Expect,
}

/// Which keys to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Keys that start with this.
    pub prefix: String,
    /// Only keys after this one, in byte order.
    pub start_after: Option<String>,
    /// At most that many entries.
    pub limit: Option<usize>,
    /// The state as of this revision; `None` is now.
    pub revision: Option<Revision>,
}

/// A list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Entries in the byte order of their keys.
    pub entries: Vec<Entry>,
    /// Revision of the snapshot.
    pub revision: Revision,
    /// How many more entries there are behind the limit.
    pub remaining: u64,
}

/// Kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A key was created or changed.
    Put,
    /// A key was deleted.
    Delete,
}

/// One change. `entry.mod_revision` is the change's revision; for a deletion the rest of `entry`
/// is the last state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The state after a put, the last state of a deleted key.
    pub entry: Entry,
    /// The state before, `None` for a creation.
    pub previous: Option<Entry>,
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state is not the expected one.
    #[error("the key is not in the expected state")]
    Conflict {
        /// What is there instead.
        current: Option<Entry>,
    },
    /// Nothing to delete.
    #[error("the key does not exist")]
    NotFound,
    /// That part of the history is forgotten.
    #[error("revision {asked} is compacted (oldest: {compacted}, current: {current})")]
    Compacted {
        /// The revision asked for.
        asked: Revision,
        /// Revisions up to this one are forgotten.
        compacted: Revision,
        /// The newest revision.
        current: Revision,
    },
    /// That revision is yet to come.
    #[error("revision {asked} is in the future (current: {current})")]
    Future {
        /// The revision asked for.
        asked: Revision,
        /// The newest revision.
        current: Revision,
    },
    /// The watcher did not keep up; its subscription has ended.
    #[error("the watcher was too slow and was cut off")]
    SlowWatcher,
    /// Another process has the store open.
    #[error("{path} is in use by another server; stop that one, or choose another data directory")]
    InUse {
        /// The lock file.
        path: String,
    },
    /// The file is not a store of ours.
    #[error("{path} is not a store of this version: {reason}")]
    Format {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk refused. Writes are refused until the store is opened again.
    #[error("{step} failed")]
    Io {
        /// What was being done.
        step: &'static str,
        /// What the system said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// Keys, bytes and revisions.
///
/// * Every write gets the next revision. It is durable and visible to readers and watchers when
///   the call returns.
/// * A watcher sees every change of its keys once, in order of revision, from the revision it
///   asked for.
/// * Reads see a consistent state of one revision.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The present state of a key.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// The state of a key as of a revision.
    ///
    /// # Errors
    /// `Compacted`, `Future`.
    async fn get_at(&self, key: &str, revision: Revision) -> Result<Option<Entry>, StoreError>;

    /// Entries of a prefix, all as of one revision.
    ///
    /// # Errors
    /// `Compacted`, `Future`.
    async fn range(&self, range: Range) -> Result<Page, StoreError>;

    /// Number of keys with a prefix, now.
    async fn count(&self, prefix: &str) -> Result<u64, StoreError>;

    /// Writes a key.
    ///
    /// # Errors
    /// `Conflict` with what is there.
    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry, StoreError>;

    /// Writes all keys or none, in this order, each with a revision of its own. Whoever sees the last one sees
    /// the others.
    ///
    /// # Errors
    /// `Conflict` with what is there instead, for the first put whose expectation does not hold.
    async fn put_all(&self, puts: Vec<Put>) -> Result<Vec<Entry>, StoreError>;

    /// Deletes a key. Returns its last state with the revision of the deletion.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` with what is there.
    async fn delete(&self, key: &str, expect: Expect) -> Result<Entry, StoreError>;

    /// Changes of a prefix with a revision above `after`.
    ///
    /// # Errors
    /// `Compacted` when changes above `after` are forgotten; `Future` when `after` is yet to come.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError>;

    /// The newest revision.
    fn revision(&self) -> Revision;

    /// Follows the newest revision. It changes after the events of that revision were handed to
    /// every watcher.
    fn revisions(&self) -> tokio::sync::watch::Receiver<Revision>;

    /// Forgets the history up to and including `revision`; present values stay.
    ///
    /// # Errors
    /// `Compacted` when that has happened already, `Future`.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// Up to where history is forgotten; 0 when nothing is.
    fn compacted(&self) -> Revision;
}

/// The end of the range of keys that start with `prefix`; `None` when there is no end.
#[must_use]
pub fn prefix_end(prefix: &str) -> Option<Vec<u8>> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}
