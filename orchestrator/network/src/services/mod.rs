//! Services and their endpoints as rules of the kernel.

pub(crate) mod apply;
pub mod desired;
pub mod elements;
pub mod plan;
pub mod ports;
pub(crate) mod rules;

use std::future::Future;
use std::time::Duration;

use futures::future::BoxFuture;
use kube::Client;
use tokio::time::MissedTickBehavior;
use tracing::Instrument;

use crate::attach::Network;
use crate::model::Name;
use crate::observe::{Follower, Objects, Round};
use elements::{Frontend, Route};

/// How often it is looked whether the rules are still there.
const CHECK: Duration = Duration::from_secs(10);

/// Keeps the rules of every namespace of `network` in step with the Services and EndpointSlices of the
/// cluster until `stop` ends. The rules stay when it returns: a restart interrupts no traffic.
///
/// Boxed here: the future is then compiled in this crate, and not once more in the binary that awaits it.
pub fn run_services(
    client: Client,
    network: Network,
    stop: impl Future<Output = ()> + Send + 'static,
) -> BoxFuture<'static, ()> {
    boxed(client, network, Box::pin(stop))
}

fn boxed(client: Client, network: Network, stop: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
    Box::pin(follow(client, network, stop))
}

async fn follow(client: Client, network: Network, mut stop: BoxFuture<'static, ()>) {
    let mut follower = Follower::new(&client);
    let mut checks = tokio::time::interval(CHECK);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let round = tokio::select! {
            () = &mut stop => return,
            _ = checks.tick() => {
                if let Err(error) = network.repair_rules().await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "Service rules cannot be mended");
                }
                continue;
            }
            round = follower.next() => round,
        };
        let Some(round) = round else { return };
        let span = tracing::info_span!("services", changed = round.changed.len());
        let services = span.in_scope(|| plan_round(&round, follower.objects(), network.node_name()));
        if let Err(error) = network.update_rules(services, round.revision).instrument(span).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "Service rules cannot be set");
        }
    }
}

/// The routes of every Service that changed; none for one that is gone.
#[tracing::instrument(name = "plan", level = "debug", skip_all)]
fn plan_round(round: &Round, objects: &Objects, node: &str) -> Vec<(Name, Vec<(Frontend, Route)>)> {
    let plan = |name: &Name| {
        let service = objects.service(name);
        let routes = service.map(|service| plan::service(service, objects.slices(name), node));
        (name.clone(), routes.unwrap_or_default())
    };
    round.changed.iter().map(plan).collect()
}
