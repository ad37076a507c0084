//! The demo: the same program as a wasm component and as a container behind one Service.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;

use crate::cluster::{self, Cluster, ClusterError};
use crate::images::{PushError, Pusher};
use crate::layout::{Layout, Settings};
use crate::progress::step;

const WASM: &[u8] = include_bytes!("../../../samples/hello/prebuilt/hello.wasm");
const PROGRAM: &[u8] = include_bytes!("../../../samples/hello/prebuilt/hello-container");
const MANIFEST: &str = include_str!("../../../samples/hello/manifest.yaml");
const WAIT: Duration = Duration::from_secs(120);

/// Why the demo does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    #[error("the sample images could not be pushed")]
    Push(#[from] PushError),
    #[error("the samples do not run")]
    Cluster(#[from] ClusterError),
}

/// Pushes the sample both ways, applies its manifest, waits for both Deployments. Returns the URL. When the samples
/// were there before, in kept data, their containers must have been started after `since`.
pub(crate) async fn run(
    cluster: &Cluster,
    settings: &Settings,
    since: Option<Timestamp>,
) -> Result<String, DemoError> {
    let pusher = Pusher::local(settings.registry_port);
    step("push hello-wasm (a WebAssembly component)", pusher.wasm("hello-wasm:1", Bytes::from_static(WASM)))
        .await?;
    step("push hello-container (a static program)", pusher.program("hello-container:1", "hello", PROGRAM))
        .await?;
    let manifest = MANIFEST.replace("localhost:5000", &format!("localhost:{}", settings.registry_port));
    step("apply samples/hello/manifest.yaml", cluster.apply("samples/hello/manifest.yaml", &manifest))
        .await?;
    for kind in ["wasm", "container"] {
        step(&format!("wait for deployment hello-{kind}"), available(cluster, kind, since)).await?;
    }
    let service = cluster.get("/api/v1/namespaces/default/services/hello").await?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or_default();
    Ok(format!("http://127.0.0.1:{port}/"))
}

async fn available(cluster: &Cluster, kind: &str, since: Option<Timestamp>) -> Result<(), ClusterError> {
    let what = format!("deployment hello-{kind}");
    let path = format!("/apis/apps/v1/namespaces/default/deployments/hello-{kind}");
    let deployment = cluster.wait(&what, &path, WAIT, cluster::is_available).await?;
    if let Some(since) = since {
        let path = format!("/api/v1/namespaces/default/pods?labelSelector=kind%3D{kind}");
        let enough = |pods: &Value| started_since(pods, since) >= cluster::wanted(&deployment);
        cluster.wait(&what, &path, WAIT, enough).await?;
    }
    Ok(())
}

/// How many Ready pods have been started since. Times of containers are written in whole seconds.
fn started_since(pods: &Value, since: Timestamp) -> u64 {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let is_new = |container: &Value| {
        let started = cluster::time(&container["state"]["running"]["startedAt"]);
        started.is_some_and(|started| started.as_second() >= since.as_second())
    };
    let counts = |pod: &Value| {
        let status = &pod["status"];
        list(&status["conditions"]).iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
            && list(&status["containerStatuses"]).iter().all(is_new)
    };
    list(&pods["items"]).iter().filter(|pod| counts(pod)).count() as u64
}

/// What to try next.
pub(crate) fn advice(layout: &Layout, url: &str) -> String {
    format!(
        "
  The same program answers as a WebAssembly component and as a container:

      {url}

  export KUBECONFIG={kubeconfig}

  Try:
      for i in 1 2 3 4 5 6; do curl -s {url}; done
      kubectl get pods -o wide
      kubectl scale deployment hello-wasm --replicas=10
",
        kubeconfig = layout.kubeconfig().display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_of_before_do_not_count() {
        let pod = |ready: &str, at: &str| {
            json!({"status": {
                "conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": [{"state": {"running": {"startedAt": at}}}],
            }})
        };
        let (old, new) = ("2026-01-02T03:04:04Z", "2026-01-02T03:04:05Z");
        let pods = json!({"items": [pod("True", old), pod("False", new), pod("True", new)]});
        assert_eq!(started_since(&pods, "2026-01-02T03:04:05.9Z".parse().unwrap()), 1);
        assert_eq!(started_since(&json!({}), Timestamp::UNIX_EPOCH), 0);
    }
}
