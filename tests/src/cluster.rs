//! A whole cluster as processes, in a data directory of its own, taken down at the end of a test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::kubectl::{Kubectl, Output};
use crate::wait::until;

/// A running cluster.
pub struct Cluster {
    directory: TempDir,
    /// kubectl with administrator's rights.
    pub kubectl: Kubectl,
}

/// What `up` is asked for besides the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demo {
    /// Deploy the samples.
    With,
    /// An empty cluster.
    Without,
}

/// The binary under test: what `cargo build --release` made.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn binary() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(target, PathBuf::from);
    let path = target.join("release/catamaran");
    assert!(path.exists(), "{} is missing: run `cargo build --release` first", path.display());
    path.canonicalize().expect("it exists")
}

/// Chooses the TLS provider of this process once; plain HTTP clients ask for one too.
pub fn use_ring() {
    // Fails only when it was chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Runs the binary to its end.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn catamaran(arguments: &[&str]) -> Output {
    let output = Command::new(binary()).args(arguments).stdin(Stdio::null()).output().expect("it starts");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

// === impl Cluster ===

impl Cluster {
    /// Starts a cluster on an empty data directory.
    ///
    /// # Panics
    /// With what `up` printed when it does not start.
    #[track_caller]
    #[must_use]
    pub fn up(demo: Demo) -> Self {
        Self::up_with(demo, &[], &[])
    }

    /// The same with further arguments and environment.
    ///
    /// # Panics
    /// With what `up` printed when it does not start.
    #[track_caller]
    #[must_use]
    pub fn up_with(demo: Demo, arguments: &[&str], environment: &[(&str, &Path)]) -> Self {
        let directory = tempfile::Builder::new().prefix("cat").tempdir_in("/tmp").expect("a directory");
        let kubectl = Kubectl::new(&directory.path().join("kubeconfig"));
        let cluster = Cluster { directory, kubectl };
        cluster.start(demo, arguments, environment);
        cluster
    }

    /// Runs `up --detach` on this data directory (again).
    ///
    /// # Panics
    /// With what it printed when it fails.
    #[track_caller]
    pub fn start(&self, demo: Demo, arguments: &[&str], environment: &[(&str, &Path)]) -> String {
        let mut command = Command::new(binary());
        command.args(["up", "--detach", "--node-name", "node-1", "--data-dir"]).arg(self.data());
        command.args(arguments).stdin(Stdio::null());
        // What a user has who sets nothing.
        command.env_remove("SSL_CERT_FILE");
        if demo == Demo::With {
            command.arg("--demo");
        }
        for (name, value) in environment {
            command.env(name, value);
        }
        let output = command.output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "up failed\n{text}{errors}\n{}", self.logs());
        text
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a command of the binary on this data directory.
    #[must_use]
    pub fn run(&self, command: &str, arguments: &[&str]) -> Output {
        let data = self.data().to_str().expect("a plain path");
        let all: Vec<_> =
            command.split(' ').chain(["--data-dir", data]).chain(arguments.iter().copied()).collect();
        catamaran(&all)
    }

    /// The end of every part's log, for the message of a failed test.
    #[must_use]
    pub fn logs(&self) -> String {
        let files = std::fs::read_dir(self.data().join("log")).into_iter().flatten().flatten();
        let mut text = String::new();
        for file in files.filter(|file| file.path().is_file()) {
            let log = std::fs::read_to_string(file.path()).unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(15).collect();
            text += &format!("--- {}\n", file.path().display());
            lines.iter().rev().for_each(|line| text += &format!("{line}\n"));
        }
        text
    }

    /// Process id of a part.
    ///
    /// # Panics
    /// When there is no process file.
    #[must_use]
    pub fn pid(&self, part: &str) -> i32 {
        let file = self.data().join("run").join(format!("{part}.pid"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        text.split(' ').next().and_then(|pid| pid.parse().ok()).expect("a process file")
    }

    /// Waits until a Deployment has all its replicas available.
    #[track_caller]
    pub fn wait_available(&self, deployment: &str) {
        let limit = Duration::from_secs(60);
        until(&format!("deployment {deployment}"), limit, || {
            let path = "{.spec.replicas} {.status.availableReplicas} {.status.updatedReplicas}";
            let counts = self.kubectl.value(&["deployment", deployment], path);
            let numbers: Vec<_> = counts.split(' ').collect();
            match numbers[..] {
                [wanted, available, updated] if wanted == available && wanted == updated => Ok(()),
                _ => Err(format!("{counts}\n{}", self.kubectl.ok(&["get", "pods,events", "-o", "wide"]))),
            }
        });
    }

    /// Where a Service of type NodePort answers on this machine.
    #[must_use]
    pub fn node_port(&self, service: &str) -> SocketAddr {
        let port = self.kubectl.value(&["service", service], "{.spec.ports[0].nodePort}");
        SocketAddr::from(([127, 0, 0, 1], port.parse().expect("a port")))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let down = self.run("down", &[]);
        if down.code != 0 && !std::thread::panicking() {
            panic!("down failed\n{}{}", down.stdout, down.stderr);
        }
    }
}
