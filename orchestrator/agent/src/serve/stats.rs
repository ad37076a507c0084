//! Figures: `/metrics` for Prometheus, `/stats/summary` for the metrics API, `/pods`.

use std::collections::BTreeMap;
use std::fmt::Write;
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
    let mut text = String::from(
        "# HELP container_cpu_usage_seconds_total CPU time used.\n# TYPE container_cpu_usage_seconds_total counter\n",
    );
    let all = figures(&context).await;
    let labels = |pod: &Pod, container: &str| {
        format!("container={container:?},namespace={:?},pod={:?}", namespace(pod), name(pod))
    };
    // Writing to a string cannot fail.
    for (pod, container, stats) in &all {
        #[expect(
            clippy::cast_precision_loss,
            reason = "nanoseconds of CPU time stay far below 2^53 for months"
        )]
        let seconds = stats.cpu_ns as f64 / 1e9;
        let _ = writeln!(text, "container_cpu_usage_seconds_total{{{}}} {seconds}", labels(pod, container));
    }
    text.push_str("# HELP container_memory_working_set_bytes Memory in use.\n# TYPE container_memory_working_set_bytes gauge\n");
    for (pod, container, stats) in &all {
        let bytes = stats.working_set_bytes;
        let _ = writeln!(text, "container_memory_working_set_bytes{{{}}} {bytes}", labels(pod, container));
    }
    text.push_str("# HELP kubelet_running_pods Pods of this node.\n# TYPE kubelet_running_pods gauge\n");
    let _ = writeln!(text, "kubelet_running_pods {}", context.roster.all().len());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

pub(super) async fn summary(State(context): State<Arc<Context>>) -> impl IntoResponse {
    let now = catamaran_api::time::format(Timestamp::now());
    let mut by_pod: BTreeMap<String, (Arc<Pod>, Vec<Value>)> = BTreeMap::new();
    for (pod, container, stats) in figures(&context).await {
        let entry = by_pod.entry(uid(&pod).to_owned()).or_insert_with(|| (pod.clone(), Vec::new()));
        entry.1.push(json!({
            "name": container,
            "cpu": {"time": now, "usageCoreNanoSeconds": stats.cpu_ns},
            "memory": {"time": now, "workingSetBytes": stats.working_set_bytes},
        }));
    }
    let pods: Vec<Value> = by_pod
        .into_values()
        .map(|(pod, containers)| {
            json!({"podRef": {"name": name(&pod), "namespace": namespace(&pod), "uid": uid(&pod)},
                "containers": containers})
        })
        .collect();
    as_json(&json!({"node": {"nodeName": context.config.node_name}, "pods": pods}))
}
