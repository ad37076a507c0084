//! The demo: the same program as a wasm component and as a container behind one Service.

use std::time::Duration;

use bytes::Bytes;

use crate::cluster::{Cluster, ClusterError};
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

/// Pushes the sample both ways, applies its manifest, waits for both Deployments. Returns the URL.
pub(crate) async fn run(cluster: &Cluster, settings: &Settings) -> Result<String, DemoError> {
    let pusher = Pusher::local(settings.registry_port);
    step("push hello-wasm (a WebAssembly component)", pusher.wasm("hello-wasm:1", Bytes::from_static(WASM)))
        .await?;
    step("push hello-container (a static program)", pusher.program("hello-container:1", "hello", PROGRAM))
        .await?;
    let manifest = MANIFEST.replace("localhost:5000", &format!("localhost:{}", settings.registry_port));
    step("apply samples/hello/manifest.yaml", cluster.apply("samples/hello/manifest.yaml", &manifest))
        .await?;
    for name in ["hello-wasm", "hello-container"] {
        let path = format!("/apis/apps/v1/namespaces/default/deployments/{name}");
        let what = format!("deployment {name}");
        step(&format!("wait for {what}"), cluster.wait(&what, &path, WAIT, is_available)).await?;
    }
    let service = cluster.get("/api/v1/namespaces/default/services/hello").await?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or_default();
    Ok(format!("http://127.0.0.1:{port}/"))
}

/// Every wanted replica is updated and available.
fn is_available(deployment: &serde_json::Value) -> bool {
    let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
    let status = &deployment["status"];
    let seen = status["observedGeneration"].as_u64() >= deployment["metadata"]["generation"].as_u64();
    let count = |field: &str| status[field].as_u64().unwrap_or(0);
    seen && count("availableReplicas") >= wanted && count("updatedReplicas") >= wanted
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
