//! Pushing images: a wasm file as the CNCF wasm artifact, one static program as an OCI image of one
//! layer, or an OCI layout directory as it is.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::{OciImageManifest, OciManifest};
use oci_client::{Client, Reference};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Media types of the CNCF wasm OCI artifact layout.
const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
const WASM_LAYER: &str = "application/wasm";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Why an image could not be pushed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    #[error("cannot read {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{0} is not WebAssembly: it does not start with \\0asm; `push --oci-layout` takes container images"
    )]
    NotWasm(String),
    #[error("{name:?} is not an image name; use NAME or NAME:TAG, in lower case")]
    Name {
        name: String,
        #[source]
        source: oci_client::ParseError,
    },
    #[error("{path} is not an OCI layout: {reason}")]
    Layout { path: String, reason: String },
    #[error("the registry did not take {image}")]
    Registry {
        image: String,
        #[source]
        source: oci_client::errors::OciDistributionError,
    },
}

/// A registry on loopback that takes images.
pub(crate) struct Pusher {
    client: Client,
    registry: String,
}

// === impl Pusher ===

impl Pusher {
    /// The built-in registry of the cluster on this machine.
    pub(crate) fn local(port: u16) -> Self {
        let config = ClientConfig {
            protocol: ClientProtocol::Http,
            use_monolithic_push: true,
            ..ClientConfig::default()
        };
        Pusher { client: Client::new(config), registry: format!("localhost:{port}") }
    }

    /// `NAME[:TAG]` in this registry.
    pub(crate) fn reference(&self, name: &str) -> Result<Reference, PushError> {
        let whole = format!("{}/{name}", self.registry);
        whole.parse().map_err(|source| PushError::Name { name: name.to_owned(), source })
    }

    /// Pushes a wasm module or component. Returns the manifest's digest.
    pub(crate) async fn wasm(&self, name: &str, wasm: Bytes) -> Result<String, PushError> {
        if !wasm.starts_with(b"\0asm") {
            return Err(PushError::NotWasm(name.to_owned()));
        }
        let config = Config::new(bytes_of(&wasm_config(&wasm)), WASM_CONFIG.to_owned(), None);
        self.push(name, config, vec![ImageLayer::new(wasm, WASM_LAYER.to_owned(), None)]).await
    }

    /// Pushes a static program as an image whose only file it is.
    pub(crate) async fn program(&self, name: &str, file: &str, program: &[u8]) -> Result<String, PushError> {
        let layer = tar_of(file, program);
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": { "Entrypoint": [format!("/{file}")], "Env": ["PATH=/"], "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        });
        let config = Config::new(bytes_of(&config), OCI_CONFIG.to_owned(), None);
        self.push(name, config, vec![ImageLayer::new(layer, OCI_LAYER.to_owned(), None)]).await
    }

    /// Pushes the first image of an OCI layout directory.
    pub(crate) async fn layout(&self, name: &str, directory: &Path) -> Result<String, PushError> {
        let reference = self.reference(name)?;
        let layout = Layout { directory };
        let index = layout.json("index.json")?;
        let manifest = layout.blob(&index["manifests"][0]["digest"])?;
        let parsed: Value = serde_json::from_slice(&manifest).map_err(|e| layout.bad(e))?;
        let blobs = parsed["layers"].as_array().into_iter().flatten().chain([&parsed["config"]]);
        for blob in blobs {
            let content = layout.blob(&blob["digest"])?;
            let digest = blob["digest"].as_str().unwrap_or_default();
            let pushed = self.client.push_blob(&reference, content, digest).await;
            pushed.map_err(|source| refused(&reference, source))?;
        }
        let media = parsed["mediaType"].as_str().unwrap_or(OCI_MANIFEST);
        let media = media.parse().map_err(|_| layout.bad("its manifest has no valid media type"))?;
        let pushed = self.client.push_manifest_raw(&reference, manifest.clone(), media).await;
        pushed.map_err(|source| refused(&reference, source))?;
        Ok(digest(&manifest))
    }

    async fn push(&self, name: &str, config: Config, layers: Vec<ImageLayer>) -> Result<String, PushError> {
        let reference = self.reference(name)?;
        let manifest = OciImageManifest::build(&layers, &config, None::<BTreeMap<String, String>>);
        // Sent as the bytes that the digest is of: a client that writes the manifest itself may write others.
        let manifest = bytes_of(&OciManifest::Image(manifest));
        let layers = layers.into_iter().map(|layer| layer.data);
        for content in layers.chain([config.data]) {
            let of = digest(&content);
            let pushed = self.client.push_blob(&reference, content, &of).await;
            pushed.map_err(|source| refused(&reference, source))?;
        }
        let media = OCI_MANIFEST.parse().expect("a constant media type is valid");
        let pushed = self.client.push_manifest_raw(&reference, manifest.clone(), media).await;
        pushed.map_err(|source| refused(&reference, source))?;
        Ok(digest(&manifest))
    }
}

fn refused(reference: &Reference, source: oci_client::errors::OciDistributionError) -> PushError {
    PushError::Registry { image: reference.to_string(), source }
}

/// The config of the CNCF wasm artifact: modules are `wasip1`, components `wasip2` (tools write
/// that for 0.3 components too; hosts look into the binary).
fn wasm_config(wasm: &[u8]) -> Value {
    let component = wasm.get(4..8) == Some(&[0x0d, 0, 1, 0]);
    let os = if component { "wasip2" } else { "wasip1" };
    json!({ "architecture": "wasm", "os": os, "layerDigests": [digest(wasm)] })
}

fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn bytes_of(value: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(value).expect("plain data becomes JSON").into()
}

/// A tar archive of one executable file, the same bytes each time.
fn tar_of(name: &str, content: &[u8]) -> Bytes {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append_data(&mut header, name, content)
        .and_then(|()| archive.into_inner())
        .expect("writing to memory does not fail")
        .into()
}

struct Layout<'a> {
    directory: &'a Path,
}

impl Layout<'_> {
    fn bad(&self, reason: impl ToString) -> PushError {
        PushError::Layout { path: self.directory.display().to_string(), reason: reason.to_string() }
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, PushError> {
        let path = self.directory.join(path);
        std::fs::read(&path).map_err(|source| PushError::Read { path: path.display().to_string(), source })
    }

    fn json(&self, path: &str) -> Result<Value, PushError> {
        serde_json::from_slice(&self.read(path)?).map_err(|e| self.bad(e))
    }

    fn blob(&self, digest_value: &Value) -> Result<Bytes, PushError> {
        let wanted = digest_value.as_str().unwrap_or_default();
        let hex = wanted.strip_prefix("sha256:").filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let hex = hex.ok_or_else(|| self.bad(format!("{wanted:?} is not a sha256 digest")))?;
        let content = self.read(&format!("blobs/sha256/{hex}"))?;
        if digest(&content) != wanted {
            return Err(self.bad(format!("blob {wanted} has other contents than its name says")));
        }
        Ok(content.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_tells_modules_from_components() {
        assert_eq!(wasm_config(b"\0asm\x01\0\0\0")["os"], "wasip1");
        assert_eq!(wasm_config(b"\0asm\x0d\0\x01\0")["os"], "wasip2");
    }

    #[test]
    fn a_layer_is_the_same_bytes_each_time() {
        assert_eq!(digest(&tar_of("hello", b"x")), digest(&tar_of("hello", b"x")));
    }

    #[test]
    fn a_layout_with_a_false_blob_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout { directory: directory.path() };
        std::fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
        let name = digest(b"right");
        std::fs::write(directory.path().join("blobs/sha256").join(&name[7..]), b"wrong").unwrap();
        let error = layout.blob(&json!(name)).unwrap_err();
        assert!(error.to_string().contains("other contents"), "{error}");
        assert!(layout.blob(&json!("sha256:../../etc/passwd")).is_err());
    }
}
