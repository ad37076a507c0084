//! Runs the probes of a pod's running containers, one task each, and collects their verdicts for the worker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catamaran_client::error::Chain;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::context::Context;
use crate::exec::{self, ExecError, Target};
use crate::members::{Desired, member};
use crate::observe::{Observed, Task};
use crate::probe::{Health, Kind, Tracker};
use crate::record::container_id;
use crate::request::{self, RequestError};
use crate::runtime::ShimKey;

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

/// Why a probe did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Unhealthy {
    /// The container was asked.
    Failed(String),
    /// It could not be asked: that says nothing about it.
    Errored(String),
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
                let text = why.in_words(self.kind);
                self.context.warning(&self.pod, Some(&self.container.name), "Unhealthy", text);
            }
            if !matches!(result, Err(Unhealthy::Errored(_))) {
                self.take(result.is_ok());
            }
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

    /// Asks once.
    async fn ask(&self, limit: Duration) -> Result<(), Unhealthy> {
        let probe = &self.probe;
        if let Some(action) = &probe.exec {
            return self.ask_program(action.command.as_deref().unwrap_or_default(), limit).await;
        }
        if let Some(action) = &probe.http_get {
            let answer = request::http_get(action, &self.container, self.target.ip.into(), limit).await?;
            return if answer.status.is_success() || answer.status.is_redirection() {
                Ok(())
            } else {
                let code = answer.status.as_u16();
                Err(Unhealthy::Failed(format!("HTTP probe failed with statuscode: {code}")))
            };
        }
        if let Some(action) = &probe.tcp_socket {
            let port = request::port(&action.port, &self.container)?;
            let address = request::resolve(action.host.as_deref(), self.target.ip.into(), port).await?;
            return Ok(request::tcp(address, limit).await?);
        }
        if let Some(action) = &probe.grpc {
            let port = request::port(&IntOrString::Int(action.port), &self.container)?;
            let address = SocketAddr::new(self.target.ip.into(), port);
            let service = action.service.as_deref().unwrap_or_default();
            return match request::grpc(address, service, limit).await? {
                true => Ok(()),
                false => Err(Unhealthy::Failed(format!(
                    "service unhealthy (responded with \"NOT_SERVING\"), service {service:?}"
                ))),
            };
        }
        Ok(())
    }

    async fn ask_program(&self, command: &[String], limit: Duration) -> Result<(), Unhealthy> {
        if !matches!(self.target.shim, ShimKey::Oci) {
            let text = "a wasm sandbox has no processes to run a command in; use httpGet, tcpSocket or grpc";
            return Err(Unhealthy::Errored(text.into()));
        }
        match exec::run(&self.context, &self.target, command, limit).await {
            Ok(output) if output.code == 0 => Ok(()),
            Ok(output) => Err(Unhealthy::Failed(output.text)),
            Err(error @ ExecError::TimedOut(_)) => Err(Unhealthy::Failed(error.to_string())),
            Err(error) => Err(Unhealthy::Errored(Chain(&error).to_string())),
        }
    }
}

// === impl Unhealthy ===

impl Unhealthy {
    fn in_words(&self, kind: Kind) -> String {
        match self {
            Unhealthy::Failed(why) => format!("{} probe failed: {why}", kind.word()),
            Unhealthy::Errored(why) => format!("{} probe errored: {why}", kind.word()),
        }
    }
}

impl From<RequestError> for Unhealthy {
    fn from(error: RequestError) -> Self {
        Unhealthy::Failed(Chain(&error).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;
    use serde_json::json;

    /// A readiness probe of an HTTP port that nobody listens on, every ten seconds.
    fn prober(context: &Arc<Context>, key: ShimKey, probe: serde_json::Value) -> Prober {
        let probe: Probe = serde_json::from_value(probe).unwrap();
        let container = serde_json::from_value(json!({"name": "c"})).unwrap();
        let id = container_id("u1", "c", 0);
        Prober {
            context: context.clone(),
            pod: Arc::default(),
            container,
            kind: Kind::Liveness,
            tracker: Tracker::new(&probe, Health::Pending),
            probe,
            target: Target { shim: key, id, attempt: 0, ip: std::net::Ipv4Addr::LOCALHOST },
            verdicts: Arc::default(),
            wake: Arc::default(),
        }
    }

    #[tokio::test]
    async fn what_cannot_be_asked_says_nothing_about_the_container() {
        let mut bench = Bench::new().await;
        let context = bench.agent();
        let exec = json!({"exec": {"command": ["true"]}});
        let wasm = prober(&context, ShimKey::Shared("shop".into()), exec.clone());
        let limit = Duration::from_secs(1);
        let told = wasm.ask(limit).await.unwrap_err();
        assert!(matches!(&told, Unhealthy::Errored(why) if why.contains("httpGet")), "{told:?}");
        assert!(told.in_words(Kind::Liveness).starts_with("Liveness probe errored: a wasm sandbox"));
        let broken = prober(&context, ShimKey::Oci, exec);
        assert!(
            matches!(broken.ask(limit).await, Err(Unhealthy::Errored(_))),
            "the shim knows no such container"
        );
        let tcp = prober(&context, ShimKey::Oci, json!({"tcpSocket": {"port": 1}}));
        assert!(matches!(tcp.ask(limit).await, Err(Unhealthy::Failed(_))));
        let nameless = prober(&context, ShimKey::Oci, json!({"httpGet": {"port": "none"}}));
        assert!(matches!(nameless.ask(limit).await, Err(Unhealthy::Failed(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_keeps_its_delay_its_period_and_its_threshold() {
        let mut bench = Bench::new().await;
        let context = bench.agent();
        // An address that refuses at once.
        let probe = json!({"tcpSocket": {"port": 1, "host": "127.0.0.1"}, "initialDelaySeconds": 7,
            "periodSeconds": 5, "failureThreshold": 3});
        let prober = prober(&context, ShimKey::Oci, probe);
        let (wake, verdicts) = (prober.wake.clone(), prober.verdicts.clone());
        let begun = tokio::time::Instant::now();
        let task = tokio::spawn(prober.run());
        wake.notified().await;
        // Three questions; a refusal takes no time, and at most the limit of a second each.
        assert!((17..=20).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        assert_eq!(*verdicts.lock().unwrap(), [("c".to_owned(), 0, Kind::Liveness, Health::Fail)]);
        task.abort();
    }
}
