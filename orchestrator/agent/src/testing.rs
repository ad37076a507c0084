//! What tests of this crate share: an agent's context over a fake API, a fake network and a fake shim.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use catamaran_client::Recorder;
use tokio::task::JoinSet;

use crate::config::{AgentConfig, Paths};
use crate::context::{Context, Roster, Wakers};
use crate::eviction::Evictions;
use crate::images::content::Store;
use crate::images::detect::ImageKind;
use crate::images::{Image, ImageConfig, Images};
use crate::listeners::Listeners;
use crate::objects::Objects;
use crate::runtime::ShimKey;
use crate::shims::Shims;

mod api;
mod network;
mod shim;

pub(crate) use api::FakeApi;
pub(crate) use network::FakeNetwork;
pub(crate) use shim::FakeShim;

/// A configuration whose files lie below `directory`.
pub(crate) fn config(directory: &Path) -> AgentConfig {
    AgentConfig {
        node_name: "n1".into(),
        node_address: Ipv4Addr::new(10, 128, 0, 1),
        data_dir: directory.join("data"),
        run_dir: directory.join("run"),
        pod_logs: directory.join("logs"),
        cgroup: "catamaran-test".into(),
        executable: directory.join("catamaran"),
        cluster_dns: Ipv4Addr::new(10, 96, 0, 10),
        cluster_domain: "cluster.local".into(),
        cluster_ranges: vec!["10.128.0.0/10".into(), "10.96.0.0/16".into()],
        insecure_registries: Vec::new(),
        endpoint: None,
        max_pods: 100,
    }
}

/// A node with one image (`app:v1`, Linux). Dropping it unmounts what its pods left.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) api: FakeApi,
    pub(crate) shim: Arc<FakeShim>,
    pub(crate) network: Arc<FakeNetwork>,
    tasks: JoinSet<()>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::Builder::new().prefix("cata").tempdir().unwrap();
        let paths = Paths::of(&config(dir.path()));
        let store = Store::open(&paths.images()).unwrap();
        let layer = paths.images().join("layers/sha256/base/fs");
        std::fs::create_dir_all(&layer).unwrap();
        store
            .remember(&Image {
                reference: "docker.io/library/app:v1".into(),
                repo_digest: "docker.io/library/app@sha256:1".into(),
                digest: "sha256:1".into(),
                kind: ImageKind::Linux,
                config: ImageConfig { cmd: vec!["/app".into()], ..ImageConfig::default() },
                layers: vec![layer],
                wasm: None,
                size: 1,
            })
            .unwrap();
        let shim = Arc::new(FakeShim::default());
        let mut tasks = JoinSet::new();
        std::fs::create_dir_all(&paths.run).unwrap();
        let (socket, pods) = (paths.run.join("oci.sock"), shim.clone());
        tasks.spawn(async move {
            let served =
                catamaran_task::server::serve(&socket, pods, Arc::default(), std::future::pending::<()>());
            served.await.unwrap();
        });
        Bench { dir, api: FakeApi::default(), shim, network: Arc::default(), tasks }
    }

    /// The context of an agent that has just started.
    pub(crate) fn agent(&mut self) -> Arc<Context> {
        let config = config(self.dir.path());
        let paths = Paths::of(&config);
        let client = self.api.client();
        let (events, writer) = Recorder::new(client.clone(), "kubelet", Some("n1"));
        self.tasks.spawn(writer);
        let wakers = Arc::new(Wakers::default());
        let shims = Arc::new(Shims::new(config.executable.clone(), paths.clone(), wakers.clone()));
        shims.pretend_running(&ShimKey::Oci);
        Arc::new(Context {
            shims,
            objects: Objects::new(client.clone(), 2000, 1 << 30, 1 << 40),
            listeners: Listeners::default(),
            roster: Roster::default(),
            evictions: Evictions::default(),
            node_memory: 1 << 30,
            images: Images::open(&paths.images(), &config.executable, &[]).unwrap(),
            network: self.network.clone(),
            events,
            wakers,
            client,
            paths,
            config,
        })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let paths = Paths::of(&config(self.dir.path()));
        for entry in std::fs::read_dir(paths.pods()).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            let _ = crate::namespaces::tear_down(&paths.pod(&uid));
        }
    }
}
