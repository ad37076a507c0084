//! Where notes go: a bounded queue and one thread that writes lines and puts the file aside when it is full.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::AuditConfig;

/// Notes that may wait for the disk, as many as in Kubernetes.
const QUEUE: usize = 10_000;
/// How long a request waits for room before its note is lost.
const PATIENCE: Duration = Duration::from_millis(100);

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The file.
    #[error("cannot open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The thread.
    #[error("cannot start the thread that writes the audit log")]
    Thread(#[source] io::Error),
}

enum Message {
    Note(Value),
    /// Answered when everything before it is written.
    Flush(oneshot::Sender<()>),
}

/// The way to the log. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sink {
    queue: mpsc::Sender<Message>,
    lost: Arc<AtomicU64>,
}

impl Sink {
    /// Opens the file and starts the thread, which ends with the last sink.
    pub(super) fn open(config: &AuditConfig) -> Result<Self, SinkError> {
        let log = Log::open(config).map_err(|source| SinkError::Open { path: config.log.clone(), source })?;
        let (queue, notes) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = lost.clone();
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write(log, notes, &counter))
            .map_err(SinkError::Thread)?;
        Ok(Sink { queue, lost })
    }

    /// Hands over a note.
    pub(super) async fn note(&self, note: Value) {
        let sent = match self.queue.try_send(Message::Note(note)) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(note)) => {
                timeout(PATIENCE, self.queue.send(note)).await.is_ok()
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        };
        if !sent {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands over a note where nobody can wait.
    pub(super) fn note_now(&self, note: Value) {
        if self.queue.try_send(Message::Note(note)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Message::Flush(done)).await.is_ok() {
            flushed.await.ok();
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

fn write(mut log: Log, mut notes: mpsc::Receiver<Message>, lost: &AtomicU64) {
    let mut healthy = true;
    while let Some(message) = notes.blocking_recv() {
        let written = match message {
            Message::Note(note) => log.line(&note),
            Message::Flush(done) => {
                let flushed = log.out.flush();
                done.send(()).ok();
                flushed
            }
        };
        // On disk when there is a pause; in a burst as blocks.
        let written = written.and_then(|()| if notes.is_empty() { log.out.flush() } else { Ok(()) });
        if let Err(error) = &written {
            lost.fetch_add(1, Ordering::Relaxed);
            if healthy {
                tracing::error!(%error, path = %log.path.display(), "the audit log cannot be written");
            }
        }
        healthy = written.is_ok();
    }
}

struct Log {
    path: PathBuf,
    out: BufWriter<Box<dyn Write + Send>>,
    size: u64,
    max_bytes: u64,
    max_backups: usize,
}

impl Log {
    fn open(config: &AuditConfig) -> io::Result<Self> {
        let (out, size): (Box<dyn Write + Send>, u64) = if config.log == Path::new("-") {
            (Box::new(io::stdout()), 0)
        } else {
            let file = append(&config.log)?;
            let size = file.metadata()?.len();
            (Box::new(file), size)
        };
        Ok(Log {
            path: config.log.clone(),
            out: BufWriter::new(out),
            size,
            max_bytes: config.max_bytes,
            max_backups: config.max_backups,
        })
    }

    fn line(&mut self, note: &Value) -> io::Result<()> {
        let mut line = serde_json::to_vec(note).map_err(io::Error::other)?;
        line.push(b'\n');
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.max_bytes > 0
            && self.size > 0
            && self.size + length > self.max_bytes
            && self.path != Path::new("-")
        {
            self.rotate()?;
        }
        self.out.write_all(&line)?;
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.out.flush()?;
        let now = Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S%.9f").to_string();
        fs::rename(&self.path, backup(&self.path, &now))?;
        self.out = BufWriter::new(Box::new(append(&self.path)?));
        self.size = 0;
        if self.max_backups > 0 {
            let mut backups = backups(&self.path)?;
            backups.sort();
            for old in backups.iter().rev().skip(self.max_backups) {
                fs::remove_file(old)?;
            }
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// `NAME-TIME.EXTENSION` beside the log.
fn backup(path: &Path, time: &str) -> PathBuf {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, extension) = (text(path.file_stem()), text(path.extension()));
    let dot = if extension.is_empty() { "" } else { "." };
    path.with_file_name(format!("{stem}-{time}{dot}{extension}"))
}

fn backups(path: &Path) -> io::Result<Vec<PathBuf>> {
    let stem = format!("{}-2", path.file_stem().unwrap_or_default().to_string_lossy());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?.path();
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(&stem) && entry.extension() == path.extension() {
            found.push(entry);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn lines_rotation_and_what_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let config = AuditConfig {
            max_bytes: 100,
            max_backups: 2,
            ..AuditConfig::new("unused", dir.path().join("audit.log"))
        };
        let sink = Sink::open(&config).unwrap();
        for number in 0..20 {
            sink.note(json!({"number": number, "text": "0123456789012345678901234567890"})).await;
        }
        sink.flush().await;
        let text = fs::read_to_string(&config.log).unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(last["number"], 19);
        assert!(text.len() <= 100);
        assert_eq!(backups(&config.log).unwrap().len(), 2);
        assert_eq!(sink.lost(), 0);
        let again = Sink::open(&config).unwrap();
        again.note(json!({"number": 20})).await;
        again.flush().await;
        assert!(fs::read_to_string(&config.log).unwrap().starts_with(&text), "it is appended to");
    }
}
