//! The graph in a running server. As with roles, whoever asks takes in the changes that wait in the watch cache
//! first, so there is no task to keep alive.

use std::sync::{Arc, Mutex as Lock, PoisonError};

use tokio::sync::Mutex;

use catamaran_api::status::{GroupResource, Status};
use catamaran_store::{Range, Store, StoreError};

use super::graph::Graph;
use super::references::Kind;
use crate::hub::{ChangeKind, Cursor, CutOff, Hubs};
use crate::{encode, error};

const PREFIX: &str = "/registry/core/pods/";
/// How often pods are listed anew when the watch cache runs ahead of the list.
const LOADS: usize = 8;
/// Changes that are taken in at once.
const STEP: usize = 1024;

/// The nodes and what their pods need. Nothing is kept until a node asks.
pub(crate) struct Nodes {
    hubs: Arc<Hubs>,
    store: Arc<dyn Store>,
    state: Lock<Option<State>>,
    loading: Mutex<()>,
}

struct State {
    graph: Graph,
    cursor: Cursor,
}

impl State {
    fn catch_up(&mut self) -> Result<(), CutOff> {
        loop {
            let changes = self.cursor.take(STEP)?;
            if changes.is_empty() {
                return Ok(());
            }
            for change in changes {
                let gone = change.kind == ChangeKind::Deleted;
                self.graph.put(&change.key, change.object().filter(|_| !gone));
            }
        }
    }
}

impl Nodes {
    pub(crate) fn new(hubs: Arc<Hubs>, store: Arc<dyn Store>) -> Self {
        Nodes { hubs, store, state: Lock::new(None), loading: Mutex::new(()) }
    }

    /// Whether a pod that is bound to the node needs the object.
    ///
    /// # Errors
    /// When pods cannot be read from the store.
    pub(crate) async fn is_related(
        &self,
        node: &str,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<bool, Status> {
        let ask = |graph: &Graph| graph.is_related(node, kind, namespace, name);
        // The pod may be bound or gone a moment ago: what is in the store by now counts.
        self.settle().await;
        self.ask(&ask).await
    }

    async fn ask(&self, question: &impl Fn(&Graph) -> bool) -> Result<bool, Status> {
        for _ in 0..LOADS {
            if let Some(answer) = self.ask_current(question) {
                return Ok(answer);
            }
            let failed = |error| error::from_store(error, GroupResource::new("", "pods"), "");
            self.load().await.map_err(failed)?;
        }
        Err(Status::service_unavailable("pods change faster than they can be read; try again"))
    }

    fn ask_current(&self, question: &impl Fn(&Graph) -> bool) -> Option<bool> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.as_mut()?.catch_up().is_err() {
            *state = None;
        }
        state.as_ref().map(|state| question(&state.graph))
    }

    async fn load(&self) -> Result<(), StoreError> {
        let _one = self.loading.lock().await;
        if self.state.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let hub = self.hubs.of(PREFIX).await?;
        let page = self.store.range(Range { prefix: PREFIX.to_owned(), ..Range::default() }).await?;
        let mut graph = Graph::default();
        for entry in &page.entries {
            graph.put(&entry.key, encode::decode(&entry.value, entry.mod_revision).ok().as_ref());
        }
        // None when the cache has moved on past the list: the caller comes again.
        let state = hub.after(page.revision).map(|cursor| State { graph, cursor });
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }

    /// Waits until what is written by now is in the watch cache.
    async fn settle(&self) {
        let written = self.store.revision();
        let Ok(hub) = self.hubs.of(PREFIX).await else { return };
        let seen = async {
            while hub.progress().await.is_some_and(|seen| seen < written) {
                tokio::task::yield_now().await;
            }
        };
        if tokio::time::timeout(std::time::Duration::from_secs(2), seen).await.is_err() {
            tracing::warn!("the watch cache of pods lags behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use catamaran_store::{Expect, MemoryStore};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn what_is_bound_is_related_at_once() {
        let store = Arc::new(MemoryStore::new());
        let nodes = Nodes::new(Arc::new(Hubs::new(store.clone())), store.clone());
        let put = async |node: &str| {
            let pod = json!({"metadata": {"namespace": "d"}, "spec": {"nodeName": node, "imagePullSecrets": [{"name": "s"}]}});
            let pod = Bytes::from(pod.to_string());
            store.put("/registry/core/pods/d/p", pod, Expect::Any).await.unwrap();
        };
        let related = async |node: &str| nodes.is_related(node, Kind::Secret, "d", "s").await.unwrap();
        assert!(!related("n1").await);
        put("n1").await;
        assert!(related("n1").await);
        put("n2").await;
        assert!(related("n2").await && !related("n1").await);
        store.delete("/registry/core/pods/d/p", Expect::Any).await.unwrap();
        assert!(!related("n2").await);
    }
}
