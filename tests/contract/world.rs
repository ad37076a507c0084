//! A cluster in this process: server over the store in memory, controllers, scheduler, and nodes that are played.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use catamaran_client::Client;
use catamaran_server::{Server, ServerConfig, UserInfo};
use catamaran_store::MemoryStore;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{ResourceExt, client};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long a condition may take to become true.
const PATIENCE: Duration = Duration::from_secs(30);

/// The cluster.
pub(crate) struct World {
    server: Server,
    controllers: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    scheduler: JoinHandle<()>,
    grace: Duration,
    _dir: tempfile::TempDir,
}

/// The server's keys for the controllers, as the binary hands them over.
struct ServerKeys(Server);

impl catamaran_controllers::Authority for ServerKeys {
    fn read(&self, request: &[u8]) -> Result<catamaran_controllers::Subject, String> {
        let found = catamaran_server::RequestSubject::of(request).map_err(|error| error.to_string())?;
        Ok(catamaran_controllers::Subject {
            hosts: found.names.len() + found.addresses.len(),
            common_name: found.common_name,
            organizations: found.organizations,
            other_names: found.other_names,
        })
    }

    fn sign(&self, request: &[u8], usages: &[String], lasts: Duration) -> Result<String, String> {
        let lasts = lasts.try_into().map_err(|_| "too long".to_owned())?;
        let order = catamaran_server::Order { request, usages, lasts };
        self.0.sign(&order).map_err(|error| error.to_string())
    }

    fn token(&self, namespace: &str, account: (&str, &str), secret: &str) -> Result<String, String> {
        self.0.legacy_token(namespace, account, secret).map_err(|error| error.to_string())
    }
}

/// A node that is played; silent when it is dropped or aborted.
pub(crate) struct PlayedNode(Vec<JoinHandle<()>>);

impl PlayedNode {
    pub(crate) fn abort(&self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for PlayedNode {
    fn drop(&mut self) {
        self.abort();
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with_grace(Duration::from_secs(50)).await
    }

    pub(crate) async fn with_grace(grace: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::new(ServerConfig::new(dir.path()), Arc::new(MemoryStore::new())).unwrap();
        server.bootstrap().await.unwrap();
        let client = Client::new(server.service(UserInfo::component("system:kube-scheduler")), "default");
        let scheduler = tokio::spawn(async move {
            catamaran_scheduler::run(client, std::future::pending()).await.unwrap();
        });
        let mut world = Self { server, controllers: None, scheduler, grace, _dir: dir };
        world.start_controllers();
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
            Api::namespaced(world.client(), "default");
        wait_until("the account `default` is there", || async {
            accounts.get_opt("default").await.unwrap().is_some()
        })
        .await;
        world
    }

    pub(crate) fn client(&self) -> client::Client {
        Client::new(self.server.service(UserInfo::new("admin", &["system:masters"])), "default")
    }

    /// The API as somebody sees it.
    pub(crate) fn service(&self, user: UserInfo) -> catamaran_server::InProcess {
        self.server.service(user)
    }

    pub(crate) fn start_controllers(&mut self) {
        let client = Client::new(
            self.server.service(UserInfo::component("system:kube-controller-manager")),
            "default",
        );
        let config = catamaran_controllers::Config {
            node_grace: self.grace,
            keys: Some(catamaran_controllers::Keys::new(ServerKeys(self.server.clone()))),
            ..catamaran_controllers::Config::new(self.server.ca_pem())
        };
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            catamaran_controllers::run(client, config, stopped).await.unwrap();
        });
        self.controllers = Some((stop, running));
    }

    /// Ends the controllers wherever they are, as a kill does: nothing of them runs when this returns.
    pub(crate) async fn kill_controllers(&mut self) {
        if let Some((stop, running)) = self.controllers.take() {
            drop(stop);
            running.await.unwrap();
        }
    }

    pub(crate) async fn stop(mut self) {
        assert!(!self.scheduler.is_finished(), "the scheduler ended by itself");
        self.scheduler.abort();
        let ended = self.controllers.as_ref().is_some_and(|(_, running)| running.is_finished());
        assert!(!ended, "the controllers ended by themselves");
        self.kill_controllers().await;
    }

    /// Plays a node that is ready, renews its lease and runs every pod at once.
    pub(crate) async fn node(&self, name: &'static str) -> PlayedNode {
        let nodes: Api<Node> = Api::all(self.client());
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        let status = json!({"status": {
            "capacity": {"cpu": "8", "memory": "16Gi", "pods": "200"},
            "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "200"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"}],
            "runtimeHandlers": [{"name": "oci"}, {"name": "wasm"}]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        let beat = catamaran_client::lease::Heartbeat {
            interval: Duration::from_millis(500),
            ..catamaran_client::lease::Heartbeat::of_node(name, None)
        };
        let heartbeat = tokio::spawn(beat.run(self.client()));
        let pods = tokio::spawn(run_pods(self.client(), name));
        PlayedNode(vec![heartbeat, pods])
    }
}

static ADDRESS: AtomicU32 = AtomicU32::new(1);

async fn run_pods(client: client::Client, node: &'static str) {
    let pods: Api<Pod> = Api::all(client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = Box::pin(watcher::watcher(pods, config));
    // Once each: a second event without an address must not wake a pod that a test has ended meanwhile.
    let mut started = HashSet::new();
    while let Some(event) = events.next().await {
        let Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) = event else { continue };
        let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
        if pod.metadata.deletion_timestamp.is_some() {
            let _ = api.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
        } else if pod.status.as_ref().is_none_or(|status| status.pod_ip.is_none())
            && started.insert(pod.uid())
        {
            let number = ADDRESS.fetch_add(1, Ordering::Relaxed);
            let ip = format!("10.128.{}.{}", number / 250, number % 250 + 2);
            let now =
                k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now());
            let status = json!({"metadata": {"uid": pod.uid()}, "status": {
                "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}]}});
            let _ =
                api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status)).await;
        }
    }
}

/// Does a node run the pod?
pub(crate) fn runs(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// Waits until `condition` holds; panics with what was waited for if it takes too long.
pub(crate) async fn wait_until<F: Future<Output = bool>>(what: &'static str, condition: impl Fn() -> F) {
    let holds = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, holds).await.is_ok(), "waited in vain until {what}");
}
