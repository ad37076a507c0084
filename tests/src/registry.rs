//! A registry that is not ours: Debian's docker-registry on loopback.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::wait::until;

/// A running docker-registry.
pub struct Registry {
    child: Child,
    directory: TempDir,
    port: u16,
}

impl Registry {
    /// Starts it on a free port.
    ///
    /// # Panics
    /// When it is not installed or does not come up.
    #[must_use]
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let config = directory.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
            directory.path().join("data").display()
        );
        std::fs::write(&config, text).expect("the config is written");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry starts: install the package docker-registry");
        let registry = Registry { child, directory, port };
        until("docker-registry", Duration::from_secs(20), || {
            crate::http::get(([127, 0, 0, 1], port).into(), "/v2/").map_err(|e| e.to_string())
        });
        registry
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where it keeps its blobs, to spoil them.
    #[must_use]
    pub fn blob(&self, digest: &str) -> std::path::PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.directory.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It has ended by itself already, or ends now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A TCP port on loopback that nobody listens on.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}
