//! Pulls one image: manifest, configuration, layers side by side, every byte checked against its digest while it
//! comes in; unpacks or compiles it; writes its name down last.

mod error;

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::try_join_all;
use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{OciDescriptor, OciImageManifest};
use serde_json::Value;
use tokio::sync::Semaphore;

pub(crate) use self::error::PullError;
use self::error::is_not_found;
use super::compile::Compiler;
use super::content::{Incoming, Store, digest_of};
use super::credentials::{Credentials, for_registry};
use super::detect::{self, DetectError, ImageKind, Layout, WasmKind};
use super::unpack::unpack;
use super::{Code, Image, ImageConfig, reference};
use crate::config::BUILT_IN_REGISTRIES;

/// Manifests and configurations are small; what is not is refused.
const LARGEST_DOCUMENT: i64 = 8 << 20;
/// Code of a wasm image.
const LARGEST_CODE: i64 = 512 << 20;
/// Blobs at a time, of all images together.
const BLOBS_AT_A_TIME: usize = 6;
/// Unpacking at a time: it is bound by the processor.
const UNPACK_AT_A_TIME: usize = 2;
/// Tries for a blob whose connection breaks.
const TRIES: u32 = 3;
const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Pulls images into a store.
pub(crate) struct Puller {
    store: Store,
    compiler: Compiler,
    client: Client,
    blobs: Semaphore,
    unpacking: Arc<Semaphore>,
}

fn store(error: io::Error) -> PullError {
    PullError::Store(Arc::new(error))
}

/// One image being pulled.
struct Pull<'a> {
    puller: &'a Puller,
    name: &'a str,
    reference: Reference,
}

struct Manifest {
    digest: String,
    document: OciImageManifest,
    config: Value,
    size: u64,
}

// === impl Puller ===

impl Puller {
    pub(crate) fn new(store: Store, compiler: Compiler, insecure: &[String]) -> Self {
        let plain =
            BUILT_IN_REGISTRIES.iter().map(|known| (*known).to_owned()).chain(insecure.iter().cloned());
        let config = ClientConfig {
            protocol: ClientProtocol::HttpsExcept(plain.collect()),
            connect_timeout: Some(Duration::from_secs(10)),
            read_timeout: Some(Duration::from_secs(60)),
            user_agent: concat!("catamaran/", env!("CARGO_PKG_VERSION")),
            platform_resolver: None,
            ..ClientConfig::default()
        };
        Puller {
            store,
            compiler,
            client: Client::new(config),
            blobs: Semaphore::new(BLOBS_AT_A_TIME),
            unpacking: Arc::new(Semaphore::new(UNPACK_AT_A_TIME)),
        }
    }

    /// Pulls the image of that whole name.
    pub(crate) async fn pull(&self, name: &str, credentials: &[Credentials]) -> Result<Image, PullError> {
        let pull = Pull { puller: self, name, reference: reference::parse(name)? };
        let manifest = pull.manifest(credentials).await?;
        let image = pull.content(manifest).await?;
        let (to_keep, kept) = (self.store.clone(), image.clone());
        let kept =
            tokio::task::spawn_blocking(move || to_keep.sync().and_then(|()| to_keep.remember(&kept))).await;
        kept.map_err(io::Error::other).and_then(|result| result).map_err(store)?;
        Ok(image)
    }
}

// === impl Pull ===

impl Pull<'_> {
    fn document(&self, why: impl ToString) -> PullError {
        PullError::Document { name: self.name.to_owned(), why: why.to_string() }
    }

    /// The manifest for this machine, through an index where there is one, and its configuration.
    async fn manifest(&self, credentials: &[Credentials]) -> Result<Manifest, PullError> {
        let (bytes, digest) = self.fetch_manifest(&self.reference, credentials).await?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| self.document(error))?;
        let (bytes, digest) = match value["manifests"].as_array() {
            None => (bytes, digest),
            Some(entries) => {
                let chosen = self.choose(entries)?;
                self.fetch_manifest(&self.reference.clone_with_digest(chosen), credentials).await?
            }
        };
        let document: OciImageManifest =
            serde_json::from_slice(&bytes).map_err(|error| self.document(error))?;
        let config = self.small_blob(&document.config).await?;
        // A wasm artifact may have an empty configuration, or one that is no image configuration.
        let config = serde_json::from_slice(&config).unwrap_or(Value::Null);
        let size = document.layers.iter().map(|layer| u64::try_from(layer.size).unwrap_or(0)).sum();
        let blob = self.puller.store.blob(&digest)?;
        crate::record::write_atomically(&blob, &bytes).map_err(store)?;
        Ok(Manifest { digest, document, config, size })
    }

    async fn fetch_manifest(
        &self,
        reference: &Reference,
        credentials: &[Credentials],
    ) -> Result<(Bytes, String), PullError> {
        let auth = for_registry(credentials, reference.registry());
        let pulled = self.puller.client.pull_manifest_raw(reference, &auth, &MANIFESTS).await;
        let (bytes, _) = pulled.map_err(|source| self.manifest_error(reference, source))?;
        let actual = digest_of(&bytes);
        match reference.digest() {
            Some(expected) if expected != actual => Err(PullError::WrongDigest {
                name: self.name.to_owned(),
                expected: expected.to_owned(),
                actual,
            }),
            _ => Ok((bytes, actual)),
        }
    }

    fn manifest_error(&self, reference: &Reference, source: OciDistributionError) -> PullError {
        if let (OciDistributionError::DigestError(_), Some(expected)) = (&source, reference.digest()) {
            return PullError::WrongDigest {
                name: self.name.to_owned(),
                expected: expected.to_owned(),
                actual: format!("something else ({source})"),
            };
        }
        if is_not_found(&source) {
            return PullError::NotFound(self.name.to_owned());
        }
        PullError::Manifest { name: self.name.to_owned(), source: Arc::new(source) }
    }

    fn choose(&self, entries: &[Value]) -> Result<String, PullError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rows: Vec<_> = entries
            .iter()
            .map(|entry| {
                let platform = &entry["platform"];
                (text(&platform["os"]), text(&platform["architecture"]), text(&entry["digest"]))
            })
            .collect();
        let borrowed = rows.iter().map(|(os, arch, digest)| (os.as_str(), arch.as_str(), digest.as_str()));
        let arch = detect::architecture();
        match detect::choose(borrowed, arch) {
            Some(digest) => Ok(digest.to_owned()),
            None => {
                let has: Vec<_> = rows.iter().map(|(os, arch, _)| format!("{os}/{arch}")).collect();
                Err(PullError::Platform { name: self.name.to_owned(), arch, has: has.join(", ") })
            }
        }
    }

    /// Layers or code, and all that is made of them.
    async fn content(&self, manifest: Manifest) -> Result<Image, PullError> {
        let document = &manifest.document;
        let types: Vec<&str> = document.layers.iter().map(|layer| layer.media_type.as_str()).collect();
        let variant = detect::variant(document.annotations.as_ref());
        let layout = detect::layout(&document.config.media_type, &types, variant, &manifest.config)
            .map_err(|source| self.detected(source))?;
        let (kind, layers, wasm) = match layout {
            Layout::Linux => (ImageKind::Linux, self.layers(&manifest).await?, None),
            Layout::WasmLayer { layer } => {
                let layer = &document.layers[layer];
                let place = self.puller.store.blob(&layer.digest)?;
                if !place.is_file() {
                    self.blob(layer, LARGEST_CODE).await?.place(&place).map_err(store)?;
                }
                let (kind, code) = self.code(place, &layer.digest).await?;
                (ImageKind::Wasm(kind), Vec::new(), Some(code))
            }
            Layout::WasmInArchive => {
                let layers = self.layers(&manifest).await?;
                let file =
                    detect::entrypoint_file(&manifest.config).unwrap_or_else(|| "plugin.wasm".to_owned());
                let artifact = find(&layers, &file)
                    .ok_or_else(|| self.document(format!("its entrypoint {file:?} is in no layer")))?;
                let digest = digest_of(&std::fs::read(&artifact).map_err(store)?);
                let (kind, code) = self.code(artifact, &digest).await?;
                (ImageKind::Wasm(kind), Vec::new(), Some(code))
            }
        };
        let config: ImageConfig =
            serde_json::from_value(manifest.config["config"].clone()).unwrap_or_default();
        Ok(Image {
            reference: self.name.to_owned(),
            repo_digest: reference::with_digest(&self.reference, &manifest.digest),
            digest: manifest.digest,
            kind,
            config,
            layers,
            wasm,
            size: manifest.size,
        })
    }

    fn detected(&self, source: DetectError) -> PullError {
        PullError::Detect { name: self.name.to_owned(), source }
    }

    /// What the code is, and its compiled form.
    async fn code(&self, artifact: PathBuf, digest: &str) -> Result<(WasmKind, Code), PullError> {
        let path = artifact.clone();
        let kind =
            tokio::task::spawn_blocking(move || std::fs::read(path).map(|bytes| detect::wasm_kind(&bytes)))
                .await;
        let kind = kind.map_err(io::Error::other).and_then(|read| read).map_err(store)?;
        let kind = kind.map_err(|source| self.detected(source))?;
        let compiled = self.puller.compiler.compile(&artifact, digest).await;
        let compiled = compiled
            .map_err(|source| PullError::Compile { name: self.name.to_owned(), source: Arc::new(source) })?;
        Ok((kind, Code { artifact, compiled }))
    }

    /// All layers, unpacked; topmost first.
    async fn layers(&self, manifest: &Manifest) -> Result<Vec<PathBuf>, PullError> {
        let diff_ids: Vec<String> = manifest.config["rootfs"]["diff_ids"]
            .as_array()
            .map(|list| list.iter().map(|id| id.as_str().unwrap_or_default().to_owned()).collect())
            .unwrap_or_default();
        let layers = &manifest.document.layers;
        if diff_ids.len() != layers.len() {
            let why = format!(
                "its configuration lists {} layers and its manifest {}",
                diff_ids.len(),
                layers.len()
            );
            return Err(self.document(why));
        }
        let mut places = Vec::new();
        let mut missing: HashMap<&str, &OciDescriptor> = HashMap::new();
        for (layer, diff_id) in layers.iter().zip(&diff_ids) {
            let place = self.puller.store.layer(diff_id)?;
            if !place.is_dir() {
                missing.insert(diff_id, layer);
            }
            places.push(place);
        }
        let unpacked =
            try_join_all(missing.into_iter().map(|(diff_id, layer)| self.layer(layer, diff_id))).await?;
        let (content, made) = (self.puller.store.clone(), unpacked);
        let placed = tokio::task::spawn_blocking(move || {
            content.sync()?;
            made.iter().try_for_each(|(path, diff_id)| content.place_layer(path, diff_id))
        })
        .await;
        placed.map_err(io::Error::other).and_then(|result| result).map_err(store)?;
        places.reverse();
        Ok(places)
    }

    /// Pulls and unpacks one layer under `tmp`.
    async fn layer(&self, layer: &OciDescriptor, diff_id: &str) -> Result<(PathBuf, String), PullError> {
        let blob = self.blob(layer, i64::MAX).await?.path().to_owned();
        let into = self.puller.store.temporary();
        let _turn = self.puller.unpacking.acquire().await.expect("the semaphore is never closed");
        let (target, id) = (into.clone(), diff_id.to_owned());
        let result = tokio::task::spawn_blocking(move || {
            let result = unpack(&blob, &target, &id);
            // The archive has done its work; what was unpacked of a bad one is removed with it.
            let _ = std::fs::remove_file(&blob);
            if result.is_err() {
                let _ = std::fs::remove_dir_all(&target);
            }
            result
        })
        .await;
        let failed = |source| PullError::Unpack {
            name: self.name.to_owned(),
            digest: layer.digest.clone(),
            source: Arc::new(source),
        };
        result.map_err(|error| store(io::Error::other(error)))?.map_err(failed)?;
        Ok((into, diff_id.to_owned()))
    }

    async fn small_blob(&self, descriptor: &OciDescriptor) -> Result<Vec<u8>, PullError> {
        let place = self.puller.store.blob(&descriptor.digest)?;
        if !place.is_file() {
            self.blob(descriptor, LARGEST_DOCUMENT).await?.place(&place).map_err(store)?;
        }
        std::fs::read(&place).map_err(store)
    }

    /// A blob under `tmp`, checked; tried again when the connection breaks.
    async fn blob(&self, descriptor: &OciDescriptor, largest: i64) -> Result<Incoming, PullError> {
        self.puller.store.blob(&descriptor.digest)?;
        if descriptor.size > largest {
            return Err(
                self.document(format!("{} has {} bytes: too many", descriptor.digest, descriptor.size))
            );
        }
        let _turn = self.puller.blobs.acquire().await.expect("the semaphore is never closed");
        let mut last = None;
        for _ in 0..TRIES {
            match self.try_blob(descriptor).await {
                Err(error @ PullError::Blob { .. }) => last = Some(error),
                other => return other,
            }
        }
        Err(last.expect("it was tried at least once"))
    }

    async fn try_blob(&self, descriptor: &OciDescriptor) -> Result<Incoming, PullError> {
        let failed = |source: Arc<dyn Error + Send + Sync>| PullError::Blob {
            name: self.name.to_owned(),
            digest: descriptor.digest.clone(),
            source,
        };
        let response = self.puller.client.pull_blob_stream(&self.reference, descriptor).await;
        let mut stream = response.map_err(|error| failed(Arc::new(error)))?.stream;
        let mut incoming = self.puller.store.incoming().map_err(store)?;
        let expected_size = u64::try_from(descriptor.size).unwrap_or(0);
        while let Some(chunk) = stream.next().await {
            match chunk {
                Ok(bytes) if incoming.written() + bytes.len() as u64 > expected_size => {
                    let _ = std::fs::remove_file(incoming.path());
                    return Err(self.document(format!("{} is longer than it says", descriptor.digest)));
                }
                Ok(bytes) => incoming.write(&bytes).map_err(store)?,
                // The client checks as well; below it is said in our words.
                Err(_) if incoming.written() == expected_size => break,
                Err(error) => {
                    let _ = std::fs::remove_file(incoming.path());
                    return Err(failed(Arc::new(error)));
                }
            }
        }
        let actual = incoming.digest();
        if actual == descriptor.digest {
            return Ok(incoming);
        }
        let _ = std::fs::remove_file(incoming.path());
        if incoming.written() < expected_size {
            let text = format!("the connection ended after {} of {expected_size} bytes", incoming.written());
            return Err(failed(Arc::new(io::Error::new(io::ErrorKind::UnexpectedEof, text))));
        }
        Err(PullError::WrongDigest {
            name: self.name.to_owned(),
            expected: descriptor.digest.clone(),
            actual,
        })
    }
}

/// The file in the topmost layer that has it. A link in its place is not followed.
fn find(layers: &[PathBuf], file: &str) -> Option<PathBuf> {
    let inside = |layer: &PathBuf| {
        let path = layer.join(file);
        let whole = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
        (whole && is_plain_file(layer, Path::new(file))).then_some(path)
    };
    layers.iter().find_map(inside)
}

fn is_plain_file(layer: &Path, file: &Path) -> bool {
    let Ok(root) = cap_std::fs::Dir::open_ambient_dir(layer, cap_std::ambient_authority()) else {
        return false;
    };
    root.symlink_metadata(file).is_ok_and(|meta| meta.is_file())
        && root.canonicalize(file).is_ok_and(|real| real == file)
}

#[cfg(test)]
mod tests;
