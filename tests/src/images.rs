//! Container images made by the tests: several layers, gzip, whiteouts, hard links; pushed into any registry.

use std::collections::BTreeMap;
use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// A layer under construction.
#[derive(Default)]
pub struct Layer {
    archive: Vec<u8>,
}

/// An image: layers from the base up, and its config's `config` object.
pub struct Image {
    /// Layers, the base first.
    pub layers: Vec<Layer>,
    /// `Entrypoint`, `Cmd`, `Env`, `User`, `WorkingDir`.
    pub config: Value,
}

// === impl Layer ===

impl Layer {
    fn add(mut self, kind: EntryType, path: &str, mode: u32, link: Option<&str>, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        // Written as they are: hostile paths are wanted too.
        write_name(&mut header.as_old_mut().name, path);
        if let Some(link) = link {
            write_name(&mut header.as_old_mut().linkname, link);
        }
        header.set_cksum();
        self.archive.extend(header.as_bytes());
        self.archive.extend(content);
        self.archive.resize(self.archive.len().div_ceil(512) * 512, 0);
        self
    }

    /// A directory.
    #[must_use]
    pub fn directory(self, path: &str) -> Self {
        self.add(EntryType::Directory, path, 0o755, None, b"")
    }

    /// A file.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.add(EntryType::Regular, path, mode, None, content)
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, to: &str) -> Self {
        self.add(EntryType::Symlink, path, 0o777, Some(to), b"")
    }

    /// A hard link.
    #[must_use]
    pub fn hard_link(self, path: &str, to: &str) -> Self {
        self.add(EntryType::Link, path, 0o755, Some(to), b"")
    }

    /// Removes a path of the layers below.
    #[must_use]
    pub fn whiteout(self, directory: &str, name: &str) -> Self {
        self.file(&format!("{directory}/.wh.{name}"), 0o644, b"")
    }

    /// The whole archive.
    #[must_use]
    pub fn finish(&self) -> Vec<u8> {
        let mut whole = self.archive.clone();
        whole.resize(whole.len() + 1024, 0);
        whole
    }
}

fn write_name(field: &mut [u8; 100], text: &str) {
    field[..text.len()].copy_from_slice(text.as_bytes());
}

/// The digest of some bytes as images have it.
#[must_use]
pub fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A small Linux: busybox with its usual names, in three layers, one of which takes a file away again.
///
/// # Panics
/// When the machine has no static busybox.
#[must_use]
pub fn busybox() -> Image {
    let program = std::fs::read("/bin/busybox").expect("/bin/busybox of the package busybox-static");
    let mut base =
        ["bin", "etc", "tmp", "proc", "sys", "dev"].iter().fold(Layer::default(), |l, d| l.directory(d));
    base = base.file("bin/busybox", 0o755, &program).hard_link("bin/sh", "bin/busybox");
    for name in [
        "ls", "cat", "echo", "sleep", "wget", "nslookup", "id", "hostname", "env", "tty", "stat", "nc",
        "true", "false", "ps", "head", "dd", "grep", "seq", "httpd", "mount", "touch", "date", "test",
        "kill", "stty", "tar", "md5sum",
    ] {
        base = base.symlink(&format!("bin/{name}"), "/bin/busybox");
    }
    let users = "root:x:0:0:root:/:/bin/sh\nworker:x:1000:1000:worker:/tmp:/bin/sh\n";
    base = base.file("etc/passwd", 0o644, users.as_bytes()).file(
        "etc/group",
        0o644,
        b"root:x:0:\nworker:x:1000:\n",
    );
    let second = Layer::default().directory("data").file("data/kept", 0o644, b"kept\n").file(
        "data/gone",
        0o644,
        b"gone\n",
    );
    let third = Layer::default().whiteout("data", "gone").file("data/top", 0o644, b"from the top layer\n");
    Image {
        layers: vec![base, second, third],
        config: json!({ "Cmd": ["sh"], "Env": ["PATH=/bin", "FROM_IMAGE=yes"], "WorkingDir": "/" }),
    }
}

impl Image {
    /// Pushes it to a registry that speaks plain HTTP on loopback. Returns the manifest's digest.
    ///
    /// # Panics
    /// When the registry does not take it.
    pub fn push(&self, name: &str) -> String {
        let tars: Vec<_> = self.layers.iter().map(Layer::finish).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": tars.iter().map(|t| digest(t)).collect::<Vec<_>>() },
        });
        let gzip = |tar: &Vec<u8>| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(tar).and_then(|()| encoder.finish()).expect("memory does not fail")
        };
        let layers: Vec<_> = tars.iter().map(|tar| ImageLayer::oci_v1_gzip(gzip(tar), None)).collect();
        let config = serde_json::to_vec(&config).expect("plain data");
        push(name, layers, Config::oci_v1(config, None))
    }
}

/// Pushes layers and a config as they are.
///
/// # Panics
/// When the registry does not take them.
pub fn push(name: &str, layers: Vec<ImageLayer>, config: Config) -> String {
    push_annotated(name, layers, config, None)
}

/// The same with annotations of the manifest.
///
/// # Panics
/// When the registry does not take them.
pub fn push_annotated(
    name: &str,
    layers: Vec<ImageLayer>,
    config: Config,
    annotations: Option<BTreeMap<String, String>>,
) -> String {
    crate::cluster::use_ring();
    let reference: Reference = name.parse().expect("an image name");
    let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let manifest = oci_client::manifest::OciImageManifest::build(&layers, &config, annotations);
        let auth = RegistryAuth::Anonymous;
        let pushed = client.push(&reference, &layers, config, &auth, Some(manifest)).await;
        pushed.unwrap_or_else(|e| panic!("push {name}: {e}"));
        client
            .fetch_manifest_digest(&reference, &auth)
            .await
            .unwrap_or_else(|e| panic!("digest of {name}: {e}"))
    })
}

/// Pushes an index of images that are there, each with its platform (`os`, `architecture`) and digest.
///
/// # Panics
/// When the registry does not take it.
pub fn push_index(name: &str, images: &[(&str, &str, &str)]) {
    crate::cluster::use_ring();
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let reference: Reference = name.parse().expect("an image name");
    let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut manifests = Vec::new();
        for (os, architecture, digest) in images {
            let one = reference.clone_with_digest((*digest).to_owned());
            let pulled = client.pull_manifest_raw(&one, &RegistryAuth::Anonymous, &[MANIFEST]).await;
            let (bytes, _) = pulled.unwrap_or_else(|e| panic!("{one}: {e}"));
            manifests.push(json!({
                "mediaType": MANIFEST, "digest": digest, "size": bytes.len(),
                "platform": {"os": os, "architecture": architecture},
            }));
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let index = serde_json::to_vec(&index).expect("plain data");
        let media = INDEX.parse().expect("a media type");
        let pushed = client.push_manifest_raw(&reference, index, media).await;
        pushed.unwrap_or_else(|e| panic!("push {name}: {e}"));
    });
}

/// Pushes a wasm file in the CNCF layout.
///
/// # Panics
/// When the registry does not take it.
pub fn push_wasm(name: &str, wasm: Bytes) -> String {
    let config = json!({ "architecture": "wasm", "os": "wasip2", "layerDigests": [digest(&wasm)] });
    let config = serde_json::to_vec(&config).expect("plain data");
    let layer = ImageLayer::new(wasm, "application/wasm".to_owned(), None);
    push(name, vec![layer], Config::new(config, "application/vnd.wasm.config.v0+json".to_owned(), None))
}
