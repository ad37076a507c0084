//! One container from `create` to `delete`: what it was given, where it stands, how it is stopped.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catamaran_task::pods::TaskError;
use catamaran_task::spec::{ContainerSpec, WasmSpec};
use catamaran_task::status::{ContainerStats, ContainerStatus, Exit, ExitReason, State};
use oci_spec::runtime::{LinuxResources, Mount, Spec};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cpu::CpuMeter;
use crate::engine::Isolation;
use crate::guest::{Access, GuestTemplate, Preopen};
use crate::host::Shared;
use crate::http::{HttpPod, front};
use crate::memory::MemoryAccount;
use crate::net::GuestNetwork;
use crate::net::client::Outgoing;
use crate::outcome::{self, now_ms};
use crate::output::ContainerOutput;
use crate::program::Program;
use crate::stdin::GuestInput;

/// Port of an HTTP component that names none.
const DEFAULT_PORT: u16 = 80;
/// 128 + SIGTERM.
const TERMINATED_CODE: i32 = 143;
/// As shells report a program that cannot be run.
const START_FAILED_CODE: i32 = 128;

/// See the module.
pub(crate) struct Container {
    spec: ContainerSpec,
    isolation: Isolation,
    wasm: WasmSpec,
    program: Arc<Program>,
    template: Arc<GuestTemplate>,
    http: Option<Arc<HttpPod>>,
    killed: CancellationToken,
    state: Mutex<Standing>,
    exit: watch::Sender<Option<Exit>>,
}

struct Standing {
    state: State,
    started_at_ms: Option<u64>,
    listeners: HashMap<u16, std::net::TcpListener>,
    tokens: Vec<String>,
}

fn failed(step: &str, error: &dyn std::error::Error) -> TaskError {
    let mut text = format!("{step}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    TaskError::Failed(text)
}

impl Container {
    /// Loads and links the program and prepares all that instances are made from.
    pub(crate) fn create(spec: ContainerSpec, host: &Shared) -> Result<Arc<Self>, TaskError> {
        let wasm = spec.wasm.clone().ok_or_else(|| {
            TaskError::InvalidArgument(format!(
                "{} is not a wasm container: it has no `wasm` part",
                spec.id.0
            ))
        })?;
        let program = host.programs.load(&wasm.compiled).map_err(|e| failed("load the program", &e))?;
        let template = Arc::new(template(&spec, &wasm, host.isolation)?);
        let http = program
            .entry
            .is_http()
            .then(|| HttpPod::new(Arc::clone(&program), Arc::clone(&template), host, &wasm));
        let killed = http.as_ref().map_or_else(CancellationToken::new, |pod| pod.killed.clone());
        let standing = Standing {
            state: State::Created,
            started_at_ms: None,
            listeners: HashMap::new(),
            tokens: Vec::new(),
        };
        Ok(Arc::new(Self {
            spec,
            isolation: host.isolation,
            wasm,
            program,
            template,
            http,
            killed,
            state: Mutex::new(standing),
            exit: watch::Sender::new(None),
        }))
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn status(&self) -> ContainerStatus {
        let standing = self.standing();
        ContainerStatus {
            id: self.spec.id.clone(),
            sandbox: self.spec.sandbox.clone(),
            state: standing.state,
            pid: 0,
            started_at_ms: standing.started_at_ms,
            exit: self.exit.borrow().clone(),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.standing().state
    }

    /// Instances count as processes, and so does the server in front of an HTTP component.
    pub(crate) fn stats(&self) -> ContainerStats {
        let server = u64::from(self.http.is_some() && self.state() == State::Running);
        ContainerStats {
            id: self.spec.id.0.clone(),
            cpu_ns: self.template.cpu.used(),
            working_set_bytes: self.template.memory.working_set(),
            pids: server + self.template.memory.instances(),
        }
    }

    /// Keeps a listener that the agent made, for `start`.
    pub(crate) fn adopt(
        &self,
        port: u16,
        token: &str,
        listener: std::net::TcpListener,
    ) -> Result<(), TaskError> {
        let mut standing = self.standing();
        if standing.state != State::Created {
            return Err(TaskError::FailedPrecondition(
                "listeners are adopted before the container is started".into(),
            ));
        }
        standing.listeners.insert(port, listener);
        standing.tokens.push(token.to_owned());
        Ok(())
    }

    /// Tokens of adopted listeners, to be forgotten with the container.
    pub(crate) fn tokens(&self) -> Vec<String> {
        self.standing().tokens.clone()
    }

    /// Starts the program; `ended` hears of its end.
    pub(crate) fn start(
        self: &Arc<Self>,
        host: &Shared,
        ended: impl FnOnce(Exit) + Send + 'static,
    ) -> Result<ContainerStatus, TaskError> {
        let mut standing = self.standing();
        if standing.state != State::Created {
            return Err(TaskError::FailedPrecondition(format!("{} was started already", self.spec.id.0)));
        }
        let container = Arc::clone(self);
        match &self.http {
            Some(_) if !self.template.memory.fits(self.program.initial_memory) => {
                // As a process ends that is given less memory than it is loaded into.
                let exit = self.too_little_memory();
                host.runtimes.service().spawn(async move { container.finish(State::Running, exit, ended) });
            }
            Some(pod) => {
                let listeners = match self.listen(&mut standing.listeners) {
                    Ok(listeners) => listeners,
                    Err(error) => {
                        let exit = outcome::exit(
                            START_FAILED_CODE,
                            ExitReason::StartFailed,
                            Some(error.to_string()),
                        );
                        drop(standing);
                        container.finish(State::Created, exit, ended);
                        return Err(error);
                    }
                };
                let pod = Arc::clone(pod);
                host.runtimes.service().spawn(async move {
                    front::serve(Arc::clone(&pod), listeners).await;
                    let code = if pod.killed.is_cancelled() { outcome::KILLED_CODE } else { 0 };
                    container.finish(State::Running, outcome::exit(code, ExitReason::Exited, None), ended);
                });
            }
            None => {
                let (program, template) = (Arc::clone(&self.program), Arc::clone(&self.template));
                let running = crate::command::run(
                    program,
                    template,
                    Arc::clone(host.engines.ticker()),
                    self.killed.clone(),
                );
                host.runtimes
                    .bulk()
                    .spawn(async move { container.finish(State::Running, running.await, ended) });
            }
        }
        standing.state = State::Running;
        standing.started_at_ms = Some(now_ms());
        drop(standing);
        Ok(self.status())
    }

    fn too_little_memory(&self) -> Exit {
        let message = format!(
            "the memory limit is too small: the component begins with {} bytes, and {} are charged beside them; raise resources.limits.memory",
            self.program.initial_memory,
            crate::memory::FIXED_CHARGE
        );
        self.template.output.note(&message);
        outcome::exit(outcome::KILLED_CODE, ExitReason::OomKilled, Some(message))
    }

    /// Ends it, if it still is where the caller saw it: of two that end it at once, one does.
    fn finish(&self, from: State, exit: Exit, ended: impl FnOnce(Exit)) {
        // In one step for everybody: who sees the state sees the exit, who was woken by either finds the event.
        let mut standing = self.standing();
        if standing.state != from {
            return;
        }
        standing.state = State::Exited;
        self.exit.send_modify(|known| {
            *known = Some(exit.clone());
            ended(exit);
        });
    }

    /// The sockets of its ports: adopted ones, the rest bound here.
    fn listen(
        &self,
        adopted: &mut HashMap<u16, std::net::TcpListener>,
    ) -> Result<Vec<TcpListener>, TaskError> {
        let ports =
            if self.wasm.http_ports.is_empty() { &[DEFAULT_PORT][..] } else { &self.wasm.http_ports[..] };
        let ip = match self.isolation {
            Isolation::Shared => self.wasm.pod_ip,
            Isolation::Solo => Ipv4Addr::UNSPECIFIED,
        };
        ports
            .iter()
            .map(|port| match adopted.remove(port) {
                Some(listener) => TcpListener::from_std(listener)
                    .map_err(|e| failed(&format!("take over the listener of port {port}"), &e)),
                None => {
                    let address = SocketAddr::from((ip, *port));
                    bind(address).map_err(|e| failed(&format!("listen on {address}"), &e))
                }
            })
            .collect()
    }

    /// TERM: no new work. KILL: drop it now. A container that was not started just ends.
    pub(crate) fn signal(&self, signal: Signal, ended: impl FnOnce(Exit)) {
        let state = self.standing().state;
        match (state, signal) {
            (State::Created, Signal::Kill | Signal::Terminate) => {
                let code = if signal == Signal::Kill { outcome::KILLED_CODE } else { TERMINATED_CODE };
                self.finish(State::Created, outcome::exit(code, ExitReason::Exited, None), ended);
            }
            (State::Running, Signal::Kill) => self.killed.cancel(),
            (State::Running, Signal::Terminate) => {
                // A command has no notion of signals: it goes on until it is killed.
                if let Some(pod) = &self.http {
                    pod.draining.cancel();
                }
            }
            _ => {}
        }
    }

    /// Waits for the end.
    pub(crate) async fn wait(&self) -> Option<Exit> {
        let mut exit = self.exit.subscribe();
        exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone())
    }

    pub(crate) fn update(&self, resources: &LinuxResources) {
        self.template.memory.set_limit(memory_limit(Some(resources)));
        self.template.cpu.set_limit(cpu_limit(Some(resources)));
    }

    pub(crate) fn close_stdin(&self) {
        self.template.input.close();
    }
}

/// The signals that mean something to a wasm container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Terminate,
    Kill,
    /// Has no effect.
    Other,
}

impl From<i32> for Signal {
    fn from(number: i32) -> Self {
        match number {
            libc::SIGKILL => Self::Kill,
            libc::SIGTERM | libc::SIGINT | libc::SIGQUIT => Self::Terminate,
            _ => Self::Other,
        }
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

fn template(spec: &ContainerSpec, wasm: &WasmSpec, isolation: Isolation) -> Result<GuestTemplate, TaskError> {
    let runtime = &spec.runtime_spec;
    let resources = runtime.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let network =
        GuestNetwork::new(isolation, wasm).map_err(|e| TaskError::InvalidArgument(e.to_string()))?;
    let process = runtime.process().as_ref();
    let cwd = process.map_or_else(|| "/".to_owned(), |process| process.cwd().display().to_string());
    let mut preopens = preopens(runtime)?;
    preopens.extend(working_directory(&cwd, &preopens));
    Ok(GuestTemplate {
        args: process.and_then(|process| process.args().clone()).unwrap_or_default(),
        env: process.and_then(|process| process.env().as_ref()).map(|env| pairs(env)).unwrap_or_default(),
        cwd,
        preopens,
        memory: MemoryAccount::new(memory_limit(resources)),
        cpu: CpuMeter::new(cpu_limit(resources)),
        output: ContainerOutput::open(&spec.output, &spec.stdin)
            .map_err(|e| failed("open the container's output", &e))?,
        input: GuestInput::new(&spec.stdin),
        outgoing: Outgoing::new(&network),
        network,
    })
}

fn pairs(env: &[String]) -> Vec<(String, String)> {
    env.iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn memory_limit(resources: Option<&LinuxResources>) -> Option<i64> {
    resources?.memory().as_ref()?.limit()
}

/// CPUs: quota over period.
fn cpu_limit(resources: Option<&LinuxResources>) -> Option<f64> {
    let cpu = resources?.cpu().as_ref()?;
    let quota = cpu.quota().filter(|quota| *quota > 0)?;
    Some(quota as f64 / cpu.period().filter(|period| *period > 0).unwrap_or(100_000) as f64)
}

/// Bind mounts of directories become preopened directories. A mount of a single file is left out:
/// WASI preopens directories only.
fn preopens(spec: &Spec) -> Result<Vec<Preopen>, TaskError> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    mounts.iter().filter(|mount| is_bind(mount)).filter_map(|mount| preopen(mount).transpose()).collect()
}

fn is_bind(mount: &Mount) -> bool {
    let options = mount.options().as_deref().unwrap_or_default();
    mount.typ().as_deref() == Some("bind")
        || options.iter().any(|option| option == "bind" || option == "rbind")
}

fn preopen(mount: &Mount) -> Result<Option<Preopen>, TaskError> {
    let guest = mount.destination().display().to_string();
    let Some(host) = mount.source().clone() else {
        return Err(TaskError::InvalidArgument(format!("the bind mount at {guest} has no source")));
    };
    let Some(dir) = open_directory(&host, &guest)? else {
        tracing::debug!(%guest, "a mount of a file is not visible to a wasm container");
        return Ok(None);
    };
    let options = mount.options().as_deref().unwrap_or_default();
    let read_only = options.iter().any(|option| option == "ro");
    let perms = if read_only { Access::ReadOnly } else { Access::ReadWrite };
    Ok(Some(Preopen { host, dir: Arc::new(dir), guest, perms }))
}

/// WASI has no working directory: libraries take relative paths from the directory preopened as `.`. A working
/// directory that is a mount is that; one below a mount is not, a symbolic link in there could lead anywhere.
fn working_directory(cwd: &str, preopens: &[Preopen]) -> Option<Preopen> {
    let at = |path: &str| path.trim_end_matches('/').to_owned();
    let mount = preopens.iter().find(|preopen| at(&preopen.guest) == at(cwd))?;
    Some(Preopen { guest: ".".to_owned(), ..mount.clone() })
}

/// Opens a mount's source if it is a directory. The caller resolved its path: a symbolic link in it now is the work of
/// a pod that shares the volume, and is not followed.
fn open_directory(host: &Path, guest: &str) -> Result<Option<OwnedFd>, TaskError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(CWD, host, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOTDIR) => Ok(None),
        Err(e) => Err(failed(&format!("mount {} at {guest}", host.display()), &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_working_directory_is_a_mount_or_nothing() {
        let dir = Arc::new(OwnedFd::from(std::fs::File::open("/").unwrap()));
        let mount = |guest: &str| Preopen {
            host: format!("/volumes{guest}").into(),
            dir: Arc::clone(&dir),
            guest: guest.to_owned(),
            perms: Access::ReadOnly,
        };
        let mounts = [mount("/conf"), mount("/data/")];
        let rows = [
            ("/conf", Some("/volumes/conf")),
            ("/data", Some("/volumes/data/")),
            ("/conf/x", None),
            ("/", None),
        ];
        for (cwd, host) in rows {
            let found = working_directory(cwd, &mounts).map(|found| (found.guest, found.host));
            assert_eq!(found, host.map(|host| (".".to_owned(), host.into())), "{cwd}");
        }
    }

    #[test]
    fn a_volume_is_opened_without_following_links() {
        let here = tempfile::tempdir().unwrap();
        let (real, link, file) =
            (here.path().join("real"), here.path().join("link"), here.path().join("file"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        std::fs::write(&file, "").unwrap();
        assert!(open_directory(&real, "/v").unwrap().is_some());
        assert!(open_directory(&file, "/v").unwrap().is_none());
        assert!(open_directory(&link, "/v").is_err());
        assert!(open_directory(&link.join("below"), "/v").is_err());
    }
}
