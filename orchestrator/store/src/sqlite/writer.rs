//! The one writer: takes what waits, decides on each write in order, commits them together, then
//! makes them visible and answers.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, Statement, params};
use tokio::sync::{mpsc, oneshot, watch};

use super::io;
use crate::index::{Index, Planned};
use crate::store::{Entry, Event, EventKind, Expect, Put, Revision, StoreError};

/// Writes in one transaction at the most.
const BATCH: usize = 1000;
/// What a row takes in the write-ahead log besides its value: mostly its share of a page.
const ROW_BYTES: usize = 4096;

const INSERT: &str = "INSERT INTO log (revision, key, value, create_revision, version, previous)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

/// One change that a caller wants.
pub(super) enum Write {
    Put { key: String, value: Bytes, expect: Expect },
    Delete { key: String, expect: Expect },
}

pub(super) enum Request {
    Write { write: Write, reply: oneshot::Sender<Result<Entry, StoreError>> },
    PutAll { puts: Vec<Put>, reply: oneshot::Sender<Result<Vec<Entry>, StoreError>> },
    Compact { after: Revision, until: Revision, reply: oneshot::Sender<Result<(), StoreError>> },
}

pub(super) struct Writer {
    connection: Connection,
    index: Arc<RwLock<Index>>,
    checkpoints: Checkpoints,
    failed: watch::Sender<bool>,
}

/// Wakes the checkpointer whenever so much was written.
pub(super) struct Checkpoints {
    wake: std::sync::mpsc::SyncSender<()>,
    every_bytes: usize,
    written: usize,
}

/// The writes of one transaction that were found admissible, with those who wait for them.
#[derive(Default)]
struct Batch {
    events: Vec<Arc<Event>>,
    waiting: Vec<Waiting>,
    /// What the writes of this batch leave behind, by key.
    pending: HashMap<Arc<str>, Option<Entry>>,
}

/// Who waits for the next event of a batch, or for so many of them.
enum Waiting {
    One(oneshot::Sender<Result<Entry, StoreError>>),
    Several(usize, oneshot::Sender<Result<Vec<Entry>, StoreError>>),
}

// === impl Waiting ===

impl Waiting {
    /// Answers with the entries of the events that are due to it. Whoever asked may be gone; the writes stand
    /// all the same.
    fn answer(self, events: &mut std::slice::Iter<'_, Arc<Event>>) {
        match self {
            Waiting::One(reply) => {
                let entry = events.next().map(|event| event.entry.clone());
                let _ = reply.send(entry.ok_or(StoreError::Closed));
            }
            Waiting::Several(count, reply) => {
                let _ = reply.send(Ok(events.by_ref().take(count).map(|e| e.entry.clone()).collect()));
            }
        }
    }

    fn fail(self, error: &StoreError) {
        match self {
            Waiting::One(reply) => drop(reply.send(Err(clone_io(error)))),
            Waiting::Several(_, reply) => drop(reply.send(Err(clone_io(error)))),
        }
    }
}

// === impl Batch ===

impl Batch {
    fn push(&mut self, event: Arc<Event>) {
        let left = (event.kind == EventKind::Put).then(|| event.entry.clone());
        self.pending.insert(event.entry.key.clone(), left);
        self.events.push(event);
    }
}

// === impl Checkpoints ===

impl Checkpoints {
    pub(super) fn new(wake: std::sync::mpsc::SyncSender<()>, every_bytes: usize) -> Self {
        Checkpoints { wake, every_bytes, written: 0 }
    }

    fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written > self.every_bytes {
            self.written = 0;
            // Full means that a checkpoint is due already.
            let _ = self.wake.try_send(());
        }
    }
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(
        connection: Connection,
        index: Arc<RwLock<Index>>,
        checkpoints: Checkpoints,
        failed: watch::Sender<bool>,
    ) -> Self {
        Writer { connection, index, checkpoints, failed }
    }

    /// Serves requests until every sender is gone.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut requests = Vec::with_capacity(BATCH);
        while let Some(first) = queue.blocking_recv() {
            requests.push(first);
            while requests.len() < BATCH
                && let Ok(more) = queue.try_recv()
            {
                requests.push(more);
            }
            self.serve(requests.drain(..));
        }
    }

    fn serve(&mut self, requests: impl Iterator<Item = Request>) {
        let mut batch = Batch::default();
        for request in requests {
            match request {
                Request::Write { write, reply } => self.plan(&mut batch, write, reply),
                Request::PutAll { puts, reply } => self.plan_all(&mut batch, &puts, reply),
                Request::Compact { after, until, reply } => {
                    // Whoever asked may be gone; the compaction stands all the same.
                    let _ = reply.send(self.compact(after, until));
                }
            }
        }
        if !batch.events.is_empty() {
            self.commit(batch);
        }
    }

    /// Decides on one write against the committed state and the writes before it in the batch.
    fn plan(&self, batch: &mut Batch, write: Write, reply: oneshot::Sender<Result<Entry, StoreError>>) {
        let index = self.index.read().expect("no verb panics while it holds the index");
        let revision = index.revision() + batch.events.len() as Revision + 1;
        let key = match &write {
            Write::Put { key, .. } | Write::Delete { key, .. } => key.as_str(),
        };
        let current = match batch.pending.get(key) {
            Some(pending) => pending.as_ref(),
            None => index.get(key),
        };
        let planned = match &write {
            Write::Put { value, expect, .. } => {
                Index::plan_put(key, value.clone(), *expect, current, revision)
            }
            Write::Delete { expect, .. } => Index::plan_delete(*expect, current, revision),
        };
        match planned {
            Ok(Planned { event }) => {
                batch.push(event);
                batch.waiting.push(Waiting::One(reply));
            }
            Err(refused) => {
                let _ = reply.send(Err(refused));
            }
        }
    }

    /// Decides on puts that are all written or not at all.
    fn plan_all(
        &self,
        batch: &mut Batch,
        puts: &[Put],
        reply: oneshot::Sender<Result<Vec<Entry>, StoreError>>,
    ) {
        let index = self.index.read().expect("no verb panics while it holds the index");
        let first = index.revision() + batch.events.len() as Revision + 1;
        let pending = |key: &str| batch.pending.get(key).map(Option::as_ref);
        match index.plan_all(puts, pending, first) {
            Ok(events) if events.is_empty() => drop(reply.send(Ok(Vec::new()))),
            Ok(events) => {
                batch.waiting.push(Waiting::Several(events.len(), reply));
                events.into_iter().for_each(|event| batch.push(event));
            }
            Err(refused) => drop(reply.send(Err(refused))),
        }
    }

    fn commit(&mut self, batch: Batch) {
        if let Err(error) = self.transact(|connection| insert(connection, &batch.events)) {
            batch.waiting.into_iter().for_each(|waiting| waiting.fail(&error));
            return;
        }
        self.index.write().expect("no verb panics while it holds the index").commit(&batch.events);
        let mut events = batch.events.iter();
        batch.waiting.into_iter().for_each(|waiting| waiting.answer(&mut events));
        self.checkpoints.wrote(batch.events.iter().map(|event| event.entry.value.len() + ROW_BYTES).sum());
    }

    /// Deletes the states that were superseded, and the deletions made, in `after < revision <= until`.
    fn compact(&self, after: Revision, until: Revision) -> Result<(), StoreError> {
        self.transact(|connection| {
            connection.execute(
                "DELETE FROM log WHERE revision IN
                 (SELECT previous FROM log WHERE revision > ?1 AND revision <= ?2 AND previous > 0)",
                params![after, until],
            )?;
            connection.execute(
                "DELETE FROM log WHERE revision > ?1 AND revision <= ?2 AND value IS NULL",
                params![after, until],
            )?;
            connection.execute("UPDATE compaction SET revision = ?1", params![until])?;
            Ok(())
        })
    }

    fn transact(&self, body: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<(), StoreError> {
        if *self.failed.borrow() {
            return Err(StoreError::Closed);
        }
        let outcome = self
            .connection
            .execute_batch("BEGIN IMMEDIATE")
            .and_then(|()| body(&self.connection))
            .and_then(|()| self.connection.execute_batch("COMMIT"));
        let Err(error) = outcome else { return Ok(()) };
        let rolled_back =
            self.connection.is_autocommit() || self.connection.execute_batch("ROLLBACK").is_ok();
        if rolled_back && error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
            // A full disk took nothing; once there is room again writes go on.
            return Err(io("write: the disk is full; it", error));
        }
        // After a failed fsync nobody knows what is on disk. Only opening the file again tells.
        self.failed.send_replace(true);
        Err(io("write to the database", error))
    }
}

fn insert(connection: &Connection, events: &[Arc<Event>]) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(INSERT)?;
    events.iter().try_for_each(|event| insert_one(&mut statement, event))
}

fn insert_one(statement: &mut Statement<'_>, event: &Event) -> rusqlite::Result<()> {
    let entry = &event.entry;
    let value = (event.kind == EventKind::Put).then_some(&entry.value[..]);
    let previous = event.previous.as_ref().map_or(0, |entry| entry.mod_revision);
    statement
        .execute(params![
            entry.mod_revision,
            &*entry.key,
            value,
            entry.create_revision,
            entry.version,
            previous
        ])
        .map(drop)
}

fn clone_io(error: &StoreError) -> StoreError {
    match error {
        StoreError::Io { step, source } => StoreError::Io { step, source: source.clone() },
        _ => StoreError::Closed,
    }
}
