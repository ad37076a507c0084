//! The verbs of the task contract on Linux containers.

mod verbs;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use catamaran_task::pods::{ExecSpec, ExitEvent, TaskError};
use catamaran_task::spec::{ContainerId, ContainerSpec, Rootfs, SECCOMP_ANNOTATION, SECCOMP_DEFAULT};
use catamaran_task::status::{ContainerStatus, Exit};
use oci_spec::runtime::Spec;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::Interest;
use tokio::sync::{Notify, Semaphore, watch};

pub(crate) use verbs::SharedShim;

use crate::adopt;
use crate::cgroup::{Cgroup, Layout};
use crate::container::Container;
use crate::create;
use crate::custody::Custody;
use crate::exec::{self, ExecProcess, describe};
use crate::exits::{Ended, Exits, Identity, Status, now_ms};
use crate::launch::capability::{self, Sets};
use crate::launch::seccomp::{Cache, Programs};
use crate::launch::{Gate, LaunchError};
use crate::pump;
use crate::state::{Directory, Phase, Root};

/// Exits that are remembered for `exits`.
const REMEMBERED: usize = 8_192;
/// Numbers of exits that are reserved at a time.
const SEQUENCE_BLOCK: u64 = 1_000;
/// How long `exits` waits for the first.
const LONG_POLL: Duration = Duration::from_secs(30);
/// Control group above those of all containers.
const TOP_GROUP: &str = "catamaran";
/// Containers set up at a time: more only wait for each other in the kernel.
const PARALLEL: usize = 8;

/// All that the worker knows.
pub(crate) struct Shim {
    pub root: Root,
    pub layout: Arc<Layout>,
    pub custody: Custody,
    pub exits: Exits,
    /// Capabilities that this node's root has.
    pub capability_limit: u64,
    keeper: u32,
    filters: Cache,
    containers: Mutex<BTreeMap<ContainerId, Entry>>,
    /// Which container a control group belongs to: the next attempt of a container may have the path of
    /// the last, which is over and not yet deleted.
    cgroups: Mutex<BTreeMap<String, ContainerId>>,
    parallel: Semaphore,
    sequence: Mutex<Sequence>,
    announcing: Mutex<()>,
    events: Mutex<VecDeque<ExitEvent>>,
    newest: watch::Sender<u64>,
    shutdown: Notify,
    trash: Notify,
}

/// Numbers of exits: reserved on disk in blocks, so that they go up across restarts.
#[derive(Debug)]
struct Sequence {
    last: u64,
    reserved: u64,
}

#[derive(Clone)]
enum Entry {
    /// The name is taken, the container not there yet.
    Reserved,
    Known(Arc<Container>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code under these locks can panic half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shim {
    pub(crate) fn new(root: Root, layout: Arc<Layout>, custody: Custody, keeper: u32) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let reserved = root.reserved_sequence();
        Self {
            exits: Exits::new(root.exits()),
            capability_limit: capability::own_limit(&status),
            sequence: Mutex::new(Sequence { last: reserved, reserved }),
            announcing: Mutex::default(),
            root,
            layout,
            custody,
            keeper,
            filters: Cache::default(),
            containers: Mutex::default(),
            cgroups: Mutex::default(),
            parallel: Semaphore::new(PARALLEL),
            events: Mutex::default(),
            newest: watch::Sender::new(0),
            shutdown: Notify::new(),
            trash: Notify::new(),
        }
    }

    pub(crate) async fn shutdown_asked(&self) {
        self.shutdown.notified().await;
    }

    /// Makes `id` the owner of the control group at `path`, unless that of another runs.
    pub(crate) fn claim_cgroup(&self, path: &str, id: &ContainerId) -> Result<(), TaskError> {
        let mut owners = lock(&self.cgroups);
        if let Some(owner) = owners.get(path).filter(|owner| *owner != id) {
            let over = self.find(owner).is_ok_and(|other| other.record().phase == Phase::Exited);
            if !over {
                let text = format!("the cgroup {path} belongs to container {}, which is not over", owner.0);
                return Err(TaskError::FailedPrecondition(text));
            }
        }
        owners.insert(path.to_owned(), id.clone());
        Ok(())
    }

    /// Gives the control group up; false when it belongs to another by now and must be left alone.
    pub(crate) fn release_cgroup(&self, path: &str, id: &ContainerId) -> bool {
        let mut owners = lock(&self.cgroups);
        if owners.get(path).is_some_and(|owner| owner != id) {
            return false;
        }
        owners.remove(path);
        true
    }

    /// Takes a container's directory away, and what the shim made in its scratch directory.
    pub(crate) fn discard_files(&self, spec: &ContainerSpec, directory: &Directory) -> std::io::Result<()> {
        if let Rootfs::Overlay { scratch, .. } = &spec.rootfs {
            for name in ["upper", "work"] {
                self.root.discard(&scratch.join(name))?;
            }
        }
        self.discard_directory(directory)
    }

    /// The same of a container whose specification is not known.
    pub(crate) fn discard_directory(&self, directory: &Directory) -> std::io::Result<()> {
        self.root.discard(directory.path())?;
        self.trash.notify_one();
        Ok(())
    }

    /// Removes what was taken away, again and again; does not end.
    pub(crate) async fn empty_trash(self: Arc<Self>) {
        loop {
            let root = self.root.clone();
            let emptied =
                blocking(move || root.empty_trash().map_err(|e| TaskError::Failed(e.to_string()))).await;
            if let Err(e) = emptied {
                tracing::warn!(error = %e, "empty the trash");
            }
            self.trash.notified().await;
        }
    }

    pub(crate) fn insert(&self, container: Arc<Container>) {
        lock(&self.containers).insert(container.spec.id.clone(), Entry::Known(container));
    }

    fn find(&self, id: &ContainerId) -> Result<Arc<Container>, TaskError> {
        match lock(&self.containers).get(id) {
            Some(Entry::Known(container)) => Ok(Arc::clone(container)),
            _ => Err(TaskError::NotFound(format!("container {}", id.0))),
        }
    }

    fn select(&self, ids: &[ContainerId]) -> Vec<Arc<Container>> {
        let containers = lock(&self.containers);
        let known = |entry: &Entry| match entry {
            Entry::Known(container) => Some(Arc::clone(container)),
            Entry::Reserved => None,
        };
        if ids.is_empty() {
            return containers.values().filter_map(known).collect();
        }
        ids.iter().filter_map(|id| containers.get(id)).filter_map(known).collect()
    }

    /// Filter programs for a process of a container with this specification.
    pub(crate) fn filters(&self, spec: &Spec, capabilities: Sets) -> Result<Programs, TaskError> {
        let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let annotation = spec.annotations().as_ref().and_then(|a| a.get(SECCOMP_ANNOTATION));
        let programs = match (profile, annotation.map(String::as_str)) {
            (Some(profile), _) => self.filters.get(profile),
            (None, Some(SECCOMP_DEFAULT)) => self.filters.default_profile(capabilities.bounding),
            (None, _) => Ok(Programs::default()),
        };
        programs.map_err(|e| TaskError::InvalidArgument(e.to_string()))
    }

    /// To be held from [`Self::next_sequence`] to [`Self::announce`]: who was told of an exit asks for
    /// those with greater numbers only.
    pub(crate) fn announcing(&self) -> MutexGuard<'_, ()> {
        lock(&self.announcing)
    }

    /// The next number of the list of exits.
    pub(crate) fn next_sequence(&self) -> u64 {
        let mut sequence = lock(&self.sequence);
        sequence.last += 1;
        if sequence.last > sequence.reserved {
            sequence.reserved = sequence.last + SEQUENCE_BLOCK;
            if let Err(e) = self.root.reserve_sequence(sequence.reserved) {
                tracing::error!(error = %e, "reserve numbers for exits");
            }
        }
        sequence.last
    }

    /// Puts an exit on the list.
    pub(crate) fn announce(&self, sequence: u64, id: &ContainerId, exit: &Exit) {
        let event = ExitEvent { sequence, id: id.clone(), exit: exit.clone() };
        {
            let mut events = lock(&self.events);
            let at = events.partition_point(|known| known.sequence < sequence);
            events.insert(at, event);
            if events.len() > REMEMBERED {
                events.pop_front();
            }
        }
        self.newest.send_if_modified(|newest| {
            let newer = sequence > *newest;
            *newest = (*newest).max(sequence);
            newer
        });
    }

    /// Waits for the end of a process: from the keeper's records where it is the keeper's child, else
    /// (an earlier keeper was killed) from the kernel.
    pub(crate) async fn end_of(&self, process: Identity, pidfd: Option<Arc<OwnedFd>>) -> Ended {
        let recorded = self.exits.wait_for(process);
        if process.parent() == self.keeper {
            return recorded.await.unwrap_or_else(|_| Ended::now(Status::Unknown));
        }
        // Gone: then the keeper's record, if there is one, was complete before.
        if let Some(ended) = self.exits.recorded(process) {
            return ended;
        }
        let pidfd = pidfd.and_then(|fd| fd.try_clone().ok());
        let Some(watched) = pidfd.and_then(|fd| pump::watch(fd, Interest::READABLE).ok()) else {
            return Ended::now(Status::Unknown);
        };
        // An error would mean that it cannot be watched; then it counts as lost.
        let _ = watched.readable().await.map(|mut guard| guard.retain_ready());
        for _ in 0..20 {
            let ended = adopt::end_by_pidfd(watched.get_ref());
            if ended.status != Status::Unknown {
                return ended;
            }
            // Not reaped by its new parent yet.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ended::now(Status::Unknown)
    }

    async fn create_one(self: Arc<Self>, spec: ContainerSpec) -> Result<ContainerStatus, TaskError> {
        let id = spec.id.clone();
        self.reserve(&id)?;
        let shim = Arc::clone(&self);
        let made = match self.parallel.acquire().await {
            Ok(_permit) => blocking(move || create::create(&shim, spec)).await,
            Err(_) => Err(TaskError::Unavailable("the shim is ending".into())),
        };
        match made {
            Ok((container, terminal)) => {
                container.start_pumps(terminal);
                self.insert(Arc::clone(&container));
                container.watch_end(&self, container.record().process);
                Ok(container.status())
            }
            Err(error) => {
                lock(&self.containers).remove(&id);
                Err(error)
            }
        }
    }

    fn reserve(&self, id: &ContainerId) -> Result<(), TaskError> {
        if !crate::state::is_valid(&id.0) {
            return Err(TaskError::InvalidArgument(format!(
                "the container name {:?}: 1 to 128 letters, digits, '-', '_', '.', beginning with a letter or digit",
                id.0
            )));
        }
        let mut containers = lock(&self.containers);
        if containers.contains_key(id) {
            return Err(TaskError::AlreadyExists(format!("container {}", id.0)));
        }
        containers.insert(id.clone(), Entry::Reserved);
        Ok(())
    }

    async fn start_one(self: Arc<Self>, container: Arc<Container>) -> Result<ContainerStatus, TaskError> {
        let _one_at_a_time = container.changes.lock().await;
        let phase = container.record().phase;
        if phase != Phase::Created {
            return Err(TaskError::FailedPrecondition(format!(
                "container {} is {}, only a created one can be started",
                container.name(),
                phase.words()
            )));
        }
        let gate = container.held().gate.take();
        let Some(gate) = gate else {
            return Err(TaskError::Failed(format!("container {} has lost its gate", container.name())));
        };
        let opener = Arc::clone(&container);
        blocking(move || Ok(release(&opener, &gate))).await??;
        self.custody.drop_one(container.name(), "gate");
        Ok(container.status())
    }

    /// Puts down what became of a process that went through its gate when the worker was killed.
    pub(crate) fn promote(&self, container: &Container, gate: &Gate) {
        if let Err(e) = release(container, gate) {
            tracing::warn!(container = container.name(), error = %e, "its start was cut short");
        }
        self.custody.drop_one(container.name(), "gate");
    }

    async fn delete_one(self: Arc<Self>, container: Arc<Container>) -> Result<(), TaskError> {
        let phase = container.record().phase;
        match phase {
            Phase::Exited => {}
            Phase::Created => {
                send_signal(&container, libc::SIGKILL)?;
                self.wait_one(&container).await?;
            }
            Phase::Running => {
                return Err(TaskError::FailedPrecondition(format!(
                    "container {} is {}; kill it first",
                    container.name(),
                    phase.words()
                )));
            }
        }
        let _one_at_a_time = container.changes.lock().await;
        // Deleted meanwhile; the name may belong to a successor by now.
        if !self.find(&container.spec.id).is_ok_and(|known| Arc::ptr_eq(&known, &container)) {
            return Err(TaskError::NotFound(format!("container {}", container.name())));
        }
        let (gone, shim) = (Arc::clone(&container), Arc::clone(&self));
        blocking(move || {
            let failed = |what: &str, e: &dyn std::error::Error| {
                TaskError::Failed(format!("delete {}: {what}: {}", gone.name(), describe(e)))
            };
            if shim.release_cgroup(gone.cgroup.path(), &gone.spec.id) {
                gone.cgroup.remove().map_err(|e| failed("its cgroup", &e))?;
            }
            shim.discard_files(&gone.spec, &gone.directory).map_err(|e| failed("its directory", &e))
        })
        .await?;
        self.custody.drop_all(container.name());
        container.held().execs.clear();
        lock(&self.containers).remove(&container.spec.id);
        Ok(())
    }

    async fn wait_one(&self, container: &Container) -> Result<Exit, TaskError> {
        let mut record = container.subscribe();
        let ended = record.wait_for(|record| record.exit.is_some()).await;
        let exit = ended.ok().and_then(|record| record.exit.clone());
        exit.ok_or_else(|| TaskError::NotFound(format!("container {}", container.name())))
    }

    fn find_exec(&self, id: &ContainerId, exec_id: &str) -> Result<Arc<ExecProcess>, TaskError> {
        let container = self.find(id)?;
        let found = container.held().execs.get(exec_id).cloned();
        found.ok_or_else(|| TaskError::NotFound(format!("process {exec_id} of container {}", id.0)))
    }

    async fn exec_one(self: Arc<Self>, container: Arc<Container>, exec: ExecSpec) -> Result<u32, TaskError> {
        exec::check_id(&exec.exec_id)?;
        if container.record().phase != Phase::Running {
            return Err(TaskError::FailedPrecondition(format!(
                "container {} is {}, not running",
                container.name(),
                container.record().phase.words()
            )));
        }
        let _reserved = container.reserve_exec(&exec.exec_id)?;
        let (shim, inside, asked) = (Arc::clone(&self), Arc::clone(&container), exec.clone());
        let (launched, holder) = blocking(move || exec::launch(&shim, &inside, &asked)).await?;
        let gate = launched.gate;
        let launched =
            exec::Registered { pid: launched.pid, pidfd: launched.pidfd, terminal: launched.terminal };
        let pid = exec::register(&self, &container, &exec, launched, holder)?;
        let name = exec.process.args().as_ref().and_then(|a| a.first().cloned()).unwrap_or_default();
        let opened = blocking(move || Ok(gate.open(|_, _| format!("run {name:?}")))).await?;
        match opened {
            Ok(()) => Ok(pid),
            Err(e) => {
                container.held().execs.remove(&exec.exec_id);
                container.directory.remove_exec(&exec.exec_id);
                Err(TaskError::Failed(format!("exec in {}: {e}", container.name())))
            }
        }
    }
}

/// Opens a gate and puts down what came of it.
fn release(container: &Container, gate: &Gate) -> Result<(), TaskError> {
    let step_of = |step: u16, _part: u16| {
        let known = container.last_steps.iter().find(|(number, _)| *number == step);
        known.map_or_else(|| "run the program".to_owned(), |(_, text)| text.clone())
    };
    match gate.open(step_of) {
        Ok(()) => set_running(container),
        Err(error) => {
            container.held().failure = Some((error.exit_code(), error.to_string()));
            Err(start_error(container, &error))
        }
    }
}

fn set_running(container: &Container) -> Result<(), TaskError> {
    let running = container.change(|record| {
        record.phase = Phase::Running;
        record.started_at_ms = Some(now_ms());
    });
    running.map(drop)
}

fn start_error(container: &Container, error: &LaunchError) -> TaskError {
    TaskError::Failed(format!("start {}: {error}", container.name()))
}

/// Where a container's control group is, when its specification does not say.
pub(crate) fn cgroup_path(spec: &ContainerSpec) -> String {
    let linux = spec.runtime_spec.linux().as_ref();
    let given = linux.and_then(|l| l.cgroups_path().as_ref()).and_then(|p| p.to_str());
    let given = given.map(|path| path.trim_matches('/')).filter(|path| !path.is_empty());
    given.map_or_else(|| format!("{TOP_GROUP}/{}/{}", spec.sandbox.0, spec.id.0), str::to_owned)
}

/// Runs what blocks outside the reactor's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TaskError> + Send + 'static,
) -> Result<T, TaskError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(TaskError::Failed(format!("the call ended abnormally: {e}"))),
    }
}

fn signal(number: i32) -> Result<Signal, TaskError> {
    Signal::from_named_raw(number)
        .ok_or_else(|| TaskError::InvalidArgument(format!("there is no signal {number}")))
}

/// By pidfd: never to another process that got the pid since.
fn send(pidfd: Option<&OwnedFd>, number: i32) -> Result<(), TaskError> {
    let signal = signal(number)?;
    let Some(pidfd) = pidfd else { return Ok(()) };
    match pidfd_send_signal(pidfd, signal) {
        // Over already: as good as killed.
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(TaskError::Failed(format!("send signal {number}: {e}"))),
    }
}

fn send_signal(container: &Container, number: i32) -> Result<(), TaskError> {
    let pidfd = container.held().pidfd.clone();
    send(pidfd.as_deref(), number)
}

/// Its control group, made.
pub(crate) fn make_cgroup(shim: &Shim, spec: &ContainerSpec) -> Result<Cgroup, TaskError> {
    Cgroup::new(&shim.layout, &cgroup_path(spec)).map_err(|e| TaskError::InvalidArgument(e.to_string()))
}
