//! Where things lie on this machine, and the ports and addresses of a cluster of one.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::api_options::ApiOptions;

/// The default data directory.
pub(crate) const DATA_DIR: &str = "/var/lib/catamaran";
/// The run directory of the default data directory.
const RUN_DIR: &str = "/run/catamaran";
/// The control group of the default data directory's containers.
const CGROUP: &str = "catamaran";
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
    /// Whether this is the machine's default cluster, whose places have well-known names.
    default: bool,
}

impl Layout {
    /// The layout of a data directory. Relative paths are taken from the working directory, and symbolic links are
    /// followed: mounts and command lines name the place itself.
    pub(crate) fn of(data: &Path) -> Self {
        let data = real(data);
        let default = data == real(Path::new(DATA_DIR));
        let run = if default { RUN_DIR.into() } else { run_dir(&data) };
        Layout { data, run, default }
    }

    /// The control group of this cluster's containers in each hierarchy: no other data directory has the same.
    pub(crate) fn cgroup(&self) -> String {
        if self.default { CGROUP.to_owned() } else { format!("{CGROUP}-{}", digest(&self.data)) }
    }

    /// There when `up` made the data directory, so that `down` removes it.
    pub(crate) fn made(&self) -> PathBuf {
        self.data.join("made-by-up")
    }

    /// UIDs of pods whose records are gone while their logs are kept.
    pub(crate) fn ended_pods(&self) -> PathBuf {
        self.data.join("agent/ended-pods")
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
        if self.default { "/var/log/pods".into() } else { self.data.join("log/pods") }
    }
}

/// The name of this machine as a node's name: lower case.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_lowercase()
}

/// The path without symbolic links. What does not exist yet cannot hold any.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    match there {
        Some((above, real)) => match path.strip_prefix(above) {
            // Joining nothing would append a slash.
            Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
            _ => real,
        },
        None => path,
    }
}

/// Tells data directories apart in names that must be short.
fn digest(data: &Path) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(data.as_os_str().as_encoded_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

fn run_dir(data: &Path) -> PathBuf {
    let inside = data.join("run");
    if inside.as_os_str().len() <= LONGEST_RUN_DIR {
        return inside;
    }
    PathBuf::from(format!("{RUN_DIR}-{}", digest(data)))
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
    /// What an administrator chose of the API server.
    #[serde(default)]
    pub(crate) api: ApiOptions,
}

impl Settings {
    pub(crate) fn load(layout: &Layout) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(layout.settings()).ok()?).ok()
    }

    pub(crate) fn save(&self, layout: &Layout) -> std::io::Result<()> {
        let text = serde_json::to_vec_pretty(self).expect("settings are plain data");
        let draft = layout.settings().with_extension("new");
        std::fs::write(&draft, text)?;
        std::fs::rename(draft, layout.settings())
    }

    /// The defaults with another port, for a server that was not started by `up`.
    pub(crate) fn of_port(api_port: u16) -> Self {
        let node_name = host_name();
        let (insecure_registries, api) = (Vec::new(), ApiOptions::default());
        Settings { api_port, registry_port: 5000, node_name, insecure_registries, api }
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
        assert_eq!(Layout::of(Path::new(DATA_DIR)).run, Path::new(RUN_DIR));
        assert_ne!(run_dir(Path::new(&"/a".repeat(80))), run_dir(Path::new(&"/b".repeat(80))));
    }

    #[test]
    fn each_data_directory_has_a_control_group_of_its_own() {
        let group = |data: &str| Layout::of(Path::new(data)).cgroup();
        assert_eq!(group(DATA_DIR), "catamaran");
        assert!(group("/tmp/a").starts_with("catamaran-"));
        assert_ne!(group("/tmp/a"), group("/tmp/b"));
    }

    #[test]
    fn links_are_followed_also_before_the_directory_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().canonicalize().unwrap();
        std::fs::create_dir(place.join("real")).unwrap();
        std::os::unix::fs::symlink(place.join("real"), place.join("link")).unwrap();
        let data = |path: &str| Layout::of(&place.join(path)).data;
        assert_eq!(data("link"), place.join("real"));
        assert_eq!(data("link/new/er"), place.join("real/new/er"));
        assert_eq!(data("link/"), data("real"));
    }

    #[test]
    fn saved_settings_are_whole_and_load_again() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::of(directory.path());
        let settings = Settings::of_port(7000);
        settings.save(&layout).unwrap();
        assert_eq!(Settings::load(&layout), Some(settings));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "no draft stays");
    }
}
