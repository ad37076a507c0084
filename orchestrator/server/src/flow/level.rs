//! One priority level: seats, and queues for those who find none. Taking a free seat is one atomic exchange; only
//! who has to wait, and who leaves while others wait, takes the lock. Among the queues the fair one is next: the
//! one that has had the least time so far (start-time fair queuing), so no flow can starve another.

use std::future::Future;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::line::{Line, Waiter};

/// One request with one seat, in the upper half of a level's state; the lower half counts who waits.
const SEAT: u64 = 1 << 32;

/// How a level queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queuing {
    /// Number of queues.
    pub(super) queues: u32,
    /// Queues that one flow may use.
    pub(super) hand: u32,
    /// Requests that may wait in one queue.
    pub(super) length: usize,
}

impl Queuing {
    /// Of a PriorityLevelConfiguration; none when its answer is to reject.
    pub(super) fn of(object: &Value) -> Option<Self> {
        let response = &object["spec"]["limited"]["limitResponse"];
        let number = |field: &str, absent: u32| {
            let found = response["queuing"][field].as_u64().and_then(|number| u32::try_from(number).ok());
            found.unwrap_or(absent)
        };
        (response["type"] == "Queue").then(|| {
            let queues = number("queues", 64).max(1);
            Queuing {
                queues,
                hand: number("handSize", 8).clamp(1, queues),
                length: usize::try_from(number("queueLengthLimit", 50)).unwrap_or(usize::MAX),
            }
        })
    }
}

/// What a level has done so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) dispatched: AtomicU64,
    pub(super) queue_full: AtomicU64,
    pub(super) concurrency_limit: AtomicU64,
    pub(super) time_out: AtomicU64,
}

/// Seats and queues.
pub(super) struct Level {
    exempt: bool,
    state: AtomicU64,
    limit: AtomicU32,
    /// Seats in use and waited for, at the worst moment since it was last asked for.
    peak: AtomicU32,
    line: Mutex<Line>,
    pub(super) counts: Counts,
}

/// A request's seats; given back when dropped.
pub(crate) struct Seat {
    level: Arc<Level>,
    seats: u32,
    /// The queue it waited in, and since when it has the seat.
    from: Option<(u32, Instant)>,
}

impl Level {
    pub(super) fn new(exempt: bool) -> Self {
        Level {
            exempt,
            state: AtomicU64::new(0),
            limit: AtomicU32::new(0),
            peak: AtomicU32::new(0),
            line: Mutex::new(Line::default()),
            counts: Counts::default(),
        }
    }

    pub(super) fn is_exempt(&self) -> bool {
        self.exempt
    }

    /// Seats in use, requests that wait, seats there are.
    pub(super) fn load(&self) -> (u32, u32, u32) {
        let (used, waiting) = halves(self.state.load(Ordering::Relaxed));
        (used, waiting, self.limit.load(Ordering::Relaxed))
    }

    /// Takes a new configuration; who waits goes on waiting.
    pub(super) fn configure(self: &Arc<Self>, queuing: Option<Queuing>, seats: u32) {
        self.line().configure(queuing);
        self.resize(seats);
    }

    /// Has as many seats from now on.
    pub(super) fn resize(self: &Arc<Self>, seats: u32) {
        self.limit.store(seats, Ordering::SeqCst);
        if halves(self.state.load(Ordering::SeqCst)).1 > 0 {
            self.dispatch(&mut self.line());
        }
    }

    /// The most seats that were needed at one time since the last call.
    pub(super) fn take_peak(&self) -> u32 {
        let now = halves(self.state.load(Ordering::Relaxed)).0;
        self.peak.swap(now, Ordering::Relaxed).max(now)
    }

    /// A seat that is not limited.
    pub(super) fn enter_exempt(self: &Arc<Self>) -> Seat {
        self.counts.dispatched.fetch_add(1, Ordering::Relaxed);
        self.state.fetch_add(SEAT, Ordering::Relaxed);
        Seat { level: self.clone(), seats: 1, from: None }
    }

    /// A seat, if there is one and nobody waits.
    pub(super) fn try_enter(self: &Arc<Self>, seats: u32) -> Option<Seat> {
        let seats = self.take(seats, |waiting| waiting == 0)?;
        Some(Seat { level: self.clone(), seats, from: None })
    }

    /// Takes seats, no more than there are at all.
    fn take(&self, seats: u32, may: impl Fn(u32) -> bool) -> Option<u32> {
        let mut state = self.state.load(Ordering::SeqCst);
        loop {
            let (used, waiting) = halves(state);
            let limit = self.limit.load(Ordering::SeqCst);
            let seats = seats.clamp(1, limit.max(1));
            if !may(waiting) || used.saturating_add(seats) > limit {
                return None;
            }
            let new = state + SEAT * u64::from(seats);
            match self.state.compare_exchange_weak(state, new, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => {
                    self.counts.dispatched.fetch_add(1, Ordering::Relaxed);
                    self.note_demand(used + seats);
                    return Some(seats);
                }
                Err(now) => state = now,
            }
        }
    }

    fn note_demand(&self, seats: u32) {
        // A look costs less than a write that all processors have to agree on.
        if seats > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(seats, Ordering::Relaxed);
        }
    }

    /// Waits in a queue of the flow; `None` when the queues are full. What is waited for is `None` only when the
    /// level itself is gone. Whoever drops the future leaves the queue.
    pub(super) fn queue(
        self: &Arc<Self>,
        flow: u64,
        seats: u32,
    ) -> Option<impl Future<Output = Option<Seat>> + use<>> {
        let (wake, woken) = oneshot::channel();
        let mut line = self.line();
        if !line.queues() {
            self.counts.concurrency_limit.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let Some((queue, id)) = line.join(flow, seats, wake) else {
            self.counts.queue_full.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let (used, waiting) = halves(self.state.fetch_add(1, Ordering::SeqCst) + 1);
        self.note_demand(used.saturating_add(waiting));
        // A seat may have become free before we were counted.
        self.dispatch(&mut line);
        drop(line);
        let leave = Leave { level: self.clone(), queue, id };
        Some(async move {
            let seat = woken.await.ok();
            drop(leave);
            seat
        })
    }

    /// Nobody came in time.
    pub(super) fn note_timeout(&self) {
        self.counts.time_out.fetch_add(1, Ordering::Relaxed);
    }

    /// Seats those who are next, as long as there are seats.
    fn dispatch(self: &Arc<Self>, line: &mut Line) {
        while let Some((queue, seats)) = line.next() {
            let Some(taken) = self.take(seats, |_| true) else { return };
            let Some(Waiter { wake, .. }) = line.pop(queue) else {
                self.state.fetch_sub(SEAT * u64::from(taken), Ordering::SeqCst);
                return;
            };
            self.state.fetch_sub(1, Ordering::SeqCst);
            let seat = Seat { level: self.clone(), seats: taken, from: Some((queue, Instant::now())) };
            if let Err(mut seat) = wake.send(seat) {
                // It went away just now. Dropping the seat here would ask for the lock that we hold.
                self.state.fetch_sub(SEAT * u64::from(taken), Ordering::SeqCst);
                seat.seats = 0;
            }
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.seats == 0 {
            return;
        }
        let level = &self.level;
        let before = level.state.fetch_sub(SEAT * u64::from(self.seats), Ordering::SeqCst);
        if halves(before).1 == 0 {
            return;
        }
        let mut line = level.line();
        if let Some((queue, since)) = self.from {
            line.charge(queue, self.seats, since.elapsed());
        }
        level.dispatch(&mut line);
    }
}

/// Takes a request out of its queue when nobody waits for it any more.
struct Leave {
    level: Arc<Level>,
    queue: u32,
    id: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let mut line = self.level.line();
        if line.leave(self.queue, self.id) {
            self.level.state.fetch_sub(1, Ordering::SeqCst);
            // It may have been a wide one that kept narrower ones waiting.
            self.level.dispatch(&mut line);
        }
    }
}

fn halves(state: u64) -> (u32, u32) {
    let half = |bits: u64| u32::try_from(bits & 0xffff_ffff).unwrap_or(u32::MAX);
    (half(state >> 32), half(state))
}
