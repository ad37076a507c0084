//! Takes keys from a queue, reconciles them side by side, retries what failed; and a supervised set of tasks.

use std::any::Any;
use std::error::Error;
use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::task::JoinSet;
use tracing::{Instrument, debug, info_span, warn};

use crate::error::{Chain, is_transient};
use crate::queue::Queue;

/// When a key that was reconciled without an error is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// When something that concerns it changes.
    Done,
    /// At the latest after this time.
    After(Duration),
}

/// Reconciles the keys of `queue`, up to `workers` at a time, forever. Each call runs in a span `reconcile`.
///
/// An error or a panic of one key is logged and tried again with back-off; it stops nobody else.
///
/// The calls belong to the returned future and are not tasks of their own: when it is dropped they are gone at
/// once. A successor that starts then never meets a write of its predecessor after its own first list.
pub async fn run<K, E, F, R>(controller: &'static str, queue: Queue<K>, workers: usize, reconcile: F)
where
    K: Hash + Eq + Clone + Display,
    E: Error + 'static,
    F: Fn(K) -> R,
    R: Future<Output = Result<Outcome, E>>,
{
    let mut calls = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(()) = calls.next(), if !calls.is_empty() => {}
            key = queue.next(), if calls.len() < workers.max(1) => {
                let span = info_span!("reconcile", controller, key = %key);
                let call = AssertUnwindSafe(reconcile(key.clone())).catch_unwind();
                let queue = &queue;
                calls.push(async move { settle(controller, queue, &key, call.await) }.instrument(span));
            }
        }
    }
}

type Caught<E> = Result<Result<Outcome, E>, Box<dyn Any + Send>>;

fn settle<K, E>(controller: &'static str, queue: &Queue<K>, key: &K, result: Caught<E>)
where
    K: Hash + Eq + Clone + Display,
    E: Error + 'static,
{
    match result {
        Ok(Ok(Outcome::Done)) => queue.done(key),
        Ok(Ok(Outcome::After(delay))) => {
            queue.add_after(key.clone(), delay);
            queue.done(key);
        }
        Ok(Err(error)) => {
            let delay = queue.failed(key);
            if is_transient(&error) {
                debug!(error = %Chain(&error), ?delay, "tried again later");
            } else {
                warn!(controller, %key, error = %Chain(&error), ?delay, "reconciling failed");
            }
        }
        Err(_) => {
            let delay = queue.failed(key);
            warn!(controller, %key, ?delay, "reconciling panicked");
        }
    }
}

/// One supervised set of tasks: all are stopped when it is dropped, and the end of any of them is noticed.
#[derive(Default)]
pub struct Tasks {
    set: JoinSet<&'static str>,
}

impl Tasks {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task that is meant to run as long as the set.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits until `stop` is ready, then stops all tasks and waits for their end.
    ///
    /// # Errors
    /// A task ended or panicked by itself; the others are stopped as well.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), TaskEnded> {
        let result = tokio::select! {
            () = stop => Ok(()),
            Some(ended) = self.set.join_next() => Err(match ended {
                Ok(name) => TaskEnded::Returned { name },
                Err(source) => TaskEnded::Panicked { source },
            }),
        };
        self.set.shutdown().await;
        result
    }
}

/// A task that should have run for ever did not.
#[derive(Debug, thiserror::Error)]
pub enum TaskEnded {
    /// It returned.
    #[error("the task {name} ended by itself")]
    Returned {
        /// The name it was started with.
        name: &'static str,
    },
    /// It panicked.
    #[error("a task panicked")]
    Panicked {
        /// The panic.
        #[source]
        source: tokio::task::JoinError,
    },
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("not yet")]
    struct NotYet;

    #[tokio::test(start_paused = true)]
    async fn failures_and_panics_are_tried_again() {
        let queue = Queue::new();
        queue.add("a");
        let calls = Arc::new(AtomicUsize::new(0));
        let (done, mut finished) = tokio::sync::mpsc::channel(1);
        let count = Arc::clone(&calls);
        let runner = run("test", queue.clone(), 2, move |_: &'static str| {
            let (count, done) = (Arc::clone(&count), done.clone());
            async move {
                match count.fetch_add(1, Ordering::SeqCst) {
                    0 => Err(NotYet),
                    1 => panic!("the second call panics on purpose"),
                    _ => {
                        done.send(()).await.unwrap();
                        Ok(Outcome::Done)
                    }
                }
            }
        });
        tokio::select! {
            () = runner => unreachable!("a runner never returns"),
            _ = finished.recv() => {}
        }
        assert_eq!(calls.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn after_means_again() {
        let queue = Queue::new();
        queue.add("a");
        let (send, mut seen) = tokio::sync::mpsc::channel(4);
        let runner = run("test", queue, 1, move |_: &'static str| {
            let send = send.clone();
            async move {
                send.send(tokio::time::Instant::now()).await.unwrap();
                Ok::<_, NotYet>(Outcome::After(Duration::from_secs(7)))
            }
        });
        let times = async {
            let first = seen.recv().await.unwrap();
            seen.recv().await.unwrap() - first
        };
        tokio::select! {
            () = runner => unreachable!("a runner never returns"),
            between = times => assert_eq!(between.as_secs(), 7),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_runner_that_is_dropped_takes_its_calls_along() {
        let queue = Queue::new();
        queue.add("a");
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let runner = run("test", queue, 4, move |_: &'static str| {
            let held = Arc::clone(&held);
            async move {
                std::future::pending::<()>().await;
                drop(held);
                Ok::<_, NotYet>(Outcome::Done)
            }
        });
        assert!(tokio::time::timeout(Duration::from_secs(1), runner).await.is_err());
        assert_eq!(Arc::strong_count(&alive), 1, "the call is gone with the runner");
    }

    #[tokio::test]
    async fn the_end_of_a_task_is_noticed() {
        let mut tasks = Tasks::new();
        tasks.spawn("short", async {});
        let ended = tasks.run(std::future::pending()).await;
        assert!(matches!(ended, Err(TaskEnded::Returned { name: "short" })));
    }
}
