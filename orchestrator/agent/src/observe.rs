//! What is the case for one pod: what its shims say, what its record says, what is under way. The plan sees this and
//! nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use catamaran_task::spec::ContainerId;
use catamaran_task::status::{ContainerStatus, Exit, ExitReason, State};
use jiff::{SignedDuration, Timestamp};

use crate::images::Image;
use crate::members::time_from_ms;
use crate::probe::Probes;
use crate::record::{ContainerRecord, Finished, PodRecord};
use crate::restart::LOST;
use crate::runtime::ShimKey;

/// All that the plan and the report look at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) record: PodRecord,
    /// Whether network, volumes and files are set up.
    pub(crate) prepared: Prepared,
    /// Whether connections from Services still come; asked when the pod ends.
    pub(crate) drained: Progress,
    /// Why the node wants to be rid of it.
    pub(crate) evicted: Option<String>,
    /// By name; a container that was never touched may be missing.
    pub(crate) containers: BTreeMap<String, Seen>,
}

/// One container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// What the shim says of the current attempt.
    pub(crate) task: Task,
    pub(crate) image: ImageState,
    /// The last step that failed, until it succeeds.
    pub(crate) trouble: Option<Trouble>,
    pub(crate) probes: Probes,
    /// Of an attempt that was lost together with its wasm host: what its probes had said. The next attempt begins
    /// with it, because its connections wait in the meantime and are not refused.
    pub(crate) kept: Option<Probes>,
    pub(crate) post_start: Progress,
    pub(crate) stopping: Option<Stopping>,
}

/// For how long after its host was lost a container counts as ready still.
const HOST_RETURNS: SignedDuration = SignedDuration::from_secs(2);

/// What the shim says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Task {
    /// It knows no such container.
    #[default]
    Absent,
    Created,
    Running {
        started: Timestamp,
    },
    Exited {
        started: Option<Timestamp>,
        exit: Exit,
    },
    /// It did not answer: nothing is known.
    Unknown,
}

/// Where the image of a container stands.
#[derive(Clone, Debug, Default)]
pub(crate) enum ImageState {
    /// Not asked for.
    #[default]
    Idle,
    /// Being pulled.
    Pulling,
    Here(Arc<Image>),
    Failed(Trouble),
}

/// Something that failed and is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// The reason in the container's waiting state (`ErrImagePull`, `CreateContainerConfigError`).
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) since: Timestamp,
    pub(crate) retry_at: Timestamp,
    /// Failures in a row.
    pub(crate) failures: u32,
}

/// Whether the pod's surroundings are ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Prepared {
    #[default]
    No,
    Done,
    Failed(Trouble),
}

/// Something that runs beside the worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Progress {
    #[default]
    NotBegun,
    UnderWay,
    Done,
    Failed,
}

/// A container on its way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stopping {
    pub(crate) since: Timestamp,
    /// Its preStop hook.
    pub(crate) hook: Progress,
    pub(crate) term_sent: bool,
    pub(crate) kill_sent: bool,
}

/// Where a container stands, from its record and its task together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Its current attempt was not made yet.
    Fresh,
    Created,
    Running {
        started: Timestamp,
    },
    Ended(Finished),
    Unknown,
}

// === impl ===

impl Observed {
    pub(crate) fn seen(&self, name: &str) -> &Seen {
        static NONE: std::sync::LazyLock<Seen> = std::sync::LazyLock::new(Seen::default);
        self.containers.get(name).unwrap_or(&NONE)
    }

    /// Where the container stands at `now`.
    pub(crate) fn life(&self, name: &str, now: Timestamp) -> Life {
        let Some(record) = self.record.containers.get(name) else { return Life::Fresh };
        if let Some(finished) = &record.finished {
            return Life::Ended(finished.clone());
        }
        match &self.seen(name).task {
            Task::Created => Life::Created,
            Task::Running { started } => Life::Running { started: *started },
            Task::Exited { started, exit } => Life::Ended(finished(record, *started, exit)),
            Task::Unknown => Life::Unknown,
            Task::Absent if record.created => Life::Ended(lost(record, now)),
            Task::Absent => Life::Fresh,
        }
    }
}

impl Seen {
    /// What is kept of an attempt over its end.
    pub(crate) fn after(&self, record: &ContainerRecord, end: &Finished) -> Self {
        let host_lost = end.reason == LOST && !matches!(record.shim, ShimKey::Oci);
        let kept = self.kept.or(host_lost.then_some(self.probes));
        Seen { image: self.image.clone(), kept: kept.filter(|_| host_lost), ..Seen::default() }
    }

    /// Whether a container that does not run counts as ready, because its host will be back in a moment.
    pub(crate) fn returns(&self, record: &ContainerRecord, now: Timestamp) -> bool {
        let lost_at = record.finished.as_ref().or(record.last.as_ref()).map(|end| end.at);
        self.kept.is_some_and(|probes| probes.ready()) && lost_at.is_some_and(|at| now < at + HOST_RETURNS)
    }
}

impl Stopping {
    /// A container that begins to go down.
    pub(crate) fn now() -> Self {
        Stopping { since: Timestamp::now(), hook: Progress::NotBegun, term_sent: false, kill_sent: false }
    }
}

impl Task {
    /// A shim's answer in the agent's words.
    pub(crate) fn from_status(status: ContainerStatus) -> Self {
        let started = status.started_at_ms.map(time_from_ms);
        match (status.state, status.exit) {
            (State::Created, _) => Task::Created,
            (State::Running, _) => Task::Running { started: started.unwrap_or(Timestamp::UNIX_EPOCH) },
            (State::Exited, Some(exit)) => Task::Exited { started, exit },
            (State::Exited, None) => Task::Exited {
                started,
                exit: Exit { code: 137, at_ms: 0, reason: ExitReason::Lost, message: None },
            },
        }
    }
}

fn finished(record: &ContainerRecord, started: Option<Timestamp>, exit: &Exit) -> Finished {
    let reason = match exit.reason {
        ExitReason::OomKilled => "OOMKilled",
        ExitReason::StartFailed => "StartError",
        ExitReason::Lost => LOST,
        ExitReason::Trap => "Error",
        ExitReason::Exited if exit.code == 0 => "Completed",
        ExitReason::Exited => "Error",
    };
    Finished {
        attempt: record.attempt,
        code: exit.code,
        reason: reason.into(),
        message: exit.message.clone(),
        started,
        at: time_from_ms(exit.at_ms),
    }
}

fn lost(record: &ContainerRecord, now: Timestamp) -> Finished {
    Finished {
        attempt: record.attempt,
        code: 137,
        reason: LOST.into(),
        message: Some("the process that ran the container is gone and its exit code with it".into()),
        started: None,
        at: now,
    }
}

/// The ids the shims are asked about: the current attempt of each recorded container that has not ended.
pub(crate) fn live_ids(uid: &str, record: &PodRecord) -> Vec<(String, ContainerId)> {
    let live = record.containers.iter().filter(|(_, container)| container.finished.is_none());
    live.map(|(name, container)| (name.clone(), crate::record::container_id(uid, name, container.attempt)))
        .collect()
}
