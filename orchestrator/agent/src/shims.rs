//! The shim processes of this node: started detached when first needed, found again after a restart of the agent,
//! started anew when they die. Their exits wake the workers of the pods concerned.
//!
//! A shim's life is watched by its pidfd, so that the death of a wasm host is known at once and its pods come back
//! at once; the calls of [`Shim`] end with `Dead` then, instead of waiting for an answer.

mod names;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use catamaran_task::spec::{ContainerId, ContainerSpec};
use catamaran_task::status::{ContainerStats, ContainerStatus, Exit};
use catamaran_task::{ExecSpec, TaskClient, TaskError};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::names::{folder, name, short_name};
use crate::config::Paths;
use crate::context::Wakers;
use crate::record::{parse_container_id, write_atomically};
use crate::runtime::ShimKey;

/// How long a shim may take until it answers.
const START: Duration = Duration::from_secs(10);
/// A shim that died sooner than this after its start is started again only after as long a pause: whatever kills it
/// must not eat a core.
const SETTLED: Duration = Duration::from_secs(1);
/// Pause between two attempts to reach a shim that starts.
const KNOCK: Duration = Duration::from_millis(2);

/// The process that stands for a key, once it is known; whoever starts or finds it holds the lock.
type Slot = Arc<Mutex<Option<Arc<Shim>>>>;

/// All shims of the node.
pub(crate) struct Shims {
    executable: PathBuf,
    paths: Paths,
    wakers: Arc<Wakers>,
    slots: Mutex<HashMap<ShimKey, Slot>>,
}

/// One running shim.
pub(crate) struct Shim {
    key: ShimKey,
    client: TaskClient,
    dead: CancellationToken,
    since: tokio::time::Instant,
}

/// A shim that could not be reached, or a call that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShimError {
    #[error("starting {name} ({program})")]
    Spawn {
        name: String,
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{name} ended while it started; its log {log} says: {tail}")]
    Ended { name: String, log: String, tail: String },
    #[error("{name} did not answer within {} s; its log {log} says: {tail}", START.as_secs())]
    Silent { name: String, log: String, tail: String },
    #[error("the process that ran it ended")]
    Dead,
    #[error(transparent)]
    Refused(TaskError),
}

/// What is written down of a running shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ProcessFile {
    key: ShimKey,
    pid: i32,
    /// Field 22 of `/proc/PID/stat`: tells a process from a later one with the same id.
    start_time: u64,
}

// === impl Shim ===

impl Shim {
    async fn unless_dead<T>(&self, call: impl Future<Output = Result<T, TaskError>>) -> Result<T, ShimError> {
        tokio::select! {
            biased;
            answer = call => answer.map_err(ShimError::Refused),
            () = self.dead.cancelled() => Err(ShimError::Dead),
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.is_cancelled()
    }

    pub(crate) async fn create(&self, spec: ContainerSpec) -> Result<ContainerStatus, ShimError> {
        let one = async { self.client.create(vec![spec]).await.pop().unwrap_or_else(no_answer) };
        self.unless_dead(one).await
    }

    pub(crate) async fn start(&self, id: &ContainerId) -> Result<ContainerStatus, ShimError> {
        self.unless_dead(self.client.start(id)).await
    }

    pub(crate) async fn kill(&self, id: &ContainerId, signal: i32) -> Result<(), ShimError> {
        self.unless_dead(self.client.kill(id, signal)).await
    }

    pub(crate) async fn delete(&self, id: &ContainerId) -> Result<(), ShimError> {
        self.unless_dead(self.client.delete(id)).await
    }

    pub(crate) async fn status(&self, ids: &[ContainerId]) -> Result<Vec<ContainerStatus>, ShimError> {
        self.unless_dead(self.client.status(ids)).await
    }

    pub(crate) async fn stats(&self, ids: &[ContainerId]) -> Result<Vec<ContainerStats>, ShimError> {
        self.unless_dead(self.client.stats(ids)).await
    }

    pub(crate) async fn exec(&self, id: &ContainerId, exec: ExecSpec) -> Result<u32, ShimError> {
        self.unless_dead(self.client.exec(id, exec)).await
    }

    pub(crate) async fn wait_exec(&self, id: &ContainerId, exec_id: &str) -> Result<Exit, ShimError> {
        self.unless_dead(self.client.wait_exec(id, exec_id)).await
    }

    pub(crate) async fn kill_exec(
        &self,
        id: &ContainerId,
        exec_id: &str,
        signal: i32,
    ) -> Result<(), ShimError> {
        self.unless_dead(self.client.kill_exec(id, exec_id, signal)).await
    }

    pub(crate) async fn close_stdin(&self, id: &ContainerId, exec_id: Option<&str>) -> Result<(), ShimError> {
        self.unless_dead(self.client.close_stdin(id, exec_id)).await
    }

    pub(crate) async fn resize(
        &self,
        id: &ContainerId,
        exec_id: Option<&str>,
        (width, height): (u16, u16),
    ) -> Result<(), ShimError> {
        self.unless_dead(self.client.resize(id, exec_id, width, height)).await
    }

    pub(crate) async fn adopt_listener(
        &self,
        id: &ContainerId,
        port: u16,
        token: &str,
    ) -> Result<(), ShimError> {
        self.unless_dead(self.client.adopt_listener(id, port, token)).await
    }

    pub(crate) async fn hand_over(&self, token: &str, fd: BorrowedFd<'_>) -> Result<(), ShimError> {
        self.unless_dead(self.client.hand_over(token, fd)).await
    }

    pub(crate) async fn take_back(&self, token: &str) -> Result<OwnedFd, ShimError> {
        self.unless_dead(self.client.take_back(token)).await
    }

    /// Waits until the container has exited.
    pub(crate) async fn wait(&self, id: &ContainerId) -> Result<Exit, ShimError> {
        self.unless_dead(self.client.wait(id)).await
    }

    async fn shutdown(&self) -> Result<(), ShimError> {
        self.unless_dead(self.client.shutdown()).await
    }
}

fn no_answer<T>() -> Result<T, TaskError> {
    Err(TaskError::Unavailable("the shim answered a create without a result".into()))
}

impl ShimError {
    /// The shim knows no such container.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, ShimError::Refused(TaskError::NotFound(_)))
    }

    /// The shim ended, or did not answer: what was asked of it may have been done.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(
            self,
            ShimError::Dead | ShimError::Ended { .. } | ShimError::Refused(TaskError::Unavailable(_))
        )
    }

    pub(crate) fn is_already_exists(&self) -> bool {
        matches!(self, ShimError::Refused(TaskError::AlreadyExists(_)))
    }
}

// === impl Shims ===

impl Shims {
    pub(crate) fn new(executable: PathBuf, paths: Paths, wakers: Arc<Wakers>) -> Self {
        Shims { executable, paths, wakers, slots: Mutex::default() }
    }

    async fn slot(&self, key: &ShimKey) -> Slot {
        self.slots.lock().await.entry(key.clone()).or_default().clone()
    }

    /// The shim, if it runs; none is started.
    pub(crate) async fn running(self: &Arc<Self>, key: &ShimKey) -> Option<Arc<Shim>> {
        let slot = self.slot(key).await;
        let mut slot = slot.lock().await;
        if let Some(shim) = slot.as_ref().filter(|shim| !shim.is_dead()) {
            return Some(shim.clone());
        }
        let found = self.find(key).await;
        if found.is_some() {
            slot.clone_from(&found);
        }
        found
    }

    /// The shim; started where none runs. A wasm host is put into `netns`.
    pub(crate) async fn ensure(
        self: &Arc<Self>,
        key: &ShimKey,
        netns: Option<&Path>,
    ) -> Result<Arc<Shim>, ShimError> {
        let slot = self.slot(key).await;
        let mut slot = slot.lock().await;
        if let Some(shim) = slot.as_ref().filter(|shim| !shim.is_dead()) {
            return Ok(shim.clone());
        }
        let shim = match self.find(key).await {
            Some(shim) => shim,
            None => {
                if slot.as_ref().is_some_and(|dead| dead.since.elapsed() < SETTLED) {
                    tokio::time::sleep(SETTLED).await;
                }
                self.start(key, netns).await?
            }
        };
        *slot = Some(shim.clone());
        Ok(shim)
    }

    /// All shims that run on this node, also those an earlier agent started.
    pub(crate) async fn known(self: &Arc<Self>) -> Vec<Arc<Shim>> {
        let files = std::fs::read_dir(self.paths.run.join("shims")).into_iter().flatten().flatten();
        let keys = files.filter_map(|file| {
            let file: ProcessFile = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
            Some(file.key)
        });
        let mut shims = Vec::new();
        for key in keys {
            shims.extend(self.running(&key).await);
        }
        shims
    }

    /// Ends the host that one pod had for itself.
    pub(crate) async fn end_solo(self: &Arc<Self>, uid: &str) {
        let key = ShimKey::Solo(uid.to_owned());
        if let Some(shim) = self.running(&key).await
            && let Err(error) = shim.shutdown().await
        {
            warn!(%error, uid, "the pod's wasm host does not end");
        }
        self.slots.lock().await.remove(&key);
    }

    /// A shim that an earlier agent started.
    async fn find(self: &Arc<Self>, key: &ShimKey) -> Option<Arc<Shim>> {
        let bytes = std::fs::read(self.process_file(key)).ok()?;
        let file: ProcessFile = serde_json::from_slice(&bytes).ok()?;
        if file.key != *key || start_time(file.pid) != Some(file.start_time) {
            return None;
        }
        let pidfd = pidfd_open(Pid::from_raw(file.pid)?, PidfdFlags::NONBLOCK).ok()?;
        // A second look: the descriptor is of the process that the file names.
        (start_time(file.pid) == Some(file.start_time)).then_some(())?;
        let shim = self.watch(key, readiness(pidfd).ok()?, None);
        info!(shim = %name(key), pid = file.pid, "a running shim is found again");
        Some(shim)
    }

    async fn start(self: &Arc<Self>, key: &ShimKey, netns: Option<&Path>) -> Result<Arc<Shim>, ShimError> {
        let log = self.log_file(key);
        let failed = |source| ShimError::Spawn {
            name: name(key),
            program: self.executable.display().to_string(),
            source,
        };
        let child = self.spawn(key, netns, &log).map_err(failed)?;
        let pid = i32::try_from(child.id()).unwrap_or_default();
        let pidfd = Pid::from_raw(pid)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK));
        let pidfd = pidfd.map_err(io::Error::from).and_then(readiness).map_err(failed)?;
        let file = ProcessFile { key: key.clone(), pid, start_time: start_time(pid).unwrap_or_default() };
        let bytes = serde_json::to_vec(&file).expect("a process file is plain data");
        write_atomically(&self.process_file(key), &bytes).map_err(failed)?;
        let shim = self.watch(key, pidfd, Some(child));
        self.knock(&shim, &log).await?;
        info!(shim = %name(key), pid, "a shim is started");
        Ok(shim)
    }

    /// Starts the process. It is no child to anybody for long: it outlives the agent.
    fn spawn(&self, key: &ShimKey, netns: Option<&Path>, log: &Path) -> io::Result<Child> {
        let root = self.paths.shim(&folder(key));
        let socket = self.socket(key);
        for directory in [&root, &self.paths.run] {
            std::fs::create_dir_all(directory)?;
        }
        if let Some(parent) = log.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let output = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(&self.executable);
        // What `ps` shows, whatever path it was started by.
        command.arg0("catamaran");
        match key {
            ShimKey::Oci => command.arg("shim-oci"),
            ShimKey::Shared(_) | ShimKey::Solo(_) => command.args(["shim-wasm", "host"]),
        };
        command.arg("--root").arg(root).arg("--socket").arg(socket);
        if let (Some(netns), ShimKey::Shared(_) | ShimKey::Solo(_)) = (netns, key) {
            command.arg("--netns").arg(netns);
        }
        if matches!(key, ShimKey::Solo(_)) {
            command.arg("--solo");
        }
        command.arg("--log").arg(log);
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .current_dir("/")
            .process_group(0)
            .spawn()
    }

    /// Waits until the shim answers a call. A connection alone says nothing: the socket may be held by its keeper while
    /// the worker behind it dies again and again.
    async fn knock(&self, shim: &Shim, log: &Path) -> Result<(), ShimError> {
        let answers = async {
            while TaskClient::connect(shim.client.socket()).await.is_err() {
                tokio::time::sleep(KNOCK).await;
            }
            while shim.client.status(&[]).await.is_err() {
                tokio::time::sleep(KNOCK).await;
            }
        };
        let log_name = log.display().to_string();
        tokio::select! {
            () = answers => Ok(()),
            () = shim.dead.cancelled() => {
                Err(ShimError::Ended { name: name(&shim.key), log: log_name, tail: tail(log) })
            }
            () = tokio::time::sleep(START) => {
                Err(ShimError::Silent { name: name(&shim.key), log: log_name, tail: tail(log) })
            }
        }
    }

    /// Follows a process until it ends, and its exits.
    fn watch(self: &Arc<Self>, key: &ShimKey, pidfd: AsyncFd<OwnedFd>, child: Option<Child>) -> Arc<Shim> {
        let client = TaskClient::lazy(&self.socket(key));
        let shim = Arc::new(Shim {
            key: key.clone(),
            client,
            dead: CancellationToken::new(),
            since: tokio::time::Instant::now(),
        });
        let (followed, wakers) = (shim.clone(), self.wakers.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = pidfd.readable() => {}
                () = follow_exits(&followed, &wakers) => {}
            }
            if let Some(mut child) = child {
                // It has ended: this collects it and does not wait.
                let _ = child.wait();
            }
            info!(shim = %name(&followed.key), "a shim ended");
            followed.dead.cancel();
            wakers.wake_all();
        });
        shim
    }

    /// Makes this process count as the shim.
    #[cfg(test)]
    pub(crate) fn pretend_running(&self, key: &ShimKey) -> PathBuf {
        let pid = i32::try_from(std::process::id()).unwrap();
        let file = ProcessFile { key: key.clone(), pid, start_time: start_time(pid).unwrap() };
        write_atomically(&self.process_file(key), &serde_json::to_vec(&file).unwrap()).unwrap();
        self.socket(key)
    }

    fn socket(&self, key: &ShimKey) -> PathBuf {
        self.paths.run.join(format!("{}.sock", short_name(key)))
    }

    fn process_file(&self, key: &ShimKey) -> PathBuf {
        self.paths.run.join("shims").join(format!("{}.json", short_name(key)))
    }

    fn log_file(&self, key: &ShimKey) -> PathBuf {
        self.paths.data.join("log").join(format!("shim-{}.log", folder(key).replace('/', "-")))
    }
}

/// Wakes the workers whose containers ended. Ends never: the caller drops it when the process is gone.
async fn follow_exits(shim: &Shim, wakers: &Wakers) {
    let mut after = 0;
    loop {
        match shim.client.exits(after).await {
            Ok(exits) => {
                for exit in exits {
                    after = after.max(exit.sequence);
                    if let Some((uid, ..)) = parse_container_id(&exit.id.0) {
                        wakers.wake(uid);
                    }
                }
            }
            Err(_) => {
                // A restarted worker behind the same process counts from the start again.
                after = 0;
                tokio::time::sleep(Duration::from_millis(100)).await;
                wakers.wake_all();
            }
        }
    }
}

/// A pidfd that can be waited for.
#[expect(
    deprecated,
    reason = "the replacement is unsafe for descriptors that do not own theirs; this one does"
)]
fn readiness(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd, tokio::io::Interest::READABLE)
}

/// Field 22 of `/proc/PID/stat`; `None` when there is no such process, or only its remains.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    (fields.next()? != "Z").then_some(())?;
    fields.nth(18)?.parse().ok()
}

/// The last lines of a log, for an error message.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    if lines.is_empty() { "nothing".into() } else { lines.into_iter().rev().collect::<Vec<_>>().join(" | ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_by_its_start() {
        let mine = i32::try_from(std::process::id()).unwrap();
        assert!(start_time(mine).unwrap() > 0);
        assert_eq!(start_time(i32::MAX), None);
    }
}
