//! `catamaran agent`: the node agent, a client of the API over mutual TLS.

use std::net::Ipv4Addr;
use std::sync::Arc;

use catamaran_agent::{AgentConfig, EndpointConfig};
use catamaran_client::{Credentials, Source, connect};
use catamaran_network::{Network, NetworkConfig, run_services};
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{DataDir, Outcome};
use crate::layout::{Layout, NODE_ADDRESS, Settings};
use crate::pod_network::OnThisNode;
use crate::stop::stop_signal;
use crate::supervise::process;

/// The kubelet's port.
const PORT: u16 = 10250;
/// ClusterIP of the cluster DNS.
const CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const MAX_PODS: u32 = 100_000;

#[derive(Args)]
pub(crate) struct Agent {
    #[command(flatten)]
    data: DataDir,
    /// Name of the Node object
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
}

impl Agent {
    pub(crate) async fn run(self) -> Outcome {
        let layout = self.data.layout();
        let mut settings = Settings::load(&layout).ok_or("no cluster here: start one with `catamaran up`")?;
        settings.node_name = self.node_name.unwrap_or(settings.node_name);
        let _only = process::lock(&layout.run.join("agent.lock"))?;
        process::claim(&layout.process_file("agent"));
        let credentials = credentials(&layout, &settings)?;
        crate::wait::for_files(&[&credentials.ca, &credentials.certificate, &credentials.key]).await;
        let config = config(&layout, &settings, &credentials);
        let client = connect(&Source::Files(credentials)).await?;
        let network = Network::open(NetworkConfig {
            claims: Some(client.clone()),
            ..NetworkConfig::new(&settings.node_name, &layout.data, &layout.run)
        })
        .await?;
        let stop = CancellationToken::new();
        let services =
            tokio::spawn(run_services(client.clone(), network.clone(), stop.clone().cancelled_owned()));
        let node = catamaran_agent::run(config, client, Arc::new(OnThisNode(network)), stop.clone());
        let outcome = tokio::select! {
            () = stop_signal() => Ok(()),
            ended = node => ended.map_err(Into::into),
            ended = services => Err(format!("following Services ended by itself: {ended:?}").into()),
        };
        stop.cancel();
        outcome
    }
}

fn credentials(layout: &Layout, settings: &Settings) -> Result<Credentials, http::uri::InvalidUri> {
    let pki = layout.agent_pki();
    Ok(Credentials {
        server: settings.api_url().parse()?,
        ca: pki.join("ca.crt"),
        certificate: pki.join("agent.crt"),
        key: pki.join("agent.key"),
    })
}

fn config(layout: &Layout, settings: &Settings, credentials: &Credentials) -> AgentConfig {
    let mut insecure_registries = settings.insecure_registries.clone();
    insecure_registries.push(format!("localhost:{}", settings.registry_port));
    AgentConfig {
        node_name: settings.node_name.clone(),
        node_address: NODE_ADDRESS,
        data_dir: layout.data.clone(),
        run_dir: layout.run.clone(),
        pod_logs: layout.pod_logs(),
        executable: "/proc/self/exe".into(),
        cluster_dns: CLUSTER_DNS,
        cluster_domain: "cluster.local".to_owned(),
        cluster_ranges: vec!["10.128.0.0/10".to_owned(), "10.96.0.0/16".to_owned()],
        insecure_registries,
        endpoint: Some(EndpointConfig {
            listen: vec![(NODE_ADDRESS, PORT).into()],
            certificate: credentials.certificate.clone(),
            key: credentials.key.clone(),
            client_ca: credentials.ca.clone(),
        }),
        max_pods: MAX_PODS,
    }
}
