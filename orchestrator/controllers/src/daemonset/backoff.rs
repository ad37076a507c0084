//! How long a DaemonSet leaves a failed pod where it is before it makes another: 1 s, doubled up to 15 minutes.
//!
//! The pod is gone when its successor fails, so the number of failures is kept here; a restart forgives them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use catamaran_client::Key;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// The failures of a DaemonSet on a node.
#[derive(Clone, Copy, Debug)]
struct Failures {
    wait: Duration,
    last: Instant,
}

/// The failures of all DaemonSets.
#[derive(Default)]
pub(super) struct BackOff {
    failures: Mutex<HashMap<Key, HashMap<String, Failures>>>,
}

impl BackOff {
    /// What is left of the wait on `node`.
    pub(super) fn left(&self, key: &Key, node: &str, now: Instant) -> Option<Duration> {
        let all = self.all();
        let failures = all.get(key)?.get(node)?;
        (failures.last + failures.wait).checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// A failed pod was removed from `node`.
    pub(super) fn note(&self, key: &Key, node: &str, now: Instant) {
        let mut all = self.all();
        let nodes = all.entry(key.clone()).or_default();
        // One that ran for long is not to blame for what was before.
        nodes.retain(|_, failures| now.duration_since(failures.last) < 2 * LONGEST);
        let wait = nodes.get(node).map_or(FIRST, |before| (before.wait * 2).min(LONGEST));
        nodes.insert(node.to_owned(), Failures { wait, last: now });
    }

    /// The DaemonSet is gone, or has another template.
    pub(super) fn forget(&self, key: &Key) {
        self.all().remove(key);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Key, HashMap<String, Failures>>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_quarter_of_an_hour() {
        let (back_off, key, start) = (BackOff::default(), Key::new("ns", "log"), Instant::now());
        assert_eq!(back_off.left(&key, "n", start), None);
        for expected in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900] {
            back_off.note(&key, "n", start);
            assert_eq!(back_off.left(&key, "n", start), Some(Duration::from_secs(expected)));
        }
        assert_eq!(back_off.left(&key, "n", start + LONGEST), None);
        back_off.note(&key, "n", start + 3 * LONGEST);
        assert_eq!(back_off.left(&key, "n", start + 3 * LONGEST), Some(FIRST));
    }
}
