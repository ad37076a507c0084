//! One suite that every shim passes: what the contract promises, asked over the socket. A shim's own
//! tests give it a [`Bench`] (how to make containers that do what the suite needs) and assert that
//! [`Report::failures`] is empty.

mod pods;
mod task_api;

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::Process;

use crate::client::TaskClient;
use crate::spec::ContainerSpec;

/// How long any one step may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a container of the suite does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// Ends at once with this code.
    Exit(u8),
    /// Writes the first to stdout and the second to stderr, then ends with 0.
    Say(String, String),
    /// Runs until it is told to stop (TERM), or killed.
    Run,
    /// A program that does not exist.
    Missing,
}

/// A shim under test.
pub trait Bench: Send + Sync {
    /// Its socket.
    fn socket(&self) -> PathBuf;
    /// A container called `name`, logging to `log` in the CRI format.
    fn container(&self, name: &str, program: &Program, log: &Path) -> ContainerSpec;
    /// A process that copies stdin to stdout and then ends with 7, to be run in a container that runs;
    /// `None` where the nature of the runtime forbids it.
    fn echo(&self) -> Option<Process>;
    /// A directory for logs and pipes.
    fn scratch(&self) -> PathBuf;
}

/// How the cases went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Names of the cases that passed.
    pub passed: Vec<&'static str>,
    /// Names of those that did not, and why.
    pub failures: Vec<(&'static str, String)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} cases passed: {}", self.passed.len(), self.passed.join(", "))?;
        self.failures.iter().try_for_each(|(case, why)| writeln!(f, "FAILED {case}: {why}"))
    }
}

impl Report {
    async fn case(&mut self, name: &'static str, run: impl Future<Output = Outcome>) {
        match tokio::time::timeout(PATIENCE * 3, run).await {
            Ok(Ok(())) => self.passed.push(name),
            Ok(Err(why)) => self.failures.push((name, why)),
            Err(_) => self.failures.push((name, "no answer in a minute".into())),
        }
    }
}

/// A case passed, or what was wrong.
type Outcome = Result<(), String>;

/// Runs every case of our own service.
pub async fn pods(bench: &dyn Bench) -> Report {
    pods::run(bench, TaskClient::lazy(&bench.socket())).await
}

/// Runs every case of containerd's Task API under the name `service` ([`crate::TASK_V2`] or
/// [`crate::TASK_V3`]). `bundle` makes a bundle directory (config.json, root file system) for a
/// program.
pub async fn task_api(
    bench: &dyn Bench,
    service: &'static str,
    bundle: &(dyn Fn(&str, &Program) -> PathBuf + Sync),
) -> Report {
    task_api::run(bench, service, bundle).await
}

/// Fails the case with the text when the condition does not hold.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}
pub(crate) use ensure;

/// What it came to, or a failure that says it took too long.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(PATIENCE, future).await.map_err(|_| format!("{what}: no answer in {PATIENCE:?}"))
}
