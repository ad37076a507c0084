//! `catamaran dns`: cluster DNS on the node address.

use catamaran_client::{Credentials, Source, connect};
use catamaran_network::NetworkConfig;
use catamaran_network::dns::{DnsConfig, DnsSockets, Upstreams, run_dns};
use clap::Args;

use super::{DataDir, Outcome};
use crate::layout::{NODE_ADDRESS, Settings};
use crate::stop::stop_signal;
use crate::supervise::process;

#[derive(Args)]
pub(crate) struct Dns {
    #[command(flatten)]
    data: DataDir,
}

impl Dns {
    pub(crate) async fn run(self) -> Outcome {
        let layout = self.data.layout();
        let settings = Settings::load(&layout).ok_or("no cluster here: start one with `catamaran up`")?;
        let sockets = DnsSockets::bind(&[(NODE_ADDRESS, 53).into()])?;
        process::claim(&layout.process_file("dns"));
        let pki = layout.agent_pki();
        let credentials = Credentials {
            server: settings.api_url().parse()?,
            ca: pki.join("ca.crt"),
            certificate: pki.join("dns.crt"),
            key: pki.join("dns.key"),
        };
        crate::wait::for_files(&[&credentials.ca, &credentials.certificate, &credentials.key]).await;
        let client = connect(&Source::Files(credentials)).await?;
        let ranges = NetworkConfig::new(settings.node_name, &layout.data, &layout.run);
        let config = DnsConfig {
            client,
            sockets,
            domain: "cluster.local".to_owned(),
            pod_range: ranges.pod_range,
            service_range: ranges.service_range,
            upstreams: Upstreams::ResolvConf("/etc/resolv.conf".into()),
        };
        run_dns(config, stop_signal()).await?;
        Ok(())
    }
}
