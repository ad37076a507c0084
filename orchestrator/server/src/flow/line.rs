//! The queues of a priority level: each flow is dealt a hand of them and joins the shortest (shuffle sharding), and
//! the queue that has had the least time is served next. A plain value; the level holds the lock.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;

use super::level::{Queuing, Seat};

/// What a seat is charged before it is known for how long it was held, in microseconds.
const ESTIMATE: u64 = 1_000;
/// Queues in memory from which on those that nobody needs are forgotten.
const FORGET_FROM: usize = 512;

/// A request that waits.
pub(super) struct Waiter {
    id: u64,
    seats: u32,
    pub(super) wake: oneshot::Sender<Seat>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiter>,
    /// How much time it has had: seats times microseconds on the level's virtual clock.
    had: u64,
}

/// All queues; those that were never needed are not there.
#[derive(Default)]
pub(super) struct Line {
    queuing: Option<Queuing>,
    queues: HashMap<u32, Queue>,
    /// What the queue that was served last had had: who comes anew begins here.
    clock: u64,
    last: u64,
}

impl Line {
    /// A new configuration is for those who come from now on.
    pub(super) fn configure(&mut self, queuing: Option<Queuing>) {
        self.queuing = queuing;
    }

    /// Whether anybody may wait.
    pub(super) fn queues(&self) -> bool {
        self.queuing.is_some()
    }

    /// Puts a request of a flow into the shortest queue of its hand; the queue and its number there, or `None`
    /// when that one is full.
    pub(super) fn join(&mut self, flow: u64, seats: u32, wake: oneshot::Sender<Seat>) -> Option<(u32, u64)> {
        let queuing = self.queuing?;
        let length = |queue: &u32| self.queues.get(queue).map_or(0, |queue| queue.waiting.len());
        let chosen = deal(flow, queuing.queues, queuing.hand).into_iter().min_by_key(length)?;
        if length(&chosen) >= queuing.length {
            return None;
        }
        if self.queues.len() >= FORGET_FROM {
            let clock = self.clock;
            self.queues.retain(|_, queue| !queue.waiting.is_empty() || queue.had > clock);
        }
        let queue = self.queues.entry(chosen).or_default();
        if queue.waiting.is_empty() {
            queue.had = queue.had.max(self.clock);
        }
        self.last += 1;
        queue.waiting.push_back(Waiter { id: self.last, seats, wake });
        Some((chosen, self.last))
    }

    /// The queue that is next, and the seats that its first request wants.
    pub(super) fn next(&self) -> Option<(u32, u32)> {
        let waiting = self.queues.iter().filter_map(|(number, queue)| {
            let first = queue.waiting.front()?;
            Some(((queue.had, first.id), (*number, first.seats)))
        });
        waiting.min_by_key(|(order, _)| *order).map(|(_, found)| found)
    }

    /// Takes the first request of a queue and charges for it.
    pub(super) fn pop(&mut self, number: u32) -> Option<Waiter> {
        let queue = self.queues.get_mut(&number)?;
        let waiter = queue.waiting.pop_front()?;
        self.clock = self.clock.max(queue.had);
        queue.had = queue.had.saturating_add(u64::from(waiter.seats) * ESTIMATE);
        Some(waiter)
    }

    /// Charges a queue for what a request really took instead of the estimate.
    pub(super) fn charge(&mut self, number: u32, seats: u32, took: Duration) {
        if let Some(queue) = self.queues.get_mut(&number) {
            let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            let estimate = u64::from(seats) * ESTIMATE;
            queue.had =
                queue.had.saturating_sub(estimate).saturating_add(u64::from(seats).saturating_mul(took));
        }
    }

    /// Takes a request out; whether it was still there.
    pub(super) fn leave(&mut self, number: u32, id: u64) -> bool {
        let Some(queue) = self.queues.get_mut(&number) else { return false };
        let Some(at) = queue.waiting.iter().position(|waiter| waiter.id == id) else { return false };
        queue.waiting.remove(at);
        true
    }
}

/// `hand` different queues out of `queues`, always the same for a flow.
fn deal(mut flow: u64, queues: u32, hand: u32) -> Vec<u32> {
    let mut dealt: Vec<u32> = Vec::with_capacity(usize::try_from(hand).unwrap_or_default());
    for round in 0..hand.min(queues) {
        let left = u64::from(queues - round);
        let mut card = u32::try_from(flow % left).unwrap_or_default();
        flow /= left;
        // Cards already dealt are skipped, so that the rest of the deck stays evenly likely.
        let mut before = dealt.clone();
        before.sort_unstable();
        for other in before {
            if card >= other {
                card += 1;
            }
        }
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn hands_are_different_queues_and_stay_the_same() {
        for flow in [0, 1, 12_345, u64::MAX, 0x9e37_79b9_7f4a_7c15] {
            for (queues, hand) in [(1, 1), (4, 4), (64, 6), (128, 6)] {
                let dealt = deal(flow, queues, hand);
                let different: BTreeSet<u32> = dealt.iter().copied().collect();
                assert_eq!(different.len(), usize::try_from(hand).unwrap(), "{flow} {queues} {dealt:?}");
                assert!(dealt.iter().all(|queue| *queue < queues));
                assert_eq!(dealt, deal(flow, queues, hand));
            }
        }
    }

    fn line(length: usize) -> Line {
        let mut line = Line::default();
        line.configure(Some(Queuing { queues: 64, hand: 1, length }));
        line
    }

    /// Joins without anybody who listens: enough to see who is next.
    fn join(line: &mut Line, flow: u64) -> Option<(u32, u64)> {
        line.join(flow, 1, oneshot::channel().0)
    }

    #[test]
    fn a_flow_with_many_requests_waits_behind_one_with_few() {
        let mut line = line(50);
        for _ in 0..10 {
            join(&mut line, 1).unwrap();
        }
        let mut served = Vec::new();
        for round in 0..12 {
            if round == 3 {
                join(&mut line, 2).unwrap();
                join(&mut line, 2).unwrap();
            }
            let (queue, _) = line.next().unwrap();
            line.pop(queue).unwrap();
            served.push(queue);
        }
        assert_eq!(served, [1, 1, 1, 2, 1, 2, 1, 1, 1, 1, 1, 1]);
        assert!(line.next().is_none());
    }

    #[test]
    fn who_takes_long_is_charged_for_it() {
        let mut line = line(50);
        for _ in 0..4 {
            join(&mut line, 1).unwrap();
            join(&mut line, 2).unwrap();
        }
        line.pop(1).unwrap();
        line.charge(1, 1, Duration::from_micros(2_500));
        let mut served = Vec::new();
        while let Some((queue, _)) = line.next() {
            line.pop(queue).unwrap();
            served.push(queue);
        }
        assert_eq!(served, [2, 2, 2, 1, 2, 1, 1]);
    }

    #[test]
    fn queues_are_bounded_and_can_be_left() {
        let mut line = line(2);
        let (queue, first) = join(&mut line, 7).unwrap();
        join(&mut line, 7).unwrap();
        assert!(join(&mut line, 7).is_none(), "full");
        assert!(line.leave(queue, first));
        assert!(!line.leave(queue, first), "it is gone already");
        assert!(join(&mut line, 7).is_some());
        for flow in 0..10_000 {
            if join(&mut line, flow).is_some() {
                let (queue, _) = line.next().unwrap();
                line.pop(queue).unwrap();
            }
        }
        assert!(line.queues.len() <= 64);
    }
}
