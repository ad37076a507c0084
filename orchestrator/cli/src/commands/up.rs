//! `catamaran up`: checks the machine, starts the supervisor, waits until the node is Ready.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::IsTerminal;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{DataDir, Outcome};
use crate::cluster::{self, Cluster};
use crate::layout::{Layout, Settings, host_name};
use crate::preflight::Machine;
use crate::progress::step;
use crate::supervise::process;
use crate::{authorities, demo, sweep, view};

const START_WAIT: Duration = Duration::from_secs(60);

#[derive(Args)]
pub(crate) struct Up {
    #[command(flatten)]
    data: DataDir,
    /// Return once the node is Ready instead of showing a live status
    #[arg(long)]
    detach: bool,
    /// Deploy the sample as a wasm component and as a container behind one Service
    #[arg(long)]
    demo: bool,
    /// Port of the API on 127.0.0.1 [default: 6443, or what an earlier `up` chose]
    #[arg(long, value_name = "N")]
    api_port: Option<u16>,
    /// Port of the built-in image registry on 127.0.0.1 [default: 5000]
    #[arg(long, value_name = "N")]
    registry_port: Option<u16>,
    /// Name of this machine's node [default: the host name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Also pull from this registry (HOST:PORT) in plain HTTP; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    insecure_registry: Vec<String>,
}

/// Why the cluster does not come up.
#[derive(Debug, thiserror::Error)]
enum UpError {
    #[error("this machine cannot run a cluster:\n{0}")]
    Machine(String),
    #[error("cannot prepare {path}")]
    Directory {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot start the supervisor")]
    Supervisor(#[source] std::io::Error),
    #[error("port {0} on 127.0.0.1 is in use by another program; choose another with --{1} PORT")]
    PortInUse(u16, &'static str),
    #[error(
        "a cluster is running on this data directory with other settings (its {0}, process {1}); stop it first with `catamaran down --keep-data`"
    )]
    OtherSettings(String, i32),
    #[error(
        "the cluster in {data} (process {pid}) uses this machine's network, which has room for one; stop it first with `catamaran down --data-dir {data}`"
    )]
    Neighbour { data: String, pid: i32 },
    #[error("the {part} did not start; the end of {log}:\n{tail}")]
    NotStarted { part: &'static str, log: String, tail: String },
}

// === impl Up ===

impl Up {
    pub(crate) async fn run(self) -> Outcome {
        let (started, now) = (Instant::now(), Timestamp::now());
        check_machine()?;
        let layout = self.data.layout();
        let settings = self.settings(&layout);
        let before = Before::look(&layout);
        before.admits(&layout, &settings)?;
        prepare(&layout)?;
        authorities::provide(&layout)?;
        launch(&layout, &settings).await?;
        println!("catamaran {} in {}", env!("CARGO_PKG_VERSION"), layout.data.display());
        let cluster = step("start the server", start_server(&layout, &settings)).await?;
        let since = (!before.runs("agent")).then_some(now);
        let ready = wait_for_node(&layout, &cluster, &settings.node_name, since);
        step("start the agent, node Ready", ready).await?;
        // The one that was found may have been about to end.
        launch(&layout, &settings).await?;
        println!("  cluster ready after {:.2} s", started.elapsed().as_secs_f64());
        if self.demo {
            let since = (!before.runs("shim")).then_some(now);
            let url = demo::run(&cluster, &settings, since).await?;
            println!("{}", demo::advice(&layout, &url));
        } else {
            println!("\n  export KUBECONFIG={}\n", layout.kubeconfig().display());
        }
        if self.detach || !std::io::stdout().is_terminal() && !self.demo {
            return Ok(());
        }
        view::live(&layout, &cluster).await;
        println!("\n  The cluster goes on without this window; `catamaran down` stops it.");
        Ok(())
    }

    /// What was asked for now, else what an earlier `up` chose, else the defaults.
    fn settings(&self, layout: &Layout) -> Settings {
        let kept = Settings::load(layout);
        let earlier = |pick: fn(&Settings) -> u16| kept.as_ref().map(pick);
        let named = self.node_name.clone().or_else(|| kept.as_ref().map(|k| k.node_name.clone()));
        let insecure = match &kept {
            Some(kept) if self.insecure_registry.is_empty() => kept.insecure_registries.clone(),
            _ => self.insecure_registry.clone(),
        };
        Settings {
            api_port: self.api_port.or(earlier(|k| k.api_port)).unwrap_or(6443),
            registry_port: self.registry_port.or(earlier(|k| k.registry_port)).unwrap_or(5000),
            node_name: named.unwrap_or_else(host_name),
            insecure_registries: insecure,
        }
    }
}

/// What of this cluster ran when `up` looked.
struct Before(Vec<(process::Identity, String)>);

// === impl Before ===

impl Before {
    fn look(layout: &Layout) -> Self {
        Before(sweep::parts(layout))
    }

    fn runs(&self, part: &str) -> bool {
        self.0.iter().any(|(_, name)| name.starts_with(part))
    }

    /// Parts that run must have been started with the same settings; where none runs, the ports must be free.
    fn admits(&self, layout: &Layout, settings: &Settings) -> Result<(), UpError> {
        if let Some((identity, data)) = sweep::neighbour(layout) {
            return Err(UpError::Neighbour { data: data.display().to_string(), pid: identity.pid });
        }
        // Shims outlive the others, and know nothing of the settings.
        let part = self.0.iter().find(|(_, name)| !name.starts_with("shim"));
        if let Some((identity, name)) = part
            && Settings::load(layout).is_some_and(|running| running != *settings)
        {
            return Err(UpError::OtherSettings(name.clone(), identity.pid));
        }
        if self.runs("server") { Ok(()) } else { check_ports(settings) }
    }
}

/// Starts the supervisor unless it runs. One `up` at a time does so.
async fn launch(layout: &Layout, settings: &Settings) -> Result<(), UpError> {
    let path = layout.run.join("up.lock");
    let lock = File::create(&path).and_then(|file| file.lock().map(|()| file));
    let _alone = lock.map_err(|source| directory(&path, source))?;
    if is_running(layout) {
        // Perhaps since a moment ago, and for another `up`.
        return Before::look(layout).admits(layout, settings);
    }
    settings.save(layout).map_err(|source| directory(&layout.settings(), source))?;
    start_supervisor(layout).await
}

fn check_machine() -> Result<(), UpError> {
    let machine = Machine::observe();
    let missing: Vec<_> = machine.missing().iter().map(|lack| format!("  - {lack}")).collect();
    if !missing.is_empty() {
        return Err(UpError::Machine(missing.join("\n")));
    }
    if let Some(slower) = machine.slower() {
        eprintln!("note: {slower}");
    }
    Ok(())
}

fn directory(path: &std::path::Path, source: std::io::Error) -> UpError {
    UpError::Directory { path: path.display().to_string(), source }
}

/// Makes the directories; the data directory is for root alone (keys, secrets).
fn prepare(layout: &Layout) -> Result<(), UpError> {
    let is_new = !layout.data.exists();
    for (path, mode) in [(&layout.data, 0o700), (&layout.run, 0o700), (&layout.data.join("log"), 0o700)] {
        let made = DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|source| directory(path, source))?;
    }
    if is_new {
        File::create(layout.made()).map_err(|source| directory(&layout.made(), source))?;
    }
    Ok(())
}

fn is_running(layout: &Layout) -> bool {
    process::read(&layout.process_file("supervisor")).is_some_and(|supervisor| supervisor.is_alive())
}

fn check_ports(settings: &Settings) -> Result<(), UpError> {
    for (port, flag) in [(settings.api_port, "api-port"), (settings.registry_port, "registry-port")] {
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_err() {
            return Err(UpError::PortInUse(port, flag));
        }
    }
    Ok(())
}

/// Returns when the supervisor has noted itself as the one of this data directory.
async fn start_supervisor(layout: &Layout) -> Result<(), UpError> {
    let path = layout.log("supervisor");
    let log = OpenOptions::new().create(true).append(true).open(&path);
    let log = log.map_err(|source| directory(&path, source))?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0("catamaran").arg("supervisor").arg("--data-dir").arg(&layout.data);
    let output = log.try_clone().map_err(UpError::Supervisor)?;
    command.stdin(Stdio::null()).stdout(output).stderr(log).process_group(0);
    // The supervisor makes itself a session leader, so that no terminal takes it along.
    let mut child = command.spawn().map_err(UpError::Supervisor)?;
    while !is_running(layout) {
        if child.try_wait().map_err(UpError::Supervisor)?.is_some() {
            return Err(not_started(layout, "supervisor"));
        }
        sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Waits for the server. Should the supervisor have ended before it served, another one is started, once.
async fn start_server(layout: &Layout, settings: &Settings) -> Result<Cluster, UpError> {
    match wait_for_server(layout).await {
        Err(_) if !is_running(layout) => {
            launch(layout, settings).await?;
            wait_for_server(layout).await
        }
        served_or_not => served_or_not,
    }
}

async fn wait_for_server(layout: &Layout) -> Result<Cluster, UpError> {
    let start = Instant::now();
    while start.elapsed() < START_WAIT && is_running(layout) {
        if let Ok(cluster) = Cluster::open(&layout.kubeconfig()).await
            && cluster.is_serving().await
        {
            return Ok(cluster);
        }
        sleep(Duration::from_millis(10)).await;
    }
    Err(not_started(layout, "server"))
}

/// Waits until the node is Ready. Kept data say so of an earlier agent: `since` is when this one was started.
async fn wait_for_node(
    layout: &Layout,
    cluster: &Cluster,
    name: &str,
    since: Option<Timestamp>,
) -> Result<(), UpError> {
    let wait = async {
        let lease = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
        if let Some(since) = since {
            cluster.wait("the node's lease", &lease, START_WAIT, |lease| is_renewed(lease, since)).await?;
        }
        let node = format!("/api/v1/nodes/{name}");
        cluster.wait("the node", &node, START_WAIT, |node| is_ready(node, since)).await
    };
    wait.await.map(drop).map_err(|error| {
        tracing::debug!(error = cluster::chain(&error));
        not_started(layout, "agent")
    })
}

fn is_renewed(lease: &Value, since: Timestamp) -> bool {
    cluster::time(&lease["spec"]["renewTime"]).is_some_and(|renewed| renewed >= since)
}

/// Heartbeats are written in whole seconds.
fn is_ready(node: &Value, since: Option<Timestamp>) -> bool {
    let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.find(|c| c["type"] == "Ready" && c["status"] == "True");
    let heartbeat = ready.and_then(|ready| cluster::time(&ready["lastHeartbeatTime"]));
    ready.is_some() && since.is_none_or(|since| heartbeat.is_some_and(|t| t.as_second() >= since.as_second()))
}

fn not_started(layout: &Layout, part: &'static str) -> UpError {
    let log = layout.log(part);
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(8).collect();
    let tail = lines.into_iter().rev().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n");
    UpError::NotStarted { part, log: log.display().to_string(), tail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_earlier_agent_wrote_is_not_taken_for_ready() {
        let since: Timestamp = "2026-01-02T03:04:05.5Z".parse().unwrap();
        let node = |at: &str| json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": at}]}});
        assert!(!is_ready(&node("2026-01-02T03:04:04Z"), Some(since)));
        assert!(is_ready(&node("2026-01-02T03:04:05Z"), Some(since)), "the same second, cut");
        assert!(is_ready(&node("2026-01-02T03:04:04Z"), None), "an agent that runs already");
        let unknown = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
        assert!(!is_ready(&unknown, None));
        let lease = |at: &str| json!({"spec": {"renewTime": at}});
        assert!(!is_renewed(&lease("2026-01-02T03:04:05.499999Z"), since));
        assert!(is_renewed(&lease("2026-01-02T03:04:05.500000Z"), since));
        assert!(!is_renewed(&json!({}), since));
    }

    #[test]
    fn a_directory_that_up_makes_is_marked() {
        let directory = tempfile::tempdir().unwrap();
        for (data, marked) in [(directory.path().to_owned(), false), (directory.path().join("new"), true)] {
            let layout = Layout::of(&data);
            for _ in 0..2 {
                prepare(&layout).unwrap();
                assert_eq!(layout.made().exists(), marked, "{}", data.display());
            }
        }
    }
}
