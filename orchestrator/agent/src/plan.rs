//! What to do next for one pod: a pure function of what the API asks, what is the case, and the time.
//!
//! ```text
//!            images, place, volumes          mains ended for good, deadline
//!   (new) ──pull, prepare──▶ init ─▶ run ───────────────┐
//!                              │      │ deletion        ▼
//!                              └──────┴────────────▶ wind down ─▶ release ─▶ remove (only when deleted)
//! ```
//!
//! The worker runs the actions in order and plans again; nothing here remembers anything.

use jiff::{SignedDuration, Timestamp};

use crate::eviction::EVICTED;
use crate::images::reference::normalize;
use crate::members::{Desired, Member, Role, members, spec};
use crate::observe::{ImageState, Life, Observed, Prepared, Progress, Stopping};
use crate::probe::Kind;
use crate::record::Finished;
use crate::restart::{Verdict, crashes_after, verdict};
use crate::sysctls;

/// How soon a shim that did not answer is asked again.
const ASK_AGAIN: SignedDuration = SignedDuration::from_secs(1);
/// For how long a fresh pull error is shown as `ErrImagePull`, before it becomes `ImagePullBackOff`.
pub(crate) const SHOW_PULL_ERROR: SignedDuration = SignedDuration::from_secs(2);

/// What a program has after TERM when its preStop hook took all the time there was.
pub(crate) const LAST_MOMENT: SignedDuration = SignedDuration::from_secs(2);

/// One thing to do. Containers are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Notes how a container ended, and lets the shim forget it.
    Harvest(String, Finished),
    /// Begins to pull the container's image, beside the worker.
    Pull(String),
    /// Network, namespaces, volumes, files (`prepare::STEPS`).
    Prepare,
    /// Makes the next attempt of a container and starts it.
    Start(String),
    /// Starts a container that was created when the agent was interrupted.
    Resume(String),
    /// Notes that the pod ends now.
    BeginEnd,
    /// Notes that the agent ends the pod, with status reason and message.
    BeginFailure(&'static str, String),
    /// Begins to wait until no Service sends new connections, beside the worker.
    Drain,
    /// Notes that a container is being stopped and begins its preStop hook, beside the worker.
    BeginStop(String, Why),
    Signal(String, Signal),
    /// Gives back what the pod holds on this node.
    Release,
    /// Removes the Pod object.
    Remove,
}

/// Why a container is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    PodEnds,
    Probe(Kind),
    PostStart,
    /// Its image in the pod's specification is another one now.
    Changed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The image's stop signal, or TERM.
    Stop,
    Kill,
}

/// What to do now, and when to look again though nothing happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) wake: Option<Timestamp>,
}

/// Plans the next steps of a pod.
pub(crate) fn plan(desired: &Desired, seen: &Observed, now: Timestamp) -> Plan {
    let mut planner = Planner { desired, seen, now, plan: Plan::default() };
    planner.pod();
    planner.plan
}

struct Planner<'a> {
    desired: &'a Desired,
    seen: &'a Observed,
    now: Timestamp,
    plan: Plan,
}

/// Whether the pod goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Course {
    GoesOn,
    Over,
}

// === impl Planner ===

impl Planner<'_> {
    fn pod(&mut self) {
        if self.seen.record.released {
            if self.desired.ending() {
                self.push(Action::Remove);
            }
            return;
        }
        self.harvest();
        if self.desired.ending() {
            if self.seen.record.ending_since.is_none() {
                self.push(Action::BeginEnd);
            }
            if self.seen.drained == Progress::NotBegun && self.seen.record.sandbox.is_some() {
                self.push(Action::Drain);
            }
            return self.wind_down();
        }
        let over = self.seen.record.failed.is_some()
            || self.evicted()
            || self.sysctl_forbidden()
            || self.deadline_passed()
            || self.run() == Course::Over;
        if over {
            self.wind_down();
        }
    }

    fn push(&mut self, action: Action) {
        self.plan.actions.push(action);
    }

    fn wake(&mut self, at: Timestamp) {
        self.plan.wake = Some(self.plan.wake.map_or(at, |earlier| earlier.min(at)));
    }

    fn life(&self, name: &str) -> Life {
        self.seen.life(name, self.now)
    }

    /// Ends that were seen and not written down yet.
    fn harvest(&mut self) {
        for (name, record) in &self.seen.record.containers {
            if record.finished.is_none()
                && let Life::Ended(finished) = self.life(name)
            {
                self.push(Action::Harvest(name.clone(), finished));
            }
        }
    }

    /// The node wants to be rid of it.
    fn evicted(&mut self) -> bool {
        let Some(message) = self.seen.evicted.clone() else { return false };
        self.push(Action::BeginFailure(EVICTED, message));
        true
    }

    /// Seconds between TERM and KILL.
    fn grace(&self) -> i64 {
        self.seen.record.grace(self.desired)
    }

    /// `activeDeadlineSeconds`.
    fn deadline_passed(&mut self) -> bool {
        let seconds = spec(&self.desired.pod).active_deadline_seconds;
        let (Some(seconds), Some(started)) = (seconds, self.seen.record.started) else { return false };
        let deadline = started + SignedDuration::from_secs(seconds);
        if self.now < deadline {
            self.wake(deadline);
            return false;
        }
        self.push(Action::BeginFailure(
            "DeadlineExceeded",
            "Pod was active on the node longer than the specified deadline".to_owned(),
        ));
        true
    }

    /// A setting of the kernel that would change more than the pod: nothing of the pod is started.
    fn sysctl_forbidden(&mut self) -> bool {
        let pod = &self.desired.pod;
        let Some(name) = sysctls::forbidden(spec(pod)) else { return false };
        let text =
            format!("forbidden sysctl: {name:?} is not on the safe list, or is the node's own in this pod");
        self.push(Action::BeginFailure(sysctls::FORBIDDEN, text));
        true
    }

    /// Brings the containers up in order and keeps them up.
    fn run(&mut self) -> Course {
        let pod = self.desired.pod.clone();
        if self.mains_are_over() {
            return Course::Over;
        }
        self.pull_all();
        let past_init = self.past_init();
        for first in members(&pod).filter(|member| member.role != Role::Main) {
            match (first.role, past_init) {
                (Role::Sidecar, true) => {
                    self.keep_up(first);
                }
                (_, true) => {}
                (_, false) => match self.init_step(first) {
                    InitStep::Passed => {}
                    InitStep::Busy => return Course::GoesOn,
                    InitStep::Failed => return Course::Over,
                },
            }
        }
        let mut over = true;
        for main in members(&pod).filter(|member| member.role == Role::Main) {
            over &= self.keep_up(main) == Course::Over;
        }
        if over { Course::Over } else { Course::GoesOn }
    }

    /// Once a main container was made, init containers are not run again.
    fn past_init(&self) -> bool {
        let mut mains = members(&self.desired.pod).filter(|member| member.role == Role::Main);
        mains.any(|main| self.seen.record.containers.contains_key(main.name()))
    }

    /// Every main container ended for good: sidecars are not kept up any longer.
    fn mains_are_over(&self) -> bool {
        let mut mains = members(&self.desired.pod).filter(|member| member.role == Role::Main);
        mains.all(|main| match self.life(main.name()) {
            Life::Ended(end) => !matches!(self.fate(main, &end), Verdict::At(_)),
            _ => false,
        })
    }

    fn pull_all(&mut self) {
        let pod = self.desired.pod.clone();
        let past_init = self.past_init();
        for member in members(&pod) {
            let wanted = match self.life(member.name()) {
                Life::Fresh => !(member.role == Role::Init && past_init),
                Life::Ended(end) => {
                    let done = member.role == Role::Init && (past_init || end.code == 0);
                    !done && matches!(self.fate(member, &end), Verdict::At(_))
                }
                Life::Created | Life::Running { .. } | Life::Unknown => false,
            };
            match &self.seen.seen(member.name()).image {
                ImageState::Idle if wanted => self.push(Action::Pull(member.name().to_owned())),
                ImageState::Failed(trouble) if wanted && trouble.retry_at <= self.now => {
                    self.push(Action::Pull(member.name().to_owned()));
                }
                ImageState::Failed(trouble) if wanted => {
                    let shown = trouble.since + SHOW_PULL_ERROR;
                    let next = if self.now < shown { shown } else { trouble.retry_at };
                    self.wake(next.min(trouble.retry_at));
                }
                _ => {}
            }
        }
    }

    fn fate(&self, member: Member<'_>, finished: &Finished) -> Verdict {
        let policy = member.policy(&self.desired.pod);
        let record = self.seen.record.containers.get(member.name());
        if self.is_changed(member) {
            return Verdict::At(finished.at);
        }
        let crashes = record.map_or(1, |record| match record.finished {
            Some(_) => record.crashes,
            None => crashes_after(record, finished),
        });
        verdict(policy, finished, crashes)
    }

    fn init_step(&mut self, init: Member<'_>) -> InitStep {
        if init.role == Role::Sidecar {
            self.keep_up(init);
            let seen = self.seen.seen(init.name());
            let up = matches!(self.life(init.name()), Life::Running { .. })
                && seen.probes.started()
                && seen.post_start != Progress::UnderWay;
            return if up { InitStep::Passed } else { InitStep::Busy };
        }
        match self.life(init.name()) {
            Life::Ended(end) => match self.fate(init, &end) {
                Verdict::Succeeded => InitStep::Passed,
                Verdict::Failed => InitStep::Failed,
                Verdict::At(_) if end.code == 0 => InitStep::Passed,
                Verdict::At(at) => {
                    self.start_at(init, at);
                    InitStep::Busy
                }
            },
            _ => {
                self.keep_up(init);
                InitStep::Busy
            }
        }
    }

    /// Starts what is not up, restarts what ended, stops what must be restarted.
    fn keep_up(&mut self, member: Member<'_>) -> Course {
        match self.life(member.name()) {
            Life::Fresh => self.start_at(member, self.now),
            Life::Created => match &self.seen.seen(member.name()).trouble {
                Some(trouble) if trouble.retry_at > self.now => self.wake(trouble.retry_at),
                _ => self.push(Action::Resume(member.name().to_owned())),
            },
            Life::Running { .. } => self.supervise(member),
            Life::Unknown => self.wake(self.now + ASK_AGAIN),
            Life::Ended(end) => match self.fate(member, &end) {
                Verdict::At(at) => self.start_at(member, at),
                Verdict::Succeeded | Verdict::Failed => return Course::Over,
            },
        }
        Course::GoesOn
    }

    /// Whether the container was made from another image than its specification names now.
    fn is_changed(&self, member: Member<'_>) -> bool {
        let record = self.seen.record.containers.get(member.name());
        let named = member.container.image.as_deref().and_then(|name| normalize(name).ok());
        member.role != Role::Init
            && record.is_some_and(|record| named.is_some_and(|named| named != record.image))
    }

    /// A running container goes down only when a probe or its postStart hook failed, or when it is to be another.
    fn supervise(&mut self, member: Member<'_>) {
        let seen = self.seen.seen(member.name());
        let why = match (seen.post_start, seen.probes.fatal()) {
            _ if self.is_changed(member) => Why::Changed,
            (Progress::Failed, _) => Why::PostStart,
            (_, Some(kind)) => Why::Probe(kind),
            (_, None) => return,
        };
        let of_probe = match why {
            Why::Probe(kind) => {
                kind.of(member.container).and_then(|probe| probe.termination_grace_period_seconds)
            }
            Why::PodEnds | Why::PostStart | Why::Changed => None,
        };
        let grace = of_probe.unwrap_or_else(|| self.grace());
        let since = seen.stopping.map_or(self.now, |stopping| stopping.since);
        self.stop(member.name(), why, since + SignedDuration::from_secs(grace), Progress::Done);
    }

    fn start_at(&mut self, member: Member<'_>, at: Timestamp) {
        if at > self.now {
            return self.wake(at);
        }
        let seen = self.seen.seen(member.name());
        if let Some(trouble) = &seen.trouble
            && trouble.retry_at > self.now
        {
            return self.wake(trouble.retry_at);
        }
        if !matches!(seen.image, ImageState::Here(_)) {
            return;
        }
        match &self.seen.prepared {
            Prepared::Failed(trouble) if trouble.retry_at > self.now => return self.wake(trouble.retry_at),
            Prepared::Done => {}
            Prepared::No | Prepared::Failed(_) if self.plan.actions.contains(&Action::Prepare) => {}
            Prepared::No | Prepared::Failed(_) => {
                if !self.place_is_known() {
                    return;
                }
                self.push(Action::Prepare);
            }
        }
        self.push(Action::Start(member.name().to_owned()));
    }

    /// The pod's place depends on what its images are, unless it has one or its RuntimeClass says it.
    fn place_is_known(&self) -> bool {
        let pod = &self.desired.pod;
        if self.seen.record.sandbox.is_some() {
            return true;
        }
        let Ok(handler) = crate::runtime::Handler::parse(spec(pod).runtime_class_name.as_deref()) else {
            return true; // `prepare` says what is wrong
        };
        let kinds: Vec<_> = members(pod)
            .map(|member| match &self.seen.seen(member.name()).image {
                ImageState::Here(image) => Some(image.kind),
                _ => None,
            })
            .collect();
        crate::runtime::place(handler, spec(pod).host_network == Some(true), &kinds, "").is_some()
    }

    /// Stops what runs: main and init containers at once, then the sidecars, last first. Then gives all back.
    fn wind_down(&mut self) {
        let pod = self.desired.pod.clone();
        let since = self.seen.record.ending_since.unwrap_or(self.now);
        let (since, drained) =
            if self.desired.ending() { (Some(since), self.seen.drained) } else { (None, Progress::Done) };
        let drained = if self.seen.record.sandbox.is_none() { Progress::Done } else { drained };
        let (sidecars, others): (Vec<_>, Vec<_>) =
            members(&pod).rev().partition(|member| member.role == Role::Sidecar);
        let mut alive = false;
        for member in others {
            alive |= self.stop_if_alive(member, since, drained);
        }
        for member in sidecars {
            if alive {
                return;
            }
            alive = self.stop_if_alive(member, since, drained);
        }
        if !alive {
            self.push(Action::Release);
        }
    }

    fn stop_if_alive(&mut self, member: Member<'_>, since: Option<Timestamp>, drained: Progress) -> bool {
        match self.life(member.name()) {
            Life::Fresh | Life::Ended(_) => return false,
            Life::Unknown => self.wake(self.now + ASK_AGAIN),
            Life::Created
                if self.seen.seen(member.name()).stopping.is_some_and(|stopping| stopping.kill_sent) =>
            {
                self.wake(self.now + ASK_AGAIN);
            }
            Life::Created => self.push(Action::Signal(member.name().to_owned(), Signal::Kill)),
            Life::Running { .. } => {
                let begun = self.seen.seen(member.name()).stopping.map(|stopping| stopping.since);
                let since = since.or(begun).unwrap_or(self.now);
                let deadline = since + SignedDuration::from_secs(self.grace());
                self.stop(member.name(), Why::PodEnds, deadline, drained);
            }
        }
        true
    }

    /// preStop hook and draining, then TERM, then (at the deadline) KILL. A hook that is not done by then costs its
    /// program only a [`LAST_MOMENT`]: it gets TERM all the same.
    fn stop(&mut self, name: &str, why: Why, deadline: Timestamp, drained: Progress) {
        let Some(stopping) = self.seen.seen(name).stopping else {
            self.push(Action::BeginStop(name.to_owned(), why));
            return;
        };
        let Stopping { hook, term_sent, kill_sent, .. } = stopping;
        let late_hook = hook == Progress::UnderWay;
        let kill_at = if late_hook { deadline + LAST_MOMENT } else { deadline };
        if self.now >= kill_at {
            if kill_sent {
                self.wake(self.now + ASK_AGAIN);
            } else {
                self.push(Action::Signal(name.to_owned(), Signal::Kill));
            }
            return;
        }
        let ready = !late_hook && matches!(drained, Progress::Done | Progress::Failed);
        if !term_sent && (ready || self.now >= deadline) {
            self.push(Action::Signal(name.to_owned(), Signal::Stop));
        }
        self.wake(if self.now < deadline { deadline } else { kill_at });
    }
}

enum InitStep {
    Passed,
    Busy,
    Failed,
}

#[cfg(test)]
mod tests;
