//! Pods that wait for a node: ready to be tried, backing off after a failure, or waiting for an event that can
//! help. A pure structure; time is an argument.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::filter::Reason;

/// A pod's uid.
pub(crate) type Uid = std::sync::Arc<str>;

/// The first pause after a failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// After this long a pod is tried again though nothing that could help has happened.
const PATIENCE: Duration = Duration::from_secs(300);

/// Something that may help a pod that found no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Help {
    /// A node came, or something about one changed.
    Node,
    /// A pod left a node.
    Room,
    /// A RuntimeClass came or changed.
    RuntimeClass,
    /// Something about claims, volumes or storage classes changed.
    Volume,
}

/// What a pod waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waits {
    events: HashSet<Help>,
}

impl Waits {
    /// What helps against these reasons. A node helps against all of them.
    pub(crate) fn of<'a>(reasons: impl IntoIterator<Item = &'a Reason>) -> Self {
        let mut events = HashSet::from([Help::Node]);
        for reason in reasons {
            if reason.is_curable() {
                events.insert(Help::Room);
            }
            if reason.is_of_volumes() {
                events.insert(Help::Volume);
            }
        }
        Self { events }
    }

    /// Its claims must come, be bound, or be given up by another pod.
    pub(crate) fn for_volumes() -> Self {
        Self { events: HashSet::from([Help::Volume, Help::Room]) }
    }

    /// Its RuntimeClass must come.
    pub(crate) fn for_runtime_class() -> Self {
        Self { events: HashSet::from([Help::RuntimeClass]) }
    }
}

/// The order among pods that are ready: the highest priority first, then first come, first served.
type Turn = (std::cmp::Reverse<i32>, u64);

#[derive(Debug)]
enum Place {
    Active(Turn),
    BackOff(Instant),
    Unschedulable {
        waits: Waits,
        since: Instant,
    },
    /// Given out.
    Out {
        helped: bool,
    },
}

#[derive(Debug)]
struct Entry {
    priority: i32,
    failures: u32,
    /// Not before this time.
    due: Instant,
    place: Place,
}

/// All pods that wait.
#[derive(Default)]
pub(crate) struct Queue {
    entries: HashMap<Uid, Entry>,
    active: BTreeMap<Turn, Uid>,
    back_off: BTreeSet<(Instant, Uid)>,
    unschedulable: HashSet<Uid>,
    next: u64,
}

impl Queue {
    /// A pod needs a node. One that is known already stays where it is, unless `changed` says that it asks for
    /// something else now.
    pub(crate) fn add(&mut self, uid: &Uid, priority: i32, changed: bool, now: Instant) {
        match self.entries.get_mut(uid) {
            None => {
                let entry = Entry { priority, failures: 0, due: now, place: Place::Out { helped: false } };
                self.entries.insert(uid.clone(), entry);
                self.activate(uid);
            }
            Some(entry) if changed => {
                entry.priority = priority;
                self.help_one(uid, now);
            }
            Some(_) => {}
        }
    }

    /// The pod has a node now, or is gone.
    pub(crate) fn remove(&mut self, uid: &Uid) {
        if let Some(entry) = self.entries.remove(uid) {
            self.leave(uid, &entry.place);
        }
    }

    /// Gives out up to `most` pods that are ready, in their order.
    pub(crate) fn take(&mut self, most: usize, now: Instant) -> Vec<Uid> {
        self.wake(now);
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some((_, uid)) = self.active.pop_first()
        {
            self.entry(&uid).place = Place::Out { helped: false };
            taken.push(uid);
        }
        taken
    }

    /// A pod that was given out found no node.
    pub(crate) fn refused(&mut self, uid: &Uid, waits: Waits, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let Place::Out { helped } = entry.place else { return };
        entry.failures += 1;
        entry.due = now + pause(entry.failures);
        if helped {
            // Something happened while it was looked at.
            entry.place = Place::BackOff(entry.due);
            self.back_off.insert((entry.due, uid.clone()));
        } else {
            entry.place = Place::Unschedulable { waits, since: now };
            self.unschedulable.insert(uid.clone());
        }
    }

    /// A pod that was given out found a node, but could not be bound: it is tried again after a pause.
    pub(crate) fn failed(&mut self, uid: &Uid, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if matches!(entry.place, Place::Out { .. }) {
            entry.failures += 1;
            entry.due = now + pause(entry.failures);
            entry.place = Place::BackOff(entry.due);
            self.back_off.insert((entry.due, uid.clone()));
        }
    }

    /// Something happened that may help those who wait for it.
    pub(crate) fn help(&mut self, event: Help, now: Instant) {
        let waits = |uid: &&Uid| match &self.entries[*uid].place {
            Place::Unschedulable { waits, .. } => waits.events.contains(&event),
            _ => false,
        };
        let helped: Vec<Uid> = self.unschedulable.iter().filter(waits).cloned().collect();
        for uid in helped {
            self.help_one(&uid, now);
        }
        // Those being looked at may have been judged by what was before.
        for entry in self.entries.values_mut() {
            if let Place::Out { helped } = &mut entry.place {
                *helped = true;
            }
        }
    }

    /// When something becomes ready by the passing of time.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.back_off.first().map(|(due, _)| *due)
    }

    /// Is a pod ready to be tried?
    pub(crate) fn has_ready(&self) -> bool {
        !self.active.is_empty()
    }

    /// Ends the pause of those whose time has come.
    fn wake(&mut self, now: Instant) {
        while let Some((due, _)) = self.back_off.first()
            && *due <= now
        {
            let (_, uid) = self.back_off.pop_first().expect("it was just looked at");
            self.activate(&uid);
        }
    }

    /// Tries those again that have waited for very long. Called now and then.
    pub(crate) fn wake_forgotten(&mut self, now: Instant) {
        let old = |uid: &&Uid| match &self.entries[*uid].place {
            Place::Unschedulable { since, .. } => now - *since >= PATIENCE,
            _ => false,
        };
        let old: Vec<Uid> = self.unschedulable.iter().filter(old).cloned().collect();
        for uid in old {
            self.help_one(&uid, now);
        }
    }

    fn help_one(&mut self, uid: &Uid, now: Instant) {
        let entry = self.entry(uid);
        match &mut entry.place {
            Place::Out { helped } => *helped = true,
            Place::Active(_) | Place::BackOff(_) => {}
            Place::Unschedulable { .. } => {
                let due = entry.due;
                self.unschedulable.remove(uid);
                if due <= now {
                    self.activate(uid);
                } else {
                    self.entry(uid).place = Place::BackOff(due);
                    self.back_off.insert((due, uid.clone()));
                }
            }
        }
    }

    fn activate(&mut self, uid: &Uid) {
        let number = self.next;
        self.next += 1;
        let entry = self.entry(uid);
        let turn = (std::cmp::Reverse(entry.priority), number);
        entry.place = Place::Active(turn);
        self.active.insert(turn, uid.clone());
    }

    fn leave(&mut self, uid: &Uid, place: &Place) {
        match place {
            Place::Active(turn) => drop(self.active.remove(turn)),
            Place::BackOff(due) => drop(self.back_off.remove(&(*due, uid.clone()))),
            Place::Unschedulable { .. } => drop(self.unschedulable.remove(uid)),
            Place::Out { .. } => {}
        }
    }

    fn entry(&mut self, uid: &Uid) -> &mut Entry {
        self.entries.get_mut(uid).expect("every pod in a place has an entry")
    }
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(10))).min(LAST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(name: &str) -> Uid {
        Uid::from(name)
    }

    fn take(queue: &mut Queue, now: Instant) -> Vec<String> {
        queue.take(10, now).iter().map(ToString::to_string).collect()
    }

    fn no_cpu() -> Waits {
        Waits::of(&[Reason::Insufficient("cpu".into())])
    }

    #[tokio::test(start_paused = true)]
    async fn priority_then_age() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0)] {
            queue.add(&uid(name), priority, false, now);
        }
        queue.remove(&uid("a"));
        queue.add(&uid("d"), 0, false, now);
        assert_eq!(take(&mut queue, now), ["b", "c", "d"]);
        assert!(!queue.has_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_can_help_wakes() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for name in ["room", "label", "class"] {
            queue.add(&uid(name), 0, false, now);
        }
        take(&mut queue, now);
        queue.refused(&uid("room"), no_cpu(), now);
        queue.refused(&uid("label"), Waits::of(&[Reason::Selector]), now);
        queue.refused(&uid("class"), Waits::for_runtime_class(), now);
        let later = now + Duration::from_secs(30);
        queue.help(Help::Room, later);
        assert_eq!(take(&mut queue, later), ["room"]);
        queue.help(Help::RuntimeClass, later);
        assert_eq!(take(&mut queue, later), ["class"]);
        queue.help(Help::Node, later);
        assert_eq!(take(&mut queue, later), ["label"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_followed_by_a_pause_that_grows() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.add(&uid("a"), 0, false, now);
        for seconds in [1, 2, 4, 8, 10, 10] {
            assert_eq!(take(&mut queue, now), ["a"]);
            queue.refused(&uid("a"), no_cpu(), now);
            queue.help(Help::Node, now);
            assert_eq!(take(&mut queue, now), Vec::<String>::new(), "help does not shorten the pause");
            now += Duration::from_secs(seconds);
            assert!(queue.next_due().is_some_and(|due| due <= now));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn help_that_comes_while_it_is_looked_at_is_not_lost() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(&uid("a"), 0, false, now);
        take(&mut queue, now);
        queue.help(Help::Room, now);
        queue.refused(&uid("a"), no_cpu(), now);
        assert_eq!(take(&mut queue, now + Duration::from_secs(1)), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(&uid("a"), 0, false, now);
        take(&mut queue, now);
        queue.refused(&uid("a"), no_cpu(), now);
        queue.wake_forgotten(now + Duration::from_secs(299));
        assert!(take(&mut queue, now + Duration::from_secs(299)).is_empty());
        queue.wake_forgotten(now + PATIENCE);
        assert_eq!(take(&mut queue, now + PATIENCE), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_asks_for_something_else_is_tried_again() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(&uid("a"), 0, false, now);
        take(&mut queue, now);
        queue.refused(&uid("a"), no_cpu(), now);
        let later = now + Duration::from_secs(5);
        queue.add(&uid("a"), 0, false, later);
        assert!(take(&mut queue, later).is_empty(), "the same again is no news");
        queue.add(&uid("a"), 0, true, later);
        assert_eq!(take(&mut queue, later), ["a"]);
    }
}
