//! `catamaran server`: opens the store, serves the API, runs controllers and scheduler over it in process.

use std::net::IpAddr;
use std::sync::Arc;

use catamaran_client::in_process;
use catamaran_server::pki::{Subject, write_private};
use catamaran_server::{Binding, Listen, Server as ApiServer, ServerConfig, UserInfo};
use catamaran_store::compact::{self, Retention};
use catamaran_store::sqlite::Options;
use catamaran_store::{SqliteStore, Store};
use clap::Args;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{DataDir, Outcome};
use crate::api_options::ApiOptions;
use crate::keys::ServerKeys;
use crate::layout::{Layout, NODE_ADDRESS, Settings};
use crate::stop::stop_signal;
use crate::supervise::process;

#[derive(Args)]
pub(crate) struct Server {
    #[command(flatten)]
    data: DataDir,
    /// Port of the API on loopback and on the node address
    #[arg(long, value_name = "N", default_value_t = 6443)]
    api_port: u16,
    #[command(flatten)]
    api: ApiOptions,
}

impl Server {
    pub(crate) async fn run(self) -> Outcome {
        let layout = self.data.layout();
        let settings = Settings::load(&layout).unwrap_or_else(|| Settings::of_port(self.api_port));
        let directory = layout.data.join("server");
        std::fs::create_dir_all(&directory)
            .map_err(|e| format!("cannot make {}: {e}", directory.display()))?;
        let store = Arc::new(SqliteStore::open(Options::new(directory.join("store.db")))?);
        // Only who has the store is the server.
        process::claim(&layout.process_file("server"));
        let mut config = config(&layout, &settings);
        self.api.or(Some(&settings.api)).apply(&mut config)?;
        let api = ApiServer::new(config, store.clone())?;
        hand_out_credentials(&api, &layout, &settings)?;
        let (stop, stopped) = watch::channel(false);
        let mut parts = Parts::start(&api, &store, &stopped);
        tokio::select! {
            () = stop_signal() => {}
            () = store.failed() => return Err("the disk refused a write; the store must be opened again".into()),
            ended = parts.first_end() => return Err(ended),
        }
        stop.send_replace(true);
        parts.finish().await;
        Ok(())
    }
}

fn config(layout: &Layout, settings: &Settings) -> ServerConfig {
    let listen = |address: std::net::SocketAddr| Listen {
        address,
        binding: if address.ip().is_loopback() { Binding::Present } else { Binding::Free },
    };
    ServerConfig {
        listen: settings.api_listen().into_iter().map(listen).collect(),
        registry_listen: settings.registry_listen().into_iter().map(listen).collect(),
        advertise: (NODE_ADDRESS, settings.api_port),
        ..ServerConfig::new(&layout.data)
    }
}

/// Writes the administrator's kubeconfig and the certificates of this machine's other parts.
fn hand_out_credentials(api: &ApiServer, layout: &Layout, settings: &Settings) -> Outcome {
    let kubeconfig = api.admin_kubeconfig(&settings.api_url())?;
    write_private(&layout.kubeconfig(), kubeconfig.as_bytes())?;
    let pki = layout.agent_pki();
    let addresses = vec![IpAddr::V4(NODE_ADDRESS), IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)];
    api.credentials(&pki, "agent", &Subject::node(&settings.node_name, addresses))?;
    api.credentials(&pki, "dns", &Subject::client("system:kube-dns", None))?;
    write_private(&pki.join("ca.crt"), api.ca_pem().as_bytes())?;
    Ok(())
}

type Ended = Box<dyn std::error::Error + Send + Sync>;

/// What runs in the server's process. The end of any part ends the process: the supervisor starts it again.
struct Parts {
    tasks: JoinSet<Result<(), Ended>>,
}

impl Parts {
    fn start(api: &ApiServer, store: &Arc<SqliteStore>, stopped: &watch::Receiver<bool>) -> Self {
        let mut tasks: JoinSet<Result<(), Ended>> = JoinSet::new();
        let serving = catamaran_server::run(api.clone(), stopped.clone());
        tasks.spawn(async move { Ok(serving.await?) });
        let history: Arc<dyn Store> = store.clone();
        tasks.spawn(async move {
            compact::run(&*history, Retention::default()).await;
            Ok(())
        });
        let component = |name: &str| in_process(api.service(UserInfo::component(name)));
        let controllers = catamaran_controllers::run(
            component("system:kube-controller-manager"),
            catamaran_controllers::Config {
                keys: Some(catamaran_controllers::Keys::new(ServerKeys(api.clone()))),
                ..catamaran_controllers::Config::new(api.ca_pem())
            },
            until(stopped.clone()),
        );
        tasks.spawn(async move { Ok(controllers.await?) });
        let scheduling = component("system:kube-scheduler");
        let stop = until(stopped.clone());
        tasks.spawn(async move { Ok(catamaran_scheduler::run(scheduling, stop).await?) });
        Parts { tasks }
    }

    /// Waits until a part ends by itself, and says why.
    async fn first_end(&mut self) -> Ended {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(panicked)) => panicked.into(),
            Some(Ok(Ok(()))) | None => "a part of the server ended by itself".into(),
        }
    }

    /// Gives the parts a moment to end after they were told to.
    async fn finish(mut self) {
        let all = async { while self.tasks.len() > 1 && self.tasks.join_next().await.is_some() {} };
        // Compaction never ends by itself; whoever else still runs after this is dropped with it.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), all).await;
        self.tasks.shutdown().await;
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // When nobody can tell any more it is time to stop, too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
