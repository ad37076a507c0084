//! `catamaran agent`: the node agent, a client of the API over mutual TLS.

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use catamaran_agent::{AgentConfig, EndpointConfig};
use catamaran_client::error::Chain;
use catamaran_client::{Credentials, Source, connect};
use catamaran_network::{Network, NetworkConfig, run_services};
use clap::Args;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

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
/// Pauses before the API is asked again for the node's address block: from the first doubling to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Waiting for the API is nothing to tell for this long: server and agent start together.
const PATIENCE: Duration = Duration::from_secs(10);

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
        let network = NetworkConfig {
            claims: Some(client.clone()),
            ..NetworkConfig::new(&settings.node_name, &layout.data, &layout.run)
        };
        let network = tokio::select! {
            () = stop_signal() => return Ok(()),
            opened = patiently(|| Network::open(network.clone())) => opened?,
        };
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

/// Tries again and again while it is the API that does not answer, or is not whole yet. What is wrong with this
/// machine is an error at once.
async fn patiently<T, E, F>(step: impl Fn() -> F) -> Result<T, E>
where
    E: Error + 'static,
    F: Future<Output = Result<T, E>>,
{
    let begun = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    loop {
        match step().await {
            Err(error) if is_of_the_api(&error) => {
                if !told && begun.elapsed() >= PATIENCE {
                    warn!(error = %Chain(&error), "the API does not answer yet; trying again");
                    told = true;
                }
            }
            outcome => return outcome,
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn is_of_the_api(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if current.is::<kube::Error>() {
            return true;
        }
        cause = current.source();
    }
    false
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
        cgroup: layout.cgroup(),
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the step failed")]
    struct Failed(#[source] Box<dyn Error>);

    fn failed(api: bool) -> Failed {
        let of_the_api = kube::Error::Service("connection refused".into());
        Failed(if api { of_the_api.into() } else { std::io::Error::other("no such device").into() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_not_up_yet_is_waited_for() {
        let (tries, begun) = (Cell::new(0), Instant::now());
        let outcome = patiently(|| async {
            tries.set(tries.get() + 1);
            if tries.get() < 8 { Err(failed(true)) } else { Ok(7) }
        })
        .await;
        assert_eq!(outcome.unwrap(), 7);
        // 20 ms doubling, none longer than a second.
        assert_eq!(begun.elapsed().as_millis(), 20 + 40 + 80 + 160 + 320 + 640 + 1000);
    }

    #[tokio::test]
    async fn what_is_wrong_here_is_told_at_once() {
        let tries = Cell::new(0);
        let outcome: Result<(), _> = patiently(|| async {
            tries.set(tries.get() + 1);
            Err(failed(false))
        })
        .await;
        assert_eq!((outcome.is_err(), tries.get()), (true, 1));
    }
}
