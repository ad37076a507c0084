//! `catamaran up`: checks the machine, starts the supervisor, waits until the node is Ready.

use std::fs::{DirBuilder, OpenOptions};
use std::io::IsTerminal;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use super::{DataDir, Outcome};
use crate::cluster::{self, Cluster};
use crate::layout::{Layout, Settings, host_name};
use crate::preflight::Machine;
use crate::progress::step;
use crate::supervise::process;
use crate::{demo, view};

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
        "{0} is running on this data directory with other settings; stop it first with `catamaran down --keep-data`"
    )]
    OtherSettings(&'static str),
    #[error("the {part} did not start; the end of {log}:\n{tail}")]
    NotStarted { part: &'static str, log: String, tail: String },
}

// === impl Up ===

impl Up {
    pub(crate) async fn run(self) -> Outcome {
        let started = Instant::now();
        check_machine()?;
        let layout = self.data.layout();
        prepare(&layout)?;
        let settings = self.settings(&layout);
        if is_running(&layout) {
            if Settings::load(&layout).is_some_and(|running| running != settings) {
                return Err(UpError::OtherSettings("a cluster").into());
            }
        } else {
            check_ports(&layout, &settings)?;
            settings.save(&layout).map_err(|source| directory(&layout.settings(), source))?;
            start_supervisor(&layout)?;
        }
        println!("catamaran {} in {}", env!("CARGO_PKG_VERSION"), layout.data.display());
        let cluster = step("start the server", wait_for_server(&layout)).await?;
        let node = format!("/api/v1/nodes/{}", settings.node_name);
        step("start the agent, node Ready", wait_for_node(&layout, &cluster, &node)).await?;
        if !is_running(&layout) {
            return Err(not_started(&layout, "supervisor").into());
        }
        println!("  cluster ready after {:.2} s", started.elapsed().as_secs_f64());
        if self.demo {
            let url = demo::run(&cluster, &settings).await?;
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
    for (path, mode) in [(&layout.data, 0o700), (&layout.run, 0o700), (&layout.data.join("log"), 0o700)] {
        let made = DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|source| directory(path, source))?;
    }
    Ok(())
}

fn is_running(layout: &Layout) -> bool {
    process::read(&layout.process_file("supervisor")).is_some_and(|supervisor| supervisor.is_alive())
}

/// A port that one of our own parts still holds is no conflict.
fn check_ports(layout: &Layout, settings: &Settings) -> Result<(), UpError> {
    if process::read(&layout.process_file("server")).is_some_and(|server| server.is_alive()) {
        return Ok(());
    }
    for (port, flag) in [(settings.api_port, "api-port"), (settings.registry_port, "registry-port")] {
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_err() {
            return Err(UpError::PortInUse(port, flag));
        }
    }
    Ok(())
}

fn start_supervisor(layout: &Layout) -> Result<(), UpError> {
    let path = layout.log("supervisor");
    let log = OpenOptions::new().create(true).append(true).open(&path);
    let log = log.map_err(|source| directory(&path, source))?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0("catamaran").arg("supervisor").arg("--data-dir").arg(&layout.data);
    let output = log.try_clone().map_err(UpError::Supervisor)?;
    command.stdin(Stdio::null()).stdout(output).stderr(log).process_group(0);
    // The supervisor makes itself a session leader, so that no terminal takes it along.
    let child = command.spawn().map_err(UpError::Supervisor)?;
    let pid = i32::try_from(child.id()).expect("pids are positive and below 2^22");
    process::write(&layout.process_file("supervisor"), pid).map_err(UpError::Supervisor)
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

async fn wait_for_node(layout: &Layout, cluster: &Cluster, path: &str) -> Result<(), UpError> {
    let ready = |node: &serde_json::Value| {
        let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let waited = cluster.wait("the node", path, START_WAIT, ready).await;
    waited.map(drop).map_err(|error| {
        tracing::debug!(error = cluster::chain(&error));
        not_started(layout, "agent")
    })
}

fn not_started(layout: &Layout, part: &'static str) -> UpError {
    let log = layout.log(part);
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(8).collect();
    let tail = lines.into_iter().rev().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n");
    UpError::NotStarted { part, log: log.display().to_string(), tail }
}
