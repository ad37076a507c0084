//! Every way in which a WebAssembly program lies in a registry runs; what is no plain program says what it would need.
//! The table in `samples/README.md` names these rows.

use std::collections::BTreeMap;
use std::time::Duration;

use catamaran_tests::cluster::{Cluster, Demo};
use catamaran_tests::images::{self, Layer};
use catamaran_tests::wait::until;
use oci_client::client::{Config, ImageLayer};
use serde_json::{Value, json};

const REGISTRY: &str = "localhost:5000";
const COMPONENT: &[u8] = include_bytes!("../guests/prebuilt/probe-p2.wasm");
const MODULE: &[u8] = include_bytes!("../guests/prebuilt/probe-p1.wasm");
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layout whose one layer is the program: name, type of the configuration, configuration, type of the layer, program.
type Row = (&'static str, &'static str, fn() -> Value, &'static str, &'static [u8]);

fn wasip1() -> Value {
    json!({"architecture": "wasm", "os": "wasip1"})
}

fn wasip2() -> Value {
    json!({"architecture": "wasm", "os": "wasip2"})
}

const ROWS: [Row; 7] = [
    ("cncf-component", "application/vnd.wasm.config.v0+json", wasip2, "application/wasm", COMPONENT),
    ("cncf-module", "application/vnd.wasm.config.v0+json", wasip1, "application/wasm", MODULE),
    (
        "krustlet",
        "application/vnd.wasm.config.v1+json",
        || json!({}),
        "application/vnd.wasm.content.layer.v1+wasm",
        MODULE,
    ),
    (
        "spin-component",
        "application/vnd.wasm.config.v1+json",
        || json!({}),
        "application/vnd.wasm.content.layer.v1+wasm",
        COMPONENT,
    ),
    (
        "wasmcloud",
        "application/vnd.module.wasm.config.v1+json",
        || json!({}),
        "application/vnd.module.wasm.content.layer.v1+wasm",
        COMPONENT,
    ),
    (
        "runwasi",
        OCI_CONFIG,
        || json!({"architecture": "wasm", "os": "wasip1", "rootfs": {"type": "layers", "diff_ids": []}}),
        "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
        COMPONENT,
    ),
    ("empty-config", "application/vnd.oci.empty.v1+json", || json!({}), "application/wasm", COMPONENT),
];

/// Each is pushed as its tools push it, and runs.
pub(crate) fn every_layout_of_an_artifact_runs() {
    let cluster = Cluster::up(Demo::Without);
    for (name, config_type, config, layer_type, program) in ROWS {
        let layer = ImageLayer::new(program, layer_type.to_owned(), None);
        images::push(&image(name), vec![layer], config_of(&config(), config_type));
        runs(&cluster, name);
    }
    let docker = archive_image(&json!({"architecture": "wasm", "os": "wasi"}), "docker-wasi", None);
    runs(&cluster, "docker-wasi");
    let annotations = BTreeMap::from([("module.wasm.image/variant".to_owned(), "compat".to_owned())]);
    archive_image(&json!({"architecture": "amd64", "os": "linux"}), "compat", Some(annotations));
    runs(&cluster, "compat");
    images::push_index(&image("docker-wasi"), &[("wasi", "wasm", &docker)]);
    runs(&cluster, "docker-wasi");
    let linux = images::busybox().push(&image("both"));
    let both = archive_image(&json!({"architecture": "wasm", "os": "wasi"}), "both", None);
    images::push_index(&image("both"), &[("wasi", "wasm", &both), ("linux", "amd64", &linux)]);
    // Of both, the one for this machine: a shell, which knows `echo`.
    let (phase, log) = run(&cluster, "both", &json!({"command": ["echo", "linux"]}));
    assert_eq!((phase.as_str(), log.as_str()), ("Succeeded", "linux\n"));
}

/// An image of tar layers, as `docker buildx build --platform=wasi/wasm` makes it: the entrypoint is the program.
fn archive_image(platform: &Value, name: &str, annotations: Option<BTreeMap<String, String>>) -> String {
    let tar = Layer::default().file("app.wasm", 0o755, MODULE).finish();
    let mut config = platform.clone();
    config["config"] = json!({"Entrypoint": ["/app.wasm"]});
    config["rootfs"] = json!({"type": "layers", "diff_ids": [images::digest(&tar)]});
    let layer = ImageLayer::new(tar, OCI_LAYER.to_owned(), None);
    images::push_annotated(&image(name), vec![layer], config_of(&config, OCI_CONFIG), annotations)
}

fn image(name: &str) -> String {
    format!("{REGISTRY}/{name}:1")
}

fn config_of(config: &Value, media_type: &str) -> Config {
    Config::new(serde_json::to_vec(config).unwrap(), media_type.to_owned(), None)
}

fn runs(cluster: &Cluster, name: &str) {
    let (phase, log) = run(cluster, name, &json!({"args": ["args", "it", "runs"]}));
    assert_eq!((phase.as_str(), log.as_str()), ("Succeeded", "it|runs\n"), "{name}");
}

/// Runs a pod of the image to its end; its phase and its log.
fn run(cluster: &Cluster, name: &str, more: &Value) -> (String, String) {
    apply(cluster, name, more);
    let phase = until(&format!("{name} ends"), Duration::from_secs(60), || {
        let phase = cluster.kubectl.value(&["pod", name], "{.status.phase}");
        let ended = phase == "Succeeded" || phase == "Failed";
        if ended { Ok(phase) } else { Err(cluster.kubectl.ok(&["events", "--for", &format!("pod/{name}")])) }
    });
    let log = cluster.kubectl.ok(&["logs", name]);
    cluster.kubectl.ok(&["delete", "pod", name, "--now"]);
    (phase, log)
}

fn apply(cluster: &Cluster, name: &str, more: &Value) {
    let mut container = json!({"name": "c", "image": image(name), "imagePullPolicy": "Always"});
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    });
    cluster.kubectl.apply(&pod.to_string());
}

/// Refused with an event whose text says why, and what to do.
pub(crate) fn what_does_not_run_says_what_it_would_need() {
    let cluster = Cluster::up(Demo::Without);
    let spin = json!({
        "spin_lock_version": 0,
        "triggers": [{"id": "t", "trigger_type": "redis", "trigger_config": {"channel": "c", "component": "a"}}],
        "components": [{
            "id": "a",
            "metadata": {"key_value_stores": ["default"]},
            "source": {"content_type": "application/wasm", "digest": images::digest(COMPONENT)},
        }],
    });
    let layer =
        |media_type: &str, content: &'static [u8]| ImageLayer::new(content, media_type.to_owned(), None);
    let spin_config = config_of(&spin, "application/vnd.fermyon.spin.application.v1+config");
    images::push(
        &image("spin"),
        vec![layer("application/vnd.wasm.content.layer.v1+wasm", COMPONENT)],
        spin_config,
    );
    let expected = "a Spin application: it would need Spin's redis trigger, Spin's key-value store";
    refused(&cluster, "spin", expected);
    let cncf = || config_of(&wasip2(), "application/vnd.wasm.config.v0+json");
    let two = vec![layer("application/wasm", COMPONENT), layer("application/wasm", MODULE)];
    images::push(&image("two"), two, cncf());
    refused(&cluster, "two", "there must be exactly one");
    // What `wasmtime compile` makes begins so: an ELF file of the operating system ABI 200.
    let native: &[u8] = b"\x7fELF\x02\x01\x01\xc8\0\0\0\0\0\0\0\0";
    images::push(&image("native"), vec![layer("application/wasm", native)], cncf());
    refused(&cluster, "native", "precompiled native code");
    let library = b"\0asm\x0d\0\x01\0";
    images::push(&image("library"), vec![layer("application/wasm", library)], cncf());
    refused(&cluster, "library", "exports neither wasi:http/incoming-handler");
}

fn refused(cluster: &Cluster, name: &str, expected: &str) {
    apply(cluster, name, &json!({}));
    until(&format!("{name} says why"), Duration::from_secs(30), || {
        let object = format!("involvedObject.name={name},type=Warning");
        let events = cluster.kubectl.ok(&[
            "get",
            "events",
            "--field-selector",
            &object,
            "-o",
            "jsonpath={.items[*].message}",
        ]);
        if events.contains(expected) { Ok(()) } else { Err(events) }
    });
    cluster.kubectl.ok(&["delete", "pod", name, "--now"]);
}
