//! Forgets history by age: remembers which revision was current when, and compacts what is older than asked.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::store::{Revision, Store, StoreError};

/// How long history is kept and how often it is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// History younger than this is kept.
    pub keep: Duration,
    /// Time between two compactions.
    pub every: Duration,
}

impl Default for Retention {
    /// Five minutes, as clients that page through a large list expect; looked at once a minute.
    fn default() -> Self {
        Retention { keep: Duration::from_secs(300), every: Duration::from_secs(60) }
    }
}

/// Compacts `store` for ever. Start it beside the server.
pub async fn run(store: &dyn Store, retention: Retention) {
    let mut ticks = interval(retention.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = VecDeque::new();
    loop {
        ticks.tick().await;
        seen.push_back((Instant::now(), store.revision()));
        let Some(revision) = due(&mut seen, Instant::now(), retention.keep) else { continue };
        if revision <= store.compacted() {
            continue;
        }
        match store.compact(revision).await {
            Ok(()) | Err(StoreError::Compacted { .. }) => {}
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, revision, "compaction"),
        }
    }
}

/// The newest revision that was current at least `keep` ago; what is older is dropped from `seen`.
fn due(seen: &mut VecDeque<(Instant, Revision)>, now: Instant, keep: Duration) -> Option<Revision> {
    let mut newest = None;
    while let Some((at, revision)) = seen.front() {
        if now.duration_since(*at) < keep {
            break;
        }
        newest = Some(*revision);
        seen.pop_front();
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;
    use crate::store::Expect;

    #[tokio::test(start_paused = true)]
    async fn history_is_kept_for_as_long_as_asked_and_no_longer() {
        let store = MemoryStore::new();
        for value in ["a", "b", "c"] {
            store.put("/k", value.into(), Expect::Any).await.unwrap();
        }
        let retention = Retention { keep: Duration::from_secs(300), every: Duration::from_secs(60) };
        let hold = tokio::time::timeout(Duration::from_secs(299), run(&store, retention)).await;
        assert!(hold.is_err());
        assert_eq!(store.compacted(), 0);
        let forget = tokio::time::timeout(Duration::from_secs(361), run(&store, retention)).await;
        assert!(forget.is_err());
        assert_eq!(store.compacted(), 3);
        assert_eq!(store.get("/k").await.unwrap().unwrap().value, "c");
    }
}
