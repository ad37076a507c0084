//! Compiles wasm for this machine at pull time, in a short-lived process of its own with limits, once per code and
//! compiler.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;
use tokio::sync::Semaphore;

use super::content::{hex, hex_of};

/// The longest a compilation may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Address space of the process.
const MEMORY: u64 = 8 << 30;
/// Compilations at a time.
const AT_A_TIME: usize = 2;

/// Why code was not compiled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompileError {
    #[error("the compiler cannot be started")]
    Spawn(#[source] io::Error),
    #[error("the WebAssembly does not compile: {0}")]
    Refused(String),
    #[error("the WebAssembly did not compile within {} s", LIMIT.as_secs())]
    TooSlow,
    #[error("the compiled code cannot be kept")]
    Place(#[source] io::Error),
}

/// Runs the compile role of the binary.
#[derive(Clone)]
pub(crate) struct Compiler {
    executable: PathBuf,
    directory: PathBuf,
    key: String,
    turns: Arc<Semaphore>,
}

// === impl Compiler ===

impl Compiler {
    /// A compiler that keeps its results in `root/wasm`.
    pub(crate) fn new(executable: &Path, root: &Path) -> Self {
        Compiler {
            executable: executable.to_owned(),
            directory: root.join("wasm"),
            key: key(executable),
            turns: Arc::new(Semaphore::new(AT_A_TIME)),
        }
    }

    /// The compiled form of `artifact`, whose digest is given; made now where it is not here.
    pub(crate) async fn compile(&self, artifact: &Path, digest: &str) -> Result<PathBuf, CompileError> {
        let hex = hex_of(digest).map_err(|error| CompileError::Refused(error.to_string()))?;
        let place = self.directory.join(format!("{hex}-{}.cwasm", self.key));
        if place.is_file() {
            return Ok(place);
        }
        let _turn = self.turns.acquire().await.expect("the semaphore is never closed");
        if place.is_file() {
            return Ok(place);
        }
        let made = self.directory.join(format!("{hex}.{}.new", std::process::id()));
        self.run(artifact, &made).await?;
        std::fs::rename(&made, &place).map_err(CompileError::Place)?;
        Ok(place)
    }

    async fn run(&self, from: &Path, to: &Path) -> Result<(), CompileError> {
        let mut command = Command::new(&self.executable);
        command.args(["shim-wasm", "compile"]).arg(from).arg(to);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn().map_err(CompileError::Spawn)?;
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            // Best effort: where limits cannot be set, the time limit still holds.
            let _ = prlimit(Some(pid), Resource::As, Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) });
            let _ = rustix::process::setpriority_process(Some(pid), 10);
        }
        let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await;
        let output = output.map_err(|_| CompileError::TooSlow)?.map_err(CompileError::Spawn)?;
        if output.status.success() {
            return Ok(());
        }
        let _ = std::fs::remove_file(to);
        let text = String::from_utf8_lossy(&output.stderr);
        let text = text.trim().trim_start_matches("error: ");
        let told = if text.is_empty() { output.status.to_string() } else { text.to_owned() };
        Err(CompileError::Refused(told))
    }
}

/// Names the compiler: another binary makes other code, and its host would refuse ours.
fn key(executable: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let stamp = std::fs::metadata(executable).map(|meta| (meta.len(), meta.mtime(), meta.mtime_nsec())).ok();
    let text = format!("{} {stamp:?}", env!("CARGO_PKG_VERSION"));
    hex(&Sha256::digest(text.as_bytes())[..6])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::content::digest_of;

    /// A stand-in for the binary: copies, or complains.
    fn compiler(dir: &Path, script: &str) -> Compiler {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.join("compiler");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir_all(dir.join("wasm")).unwrap();
        Compiler::new(&path, dir)
    }

    #[tokio::test]
    async fn code_is_compiled_once() {
        let dir = tempfile::tempdir().unwrap();
        let code = dir.path().join("code");
        std::fs::write(&code, b"x").unwrap();
        let compiler = compiler(dir.path(), "echo run >> \"$3.count\"; cat \"$3\" > \"$4\"");
        let digest = digest_of(b"x");
        let first = compiler.compile(&code, &digest).await.unwrap();
        assert_eq!(compiler.compile(&code, &digest).await.unwrap(), first);
        assert_eq!(std::fs::read(&first).unwrap(), b"x");
        assert_eq!(std::fs::read_to_string(dir.path().join("code.count")).unwrap(), "run\n");
    }

    #[tokio::test]
    async fn what_the_compiler_says_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let compiler = compiler(dir.path(), "echo 'error: unknown import foo' >&2; exit 1");
        let error = compiler.compile(&dir.path().join("code"), &digest_of(b"x")).await.unwrap_err();
        assert_eq!(error.to_string(), "the WebAssembly does not compile: unknown import foo");
        assert_eq!(std::fs::read_dir(dir.path().join("wasm")).unwrap().count(), 0);
    }
}
