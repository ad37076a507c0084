//! What a pod needs before its first container starts. The list below is the order; giving back goes the other way.
//! Every step may be repeated, so a pod that was interrupted half-way begins again at the first.

use std::io;
use std::path::Path;

use catamaran_client::error::Chain;
use k8s_openapi::api::core::v1::Pod;
use tracing::warn;

use crate::config::PodPaths;
use crate::context::Context;
use crate::files;
use crate::host_ports::{self, HostPortError};
use crate::members::{members, name, namespace, spec, uid};
use crate::namespaces;
use crate::net::NetworkError;
use crate::observe::ImageState;
use crate::qos;
use crate::record::Sandbox;
use crate::runtime::{Handler, Place, UnknownHandler, place};
use crate::volumes::{self, VolumeError};
use crate::worker::Worker;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Directories of the pod and of its logs.
    Directories,
    /// Where the pod lives, and its address.
    Network,
    /// IPC and UTS namespaces and `/dev/shm`, which outlive restarts of containers.
    Namespaces,
    /// Volumes, filled.
    Volumes,
    /// `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`.
    Files,
}

/// The steps, in order.
pub(crate) const STEPS: [Step; 5] =
    [Step::Directories, Step::Network, Step::Namespaces, Step::Volumes, Step::Files];

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("the pod's directory {path} cannot be made or removed")]
    Directory {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Handler(#[from] UnknownHandler),
    #[error("the images of the pod are not known yet, and with them its place")]
    Placeless,
    #[error(transparent)]
    HostPort(#[from] HostPortError),
    #[error("the pod gets no address")]
    Network(#[source] NetworkError),
    #[error("the pod's namespaces cannot be made")]
    Namespaces(#[source] io::Error),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error("{file} of the pod cannot be written")]
    File {
        file: &'static str,
        #[source]
        source: io::Error,
    },
}

impl PrepareError {
    /// The reason of the event.
    pub(crate) fn event(&self) -> &'static str {
        match self {
            PrepareError::Volume(_) => "FailedMount",
            _ => "FailedCreatePodSandBox",
        }
    }
}

/// Takes all steps.
pub(crate) async fn set_up(worker: &mut Worker) -> Result<(), PrepareError> {
    for step in STEPS {
        up(step, worker).await?;
    }
    Ok(())
}

/// Takes all steps back, last first. All of them are tried; the first error is told.
pub(crate) async fn give_back(worker: &mut Worker) -> Result<(), PrepareError> {
    let mut first = Ok(());
    for step in STEPS.into_iter().rev() {
        let result = down(step, &worker.context, &worker.desired.pod, &worker.paths).await;
        if let Err(error) = result {
            if first.is_ok() {
                first = Err(error);
            } else {
                warn!(?step, error = %Chain(&error), "another step cannot be taken back");
            }
        }
    }
    first
}

async fn up(step: Step, worker: &mut Worker) -> Result<(), PrepareError> {
    let pod = worker.desired.pod.clone();
    match step {
        Step::Directories => {
            make(&worker.paths.root)?;
            make(&worker.paths.volumes())?;
            make(&worker.context.paths.log_dir(namespace(&pod), name(&pod), uid(&pod)))
        }
        Step::Network => network(worker, &pod).await,
        Step::Namespaces => {
            if worker
                .seen
                .record
                .sandbox
                .as_ref()
                .is_some_and(|sandbox| matches!(sandbox.place, Place::Shared { .. }))
            {
                return Ok(());
            }
            let hostname = files::hostname(&pod, &worker.context.config);
            let paths = worker.paths.clone();
            let host_ipc = spec(&pod).host_ipc == Some(true);
            blocking(move || namespaces::set_up(&paths, &hostname, host_ipc))
                .await
                .map_err(PrepareError::Namespaces)
        }
        Step::Volumes => {
            let ip = worker.seen.record.ip();
            Ok(volumes::set_up(&worker.context, &pod, &worker.paths, ip).await?)
        }
        Step::Files => files::write(&worker.context.config, &pod, &worker.paths, worker.seen.record.ip())
            .map_err(|(file, source)| PrepareError::File { file, source }),
    }
}

/// Places the pod and gets its address. Asking again gives the same.
async fn network(worker: &mut Worker, pod: &Pod) -> Result<(), PrepareError> {
    let place = match &worker.seen.record.sandbox {
        Some(sandbox) => sandbox.place.clone(),
        None => {
            let handler = Handler::parse(spec(pod).runtime_class_name.as_deref())?;
            let kinds: Vec<_> = members(pod)
                .map(|member| match &worker.seen.seen(member.name()).image {
                    ImageState::Here(image) => Some(image.kind),
                    _ => None,
                })
                .collect();
            place(handler, spec(pod).host_network == Some(true), &kinds, namespace(pod))
                .ok_or(PrepareError::Placeless)?
        }
    };
    let network = &worker.context.network;
    let attachment = match &place {
        Place::Shared { domain } => Some(network.attach_wasm_pod(uid(pod), domain).await),
        Place::Own => Some(network.attach_container_pod(uid(pod)).await),
        Place::Host => None,
    };
    let attachment = attachment.transpose().map_err(PrepareError::Network)?;
    if attachment.is_some() {
        let ports = host_ports::of(pod)?;
        if !ports.is_empty() {
            network.publish(uid(pod), ports).await.map_err(PrepareError::Network)?;
        }
    }
    let sandbox = match attachment {
        Some(attachment) => Sandbox { place, ip: attachment.ip, netns: Some(attachment.netns) },
        None => Sandbox { place, ip: worker.context.config.node_address, netns: None },
    };
    worker.seen.record.sandbox = Some(sandbox);
    worker.save();
    Ok(())
}

/// Takes one step back; also for pods of which only the directory is left.
pub(crate) async fn down(
    step: Step,
    context: &Context,
    pod: &Pod,
    paths: &PodPaths,
) -> Result<(), PrepareError> {
    match step {
        Step::Directories => {
            remove_cgroups(&context.config.cgroup, qos::class(spec(pod)), uid(pod));
            remove_tree(&paths.root.join("containers"))
        }
        Step::Network => {
            context.listeners.release(uid(pod));
            context.network.detach(uid(pod)).await.map_err(PrepareError::Network)
        }
        Step::Namespaces => {
            let paths = paths.clone();
            blocking(move || namespaces::tear_down(&paths)).await.map_err(PrepareError::Namespaces)
        }
        Step::Volumes => Ok(volumes::tear_down(paths).await?),
        Step::Files => {
            // Before anything it may hold open is taken away.
            context.shims.end_solo(uid(pod)).await;
            Ok(())
        }
    }
}

/// Removes what is left of a pod that is gone from the API: its directory and its logs.
pub(crate) fn remove_directory(context: &Context, pod: &Pod, paths: &PodPaths) {
    let logs = context.paths.log_dir(namespace(pod), name(pod), uid(pod));
    for directory in [&paths.root, &paths.run, &logs] {
        if let Err(error) = remove_tree(directory) {
            warn!(error = %Chain(&error), "a pod's directory stays behind");
        }
    }
}

/// The pod's own folder in each cgroup hierarchy; the shim removed those of the containers.
fn remove_cgroups(top: &str, class: qos::Class, uid: &str) {
    let below = format!("{top}/{}/pod{uid}", class.folder());
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        // Most of them are no hierarchies, or have no such folder.
        let _ = std::fs::remove_dir(hierarchy.join(&below));
    }
}

fn make(path: &Path) -> Result<(), PrepareError> {
    std::fs::create_dir_all(path)
        .map_err(|source| PrepareError::Directory { path: path.display().to_string(), source })
}

fn remove_tree(path: &Path) -> Result<(), PrepareError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PrepareError::Directory { path: path.display().to_string(), source: error })
        }
        _ => Ok(()),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
