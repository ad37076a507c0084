//! The default driver. One writer thread groups the waiting writes of all callers into one
//! transaction with one `fdatasync`; readers use the index in memory; history older than memory
//! holds comes from the log table.

mod checkpoint;
mod history;
mod schema;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch::Receiver;
use tokio::sync::{mpsc, oneshot};

use self::history::History;
use self::writer::{Request, Write};
use crate::index::{Index, Reach};
use crate::store::{Entry, Expect, Page, Put, Range, Revision, Store, StoreError};
use crate::watch::Watch;

/// Log rows that one compaction transaction looks at: short enough not to hold up writers.
const COMPACT_SLICE: u64 = 1000;
/// Writes that may wait for the writer before callers are held back.
const QUEUE: usize = 4096;

/// How to open the store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database file; its directory must exist.
    pub path: PathBuf,
    /// Recent changes kept in memory, bytes of keys and values; older ones are read from the file.
    pub memory_log_bytes: usize,
    /// Bytes written after which the write-ahead log is copied into the database file.
    pub checkpoint_bytes: usize,
    /// A registered SQLite VFS to use instead of the system's (tests cut the power with it).
    pub vfs: Option<String>,
}

impl Options {
    /// The defaults for a file: 16 MiB of recent changes in memory, a checkpoint every 8 MiB.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Options { path: path.into(), memory_log_bytes: 16 << 20, checkpoint_bytes: 8 << 20, vfs: None }
    }
}

/// A store in one SQLite file (WAL, `synchronous=FULL`).
pub struct SqliteStore {
    index: Arc<RwLock<Index>>,
    history: Arc<History>,
    requests: Option<mpsc::Sender<Request>>,
    threads: Vec<JoinHandle<()>>,
    failed: Receiver<bool>,
    /// Held for as long as the store is open; the kernel lets go of it when the process ends.
    _lock: File,
}

impl SqliteStore {
    /// Opens or creates the store. Blocks while all present rows are read into memory.
    ///
    /// # Errors
    /// `InUse` when another process has it open, `Format` when the file is something else, `Io`.
    pub fn open(options: Options) -> Result<Self, StoreError> {
        let lock = lock(&options.path)?;
        let connection = schema::open(&options)?;
        let loaded = schema::load(&connection)?;
        let index = Index::new(loaded.rows, loaded.revision, loaded.compacted, options.memory_log_bytes);
        let index = Arc::new(RwLock::new(index));
        let history = Arc::new(History::open(&options)?);
        let (requests, queue) = mpsc::channel(QUEUE);
        let (checkpoints, due) = std::sync::mpsc::sync_channel(1);
        let (fail, failed) = tokio::sync::watch::channel(false);
        let checkpoints = writer::Checkpoints::new(checkpoints, options.checkpoint_bytes);
        let writer = writer::Writer::new(connection, index.clone(), checkpoints, fail);
        let threads =
            vec![spawn("store-writer", move || writer.run(queue))?, checkpoint::spawn(&options, due)?];
        Ok(SqliteStore { index, history, requests: Some(requests), threads, failed, _lock: lock })
    }

    /// Returns once the disk has refused a write in a way that leaves its contents unknown. All
    /// later writes are refused; the process should end and open the store again.
    pub async fn failed(&self) {
        let mut failed = self.failed.clone();
        if failed.wait_for(|failed| *failed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().expect("no verb panics while it holds the index")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().expect("no verb panics while it holds the index")
    }

    async fn submit<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or(StoreError::Closed)?;
        requests.send(request(reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    async fn read_history<T: Send + 'static>(
        &self,
        read: impl FnOnce(&History) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let history = self.history.clone();
        tokio::task::spawn_blocking(move || read(&history)).await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.requests = None;
        for thread in self.threads.drain(..) {
            // A panic of the thread was printed when it happened; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let path = path.with_extension("lock");
    let file = File::create(&path).map_err(|e| io("open the lock file", e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.display().to_string() }),
        Err(std::fs::TryLockError::Error(error)) => Err(io("lock the lock file", error)),
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|e| io("start a thread", e))
}

fn io(step: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Io { step, source: Arc::new(source) }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.read().get(key).cloned())
    }

    async fn get_at(&self, key: &str, revision: Revision) -> Result<Option<Entry>, StoreError> {
        let reach = self.read().get_at(key, revision)?;
        match reach {
            Reach::Here(entry) => Ok(entry),
            Reach::Older => {
                let key = key.to_owned();
                let found = self.read_history(move |history| history.get_at(&key, revision)).await?;
                self.still_there(revision)?;
                Ok(found)
            }
        }
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        let reach = self.read().range(&range)?;
        match reach {
            Reach::Here(page) => Ok(page),
            Reach::Older => {
                let revision = range.revision.unwrap_or_default();
                let page = self.read_history(move |history| history.range(&range, revision)).await?;
                self.still_there(revision)?;
                Ok(page)
            }
        }
    }

    async fn count(&self, prefix: &str) -> Result<u64, StoreError> {
        Ok(self.read().count(prefix))
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry, StoreError> {
        let write = Write::Put { key: key.to_owned(), value, expect };
        self.submit(|reply| Request::Write { write, reply }).await
    }

    async fn put_all(&self, puts: Vec<Put>) -> Result<Vec<Entry>, StoreError> {
        self.submit(|reply| Request::PutAll { puts, reply }).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<Entry, StoreError> {
        let write = Write::Delete { key: key.to_owned(), expect };
        self.submit(|reply| Request::Write { write, reply }).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let (mut older, mut read_to) = (Vec::new(), after);
        loop {
            let needs = self.read().watch_needs(read_to)?;
            if let Some(until) = needs {
                let wanted = prefix.to_owned();
                let read = move |history: &History| history.events(&wanted, read_to, until);
                older.extend(self.read_history(read).await?);
                self.still_there(after)?;
                read_to = until;
            }
            // Memory may have moved on while history was read: then the part between is read too.
            let mut index = self.write();
            if index.watch_needs(read_to)?.is_none() {
                return index.watch(prefix, read_to, older);
            }
        }
    }

    fn revision(&self) -> Revision {
        self.read().revision()
    }

    fn revisions(&self) -> Receiver<Revision> {
        self.read().revisions()
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let from = {
            let mut index = self.write();
            index.check_compact(revision)?;
            let from = index.compacted();
            index.compact(revision);
            from
        };
        let mut slice = from;
        while slice < revision {
            let until = (slice + COMPACT_SLICE).min(revision);
            self.submit(|reply| Request::Compact { after: slice, until, reply }).await?;
            slice = until;
        }
        Ok(())
    }

    fn compacted(&self) -> Revision {
        self.read().compacted()
    }
}

impl SqliteStore {
    /// A compaction may have passed while history was read.
    fn still_there(&self, asked: Revision) -> Result<(), StoreError> {
        let index = self.read();
        let (compacted, current) = (index.compacted(), index.revision());
        if asked < compacted { Err(StoreError::Compacted { asked, compacted, current }) } else { Ok(()) }
    }
}
