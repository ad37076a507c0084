//! The shim's end of the contract: serves an implementation of [`Pods`] on a unix socket, as our own
//! service and as containerd's Task API, and beside it the socket for descriptors.

use std::collections::HashMap;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use containerd_shim_protos::ttrpc::r#async::{Server, Service, transport::Listener};
use serde::Serialize;

use crate::fds::{self, FdTable};
use crate::pods::{Pods, TaskError};
use crate::spec::ContainerId;
use crate::status::{ContainerStats, ContainerStatus};
use crate::task_api;
use crate::wire::*;

/// Why the sockets could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another shim answers on it.
    #[error("the socket {0} is in use by another shim; stop that one or choose another path")]
    InUse(PathBuf),
    /// It could not be bound (the path must be shorter than 108 bytes).
    #[error("bind the socket {path}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The server could not be set up on it.
    #[error("serve the socket: {0}")]
    Serve(String),
}

/// Both listening sockets of a shim. They may be made by one process and served by another, so that
/// connections wait in the queue while the serving process is restarted.
#[derive(Debug)]
pub struct Sockets {
    task: UnixListener,
    fds: UnixListener,
}

impl Sockets {
    /// Binds `socket` and `<socket>.fds`, readable by this user alone. Stale files are replaced;
    /// a socket on which somebody answers is [`ServeError::InUse`].
    pub fn bind(socket: &Path) -> Result<Self, ServeError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ServeError::Bind { path, source }
        };
        if UnixStream::connect(socket).is_ok() {
            return Err(ServeError::InUse(socket.to_owned()));
        }
        let descriptors = fds::path(socket);
        for stale in [socket, &descriptors] {
            match std::fs::remove_file(stale) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(stale)(e)),
                _ => {}
            }
        }
        let task = UnixListener::bind(socket).map_err(failed(socket))?;
        let only_us = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(socket, only_us.clone()).map_err(failed(socket))?;
        let fds = UnixListener::bind(&descriptors).map_err(failed(&descriptors))?;
        std::fs::set_permissions(&descriptors, only_us).map_err(failed(&descriptors))?;
        Ok(Self { task, fds })
    }

    /// Copies of both descriptors.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Self { task: self.task.try_clone()?, fds: self.fds.try_clone()? })
    }

    /// Removes the files of `socket` and `<socket>.fds`.
    pub fn remove(socket: &Path) {
        for path in [socket, &fds::path(socket)] {
            if let Err(e) = std::fs::remove_file(path) {
                tracing::debug!(path = %path.display(), error = %e, "remove socket");
            }
        }
    }
}

/// Binds `socket` and serves `pods` on it until `stop` ends; then removes the socket files.
pub async fn serve(
    socket: &Path,
    pods: Arc<dyn Pods>,
    fds: Arc<FdTable>,
    stop: impl Future,
) -> Result<(), ServeError> {
    let sockets = Sockets::bind(socket)?;
    let served = serve_on(sockets, pods, fds, stop).await;
    Sockets::remove(socket);
    served
}

/// Serves `pods` on sockets that exist already, until `stop` ends.
pub async fn serve_on(
    sockets: Sockets,
    pods: Arc<dyn Pods>,
    fds: Arc<FdTable>,
    stop: impl Future,
) -> Result<(), ServeError> {
    let listener = Listener::try_from(sockets.task).map_err(|e| ServeError::Serve(e.to_string()))?;
    let mut server = Server::new().add_listener(listener).register_service(service(&pods));
    for service in task_api::services(&pods) {
        server = server.register_service(service);
    }
    server.start().await.map_err(|e| ServeError::Serve(e.to_string()))?;
    let listener =
        sockets.fds.set_nonblocking(true).and_then(|()| tokio::net::UnixListener::from_std(sockets.fds));
    let listener = listener.map_err(|e| ServeError::Serve(e.to_string()))?;
    let descriptors = tokio::spawn(fds::serve(listener, fds));
    stop.await;
    descriptors.abort();
    server.stop_listen().await;
    Ok(())
}

fn service(pods: &Arc<dyn Pods>) -> HashMap<String, Service> {
    let methods = lifecycle(Methods::default(), pods);
    let methods = processes(methods, pods);
    figures(methods, pods).into_service()
}

fn lifecycle(methods: Methods, pods: &Arc<dyn Pods>) -> Methods {
    methods
        .write("Create", pods, |p, q: CreateRequest| async move { Ok(p.create(q.containers).await) })
        .write("Start", pods, |p, q: IdRequest| async move { p.start(&q.id).await })
        .write("Delete", pods, |p, q: IdRequest| async move { p.delete(&q.id).await })
        .write("Update", pods, |p, q: UpdateRequest| async move { p.update(&q.id, q.resources).await })
        .write("Pause", pods, |p, q: IdRequest| async move { p.pause(&q.id).await })
        .write("Resume", pods, |p, q: IdRequest| async move { p.resume(&q.id).await })
        .write("Shutdown", pods, |p, (): ()| async move { p.shutdown().await })
        .write("AdoptListener", pods, |p, q: AdoptRequest| async move {
            p.adopt_listener(&q.id, q.port, &q.token).await
        })
        .read("Wait", pods, |p, q: IdRequest| async move { p.wait(&q.id).await })
}

fn processes(methods: Methods, pods: &Arc<dyn Pods>) -> Methods {
    methods
        .write("Exec", pods, |p, q: ExecRequest| async move { p.exec(&q.id, q.exec).await })
        .write("Kill", pods, |p, q: KillRequest| async move {
            match q.exec_id {
                None => p.kill(&q.id, q.signal).await,
                Some(exec_id) => p.kill_exec(&q.id, &exec_id, q.signal).await,
            }
        })
        .write("Resize", pods, |p, q: ResizeRequest| async move {
            p.resize(&q.id, q.exec_id.as_deref(), q.width, q.height).await
        })
        .write("CloseStdin", pods, |p, q: ExecIdRequest| async move {
            p.close_stdin(&q.id, q.exec_id.as_deref()).await
        })
        .read("WaitExec", pods, |p, q: ExecIdRequest| async move {
            let exec_id = q.exec_id.ok_or_else(|| TaskError::InvalidArgument("exec_id is missing".into()))?;
            p.wait_exec(&q.id, &exec_id).await
        })
        .read("Pids", pods, |p, q: IdRequest| async move { p.pids(&q.id).await })
}

fn figures(methods: Methods, pods: &Arc<dyn Pods>) -> Methods {
    methods
        .read("Status", pods, |p, q: PageRequest| async move {
            let items = p.status(&q.ids).await?;
            Ok(page(items, q.after.as_ref(), |s: &ContainerStatus| s.id.clone()))
        })
        .read("Stats", pods, |p, q: PageRequest| async move {
            let items = p.stats(&q.ids).await?;
            Ok(page(items, q.after.as_ref(), |s: &ContainerStats| ContainerId(s.id.clone())))
        })
        .read("Exits", pods, |p, q: ExitsRequest| async move {
            let mut events = p.exits(q.after).await?;
            events.truncate(prefix_below_target(&events));
            Ok(events)
        })
}

/// What fits into one message, in the order of ids, from the one after `after`.
fn page<T: Serialize>(
    mut items: Vec<T>,
    after: Option<&ContainerId>,
    id: impl Fn(&T) -> ContainerId,
) -> Page<T> {
    items.sort_by_key(&id);
    if let Some(after) = after {
        let passed = items.partition_point(|item| id(item) <= *after);
        items.drain(..passed);
    }
    let fits = prefix_below_target(&items);
    let next = if fits < items.len() { items.get(fits - 1).map(&id) } else { None };
    items.truncate(fits);
    Page { items, next }
}

/// How many of the first items fit into one message; at least one.
fn prefix_below_target<T: Serialize>(items: &[T]) -> usize {
    let mut size = 0;
    for (index, item) in items.iter().enumerate() {
        size += serde_json::to_vec(item).map_or(0, |json| json.len() + 1);
        if size > PAYLOAD_TARGET {
            return index.max(1);
        }
    }
    items.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_everything_once() {
        let all: Vec<ContainerStats> = (0..60_000)
            .map(|n| ContainerStats { id: format!("container-{n:06}"), ..ContainerStats::default() })
            .collect();
        let mut seen = Vec::new();
        let mut after = None;
        let mut pages = 0;
        loop {
            let page = page(all.clone(), after.as_ref(), |s| ContainerId(s.id.clone()));
            assert!(serde_json::to_vec(&page).unwrap().len() < 4 << 20);
            seen.extend(page.items);
            pages += 1;
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert!(pages > 1, "the test means to need several pages");
        assert_eq!(seen, all);
    }
}
