//! What a shim is told about one container: the OCI runtime spec for what both kinds share
//! (args, env, working directory, mounts, limits), beside it what only one kind needs.
//! Nothing of Kubernetes is in here.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Annotation of a runtime specification without `linux.seccomp`. As OCI has it, such a container is not
/// filtered; with the value [`SECCOMP_DEFAULT`] the profile that the shim brings along holds.
pub const SECCOMP_ANNOTATION: &str = "catamaran.dev/seccomp";
/// Value of [`SECCOMP_ANNOTATION`]: the shim's own profile, fitted to the container's capabilities.
pub const SECCOMP_DEFAULT: &str = "default";

/// Name of a container, unique on the node for as long as the shim remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(pub String);

/// Name of a pod (its UID); containers of one sandbox share namespaces and a cgroup parent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SandboxId(pub String);

/// One container to create. `runtime_spec` is the OCI runtime specification 1.2 `config.json`, inline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The container's name.
    pub id: ContainerId,
    /// The pod it belongs to.
    pub sandbox: SandboxId,
    /// `process.{args,env,cwd,user,terminal,capabilities,rlimits}`, `mounts`, `hostname`,
    /// `linux.{namespaces,resources,cgroupsPath,seccomp,maskedPaths,readonlyPaths,sysctl}`.
    /// A wasm host reads args, env, cwd, mounts (bind mounts become preopened directories) and
    /// `linux.resources.{memory.limit,cpu.{shares,quota,period}}`.
    pub runtime_spec: oci_spec::runtime::Spec,
    /// Where the root file system comes from. Wasm containers have none.
    pub rootfs: Rootfs,
    /// Where stdout and stderr go.
    pub output: Output,
    /// Whether stdin is held open for `attach`.
    pub stdin: Stdin,
    /// Set for wasm containers only.
    pub wasm: Option<WasmSpec>,
}

/// Root file system of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rootfs {
    /// None: a wasm container sees only its preopened directories.
    None,
    /// An overlay (and no symbolic link may lie on the way to the source of any bind mount of the specification: the
    /// agent has resolved them); `lower` is ordered from the topmost layer to the base, `upper` and `work` lie in
    /// `scratch` as `upper`/`work`. It is mounted in the container's mount namespace only.
    Overlay {
        /// Read-only layer directories, topmost first.
        lower: Vec<PathBuf>,
        /// A directory of this container alone; the shim makes its sub-directories, and takes them
        /// away on delete.
        scratch: PathBuf,
    },
    /// A directory used as it is (containerd prepared it).
    Directory(PathBuf),
    /// Mounts that make up the directory `target`, as containerd's snapshotters describe them.
    Mounts {
        /// Where they go, in the container's own mount namespace.
        target: PathBuf,
        /// One after the other.
        mounts: Vec<RootMount>,
    },
}

/// One mount of a root file system, in the terms of mount(8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootMount {
    /// File system type: `overlay`, `bind`, ...
    pub kind: String,
    /// Device or directory.
    pub source: String,
    /// `lowerdir=...`, `ro`, `rbind`, ...
    pub options: Vec<String>,
}

/// Destination of a container's stdout and stderr.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// A log file in the CRI format (`TIME stdout|stderr F|P text`), appended to.
    CriLog(PathBuf),
    /// Named pipes that somebody else reads (containerd).
    Fifos {
        /// Path of the pipe for stdout; empty: discard.
        stdout: String,
        /// Path of the pipe for stderr; empty: discard.
        stderr: String,
    },
    /// Nowhere.
    Discard,
}

/// What a container reads on stdin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// `/dev/null`.
    Null,
    /// Kept open, written by attach sessions (`stdin: true`).
    Open,
    /// Closed after the first attach session ends (`stdinOnce: true`).
    Once,
    /// A named pipe that somebody else writes (containerd).
    Fifo(String),
}

/// What only a wasm container needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WasmSpec {
    /// The code as pulled; its first bytes say module or component.
    pub artifact: PathBuf,
    /// The same, compiled by the compile role for this machine.
    pub compiled: PathBuf,
    /// Address of the pod: every wildcard or loopback bind of the guest is confined to it.
    pub pod_ip: Ipv4Addr,
    /// TCP ports an HTTP component answers on. Listeners are handed over by token (see `fds`);
    /// where none was handed over the host binds `pod_ip:port` itself. Default 80 when empty.
    pub http_ports: Vec<u16>,
    /// How many requests one instance serves.
    pub instance: InstancePolicy,
    /// Who the guest may reach. Name look-up uses `resolvers`.
    pub outbound: Outbound,
    /// Name servers, search domains for look-ups, as in resolv.conf.
    pub resolvers: Resolvers,
    /// Seconds a request may take; `None` is 60.
    pub request_timeout_seconds: Option<u32>,
}

/// `catamaran.dev/instance`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstancePolicy {
    /// A new instance for each request.
    #[default]
    Fresh,
    /// An instance serves up to `max` requests, `concurrency` at a time, and is dropped after `idle_seconds`.
    Reuse {
        /// Requests in an instance's life.
        max: u32,
        /// Requests at a time.
        concurrency: u32,
        /// Seconds without a request.
        idle_seconds: u32,
    },
}

/// Outbound network of a wasm container: nothing unless granted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outbound {
    /// No outbound connection and no name look-up.
    #[default]
    None,
    /// Pods, Services and cluster DNS only (the given address ranges as CIDR), plus named hosts.
    Hosts(Vec<String>),
    /// Anything.
    All,
}

/// Name look-up of a pod (`dnsPolicy` and `dnsConfig` already applied).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolvers {
    /// Addresses of name servers.
    pub nameservers: Vec<Ipv4Addr>,
    /// Search domains in order.
    pub search: Vec<String>,
    /// Names with fewer dots are tried with the search domains first.
    pub ndots: u8,
    /// Names that need no server, in lower case, as in `/etc/hosts`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
}
