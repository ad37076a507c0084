//! `catamaran image`: what the built-in registry and this node hold.

use clap::{Args, Subcommand};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use serde_json::Value;

use super::{DataDir, Outcome};
use crate::cluster::Cluster;
use crate::layout::Settings;

#[derive(Args)]
pub(crate) struct Image {
    #[command(flatten)]
    data: DataDir,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Images that this node has pulled
    Ls,
    /// Remove NAME:TAG from the built-in registry
    Rm {
        /// NAME[:TAG]
        name: String,
    },
}

impl Image {
    pub(crate) async fn run(self) -> Outcome {
        let layout = self.data.layout();
        let settings = Settings::load(&layout).ok_or("no cluster here: start one with `catamaran up`")?;
        match self.verb {
            Verb::Ls => {
                let cluster = Cluster::open(&layout.kubeconfig()).await?;
                let node = cluster.get(&format!("/api/v1/nodes/{}", settings.node_name)).await?;
                print!("{}", list(&node));
            }
            Verb::Rm { name } => {
                crate::authorities::provide(&layout)?;
                remove(&settings, &name).await?;
            }
        }
        Ok(())
    }
}

/// The node's images with their sizes.
fn list(node: &Value) -> String {
    let images = node["status"]["images"].as_array().into_iter().flatten();
    let line = |image: &Value| {
        let names: Vec<_> =
            image["names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let size = image["sizeBytes"].as_u64().unwrap_or_default();
        format!("{:>12}  {}\n", size, names.join("  "))
    };
    images.map(line).collect()
}

/// NAME[:TAG] in the built-in registry, with or without its host and port.
fn reference(settings: &Settings, name: &str) -> Result<Reference, String> {
    let first = name.split('/').next().unwrap_or_default();
    let has_registry = name.contains('/') && (first.contains([':', '.']) || first == "localhost");
    let whole =
        if has_registry { name.to_owned() } else { format!("localhost:{}/{name}", settings.registry_port) };
    let parsed: Reference = whole.parse().map_err(|e| format!("{name:?} is not an image name: {e}"))?;
    let built_in = ["localhost", "127.0.0.1"].map(|host| format!("{host}:{}", settings.registry_port));
    if !built_in.iter().any(|registry| registry == parsed.registry()) {
        return Err(format!(
            "{name} is in the registry {}; only images of the built-in one can be removed",
            parsed.registry()
        ));
    }
    Ok(parsed)
}

async fn digest_of(reference: &Reference) -> Result<String, oci_client::errors::OciDistributionError> {
    let protocol = oci_client::client::ClientProtocol::Http;
    let client = oci_client::Client::new(oci_client::client::ClientConfig { protocol, ..Default::default() });
    client.auth(reference, &RegistryAuth::Anonymous, RegistryOperation::Pull).await?;
    client.fetch_manifest_digest(reference, &RegistryAuth::Anonymous).await
}

/// Deletes the manifest by its digest, as the distribution specification wants it.
async fn remove(settings: &Settings, name: &str) -> Outcome {
    let reference = reference(settings, name)?;
    let digest = digest_of(&reference).await?;
    let url = format!(
        "http://127.0.0.1:{}/v2/{}/manifests/{digest}",
        settings.registry_port,
        reference.repository()
    );
    let connector = hyper_util::client::legacy::connect::HttpConnector::new();
    let client: hyper_util::client::legacy::Client<_, String> =
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build(connector);
    let request = http::Request::delete(url).body(String::new())?;
    let answer = client.request(request).await?;
    if !answer.status().is_success() {
        return Err(format!("the registry refused to remove {name}: {}", answer.status()).into());
    }
    println!("removed {name}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_registry_mean_the_built_in_one() {
        let settings = Settings {
            api_port: 1,
            registry_port: 5001,
            node_name: "n".to_owned(),
            insecure_registries: Vec::new(),
        };
        let whole = |name: &str| reference(&settings, name).unwrap().whole();
        assert_eq!(whole("hello:1"), "localhost:5001/hello:1");
        assert_eq!(whole("team/hello:1"), "localhost:5001/team/hello:1");
        assert_eq!(whole("127.0.0.1:5001/x:2"), "127.0.0.1:5001/x:2");
    }

    #[test]
    fn images_of_other_registries_are_refused() {
        let settings = Settings::of_port(1);
        for name in ["docker.io/x:1", "127.0.0.1:9/x:2", "localhost/x", "ghcr.io/team/x"] {
            assert!(reference(&settings, name).unwrap_err().contains("built-in"), "{name}");
        }
    }
}
