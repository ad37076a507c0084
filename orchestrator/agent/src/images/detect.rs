//! What an image is: a Linux file system or WebAssembly, and which kind of that. Told by media types and by the bytes
//! themselves, never by a name. Pure.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wasmparser::{Encoding, Parser, Payload};

use super::spin;

/// What an image holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ImageKind {
    /// A Linux root file system.
    Linux,
    /// WebAssembly.
    Wasm(WasmKind),
}

/// What WebAssembly code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WasmKind {
    /// A core module (WASI preview 1): runs `_start` to its end.
    Module,
    /// A component that exports `wasi:cli/run`.
    Command,
    /// A component that exports a `wasi:http` handler.
    Http,
}

/// How a manifest carries its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Archives of a Linux root file system.
    Linux,
    /// One layer is the code itself.
    WasmLayer { layer: usize },
    /// Archives, and the entrypoint in them is the code.
    WasmInArchive,
}

/// An image or code that this node does not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DetectError {
    #[error("the image has {0} wasm layers; there must be exactly one")]
    Layers(usize),
    #[error(
        "this is a Spin application: it would need {0}, which are not here; push its component as a wasm artifact instead"
    )]
    Spin(String),
    #[error(
        "the layer holds precompiled native code, which is never loaded from a registry; push the .wasm file"
    )]
    Precompiled,
    #[error("this is not WebAssembly: it begins with {0:02x?}")]
    NotWasm(Vec<u8>),
    #[error("the WebAssembly does not parse: {0}")]
    Malformed(String),
    #[error(
        "the component exports neither wasi:http/incoming-handler, wasi:http/handler nor wasi:cli/run; it exports: {0}"
    )]
    NoEntry(String),
}

/// Media types of a layer that is the code.
const CODE: [&str; 4] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];
const SPIN: &str = "application/vnd.fermyon.spin.";
/// On a manifest or a pod: the entrypoint of a Linux image is wasm.
const VARIANT: &str = "module.wasm.image/variant";

// === impl ===

impl ImageKind {
    /// Whether the agent makes listeners for it.
    pub(crate) fn serves_http(self) -> bool {
        self == ImageKind::Wasm(WasmKind::Http)
    }
}

/// The layout of an image, from the media types of its configuration and layers, the manifest's annotations and the
/// configuration itself.
pub(crate) fn layout(
    config_type: &str,
    layers: &[&str],
    variant: Option<&str>,
    config: &Value,
) -> Result<Layout, DetectError> {
    if config_type.starts_with(SPIN) || layers.iter().any(|layer| layer.starts_with(SPIN)) {
        return Err(DetectError::Spin(spin::needs(config)));
    }
    let code: Vec<usize> = (0..layers.len()).filter(|at| CODE.contains(&layers[*at])).collect();
    match code[..] {
        [layer] if layers.len() == 1 => return Ok(Layout::WasmLayer { layer }),
        [] => {}
        _ => return Err(DetectError::Layers(code.len().max(layers.len()))),
    }
    let is_wasm = config["architecture"] == "wasm" || config["architecture"] == "wasm32";
    let compat = matches!(variant, Some("compat" | "compat-smart")) && entrypoint_is_wasm(config);
    if is_wasm || compat { Ok(Layout::WasmInArchive) } else { Ok(Layout::Linux) }
}

/// The annotation that says so.
pub(crate) fn variant(annotations: Option<&std::collections::BTreeMap<String, String>>) -> Option<&str> {
    annotations?.get(VARIANT).map(String::as_str)
}

fn entrypoint_is_wasm(config: &Value) -> bool {
    entrypoint_file(config).is_some_and(|file| file.ends_with(".wasm"))
}

/// The file an entrypoint names; runwasi's `FILE#FUNCTION` too.
pub(crate) fn entrypoint_file(config: &Value) -> Option<String> {
    let first = |key: &str| config["config"][key].as_array()?.first()?.as_str().map(str::to_owned);
    let name = first("Entrypoint").or_else(|| first("Cmd"))?;
    let file = name.split('#').next().unwrap_or(&name).trim_start_matches('/').trim_start_matches("./");
    (!file.is_empty()).then(|| file.to_owned())
}

/// What the bytes are.
pub(crate) fn wasm_kind(bytes: &[u8]) -> Result<WasmKind, DetectError> {
    // An ELF file of the operating system ABI 200 is wasmtime's precompiled form.
    if bytes.starts_with(b"\x7fELF") && bytes.get(7) == Some(&200) {
        return Err(DetectError::Precompiled);
    }
    if !bytes.starts_with(b"\0asm") {
        return Err(DetectError::NotWasm(bytes.iter().take(8).copied().collect()));
    }
    let malformed = |error: wasmparser::BinaryReaderError| DetectError::Malformed(error.to_string());
    let mut exports: Vec<String> = Vec::new();
    let mut depth = 0_u32;
    let mut outer = None;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::Version { encoding, .. } => {
                outer.get_or_insert(encoding);
                depth += 1;
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    if outer == Some(Encoding::Module) {
        return Ok(WasmKind::Module);
    }
    by_exports(&exports)
}

fn by_exports(exports: &[String]) -> Result<WasmKind, DetectError> {
    let has =
        |prefix: &str| exports.iter().any(|name| name == prefix || name.starts_with(&format!("{prefix}@")));
    if has("wasi:http/incoming-handler") || has("wasi:http/handler") {
        Ok(WasmKind::Http)
    } else if has("wasi:cli/run") {
        Ok(WasmKind::Command)
    } else {
        let listed = if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") };
        Err(DetectError::NoEntry(listed))
    }
}

/// Which entry of an index is for this node: our own architecture first, else wasm.
pub(crate) fn choose<'a>(
    entries: impl Iterator<Item = (&'a str, &'a str, &'a str)>,
    architecture: &str,
) -> Option<&'a str> {
    let mut wasm = None;
    for (os, arch, digest) in entries {
        if os == "linux" && arch == architecture {
            return Some(digest);
        }
        if arch == "wasm" || arch == "wasm32" {
            wasm.get_or_insert(digest);
        }
    }
    wasm
}

/// The name of this machine's architecture in images.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TAR: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// Type of the configuration, of the layers, variant, configuration, what follows.
    type Row<'a> = (&'a str, &'a [&'a str], Option<&'a str>, &'a Value, Result<Layout, DetectError>);

    #[test]
    fn layouts() {
        let v0 = "application/vnd.wasm.config.v0+json";
        let oci = "application/vnd.oci.image.config.v1+json";
        let linux = json!({"architecture": "amd64", "os": "linux"});
        let wasi = json!({"architecture": "wasm", "os": "wasi", "config": {"Entrypoint": ["/app.wasm"]}});
        let compat = json!({"architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/app.wasm"]}});
        let table: &[Row<'_>] = &[
            (v0, &["application/wasm"], None, &linux, Ok(Layout::WasmLayer { layer: 0 })),
            (
                "application/vnd.wasm.config.v1+json",
                &[CODE[1]],
                None,
                &linux,
                Ok(Layout::WasmLayer { layer: 0 }),
            ),
            (oci, &[CODE[3]], None, &wasi, Ok(Layout::WasmLayer { layer: 0 })),
            (oci, &[TAR, TAR], None, &linux, Ok(Layout::Linux)),
            (oci, &[TAR], None, &wasi, Ok(Layout::WasmInArchive)),
            (oci, &[TAR], Some("compat"), &compat, Ok(Layout::WasmInArchive)),
            (oci, &[TAR], Some("compat-smart"), &linux, Ok(Layout::Linux)),
            (v0, &["application/wasm", "application/wasm"], None, &linux, Err(DetectError::Layers(2))),
            (
                "application/vnd.fermyon.spin.application.v1+config",
                &[CODE[1]],
                None,
                &linux,
                Err(DetectError::Spin("Spin's triggers".to_owned())),
            ),
        ];
        for (config_type, layers, variant, config, expected) in table {
            assert_eq!(&layout(config_type, layers, *variant, config), expected, "{config_type} {layers:?}");
        }
    }

    #[test]
    fn bytes_say_what_they_are() {
        assert_eq!(wasm_kind(b"\0asm\x01\0\0\0"), Ok(WasmKind::Module));
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.extend([200, 0, 0, 0]);
        assert_eq!(wasm_kind(&elf), Err(DetectError::Precompiled));
        assert!(matches!(wasm_kind(b"#!/bin/sh"), Err(DetectError::NotWasm(_))));
        assert!(matches!(wasm_kind(b"\0asm\x01\0\0\0\xff\xff"), Err(DetectError::Malformed(_))));
        assert!(matches!(wasm_kind(b"\0asm\x0d\0\x01\0"), Err(DetectError::NoEntry(_))));
        assert!(matches!(wasm_kind(b""), Err(DetectError::NotWasm(_))));
    }

    #[test]
    fn exports_say_what_a_component_is() {
        let kind = |name: &str| by_exports(&[name.to_owned()]);
        let table = [
            ("wasi:http/incoming-handler@0.2.6", WasmKind::Http),
            ("wasi:http/handler@0.3.0", WasmKind::Http),
            ("wasi:cli/run@0.2.0", WasmKind::Command),
        ];
        for (name, expected) in table {
            assert_eq!(kind(name), Ok(expected), "{name}");
        }
        assert_eq!(kind("my:own/thing"), Err(DetectError::NoEntry("my:own/thing".into())));
    }

    #[test]
    fn an_index_offers_several() {
        let entries = [("wasip2", "wasm", "w"), ("linux", "arm64", "a"), ("linux", "amd64", "x")];
        assert_eq!(choose(entries.into_iter(), "amd64"), Some("x"));
        assert_eq!(choose(entries.into_iter(), "riscv64"), Some("w"));
        assert_eq!(choose([("linux", "arm64", "a")].into_iter(), "amd64"), None);
    }

    #[test]
    fn entrypoints_name_files() {
        let file = |entry: &str| entrypoint_file(&json!({"config": {"Entrypoint": [entry]}}));
        assert_eq!(file("/app.wasm").as_deref(), Some("app.wasm"));
        assert_eq!(file("./bin/app.wasm#run").as_deref(), Some("bin/app.wasm"));
        assert_eq!(entrypoint_file(&json!({})), None);
    }
}
