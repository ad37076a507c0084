//! containerd's Task API in terms of [`Pods`]: create from a bundle directory, processes in two steps
//! (exec, start), exits by wait. What only this API needs (paths of a bundle, processes not yet
//! started) is kept here and forgotten when the shim restarts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::{any::Any, timestamp::Timestamp};
use containerd_shim_protos::protobuf::{EnumOrUnknown, Message, MessageField};
use containerd_shim_protos::shim_async::{Task, create_task};
use containerd_shim_protos::ttrpc::r#async::{Service, TtrpcContext};
use containerd_shim_protos::ttrpc::{self, Error as TtrpcError};
use tokio::sync::watch;

use crate::pods::{ExecSpec, Pods, TaskError};
use crate::spec::{ContainerId, ContainerSpec, Output, RootMount, Rootfs, SandboxId, Stdin};
use crate::status::{ContainerStatus, Exit, ExitReason, State};
use crate::wire::{TASK_V2, TASK_V3, to_the_end};

/// The CRI's name for the pod of a container, as containerd annotates it.
const SANDBOX_ANNOTATION: &str = "io.kubernetes.cri.sandbox-id";

/// The Task API under both names that containerd has called it.
pub(crate) fn services(pods: &Arc<dyn Pods>) -> Vec<HashMap<String, Service>> {
    let service = Arc::new(TaskService { pods: Arc::clone(pods), records: Arc::default() });
    [TASK_V2, TASK_V3]
        .into_iter()
        .map(|name| {
            let methods = create_task(Arc::clone(&service) as Arc<dyn Task + Send + Sync>);
            methods.into_values().map(|methods| (name.to_owned(), methods)).collect()
        })
        .collect()
}

struct TaskService {
    pods: Arc<dyn Pods>,
    records: Arc<Mutex<HashMap<ContainerId, Record>>>,
}

/// What the Task API was told about a container and must say again.
#[derive(Clone, Default)]
struct Record {
    bundle: String,
    stdin: String,
    stdout: String,
    stderr: String,
    terminal: bool,
    execs: HashMap<String, Exec>,
}

#[derive(Clone)]
struct Exec {
    spec: ExecSpec,
    pid: u32,
    exit: watch::Sender<Option<Exit>>,
}

impl TaskService {
    fn records(&self) -> MutexGuard<'_, HashMap<ContainerId, Record>> {
        // No code between lock and unlock can panic half-way through a change.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn status(&self, id: &ContainerId) -> Result<ContainerStatus, TaskError> {
        let mut found = self.pods.status(std::slice::from_ref(id)).await?;
        found.pop().ok_or_else(|| TaskError::NotFound(format!("container {}", id.0)))
    }

    fn exec_record(&self, id: &ContainerId, exec_id: &str) -> Result<Exec, TaskError> {
        let exec = self.records().get(id).and_then(|r| r.execs.get(exec_id)).cloned();
        exec.ok_or_else(|| TaskError::NotFound(format!("process {exec_id} of container {}", id.0)))
    }

    async fn create_container(&self, q: api::CreateTaskRequest) -> Result<u32, TaskError> {
        let bundle = PathBuf::from(&q.bundle);
        let config = tokio::fs::read(bundle.join("config.json"))
            .await
            .map_err(|e| TaskError::InvalidArgument(format!("read {}/config.json: {e}", bundle.display())))?;
        let spec = container_spec(&q, &bundle, &config)?;
        let id = spec.id.clone();
        let created = self.pods.create(vec![spec]).await.pop();
        let status = created.unwrap_or_else(|| Err(TaskError::Failed("create gave no result".into())))?;
        let record = Record {
            bundle: q.bundle,
            stdin: q.stdin,
            stdout: q.stdout,
            stderr: q.stderr,
            terminal: q.terminal,
            execs: HashMap::new(),
        };
        self.records().insert(id, record);
        Ok(status.pid)
    }

    fn add_exec(&self, q: api::ExecProcessRequest) -> Result<(), TaskError> {
        let process = serde_json::from_slice(&q.spec.value)
            .map_err(|e| TaskError::InvalidArgument(format!("the process specification: {e}")))?;
        let mut process: oci_spec::runtime::Process = process;
        process.set_terminal(Some(q.terminal));
        let id = ContainerId(q.id);
        let spec = ExecSpec {
            exec_id: q.exec_id.clone(),
            process,
            stdin: q.stdin,
            stdout: q.stdout,
            stderr: q.stderr,
        };
        let mut records = self.records();
        let record = records.entry(id).or_default();
        if record.execs.contains_key(&q.exec_id) {
            return Err(TaskError::AlreadyExists(format!("process {}", q.exec_id)));
        }
        let exit = watch::Sender::new(None);
        record.execs.insert(q.exec_id, Exec { spec, pid: 0, exit });
        Ok(())
    }

    async fn start_exec(&self, id: ContainerId, exec_id: String) -> Result<u32, TaskError> {
        let exec = self.exec_record(&id, &exec_id)?;
        if exec.pid != 0 {
            return Err(TaskError::FailedPrecondition(format!("process {exec_id} was started already")));
        }
        let pid = self.pods.exec(&id, exec.spec).await?;
        if let Some(kept) = self.records().get_mut(&id).and_then(|r| r.execs.get_mut(&exec_id)) {
            kept.pid = pid;
        }
        let pods = Arc::clone(&self.pods);
        tokio::spawn(async move {
            let ended = pods.wait_exec(&id, &exec_id).await;
            exec.exit.send_replace(Some(ended.unwrap_or_else(|e| lost(&e))));
        });
        Ok(pid)
    }

    async fn wait_for(&self, id: ContainerId, exec_id: String) -> Result<Exit, TaskError> {
        if exec_id.is_empty() {
            return self.pods.wait(&id).await;
        }
        let mut exit = self.exec_record(&id, &exec_id)?.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        ended.ok_or_else(|| TaskError::NotFound(format!("process {exec_id}")))
    }

    async fn delete_container(&self, id: ContainerId) -> Result<api::DeleteResponse, TaskError> {
        let status = self.status(&id).await?;
        self.pods.delete(&id).await?;
        self.records().remove(&id);
        Ok(deleted(status.pid, status.exit.as_ref()))
    }

    fn delete_exec(&self, id: &ContainerId, exec_id: &str) -> Result<api::DeleteResponse, TaskError> {
        let exec = self.exec_record(id, exec_id)?;
        let exit = exec.exit.borrow().clone();
        if exec.pid != 0 && exit.is_none() {
            return Err(TaskError::FailedPrecondition(format!("process {exec_id} is running")));
        }
        if let Some(record) = self.records().get_mut(id) {
            record.execs.remove(exec_id);
        }
        Ok(deleted(exec.pid, exit.as_ref()))
    }

    async fn state_of(&self, q: api::StateRequest) -> Result<api::StateResponse, TaskError> {
        let id = ContainerId(q.id);
        let record = self.records().get(&id).cloned().unwrap_or_default();
        let mut state = api::StateResponse { id: id.0.clone(), bundle: record.bundle, ..Default::default() };
        let (phase, exit) = if q.exec_id.is_empty() {
            let status = self.status(&id).await?;
            (state.stdin, state.stdout, state.stderr) = (record.stdin, record.stdout, record.stderr);
            (state.terminal, state.pid) = (record.terminal, status.pid);
            (status.state, status.exit)
        } else {
            let exec = self.exec_record(&id, &q.exec_id)?;
            let terminal = exec.spec.process.terminal().unwrap_or(false);
            (state.stdin, state.stdout, state.stderr) = (exec.spec.stdin, exec.spec.stdout, exec.spec.stderr);
            (state.terminal, state.pid, state.exec_id) = (terminal, exec.pid, q.exec_id);
            let exit = exec.exit.borrow().clone();
            let phase = match (&exit, exec.pid) {
                (Some(_), _) => State::Exited,
                (None, 0) => State::Created,
                (None, _) => State::Running,
            };
            (phase, exit)
        };
        state.status = EnumOrUnknown::new(match phase {
            State::Created => api::Status::CREATED,
            State::Running => api::Status::RUNNING,
            State::Exited => api::Status::STOPPED,
        });
        if let Some(exit) = exit {
            state.exit_status = exit.code.unsigned_abs();
            state.exited_at = timestamp(exit.at_ms);
        }
        Ok(state)
    }

    async fn figures(&self, id: ContainerId) -> Result<Any, TaskError> {
        use containerd_shim_protos::cgroups_v2::metrics::{CPUStat, MemoryStat, Metrics, PidsStat};
        let mut found = self.pods.stats(std::slice::from_ref(&id)).await?;
        let stats = found.pop().ok_or_else(|| TaskError::NotFound(format!("container {}", id.0)))?;
        let mut metrics = Metrics::new();
        metrics.cpu = MessageField::some(CPUStat { usage_usec: stats.cpu_ns / 1000, ..Default::default() });
        metrics.memory =
            MessageField::some(MemoryStat { usage: stats.working_set_bytes, ..Default::default() });
        metrics.pids = MessageField::some(PidsStat { current: stats.pids, ..Default::default() });
        let value =
            metrics.write_to_bytes().map_err(|e| TaskError::Failed(format!("encode figures: {e}")))?;
        Ok(Any { type_url: "io.containerd.cgroups.v2.Metrics".into(), value, ..Default::default() })
    }
}

/// What a bundle and its request say, as we say it.
fn container_spec(
    q: &api::CreateTaskRequest,
    bundle: &Path,
    config: &[u8],
) -> Result<ContainerSpec, TaskError> {
    let mut runtime_spec: oci_spec::runtime::Spec = serde_json::from_slice(config)
        .map_err(|e| TaskError::InvalidArgument(format!("{}/config.json: {e}", bundle.display())))?;
    if let Some(process) = runtime_spec.process_mut() {
        process.set_terminal(Some(q.terminal));
    }
    let root = runtime_spec.root().as_ref().map_or_else(|| PathBuf::from("rootfs"), |r| r.path().clone());
    let target = bundle.join(root);
    let annotations = runtime_spec.annotations().as_ref();
    let sandbox = annotations.and_then(|a| a.get(SANDBOX_ANNOTATION)).unwrap_or(&q.id).clone();
    let rootfs = if q.rootfs.is_empty() {
        Rootfs::Directory(target)
    } else {
        let mounts = q.rootfs.iter().map(|m| RootMount {
            kind: m.type_.clone(),
            source: m.source.clone(),
            options: m.options.clone(),
        });
        Rootfs::Mounts { target, mounts: mounts.collect() }
    };
    let output = match (q.stdout.as_str(), q.stderr.as_str()) {
        ("", "") => Output::Discard,
        (stdout, stderr) => Output::Fifos { stdout: stdout.into(), stderr: stderr.into() },
    };
    let stdin = if q.stdin.is_empty() { Stdin::Null } else { Stdin::Fifo(q.stdin.clone()) };
    let id = ContainerId(q.id.clone());
    Ok(ContainerSpec { id, sandbox: SandboxId(sandbox), runtime_spec, rootfs, output, stdin, wasm: None })
}

fn lost(error: &TaskError) -> Exit {
    Exit { code: 255, at_ms: 0, reason: ExitReason::Lost, message: Some(error.to_string()) }
}

fn timestamp(at_ms: u64) -> MessageField<Timestamp> {
    MessageField::some(Timestamp {
        seconds: i64::try_from(at_ms / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(at_ms % 1000 * 1_000_000).unwrap_or(0),
        ..Default::default()
    })
}

fn deleted(pid: u32, exit: Option<&Exit>) -> api::DeleteResponse {
    let mut response = api::DeleteResponse { pid, ..Default::default() };
    if let Some(exit) = exit {
        response.exit_status = exit.code.unsigned_abs();
        response.exited_at = timestamp(exit.at_ms);
    }
    response
}

/// For readers that do not know our error variants, the whole sentence.
fn refused(error: TaskError) -> TtrpcError {
    let mut status = crate::wire::to_status(&error);
    status.message = error.to_string();
    TtrpcError::RpcStatus(status)
}

fn signal(number: u32) -> Result<i32, TaskError> {
    i32::try_from(number).map_err(|_| TaskError::InvalidArgument(format!("signal {number}")))
}

fn optional(exec_id: &str) -> Option<&str> {
    if exec_id.is_empty() { None } else { Some(exec_id) }
}

/// Runs a changing call in a task of its own: it must not stop half-way when containerd goes away.
macro_rules! to_the_end {
    ($self:ident, |$task:ident| $body:expr) => {{
        let $task = TaskService { pods: Arc::clone(&$self.pods), records: Arc::clone(&$self.records) };
        to_the_end(async move { $body }).await.map_err(refused)
    }};
}

#[async_trait]
impl Task for TaskService {
    async fn state(&self, _: &TtrpcContext, q: api::StateRequest) -> ttrpc::Result<api::StateResponse> {
        self.state_of(q).await.map_err(refused)
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        q: api::CreateTaskRequest,
    ) -> ttrpc::Result<api::CreateTaskResponse> {
        let pid = to_the_end!(self, |task| task.create_container(q).await)?;
        Ok(api::CreateTaskResponse { pid, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, q: api::StartRequest) -> ttrpc::Result<api::StartResponse> {
        let id = ContainerId(q.id);
        let pid = to_the_end!(self, |task| if q.exec_id.is_empty() {
            task.pods.start(&id).await.map(|status| status.pid)
        } else {
            task.start_exec(id, q.exec_id).await
        })?;
        Ok(api::StartResponse { pid, ..Default::default() })
    }

    async fn delete(&self, _: &TtrpcContext, q: api::DeleteRequest) -> ttrpc::Result<api::DeleteResponse> {
        let id = ContainerId(q.id);
        to_the_end!(self, |task| if q.exec_id.is_empty() {
            task.delete_container(id).await
        } else {
            task.delete_exec(&id, &q.exec_id)
        })
    }

    async fn pids(&self, _: &TtrpcContext, q: api::PidsRequest) -> ttrpc::Result<api::PidsResponse> {
        let pids = self.pods.pids(&ContainerId(q.id)).await.map_err(refused)?;
        let processes = pids.into_iter().map(|pid| api::ProcessInfo { pid, ..Default::default() }).collect();
        Ok(api::PidsResponse { processes, ..Default::default() })
    }

    async fn pause(&self, _: &TtrpcContext, q: api::PauseRequest) -> ttrpc::Result<api::Empty> {
        to_the_end!(self, |task| task.pods.pause(&ContainerId(q.id)).await)?;
        Ok(api::Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, q: api::ResumeRequest) -> ttrpc::Result<api::Empty> {
        to_the_end!(self, |task| task.pods.resume(&ContainerId(q.id)).await)?;
        Ok(api::Empty::new())
    }

    async fn kill(&self, _: &TtrpcContext, q: api::KillRequest) -> ttrpc::Result<api::Empty> {
        let id = ContainerId(q.id);
        to_the_end!(self, |task| {
            let signal = signal(q.signal)?;
            match optional(&q.exec_id) {
                None => task.pods.kill(&id, signal).await,
                Some(exec_id) => task.pods.kill_exec(&id, exec_id, signal).await,
            }
        })?;
        Ok(api::Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, q: api::ExecProcessRequest) -> ttrpc::Result<api::Empty> {
        self.status(&ContainerId(q.id.clone())).await.map_err(refused)?;
        self.add_exec(q).map_err(refused)?;
        Ok(api::Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, q: api::ResizePtyRequest) -> ttrpc::Result<api::Empty> {
        let size = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let (width, height) = (size(q.width), size(q.height));
        let resized = self.pods.resize(&ContainerId(q.id), optional(&q.exec_id), width, height).await;
        resized.map_err(refused)?;
        Ok(api::Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, q: api::CloseIORequest) -> ttrpc::Result<api::Empty> {
        if q.stdin {
            let closed = self.pods.close_stdin(&ContainerId(q.id), optional(&q.exec_id)).await;
            closed.map_err(refused)?;
        }
        Ok(api::Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, q: api::UpdateTaskRequest) -> ttrpc::Result<api::Empty> {
        to_the_end!(self, |task| {
            let resources = serde_json::from_slice(&q.resources.value)
                .map_err(|e| TaskError::InvalidArgument(format!("the resources: {e}")))?;
            task.pods.update(&ContainerId(q.id), resources).await
        })?;
        Ok(api::Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, q: api::WaitRequest) -> ttrpc::Result<api::WaitResponse> {
        let exit = self.wait_for(ContainerId(q.id), q.exec_id).await.map_err(refused)?;
        let mut response = api::WaitResponse { exit_status: exit.code.unsigned_abs(), ..Default::default() };
        response.exited_at = timestamp(exit.at_ms);
        Ok(response)
    }

    async fn stats(&self, _: &TtrpcContext, q: api::StatsRequest) -> ttrpc::Result<api::StatsResponse> {
        let stats = self.figures(ContainerId(q.id)).await.map_err(refused)?;
        Ok(api::StatsResponse { stats: MessageField::some(stats), ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, q: api::ConnectRequest) -> ttrpc::Result<api::ConnectResponse> {
        let status = self.status(&ContainerId(q.id)).await.map_err(refused)?;
        Ok(api::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: status.pid,
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: api::ShutdownRequest) -> ttrpc::Result<api::Empty> {
        match to_the_end!(self, |task| task.pods.shutdown().await) {
            // containerd asks after each container; one shim serves them all.
            Err(TtrpcError::RpcStatus(s)) if s.code() == ttrpc::Code::FAILED_PRECONDITION => {}
            other => other?,
        }
        Ok(api::Empty::new())
    }
}
