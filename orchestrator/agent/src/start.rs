//! Makes the next attempt of a container and starts it: resolve its configuration, tell the shim, hand over the
//! listeners, start.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::bundle::{self, BundleError, Input};
use crate::env::ConfigError;
use crate::identity::{Identity, IdentityError};
use crate::images::Image;
use crate::images::detect::ImageKind;
use crate::listeners::{ListenError, Site};
use crate::members::{member, name, namespace, spec, uid};
use crate::mounts::MountError;
use crate::observe::{ImageState, Task};
use crate::probe::Probes;
use crate::record::{ContainerRecord, Sandbox, container_id};
use crate::runtime::{Handler, Mismatch, ShimKey, shim};
use crate::shims::{Shim, ShimError};
use crate::worker::Worker;

/// Why a container could not be made or started. The reason is shown in its waiting state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("the container's files cannot be made")]
    Files(#[source] std::io::Error),
    #[error("the shim is not there")]
    Shim(#[source] ShimError),
    #[error("failed to create the container")]
    Create(#[source] ShimError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("failed to start the container")]
    Run {
        #[source]
        source: ShimError,
    },
    #[error("the pod was not prepared")]
    NotPrepared,
}

impl StartError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            StartError::Config(_) | StartError::Identity(_) => "CreateContainerConfigError",
            StartError::Run { .. } => "RunContainerError",
            _ => "CreateContainerError",
        }
    }

    /// The shim went away meanwhile: nobody knows what came of it, and the next look tells.
    pub(crate) fn is_interrupted(&self) -> bool {
        match self {
            StartError::Shim(source) | StartError::Create(source) | StartError::Run { source } => {
                source.is_lost()
            }
            StartError::Listen(ListenError::HandOver { source, .. }) => source.is_lost(),
            _ => false,
        }
    }
}

/// Makes the container's next attempt and starts it.
pub(crate) async fn start(worker: &mut Worker, container: &str) -> Result<(), StartError> {
    let pod = worker.desired.pod.clone();
    let ImageState::Here(image) = worker.seen.seen(container).image.clone() else {
        return Err(StartError::NotPrepared);
    };
    let sandbox = worker.seen.record.sandbox.clone().ok_or(StartError::NotPrepared)?;
    let handler =
        Handler::parse(spec(&pod).runtime_class_name.as_deref()).map_err(|_| StartError::NotPrepared)?;
    let key = shim(handler, &sandbox.place, image.kind, uid(&pod))?;
    let record = note_attempt(worker, container, &key, &image);
    let id = container_id(uid(&pod), container, record.attempt);
    let spec = container_spec(worker, &pod, container, &record, &image, &sandbox).await?;
    let shim = worker.context.shims.ensure(&key, sandbox.netns.as_deref()).await.map_err(StartError::Shim)?;
    match shim.create(spec).await {
        Ok(_) => {}
        Err(error) if error.is_already_exists() => {}
        Err(error) if error.is_lost() => return Err(StartError::Create(error)),
        Err(error) => {
            // Whatever is half-made of it must not stand in the way of the next try.
            let _ = shim.delete(&id).await;
            return Err(StartError::Create(error));
        }
    }
    note_created(worker, container);
    worker.context.normal(&pod, Some(container), "Created", format!("Created container: {container}"));
    if let (ShimKey::Shared(_) | ShimKey::Solo(_), Some(netns)) = (&key, &sandbox.netns)
        && image.kind.serves_http()
    {
        let site = Site { uid: uid(&pod), ip: sandbox.ip, netns };
        let ports =
            bundle::wasm::http_ports(member(&pod, container).ok_or(StartError::NotPrepared)?.container);
        let listeners = &worker.context.listeners;
        listeners.hand_over(&*worker.context.network, &shim, site, &id, &ports).await?;
    }
    run_in(worker, container, &shim).await
}

/// Starts a container that was made already.
pub(crate) async fn run(worker: &mut Worker, container: &str) -> Result<(), StartError> {
    let record = worker.seen.record.containers.get(container).cloned().ok_or(StartError::NotPrepared)?;
    let pod = worker.desired.pod.clone();
    let sandbox = worker.seen.record.sandbox.clone();
    let netns = sandbox.as_ref().and_then(|sandbox| sandbox.netns.as_deref());
    let shim = worker.context.shims.ensure(&record.shim, netns).await.map_err(StartError::Shim)?;
    if !record.created {
        note_created(worker, container);
    }
    if let (ShimKey::Shared(_) | ShimKey::Solo(_), Some(Sandbox { ip, netns: Some(netns), .. })) =
        (&record.shim, &sandbox)
        && worker.context.images.by_id(&record.image_id).is_some_and(|image| image.kind.serves_http())
        && let Some(member) = member(&pod, container)
    {
        let site = Site { uid: uid(&pod), ip: *ip, netns };
        let id = container_id(uid(&pod), container, record.attempt);
        let ports = bundle::wasm::http_ports(member.container);
        worker.context.listeners.hand_over(&*worker.context.network, &shim, site, &id, &ports).await?;
    }
    run_in(worker, container, &shim).await
}

async fn run_in(worker: &mut Worker, container: &str, shim: &Arc<Shim>) -> Result<(), StartError> {
    let record = worker.seen.record.containers.get(container).ok_or(StartError::NotPrepared)?;
    let id = container_id(worker.uid(), container, record.attempt);
    let probes = member(&worker.desired.pod, container)
        .map(|member| Probes::initial(member.container))
        .unwrap_or_default();
    let seen = worker.entry(container);
    // Before the call: it may take effect though no answer comes.
    seen.probes = seen.kept.take().map_or(probes, |kept| probes.carrying(kept));
    match shim.start(&id).await {
        Ok(status) => {
            let seen = worker.entry(container);
            seen.task = Task::from_status(status);
            seen.trouble = None;
            Ok(())
        }
        Err(source) if source.is_lost() => Err(StartError::Run { source }),
        Err(source) => {
            // Its logs stay; the next attempt is another container.
            let _ = shim.delete(&id).await;
            Err(StartError::Run { source })
        }
    }
}

/// Writes down which attempt comes now, before anything of it exists.
fn note_attempt(worker: &mut Worker, container: &str, key: &ShimKey, image: &Image) -> ContainerRecord {
    let before = worker.seen.record.containers.get(container).cloned();
    let fresh = ContainerRecord {
        attempt: 0,
        shim: key.clone(),
        image: image.reference.clone(),
        image_id: image.repo_digest.clone(),
        created: false,
        finished: None,
        last: None,
        crashes: 0,
    };
    let record = match before {
        None => fresh,
        Some(ContainerRecord { finished: Some(finished), attempt, crashes, .. }) => {
            ContainerRecord { attempt: attempt + 1, last: Some(finished), crashes, ..fresh }
        }
        Some(before) => {
            ContainerRecord { attempt: before.attempt, last: before.last, crashes: before.crashes, ..fresh }
        }
    };
    worker.seen.record.containers.insert(container.to_owned(), record.clone());
    worker.save();
    record
}

fn note_created(worker: &mut Worker, container: &str) {
    if let Some(record) = worker.seen.record.containers.get_mut(container) {
        record.created = true;
    }
    worker.save();
}

/// Everything the shim is told.
async fn container_spec(
    worker: &Worker,
    pod: &Pod,
    container: &str,
    record: &ContainerRecord,
    image: &Image,
    sandbox: &Sandbox,
) -> Result<catamaran_task::spec::ContainerSpec, StartError> {
    let (context, attempt) = (&worker.context, record.attempt);
    let member = member(pod, container).ok_or(StartError::NotPrepared)?;
    let id = container_id(uid(pod), container, attempt);
    let ip: Ipv4Addr = sandbox.ip;
    let sources = context.objects.sources(pod, member.container, ip, &context.config).await?;
    let env = crate::env::environment(pod, member.container, &sources)?;
    let directory = worker.paths.container(container);
    std::fs::create_dir_all(&directory).map_err(StartError::Files)?;
    let termination_log = worker.paths.termination_log(member.container, attempt);
    make_termination_log(&termination_log).map_err(StartError::Files)?;
    let log_dir = context.paths.log_dir(namespace(pod), name(pod), uid(pod));
    let log = crate::config::log_file(&log_dir, container, attempt);
    std::fs::create_dir_all(log.parent().unwrap_or(&log_dir)).map_err(StartError::Files)?;
    let mounts = crate::mounts::of_container(pod, member.container, &worker.paths, &env)?;
    // A wasm sandbox has no users: nothing in it is root.
    let identity = match image.kind {
        ImageKind::Linux => crate::identity::resolve(pod, member.container, image)?,
        ImageKind::Wasm(_) => Identity::default(),
    };
    let mut resolvers = crate::files::resolvers(&context.config, pod, &crate::files::node_resolv_conf());
    resolvers.hosts = crate::files::host_names(&context.config, pod, ip);
    let input = Input {
        pod,
        container: member.container,
        image,
        attempt,
        env,
        mounts,
        identity,
        sandbox,
        paths: &worker.paths,
        termination_log,
        log,
        stdin: crate::stdin::of(&context.paths, &record.shim, &id, member.container)
            .map_err(StartError::Files)?,
        hostname: crate::files::hostname(pod, &context.config),
        resolvers,
        cluster_ranges: &context.config.cluster_ranges,
        cgroup: &context.config.cgroup,
        node_memory: context.node_memory,
    };
    Ok(bundle::container_spec(&input)?)
}

/// A file that the container may write whoever its user is, in a directory of its own.
fn make_termination_log(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::File::options().create(true).append(true).open(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
}
