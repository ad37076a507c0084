//! The contract's trait on [`Shim`].

use std::sync::Arc;

use async_trait::async_trait;
use catamaran_task::pods::{ExecSpec, ExitEvent, Pods, TaskError};
use catamaran_task::spec::{ContainerId, ContainerSpec};
use catamaran_task::status::{ContainerStats, ContainerStatus, Exit};
use oci_spec::runtime::LinuxResources;

use super::{LONG_POLL, Shim, TOP_GROUP, blocking, lock, send, send_signal, signal};
use crate::cgroup::Cgroup;
use crate::container::Container;
use crate::exec::describe;
use crate::pump;
use crate::state::Phase;

/// The shim as the contract's trait, which knows no `Arc`.
pub(crate) struct SharedShim(pub Arc<Shim>);

#[async_trait]
impl Pods for SharedShim {
    async fn create(&self, containers: Vec<ContainerSpec>) -> Vec<Result<ContainerStatus, TaskError>> {
        let created = containers.into_iter().map(|spec| Arc::clone(&self.0).create_one(spec));
        futures::future::join_all(created).await
    }

    async fn start(&self, id: &ContainerId) -> Result<ContainerStatus, TaskError> {
        let container = self.0.find(id)?;
        Arc::clone(&self.0).start_one(container).await
    }

    async fn kill(&self, id: &ContainerId, number: i32) -> Result<(), TaskError> {
        signal(number)?;
        let container = self.0.find(id)?;
        match container.record().phase {
            Phase::Exited => Ok(()),
            // Behind its gate only this one reaches the first process of a pid namespace.
            Phase::Created => send_signal(&container, libc::SIGKILL),
            Phase::Running => send_signal(&container, number),
        }
    }

    async fn delete(&self, id: &ContainerId) -> Result<(), TaskError> {
        let container = self.0.find(id)?;
        Arc::clone(&self.0).delete_one(container).await
    }

    async fn wait(&self, id: &ContainerId) -> Result<Exit, TaskError> {
        let container = self.0.find(id)?;
        self.0.wait_one(&container).await
    }

    async fn status(&self, ids: &[ContainerId]) -> Result<Vec<ContainerStatus>, TaskError> {
        Ok(self.0.select(ids).iter().map(|container| container.status()).collect())
    }

    async fn stats(&self, ids: &[ContainerId]) -> Result<Vec<ContainerStats>, TaskError> {
        let containers = self.0.select(ids);
        blocking(move || {
            Ok(containers
                .iter()
                .map(|container| {
                    let figures = container.cgroup.figures();
                    ContainerStats {
                        id: container.name().to_owned(),
                        cpu_ns: figures.cpu_ns,
                        working_set_bytes: figures.working_set_bytes,
                        pids: figures.pids,
                    }
                })
                .collect())
        })
        .await
    }

    async fn exits(&self, after: u64) -> Result<Vec<ExitEvent>, TaskError> {
        let mut newest = self.0.newest.subscribe();
        // The newest number says nothing of whether an exit is in the list: it goes on from an earlier worker.
        let some = async {
            loop {
                let found: Vec<ExitEvent> =
                    lock(&self.0.events).iter().filter(|event| event.sequence > after).cloned().collect();
                if !found.is_empty() || newest.changed().await.is_err() {
                    return found;
                }
            }
        };
        // None within the time is an answer too: an empty one.
        Ok(tokio::time::timeout(LONG_POLL, some).await.unwrap_or_default())
    }

    async fn exec(&self, id: &ContainerId, exec: ExecSpec) -> Result<u32, TaskError> {
        let container = self.0.find(id)?;
        Arc::clone(&self.0).exec_one(container, exec).await
    }

    async fn wait_exec(&self, id: &ContainerId, exec_id: &str) -> Result<Exit, TaskError> {
        let container = self.0.find(id)?;
        let process = self.0.find_exec(id, exec_id)?;
        let mut exit = process.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        let ended = ended.ok_or_else(|| TaskError::NotFound(format!("process {exec_id}")))?;
        let mut held = container.held();
        // Asked by two at once, the second must not take away what has the name since.
        if held.execs.get(exec_id).is_some_and(|known| Arc::ptr_eq(known, &process)) {
            held.execs.remove(exec_id);
            container.directory.remove_exec(exec_id);
        }
        Ok(ended)
    }

    async fn kill_exec(&self, id: &ContainerId, exec_id: &str, number: i32) -> Result<(), TaskError> {
        signal(number)?;
        let process = self.0.find_exec(id, exec_id)?;
        if process.exit.borrow().is_some() {
            return Ok(());
        }
        send(process.pidfd.as_deref(), number)
    }

    async fn resize(
        &self,
        id: &ContainerId,
        exec_id: Option<&str>,
        width: u16,
        height: u16,
    ) -> Result<(), TaskError> {
        let terminal = match exec_id {
            None => self.0.find(id)?.held().terminal.clone(),
            Some(exec_id) => self.0.find_exec(id, exec_id)?.terminal.clone(),
        };
        let Some(terminal) = terminal else {
            return Err(TaskError::FailedPrecondition(format!("container {}: no terminal to resize", id.0)));
        };
        pump::resize(terminal.get_ref(), width, height)
            .map_err(|e| TaskError::Failed(format!("resize the terminal: {e}")))
    }

    async fn update(&self, id: &ContainerId, resources: LinuxResources) -> Result<(), TaskError> {
        let container = self.0.find(id)?;
        blocking(move || {
            let updated = container.cgroup.update(Some(&resources));
            updated.map_err(|e| TaskError::Failed(format!("update {}: {}", container.name(), describe(&e))))
        })
        .await
    }

    async fn adopt_listener(&self, _: &ContainerId, _: u16, _: &str) -> Result<(), TaskError> {
        Err(TaskError::Unimplemented("a Linux container opens its listeners by itself".into()))
    }

    async fn shutdown(&self) -> Result<(), TaskError> {
        let count = lock(&self.0.containers).len();
        if count > 0 {
            return Err(TaskError::FailedPrecondition(format!("the shim still holds {count} containers")));
        }
        Cgroup::remove_top(&self.0.layout, TOP_GROUP);
        self.0.shutdown.notify_one();
        Ok(())
    }

    async fn pids(&self, id: &ContainerId) -> Result<Vec<u32>, TaskError> {
        Ok(self.0.find(id)?.cgroup.pids())
    }

    async fn close_stdin(&self, id: &ContainerId, exec_id: Option<&str>) -> Result<(), TaskError> {
        match exec_id {
            None => {
                self.0.find(id)?.held().stdin_holder = None;
                self.0.custody.drop_one(&id.0, crate::stdio::STDIN);
            }
            Some(exec_id) => *lock(&self.0.find_exec(id, exec_id)?.stdin_holder) = None,
        }
        Ok(())
    }

    async fn pause(&self, id: &ContainerId) -> Result<(), TaskError> {
        freeze(&*self.0.find(id)?, true)
    }

    async fn resume(&self, id: &ContainerId) -> Result<(), TaskError> {
        freeze(&*self.0.find(id)?, false)
    }
}

fn freeze(container: &Container, frozen: bool) -> Result<(), TaskError> {
    container.cgroup.freeze(frozen).map_err(|e| TaskError::Failed(describe(&e)))
}
