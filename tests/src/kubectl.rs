//! Stock kubectl: the newest at hand that is 1.30 at least, or one built with Go.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// Folders beside PATH where a kubectl may lie, one file a version.
const FOLDERS: [&str; 2] = ["/usr/lib/google-cloud-sdk/bin", "/usr/local/bin"];
const OLDEST: (u32, u32) = (1, 30);

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// kubectl against one cluster.
#[derive(Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

// === impl Kubectl ===

impl Kubectl {
    /// kubectl with the credentials of a file.
    #[must_use]
    pub fn new(kubeconfig: &Path) -> Self {
        Kubectl { program: program().to_owned(), kubeconfig: kubeconfig.to_owned() }
    }

    /// Another kubectl with the same credentials.
    #[must_use]
    pub fn with_program(&self, program: &Path) -> Self {
        Kubectl { program: program.to_owned(), ..self.clone() }
    }

    /// The command, not yet started. Its caches stay below the kubeconfig's folder.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        let home = self.kubeconfig.parent().unwrap_or(Path::new("/tmp"));
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig).env("HOME", home);
        command.env("KUBECTL_KUBERC", "false").env_remove("HTTPS_PROXY").env_remove("https_proxy");
        command
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When kubectl cannot be started.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, "")
    }

    /// Runs it with a text on its standard input.
    ///
    /// # Panics
    /// When kubectl cannot be started.
    #[must_use]
    pub fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_owned();
        let writer = std::thread::spawn(move || {
            use std::io::Write;
            // kubectl may end without reading all of it.
            let _ = stdin.write_all(input.as_bytes());
        });
        let done = child.wait_with_output().expect("kubectl ends");
        writer.join().expect("the writer does not panic");
        Output {
            code: done.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        }
    }

    /// Runs it and demands that it succeeds. Returns its standard output.
    ///
    /// # Panics
    /// With everything it printed when it fails.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.code, 0, "kubectl {}\n{}{}", arguments.join(" "), output.stdout, output.stderr);
        output.stdout
    }

    /// Applies a manifest given as text.
    ///
    /// # Panics
    /// With everything it printed when it fails.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        let output = self.run_with(&["apply", "-f", "-"], manifest);
        assert_eq!(output.code, 0, "kubectl apply\n{}{}\n{manifest}", output.stdout, output.stderr);
        output.stdout
    }

    /// Runs it and demands that it fails. Returns its standard error.
    ///
    /// # Panics
    /// When it succeeds.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run_with(arguments, input);
        assert_ne!(output.code, 0, "kubectl {} succeeded\n{}", arguments.join(" "), output.stdout);
        output.stderr
    }

    /// A value of an object by JSONPath, empty when there is none.
    #[track_caller]
    pub fn value(&self, object: &[&str], path: &str) -> String {
        let output = format!("-ojsonpath={path}");
        let arguments: Vec<_> = ["get"].iter().chain(object).copied().chain([output.as_str()]).collect();
        self.ok(&arguments)
    }

    /// Starts it in the background with its output piped.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("kubectl starts")
    }
}

/// The kubectl that the tests drive.
///
/// # Panics
/// When there is none and none can be built: the tests never skip it.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| newest().unwrap_or_else(build))
}

/// Every kubectl on this machine with its version, newest first.
#[must_use]
pub fn all() -> Vec<((u32, u32), PathBuf)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    let files = folders.flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    let named = files.filter(|file| {
        let name = file.file_name();
        let name = name.to_string_lossy();
        name == "kubectl" || name.strip_prefix("kubectl.").is_some_and(|v| v.starts_with("1."))
    });
    let mut found: Vec<_> = named.filter_map(|file| Some((version(&file.path())?, file.path()))).collect();
    found.sort();
    found.dedup_by_key(|(version, _)| *version);
    found.reverse();
    found
}

fn newest() -> Option<PathBuf> {
    let (version, path) = all().into_iter().next()?;
    (version >= OLDEST).then_some(path)
}

/// Major and minor version that a kubectl says of itself; a file that only dispatches to others says
/// what it would start, and is left out.
fn version(program: &Path) -> Option<(u32, u32)> {
    let output = Command::new(program).args(["version", "--client", "-o", "json"]).output().ok()?;
    let text: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let git = text["clientVersion"]["gitVersion"].as_str()?;
    if git.contains("dispatcher") {
        return None;
    }
    let mut numbers = git.trim_start_matches('v').split(['.', '-', '+']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What a kubectl that is built from its module says of itself; the version in `tests/kubectl/go.mod`.
const VERSION: &str = "-ldflags=-X k8s.io/component-base/version.gitVersion=v1.33.4";

/// Builds kubectl from its module with Go; kept beside the test's binaries.
fn build() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kubectl");
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kubectl");
    if version(&target).is_none() {
        let built = Command::new("go")
            .args(["build", VERSION, "-o"])
            .arg(&target)
            .arg(".")
            .current_dir(folder)
            .status();
        let ok = built.is_ok_and(|status| status.success());
        assert!(
            ok,
            "no kubectl of 1.30 or newer on PATH, and `go build` of tests/kubectl failed: install either"
        );
    }
    target
}
