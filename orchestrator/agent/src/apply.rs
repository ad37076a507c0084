//! Runs a plan's actions in their order. A step that fails leaves a trouble behind and ends the turn: the next plan
//! says when it is tried again.

use std::time::Duration;

use catamaran_client::error::{Chain, is_conflict, is_not_found};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use tracing::{Instrument, debug, info_span, warn};

use crate::eviction::EVICTED;
use crate::hooks::ANY_TIME;
use crate::images::PullPolicy;
use crate::members::{member, name, namespace};
use crate::observe::{ImageState, Prepared, Progress, Seen, Stopping, Trouble};
use crate::plan::{Action, LAST_MOMENT, Plan, Signal, Why};
use crate::record::{Finished, container_id};
use crate::restart::{Verdict, crashes_after, retry_pause, verdict};
use crate::runtime::ShimKey;
use crate::start::StartError;
use crate::worker::{Beside, Pulled, Turn, Worker};

/// The longest wait for the rules of Services before TERM is sent.
const DRAIN: Duration = Duration::from_secs(4);
/// How long the last status of a pod may take before its object is removed all the same.
const LAST_WORD: Duration = Duration::from_secs(2);
/// How soon a signal that could not be sent is tried again.
const SIGNAL_AGAIN: Duration = Duration::from_millis(100);
/// Bytes of a termination message.
const LONGEST_MESSAGE: u64 = 4096;
/// A shim that goes away during a start is back soon: so often it is asked again before that counts as a failure.
const SHIM_RETURNS: u32 = 5;
const SHIM_PAUSE: jiff::SignedDuration = jiff::SignedDuration::from_millis(100);
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

impl Worker {
    /// Runs the actions; stops at the first that fails.
    pub(crate) async fn apply(&mut self, plan: &Plan) -> Turn {
        let mut turn = Turn::Rest;
        for action in &plan.actions {
            match self.act(action).await {
                Turn::Progress => turn = Turn::Progress,
                Turn::Rest => {}
                other => return other,
            }
        }
        turn
    }

    async fn act(&mut self, action: &Action) -> Turn {
        match action {
            Action::Harvest(container, finished) => self.harvest(container, finished).await,
            Action::Pull(container) => self.pull(container),
            Action::Prepare => return self.prepare().instrument(info_span!("prepare")).await,
            Action::Start(container) => {
                return self.start_container(container).instrument(info_span!("task")).await;
            }
            Action::Resume(container) => return self.resume(container).await,
            Action::BeginEnd => self.seen.record.ending_since = Some(Timestamp::now()),
            Action::BeginFailure(reason, message) => {
                self.seen.record.failed = Some(((*reason).to_owned(), message.clone()));
                let pod = self.desired.pod.clone();
                if *reason == EVICTED {
                    self.context.warning(&pod, None, reason, message.clone());
                } else {
                    self.context.normal(&pod, None, reason, message.clone());
                }
            }
            Action::Drain => self.drain(),
            Action::BeginStop(container, why) => self.begin_stop(container, *why).await,
            Action::Signal(container, signal) => return self.signal(container, *signal).await,
            Action::Release => return self.release().await,
            Action::Remove => return self.remove().await,
        }
        if matches!(action, Action::Harvest(..) | Action::BeginEnd | Action::BeginFailure(..)) {
            self.save();
        }
        Turn::Progress
    }

    pub(crate) fn entry(&mut self, container: &str) -> &mut Seen {
        self.seen.containers.entry(container.to_owned()).or_default()
    }

    /// Writes the end down first; only then may the shim forget it.
    async fn harvest(&mut self, container: &str, finished: &Finished) {
        let (uid, message) = (self.uid().to_owned(), self.termination_message(container, finished));
        let Some(record) = self.seen.record.containers.get_mut(container) else { return };
        record.crashes = crashes_after(record, finished);
        record.finished = Some(Finished { message, ..finished.clone() });
        let (id, key) = (container_id(&uid, container, finished.attempt), record.shim.clone());
        let kept = record.clone();
        self.save();
        if let Some(shim) = self.context.shims.running(&key).await
            && let Err(error) = shim.delete(&id).await
            && !error.is_not_found()
        {
            warn!(container, error = %Chain(&error), "the shim does not let go of an ended container");
        }
        self.sweep_attempt(container, &key, finished.attempt);
        let seen = self.entry(container);
        *seen = seen.after(&kept, finished);
        if self.pull_policy(container) == PullPolicy::Always {
            self.entry(container).image = ImageState::Idle;
        }
        self.tell_back_off(container);
    }

    /// A container that ends again and again waits before its next attempt.
    fn tell_back_off(&self, container: &str) {
        let pod = &self.desired.pod;
        if self.desired.ending() || self.seen.record.failed.is_some() {
            return;
        }
        let Some((member, record)) = member(pod, container).zip(self.seen.record.containers.get(container))
        else {
            return;
        };
        let Some(end) = &record.finished else { return };
        if let Verdict::At(at) = verdict(member.policy(pod), end, record.crashes)
            && at > Timestamp::now()
        {
            let of = format!("{container} in pod {}_{}({})", name(pod), namespace(pod), self.uid());
            let text = format!("Back-off restarting failed container {of}");
            self.context.warning(pod, Some(container), "BackOff", text);
        }
    }

    /// Removes what an ended attempt leaves: its writable layer and its stdin; and an older log, so that the last two
    /// ends can still be asked for.
    fn sweep_attempt(&self, container: &str, key: &ShimKey, attempt: u32) {
        let id = container_id(self.uid(), container, attempt);
        let scratch = crate::bundle::scratch(&self.paths, container, attempt);
        // None of it may be there.
        let _ = std::fs::remove_dir_all(scratch);
        let _ = std::fs::remove_dir_all(self.paths.termination_directory(container, attempt));
        if !matches!(key, ShimKey::Oci) {
            let _ = std::fs::remove_file(crate::stdin::path(&self.context.paths, key, &id));
        }
        if let Some(old) = attempt.checked_sub(2) {
            let pod = &self.desired.pod;
            let logs = self.context.paths.log_dir(namespace(pod), name(pod), self.uid());
            let file = crate::config::log_file(&logs, container, old);
            for (_, older) in catamaran_task::cri_log::rotated(&file).unwrap_or_default() {
                let _ = std::fs::remove_file(older);
            }
            let _ = std::fs::remove_file(file);
        }
    }

    fn pull_policy(&self, container: &str) -> PullPolicy {
        member(&self.desired.pod, container)
            .map_or(PullPolicy::IfNotPresent, |member| PullPolicy::of(member.container))
    }

    /// Begins to pull, or takes what is here.
    fn pull(&mut self, container: &str) {
        let pod = self.desired.pod.clone();
        let Some(member) = member(&pod, container) else { return };
        let reference = member.container.image.clone().unwrap_or_default();
        let policy = PullPolicy::of(member.container);
        if policy != PullPolicy::Always
            && let Some(image) = self.context.images.local(&reference)
        {
            let text = format!("Container image {reference:?} already present on machine");
            self.context.normal(&pod, Some(container), "Pulled", text);
            self.entry(container).image = ImageState::Here(image);
            return;
        }
        let before = match &self.entry(container).image {
            ImageState::Failed(trouble) => Some(trouble.clone()),
            _ => None,
        };
        let seen = self.entry(container);
        // The count of failures goes on; it is shown only once the pull fails again.
        seen.trouble = before;
        seen.image = ImageState::Pulling;
        let (context, container) = (self.context.clone(), container.to_owned());
        let task = async move {
            let result = crate::images::pull_for(&context, &pod, &container, &reference, policy).await;
            Beside::Pulled(Pulled { container, image: reference, result })
        };
        self.beside.spawn(task.in_current_span());
    }

    async fn prepare(&mut self) -> Turn {
        let before = match &self.seen.prepared {
            Prepared::Failed(trouble) => trouble.failures,
            _ => 0,
        };
        match crate::prepare::set_up(self).await {
            Ok(()) => {
                self.seen.prepared = Prepared::Done;
                self.save();
                Turn::Progress
            }
            Err(error) => {
                let now = Timestamp::now();
                let text = Chain(&error).to_string();
                let pod = self.desired.pod.clone();
                self.context.warning(&pod, None, error.event(), text.clone());
                let pause = jiff::SignedDuration::from_secs(i64::from(before.min(4)) * 2 + 2);
                self.seen.prepared = Prepared::Failed(Trouble {
                    reason: "ContainerCreating",
                    message: text,
                    since: now,
                    retry_at: now + pause,
                    failures: before + 1,
                });
                Turn::Interrupted
            }
        }
    }

    async fn start_container(&mut self, container: &str) -> Turn {
        let pod = self.desired.pod.clone();
        match crate::start::start(self, container).await {
            Ok(()) => {
                self.context.normal(
                    &pod,
                    Some(container),
                    "Started",
                    format!("Started container {container}"),
                );
                self.begin_post_start(container);
                Turn::Progress
            }
            Err(error) => {
                self.note_failed_start(container, &error);
                Turn::Progress
            }
        }
    }

    /// A container whose program does not start counts as ended; one that could not even be made is tried again.
    fn note_failed_start(&mut self, container: &str, error: &StartError) {
        let now = Timestamp::now();
        let pod = self.desired.pod.clone();
        let text = Chain(error).to_string();
        let failures = self.entry(container).trouble.as_ref().map_or(0, |trouble| trouble.failures) + 1;
        if error.is_interrupted() && failures <= SHIM_RETURNS {
            debug!(container, error = text, "a start was interrupted");
            let retry_at = now + SHIM_PAUSE;
            let trouble =
                Trouble { reason: "ContainerCreating", message: text, since: now, retry_at, failures };
            self.entry(container).trouble = Some(trouble);
            return;
        }
        self.context.warning(&pod, Some(container), "Failed", format!("Error: {text}"));
        if let StartError::Run { .. } = error {
            let Some(record) = self.seen.record.containers.get_mut(container) else { return };
            let finished = Finished {
                attempt: record.attempt,
                code: 128,
                reason: "StartError".into(),
                message: Some(text),
                started: Some(Timestamp::UNIX_EPOCH),
                at: now,
            };
            record.crashes = record.crashes.saturating_add(1);
            record.finished = Some(finished);
            let (key, attempt) = (record.shim.clone(), record.attempt);
            self.save();
            self.sweep_attempt(container, &key, attempt);
            return self.tell_back_off(container);
        }
        let pause = match error {
            StartError::Config(_) => jiff::SignedDuration::from_secs(5),
            _ => retry_pause(failures),
        };
        self.entry(container).trouble = Some(Trouble {
            reason: error.reason(),
            message: text,
            since: now,
            retry_at: now + pause,
            failures,
        });
    }

    async fn resume(&mut self, container: &str) -> Turn {
        match crate::start::run(self, container).await {
            Ok(()) => {
                self.begin_post_start(container);
                Turn::Progress
            }
            Err(error) => {
                self.note_failed_start(container, &error);
                Turn::Progress
            }
        }
    }

    fn begin_post_start(&mut self, container: &str) {
        let pod = self.desired.pod.clone();
        let hook = member(&pod, container)
            .and_then(|member| member.container.lifecycle.as_ref()?.post_start.clone());
        let Some(hook) = hook else { return };
        let Some(target) = crate::exec::Target::of(self, container) else { return };
        self.entry(container).post_start = Progress::UnderWay;
        let (context, container, attempt) = (self.context.clone(), container.to_owned(), target.attempt);
        self.beside.spawn(async move {
            let result = crate::hooks::run(&context, &pod, &target, &hook, ANY_TIME).await;
            Beside::PostStart { container, attempt, result }
        });
    }

    /// Begins to wait until the node's rules send nothing new to the pod.
    fn drain(&mut self) {
        let Some(ip) = self.seen.record.ip() else {
            self.seen.drained = Progress::Done;
            return;
        };
        self.seen.drained = Progress::UnderWay;
        let network = self.context.network.clone();
        self.beside.spawn(async move {
            // A pod that no Service knows is drained at once; a stuck rule must not hold it up for long.
            let _ = tokio::time::timeout(DRAIN, network.drained(ip)).await;
            Beside::Drained
        });
    }

    async fn begin_stop(&mut self, container: &str, why: Why) {
        let pod = self.desired.pod.clone();
        let text = match why {
            Why::PodEnds => format!("Stopping container {container}"),
            Why::PostStart => "FailedPostStartHook".to_owned(),
            Why::Changed => format!("Container {container} definition changed, will be restarted"),
            Why::Probe(kind) => {
                format!(
                    "Container {container} failed {} probe, will be restarted",
                    kind.word().to_lowercase()
                )
            }
        };
        self.context.normal(&pod, Some(container), "Killing", text);
        let hook =
            member(&pod, container).and_then(|member| member.container.lifecycle.as_ref()?.pre_stop.clone());
        let target = crate::exec::Target::of(self, container);
        let mut stopping = Stopping::now();
        let grace = jiff::SignedDuration::from_secs(self.seen.record.grace(&self.desired));
        let hook = hook.filter(|_| !grace.is_zero());
        // The plan sends TERM when the grace is over; the hook may go on until KILL.
        let limit = Duration::try_from(grace + LAST_MOMENT).unwrap_or(DRAIN);
        if let (Some(hook), Some(target)) = (hook, target) {
            stopping.hook = Progress::UnderWay;
            let (context, container, attempt) = (self.context.clone(), container.to_owned(), target.attempt);
            let pod = pod.clone();
            self.beside.spawn(async move {
                let result = crate::hooks::run(&context, &pod, &target, &hook, limit).await;
                Beside::PreStop { container, attempt, result }
            });
        }
        self.entry(container).stopping = Some(stopping);
    }

    async fn signal(&mut self, container: &str, signal: Signal) -> Turn {
        let Some(record) = self.seen.record.containers.get(container).cloned() else {
            return Turn::Interrupted;
        };
        let id = container_id(self.uid(), container, record.attempt);
        let number = match signal {
            Signal::Kill => SIGKILL,
            Signal::Stop => match &self.seen.seen(container).image {
                ImageState::Here(image) => image.config.stop_signal().unwrap_or(SIGTERM),
                _ => self
                    .context
                    .images
                    .by_id(&record.image_id)
                    .and_then(|i| i.config.stop_signal())
                    .unwrap_or(SIGTERM),
            },
        };
        // Where the shim is gone, the next look says what became of the container.
        let Some(shim) = self.context.shims.running(&record.shim).await else { return Turn::Interrupted };
        if let Err(error) = shim.kill(&id, number).await
            && !error.is_not_found()
        {
            warn!(container, number, error = %Chain(&error), "the signal cannot be sent");
            tokio::time::sleep(SIGNAL_AGAIN).await;
            return Turn::Interrupted;
        }
        let stopping = self.entry(container).stopping.get_or_insert_with(Stopping::now);
        match signal {
            Signal::Stop => stopping.term_sent = true,
            Signal::Kill => stopping.kill_sent = true,
        }
        Turn::Progress
    }

    async fn release(&mut self) -> Turn {
        self.beside.abort_all();
        self.probers.stop();
        if let Err(error) = crate::prepare::give_back(self).await {
            let pod = self.desired.pod.clone();
            self.context.warning(&pod, None, error.event(), Chain(&error).to_string());
            tokio::time::sleep(Duration::from_millis(200)).await;
            return Turn::Progress;
        }
        self.seen.record.released = true;
        self.seen.prepared = Prepared::No;
        self.save();
        Turn::Progress
    }

    /// Removes the object, once its last status is written, then the pod's directory.
    async fn remove(&mut self) -> Turn {
        if !self.desired.gone {
            self.reporter.flush(LAST_WORD).await;
            let api: Api<Pod> = Api::namespaced(self.context.client.clone(), namespace(&self.desired.pod));
            let preconditions = Preconditions { uid: Some(self.uid().to_owned()), resource_version: None };
            let params = DeleteParams::default().grace_period(0).preconditions(preconditions);
            match api.delete(name(&self.desired.pod), &params).await {
                Ok(_) => {}
                Err(error) if is_not_found(&error) || is_conflict(&error) => {}
                Err(error) => {
                    warn!(error = %Chain(&error), "the pod cannot be removed yet");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    return Turn::Progress;
                }
            }
        }
        crate::prepare::remove_directory(&self.context, &self.desired.pod, &self.paths);
        Turn::Gone
    }

    /// What the container wrote to its termination log, else what the shim says, else (where asked for) its last
    /// log lines.
    fn termination_message(&self, container: &str, finished: &Finished) -> Option<String> {
        let Some(member) = member(&self.desired.pod, container) else { return finished.message.clone() };
        let path = self.paths.termination_log(member.container, finished.attempt);
        if let Some(written) = crate::logs::last_bytes(&path, LONGEST_MESSAGE) {
            return Some(written);
        }
        let policy = member.container.termination_message_policy.as_deref();
        let from_logs = policy == Some("FallbackToLogsOnError");
        if finished.message.is_none() && from_logs && finished.code != 0 {
            let pod = &self.desired.pod;
            let directory = self.context.paths.log_dir(namespace(pod), name(pod), self.uid());
            return crate::logs::last_lines(
                &crate::config::log_file(&directory, container, finished.attempt),
                80,
                2048,
            );
        }
        finished.message.clone()
    }
}
