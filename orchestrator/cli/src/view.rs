//! What `status` prints and what `up` shows until Ctrl-C: parts, nodes, pods.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::layout::Layout;
use crate::supervise::{PARTS, process};

const REFRESH: Duration = Duration::from_secs(1);

/// Redraws the status every second until Ctrl-C.
pub(crate) async fn live(layout: &Layout, cluster: &Cluster) {
    let stop = tokio::signal::ctrl_c();
    let mut stop = std::pin::pin!(stop);
    let mut lines = 0;
    loop {
        let text = text(layout, Some(cluster)).await;
        let up = if lines > 0 { format!("\x1b[{lines}A\x1b[J") } else { String::new() };
        lines = text.lines().count();
        print!("{up}{text}");
        // A closed terminal ends the display with the next signal; the cluster is not concerned.
        let _ = std::io::stdout().flush();
        tokio::select! {
            _ = &mut stop => return,
            () = sleep(REFRESH) => {}
        }
    }
}

/// The whole status as text.
pub(crate) async fn text(layout: &Layout, cluster: Option<&Cluster>) -> String {
    let mut text = String::new();
    for part in std::iter::once("supervisor").chain(PARTS.iter().map(|part| part.name)) {
        let there = process::read(&layout.process_file(part)).filter(|identity| identity.is_alive());
        let state =
            there.map_or_else(|| "not running".to_owned(), |i| format!("running (process {})", i.pid));
        let _ = writeln!(text, "  {part:<12} {state}");
    }
    if let Some(cluster) = cluster {
        let nodes = cluster.get("/api/v1/nodes").await;
        let pods = cluster.get("/api/v1/pods").await;
        match (nodes, pods) {
            (Ok(nodes), Ok(pods)) => text.push_str(&summary(&nodes, &pods)),
            (Err(error), _) | (_, Err(error)) => {
                let _ = writeln!(text, "  {}", crate::cluster::chain(&error));
            }
        }
    }
    text
}

/// Nodes by readiness, pods by phase.
fn summary(nodes: &Value, pods: &Value) -> String {
    let items = |list: &Value| list["items"].as_array().cloned().unwrap_or_default();
    let ready = |object: &Value| {
        let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let nodes = items(nodes);
    let pods = items(pods);
    let ready_nodes = nodes.iter().filter(|node| ready(node)).count();
    let ready_pods = pods.iter().filter(|pod| ready(pod)).count();
    let done = pods.iter().filter(|pod| pod["status"]["phase"] == "Succeeded").count();
    format!(
        "  nodes        {ready_nodes} of {} Ready\n  pods         {ready_pods} of {} ready, {done} completed\n",
        nodes.len(),
        pods.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_summary_counts_what_is_ready() {
        let yes = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let no =
            json!({"status": {"conditions": [{"type": "Ready", "status": "False"}], "phase": "Succeeded"}});
        let text = summary(&json!({"items": [yes, no]}), &json!({"items": [no, yes, yes]}));
        assert!(text.contains("1 of 2 Ready") && text.contains("2 of 3 ready, 1 completed"), "{text}");
    }
}
