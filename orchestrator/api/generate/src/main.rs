//! Writes the schema table of catamaran-api: `cargo run --manifest-path orchestrator/api/generate/Cargo.toml -- [--check | --compare FILE]`.
//! Types and descriptions come from k8s-openapi, protobuf tags from k8s-pb, everything else from `overlay.txt`.

mod compare;
mod overlay;
mod protobuf;
mod roots;
mod schema;
mod write;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let types = types()?;
    match arguments[..] {
        [] => write(&types, false),
        ["--check"] => write(&types, true),
        ["--compare", file] => compare::compare(&types, Path::new(file)),
        _ => bail!("arguments are --check, --compare FILE, or none"),
    }
}

/// Everything that is known, from all sources.
fn types() -> Result<schema::Types> {
    let overlay = overlay::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("overlay.txt"))?;
    let mut types = schema::types()?;
    overlay.apply(&mut types)?;
    protobuf::tag(&mut types, &crate_source("k8s-pb")?)?;
    Ok(types)
}

fn write(types: &schema::Types, check: bool) -> Result<()> {
    let written = write::render(types)?;
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/schema");
    put(&out.join("table.txt"), written.table.into_bytes(), check)?;
    put_compressed(&out.join("descriptions.bin"), written.descriptions.as_bytes(), check)
}

/// Where cargo has unpacked a dependency.
fn crate_source(name: &str) -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = std::process::Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .context("run cargo metadata")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let packages = metadata["packages"].as_array().context("packages in cargo metadata")?;
    let manifest = packages
        .iter()
        .find(|p| p["name"] == name)
        .and_then(|p| p["manifest_path"].as_str())
        .with_context(|| format!("{name} in cargo metadata"))?;
    Ok(Path::new(manifest).with_file_name("src"))
}

fn put(path: &Path, content: Vec<u8>, check: bool) -> Result<()> {
    if check {
        let found = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        return same(path, &found, &content);
    }
    std::fs::create_dir_all(path.parent().context("a folder")?)?;
    std::fs::write(path, content).with_context(|| format!("write {}", path.display()))
}

/// Compares what is compressed, so that a newer compressor does not count as a difference.
fn put_compressed(path: &Path, content: &[u8], check: bool) -> Result<()> {
    if check {
        let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
        let mut found = Vec::new();
        flate2::read::ZlibDecoder::new(file).read_to_end(&mut found).context("decompress descriptions")?;
        return same(path, &found, content);
    }
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content)?;
    put(path, encoder.finish()?, false)
}

fn same(path: &Path, found: &[u8], wanted: &[u8]) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    let line = found.split(|b| *b == b'\n').zip(wanted.split(|b| *b == b'\n')).position(|(a, b)| a != b);
    bail!(
        "{} is out of date from line {}: run the generator without --check",
        path.display(),
        line.map_or(0, |l| l + 1)
    )
}
