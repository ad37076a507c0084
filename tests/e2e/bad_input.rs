//! Point 14: bad input gets a clear error and changes nothing.

use std::time::Duration;

use catamaran_tests::cluster::{Cluster, Demo, catamaran};
use catamaran_tests::images::{self, Image, Layer};
use catamaran_tests::registry::Registry;
use catamaran_tests::wait::until;
use serde_json::json;

const BUILT_IN: &str = "localhost:5000";

/// Images that are missing, spoilt, hostile or not what they say.
pub(crate) fn bad_images_are_named_in_the_pod() {
    let registry = Registry::start();
    let address = registry.address();
    let cluster = Cluster::up_with(Demo::Without, &["--insecure-registry", &address], &[]);
    waits_with(&cluster, "unknown", &format!("{BUILT_IN}/nowhere:1"), "not found");
    let digest = format!("sha256:{}", "0".repeat(64));
    waits_with(&cluster, "unknown-digest", &format!("{address}/nowhere@{digest}"), "not found");
    let forged = Image {
        layers: vec![Layer::default().file("forged", 0o644, b"x")],
        config: json!({ "Cmd": ["/x"] }),
    };
    let digest = forged.push(&format!("{address}/forged:1"));
    let manifest = registry.blob(&digest);
    let mut bytes = std::fs::read(&manifest).unwrap();
    bytes.push(b' ');
    std::fs::write(&manifest, bytes).unwrap();
    waits_with(&cluster, "wrong-digest", &format!("{address}/forged@{digest}"), "digest");
    images::busybox().push(&format!("{address}/good:1"));
    runs(&cluster, "foreign", &format!("{address}/good:1"));
    let spoilt = Image {
        layers: vec![Layer::default().directory("x").file("x/spoilt", 0o644, &[7; 4096])],
        config: json!({ "Cmd": ["/x/spoilt"] }),
    };
    let spoilt_digest = spoilt.push(&format!("{address}/spoilt:1"));
    spoil_layer(&registry, &spoilt_digest);
    waits_with(&cluster, "corrupt", &format!("{address}/spoilt:1"), "digest");
    let escape = Image {
        layers: vec![Layer::default().symlink("out", "/../../../../tmp").file(
            "../../../../tmp/catamaran-escaped",
            0o644,
            b"x",
        )],
        config: json!({ "Cmd": ["/x"] }),
    };
    escape.push(&format!("{address}/escape:1"));
    waits_with(&cluster, "hostile", &format!("{address}/escape:1"), "outside");
    assert!(!std::path::Path::new("/tmp/catamaran-escaped").exists(), "a layer wrote outside its root");
    images::push_wasm(&format!("{address}/text:1"), bytes::Bytes::from_static(b"this is not wasm"));
    waits_with(&cluster, "not-wasm", &format!("{address}/text:1"), "wasm");
    let imports = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x0a\x01\x03env\x02no\0\0".to_vec();
    images::push_wasm(&format!("{address}/imports:1"), imports.into());
    waits_with(&cluster, "imports", &format!("{address}/imports:1"), "env");
}

fn pod(name: &str, image: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: '{image}', imagePullPolicy: Always}}]}}}}"
    )
}

/// The pod does not run, and its status or events say why.
fn waits_with(cluster: &Cluster, name: &str, image: &str, reason: &str) {
    cluster.kubectl.apply(&pod(name, image));
    until(&format!("pod {name} says why"), Duration::from_secs(30), || {
        let state = cluster.kubectl.value(&["pod", name], "{.status.containerStatuses[0].state.waiting}");
        let last = cluster.kubectl.value(&["pod", name], "{.status.containerStatuses[0]}");
        let events = cluster.kubectl.ok(&["events", "--for", &format!("pod/{name}")]);
        let all = format!("{state}\n{last}\n{events}");
        if all.to_lowercase().contains(reason) && !state.is_empty() { Ok(()) } else { Err(all) }
    });
    cluster.kubectl.ok(&["delete", "pod", name, "--grace-period=0", "--force"]);
}

fn runs(cluster: &Cluster, name: &str, image: &str) {
    let manifest = pod(name, image).replace(
        "imagePullPolicy: Always",
        "command: [sh, -c, 'cat /data/top; test ! -e /data/gone && cat /data/kept; sleep 600']",
    );
    cluster.kubectl.apply(&manifest);
    cluster.kubectl.ok(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]);
    until("all layers are there", Duration::from_secs(10), || {
        let said = cluster.kubectl.ok(&["logs", name]);
        if said == "from the top layer\nkept\n" { Ok(()) } else { Err(said) }
    });
    cluster.kubectl.ok(&["delete", "pod", name, "--now"]);
}

/// Changes a byte of the image's only layer on the registry's disk.
fn spoil_layer(registry: &Registry, manifest: &str) {
    let text = std::fs::read(registry.blob(manifest)).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let layer = registry.blob(manifest["layers"][0]["digest"].as_str().unwrap());
    let mut bytes = std::fs::read(&layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&layer, bytes).unwrap();
}

/// What stands in the way of starting a cluster is said, and the exit code tells.
pub(crate) fn starting_says_what_is_wrong() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    let refused = catamaran(&["up", "--detach", "--data-dir", data, "--api-port", &port]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains(&port) && refused.stderr.contains("in use"), "{}", refused.stderr);
    assert_eq!(catamaran(&["up", "--no-such-flag"]).code, 2);
    let nobody = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(runnable_by_anyone(directory.path()))
        .args(["up", "--data-dir", "/tmp/never"])
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("root"), "{nobody:?}");
    let cluster = Cluster::up(Demo::Without);
    let data = cluster.data().to_str().unwrap();
    let second = catamaran(&["server", "--data-dir", data]);
    assert_eq!(second.code, 1);
    assert!(second.stderr.contains("in use by another server"), "{}", second.stderr);
    assert_eq!(cluster.kubectl.run(&["get", "nodes"]).code, 0, "the first server goes on");
}

/// The target folder may lie below a directory that only root may enter.
fn runnable_by_anyone(directory: &std::path::Path) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.join("catamaran");
    std::fs::copy(catamaran_tests::cluster::binary(), &copy).unwrap();
    copy
}
