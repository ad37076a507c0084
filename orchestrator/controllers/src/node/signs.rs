//! When each node was last heard of, by our own clock: a renewed lease or a reported status.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// The signs of life of all nodes.
#[derive(Default)]
pub(super) struct Signs {
    nodes: Mutex<HashMap<String, Sign>>,
}

struct Sign {
    heard: Instant,
    lease: Option<Timestamp>,
    heartbeat: Option<Timestamp>,
}

impl Signs {
    /// A lease was seen. Returns whether that is a sign of life after which the node should be looked at: its
    /// first, or one after a long silence.
    pub(super) fn lease(&self, node: &str, renewed: Option<Timestamp>, now: Instant) -> bool {
        self.note(node, now, |sign| std::mem::replace(&mut sign.lease, renewed) != renewed)
    }

    /// A Node was seen with this newest heartbeat.
    pub(super) fn node(&self, node: &str, heartbeat: Option<Timestamp>, now: Instant) -> bool {
        self.note(node, now, |sign| std::mem::replace(&mut sign.heartbeat, heartbeat) != heartbeat)
    }

    fn note(&self, node: &str, now: Instant, update: impl Fn(&mut Sign) -> bool) -> bool {
        let mut nodes = self.nodes();
        if let Some(sign) = nodes.get_mut(node) {
            let silent = now - sign.heard;
            if !update(sign) {
                return false;
            }
            sign.heard = now;
            return silent > Duration::from_secs(20);
        }
        let mut sign = Sign { heard: now, lease: None, heartbeat: None };
        update(&mut sign);
        nodes.insert(node.to_owned(), sign);
        true
    }

    /// The node is gone.
    pub(super) fn forget(&self, node: &str) {
        self.nodes().remove(node);
    }

    /// For how long the node has not been heard of.
    pub(super) fn silence(&self, node: &str, now: Instant) -> Duration {
        let mut nodes = self.nodes();
        let sign = nodes.entry(node.to_owned()).or_insert(Sign { heard: now, lease: None, heartbeat: None });
        now - sign.heard
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<String, Sign>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_changes_is_a_sign() {
        let signs = Signs::default();
        let time = |second| Some(Timestamp::from_second(second).unwrap());
        assert!(signs.lease("n", time(1), Instant::now()), "the first");
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!(!signs.lease("n", time(1), Instant::now()), "the same again, as after a relist");
        assert_eq!(signs.silence("n", Instant::now()).as_secs(), 30);
        assert!(signs.lease("n", time(2), Instant::now()), "back after a while");
        assert_eq!(signs.silence("n", Instant::now()).as_secs(), 0);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!signs.node("n", time(3), Instant::now()), "all is well, no need to look");
        assert_eq!(signs.silence("n", Instant::now()).as_secs(), 0);
    }
}
