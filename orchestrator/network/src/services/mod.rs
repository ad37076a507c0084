//! Services and their endpoints as rules of the kernel.

pub(crate) mod apply;
pub mod elements;
pub mod plan;
pub(crate) mod rules;

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use kube::Client;
use tracing::Instrument;

use crate::attach::Network;
use crate::observe;

/// How often it is looked whether the rules are still there.
const CHECK: Duration = Duration::from_secs(10);

/// Keeps the rules of every namespace of `network` in step with the Services and EndpointSlices of the
/// cluster until `stop` ends. The rules stay when it returns: a restart interrupts no traffic.
pub async fn run_services(client: Client, network: Network, stop: impl Future<Output = ()>) {
    let checks = async {
        loop {
            tokio::time::sleep(CHECK).await;
            if let Err(error) = network.repair_rules().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "Service rules cannot be repaired");
            }
        }
    };
    let follow = observe::follow(client, stop, async |objects, round| {
        let span = tracing::info_span!("services", changed = round.changed.len());
        let plan = |name: &crate::model::Name| {
            let service = objects.service(name);
            let routes = service.map(|s| plan::service(s, objects.slices(name), network.node_name()));
            (name.clone(), routes.unwrap_or_default())
        };
        let services = span.in_scope(|| {
            let _plan = tracing::debug_span!("plan").entered();
            round.changed.iter().map(plan).collect()
        });
        let apply = network.update_rules(services, round.revision).instrument(span);
        if let Err(error) = apply.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "Service rules cannot be set");
        }
    });
    let (checks, follow) = (pin!(checks), pin!(follow));
    futures::future::select(checks, follow).await;
}
