//! `metrics.k8s.io`: what nodes and pods use, from the agents' figures. Figures are fetched when somebody asks and
//! those at hand are older than a few seconds; while nobody asks, nothing runs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use http::Request;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use catamaran_api::kind;
use catamaran_api::meta;
use catamaran_api::status::{GroupResource, Status};
use catamaran_store::Range;

use crate::agent::AgentAddress;
use crate::core::Core;
use crate::subresources::streams;
use crate::{body, encode, error, keys};

mod answer;
mod sample;

pub(crate) use answer::serve;
use sample::{History, Sample};

/// The API group.
pub(crate) const GROUP: &str = "metrics.k8s.io";
/// Figures younger than this are not fetched again.
const FRESH: SignedDuration = SignedDuration::from_secs(10);
/// Figures older than this say nothing about the present.
const STALE: SignedDuration = SignedDuration::from_secs(120);
/// The time between two samples when there was none before.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
/// Agents that are asked at one time.
const AT_ONCE: usize = 8;
/// How long an agent may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer of an agent: some hundred bytes for each of many thousand pods.
const LONGEST: usize = 64 * 1024 * 1024;

/// The last figures of every node.
#[derive(Default)]
pub(crate) struct Usage {
    nodes: Mutex<HashMap<String, History>>,
    /// Whoever asks while somebody fetches waits for that.
    fetching: tokio::sync::Mutex<()>,
}

impl Usage {
    fn nodes(&self) -> std::sync::MutexGuard<'_, HashMap<String, History>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings the figures up to date. Nodes that do not answer keep what is known of them for a while.
async fn refresh(core: &Core) -> Result<(), Status> {
    let _turn = core.usage.fetching.lock().await;
    let agents = agents(core).await?;
    let now = Timestamp::now();
    {
        let mut nodes = core.usage.nodes();
        nodes.retain(|name, _| agents.iter().any(|agent| agent.node == *name));
        nodes.values_mut().for_each(|history| history.forget(now - STALE));
    }
    fetch(core, &agents, |history| history.is_none_or(|history| history.newest() < now - FRESH)).await;
    let unpaired = |history: Option<&History>| history.is_some_and(|history| !history.has_window());
    if core.usage.nodes().values().any(|history| unpaired(Some(history))) {
        sleep(FIRST_WINDOW).await;
        fetch(core, &agents, unpaired).await;
    }
    Ok(())
}

/// The agents of all nodes that say where they are.
async fn agents(core: &Core) -> Result<Vec<AgentAddress>, Status> {
    let Some(nodes) = kind::find("", "v1", "nodes") else { return Ok(Vec::new()) };
    let range = Range { prefix: keys::all(nodes), ..Range::default() };
    let page = core.store.range(range).await;
    let page = page.map_err(|error| error::from_store(error, GroupResource::new("", "nodes"), ""))?;
    let address = |object: &Value| {
        Some(AgentAddress { node: meta::name(object).to_owned(), address: streams::address_of(object)? })
    };
    let objects =
        page.entries.iter().filter_map(|entry| encode::decode(&entry.value, entry.mod_revision).ok());
    Ok(objects.filter_map(|object| address(&object)).collect())
}

/// Asks those agents of whose node `wanted` holds, a few at a time.
async fn fetch(core: &Core, agents: &[AgentAddress], wanted: impl Fn(Option<&History>) -> bool) {
    let chosen: Vec<AgentAddress> = {
        let nodes = core.usage.nodes();
        agents.iter().filter(|agent| wanted(nodes.get(&agent.node))).cloned().collect()
    };
    let mut answers = futures::stream::iter(chosen)
        .map(|agent| async move {
            let answer = ask(core, &agent).await;
            (agent, answer)
        })
        .buffer_unordered(AT_ONCE);
    while let Some((agent, answer)) = answers.next().await {
        match answer {
            Ok(sample) => {
                let mut nodes = core.usage.nodes();
                nodes.entry(agent.node.clone()).or_default().push(sample);
            }
            Err(why) => tracing::debug!(node = agent.node, why, "no figures"),
        }
    }
}

async fn ask(core: &Core, agent: &AgentAddress) -> Result<Sample, String> {
    let request = Request::get("/stats/summary").body(body::empty()).map_err(|error| error.to_string())?;
    let answer = async {
        let response = core.agents.forward(agent, request, None).await.map_err(|status| status.message)?;
        if !response.status().is_success() {
            return Err(format!("the agent answers {}", response.status()));
        }
        body::read_up_to(response.into_body(), LONGEST).await.map_err(|status| status.message)
    };
    let bytes = timeout(PATIENCE, answer).await.map_err(|_| "the agent does not answer".to_owned())??;
    let summary: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    Ok(Sample::read(&summary, Timestamp::now()))
}
