//! Pods that were deleted and that the cache may still show.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use catamaran_client::{Cache, Change, object};

use crate::pod::Pod;

/// Their uids; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Leaving {
    uids: Arc<Mutex<HashSet<String>>>,
}

impl Leaving {
    /// Forgets a pod when the cache shows that it is gone.
    pub(super) fn follow(&self, pods: &Cache<Pod>) {
        let leaving = self.clone();
        pods.on_change(move |change: &Change<'_, Pod>| match change {
            Change::Deleted { old } => leaving.remove(object::uid(&old.metadata)),
            Change::Applied { old: Some(old), new } if old.metadata.uid != new.metadata.uid => {
                leaving.remove(object::uid(&old.metadata));
            }
            Change::Applied { .. } => {}
        });
    }

    pub(super) fn add(&self, uid: &str) {
        self.uids.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned());
    }

    pub(super) fn remove(&self, uid: &str) {
        let mut uids = self.uids.lock().unwrap_or_else(PoisonError::into_inner);
        if !uids.is_empty() {
            uids.remove(uid);
        }
    }

    pub(super) fn contains(&self, uid: &str) -> bool {
        self.uids.lock().unwrap_or_else(PoisonError::into_inner).contains(uid)
    }
}
