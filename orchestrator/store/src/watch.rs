//! Subscriptions: subscribe first, then the backlog, then live events, none twice. A watcher that
//! does not keep up is cut off; it never holds up a writer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::Stream;
use tokio::sync::mpsc;

use crate::store::{Event, Revision, StoreError};

/// Commits that may wait for one watcher before it counts as too slow.
const QUEUE: usize = 4096;

/// What a watch makes of each change.
type Translation = Box<dyn Fn(&Arc<Event>) -> Result<Arc<Event>, StoreError> + Send + Sync>;

/// Changes of a prefix, in order. Each item is what one commit (or the backlog) holds for it.
pub struct Watch {
    translation: Option<Translation>,
    backlog: Option<Vec<Arc<Event>>>,
    live: mpsc::Receiver<Vec<Arc<Event>>>,
    slow: Arc<AtomicBool>,
    published: Arc<AtomicU64>,
    ended: bool,
}

/// The store's end of the subscriptions.
#[derive(Default)]
pub(crate) struct Hub {
    watchers: Vec<Watcher>,
}

struct Watcher {
    prefix: Box<str>,
    queue: mpsc::Sender<Vec<Arc<Event>>>,
    slow: Arc<AtomicBool>,
}

// === impl Watch ===

impl Watch {
    /// The next changes; `None` when the store is closed.
    pub async fn next(&mut self) -> Option<Result<Vec<Arc<Event>>, StoreError>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// The revision up to which everything has been handed out by `next`, or `None` while changes wait.
    #[must_use]
    pub fn progress(&self) -> Option<Revision> {
        let published = self.published.load(Ordering::Acquire);
        (self.backlog.is_none() && self.live.is_empty() && !self.ended).then_some(published)
    }

    /// The same watch with every change put through `translation`; for a store around a store.
    #[must_use]
    pub fn translated(
        self,
        translation: impl Fn(&Arc<Event>) -> Result<Arc<Event>, StoreError> + Send + Sync + 'static,
    ) -> Self {
        Watch { translation: Some(Box::new(translation)), ..self }
    }

    fn translate(&self, events: Vec<Arc<Event>>) -> Result<Vec<Arc<Event>>, StoreError> {
        match &self.translation {
            Some(translation) => events.iter().map(translation).collect(),
            None => Ok(events),
        }
    }
}

impl Stream for Watch {
    type Item = Result<Vec<Arc<Event>>, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(backlog) = self.backlog.take()
            && !backlog.is_empty()
        {
            return Poll::Ready(Some(self.translate(backlog)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        match self.live.poll_recv(context) {
            Poll::Ready(Some(events)) => Poll::Ready(Some(self.translate(events))),
            Poll::Ready(None) => {
                self.ended = true;
                let slow = self.slow.load(Ordering::Acquire);
                Poll::Ready(slow.then_some(Err(StoreError::SlowWatcher)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

// === impl Hub ===

impl Hub {
    /// Adds a watcher whose backlog is `backlog`. Called with the index locked, so that no commit
    /// falls between backlog and subscription.
    pub(crate) fn subscribe(
        &mut self,
        prefix: &str,
        backlog: Vec<Arc<Event>>,
        published: Arc<AtomicU64>,
    ) -> Watch {
        let (queue, live) = mpsc::channel(QUEUE);
        let slow = Arc::new(AtomicBool::new(false));
        self.watchers.push(Watcher { prefix: prefix.into(), queue, slow: slow.clone() });
        Watch { translation: None, backlog: Some(backlog), live, slow, published, ended: false }
    }

    /// Hands the changes of one commit to those who watch them; drops watchers that are gone or full.
    pub(crate) fn publish(&mut self, events: &[Arc<Event>]) {
        self.watchers.retain(|watcher| {
            let mine: Vec<_> =
                events.iter().filter(|e| e.entry.key.starts_with(&*watcher.prefix)).cloned().collect();
            if mine.is_empty() {
                return !watcher.queue.is_closed();
            }
            match watcher.queue.try_send(mine) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Closed(_)) => false,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    watcher.slow.store(true, Ordering::Release);
                    false
                }
            }
        });
    }
}
