//! A container of a pod as its shim is told: the OCI runtime specification for both kinds, the wasm part beside it.
//! Pure: whatever had to be looked up is in [`Input`].

use std::path::{Path, PathBuf};

use catamaran_task::spec::{
    ContainerSpec, Output, Resolvers, Rootfs, SECCOMP_ANNOTATION, SECCOMP_DEFAULT, SandboxId, Stdin,
};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use crate::config::PodPaths;
use crate::env::{expand, over_image};
use crate::identity::Identity;
use crate::images::Image;
use crate::images::detect::ImageKind;
use crate::members::{spec, uid};
use crate::mounts::BindMount;
use crate::qos::{self, Amounts};
use crate::record::{Sandbox, container_id};
use crate::runtime::Place;
use crate::sysctls;

mod security;
pub(crate) mod wasm;

use security::Seccomp;

/// All that a container's specification is made from.
pub(crate) struct Input<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) image: &'a Image,
    pub(crate) attempt: u32,
    /// What the pod says; the image's variables lie below.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) mounts: Vec<BindMount>,
    pub(crate) identity: Identity,
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) paths: &'a PodPaths,
    pub(crate) termination_log: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) stdin: Stdin,
    pub(crate) hostname: String,
    pub(crate) resolvers: Resolvers,
    pub(crate) cluster_ranges: &'a [String],
    /// The control group above those of all containers.
    pub(crate) cgroup: &'a str,
    /// Bytes.
    pub(crate) node_memory: i64,
}

/// A container that cannot be described.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    #[error("no command specified: neither the container nor its image names one")]
    NoCommand,
    #[error("the pod asks for {0}, which this node cannot give")]
    Unsupported(&'static str),
    #[error("the annotation {key:?} is {value:?}: {expected}")]
    Annotation { key: &'static str, value: String, expected: &'static str },
    #[error(
        "the seccomp profile {0:?} is a file of the node, which this node does not read; use RuntimeDefault"
    )]
    SeccompFile(String),
    #[error("forbidden sysctl: {0:?} is not on the safe list, or is the node's own in this pod")]
    Sysctl(String),
    #[error("the capability {0:?} in securityContext.capabilities.add is not known")]
    Capability(String),
    #[error("the image was compiled for another place: pull it again")]
    NotCompiled,
    #[error("the runtime specification does not hold together")]
    Spec(#[source] serde_json::Error),
}

/// Where the writable layer of one attempt of a container lies.
pub(crate) fn scratch(paths: &PodPaths, container: &str, attempt: u32) -> PathBuf {
    paths.container(container).join(format!("root-{attempt}"))
}

/// What the shim is told about the container.
pub(crate) fn container_spec(input: &Input<'_>) -> Result<ContainerSpec, BundleError> {
    let name = &input.container.name;
    let is_wasm = matches!(input.image.kind, ImageKind::Wasm(_));
    let value = if is_wasm { wasm::runtime_spec(input) } else { linux_spec(input)? };
    let runtime_spec: Spec = serde_json::from_value(value).map_err(BundleError::Spec)?;
    let rootfs = if is_wasm {
        Rootfs::None
    } else {
        Rootfs::Overlay {
            lower: input.image.layers.clone(),
            scratch: scratch(input.paths, name, input.attempt),
        }
    };
    Ok(ContainerSpec {
        id: container_id(uid(input.pod), name, input.attempt),
        sandbox: SandboxId(uid(input.pod).to_owned()),
        runtime_spec,
        rootfs,
        output: Output::CriLog(input.log.clone()),
        stdin: input.stdin.clone(),
        wasm: if is_wasm { Some(wasm::wasm_spec(input)?) } else { None },
    })
}

/// `command` and `args` over the image's `Entrypoint` and `Cmd`, with `$(NAME)` expanded.
fn args(input: &Input<'_>) -> Vec<String> {
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|text| expand(text, &input.env)).collect()
    };
    let (command, args) = (expanded(&input.container.command), expanded(&input.container.args));
    let config = &input.image.config;
    match (command.is_empty(), args.is_empty()) {
        (false, _) => [command, args].concat(),
        (true, false) => [config.entrypoint.clone(), args].concat(),
        (true, true) => [config.entrypoint.clone(), config.cmd.clone()].concat(),
    }
}

fn working_directory(input: &Input<'_>) -> String {
    let given = input.container.working_dir.clone().filter(|dir| !dir.is_empty());
    given
        .or_else(|| Some(input.image.config.working_dir.clone()).filter(|dir| !dir.is_empty()))
        .unwrap_or("/".into())
}

/// The environment as OCI wants it, with `defaults` for what is said nowhere.
fn env(input: &Input<'_>, defaults: &[(&str, &str)]) -> Vec<String> {
    let mut env = over_image(&input.image.config.env, &input.env);
    for (name, value) in defaults {
        if !env.iter().any(|(known, _)| known == name) {
            env.push(((*name).to_owned(), (*value).to_owned()));
        }
    }
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// What programs of a Linux container expect to find.
fn linux_env(input: &Input<'_>) -> Vec<String> {
    let mut defaults = vec![
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOSTNAME", input.hostname.as_str()),
        ("HOME", input.identity.home.as_str()),
    ];
    if input.container.tty == Some(true) {
        defaults.push(("TERM", "xterm"));
    }
    env(input, &defaults)
}

fn linux_spec(input: &Input<'_>) -> Result<Value, BundleError> {
    let args = args(input);
    if args.is_empty() {
        return Err(BundleError::NoCommand);
    }
    refuse_unsupported(spec(input.pod))?;
    if let Some(name) = sysctls::forbidden(spec(input.pod)) {
        return Err(BundleError::Sysctl(name.to_owned()));
    }
    let security = security::of(input)?;
    let amounts = Amounts::of(input.container);
    let class = qos::class(spec(input.pod));
    let identity = &input.identity;
    let cgroup =
        format!("/{}/{}/pod{}/{}", input.cgroup, class.folder(), uid(input.pod), input.container.name);
    let mut linux = json!({
        "namespaces": namespaces(input),
        "resources": resources(&amounts, security.privileged),
        "cgroupsPath": cgroup,
        "sysctl": sysctls::of(spec(input.pod)),
    });
    if !security.privileged {
        linux["maskedPaths"] = security::masked_paths(input.container);
        linux["readonlyPaths"] = security::readonly_paths(input.container);
    }
    let annotations = match security.seccomp {
        Seccomp::Default => json!({SECCOMP_ANNOTATION: SECCOMP_DEFAULT}),
        Seccomp::Unconfined => json!({}),
    };
    Ok(json!({
        "ociVersion": "1.2.0",
        "annotations": annotations,
        "root": {"path": "rootfs", "readonly": security.read_only_root},
        "hostname": input.hostname,
        "process": {
            "terminal": input.container.tty == Some(true),
            "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups},
            "args": args,
            "env": linux_env(input),
            "cwd": working_directory(input),
            "capabilities": security.capabilities,
            "noNewPrivileges": security.no_new_privileges,
            "oomScoreAdj": qos::oom_score_adj(class, amounts.memory_request, input.node_memory),
        },
        "mounts": mounts(input, security.privileged),
        "linux": linux,
    }))
}

/// What would be weaker, or otherwise, than the pod asks for is not run at all.
fn refuse_unsupported(spec: &PodSpec) -> Result<(), BundleError> {
    match (spec.host_users, spec.share_process_namespace) {
        (Some(false), _) => Err(BundleError::Unsupported("a user namespace of its own (hostUsers: false)")),
        (_, Some(true)) => Err(BundleError::Unsupported("one process namespace (shareProcessNamespace)")),
        _ => Ok(()),
    }
}

/// Own mount and pid namespaces; network, IPC and UTS of the pod.
fn namespaces(input: &Input<'_>) -> Value {
    let spec = spec(input.pod);
    let mut list = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
    if spec.host_pid != Some(true) {
        list.push(json!({"type": "pid"}));
    }
    if let (Place::Own, Some(netns)) = (&input.sandbox.place, &input.sandbox.netns) {
        list.push(json!({"type": "network", "path": netns}));
    }
    for kind in crate::namespaces::KINDS {
        let of_host = (kind == "ipc" && spec.host_ipc == Some(true))
            || (kind == "uts" && input.sandbox.place == Place::Host);
        if !of_host {
            list.push(json!({"type": kind, "path": input.paths.namespace(kind)}));
        }
    }
    Value::Array(list)
}

fn resources(amounts: &Amounts, privileged: bool) -> Value {
    let mut resources = json!({
        "cpu": {"shares": qos::cpu_shares(amounts.cpu_request.unwrap_or(0))},
        "devices": if privileged { json!([{"allow": true, "access": "rwm"}]) } else { security::devices() },
    });
    if let Some(limit) = amounts.cpu_limit {
        resources["cpu"]["quota"] = json!(qos::cpu_quota(limit));
        resources["cpu"]["period"] = json!(100_000);
    }
    if let Some(limit) = amounts.memory_limit {
        resources["memory"] = json!({"limit": limit, "swap": limit});
    }
    resources["pids"] = json!({"limit": 4096});
    resources
}

/// The file systems every container has, the pod's files, then its volumes.
fn mounts(input: &Input<'_>, privileged: bool) -> Value {
    let sys = if privileged { "rw" } else { "ro" };
    let mut list = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", sys]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", sys]}),
    ];
    let taken = |target: &str| input.mounts.iter().any(|mount| mount.target == Path::new(target));
    let log_path = input.container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    let shm =
        if spec(input.pod).host_ipc == Some(true) { crate::mounts::shm_of_node() } else { input.paths.shm() };
    let of_pod = [
        ("/dev/shm", shm),
        ("/etc/hosts", input.paths.hosts()),
        ("/etc/hostname", input.paths.hostname()),
        ("/etc/resolv.conf", input.paths.resolv_conf()),
        (log_path, input.termination_log.clone()),
    ];
    for (target, source) in of_pod {
        if !taken(target) {
            list.push(json!({"destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", "rw"]}));
        }
    }
    // A mount inside another one comes after it.
    let mut volumes: Vec<&BindMount> = input.mounts.iter().collect();
    volumes.sort_by_key(|mount| mount.target.components().count());
    list.extend(volumes.into_iter().map(BindMount::to_oci));
    Value::Array(list)
}

#[cfg(test)]
mod tests;
