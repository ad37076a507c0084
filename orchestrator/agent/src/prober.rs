//! Runs the probes of a pod's running containers, one task each, and collects their verdicts for the worker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catamaran_client::error::Chain;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::context::Context;
use crate::exec::{self, Target};
use crate::members::{Desired, member};
use crate::observe::{Observed, Task};
use crate::probe::{Health, Kind, Tracker};
use crate::record::container_id;
use crate::request;

type Verdict = (String, u32, Kind, Health);

/// The probes of one pod.
pub(crate) struct Probers {
    wake: Arc<Notify>,
    verdicts: Arc<Mutex<Vec<Verdict>>>,
    running: HashMap<(String, u32, Kind), AbortHandle>,
}

/// One probe to be run again and again.
struct Prober {
    context: Arc<Context>,
    pod: Arc<Pod>,
    container: Container,
    kind: Kind,
    probe: Probe,
    target: Target,
    tracker: Tracker,
    verdicts: Arc<Mutex<Vec<Verdict>>>,
    wake: Arc<Notify>,
}

// === impl Probers ===

impl Probers {
    pub(crate) fn new(wake: Arc<Notify>) -> Self {
        Probers { wake, verdicts: Arc::default(), running: HashMap::new() }
    }

    /// What was found out since the last call: container, attempt, probe, verdict.
    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        std::mem::take(&mut *self.verdicts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn stop(&mut self) {
        self.running.drain().for_each(|(_, task)| task.abort());
    }

    /// Starts the probes that are due and stops those whose container no longer runs. Until the startup probe has
    /// succeeded it is the only one; a container on its way down is no longer asked whether it lives.
    pub(crate) fn sync(&mut self, context: &Arc<Context>, desired: &Desired, seen: &Observed) {
        let mut wanted = Vec::new();
        for (name, container) in &seen.containers {
            let Some(record) = seen.record.containers.get(name) else { continue };
            if !matches!(container.task, Task::Running { .. }) || record.finished.is_some() {
                continue;
            }
            for kind in Kind::ALL {
                let asked = container.probes.get(kind) != Health::NotAsked;
                let now = match kind {
                    Kind::Startup => container.probes.startup == Health::Pending,
                    Kind::Liveness => {
                        container.probes.started() && container.stopping.is_none() && !desired.ending()
                    }
                    Kind::Readiness => container.probes.started(),
                };
                if asked && now {
                    wanted.push((name.clone(), record.attempt, kind));
                }
            }
        }
        self.running.retain(|key, task| {
            let keep = wanted.contains(key);
            if !keep {
                task.abort();
            }
            keep
        });
        for key in wanted {
            if !self.running.contains_key(&key)
                && let Some(prober) = self.prober(context, desired, seen, &key)
            {
                let task = tokio::spawn(prober.run());
                self.running.insert(key, task.abort_handle());
            }
        }
    }

    fn prober(
        &self,
        context: &Arc<Context>,
        desired: &Desired,
        seen: &Observed,
        (name, attempt, kind): &(String, u32, Kind),
    ) -> Option<Prober> {
        let container = member(&desired.pod, name)?.container.clone();
        let probe = kind.of(&container)?.clone();
        let record = seen.record.containers.get(name)?;
        let id = container_id(crate::members::uid(&desired.pod), name, *attempt);
        let target = Target { shim: record.shim.clone(), id, attempt: *attempt, ip: seen.record.ip()? };
        Some(Prober {
            context: context.clone(),
            pod: desired.pod.clone(),
            tracker: Tracker::new(&probe, seen.seen(name).probes.get(*kind)),
            container,
            kind: *kind,
            probe,
            target,
            verdicts: self.verdicts.clone(),
            wake: self.wake.clone(),
        })
    }
}

impl Drop for Probers {
    fn drop(&mut self) {
        self.stop();
    }
}

// === impl Prober ===

impl Prober {
    async fn run(mut self) {
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
        };
        tokio::time::sleep(seconds(self.probe.initial_delay_seconds, 0)).await;
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        let limit = seconds(self.probe.timeout_seconds, 1).max(Duration::from_secs(1));
        let mut fast = self.quick_tries();
        loop {
            let result = self.ask(limit).await;
            // A container that is just coming up is asked more often, so that it is ready as soon as it is.
            let quick = fast.next();
            if let (Err(why), None) = (&result, quick) {
                let text = format!("{} probe failed: {why}", self.kind.word());
                self.context.warning(&self.pod, Some(&self.container.name), "Unhealthy", text);
            }
            self.take(result.is_ok());
            tokio::time::sleep(quick.map_or(period, |pause| pause.min(period))).await;
        }
    }

    /// The first pauses of a readiness probe without a delay: 10 ms doubling to a second. What fails in that time is
    /// not told. A probe that restarts containers keeps to its period.
    fn quick_tries(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        let tries = if self.kind == Kind::Readiness && self.probe.initial_delay_seconds.unwrap_or(0) == 0 {
            7
        } else {
            0
        };
        (0..tries).map(|n| Duration::from_millis(10 << n))
    }

    fn take(&mut self, success: bool) {
        if let Some(health) = self.tracker.record(success) {
            let verdict = (self.container.name.clone(), self.target.attempt, self.kind, health);
            self.verdicts.lock().unwrap_or_else(PoisonError::into_inner).push(verdict);
            self.wake.notify_one();
        }
    }

    /// Asks once; the reason of a failure in the kubelet's words.
    async fn ask(&self, limit: Duration) -> Result<(), String> {
        let text = |error: &(dyn std::error::Error + 'static)| Chain(error).to_string();
        if let Some(action) = &self.probe.exec {
            let command = action.command.clone().unwrap_or_default();
            return match exec::run(&self.context, &self.target, &command, limit).await {
                Ok(output) if output.code == 0 => Ok(()),
                Ok(output) => Err(output.text),
                Err(error) => Err(text(&error)),
            };
        }
        if let Some(action) = &self.probe.http_get {
            let ip = self.target.ip.into();
            return match request::http_get(action, &self.container, ip, limit).await {
                Ok(answer) if answer.status.is_success() || answer.status.is_redirection() => Ok(()),
                Ok(answer) => Err(format!("HTTP probe failed with statuscode: {}", answer.status.as_u16())),
                Err(error) => Err(text(&error)),
            };
        }
        if let Some(action) = &self.probe.tcp_socket {
            let port = request::port(&action.port, &self.container).map_err(|error| text(&error))?;
            let ip =
                action.host.as_deref().and_then(|host| host.parse().ok()).unwrap_or(self.target.ip.into());
            return request::tcp(SocketAddr::new(ip, port), limit).await.map_err(|error| text(&error));
        }
        if let Some(action) = &self.probe.grpc {
            let port = u16::try_from(action.port).map_err(|error| text(&error))?;
            let address = SocketAddr::new(self.target.ip.into(), port);
            let service = action.service.as_deref().unwrap_or_default();
            return match request::grpc(address, service, limit).await {
                Ok(true) => Ok(()),
                Ok(false) => {
                    Err(format!("service unhealthy (responded with \"NOT_SERVING\"), service {service:?}"))
                }
                Err(error) => Err(text(&error)),
            };
        }
        Ok(())
    }
}
