//! Events last an hour. A sweep goes over them in small steps, so that it is never in anybody's way.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use catamaran_api::time;
use catamaran_store::{Expect, Range, Store, StoreError};

const PREFIX: &str = "/registry/core/events/";
const EVERY: Duration = Duration::from_secs(60);
const KEEP: SignedDuration = SignedDuration::from_secs(3600);
/// Events that are looked at in one step.
const STEP: usize = 500;

/// Sweeps for ever.
pub(crate) async fn run(store: &dyn Store) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = sweep(store, Timestamp::now()).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "old events could not be removed");
        }
    }
}

async fn sweep(store: &dyn Store, now: Timestamp) -> Result<(), StoreError> {
    let mut range = Range { prefix: PREFIX.to_owned(), limit: Some(STEP), ..Range::default() };
    loop {
        let page = store.range(range.clone()).await?;
        for entry in &page.entries {
            if !is_old(&entry.value, now) {
                continue;
            }
            match store.delete(&entry.key, Expect::Revision(entry.mod_revision)).await {
                Ok(_) | Err(StoreError::Conflict { .. } | StoreError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        if page.remaining == 0 {
            return Ok(());
        }
        range.start_after = page.entries.last().map(|entry| entry.key.to_string());
    }
}

/// Whether the last thing that an event tells is too long ago.
fn is_old(stored: &[u8], now: Timestamp) -> bool {
    let Ok(event) = serde_json::from_slice::<Value>(stored) else { return false };
    let times = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    let last = times.iter().filter_map(|text| time::parse(text.as_str()?)).max();
    last.is_some_and(|last| now.duration_since(last) > KEEP)
}

#[cfg(test)]
mod tests {
    use catamaran_store::MemoryStore;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn only_old_events_go() {
        let store = MemoryStore::new();
        let events = [
            ("old", json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}})),
            (
                "repeated",
                json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "lastTimestamp": "2026-01-01T01:30:00Z"}),
            ),
            ("new", json!({"metadata": {}, "eventTime": "2026-01-01T01:59:00.000000Z"})),
        ];
        for (name, event) in &events {
            let key = format!("{PREFIX}d/{name}");
            store.put(&key, event.to_string().into(), Expect::Absent).await.unwrap();
        }
        store.put("/registry/core/pods/d/old", events[0].1.to_string().into(), Expect::Absent).await.unwrap();
        sweep(&store, "2026-01-01T02:00:00Z".parse().unwrap()).await.unwrap();
        let left = store.range(Range { prefix: "/registry/".into(), ..Range::default() }).await.unwrap();
        let keys: Vec<&str> = left.entries.iter().map(|entry| &*entry.key).collect();
        assert_eq!(
            keys,
            [
                format!("{PREFIX}d/new").as_str(),
                format!("{PREFIX}d/repeated").as_str(),
                "/registry/core/pods/d/old"
            ]
        );
    }
}
