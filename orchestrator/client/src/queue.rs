//! Keys to work on. One slot for each key, the earliest time wins, no key is ever worked on twice at once.
//!
//! A key that is added while it is being worked on waits until that work is done, and is then given out
//! again: nothing is lost, nothing runs twice at a time.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The first delay after a failure; it doubles with each further failure of the key.
const FIRST_RETRY: Duration = Duration::from_millis(5);
/// The longest delay between two tries.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// A queue of keys; cheap to clone, all clones are the same queue.
pub struct Queue<K> {
    inner: Arc<Inner<K>>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

struct State<K> {
    slots: HashMap<K, Slot>,
    /// Keys that may be given out now, first come, first served. Each has a slot with `place: Ready`.
    ready: VecDeque<K>,
    /// Keys that wait for a time, earliest first; `u64` is the slot's number and finds the key.
    timers: BTreeSet<(Instant, u64)>,
    numbers: HashMap<u64, K>,
    next_number: u64,
}

/// Where a key is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Idle,
    Ready,
    Waiting { due: Instant, number: u64 },
    Working { again: Again },
}

/// What happens to a key when the work on it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Again {
    No,
    Now,
    At(Instant),
}

struct Slot {
    place: Place,
    failures: u32,
}

impl<K: Hash + Eq + Clone> Default for Queue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Hash + Eq + Clone> Queue<K> {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        let state = State {
            slots: HashMap::new(),
            ready: VecDeque::new(),
            timers: BTreeSet::new(),
            numbers: HashMap::new(),
            next_number: 0,
        };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), changed: Notify::new() }) }
    }

    /// Asks for work on `key` as soon as possible.
    pub fn add(&self, key: K) {
        if self.state().add(key) {
            self.inner.changed.notify_one();
        }
    }

    /// Asks for work on `key` after `delay`. If it is already wanted earlier, that stays.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        if self.state().add_at(key, Instant::now() + delay) {
            self.inner.changed.notify_one();
        }
    }

    /// Waits for the next key. Whoever got it must call [`Queue::done`] or [`Queue::failed`] with it.
    ///
    /// Safe to drop while it waits: a key is taken only when it is returned.
    pub async fn next(&self) -> K {
        loop {
            let changed = self.inner.changed.notified();
            let due = {
                let mut state = self.state();
                state.wake(Instant::now());
                if let Some(key) = state.take() {
                    // Another waiter may be needed for the rest.
                    if !state.ready.is_empty() {
                        self.inner.changed.notify_one();
                    }
                    return key;
                }
                state.timers.first().map(|(due, _)| *due)
            };
            match due {
                Some(due) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(due) => {}
                },
                None => changed.await,
            }
        }
    }

    /// The work on `key` succeeded: its failures are forgotten.
    pub fn done(&self, key: &K) {
        if self.state().finish(key, None) {
            self.inner.changed.notify_one();
        }
    }

    /// The work on `key` failed: it is tried again after a delay that doubles with each failure in a row.
    /// Returns that delay.
    pub fn failed(&self, key: &K) -> Duration {
        let mut state = self.state();
        let failures = state.slots.get(key).map_or(0, |slot| slot.failures);
        let delay = retry_delay(failures);
        let notify = state.finish(key, Some(Instant::now() + delay));
        drop(state);
        if notify {
            self.inner.changed.notify_one();
        }
        delay
    }

    /// How many keys are ready or being worked on; keys that wait for a time do not count.
    #[must_use]
    pub fn len(&self) -> usize {
        let state = self.state();
        state.slots.len() - state.timers.len()
    }

    /// Is there nothing ready and nothing being worked on?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        // A panic while the lock is held cannot leave the maps half changed in a way that matters more than
        // going on.
        self.inner.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The delay before the next try after `failures` earlier failures in a row.
fn retry_delay(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(2u32.saturating_pow(failures.min(20))).min(LAST_RETRY)
}

impl<K: Hash + Eq + Clone> State<K> {
    /// Returns whether somebody should be woken.
    fn add(&mut self, key: K) -> bool {
        let slot = self.slots.entry(key.clone()).or_insert(Slot { place: Place::Idle, failures: 0 });
        match slot.place {
            Place::Ready => return false,
            Place::Working { .. } => {
                slot.place = Place::Working { again: Again::Now };
                return false;
            }
            Place::Waiting { due, number } => {
                self.timers.remove(&(due, number));
                self.numbers.remove(&number);
            }
            Place::Idle => {}
        }
        slot.place = Place::Ready;
        self.ready.push_back(key);
        true
    }

    fn add_at(&mut self, key: K, due: Instant) -> bool {
        let slot = self.slots.entry(key.clone()).or_insert(Slot { place: Place::Idle, failures: 0 });
        match slot.place {
            Place::Ready => return false,
            Place::Working { again } => {
                slot.place = Place::Working { again: earliest(again, due) };
                return false;
            }
            Place::Waiting { due: old, .. } if old <= due => return false,
            Place::Waiting { due: old, number } => {
                self.timers.remove(&(old, number));
                self.numbers.remove(&number);
            }
            Place::Idle => {}
        }
        let number = self.next_number;
        self.next_number += 1;
        slot.place = Place::Waiting { due, number };
        self.timers.insert((due, number));
        self.numbers.insert(number, key);
        true
    }

    /// Moves the keys whose time has come to the ready ones.
    fn wake(&mut self, now: Instant) {
        while let Some(&(due, number)) = self.timers.first() {
            if due > now {
                return;
            }
            self.timers.pop_first();
            let key = self.numbers.remove(&number).expect("every timer has a key");
            self.slots.get_mut(&key).expect("every timer's key has a slot").place = Place::Ready;
            self.ready.push_back(key);
        }
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        let slot = self.slots.get_mut(&key).expect("every ready key has a slot");
        slot.place = Place::Working { again: Again::No };
        Some(key)
    }

    /// `retry` is the time of the next try when the work failed. Returns whether somebody should be woken.
    fn finish(&mut self, key: &K, retry: Option<Instant>) -> bool {
        let Some(slot) = self.slots.get_mut(key) else { return false };
        let Place::Working { again } = slot.place else { return false };
        slot.failures = if retry.is_some() { slot.failures + 1 } else { 0 };
        slot.place = Place::Idle;
        let again = match retry {
            Some(due) => earliest(again, due),
            None => again,
        };
        match again {
            Again::Now => self.add(key.clone()),
            Again::At(due) => self.add_at(key.clone(), due),
            Again::No => {
                self.slots.remove(key);
                false
            }
        }
    }
}

fn earliest(again: Again, due: Instant) -> Again {
    match again {
        Again::No => Again::At(due),
        Again::Now => Again::Now,
        Again::At(old) => Again::At(old.min(due)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next_or_none(queue: &Queue<&'static str>) -> Option<&'static str> {
        tokio::time::timeout(Duration::from_nanos(1), queue.next()).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_is_given_out_once() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("b");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        assert_eq!(queue.next().await, "b");
        assert_eq!(next_or_none(&queue).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_during_its_work_comes_again_afterwards() {
        let queue = Queue::new();
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert_eq!(next_or_none(&queue).await, None, "never two at once");
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_time_wins() {
        let queue = Queue::new();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(20));
        let start = Instant::now();
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.done(&"a");
        queue.add_after("a", Duration::from_secs(10));
        queue.add("a");
        assert_eq!(next_or_none(&queue).await, Some("a"));
        queue.done(&"a");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(next_or_none(&queue).await, None, "the later time was dropped");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_success_forgets_them() {
        let queue = Queue::new();
        queue.add("a");
        let mut delays = Vec::new();
        for _ in 0..3 {
            let key = queue.next().await;
            delays.push(queue.failed(&key).as_millis());
        }
        assert_eq!(delays, [5, 10, 20]);
        let key = queue.next().await;
        queue.done(&key);
        queue.add("a");
        let key = queue.next().await;
        assert_eq!(queue.failed(&key).as_millis(), 5);
        assert_eq!(retry_delay(1000), LAST_RETRY);
    }

    #[tokio::test(start_paused = true)]
    async fn news_cuts_the_back_off_short() {
        let queue = Queue::new();
        queue.add("a");
        let key = queue.next().await;
        queue.failed(&key);
        queue.add("a");
        assert_eq!(next_or_none(&queue).await, Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_taker_is_woken() {
        let queue = Queue::new();
        let taker = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next().await }
        });
        tokio::task::yield_now().await;
        queue.add("a");
        assert_eq!(taker.await.unwrap(), "a");
    }
}
