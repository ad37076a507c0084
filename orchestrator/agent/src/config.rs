//! What the agent is told when it starts, and where its files lie.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Container;

/// Everything the agent must be told. The cli fills it in.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Name of the Node object; also its `kubernetes.io/hostname`.
    pub node_name: String,
    /// The node's InternalIP: first address of its first pod block.
    pub node_address: Ipv4Addr,
    /// Everything that is kept (`/var/lib/catamaran`).
    pub data_dir: PathBuf,
    /// Sockets and bind-mounted namespaces; gone after a reboot. Short: socket paths end at 107 bytes.
    pub run_dir: PathBuf,
    /// Directory of pod logs (`/var/log/pods`).
    pub pod_logs: PathBuf,
    /// Name of the control group, in each hierarchy, below which the containers of this node live. No other cluster on
    /// this machine has the same.
    pub cgroup: String,
    /// The binary whose sub-commands are the shims, usually `current_exe()`.
    pub executable: PathBuf,
    /// Address of the cluster DNS Service.
    pub cluster_dns: Ipv4Addr,
    /// Domain of the cluster DNS (`cluster.local`).
    pub cluster_domain: String,
    /// Pod and Service ranges (CIDR): what a wasm pod may reach unless told otherwise.
    pub cluster_ranges: Vec<String>,
    /// Registries (`host:port`) that are spoken to in plain HTTP, besides the built-in one.
    pub insecure_registries: Vec<String>,
    /// Where logs, exec, attach and port-forward are served; `None` serves nothing.
    pub endpoint: Option<EndpointConfig>,
    /// Pods this node takes at most.
    pub max_pods: u32,
}

/// The agent's TLS endpoint (the kubelet's port 10250).
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// PEM file with the serving certificate chain.
    pub certificate: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
    /// PEM file with the authorities that client certificates must come from.
    pub client_ca: PathBuf,
}

/// Registries that are always spoken to in plain HTTP: the one built into the server.
pub const BUILT_IN_REGISTRIES: [&str; 2] = ["localhost:5000", "127.0.0.1:5000"];

/// Where things lie below the agent's directories.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) data: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) pod_logs: PathBuf,
}

impl Paths {
    pub(crate) fn of(config: &AgentConfig) -> Self {
        Paths {
            data: config.data_dir.clone(),
            run: config.run_dir.clone(),
            pod_logs: config.pod_logs.clone(),
        }
    }

    /// All pods: one directory for each UID.
    pub(crate) fn pods(&self) -> PathBuf {
        self.data.join("agent/pods")
    }

    pub(crate) fn pod(&self, uid: &str) -> PodPaths {
        PodPaths { root: self.pods().join(uid), run: self.run.join("pods").join(uid) }
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// Volumes of the class `local-path`: one directory for each.
    pub(crate) fn local_volumes(&self) -> PathBuf {
        self.data.join("local-path")
    }

    /// State of the shims.
    pub(crate) fn shim(&self, kind: &str) -> PathBuf {
        self.data.join("shim").join(kind)
    }

    /// Directory of one pod's logs, named as node tools expect.
    pub(crate) fn log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.pod_logs.join(format!("{namespace}_{name}_{uid}"))
    }
}

/// Where the files of one pod lie.
#[derive(Clone, Debug)]
pub(crate) struct PodPaths {
    pub(crate) root: PathBuf,
    /// Bind-mounted namespaces: below the run directory.
    pub(crate) run: PathBuf,
}

impl PodPaths {
    pub(crate) fn record(&self) -> PathBuf {
        self.root.join("record.json")
    }

    pub(crate) fn spec(&self) -> PathBuf {
        self.root.join("pod.json")
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.volumes().join(name)
    }

    /// Where it stands which directory a claim is.
    pub(crate) fn claims(&self) -> PathBuf {
        self.root.join("claims")
    }

    pub(crate) fn hosts(&self) -> PathBuf {
        self.etc().join("hosts")
    }

    pub(crate) fn hostname(&self) -> PathBuf {
        self.etc().join("hostname")
    }

    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.etc().join("resolv.conf")
    }

    pub(crate) fn shm(&self) -> PathBuf {
        self.root.join("shm")
    }

    pub(crate) fn namespace(&self, kind: &str) -> PathBuf {
        self.run.join(kind)
    }

    /// What one container owns: its writable layer, its termination log.
    pub(crate) fn container(&self, name: &str) -> PathBuf {
        self.root.join("containers").join(name)
    }

    /// Where an attempt of a container leaves its last words: in a directory of its own, by the name by which the
    /// container knows the file.
    pub(crate) fn termination_log(&self, container: &Container, attempt: u32) -> PathBuf {
        let path = container.termination_message_path.as_deref().map(Path::new);
        let name = path.and_then(Path::file_name).unwrap_or("termination-log".as_ref());
        self.termination_directory(&container.name, attempt).join(name)
    }

    pub(crate) fn termination_directory(&self, container: &str, attempt: u32) -> PathBuf {
        self.container(container).join(format!("termination-{attempt}"))
    }

    /// What the pod finds in `/etc`.
    pub(crate) fn etc(&self) -> PathBuf {
        self.root.join("etc")
    }
}

/// `CONTAINER/N.log` below the pod's log directory.
pub(crate) fn log_file(log_dir: &Path, container: &str, attempt: u32) -> PathBuf {
    log_dir.join(container).join(format!("{attempt}.log"))
}
