//! Pulls from a registry in this process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::*;

/// Media type and bytes, by name.
type Manifests = BTreeMap<String, (String, Vec<u8>)>;

/// A registry in this process: blobs and manifests by name, on loopback.
#[derive(Clone, Default)]
struct Registry {
    manifests: Arc<Mutex<Manifests>>,
    blobs: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    fn blob(&self, content: &[u8], media_type: &str) -> Value {
        let digest = digest_of(content);
        self.blobs.lock().unwrap().insert(digest.clone(), content.to_vec());
        json!({"mediaType": media_type, "digest": digest, "size": content.len()})
    }

    fn manifest(&self, tag: &str, media_type: &str, document: &Value) -> String {
        let bytes = document.to_string().into_bytes();
        let digest = digest_of(&bytes);
        for name in [tag, &digest] {
            self.manifests.lock().unwrap().insert(name.to_owned(), (media_type.to_owned(), bytes.clone()));
        }
        digest
    }

    async fn serve(&self) -> SocketAddr {
        let router = Router::new()
            .route("/v2/", axum::routing::get(|| async { "{}" }))
            .route("/v2/app/manifests/{name}", axum::routing::get(manifest))
            .route("/v2/app/blobs/{digest}", axum::routing::get(blob))
            .with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }
}

async fn manifest(State(registry): State<Registry>, UrlPath(name): UrlPath<String>) -> Response {
    registry.asked.lock().unwrap().push(name.clone());
    match registry.manifests.lock().unwrap().get(&name) {
        Some((media_type, bytes)) => ([("content-type", media_type.clone())], bytes.clone()).into_response(),
        None => {
            let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":""}]}"#;
            (StatusCode::NOT_FOUND, body).into_response()
        }
    }
}

async fn blob(State(registry): State<Registry>, UrlPath(digest): UrlPath<String>, _: HeaderMap) -> Response {
    registry.asked.lock().unwrap().push(digest.clone());
    match registry.blobs.lock().unwrap().get(&digest) {
        Some(bytes) => bytes.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = ::tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        builder.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A Linux image of two layers under the tag `v1`.
fn linux(registry: &Registry) -> (Value, String) {
    let (base, top) = (
        tar(&[("etc/os", "base"), ("etc/passwd", "root:x:0:0::/root:/bin/sh\n")]),
        tar(&[("etc/os", "top")]),
    );
    let config = json!({"architecture": detect::architecture(), "os": "linux",
        "config": {"Cmd": ["/bin/app"], "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(&base), digest_of(&top)]}});
    let document = json!({"schemaVersion": 2, "mediaType": OCI,
        "config": registry.blob(config.to_string().as_bytes(), CONFIG),
        "layers": [registry.blob(&base, LAYER), registry.blob(&top, LAYER)]});
    let digest = registry.manifest("v1", OCI, &document);
    (document, digest)
}

struct Bench {
    _dir: tempfile::TempDir,
    puller: Puller,
    registry: Registry,
    address: SocketAddr,
}

async fn bench() -> Bench {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let registry = Registry::default();
    let address = registry.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let compiler = dir.path().join("compiler");
    std::fs::write(&compiler, "#!/bin/sh\ncp \"$3\" \"$4\"\n").unwrap();
    std::fs::set_permissions(&compiler, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let images = dir.path().join("images");
    let store = Store::open(&images).unwrap();
    let puller = Puller::new(store, Compiler::new(&compiler, &images), &[address.to_string()]);
    Bench { _dir: dir, puller, registry, address }
}

impl Bench {
    async fn pull(&self, tag: &str) -> Result<Image, PullError> {
        self.puller.pull(&format!("{}/app{tag}", self.address), &[]).await
    }
}

#[tokio::test]
async fn a_linux_image_is_pulled_once() {
    let bench = bench().await;
    let (_, digest) = linux(&bench.registry);
    let image = bench.pull(":v1").await.unwrap();
    assert_eq!(image.kind, ImageKind::Linux);
    assert_eq!(image.config.cmd, ["/bin/app"]);
    assert_eq!(image.repo_digest, format!("{}/app@{digest}", bench.address));
    let contents: Vec<_> =
        image.layers.iter().map(|l| std::fs::read_to_string(l.join("etc/os")).unwrap()).collect();
    assert_eq!(contents, ["top", "base"]);
    let before = bench.registry.asked.lock().unwrap().len();
    assert_eq!(bench.pull(&format!("@{digest}")).await.unwrap().layers, image.layers);
    let asked = bench.registry.asked.lock().unwrap()[before..].to_vec();
    assert_eq!(asked, [digest], "only the manifest is asked for again");
    assert_eq!(std::fs::read_dir(bench.puller.store.root().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn an_index_leads_to_this_machine() {
    let bench = bench().await;
    let (_, digest) = linux(&bench.registry);
    let index_type = "application/vnd.oci.image.index.v1+json";
    let entry = |arch: &str, digest: &str| json!({"mediaType": OCI, "digest": digest, "size": 1, "platform": {"os": "linux", "architecture": arch}});
    let other = digest_of(b"other");
    let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": [entry("s390x", &other), entry(detect::architecture(), &digest)]});
    bench.registry.manifest("multi", index_type, &index);
    assert_eq!(bench.pull(":multi").await.unwrap().digest, digest);
    let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": [entry("s390x", &other)]});
    bench.registry.manifest("foreign", index_type, &index);
    let error = bench.pull(":foreign").await.unwrap_err();
    assert!(error.text().contains("linux/s390x"), "{}", error.text());
}

#[tokio::test]
async fn a_wasm_artifact_is_compiled() {
    let bench = bench().await;
    let code = b"\0asm\x01\0\0\0";
    let document = json!({"schemaVersion": 2, "mediaType": OCI,
        "config": bench.registry.blob(b"{\"architecture\":\"wasm\",\"os\":\"wasip1\"}", "application/vnd.wasm.config.v0+json"),
        "layers": [bench.registry.blob(code, "application/wasm")]});
    bench.registry.manifest("wasm", OCI, &document);
    let image = bench.pull(":wasm").await.unwrap();
    assert_eq!(image.kind, ImageKind::Wasm(WasmKind::Module));
    assert_eq!(std::fs::read(image.wasm.unwrap().compiled).unwrap(), code);
}

#[tokio::test]
async fn what_is_not_wasm_is_refused() {
    let bench = bench().await;
    let document = json!({"schemaVersion": 2, "mediaType": OCI,
        "config": bench.registry.blob(b"{}", "application/vnd.wasm.config.v0+json"),
        "layers": [bench.registry.blob(b"#!/bin/sh", "application/wasm")]});
    bench.registry.manifest("sh", OCI, &document);
    let error = bench.pull(":sh").await.unwrap_err();
    assert_eq!(error.reason(), "ErrImagePull");
    assert!(error.text().contains("this is not WebAssembly"), "{}", error.text());
}

#[tokio::test]
async fn wrong_digests_are_refused_everywhere() {
    let bench = bench().await;
    let (document, digest) = linux(&bench.registry);
    // A blob that is not what its name says, of the same length.
    let layer = document["layers"][1]["digest"].as_str().unwrap().to_owned();
    bench.registry.blobs.lock().unwrap().get_mut(&layer).unwrap()[600] ^= 1;
    let error = bench.pull(":v1").await.unwrap_err();
    assert!(
        matches!(&error, PullError::WrongDigest { expected, .. } if *expected == layer),
        "{}",
        error.text()
    );
    // A manifest that is not what its name says.
    bench.registry.manifests.lock().unwrap().get_mut(&digest).unwrap().1.push(b' ');
    let error = bench.pull(&format!("@{digest}")).await.unwrap_err();
    assert!(matches!(error, PullError::WrongDigest { .. }), "{}", error.text());
    assert_eq!(std::fs::read_dir(bench.puller.store.root().join("layers/sha256")).unwrap().count(), 0);
    assert!(bench.puller.store.references().is_empty());
}

#[tokio::test]
async fn a_layer_that_is_not_what_the_configuration_says_is_refused() {
    let bench = bench().await;
    let layer = tar(&[("f", "x")]);
    let config = json!({"architecture": detect::architecture(), "rootfs": {"diff_ids": [digest_of(b"something else")]}});
    let document = json!({"schemaVersion": 2, "mediaType": OCI,
        "config": bench.registry.blob(config.to_string().as_bytes(), CONFIG), "layers": [bench.registry.blob(&layer, LAYER)]});
    bench.registry.manifest("corrupt", OCI, &document);
    let error = bench.pull(":corrupt").await.unwrap_err();
    assert!(error.text().contains("the layer is corrupt"), "{}", error.text());
    assert_eq!(std::fs::read_dir(bench.puller.store.root().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let bench = bench().await;
    let error = bench.pull(":none").await.unwrap_err();
    assert_eq!(error.reason(), "ErrImagePull");
    assert!(error.text().contains("/app:none"), "{}", error.text());
    let closed = bench.puller.pull("127.0.0.1:1/app:v1", &[]).await.unwrap_err();
    assert!(matches!(closed, PullError::Manifest { .. }));
}
