//! A shim whose containers are entries in a map: they run until they are told to end. Commands in them are `cat`, and
//! `fail` which says `out` and `err` and ends with 7.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use catamaran_task::spec::{ContainerId, ContainerSpec};
use catamaran_task::status::{ContainerStats, ContainerStatus, Exit, ExitReason, State};
use catamaran_task::{ExecSpec, ExitEvent, Pods, TaskError};
use jiff::Timestamp;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, watch};

/// See the module.
#[derive(Default)]
pub(crate) struct FakeShim {
    containers: Mutex<BTreeMap<String, ContainerStatus>>,
    exits: Mutex<Vec<ExitEvent>>,
    changed: Notify,
    commands: Mutex<BTreeMap<String, watch::Receiver<Option<Exit>>>>,
    /// `create`, `start`, `kill N`, with the container's id; `resize WxH`, `close stdin`.
    pub(crate) log: Mutex<Vec<String>>,
    /// The next answers that get lost: what was asked is done, and the caller learns nothing.
    pub(crate) lost_answers: AtomicU32,
}

fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap()
}

impl FakeShim {
    fn note(&self, what: &str, id: &ContainerId) {
        self.log.lock().unwrap().push(format!("{what} {}", id.0));
    }

    fn change<T>(&self, id: &ContainerId, f: impl FnOnce(&mut ContainerStatus) -> T) -> Result<T, TaskError> {
        let mut containers = self.containers.lock().unwrap();
        containers.get_mut(&id.0).map(f).ok_or_else(|| TaskError::NotFound(id.0.clone()))
    }

    /// A container that runs, without the way there.
    pub(crate) fn pretend_running(&self, id: &str) {
        let status = ContainerStatus {
            id: ContainerId(id.to_owned()),
            sandbox: catamaran_task::spec::SandboxId(String::new()),
            state: State::Running,
            pid: 1,
            started_at_ms: Some(now_ms()),
            exit: None,
        };
        self.containers.lock().unwrap().insert(id.to_owned(), status);
    }

    /// The program ends with this code.
    pub(crate) fn end(&self, id: &str, code: i32) {
        let id = ContainerId(id.to_owned());
        let exit = Exit { code, at_ms: now_ms(), reason: ExitReason::Exited, message: None };
        self.change(&id, |status| {
            status.state = State::Exited;
            status.exit = Some(exit.clone());
        })
        .unwrap();
        let mut exits = self.exits.lock().unwrap();
        let sequence = exits.len() as u64 + 1;
        exits.push(ExitEvent { sequence, id, exit });
        self.changed.notify_waiters();
    }

    fn answer<T>(&self, result: Result<T, TaskError>) -> Result<T, TaskError> {
        let lost = |left: u32| left.checked_sub(1);
        match self.lost_answers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lost) {
            Ok(_) => Err(TaskError::Unavailable("the shim went away".into())),
            Err(_) => result,
        }
    }

    /// Entries of the log that begin with `what`.
    pub(crate) fn count(&self, what: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|entry| entry.starts_with(what)).count()
    }
}

#[async_trait]
impl Pods for FakeShim {
    async fn create(&self, containers: Vec<ContainerSpec>) -> Vec<Result<ContainerStatus, TaskError>> {
        let one = |spec: ContainerSpec| {
            self.note("create", &spec.id);
            let mut containers = self.containers.lock().unwrap();
            if containers.contains_key(&spec.id.0) {
                return Err(TaskError::AlreadyExists(spec.id.0));
            }
            let status = ContainerStatus {
                id: spec.id.clone(),
                sandbox: spec.sandbox,
                state: State::Created,
                pid: 1,
                started_at_ms: None,
                exit: None,
            };
            containers.insert(spec.id.0, status.clone());
            drop(containers);
            self.answer(Ok(status))
        };
        containers.into_iter().map(one).collect()
    }

    async fn start(&self, id: &ContainerId) -> Result<ContainerStatus, TaskError> {
        self.note("start", id);
        let started = self.change(id, |status| {
            if status.state != State::Created {
                return Err(TaskError::FailedPrecondition("it was started already".into()));
            }
            status.state = State::Running;
            status.started_at_ms = Some(now_ms());
            Ok(status.clone())
        })?;
        self.answer(started)
    }

    async fn kill(&self, id: &ContainerId, signal: i32) -> Result<(), TaskError> {
        self.note(&format!("kill {signal}"), id);
        let state = self.change(id, |status| status.state)?;
        if state != State::Exited {
            self.end(&id.0, if signal == 9 { 137 } else { 0 });
        }
        Ok(())
    }

    async fn delete(&self, id: &ContainerId) -> Result<(), TaskError> {
        self.containers.lock().unwrap().remove(&id.0);
        Ok(())
    }

    async fn wait(&self, id: &ContainerId) -> Result<Exit, TaskError> {
        loop {
            if let Some(exit) = self.change(id, |status| status.exit.clone())? {
                return Ok(exit);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn status(&self, ids: &[ContainerId]) -> Result<Vec<ContainerStatus>, TaskError> {
        let containers = self.containers.lock().unwrap();
        Ok(containers.values().filter(|status| ids.is_empty() || ids.contains(&status.id)).cloned().collect())
    }

    async fn stats(&self, _: &[ContainerId]) -> Result<Vec<ContainerStats>, TaskError> {
        Ok(Vec::new())
    }

    async fn exits(&self, after: u64) -> Result<Vec<ExitEvent>, TaskError> {
        loop {
            let changed = self.changed.notified();
            let new: Vec<_> =
                self.exits.lock().unwrap().iter().filter(|exit| exit.sequence > after).cloned().collect();
            if !new.is_empty() {
                return Ok(new);
            }
            changed.await;
        }
    }

    async fn exec(&self, id: &ContainerId, exec: ExecSpec) -> Result<u32, TaskError> {
        self.change(id, |_| ())?;
        let (ended, exit) = watch::channel(None);
        self.commands.lock().unwrap().insert(exec.exec_id.clone(), exit);
        tokio::spawn(async move {
            let code = run(&exec).await.unwrap_or(126);
            let exit = Exit { code, at_ms: now_ms(), reason: ExitReason::Exited, message: None };
            ended.send_replace(Some(exit));
        });
        Ok(2)
    }

    async fn wait_exec(&self, _: &ContainerId, exec_id: &str) -> Result<Exit, TaskError> {
        let exit = self.commands.lock().unwrap().get(exec_id).cloned();
        let mut exit = exit.ok_or_else(|| TaskError::NotFound(exec_id.to_owned()))?;
        let ended = exit.wait_for(Option::is_some).await.map_err(|e| TaskError::Failed(e.to_string()))?;
        Ok(ended.clone().unwrap())
    }

    async fn kill_exec(&self, _: &ContainerId, _: &str, _: i32) -> Result<(), TaskError> {
        Err(TaskError::Unimplemented("exec".into()))
    }

    async fn resize(
        &self,
        _: &ContainerId,
        _: Option<&str>,
        width: u16,
        height: u16,
    ) -> Result<(), TaskError> {
        self.log.lock().unwrap().push(format!("resize {width}x{height}"));
        Ok(())
    }

    async fn close_stdin(&self, _: &ContainerId, _: Option<&str>) -> Result<(), TaskError> {
        self.log.lock().unwrap().push("close stdin".into());
        Ok(())
    }

    async fn update(&self, _: &ContainerId, _: oci_spec::runtime::LinuxResources) -> Result<(), TaskError> {
        Ok(())
    }

    async fn adopt_listener(&self, _: &ContainerId, _: u16, _: &str) -> Result<(), TaskError> {
        Ok(())
    }

    async fn shutdown(&self) -> Result<(), TaskError> {
        Ok(())
    }
}

/// Runs a command to its end; its code.
async fn run(exec: &ExecSpec) -> std::io::Result<i32> {
    let writer = |path: &str| pipe::OpenOptions::new().open_sender(path);
    match exec.process.args().iter().flatten().next().map(String::as_str) {
        Some("cat") => {
            let mut stdin = pipe::OpenOptions::new().open_receiver(&exec.stdin)?;
            tokio::io::copy(&mut stdin, &mut writer(&exec.stdout)?).await?;
            Ok(0)
        }
        Some("fail") => {
            writer(&exec.stdout)?.write_all(b"out\n").await?;
            writer(&exec.stderr)?.write_all(b"err\n").await?;
            Ok(7)
        }
        _ => Ok(127),
    }
}
