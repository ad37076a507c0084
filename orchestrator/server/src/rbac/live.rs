//! The index in a running server. Whoever asks takes in the changes that wait in the watch cache first, so
//! there is no task to keep alive, and a question costs no list.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Mutex;

use catamaran_api::status::{GroupResource, Status};
use catamaran_store::{Range, Store, StoreError};

use super::index::Index;
use super::{GROUP, PREFIX};
use crate::hub::{ChangeKind, Cursor, CutOff, Hubs};
use crate::{encode, error};

/// How long an answer to a write waits until the write is in force; it always is, in a healthy server.
const IN_FORCE: Duration = Duration::from_secs(2);
/// The time between two looks at the watch cache while waiting for a write.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How often the roles are listed anew when the watch cache runs ahead of the list.
const LOADS: usize = 8;

/// Roles and bindings as of now.
pub(crate) struct Rbac {
    hubs: Arc<Hubs>,
    store: Arc<dyn Store>,
    state: RwLock<Option<State>>,
    loading: Mutex<()>,
    /// Held by whoever brings aggregated roles up to date.
    pub(super) settling: Mutex<()>,
}

struct State {
    index: Index,
    cursor: Cursor,
}

enum Step {
    Current,
    Load,
}

impl State {
    fn catch_up(&mut self) -> Result<(), CutOff> {
        for change in self.cursor.take(usize::MAX)? {
            let gone = change.kind == ChangeKind::Deleted;
            self.index.put(&change.key, change.object().filter(|_| !gone));
        }
        Ok(())
    }
}

impl Rbac {
    pub(crate) fn new(hubs: Arc<Hubs>, store: Arc<dyn Store>) -> Self {
        Rbac { hubs, store, state: RwLock::new(None), loading: Mutex::new(()), settling: Mutex::new(()) }
    }

    /// Asks the index, after it took in every change that the watch cache has.
    ///
    /// # Errors
    /// When roles and bindings cannot be read from the store.
    pub(crate) async fn ask<T>(&self, question: impl Fn(&Index) -> T) -> Result<T, Status> {
        for _ in 0..LOADS {
            if let Some(answer) = self.ask_current(&question) {
                return Ok(answer);
            }
            if let Step::Load = self.advance() {
                let failed = |error| error::from_store(error, GroupResource::new(GROUP, "roles"), "");
                self.load().await.map_err(failed)?;
            }
        }
        Err(Status::service_unavailable("roles and bindings change faster than they can be read; try again"))
    }

    fn ask_current<T>(&self, question: &impl Fn(&Index) -> T) -> Option<T> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.as_ref().filter(|state| !state.cursor.is_behind()).map(|state| question(&state.index))
    }

    fn advance(&self) -> Step {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match state.as_mut().map(State::catch_up) {
            Some(Ok(())) => Step::Current,
            Some(Err(CutOff)) => {
                *state = None;
                Step::Load
            }
            None => Step::Load,
        }
    }

    async fn load(&self) -> Result<(), StoreError> {
        let _one = self.loading.lock().await;
        if self.state.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let hub = self.hubs.of(PREFIX).await?;
        let page = self.store.range(Range { prefix: PREFIX.to_owned(), ..Range::default() }).await?;
        let mut index = Index::default();
        for entry in &page.entries {
            index.put(&entry.key, encode::decode(&entry.value, entry.mod_revision).ok().as_ref());
        }
        // None when the cache has moved on past the list: the caller comes again.
        let state = hub.after(page.revision).map(|cursor| State { index, cursor });
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }

    /// Waits until everything that is written by now is in the watch cache, where the next question finds it.
    pub(crate) async fn in_force(&self) {
        let written = self.store.revision();
        let wait = async {
            let Ok(hub) = self.hubs.of(PREFIX).await else { return };
            while hub.progress().await.is_some_and(|seen| seen < written) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        if tokio::time::timeout(IN_FORCE, wait).await.is_err() {
            tracing::warn!("a changed role or binding is not yet in force: the watch cache lags behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use catamaran_store::{Expect, MemoryStore};
    use serde_json::json;

    use super::*;
    use crate::UserInfo;
    use crate::authorize::{Action, Attributes};
    use crate::rbac::Reviewed;

    async fn put(store: &MemoryStore, place: &str, object: serde_json::Value) {
        store.put(&format!("{PREFIX}{place}"), Bytes::from(object.to_string()), Expect::Any).await.unwrap();
    }

    async fn may_get(rbac: &Rbac, resource: &str) -> bool {
        let (group, subresource, namespace, name) = ("", "", "", "x");
        let wanted = Attributes { verb: "get", group, resource, subresource, namespace, name };
        let jane = UserInfo::new("jane", &[]);
        let reviewed = rbac.ask(|index| index.review(&jane, &Action::Resource(wanted))).await.unwrap();
        matches!(reviewed, Reviewed::Allowed(_))
    }

    fn role(resource: &str) -> serde_json::Value {
        json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": [resource]}]})
    }

    /// What was there before, what came while nobody asked, and so much of it that the watch cache forgot some.
    #[tokio::test]
    async fn whoever_asks_sees_what_is_in_force() {
        let store = Arc::new(MemoryStore::new());
        let rbac = Rbac::new(Arc::new(Hubs::new(store.clone())), store.clone());
        let binding = json!({
            "roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [{"kind": "User", "name": "jane"}],
        });
        put(&store, "clusterroles/r", role("pods")).await;
        put(&store, "clusterrolebindings/b", binding).await;
        assert!(may_get(&rbac, "pods").await);
        put(&store, "clusterroles/r", role("nodes")).await;
        rbac.in_force().await;
        assert!(!may_get(&rbac, "pods").await && may_get(&rbac, "nodes").await);
        for round in 0..10_000 {
            put(&store, &format!("roles/n/r{}", round % 3), json!({"rules": []})).await;
            // The cache has to take it in, or it is the store that cuts the cache off.
            if round % 100 == 0 {
                rbac.in_force().await;
            }
        }
        put(&store, "clusterroles/r", role("secrets")).await;
        rbac.in_force().await;
        assert!(!may_get(&rbac, "nodes").await && may_get(&rbac, "secrets").await);
        store.delete(&format!("{PREFIX}clusterrolebindings/b"), Expect::Any).await.unwrap();
        rbac.in_force().await;
        assert!(!may_get(&rbac, "secrets").await);
    }
}
