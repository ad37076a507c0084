//! Watches one kind and hands on what changes, packed by the receiver at once: no cache of objects is kept.

use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use kube::runtime::watcher;
use tokio::sync::mpsc;
use tracing::debug;

use catamaran_client::cache::Cached;
use catamaran_client::error::Chain;

use crate::queue::Uid;
use crate::state::Update;

/// How events of a kind become updates.
pub(crate) struct Updates<T> {
    pub(crate) applied: fn(T) -> Update,
    pub(crate) gone: fn(T) -> Update,
    pub(crate) listed: fn(HashSet<Uid>) -> Update,
    /// What tells objects of the kind apart.
    pub(crate) id: fn(&T) -> Uid,
}

/// Sends updates for ever; returns when nobody receives them.
pub(crate) async fn watch<T: Cached>(api: Api<T>, updates: Updates<T>, sender: mpsc::Sender<Update>) {
    let mut events = pin!(watcher(api, watcher::Config::default()));
    let mut listed = HashSet::new();
    let mut pause = Duration::from_millis(20);
    while let Some(event) = events.next().await {
        let update = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed.insert((updates.id)(&object));
                (updates.applied)(object)
            }
            Ok(watcher::Event::InitDone) => (updates.listed)(std::mem::take(&mut listed)),
            Ok(watcher::Event::Apply(object)) => (updates.applied)(object),
            Ok(watcher::Event::Delete(object)) => (updates.gone)(object),
            Err(error) => {
                debug!(error = %Chain(&error), "the watch failed and is tried again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
                continue;
            }
        };
        pause = Duration::from_millis(20);
        if sender.send(update).await.is_err() {
            return;
        }
    }
}
