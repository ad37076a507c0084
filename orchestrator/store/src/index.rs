//! Current rows and the recent log in memory. Both drivers read from here; only the place where
//! writes become durable differs.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch as revision_channel;

use crate::store::{Entry, Event, EventKind, Expect, Page, Put, Range, Revision, StoreError};
use crate::watch::{Hub, Watch};

/// The state in memory. The owner holds it behind a lock.
pub(crate) struct Index {
    current: BTreeMap<Arc<str>, Entry>,
    /// Events with a revision above `log_start`, oldest first.
    log: VecDeque<Arc<Event>>,
    log_bytes: usize,
    log_limit_bytes: usize,
    log_start: Revision,
    compacted: Revision,
    revision: Revision,
    hub: Hub,
    published: Arc<AtomicU64>,
    revisions: revision_channel::Sender<Revision>,
}

/// Answer of a read that may need older history than memory holds.
pub(crate) enum Reach<T> {
    /// Found here.
    Here(T),
    /// Older than the log in memory, not yet compacted: the driver must look in its own history.
    Older,
}

/// A write that was found admissible, with the revision it gets.
pub(crate) struct Planned {
    pub(crate) event: Arc<Event>,
}

// === impl Index ===

impl Index {
    /// An index over rows that were loaded; `revision` is the newest ever given out.
    pub(crate) fn new(
        rows: impl IntoIterator<Item = Entry>,
        revision: Revision,
        compacted: Revision,
        log_limit_bytes: usize,
    ) -> Self {
        Index {
            current: rows.into_iter().map(|entry| (entry.key.clone(), entry)).collect(),
            log: VecDeque::new(),
            log_bytes: 0,
            log_limit_bytes,
            log_start: revision,
            compacted,
            revision,
            hub: Hub::default(),
            published: Arc::new(AtomicU64::new(revision)),
            revisions: revision_channel::Sender::new(revision),
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(crate) fn revisions(&self) -> revision_channel::Receiver<Revision> {
        self.revisions.subscribe()
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.current.get(key)
    }

    pub(crate) fn count(&self, prefix: &str) -> u64 {
        self.keys(prefix, None).count() as u64
    }

    fn keys<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> impl Iterator<Item = &'a Entry> {
        let from = match after {
            Some(key) if key >= prefix => Bound::Excluded(key),
            _ => Bound::Included(prefix),
        };
        let rows = self.current.range::<str, _>((from, Bound::Unbounded));
        rows.map(|(_, entry)| entry).take_while(move |entry| entry.key.starts_with(prefix))
    }

    fn check_reach(&self, asked: Revision) -> Result<Reach<()>, StoreError> {
        if asked > self.revision {
            return Err(StoreError::Future { asked, current: self.revision });
        }
        if asked < self.compacted {
            return Err(StoreError::Compacted { asked, compacted: self.compacted, current: self.revision });
        }
        Ok(if asked < self.log_start { Reach::Older } else { Reach::Here(()) })
    }

    /// The state of a key as of a revision.
    pub(crate) fn get_at(&self, key: &str, revision: Revision) -> Result<Reach<Option<Entry>>, StoreError> {
        if let Reach::Older = self.check_reach(revision)? {
            return Ok(Reach::Older);
        }
        let first_after = self.events_after(revision).find(|event| &*event.entry.key == key);
        Ok(Reach::Here(match first_after {
            Some(event) => event.previous.clone(),
            None => self.current.get(key).cloned(),
        }))
    }

    /// Entries of a prefix as of one revision. The past is the present with the later events undone:
    /// the first event of a key after the revision tells what was there before.
    pub(crate) fn range(&self, range: &Range) -> Result<Reach<Page>, StoreError> {
        let revision = range.revision.unwrap_or(self.revision);
        if let Reach::Older = self.check_reach(revision)? {
            return Ok(Reach::Older);
        }
        let mut undone: BTreeMap<&str, Option<&Entry>> = BTreeMap::new();
        if revision < self.revision {
            for event in self.events_after(revision).filter(|e| e.entry.key.starts_with(&range.prefix)) {
                undone.entry(&event.entry.key).or_insert(event.previous.as_ref());
            }
        }
        let after = range.start_after.as_deref();
        let page = if undone.is_empty() {
            paginate(self.keys(&range.prefix, after), range.limit, revision)
        } else {
            let mut rows: BTreeMap<&str, &Entry> =
                self.keys(&range.prefix, after).map(|entry| (&*entry.key, entry)).collect();
            for (key, previous) in undone.into_iter().filter(|(key, _)| after.is_none_or(|a| *key > a)) {
                match previous {
                    Some(entry) => rows.insert(key, entry),
                    None => rows.remove(key),
                };
            }
            paginate(rows.into_values(), range.limit, revision)
        };
        Ok(Reach::Here(page))
    }

    fn events_after(&self, revision: Revision) -> impl Iterator<Item = &Arc<Event>> {
        let start = self.log.partition_point(|event| event.entry.mod_revision <= revision);
        self.log.range(start..)
    }

    /// Subscribes to a prefix. `older` is what the driver found in its own history for the part
    /// that memory no longer holds (see [`Index::watch_needs`]).
    pub(crate) fn watch(
        &mut self,
        prefix: &str,
        after: Revision,
        older: Vec<Arc<Event>>,
    ) -> Result<Watch, StoreError> {
        self.check_reach(after)?;
        let last_older = older.last().map_or(after, |event| event.entry.mod_revision).max(after);
        let mut backlog = older;
        backlog.extend(
            self.events_after(last_older).filter(|event| event.entry.key.starts_with(prefix)).cloned(),
        );
        Ok(self.hub.subscribe(prefix, backlog, self.published.clone()))
    }

    /// Whether a watch from `after` needs older events than memory holds: up to which revision.
    pub(crate) fn watch_needs(&self, after: Revision) -> Result<Option<Revision>, StoreError> {
        Ok(matches!(self.check_reach(after)?, Reach::Older).then_some(self.log_start))
    }

    /// Decides on a put against `current`, the state that the writes before it leave behind.
    pub(crate) fn plan_put(
        key: &str,
        value: bytes::Bytes,
        expect: Expect,
        current: Option<&Entry>,
        revision: Revision,
    ) -> Result<Planned, StoreError> {
        let admissible = match (expect, current) {
            (Expect::Any, _) | (Expect::Absent, None) => true,
            (Expect::Revision(wanted), Some(entry)) => entry.mod_revision == wanted,
            (Expect::Absent, Some(_)) | (Expect::Revision(_), None) => false,
        };
        if !admissible {
            return Err(StoreError::Conflict { current: current.cloned() });
        }
        let entry = Entry {
            key: current.map_or_else(|| key.into(), |entry| entry.key.clone()),
            value,
            create_revision: current.map_or(revision, |entry| entry.create_revision),
            mod_revision: revision,
            version: current.map_or(1, |entry| entry.version + 1),
        };
        Ok(Planned { event: Arc::new(Event { kind: EventKind::Put, entry, previous: current.cloned() }) })
    }

    /// Decides on puts that belong together: all are admissible, each against what the ones before it leave
    /// behind, or the first refusal is the answer. `pending` knows what is decided and not yet committed.
    pub(crate) fn plan_all<'a>(
        &'a self,
        puts: &[Put],
        pending: impl Fn(&str) -> Option<Option<&'a Entry>>,
        first: Revision,
    ) -> Result<Vec<Arc<Event>>, StoreError> {
        let mut events: Vec<Arc<Event>> = Vec::with_capacity(puts.len());
        for (put, revision) in puts.iter().zip(first..) {
            let own =
                events.iter().rev().find(|event| *event.entry.key == *put.key).map(|event| &event.entry);
            let current = own.or_else(|| pending(&put.key).unwrap_or_else(|| self.get(&put.key)));
            let planned = Self::plan_put(&put.key, put.value.clone(), put.expect, current, revision)?;
            events.push(planned.event);
        }
        Ok(events)
    }

    /// Decides on a deletion against `current`.
    pub(crate) fn plan_delete(
        expect: Expect,
        current: Option<&Entry>,
        revision: Revision,
    ) -> Result<Planned, StoreError> {
        let entry = match (expect, current) {
            (Expect::Absent, Some(_)) => return Err(StoreError::Conflict { current: current.cloned() }),
            (_, None) => return Err(StoreError::NotFound),
            (Expect::Revision(wanted), Some(entry)) if entry.mod_revision != wanted => {
                return Err(StoreError::Conflict { current: current.cloned() });
            }
            (_, Some(entry)) => entry,
        };
        let last = Entry { mod_revision: revision, ..entry.clone() };
        let event = Event { kind: EventKind::Delete, entry: last, previous: Some(entry.clone()) };
        Ok(Planned { event: Arc::new(event) })
    }

    /// Makes the events of one commit visible to readers and watchers.
    pub(crate) fn commit(&mut self, events: &[Arc<Event>]) {
        for event in events {
            let entry = &event.entry;
            match event.kind {
                EventKind::Put => {
                    self.current.insert(entry.key.clone(), entry.clone());
                }
                EventKind::Delete => {
                    self.current.remove(&*entry.key);
                }
            }
            self.revision = entry.mod_revision;
            self.log_bytes += event_bytes(event);
            self.log.push_back(event.clone());
        }
        while self.log_bytes > self.log_limit_bytes {
            let Some(oldest) = self.log.pop_front() else { break };
            self.log_start = oldest.entry.mod_revision;
            self.log_bytes -= event_bytes(&oldest);
        }
        self.hub.publish(events);
        self.published.store(self.revision, Ordering::Release);
        self.revisions.send_replace(self.revision);
    }

    /// Checks that history up to `revision` may be forgotten.
    pub(crate) fn check_compact(&self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.revision {
            return Err(StoreError::Future { asked: revision, current: self.revision });
        }
        if revision <= self.compacted {
            let (compacted, current) = (self.compacted, self.revision);
            return Err(StoreError::Compacted { asked: revision, compacted, current });
        }
        Ok(())
    }

    /// Forgets the log up to and including `revision`.
    pub(crate) fn compact(&mut self, revision: Revision) {
        self.compacted = revision;
        while self.log.front().is_some_and(|event| event.entry.mod_revision <= revision) {
            if let Some(event) = self.log.pop_front() {
                self.log_bytes -= event_bytes(&event);
            }
        }
        self.log_start = self.log_start.max(revision);
    }
}

fn event_bytes(event: &Event) -> usize {
    const OVERHEAD: usize = 200;
    event.entry.value.len() + event.previous.as_ref().map_or(0, |entry| entry.value.len()) + OVERHEAD
}

/// Takes the first `limit` rows and counts the rest.
pub(crate) fn paginate<'a>(
    mut rows: impl Iterator<Item = &'a Entry>,
    limit: Option<usize>,
    revision: Revision,
) -> Page {
    let entries: Vec<_> = rows.by_ref().take(limit.unwrap_or(usize::MAX)).cloned().collect();
    Page { entries, revision, remaining: rows.count() as u64 }
}
