//! The agent's end of the contract: the verbs of [`Pods`](crate::pods::Pods) over the shim's socket.
//! Calls run side by side on one connection, which is made anew when it broke.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::fds;
use crate::pods::{ExecSpec, ExitEvent, TaskError};
use crate::spec::{ContainerId, ContainerSpec};
use crate::status::{ContainerStats, ContainerStatus, Exit};
use crate::wire::*;

/// How long a call that may be repeated tries to reach a shim that is being restarted.
const RECONNECT_FOR: Duration = Duration::from_secs(10);
/// Pause between two attempts to reach it.
const RECONNECT_EVERY: Duration = Duration::from_millis(20);

/// How long a call goes on trying. A call that waited long for its answer and lost the shim begins anew.
#[derive(Default)]
struct Patience {
    since: Option<Instant>,
}

impl Patience {
    /// Takes note of an attempt that began at `begun` and failed at `now`.
    fn is_over(&mut self, begun: Instant, now: Instant) -> bool {
        if now.duration_since(begun) >= RECONNECT_FOR {
            self.since = None;
        }
        now.duration_since(*self.since.get_or_insert(now)) >= RECONNECT_FOR
    }
}

/// Whether a call may be sent twice without harm.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Harmless,
    Never,
}

/// A connection to one shim. Cheap to clone; reconnects by itself.
#[derive(Clone)]
pub struct TaskClient {
    shared: Arc<Shared>,
}

struct Shared {
    socket: PathBuf,
    connection: Mutex<Option<Connection>>,
    /// Counts connections, so that a caller drops only the one it saw broken.
    generation: AtomicU64,
}

impl TaskClient {
    /// Connects to the shim that listens on `socket`; `Unavailable` when none does.
    pub async fn connect(socket: &Path) -> Result<Self, TaskError> {
        let client = Self::lazy(socket);
        client.connection().await?;
        Ok(client)
    }

    /// A client that connects at its first call.
    pub fn lazy(socket: &Path) -> Self {
        let shared =
            Shared { socket: socket.to_owned(), connection: Mutex::new(None), generation: AtomicU64::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// Path of the shim's socket.
    pub fn socket(&self) -> &Path {
        &self.shared.socket
    }

    async fn connection(&self) -> Result<(Connection, u64), TaskError> {
        let mut slot = self.shared.connection.lock().await;
        if let Some(connection) = slot.as_ref() {
            return Ok((connection.clone(), self.shared.generation.load(Ordering::Relaxed)));
        }
        let connection = Connection::open(&self.shared.socket).await.map_err(|e| {
            TaskError::Unavailable(format!("connect to the shim at {}: {e}", self.shared.socket.display()))
        })?;
        let generation = self.shared.generation.fetch_add(1, Ordering::Relaxed) + 1;
        *slot = Some(connection.clone());
        Ok((connection, generation))
    }

    async fn forget(&self, generation: u64) {
        let mut slot = self.shared.connection.lock().await;
        if self.shared.generation.load(Ordering::Relaxed) == generation {
            *slot = None;
        }
    }

    async fn call<Q, A>(&self, repeat: Repeat, method: &str, request: &Q) -> Result<A, TaskError>
    where
        Q: Serialize,
        A: DeserializeOwned,
    {
        let payload = serde_json::to_vec(request)
            .map_err(|e| TaskError::InvalidArgument(format!("the request does not encode: {e}")))?;
        let mut patience = Patience::default();
        loop {
            let begun = Instant::now();
            let failure = match self.connection().await {
                Err(unavailable) => unavailable,
                Ok((connection, generation)) => match connection.call(method, payload.clone()).await {
                    Ok(answer) => return Ok(answer),
                    Err(CallError::Refused(error)) => return Err(error),
                    Err(CallError::Lost(why)) if repeat == Repeat::Never => {
                        self.forget(generation).await;
                        return Err(TaskError::Unavailable(format!(
                            "the shim went away during {method}, which may have taken effect: {why}"
                        )));
                    }
                    Err(CallError::Lost(why) | CallError::NotSent(why)) => {
                        self.forget(generation).await;
                        TaskError::Unavailable(format!("the shim went away before {method}: {why}"))
                    }
                },
            };
            if patience.is_over(begun, Instant::now()) {
                return Err(failure);
            }
            tokio::time::sleep(RECONNECT_EVERY).await;
        }
    }

    /// See [`Pods::create`](crate::pods::Pods::create); large batches travel in several messages.
    pub async fn create(&self, containers: Vec<ContainerSpec>) -> Vec<Result<ContainerStatus, TaskError>> {
        let mut results = Vec::with_capacity(containers.len());
        for batch in batches(containers) {
            let size = batch.len();
            let request = CreateRequest { containers: batch };
            let answer: Result<Vec<Result<ContainerStatus, TaskError>>, _> =
                self.call(Repeat::Never, "Create", &request).await;
            match answer {
                Ok(answers) => results.extend(answers),
                Err(error) => results.extend(std::iter::repeat_n(Err(error), size)),
            }
        }
        results
    }

    /// See [`Pods::start`](crate::pods::Pods::start).
    pub async fn start(&self, id: &ContainerId) -> Result<ContainerStatus, TaskError> {
        self.call(Repeat::Never, "Start", &IdRequest { id: id.clone() }).await
    }

    /// See [`Pods::kill`](crate::pods::Pods::kill).
    pub async fn kill(&self, id: &ContainerId, signal: i32) -> Result<(), TaskError> {
        let request = KillRequest { id: id.clone(), exec_id: None, signal };
        self.call(Repeat::Never, "Kill", &request).await
    }

    /// See [`Pods::delete`](crate::pods::Pods::delete).
    pub async fn delete(&self, id: &ContainerId) -> Result<(), TaskError> {
        self.call(Repeat::Never, "Delete", &IdRequest { id: id.clone() }).await
    }

    /// See [`Pods::wait`](crate::pods::Pods::wait); goes on across restarts of the shim.
    pub async fn wait(&self, id: &ContainerId) -> Result<Exit, TaskError> {
        self.call(Repeat::Harmless, "Wait", &IdRequest { id: id.clone() }).await
    }

    /// See [`Pods::status`](crate::pods::Pods::status).
    pub async fn status(&self, ids: &[ContainerId]) -> Result<Vec<ContainerStatus>, TaskError> {
        self.pages("Status", ids).await
    }

    /// See [`Pods::stats`](crate::pods::Pods::stats).
    pub async fn stats(&self, ids: &[ContainerId]) -> Result<Vec<ContainerStats>, TaskError> {
        self.pages("Stats", ids).await
    }

    async fn pages<T: DeserializeOwned>(
        &self,
        method: &str,
        ids: &[ContainerId],
    ) -> Result<Vec<T>, TaskError> {
        let mut items = Vec::new();
        for ids in id_batches(ids) {
            let mut after = None;
            loop {
                let request = PageRequest { ids: ids.to_vec(), after };
                let page: Page<T> = self.call(Repeat::Harmless, method, &request).await?;
                items.extend(page.items);
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        Ok(items)
    }

    /// See [`Pods::exits`](crate::pods::Pods::exits); empty after half a minute without one.
    pub async fn exits(&self, after: u64) -> Result<Vec<ExitEvent>, TaskError> {
        self.call(Repeat::Harmless, "Exits", &ExitsRequest { after }).await
    }

    /// See [`Pods::exec`](crate::pods::Pods::exec).
    pub async fn exec(&self, id: &ContainerId, exec: ExecSpec) -> Result<u32, TaskError> {
        self.call(Repeat::Never, "Exec", &ExecRequest { id: id.clone(), exec }).await
    }

    /// See [`Pods::wait_exec`](crate::pods::Pods::wait_exec).
    pub async fn wait_exec(&self, id: &ContainerId, exec_id: &str) -> Result<Exit, TaskError> {
        let request = ExecIdRequest { id: id.clone(), exec_id: Some(exec_id.to_owned()) };
        self.call(Repeat::Harmless, "WaitExec", &request).await
    }

    /// See [`Pods::kill_exec`](crate::pods::Pods::kill_exec).
    pub async fn kill_exec(&self, id: &ContainerId, exec_id: &str, signal: i32) -> Result<(), TaskError> {
        let request = KillRequest { id: id.clone(), exec_id: Some(exec_id.to_owned()), signal };
        self.call(Repeat::Never, "Kill", &request).await
    }

    /// See [`Pods::resize`](crate::pods::Pods::resize).
    pub async fn resize(
        &self,
        id: &ContainerId,
        exec_id: Option<&str>,
        width: u16,
        height: u16,
    ) -> Result<(), TaskError> {
        let request = ResizeRequest { id: id.clone(), exec_id: exec_id.map(Into::into), width, height };
        self.call(Repeat::Harmless, "Resize", &request).await
    }

    /// See [`Pods::update`](crate::pods::Pods::update).
    pub async fn update(
        &self,
        id: &ContainerId,
        resources: oci_spec::runtime::LinuxResources,
    ) -> Result<(), TaskError> {
        self.call(Repeat::Harmless, "Update", &UpdateRequest { id: id.clone(), resources }).await
    }

    /// See [`Pods::adopt_listener`](crate::pods::Pods::adopt_listener).
    pub async fn adopt_listener(&self, id: &ContainerId, port: u16, token: &str) -> Result<(), TaskError> {
        let request = AdoptRequest { id: id.clone(), port, token: token.to_owned() };
        self.call(Repeat::Never, "AdoptListener", &request).await
    }

    /// See [`Pods::pids`](crate::pods::Pods::pids).
    pub async fn pids(&self, id: &ContainerId) -> Result<Vec<u32>, TaskError> {
        self.call(Repeat::Harmless, "Pids", &IdRequest { id: id.clone() }).await
    }

    /// See [`Pods::close_stdin`](crate::pods::Pods::close_stdin).
    pub async fn close_stdin(&self, id: &ContainerId, exec_id: Option<&str>) -> Result<(), TaskError> {
        let request = ExecIdRequest { id: id.clone(), exec_id: exec_id.map(Into::into) };
        self.call(Repeat::Harmless, "CloseStdin", &request).await
    }

    /// See [`Pods::pause`](crate::pods::Pods::pause).
    pub async fn pause(&self, id: &ContainerId) -> Result<(), TaskError> {
        self.call(Repeat::Harmless, "Pause", &IdRequest { id: id.clone() }).await
    }

    /// See [`Pods::resume`](crate::pods::Pods::resume).
    pub async fn resume(&self, id: &ContainerId) -> Result<(), TaskError> {
        self.call(Repeat::Harmless, "Resume", &IdRequest { id: id.clone() }).await
    }

    /// See [`Pods::shutdown`](crate::pods::Pods::shutdown). A shim that is gone already is success.
    pub async fn shutdown(&self) -> Result<(), TaskError> {
        let (connection, generation) = match self.connection().await {
            Ok(found) => found,
            Err(_) => return Ok(()),
        };
        match connection.call::<()>("Shutdown", b"null".to_vec()).await {
            Ok(()) => Ok(()),
            Err(CallError::Refused(error)) => Err(error),
            Err(CallError::Lost(_) | CallError::NotSent(_)) => {
                self.forget(generation).await;
                Ok(())
            }
        }
    }

    /// Gives the shim a copy of `fd` under `token`, over its second socket (`<socket>.fds`).
    pub async fn hand_over(&self, token: &str, fd: BorrowedFd<'_>) -> Result<(), TaskError> {
        fds::hand_over(&self.shared.socket, token, fd).await
    }

    /// A copy of the descriptor that the shim holds under `token`; `NotFound` when it holds none.
    pub async fn take_back(&self, token: &str) -> Result<OwnedFd, TaskError> {
        fds::take_back(&self.shared.socket, token).await
    }
}

/// Splits `containers` so that no message comes near ttrpc's limit.
fn batches(containers: Vec<ContainerSpec>) -> Vec<Vec<ContainerSpec>> {
    let mut batches: Vec<Vec<ContainerSpec>> = Vec::new();
    let mut size = usize::MAX;
    for container in containers {
        let bytes = serde_json::to_vec(&container).map_or(0, |json| json.len());
        if size.saturating_add(bytes) > PAYLOAD_TARGET {
            batches.push(Vec::new());
            size = 0;
        }
        size += bytes;
        if let Some(batch) = batches.last_mut() {
            batch.push(container);
        }
    }
    batches
}

/// Splits long lists of ids; an empty list (all) stays one empty list.
fn id_batches(ids: &[ContainerId]) -> Vec<&[ContainerId]> {
    if ids.is_empty() { vec![ids] } else { ids.chunks(5_000).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_wait_does_not_use_up_the_patience() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut patience = Patience::default();
        // An hour of waiting, then the shim is away for nine seconds.
        assert!(!patience.is_over(at(0), at(3600)));
        assert!(!patience.is_over(at(3600), at(3609)));
        assert!(patience.is_over(at(3609), at(3610)));
        // It is away from the beginning.
        let mut patience = Patience::default();
        assert!(!patience.is_over(at(0), at(0)));
        assert!(!patience.is_over(at(9), at(9)));
        assert!(patience.is_over(at(10), at(10)));
    }
}
