//! The watch cache: one store watch per kind feeds a ring of recent changes that all watchers of the kind
//! share, encoded bytes included. A watcher is a position in the ring; one that falls out of it reads the store's
//! history until it has caught up, so nobody ever holds up a writer or grows a queue.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use catamaran_store::{Event, EventKind, Revision, Store, StoreError, Watch};

use crate::encode;
use crate::media;
use crate::negotiate::Media;

/// Changes that a ring holds at most.
const RING_EVENTS: usize = 8_192;
/// Bytes of values that a ring holds at most.
const RING_BYTES: usize = 8 * 1024 * 1024;
/// The time between two tries to watch a store that refuses.
const RETRY: Duration = Duration::from_millis(100);
/// Progress questions that may wait.
const QUESTIONS: usize = 64;

/// What happened to an object, before any selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

impl ChangeKind {
    /// The word in a watch event.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ChangeKind::Added => "ADDED",
            ChangeKind::Modified => "MODIFIED",
            ChangeKind::Deleted => "DELETED",
        }
    }
}

/// One change, shared by all watchers; the encoded frame and the decoded objects are made once, when first needed.
pub(crate) struct Change {
    pub(crate) kind: ChangeKind,
    pub(crate) key: Arc<str>,
    pub(crate) revision: Revision,
    /// The state after the change; of a deletion the last state.
    pub(crate) value: Bytes,
    /// The state before a modification.
    pub(crate) previous: Option<Bytes>,
    frame: OnceLock<Bytes>,
    message: OnceLock<Bytes>,
    object: OnceLock<Option<Value>>,
    previous_object: OnceLock<Option<Value>>,
}

impl Change {
    pub(crate) fn new(event: &Event) -> Self {
        let kind = match (event.kind, &event.previous) {
            (EventKind::Delete, _) => ChangeKind::Deleted,
            (EventKind::Put, None) => ChangeKind::Added,
            (EventKind::Put, Some(_)) => ChangeKind::Modified,
        };
        let previous =
            (kind == ChangeKind::Modified).then(|| event.previous.as_ref().map(|e| e.value.clone()));
        Change {
            kind,
            key: event.entry.key.clone(),
            revision: event.entry.mod_revision,
            value: event.entry.value.clone(),
            previous: previous.flatten(),
            frame: OnceLock::new(),
            message: OnceLock::new(),
            object: OnceLock::new(),
            previous_object: OnceLock::new(),
        }
    }

    /// The watch event as every watcher without a selector sees it.
    pub(crate) fn frame(&self, media: Media) -> Bytes {
        match media {
            Media::Protobuf => self.message.get_or_init(|| {
                let object = self.object().unwrap_or(&Value::Null);
                media::event(media, self.kind.as_str(), object)
            }),
            Media::Json | Media::Yaml => {
                self.frame.get_or_init(|| frame(self.kind, &self.value, self.revision))
            }
        }
        .clone()
    }

    /// The decoded state, with the revision of the change.
    pub(crate) fn object(&self) -> Option<&Value> {
        self.object.get_or_init(|| encode::decode(&self.value, self.revision).ok()).as_ref()
    }

    /// The decoded state before, also with the revision of the change.
    pub(crate) fn previous_object(&self) -> Option<&Value> {
        let decode = || encode::decode(self.previous.as_ref()?, self.revision).ok();
        self.previous_object.get_or_init(decode).as_ref()
    }
}

/// `{"type":…,"object":…}` and a newline.
pub(crate) fn frame(kind: ChangeKind, stored: &[u8], revision: Revision) -> Bytes {
    let mut out = BytesMut::with_capacity(stored.len() + 96);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_str().as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    encode::splice_into(&mut out, stored, revision);
    out.extend_from_slice(b"}\n");
    out.freeze()
}

/// The watcher fell out of the ring, or the ring lost its place in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CutOff;

/// Recent changes in order of revision.
struct Ring {
    changes: VecDeque<Arc<Change>>,
    /// Number of the first change in the ring, counted since the ring was made.
    first: u64,
    /// Every change above this revision is in the ring, or not yet.
    after: Revision,
    bytes: usize,
}

impl Ring {
    fn new(after: Revision, first: u64) -> Self {
        Ring { changes: VecDeque::new(), first, after, bytes: 0 }
    }

    fn next(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    fn push(&mut self, change: Arc<Change>) {
        self.bytes += change.value.len();
        self.changes.push_back(change);
        while self.changes.len() > RING_EVENTS || (self.bytes > RING_BYTES && self.changes.len() > 1) {
            if let Some(oldest) = self.changes.pop_front() {
                self.bytes -= oldest.value.len();
                self.after = oldest.revision;
                self.first += 1;
            }
        }
    }
}

/// One kind's ring.
pub(crate) struct Hub {
    ring: RwLock<Ring>,
    head: watch::Sender<u64>,
    questions: mpsc::Sender<oneshot::Sender<Revision>>,
}

impl Hub {
    fn ring(&self) -> std::sync::RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring_mut(&self) -> std::sync::RwLockWriteGuard<'_, Ring> {
        self.ring.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place in the ring behind `revision`; `None` when the ring does not reach back that far.
    pub(crate) fn after(self: &Arc<Self>, revision: Revision) -> Option<Cursor> {
        let head = self.head.subscribe();
        let ring = self.ring();
        if revision < ring.after {
            return None;
        }
        let passed = ring.changes.partition_point(|change| change.revision <= revision) as u64;
        Some(Cursor { hub: self.clone(), next: ring.first + passed, head })
    }

    /// The revision up to which the ring holds everything.
    pub(crate) async fn progress(&self) -> Option<Revision> {
        let (answer, got) = oneshot::channel();
        self.questions.send(answer).await.ok()?;
        got.await.ok()
    }

    fn publish(&self, events: &[Arc<Event>]) {
        let next = {
            let mut ring = self.ring_mut();
            for event in events {
                ring.push(Arc::new(Change::new(event)));
            }
            ring.next()
        };
        self.head.send_replace(next);
    }

    /// Begins anew behind `revision`: changes were missed, so every watcher is cut off.
    fn reset(&self, revision: Revision) {
        let next = {
            let mut ring = self.ring_mut();
            // A gap in the numbers puts every present cursor before the first change.
            *ring = Ring::new(revision, ring.next() + 1);
            ring.next()
        };
        self.head.send_replace(next);
    }
}

/// A watcher's place in a ring.
pub(crate) struct Cursor {
    hub: Arc<Hub>,
    next: u64,
    head: watch::Receiver<u64>,
}

impl Cursor {
    /// Up to `most` changes that are there already.
    pub(crate) fn take(&mut self, most: usize) -> Result<Vec<Arc<Change>>, CutOff> {
        let ring = self.hub.ring();
        let Some(skip) = self.next.checked_sub(ring.first) else { return Err(CutOff) };
        let skip = usize::try_from(skip).map_err(|_| CutOff)?;
        let changes: Vec<_> = ring.changes.iter().skip(skip).take(most).cloned().collect();
        self.next += changes.len() as u64;
        Ok(changes)
    }

    /// Whether there is something to take.
    pub(crate) fn is_behind(&self) -> bool {
        *self.head.borrow() > self.next
    }

    /// Waits until there is something to take. Ends with `CutOff` when the hub is gone.
    pub(crate) async fn ready(&mut self) -> Result<(), CutOff> {
        let next = self.next;
        self.head.wait_for(|head| *head > next).await.map(drop).map_err(|_| CutOff)
    }

    /// See [`Hub::progress`].
    pub(crate) async fn progress(&self) -> Option<Revision> {
        self.hub.progress().await
    }
}

/// The hubs, one per kind, made when the kind is first watched.
pub(crate) struct Hubs {
    store: Arc<dyn Store>,
    hubs: Mutex<HashMap<String, Arc<Hub>>>,
}

impl Hubs {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Hubs { store, hubs: Mutex::new(HashMap::new()) }
    }

    /// The hub of all keys that start with `prefix`.
    pub(crate) async fn of(&self, prefix: &str) -> Result<Arc<Hub>, StoreError> {
        if let Some(hub) = self.existing(prefix) {
            return Ok(hub);
        }
        let after = self.store.revision();
        let source = self.store.watch(prefix, after).await?;
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let hub =
            Arc::new(Hub { ring: RwLock::new(Ring::new(after, 0)), head: watch::Sender::new(0), questions });
        let mut hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hub) = hubs.get(prefix) {
            return Ok(hub.clone());
        }
        hubs.insert(prefix.to_owned(), hub.clone());
        let feeder = Feeder { store: self.store.clone(), prefix: prefix.to_owned(), last: after };
        tokio::spawn(feeder.run(Arc::downgrade(&hub), source, asked));
        Ok(hub)
    }

    /// The hub of a prefix, if it was made already.
    pub(crate) fn existing(&self, prefix: &str) -> Option<Arc<Hub>> {
        self.hubs.lock().unwrap_or_else(PoisonError::into_inner).get(prefix).cloned()
    }
}

/// Moves changes from the store's watch to the ring.
struct Feeder {
    store: Arc<dyn Store>,
    prefix: String,
    last: Revision,
}

impl Feeder {
    async fn run(
        mut self,
        hub: std::sync::Weak<Hub>,
        mut source: Watch,
        mut asked: mpsc::Receiver<oneshot::Sender<Revision>>,
    ) {
        loop {
            tokio::select! {
                biased;
                item = source.next() => match item {
                    Some(Ok(events)) => {
                        let Some(hub) = hub.upgrade() else { return };
                        self.last = events.last().map_or(self.last, |event| event.entry.mod_revision);
                        hub.publish(&events);
                    }
                    Some(Err(_)) => {
                        let Some(again) = self.again(&hub).await else { return };
                        source = again;
                    }
                    None => return,
                },
                question = asked.recv() => match question {
                    Some(answer) => {
                        self.last = source.progress().unwrap_or(self.last).max(self.last);
                        // The watcher may have gone meanwhile.
                        answer.send(self.last).ok();
                    }
                    None => return,
                },
            }
        }
    }

    /// Watches again after the store cut us off; what is forgotten by now cuts off our own watchers. A hub without
    /// a feeder would leave its watchers waiting for ever, so only the end of the store or of the hub ends this.
    async fn again(&mut self, hub: &std::sync::Weak<Hub>) -> Option<Watch> {
        loop {
            match self.store.watch(&self.prefix, self.last).await {
                Ok(watch) => return Some(watch),
                Err(StoreError::Closed) => return None,
                Err(StoreError::Compacted { .. }) => {
                    let now = self.store.revision();
                    hub.upgrade()?.reset(now);
                    self.last = now;
                }
                Err(error) => {
                    let error = crate::error::chain(&error);
                    tracing::warn!(error, prefix = %self.prefix, "the store's watch failed and is tried again");
                    tokio::time::sleep(RETRY).await;
                    hub.upgrade()?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use catamaran_store::{Expect, MemoryStore};

    use super::*;

    async fn hub(store: &Arc<MemoryStore>) -> Arc<Hub> {
        Hubs::new(store.clone()).of("/a/").await.unwrap()
    }

    async fn put(store: &MemoryStore, key: &str, value: &'static str) -> Revision {
        store.put(key, Bytes::from_static(value.as_bytes()), Expect::Any).await.unwrap().mod_revision
    }

    #[tokio::test]
    async fn watchers_share_frames_and_see_all_in_order() {
        let store = Arc::new(MemoryStore::new());
        let hubs = Hubs::new(store.clone());
        let hub = hubs.of("/a/").await.unwrap();
        let (mut one, mut two) = (hub.after(0).unwrap(), hub.after(0).unwrap());
        put(&store, "/a/x", r#"{"metadata":{"name":"x"}}"#).await;
        put(&store, "/b/x", r#"{"metadata":{"name":"x"}}"#).await;
        put(&store, "/a/x", r#"{"metadata":{"name":"y"}}"#).await;
        store.delete("/a/x", Expect::Any).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 3 {
            one.ready().await.unwrap();
            seen.extend(one.take(100).unwrap());
        }
        let kinds: Vec<_> = seen.iter().map(|change| (change.kind, change.revision)).collect();
        assert_eq!(kinds, [(ChangeKind::Added, 1), (ChangeKind::Modified, 3), (ChangeKind::Deleted, 4)]);
        let others = two.take(100).unwrap();
        assert_eq!(
            others[0].frame(Media::Json).as_ptr(),
            seen[0].frame(Media::Json).as_ptr(),
            "encoded once"
        );
        assert_eq!(
            seen[2].frame(Media::Json),
            "{\"type\":\"DELETED\",\"object\":{\"metadata\":{\"resourceVersion\":\"4\",\"name\":\"y\"}}}\n"
        );
        assert_eq!(hub.progress().await, Some(4));
        let mut late = hub.after(3).unwrap();
        assert_eq!(late.take(10).unwrap().len(), 1);
    }

    #[tokio::test]
    async fn progress_passes_changes_of_other_kinds() {
        let store = Arc::new(MemoryStore::new());
        let hubs = Hubs::new(store.clone());
        let hub = hubs.of("/a/").await.unwrap();
        for _ in 0..5 {
            put(&store, "/b/x", "{}").await;
        }
        assert_eq!(hub.progress().await, Some(5));
    }

    #[tokio::test]
    async fn a_slow_watcher_is_cut_off() {
        let store = Arc::new(MemoryStore::new());
        let hub = hub(&store).await;
        let mut slow = hub.after(0).unwrap();
        let event = |revision| {
            Arc::new(Event {
                kind: EventKind::Put,
                entry: catamaran_store::Entry {
                    key: "/a/x".into(),
                    value: Bytes::from_static(b"{}"),
                    create_revision: revision,
                    mod_revision: revision,
                    version: 1,
                },
                previous: None,
            })
        };
        for revision in 1..=(RING_EVENTS as u64 + 1) {
            hub.publish(&[event(revision)]);
        }
        assert_eq!(slow.take(10).err(), Some(CutOff));
        assert!(hub.after(0).is_none(), "the ring no longer reaches back to 0");
        assert_eq!(hub.after(1).unwrap().take(1).unwrap()[0].revision, 2);
    }

    #[tokio::test]
    async fn a_reset_cuts_off_everybody() {
        let store = Arc::new(MemoryStore::new());
        let hub = hub(&store).await;
        let mut cursor = hub.after(0).unwrap();
        hub.reset(10);
        assert_eq!(cursor.take(10).err(), Some(CutOff));
        assert!(hub.after(9).is_none());
        assert!(hub.after(10).unwrap().take(1).unwrap().is_empty());
    }
}
