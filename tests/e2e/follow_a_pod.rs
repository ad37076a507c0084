//! The spans of a Deployment's way to a running pod come in the order that ARCHITECTURE.md tells.

use std::fs;
use std::path::Path;
use std::time::Duration;

use catamaran_tests::cluster::{Cluster, Demo};
use catamaran_tests::images;
use catamaran_tests::wait::until;
use serde_json::Value;

const IMAGE: &str = "localhost:5000/follow:1";
const DEPLOYMENT: &str = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: follow}, spec: {selector: {matchLabels: {app: follow}}, template: {metadata: {labels: {app: follow}}, spec: {containers: [{name: c, image: 'localhost:5000/follow:1', ports: [{containerPort: 8080}]}]}}}}";

/// One span that some process opened.
#[derive(Debug)]
struct Span {
    name: String,
    at_us: u64,
    fields: Value,
}

/// Applies a Deployment, collects the spans of all processes, and looks for each step of the table after the one
/// before it.
pub(crate) fn in_the_order_that_the_architecture_tells() {
    let spans = tempfile::NamedTempFile::new().unwrap();
    let cluster = Cluster::up_with(Demo::Without, &[], &[("CATAMARAN_SPANS", spans.path())]);
    let wasm = include_bytes!("../../samples/hello/prebuilt/hello.wasm");
    images::push_wasm(IMAGE, bytes::Bytes::from_static(wasm));
    let before = collect(spans.path()).last().map_or(0, |span| span.at_us);
    cluster.kubectl.apply(DEPLOYMENT);
    cluster.wait_available("follow");
    let pod =
        cluster.kubectl.ok(&["get", "pods", "-l", "app=follow", "-o", "jsonpath={.items[*].metadata.name}"]);
    let steps = steps_told();
    assert!(steps.len() >= 13, "the table has its steps: {steps:?}");
    until("the way of the pod", Duration::from_secs(10), || {
        let mut seen = collect(spans.path());
        seen.retain(|span| span.at_us > before);
        follow(&seen, &steps, &pod)
    });
    let mut backwards = steps.clone();
    backwards.reverse();
    let mut seen = collect(spans.path());
    seen.retain(|span| span.at_us > before);
    assert!(follow(&seen, &backwards, &pod).is_err(), "any order would pass");
}

/// The names in the last column of the table 'Follow a pod', in its order.
fn steps_told() -> Vec<String> {
    let text = include_str!("../../ARCHITECTURE.md");
    let table = text.split("## Follow a pod").nth(1).expect("the chapter is there");
    let table = table.split("\n## ").next().unwrap_or(table);
    let last =
        |line: &str| line.trim_end_matches(" |").rsplit('|').next().unwrap_or_default().trim().to_owned();
    let rows = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| #")).map(last);
    rows.filter_map(|cell| Some(cell.strip_prefix('`')?.strip_suffix('`')?.to_owned())).collect()
}

fn collect(file: &Path) -> Vec<Span> {
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut spans: Vec<_> = lines
        .map(|line| Span {
            name: line["span"].as_str().unwrap_or_default().to_owned(),
            at_us: line["at_us"].as_u64().unwrap_or_default(),
            fields: line["fields"].clone(),
        })
        .collect();
    spans.sort_by_key(|span| span.at_us);
    spans
}

/// Finds every step after the one before it.
fn follow(spans: &[Span], steps: &[String], pod: &str) -> Result<(), String> {
    let mut from = 0;
    for (done, step) in steps.iter().enumerate() {
        let found = spans[from..].iter().position(|span| span.name == *step && concerns(span, pod));
        from += found.ok_or_else(|| format!("no span {step:?} after {:?}", &steps[..done]))? + 1;
    }
    Ok(())
}

/// Whether a span that says what it is about is about this Deployment or its pod.
fn concerns(span: &Span, pod: &str) -> bool {
    let is =
        |field: &str, wanted: &str| span.fields[field].as_str().is_some_and(|text| text.contains(wanted));
    match span.name.as_str() {
        "request" => is("path", "/namespaces/default/deployments") && is("method", "P"),
        "reconcile" => is("key", "follow"),
        "place" => is("pod", "follow-"),
        "bind" => span.fields["pod"].is_null() || is("pod", pod),
        "pod" => is("name", pod),
        _ => true,
    }
}
