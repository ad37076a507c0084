//! One pod's worker: wait → observe → plan → apply → report, until the pod is gone.
//!
//! It owns all that is known of the pod. Slow things (pulls, hooks, draining) run beside it and post their result to
//! it; everybody else only wakes it. Whatever it holds in memory can be lost: the shims, the record and the API say
//! where to go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{Instrument, info_span, warn};

use crate::config::PodPaths;
use crate::context::Context;
use crate::hooks::HookError;
use crate::images::{Image, PullError};
use crate::listeners::Listeners;
use crate::members::{Desired, member, members, uid};
use crate::observe::{ImageState, Observed, Progress, Task, Trouble, live_ids};
use crate::plan::{Plan, plan};
use crate::probe::{Health, Probes};
use crate::prober::Probers;
use crate::record::{PodRecord, write_atomically};
use crate::reporter::Reporter;
use crate::restart::retry_pause;
use crate::runtime::ShimKey;

/// After so many turns without a pause the worker takes one: a plan that does not come to rest must not eat a core.
const TURNS: u32 = 50;
const BREATHER: Duration = Duration::from_secs(1);
/// A worker looks at its pod at least this often, to notice what no event told; and as often it brings volumes up to
/// date.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// One pod's worker.
pub(crate) struct Worker {
    pub(crate) context: Arc<Context>,
    pub(crate) paths: PodPaths,
    pub(crate) desired: Desired,
    pub(crate) seen: Observed,
    /// Pulls, hooks, draining.
    pub(crate) beside: JoinSet<Beside>,
    pub(crate) probers: Probers,
    pub(crate) reporter: Reporter,
    updates: watch::Receiver<Desired>,
    wake: Arc<Notify>,
    /// When the volumes were last brought up to date, or begun to.
    refreshed: Instant,
}

/// An image that was asked for.
pub(crate) struct Pulled {
    pub(crate) container: String,
    /// Its name in the specification, at that time.
    pub(crate) image: String,
    pub(crate) result: Result<Arc<Image>, PullError>,
}

/// What ran beside the worker and is done.
pub(crate) enum Beside {
    Pulled(Pulled),
    PostStart {
        container: String,
        attempt: u32,
        result: Result<(), HookError>,
    },
    PreStop {
        container: String,
        attempt: u32,
        result: Result<(), HookError>,
    },
    Drained,
    /// Volumes were brought up to date.
    Refreshed,
}

/// What a turn led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Something was done: there may be more to do at once.
    Progress,
    /// A step failed, or was skipped: what follows it in the plan is void, and it is planned again.
    Interrupted,
    /// Nothing to do until something happens.
    Rest,
    /// The pod is gone.
    Gone,
}

// === impl Worker ===

impl Worker {
    pub(crate) fn new(context: Arc<Context>, updates: watch::Receiver<Desired>) -> Self {
        let desired = updates.borrow().clone();
        let uid = uid(&desired.pod).to_owned();
        let paths = context.paths.pod(&uid);
        let wake = context.wakers.add(&uid);
        let reporter = Reporter::new(context.client.clone(), &desired.pod);
        let record = PodRecord::load(&paths.record());
        let mut worker = Worker {
            seen: Observed { record, ..Observed::default() },
            beside: JoinSet::new(),
            probers: Probers::new(wake.clone()),
            context,
            paths,
            desired,
            reporter,
            updates,
            wake,
            refreshed: Instant::now(),
        };
        worker.recall();
        worker
    }

    /// Works until the pod is gone.
    pub(crate) async fn run(mut self) {
        let span = info_span!(
            "pod",
            namespace = crate::members::namespace(&self.desired.pod),
            name = crate::members::name(&self.desired.pod),
            uid = self.uid()
        );
        async {
            self.begin().await;
            let mut turns = 0;
            loop {
                let (turn, plan) = self.turn().await;
                turns += 1;
                match turn {
                    Turn::Gone => break,
                    Turn::Progress | Turn::Interrupted if turns < TURNS => continue,
                    Turn::Progress | Turn::Interrupted => tokio::time::sleep(BREATHER).await,
                    Turn::Rest => self.wait(plan.wake).await,
                }
                turns = 0;
            }
            self.context.wakers.remove(self.uid());
        }
        .instrument(span)
        .await;
    }

    pub(crate) fn uid(&self) -> &str {
        uid(&self.desired.pod)
    }

    /// What can be known before the first look: an agent that was restarted keeps the readiness that it reported, so
    /// that no Service loses an endpoint.
    fn recall(&mut self) {
        let status = self.desired.pod.status.clone().unwrap_or_default();
        let reported: Vec<_> = [status.container_statuses, status.init_container_statuses]
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        let pod = self.desired.pod.clone();
        for (name, record) in &self.seen.record.containers {
            let Some(member) = member(&pod, name).filter(|_| record.created && record.finished.is_none())
            else {
                continue;
            };
            let mut probes = Probes::initial(member.container);
            let same_attempt = |count: i32| u32::try_from(count) == Ok(record.attempt);
            let before =
                reported.iter().find(|status| status.name == *name && same_attempt(status.restart_count));
            let started = before.is_some_and(|status| status.started == Some(true));
            if started && probes.startup == Health::Pending {
                probes.startup = Health::Pass;
            }
            if before.is_some_and(|status| status.ready) && probes.readiness == Health::Pending {
                probes.readiness = Health::Pass;
            }
            let seen = self.seen.containers.entry(name.clone()).or_default();
            seen.probes = probes;
            if started {
                seen.post_start = Progress::Done;
            }
        }
    }

    /// Notes that this node has seen the pod.
    async fn begin(&mut self) {
        if self.seen.record.started.is_none() {
            self.seen.record.started = Some(Timestamp::now());
            // A pod that ended before this node's files were lost is not run again.
            self.seen.record.released = self.has_ended();
            self.save();
        }
        let bytes = serde_json::to_vec(&*self.desired.pod).expect("a Pod is plain data");
        if let Err(error) = write_atomically(&self.paths.spec(), &bytes) {
            warn!(%error, "the pod's specification cannot be kept");
        }
        let running: Vec<_> =
            self.seen.record.containers.iter().filter(|(_, record)| record.finished.is_none()).collect();
        for (name, record) in running {
            if matches!(record.shim, ShimKey::Oci) {
                continue;
            }
            let Some(member) = member(&self.desired.pod, name) else { continue };
            if let Some(shim) = self.context.shims.running(&record.shim).await {
                let ports = crate::bundle::wasm::http_ports(member.container);
                let listeners: &Listeners = &self.context.listeners;
                listeners.take_back(&shim, self.uid(), &ports).await;
            }
        }
    }

    fn has_ended(&self) -> bool {
        let phase = self.desired.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    /// One turn of the loop.
    async fn turn(&mut self) -> (Turn, Plan) {
        let before = std::mem::replace(&mut self.desired, self.updates.borrow_and_update().clone());
        self.forget_images(&before.pod);
        self.reporter.observe(&self.desired.pod);
        self.observe().await;
        let now = Timestamp::now();
        let plan = {
            let _span = info_span!("plan").entered();
            plan(&self.desired, &self.seen, now)
        };
        let turn = self.apply(&plan).await;
        if turn != Turn::Gone {
            self.probe();
            self.report();
        }
        (turn, plan)
    }

    /// A container whose image in the specification changed begins with that one, whatever went wrong before.
    fn forget_images(&mut self, before: &Arc<Pod>) {
        if Arc::ptr_eq(before, &self.desired.pod) {
            return;
        }
        for now in members(&self.desired.pod) {
            let then = member(before, now.name()).map(|member| &member.container.image);
            if then.is_some_and(|image| *image != now.container.image)
                && let Some(seen) = self.seen.containers.get_mut(now.name())
            {
                seen.image = ImageState::Idle;
                seen.trouble = None;
            }
        }
    }

    /// Asks the shims about all containers that may be alive, and takes the probes' verdicts.
    async fn observe(&mut self) {
        let mut by_shim: BTreeMap<ShimKey, Vec<_>> = BTreeMap::new();
        for (name, id) in live_ids(self.uid(), &self.seen.record) {
            let shim = self.seen.record.containers[&name].shim.clone();
            by_shim.entry(shim).or_default().push((name, id));
        }
        for (key, containers) in by_shim {
            let ids: Vec<_> = containers.iter().map(|(_, id)| id.clone()).collect();
            let answer = match self.shim_to_ask(&key).await {
                Ok(Some(shim)) => shim.status(&ids).await,
                Ok(None) => Ok(Vec::new()),
                Err(error) => Err(error),
            };
            for (name, id) in containers {
                let task = match &answer {
                    Ok(statuses) => {
                        let found = statuses.iter().find(|status| status.id == id).cloned();
                        found.map_or(Task::Absent, Task::from_status)
                    }
                    Err(_) => Task::Unknown,
                };
                self.note_made(&name, &task);
                self.seen.containers.entry(name).or_default().task = task;
            }
        }
        self.take_verdicts();
        if let Some(message) = self.context.evictions.take(self.uid()) {
            self.seen.evicted = Some(message);
        }
    }

    /// The agent may have been interrupted between a container's creation and writing that down.
    fn note_made(&mut self, container: &str, task: &Task) {
        if matches!(task, Task::Absent | Task::Unknown) {
            return;
        }
        let record = self.seen.record.containers.get_mut(container);
        if let Some(record) = record.filter(|record| !record.created) {
            record.created = true;
            self.save();
        }
    }

    /// A wasm host that is gone took its containers along; the container shim is started to ask it.
    async fn shim_to_ask(
        &self,
        key: &ShimKey,
    ) -> Result<Option<Arc<crate::shims::Shim>>, crate::shims::ShimError> {
        match key {
            ShimKey::Oci => self.context.shims.ensure(key, None).await.map(Some),
            ShimKey::Shared(_) | ShimKey::Solo(_) => Ok(self.context.shims.running(key).await),
        }
    }

    fn take_verdicts(&mut self) {
        for (container, attempt, kind, health) in self.probers.verdicts() {
            let current = self.seen.record.containers.get(&container);
            if current.is_some_and(|record| record.attempt == attempt && record.finished.is_none()) {
                self.seen.containers.entry(container).or_default().probes.set(kind, health);
            }
        }
    }

    /// Runs the probes of what runs, and no others.
    fn probe(&mut self) {
        let context = self.context.clone();
        self.probers.sync(&context, &self.desired, &self.seen);
    }

    fn report(&mut self) {
        if self.seen.record.released && self.seen.record.containers.is_empty() && !self.desired.ending() {
            return; // what the API says of it is all there is
        }
        let _span = info_span!("status").entered();
        let host = self.context.config.node_address.to_string();
        let status = crate::report::status(&self.desired, &self.seen, &host, Timestamp::now());
        self.reporter.report(status);
    }

    /// Waits until something happened that may change the plan.
    async fn wait(&mut self, wake: Option<Timestamp>) {
        let until_wake = wake.map_or(LOOK_AGAIN, |at| {
            let left = at.duration_since(Timestamp::now());
            Duration::try_from(left).unwrap_or_default().min(LOOK_AGAIN)
        });
        tokio::select! {
            changed = self.updates.changed() => {
                if changed.is_err() {
                    // The agent stops: whoever started this task drops it.
                    std::future::pending::<()>().await;
                }
            }
            () = self.wake.notified() => {}
            Some(done) = self.beside.join_next() => {
                if let Ok(done) = done {
                    self.take(done);
                }
            }
            () = tokio::time::sleep(until_wake) => {}
        }
        while let Some(Ok(done)) = self.beside.try_join_next() {
            self.take(done);
        }
        // A pod that is woken again and again must not miss it.
        if self.refreshed.elapsed() >= LOOK_AGAIN {
            self.refreshed = Instant::now();
            self.refresh_volumes();
        }
    }

    /// Takes the result of something that ran beside.
    fn take(&mut self, done: Beside) {
        match done {
            Beside::Pulled(pulled) => self.take_pull(pulled),
            Beside::PostStart { container, attempt, result } => {
                if let Err(error) = &result {
                    let pod = self.desired.pod.clone();
                    self.context.warning(&pod, Some(&container), "FailedPostStartHook", error.to_string());
                }
                let progress = if result.is_ok() { Progress::Done } else { Progress::Failed };
                if self.is_current(&container, attempt) {
                    self.seen.containers.entry(container).or_default().post_start = progress;
                }
            }
            Beside::PreStop { container, attempt, result } => {
                if let Err(error) = &result {
                    let pod = self.desired.pod.clone();
                    self.context.warning(&pod, Some(&container), "FailedPreStopHook", error.to_string());
                }
                if self.is_current(&container, attempt)
                    && let Some(stopping) = &mut self.seen.containers.entry(container).or_default().stopping
                {
                    stopping.hook = Progress::Done;
                }
            }
            Beside::Drained => self.seen.drained = Progress::Done,
            Beside::Refreshed => {}
        }
    }

    fn is_current(&self, container: &str, attempt: u32) -> bool {
        self.seen.record.containers.get(container).is_some_and(|record| record.attempt == attempt)
    }

    fn take_pull(&mut self, Pulled { container, image, result }: Pulled) {
        let now = Timestamp::now();
        let pod = self.desired.pod.clone();
        let container = container.as_str();
        if member(&pod, container).is_none_or(|member| member.container.image.as_ref() != Some(&image)) {
            return; // another image is wanted by now
        }
        let seen = self.seen.containers.entry(container.to_owned()).or_default();
        let before = match &seen.image {
            ImageState::Failed(trouble) => trouble.failures,
            _ => 0,
        };
        match result {
            Ok(image) => seen.image = ImageState::Here(image),
            Err(error) => {
                let failures = seen.trouble.take().map_or(before, |trouble| trouble.failures) + 1;
                // Whether an image that must not be pulled is here costs nothing to ask.
                let pause = match error {
                    PullError::Never(_) => retry_pause(1),
                    _ => retry_pause(failures),
                };
                seen.image = ImageState::Failed(Trouble {
                    reason: error.reason(),
                    message: error.text(),
                    since: now,
                    retry_at: now + pause,
                    failures,
                });
                self.tell_pull_error(&pod, container, &error);
            }
        }
    }

    fn tell_pull_error(&self, pod: &Pod, container: &str, error: &PullError) {
        let image = member(pod, container).and_then(|m| m.container.image.clone()).unwrap_or_default();
        let tell = |reason: &str, text: String| self.context.warning(pod, Some(container), reason, text);
        let (reason, text) = error.event(&image);
        tell(reason, text);
        tell("Failed", format!("Error: {}", error.reason()));
        if error.reason() == "ErrImagePull" {
            let text = format!("Back-off pulling image {image:?}");
            self.context.normal(pod, Some(container), "BackOff", text);
            tell("Failed", "Error: ImagePullBackOff".to_owned());
        }
    }

    /// Brings ConfigMap, Secret, projected and downward API volumes up to date, beside the worker.
    fn refresh_volumes(&mut self) {
        let running = members(&self.desired.pod)
            .any(|member| matches!(self.seen.seen(member.name()).task, Task::Running { .. }));
        if !running || self.desired.ending() {
            return;
        }
        let (context, desired, paths) = (self.context.clone(), self.desired.clone(), self.paths.clone());
        let ip = self.seen.record.ip();
        self.beside.spawn(async move {
            crate::volumes::refresh(&context, &desired.pod, &paths, ip).await;
            Beside::Refreshed
        });
    }

    /// Writes the record down. A failure is told and does not stop the pod: the next turn writes again.
    pub(crate) fn save(&self) {
        if let Err(error) = self.seen.record.save(&self.paths.record()) {
            warn!(%error, path = %self.paths.record().display(), "the pod's record cannot be written");
        }
    }
}

#[cfg(test)]
mod tests;
