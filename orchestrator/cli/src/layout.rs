//! Where things lie on this machine, and the ports and addresses of a cluster of one.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The default data directory.
pub(crate) const DATA_DIR: &str = "/var/lib/catamaran";
/// The run directory of the default data directory.
const RUN_DIR: &str = "/run/catamaran";
/// Socket paths end at 107 bytes; the longest name below a run directory takes about fifty.
const LONGEST_RUN_DIR: usize = 50;

/// Name servers, gateways and the API are reached by pods at the first address of the node's first block.
pub(crate) const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 1);

/// Paths below one data directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Everything that is kept.
    pub(crate) data: PathBuf,
    /// Sockets, process files and bind-mounted namespaces: gone after a reboot.
    pub(crate) run: PathBuf,
}

impl Layout {
    /// The layout of a data directory; relative paths are taken from the working directory.
    pub(crate) fn of(data: &Path) -> Self {
        let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
        let run = run_dir(&data);
        Layout { data, run }
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }

    pub(crate) fn log(&self, part: &str) -> PathBuf {
        self.data.join("log").join(format!("{part}.log"))
    }

    pub(crate) fn process_file(&self, part: &str) -> PathBuf {
        self.run.join(format!("{part}.pid"))
    }

    /// Certificates of the parts on this machine that are clients of the server.
    pub(crate) fn agent_pki(&self) -> PathBuf {
        self.data.join("agent/pki")
    }

    pub(crate) fn settings(&self) -> PathBuf {
        self.data.join("cluster.json")
    }

    /// Pod logs lie where node tools look for them when this is the machine's default cluster.
    pub(crate) fn pod_logs(&self) -> PathBuf {
        if self.data == Path::new(DATA_DIR) { "/var/log/pods".into() } else { self.data.join("log/pods") }
    }
}

/// The name of this machine as a node's name: lower case.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_lowercase()
}

fn run_dir(data: &Path) -> PathBuf {
    if data == Path::new(DATA_DIR) {
        return RUN_DIR.into();
    }
    let inside = data.join("run");
    if inside.as_os_str().len() <= LONGEST_RUN_DIR {
        return inside;
    }
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(data.as_os_str().as_encoded_bytes());
    let short: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    PathBuf::from(format!("{RUN_DIR}-{short}"))
}

/// What `up` was asked for; kept so that every part, and the next `up`, finds the same.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Settings {
    /// Port of the API on loopback and on the node address.
    pub(crate) api_port: u16,
    /// Port of the built-in image registry.
    pub(crate) registry_port: u16,
    /// Name of this machine's node.
    pub(crate) node_name: String,
    /// Registries besides the built-in one that are spoken to in plain HTTP.
    pub(crate) insecure_registries: Vec<String>,
}

impl Settings {
    pub(crate) fn load(layout: &Layout) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(layout.settings()).ok()?).ok()
    }

    pub(crate) fn save(&self, layout: &Layout) -> std::io::Result<()> {
        let text = serde_json::to_vec_pretty(self).expect("settings are plain data");
        std::fs::write(layout.settings(), text)
    }

    /// The defaults with another port, for a server that was not started by `up`.
    pub(crate) fn of_port(api_port: u16) -> Self {
        let node_name = host_name();
        Settings { api_port, registry_port: 5000, node_name, insecure_registries: Vec::new() }
    }

    /// Where people and their tools reach the API.
    pub(crate) fn api_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port)
    }

    /// Where the API listens: loopback, and the node address for pods.
    pub(crate) fn api_listen(&self) -> Vec<SocketAddr> {
        [Ipv4Addr::LOCALHOST, NODE_ADDRESS].map(|ip| SocketAddr::from((ip, self.api_port))).to_vec()
    }

    /// Where the built-in registry listens: loopback only.
    pub(crate) fn registry_listen(&self) -> Vec<SocketAddr> {
        vec![SocketAddr::from((Ipv4Addr::LOCALHOST, self.registry_port))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_paths_stay_short_however_long_the_data_directory_is() {
        for data in ["/var/lib/catamaran", "/tmp/c", &format!("/tmp/{}", "x".repeat(200))] {
            let layout = Layout::of(Path::new(data));
            assert!(layout.run.as_os_str().len() <= LONGEST_RUN_DIR, "{}", layout.run.display());
        }
        assert_ne!(run_dir(Path::new(&"/a".repeat(80))), run_dir(Path::new(&"/b".repeat(80))));
    }
}
