//! `wasmtime serve`, of the version that Catamaran has: the one on PATH, else one built for the purpose.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The version of the wasmtime crates in the workspace.
const VERSION: &str = "48.0.8";
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools");

/// The flags that make it fastest on Linux 6.7 and newer.
pub(crate) const BEST: &[&str] = &[
    "-Opooling-allocator=y",
    "-Opooling-pagemap-scan=yes",
    "-Opooling-memory-keep-resident=2097152",
    "-Opooling-table-keep-resident=524288",
    "-Opooling-max-unused-warm-slots=1000",
];

/// A running `wasmtime serve`; ended when dropped.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Peer {
    /// Serves the component on a free port of the loopback address.
    ///
    /// # Panics
    /// When it does not start.
    pub(crate) fn start(component: &str, flags: &[&str]) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], catamaran_tests::registry::free_port()));
        let mut command = Command::new(program());
        command.args(["serve", "-Scli=y", "--env", "POD_NAME=bench", "--addr", &address.to_string()]);
        command.args(flags).arg(component).stdout(Stdio::null()).stderr(Stdio::null());
        // A backtrace for each error inside of it would make it slower than it is.
        let child = command.env("RUST_BACKTRACE", "0").spawn().expect("wasmtime starts");
        super::load::wait_for(address);
        Peer { address, child }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    pub(crate) fn version() -> String {
        let output = Command::new(program()).arg("--version").output().expect("wasmtime starts");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> PathBuf {
    let is_ours = |program: &Path| {
        let output = Command::new(program).arg("--version").output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(VERSION))
    };
    let built = Path::new(TOOLS).join("bin/wasmtime");
    if let Some(found) = [PathBuf::from("wasmtime"), built.clone()].into_iter().find(|p| is_ours(p)) {
        return found;
    }
    eprintln!("building wasmtime-cli {VERSION} (some minutes, once)");
    let done = Command::new("cargo")
        .args(["install", "--locked", "--quiet", "wasmtime-cli", "--version", VERSION, "--root", TOOLS])
        .status();
    assert!(done.is_ok_and(|status| status.success()), "wasmtime-cli {VERSION} could not be built");
    built
}
