//! Figures: `/metrics` and below it for Prometheus, `/stats/summary` for the metrics API, `/pods`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use catamaran_task::status::ContainerStats;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::context::Context;
use crate::members::{name, namespace, uid};
use crate::record::parse_container_id;
use crate::serve::exposition::{self, Measured};
use crate::serve::machine;

/// Figures of all containers of this node, with their pods.
async fn figures(context: &Context) -> Vec<(Arc<Pod>, String, ContainerStats)> {
    let pods: BTreeMap<String, Arc<Pod>> =
        context.roster.all().into_iter().map(|pod| (uid(&pod).to_owned(), pod)).collect();
    let mut figures = Vec::new();
    for shim in context.shims.known().await {
        for stats in shim.stats(&[]).await.unwrap_or_default() {
            let Some((uid, container, _)) = parse_container_id(&stats.id) else { continue };
            if let Some(pod) = pods.get(uid) {
                figures.push((pod.clone(), container.to_owned(), stats.clone()));
            }
        }
    }
    figures
}

pub(super) async fn pods(State(context): State<Arc<Context>>) -> impl IntoResponse {
    let items: Vec<Value> = context.roster.all().iter().map(|pod| json!(**pod)).collect();
    as_json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

fn as_json(value: &Value) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string())
}

pub(super) async fn metrics(State(context): State<Arc<Context>>) -> impl IntoResponse {
    let containers = measured(&context).await;
    let mut text = exposition::resource(&containers, None);
    exposition::kubelet(&mut text, context.roster.all().len());
    as_text(text)
}

/// `/metrics/resource`: the few figures that autoscaling rests on.
pub(super) async fn resource(State(context): State<Arc<Context>>) -> impl IntoResponse {
    let containers = measured(&context).await;
    as_text(exposition::resource(&containers, machine::usage().as_ref()))
}

/// `/metrics/cadvisor`: the same under the names and labels that dashboards know.
pub(super) async fn cadvisor(State(context): State<Arc<Context>>) -> impl IntoResponse {
    let containers = measured(&context).await;
    as_text(exposition::cadvisor(&containers, machine::size().as_ref()))
}

fn as_text(text: String) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn measured(context: &Context) -> Vec<Measured> {
    let all = figures(context).await.into_iter();
    all.map(|(pod, container, stats)| Measured {
        namespace: namespace(&pod).to_owned(),
        pod: name(&pod).to_owned(),
        image: image(&pod, &container),
        started: started(&pod, &container),
        container,
        stats,
    })
    .collect()
}

/// The image that the pod asks for.
fn image(pod: &Pod, container: &str) -> String {
    let Some(spec) = &pod.spec else { return String::new() };
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let image = all.filter(|one| one.name == container).find_map(|one| one.image.clone());
    image.unwrap_or_default()
}

/// When the container began to run, as far as it was reported.
fn started(pod: &Pod, container: &str) -> Option<i64> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let state = all.filter(|one| one.name == container).find_map(|one| one.state.as_ref())?;
    Some(state.running.as_ref()?.started_at.as_ref()?.0.as_second())
}

pub(super) async fn summary(State(context): State<Arc<Context>>) -> impl IntoResponse {
    let now = catamaran_api::time::format(Timestamp::now());
    let part = |cpu_ns: u64, bytes: u64| {
        json!({
            "cpu": {"time": now, "usageCoreNanoSeconds": cpu_ns},
            "memory": {"time": now, "workingSetBytes": bytes},
        })
    };
    let mut by_pod: BTreeMap<String, (Arc<Pod>, Vec<Value>)> = BTreeMap::new();
    for (pod, container, stats) in figures(&context).await {
        let entry = by_pod.entry(uid(&pod).to_owned()).or_insert_with(|| (pod.clone(), Vec::new()));
        let mut figures = part(stats.cpu_ns, stats.working_set_bytes);
        figures["name"] = container.into();
        entry.1.push(figures);
    }
    let pods: Vec<Value> = by_pod
        .into_values()
        .map(|(pod, containers)| {
            json!({"podRef": {"name": name(&pod), "namespace": namespace(&pod), "uid": uid(&pod)},
                "containers": containers})
        })
        .collect();
    let mut node = machine::usage().map_or_else(|| json!({}), |used| part(used.cpu_ns, used.memory_bytes));
    node["nodeName"] = context.config.node_name.clone().into();
    as_json(&json!({"node": node, "pods": pods}))
}
