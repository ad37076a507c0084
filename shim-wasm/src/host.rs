//! The host's end of the contract: the verbs of `Pods` over a table of containers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use catamaran_task::fds::FdTable;
use catamaran_task::pods::{ExecSpec, ExitEvent, Pods, TaskError};
use catamaran_task::spec::{ContainerId, ContainerSpec};
use catamaran_task::status::{ContainerStats, ContainerStatus, Exit, State};
use oci_spec::runtime::LinuxResources;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::container::{Container, Signal};
use crate::engine::{Engines, Isolation};
use crate::program::Programs;
use crate::runtimes::Runtimes;

/// How long `exits` waits.
const EXITS_WAIT: Duration = Duration::from_secs(30);
/// Exits remembered for callers that were away.
const EXITS_KEPT: usize = 16_384;

/// A wasm host: all its containers.
pub struct WasmHost {
    shared: Arc<Shared>,
    fds: Arc<FdTable>,
    containers: Mutex<BTreeMap<ContainerId, Arc<Container>>>,
    exits: Arc<Exits>,
    stop: CancellationToken,
}

/// What all containers of a host use.
pub(crate) struct Shared {
    pub(crate) isolation: Isolation,
    pub(crate) programs: Programs,
    pub(crate) engines: Arc<Engines>,
    pub(crate) runtimes: Runtimes,
}

/// The list of exits.
struct Exits {
    list: Mutex<VecDeque<ExitEvent>>,
    last: watch::Sender<u64>,
}

impl Exits {
    fn add(&self, id: ContainerId, exit: Exit) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = *self.last.borrow() + 1;
        list.push_back(ExitEvent { sequence, id, exit });
        if list.len() > EXITS_KEPT {
            list.pop_front();
        }
        self.last.send_replace(sequence);
    }

    fn after(&self, sequence: u64) -> Vec<ExitEvent> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().filter(|event| event.sequence > sequence).cloned().collect()
    }
}

impl WasmHost {
    /// A host in this process; must be called within a tokio runtime, on which requests are served.
    pub fn new(isolation: Isolation, fds: Arc<FdTable>) -> std::io::Result<Arc<Self>> {
        let engines = Arc::new(Engines::new(isolation));
        engines.warm();
        let shared = Arc::new(Shared {
            isolation,
            programs: Programs::new(Arc::clone(&engines)),
            engines,
            runtimes: Runtimes::new(tokio::runtime::Handle::current())?,
        });
        Ok(Arc::new(Self {
            shared,
            fds,
            containers: Mutex::default(),
            exits: Arc::new(Exits { list: Mutex::default(), last: watch::Sender::new(first_sequence()) }),
            stop: CancellationToken::new(),
        }))
    }

    /// Ends once `shutdown` was called.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ContainerId, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &ContainerId) -> Result<Arc<Container>, TaskError> {
        self.lock().get(id).cloned().ok_or_else(|| TaskError::NotFound(format!("container {}", id.0)))
    }

    fn chosen(&self, ids: &[ContainerId]) -> Vec<Arc<Container>> {
        let containers = self.lock();
        if ids.is_empty() {
            containers.values().cloned().collect()
        } else {
            ids.iter().filter_map(|id| containers.get(id).cloned()).collect()
        }
    }

    async fn create_one(&self, spec: ContainerSpec) -> Result<ContainerStatus, TaskError> {
        let id = spec.id.clone();
        check_name(&id)?;
        if self.lock().contains_key(&id) {
            return Err(TaskError::AlreadyExists(format!("container {}", id.0)));
        }
        // Reads and checks files: not on a thread that requests wait for.
        let shared = Arc::clone(&self.shared);
        let made = tokio::task::spawn_blocking(move || Container::create(spec, &shared)).await;
        let container = made.map_err(|e| TaskError::Failed(format!("create container {}: {e}", id.0)))??;
        let status = container.status();
        match self.lock().entry(id) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(container);
                Ok(status)
            }
            std::collections::btree_map::Entry::Occupied(place) => {
                Err(TaskError::AlreadyExists(format!("container {}", place.key().0)))
            }
        }
    }

    fn on_exit(&self, id: &ContainerId) -> impl FnOnce(Exit) + Send + 'static {
        let (exits, id) = (Arc::clone(&self.exits), id.clone());
        move |exit| exits.add(id, exit)
    }
}

/// Above every number of an earlier host, so that a caller who knew that one misses nothing.
fn first_sequence() -> u64 {
    crate::outcome::now_ms() * 1000
}

/// Names come into paths and logs of others: letters, digits, `-`, `_` and `.`, not `.` first.
fn check_name(id: &ContainerId) -> Result<(), TaskError> {
    let name = &id.0;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 255 || name.starts_with('.') || !name.bytes().all(fits) {
        return Err(TaskError::InvalidArgument(format!("{name:?} is not a container name")));
    }
    Ok(())
}

fn no_processes(what: &str) -> TaskError {
    TaskError::Unimplemented(format!(
        "{what} is not possible: a wasm container has no processes, shell or terminal; its logs and ports work as usual"
    ))
}

#[async_trait]
impl Pods for WasmHost {
    async fn create(&self, containers: Vec<ContainerSpec>) -> Vec<Result<ContainerStatus, TaskError>> {
        let mut created = Vec::with_capacity(containers.len());
        for spec in containers {
            created.push(self.create_one(spec).await);
        }
        created
    }

    async fn start(&self, id: &ContainerId) -> Result<ContainerStatus, TaskError> {
        // Sockets belong to the runtime that serves them, whichever called.
        let _service = self.shared.runtimes.service().enter();
        self.find(id)?.start(&self.shared, self.on_exit(id))
    }

    async fn kill(&self, id: &ContainerId, signal: i32) -> Result<(), TaskError> {
        self.find(id)?.signal(Signal::from(signal), self.on_exit(id));
        Ok(())
    }

    async fn delete(&self, id: &ContainerId) -> Result<(), TaskError> {
        let container = self.find(id)?;
        if container.state() == State::Running {
            return Err(TaskError::FailedPrecondition(format!(
                "container {} is running; kill it first",
                id.0
            )));
        }
        for token in container.tokens() {
            drop(self.fds.take(&token));
        }
        self.lock().remove(id);
        Ok(())
    }

    async fn wait(&self, id: &ContainerId) -> Result<Exit, TaskError> {
        let container = self.find(id)?;
        container.wait().await.ok_or_else(|| TaskError::NotFound(format!("container {}", id.0)))
    }

    async fn status(&self, ids: &[ContainerId]) -> Result<Vec<ContainerStatus>, TaskError> {
        Ok(self.chosen(ids).iter().map(|container| container.status()).collect())
    }

    async fn stats(&self, ids: &[ContainerId]) -> Result<Vec<ContainerStats>, TaskError> {
        Ok(self.chosen(ids).iter().map(|container| container.stats()).collect())
    }

    async fn exits(&self, after: u64) -> Result<Vec<ExitEvent>, TaskError> {
        let mut last = self.exits.last.subscribe();
        // The number of the last exit says nothing of whether one is in the list: it goes on from an earlier host.
        let some = async {
            loop {
                let found = self.exits.after(after);
                if !found.is_empty() || last.changed().await.is_err() {
                    return found;
                }
            }
        };
        // Nothing within the time is an answer too.
        Ok(tokio::time::timeout(EXITS_WAIT, some).await.unwrap_or_default())
    }

    async fn exec(&self, id: &ContainerId, _: ExecSpec) -> Result<u32, TaskError> {
        self.find(id)?;
        Err(no_processes("exec"))
    }

    async fn wait_exec(&self, id: &ContainerId, exec_id: &str) -> Result<Exit, TaskError> {
        self.find(id)?;
        Err(TaskError::NotFound(format!("process {exec_id} in container {}", id.0)))
    }

    async fn kill_exec(&self, id: &ContainerId, exec_id: &str, _: i32) -> Result<(), TaskError> {
        self.find(id)?;
        Err(TaskError::NotFound(format!("process {exec_id} in container {}", id.0)))
    }

    async fn resize(&self, id: &ContainerId, _: Option<&str>, _: u16, _: u16) -> Result<(), TaskError> {
        self.find(id)?;
        Err(no_processes("a terminal"))
    }

    async fn update(&self, id: &ContainerId, resources: LinuxResources) -> Result<(), TaskError> {
        self.find(id)?.update(&resources);
        Ok(())
    }

    async fn adopt_listener(&self, id: &ContainerId, port: u16, token: &str) -> Result<(), TaskError> {
        let container = self.find(id)?;
        // A copy: the table keeps its own for an agent that asks for it after a restart.
        let fd = self.fds.get(token).ok_or_else(|| TaskError::NotFound(format!("descriptor {token}")))?;
        let listener = std::net::TcpListener::from(fd);
        listener.set_nonblocking(true).map_err(|e| {
            TaskError::InvalidArgument(format!("descriptor {token} is not a listening socket: {e}"))
        })?;
        container.adopt(port, token, listener)
    }

    async fn close_stdin(&self, id: &ContainerId, _: Option<&str>) -> Result<(), TaskError> {
        self.find(id)?.close_stdin();
        Ok(())
    }

    async fn shutdown(&self) -> Result<(), TaskError> {
        let left = self.lock().len();
        if left > 0 {
            return Err(TaskError::FailedPrecondition(format!("{left} containers are left")));
        }
        self.stop.cancel();
        Ok(())
    }
}
