//! What is the case, in the words of the Pod's status: phase, conditions, container states. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::eviction::EVICTED;
use crate::members::{Desired, Member, Role, members, name, namespace, spec, uid};
use crate::observe::{ImageState, Life, Observed, Prepared, Progress, Trouble};
use crate::plan::SHOW_PULL_ERROR;
use crate::qos;
use crate::record::{ContainerRecord, Finished, container_id};
use crate::restart::{Policy, Verdict, back_off_text, pause, verdict};

/// The scheme of `containerID`.
const SCHEME: &str = "catamaran";

/// The status of a pod at `now`. `host_ip` is the node's address.
pub(crate) fn status(desired: &Desired, seen: &Observed, host_ip: &str, now: Timestamp) -> core::PodStatus {
    let report = Report { desired, seen, now };
    let old = desired.pod.status.clone().unwrap_or_default();
    let (init, main): (Vec<_>, Vec<_>) = members(&desired.pod)
        .map(|member| (member.role, report.container(member)))
        .partition(|(role, _)| *role != Role::Main);
    let only = |list: Vec<(Role, core::ContainerStatus)>| {
        list.into_iter().map(|(_, status)| status).collect::<Vec<_>>()
    };
    let phase = report.phase();
    let conditions = report.conditions(phase, &init, &main, old.conditions.as_deref().unwrap_or_default());
    let ip = seen.record.ip().map(|ip| ip.to_string());
    let failed = seen.record.failed.clone();
    core::PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        host_ip: Some(host_ip.to_owned()),
        host_ips: Some(vec![core::HostIP { ip: host_ip.to_owned() }]),
        pod_ips: ip.clone().map(|ip| vec![core::PodIP { ip }]),
        pod_ip: ip,
        start_time: seen.record.started.map(Time),
        init_container_statuses: Some(only(init)).filter(|list| !list.is_empty()),
        container_statuses: Some(only(main)),
        qos_class: Some(old.qos_class.unwrap_or_else(|| qos::class(spec(&desired.pod)).as_str().to_owned())),
        reason: failed.as_ref().map(|(reason, _)| reason.clone()),
        message: failed.map(|(_, message)| message),
        ..core::PodStatus::default()
    }
}

struct Report<'a> {
    desired: &'a Desired,
    seen: &'a Observed,
    now: Timestamp,
}

/// How far the init containers are.
#[derive(PartialEq, Eq)]
enum Init {
    Pending,
    Done,
    Failed,
}

impl Report<'_> {
    fn pod(&self) -> &core::Pod {
        &self.desired.pod
    }

    fn life(&self, member: Member<'_>) -> Life {
        self.seen.life(member.name(), self.now)
    }

    fn init(&self) -> Init {
        let begun = |member: Member<'_>| self.seen.record.containers.contains_key(member.name());
        if members(self.pod()).any(|member| member.role == Role::Main && begun(member)) {
            return Init::Done;
        }
        for init in members(self.pod()).filter(|member| member.role != Role::Main) {
            match (init.role, self.life(init)) {
                (Role::Sidecar, Life::Running { .. }) if self.seen.seen(init.name()).probes.started() => {}
                (Role::Init, Life::Ended(end)) if end.code == 0 => {}
                (Role::Init, Life::Ended(_)) if init.policy(self.pod()) == Policy::Never => {
                    return Init::Failed;
                }
                _ => return Init::Pending,
            }
        }
        Init::Done
    }

    /// `status.phase`, by the rules of the kubelet.
    fn phase(&self) -> &'static str {
        if self.seen.record.failed.is_some() && self.seen.record.released {
            return "Failed";
        }
        match self.init() {
            Init::Failed => return "Failed",
            Init::Pending if self.seen.record.released => return "Failed",
            Init::Pending => return "Pending",
            Init::Done => {}
        }
        let (mut waiting, mut running, mut ended, mut good) = (0, 0, 0, 0);
        for main in members(self.pod()).filter(|member| member.role == Role::Main) {
            match self.life(main) {
                Life::Running { .. } | Life::Unknown => running += 1,
                Life::Ended(end) => {
                    ended += 1;
                    good += u32::from(end.code == 0);
                }
                Life::Fresh | Life::Created => {
                    match self.record(main).and_then(|record| record.last.as_ref()) {
                        Some(_) => ended += 1,
                        None => waiting += 1,
                    }
                }
            }
        }
        let policy = Policy::parse(spec(self.pod()).restart_policy.as_deref());
        match (waiting, running) {
            _ if self.seen.record.released && ended == good && waiting == 0 => "Succeeded",
            _ if self.seen.record.released => "Failed",
            (1.., _) => "Pending",
            (_, 1..) => "Running",
            _ if policy == Policy::Always => "Running",
            _ if ended == good => "Succeeded",
            _ if policy == Policy::Never => "Failed",
            _ => "Running",
        }
    }

    fn record(&self, member: Member<'_>) -> Option<&ContainerRecord> {
        self.seen.record.containers.get(member.name())
    }

    fn container(&self, member: Member<'_>) -> core::ContainerStatus {
        let seen = self.seen.seen(member.name());
        let record = self.record(member);
        let life = self.life(member);
        let running = matches!(life, Life::Running { .. });
        let started = running && seen.probes.started() && seen.post_start != Progress::UnderWay;
        let returns = !self.desired.ending() && record.is_some_and(|record| seen.returns(record, self.now));
        let ready = match (&life, member.role) {
            (Life::Ended(end), Role::Init) => end.code == 0,
            _ if returns => true,
            // A container that is restarted gets no more connections. Of a pod that ends, Services know without it; what
            // it says of itself lets them use it as the last resort.
            _ if seen.stopping.is_some() && !self.desired.ending() => false,
            _ => member.role != Role::Init && started && seen.probes.ready(),
        };
        let (state, last) = self.states(member, life);
        core::ContainerStatus {
            name: member.name().to_owned(),
            image: record
                .map_or_else(|| member.container.image.clone().unwrap_or_default(), |r| r.image.clone()),
            image_id: record.map(|record| record.image_id.clone()).unwrap_or_default(),
            container_id: record
                .filter(|record| record.created)
                .map(|record| self.full_id(member, record.attempt)),
            ready,
            started: Some(started),
            restart_count: record.map_or(0, |record| i32::try_from(record.attempt).unwrap_or(i32::MAX)),
            state: Some(state),
            last_state: last,
            ..core::ContainerStatus::default()
        }
    }

    fn full_id(&self, member: Member<'_>, attempt: u32) -> String {
        format!("{SCHEME}://{}", container_id(uid(self.pod()), member.name(), attempt).0)
    }

    fn terminated(&self, member: Member<'_>, end: &Finished) -> core::ContainerState {
        core::ContainerState {
            terminated: Some(core::ContainerStateTerminated {
                container_id: Some(self.full_id(member, end.attempt)),
                exit_code: end.code,
                finished_at: Some(Time(end.at)),
                message: end.message.clone(),
                reason: Some(end.reason.clone()),
                started_at: end.started.map(Time),
                signal: None,
            }),
            ..core::ContainerState::default()
        }
    }

    /// `state` and `lastState`.
    fn states(&self, member: Member<'_>, life: Life) -> (core::ContainerState, Option<core::ContainerState>) {
        let record = self.record(member);
        let last = record.and_then(|record| record.last.as_ref()).map(|end| self.terminated(member, end));
        match life {
            Life::Running { started } => {
                let running = core::ContainerStateRunning { started_at: Some(Time(started)) };
                (core::ContainerState { running: Some(running), ..core::ContainerState::default() }, last)
            }
            Life::Ended(end) => match self.waits_for_restart(member, &end) {
                Some((reason, message)) => (waiting(&reason, message), Some(self.terminated(member, &end))),
                None => (self.terminated(member, &end), last),
            },
            Life::Unknown => {
                let kept = self.last_reported(member);
                (kept.unwrap_or_else(|| waiting("ContainerCreating", None)), last)
            }
            Life::Fresh | Life::Created => {
                let (reason, message) = self.waits(member);
                (waiting(&reason, message), last)
            }
        }
    }

    /// While a shim is silent, what was said before stands.
    fn last_reported(&self, member: Member<'_>) -> Option<core::ContainerState> {
        let status = self.pod().status.as_ref()?;
        let mut all =
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
        all.find(|status| status.name == member.name())?.state.clone()
    }

    /// Why an ended container that will run again does not yet; `None` while it just ended, or ended for good.
    fn waits_for_restart(&self, member: Member<'_>, end: &Finished) -> Option<(String, Option<String>)> {
        if self.desired.ending() || self.seen.record.released || self.seen.record.failed.is_some() {
            return None;
        }
        let crashes = self.record(member).map_or(1, |record| record.crashes);
        let Verdict::At(at) = verdict(member.policy(self.pod()), end, crashes) else { return None };
        if at > self.now {
            let (pod, namespace) = (name(self.pod()), namespace(self.pod()));
            let text = back_off_text(pause(end, crashes), member.name(), pod, namespace, uid(self.pod()));
            return Some(("CrashLoopBackOff".into(), Some(text)));
        }
        let trouble = self.trouble(member)?;
        Some((trouble.0, Some(trouble.1)))
    }

    fn waits(&self, member: Member<'_>) -> (String, Option<String>) {
        if member.role == Role::Main && self.init() == Init::Pending {
            return ("PodInitializing".into(), None);
        }
        match self.trouble(member) {
            Some((reason, message)) => (reason, Some(message)),
            None if members(self.pod()).any(|member| member.role != Role::Main) => {
                ("PodInitializing".into(), None)
            }
            None => ("ContainerCreating".into(), None),
        }
    }

    fn trouble(&self, member: Member<'_>) -> Option<(String, String)> {
        let seen = self.seen.seen(member.name());
        if let ImageState::Failed(trouble) = &seen.image {
            return Some(self.pull_trouble(member, trouble));
        }
        if let Some(trouble) = &seen.trouble {
            return Some((trouble.reason.to_owned(), trouble.message.clone()));
        }
        match &self.seen.prepared {
            Prepared::Failed(trouble) if trouble.reason != "ContainerCreating" => {
                Some((trouble.reason.to_owned(), trouble.message.clone()))
            }
            _ => None,
        }
    }

    /// A fresh pull error is shown as it is, then as a back-off, in the kubelet's words.
    fn pull_trouble(&self, member: Member<'_>, trouble: &Trouble) -> (String, String) {
        if trouble.reason != "ErrImagePull" || self.now < trouble.since + SHOW_PULL_ERROR {
            return (trouble.reason.to_owned(), trouble.message.clone());
        }
        let image = member.container.image.as_deref().unwrap_or_default();
        (
            "ImagePullBackOff".into(),
            format!("Back-off pulling image {image:?}: ErrImagePull: {}", trouble.message),
        )
    }

    fn conditions(
        &self,
        phase: &str,
        init: &[(Role, core::ContainerStatus)],
        main: &[(Role, core::ContainerStatus)],
        old: &[core::PodCondition],
    ) -> Vec<core::PodCondition> {
        let done = phase == "Succeeded";
        let sandbox = self.seen.record.sandbox.is_some() && !self.seen.record.released;
        let incomplete = names(init, |role, status| match role {
            Role::Sidecar => status.started != Some(true),
            _ => !status.ready,
        });
        let initialized = done || self.init() == Init::Done || incomplete.is_empty();
        let sidecars = init.iter().filter(|(role, _)| *role == Role::Sidecar);
        let all: Vec<_> = sidecars.chain(main).cloned().collect();
        let unready = names(&all, |_, status| !status.ready);
        let containers = match phase {
            "Succeeded" => Some("PodCompleted"),
            "Failed" => Some("PodFailed"),
            _ => (!unready.is_empty()).then_some("ContainersNotReady"),
        };
        let containers_text = (containers == Some("ContainersNotReady"))
            .then(|| format!("containers with unready status: [{}]", unready.join(" ")));
        let gates = self.closed_gates(old);
        let ready = containers.or((!gates.is_empty()).then_some("ReadinessGatesNotReady"));
        let ready_text = containers_text.clone().or((containers.is_none() && !gates.is_empty())
            .then(|| format!("the status of pod readiness gate {:?} is not \"True\"", gates.join(" "))));
        let init_text =
            (!initialized).then(|| format!("containers with incomplete status: [{}]", incomplete.join(" ")));
        let init_reason =
            if done { Some("PodCompleted") } else { (!initialized).then_some("ContainersNotInitialized") };
        [
            ("PodReadyToStartContainers", sandbox, None, None),
            ("Initialized", initialized, init_reason, init_text),
            ("Ready", ready.is_none(), ready, ready_text),
            ("ContainersReady", containers.is_none(), containers, containers_text),
            ("PodScheduled", true, None, None),
        ]
        .map(|(kind, holds, reason, message)| self.condition(old, kind, holds, reason, message))
        .into_iter()
        .chain(self.disrupted(old))
        .collect()
    }

    /// A pod that the node evicted says that it did not fail by itself.
    fn disrupted(&self, old: &[core::PodCondition]) -> Option<core::PodCondition> {
        let (_, message) = self.seen.record.failed.as_ref().filter(|(reason, _)| reason == EVICTED)?;
        let (kind, reason) = ("DisruptionTarget", Some("TerminationByKubelet"));
        Some(self.condition(old, kind, true, reason, Some(message.clone())))
    }

    fn closed_gates(&self, old: &[core::PodCondition]) -> Vec<String> {
        let open =
            |gate: &str| old.iter().any(|condition| condition.type_ == gate && condition.status == "True");
        let gates = spec(self.pod()).readiness_gates.iter().flatten().map(|gate| gate.condition_type.clone());
        gates.filter(|gate| !open(gate)).collect()
    }

    fn condition(
        &self,
        old: &[core::PodCondition],
        kind: &str,
        holds: bool,
        reason: Option<&str>,
        message: Option<String>,
    ) -> core::PodCondition {
        let status = if holds { "True" } else { "False" };
        let before = old.iter().find(|condition| condition.type_ == kind && condition.status == status);
        core::PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
            message,
            last_transition_time: before
                .and_then(|condition| condition.last_transition_time.clone())
                .or(Some(Time(self.now))),
            ..core::PodCondition::default()
        }
    }
}

fn names(
    list: &[(Role, core::ContainerStatus)],
    which: impl Fn(Role, &core::ContainerStatus) -> bool,
) -> Vec<String> {
    list.iter().filter(|(role, status)| which(*role, status)).map(|(_, status)| status.name.clone()).collect()
}

fn waiting(reason: &str, message: Option<String>) -> core::ContainerState {
    core::ContainerState {
        waiting: Some(core::ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..core::ContainerState::default()
    }
}

#[cfg(test)]
mod tests;
