//! The program of the rows as a container image: the same source as the wasm guest, linked statically.

use std::path::Path;
use std::process::Command;

use catamaran_tests::images::{Image, Layer};
use serde_json::json;

/// Compiles the probe guest for this machine and puts it into an image.
pub(crate) fn image() -> Image {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/probe/src/main.rs");
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("probe");
    let mut compiler = Command::new("rustc");
    compiler.args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-o"]);
    let compiled = compiler.arg(&program).arg(&source).output().expect("rustc starts");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let program = std::fs::read(&program).expect("it was compiled");
    let places = ["etc", "tmp", "proc", "sys", "dev"];
    let layer = places.iter().fold(Layer::default(), |layer, place| layer.directory(place));
    let layer = layer.file("probe", 0o755, &program);
    Image { layers: vec![layer], config: json!({"Entrypoint": ["/probe"]}) }
}
