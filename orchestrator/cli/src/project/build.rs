//! Building a project with its language's own tools; what is missing is named with the way to get it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Language, Project};

const RUST_TARGET: &str = "wasm32-wasip2";
/// The first Go that has GOOS=wasip1.
const OLDEST_GO: (u32, u32) = (1, 21);

/// Why a project cannot be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error("{what} is missing; {install}")]
    Missing { what: &'static str, install: String },
    #[error("cannot start {program}")]
    Start {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{0} failed; what it says is above")]
    Failed(String),
    #[error(
        "{0} built no WebAssembly program: its Cargo.toml needs a main.rs, or a [lib] of crate-type cdylib"
    )]
    NoProgram(String),
    #[error("cannot write {path}")]
    Write {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

/// Where tools are looked for.
pub(crate) struct Tools {
    /// As the variable PATH.
    path: OsString,
    /// The compiler that cargo would use.
    rustc: OsString,
    /// Folders that may hold a wasi-sdk.
    wasi_sdk: Vec<PathBuf>,
}

/// Builds the program; returns where it lies.
pub(crate) fn build(project: &Project, tools: &Tools) -> Result<PathBuf, BuildError> {
    let artifact = project.directory.join(project.artifact());
    let folder = artifact.parent().expect("an artifact lies in a folder");
    std::fs::create_dir_all(folder).map_err(|source| write_error(folder, source))?;
    match project.language {
        Language::Rust => rust(project, tools, &artifact)?,
        Language::Python => run(&mut python(project, tools)?)?,
        Language::Js => run(&mut js(project, tools)?)?,
        Language::Go => run(&mut go(project, tools)?)?,
        Language::C => run(&mut c(project, tools)?)?,
    }
    Ok(artifact)
}

fn write_error(path: &Path, source: std::io::Error) -> BuildError {
    BuildError::Write { path: path.display().to_string(), source }
}

// === impl Tools ===

impl Tools {
    /// Those of whoever runs this.
    pub(crate) fn here() -> Self {
        let sdk = std::env::var_os("WASI_SDK_PATH").map(PathBuf::from);
        Tools {
            path: std::env::var_os("PATH").unwrap_or_default(),
            rustc: std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()),
            wasi_sdk: sdk.into_iter().chain(["/opt/wasi-sdk".into()]).collect(),
        }
    }

    fn has(&self, program: &str) -> bool {
        std::env::split_paths(&self.path).any(|folder| folder.join(program).is_file())
    }

    fn need(&self, program: &'static str, install: &str) -> Result<(), BuildError> {
        if self.has(program) { Ok(()) } else { Err(missing(program, install)) }
    }

    /// A command in the project's folder.
    fn command(&self, program: impl AsRef<OsStr>, project: &Project) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&project.directory).env("PATH", &self.path);
        command
    }
}

fn missing(what: &'static str, install: &str) -> BuildError {
    BuildError::Missing { what, install: install.to_owned() }
}

/// Runs a tool, which talks to the terminal itself.
fn run(command: &mut Command) -> Result<(), BuildError> {
    let shown = show(command);
    eprintln!("  {shown}");
    let status = command.status().map_err(|source| start_error(command, source))?;
    if status.success() { Ok(()) } else { Err(BuildError::Failed(shown)) }
}

fn start_error(command: &Command, source: std::io::Error) -> BuildError {
    BuildError::Start { program: command.get_program().to_string_lossy().into_owned(), source }
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// What a tool prints, when it succeeds.
fn said(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn rust(project: &Project, tools: &Tools, artifact: &Path) -> Result<(), BuildError> {
    tools.need("cargo", "install Rust from https://rustup.rs, then run `rustup target add wasm32-wasip2`")?;
    let mut rustc = tools.command(&tools.rustc, project);
    let folder = said(rustc.args(["--print", "target-libdir", "--target", RUST_TARGET]));
    let std = folder.and_then(|folder| std::fs::read_dir(folder).ok());
    if !std.is_some_and(|mut files| files.any(|file| file.is_ok_and(|file| is_std(&file.file_name())))) {
        return Err(missing(
            "Rust's standard library for wasm32-wasip2",
            "run `rustup target add wasm32-wasip2`",
        ));
    }
    let mut cargo = tools.command("cargo", project);
    cargo.args(["build", "--release", "--target", RUST_TARGET]);
    let shown = show(&cargo);
    eprintln!("  {shown}");
    cargo.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let child = cargo.spawn().map_err(|source| start_error(&cargo, source))?;
    let output = child.wait_with_output().map_err(|source| start_error(&cargo, source))?;
    if !output.status.success() {
        return Err(BuildError::Failed(shown));
    }
    let built =
        built_program(&String::from_utf8_lossy(&output.stdout)).ok_or(BuildError::NoProgram(shown))?;
    std::fs::copy(built, artifact).map(drop).map_err(|source| write_error(artifact, source))
}

fn is_std(file: &OsStr) -> bool {
    let name = file.to_string_lossy();
    name.starts_with("libstd-") && name.ends_with(".rlib")
}

/// The last .wasm file that cargo's messages tell of: that of the package itself.
fn built_program(messages: &str) -> Option<String> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut files = messages.filter(|message| message["reason"] == "compiler-artifact").flat_map(|message| {
        let files = message["filenames"].as_array().cloned().unwrap_or_default();
        files.into_iter().filter_map(|file| file.as_str().map(str::to_owned))
    });
    files.rfind(|file| file.ends_with(".wasm"))
}

fn python(project: &Project, tools: &Tools) -> Result<Command, BuildError> {
    tools.need("componentize-py", "run `pip install componentize-py==0.25.1` (Python 3.10 or newer)")?;
    let mut command = tools.command("componentize-py", project);
    command
        .args(["-d", "wit", "-w", "http", "componentize", "-p", "src", "app", "-o"])
        .arg(project.artifact());
    Ok(command)
}

fn js(project: &Project, tools: &Tools) -> Result<Command, BuildError> {
    tools.need("node", "install Node.js 20 or newer, then run `npm install` in the project")?;
    if !project.directory.join("node_modules/@bytecodealliance/componentize-js").exists() {
        let folder = project.directory.display();
        return Err(missing("componentize-js", &format!("run `npm install` in {folder}")));
    }
    let mut command = tools.command("node", project);
    command.arg("build.mjs").arg(project.artifact());
    Ok(command)
}

fn go(project: &Project, tools: &Tools) -> Result<Command, BuildError> {
    let install = "install Go 1.21 or newer from https://go.dev/dl";
    tools.need("go", install)?;
    let version = said(tools.command("go", project).args(["env", "GOVERSION"])).unwrap_or_default();
    if go_version(&version).is_some_and(|version| version < OLDEST_GO) {
        return Err(missing("GOOS=wasip1", &format!("this is {version}: {install}")));
    }
    let mut command = tools.command("go", project);
    command.env("GOOS", "wasip1").env("GOARCH", "wasm");
    command.args(["build", "-trimpath", "-ldflags=-s -w", "-o"]).arg(project.artifact()).arg("./src");
    Ok(command)
}

/// `go1.26.1` is (1, 26); nothing for a version of its own making.
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("go")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn c(project: &Project, tools: &Tools) -> Result<Command, BuildError> {
    let mut command = c_compiler(project, tools).ok_or_else(|| {
        let zig = "a C compiler for WASI: `pip install ziglang`, zig from https://ziglang.org/download";
        missing(
            "a C compiler for WASI",
            &format!("install {zig}, or wasi-sdk (WASI_SDK_PATH says where it is)"),
        )
    })?;
    let mut sources: Vec<_> = std::fs::read_dir(project.directory.join("src"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|file| Path::new("src").join(file.file_name()))
        .filter(|file| file.extension().is_some_and(|end| end == "c"))
        .collect();
    sources.sort();
    command.args(["-Os", "-s", "-Wall", "-Wextra", "-o"]).arg(project.artifact()).args(sources);
    Ok(command)
}

/// The first at hand: clang of a wasi-sdk, zig, zig as a Python package.
fn c_compiler(project: &Project, tools: &Tools) -> Option<Command> {
    let clang = tools.wasi_sdk.iter().map(|sdk| sdk.join("bin/clang")).find(|clang| clang.is_file());
    let (mut command, target) = if let Some(clang) = clang {
        (tools.command(clang, project), "--target=wasm32-wasip1")
    } else if tools.has("zig") {
        let mut command = tools.command("zig", project);
        command.arg("cc");
        (command, "--target=wasm32-wasi")
    } else {
        said(tools.command("python3", project).args(["-m", "ziglang", "version"]))?;
        let mut command = tools.command("python3", project);
        command.args(["-m", "ziglang", "cc"]);
        (command, "--target=wasm32-wasi")
    };
    command.arg(target);
    Some(command)
}

#[cfg(test)]
mod tests;
