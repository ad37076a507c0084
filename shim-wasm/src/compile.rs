//! The compile role: one short-lived, limited process per artifact, at image pull. The only place
//! where Cranelift runs. Input is what a registry sent, so the process expects the worst of it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::{Resource, Rlimit};
use sha2::{Digest, Sha256};

use crate::confine::{self, ConfineError};
use crate::engine::{self, Tier};
use crate::seal;

/// Address space of the process; a 13 MB component takes 0.4 GiB.
const MAX_ADDRESS_SPACE: u64 = 4 << 30;
/// CPU seconds of the process.
const MAX_CPU_SECONDS: u64 = 240;
/// Size of the output.
const MAX_OUTPUT: u64 = 2 << 30;
/// Size of the input.
const MAX_INPUT: u64 = 512 << 20;

/// What to compile.
#[derive(Clone, Debug)]
pub struct CompileConfig {
    /// The artifact as pulled: a WASI p1 module or a component.
    pub input: PathBuf,
    /// Where the compiled file goes; appears whole or not at all.
    pub output: PathBuf,
}

/// Why an artifact was not compiled. The text is meant for the pod's event.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The input could not be read.
    #[error("read {path}")]
    Read {
        /// The input.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Too big to try.
    #[error("the artifact has {size} bytes; at most {MAX_INPUT} are compiled")]
    TooBig {
        /// Its size.
        size: u64,
    },
    /// Not WebAssembly at all.
    #[error("the artifact is not WebAssembly: it begins with {begins}, not with \\0asm; push a .wasm file")]
    NotWasm {
        /// Its first bytes.
        begins: String,
    },
    /// Compiled native code from somewhere else: running it would be running anything.
    #[error("the artifact is compiled native code, not WebAssembly; push the .wasm file it was made of")]
    Precompiled,
    /// It asks for threads.
    #[error(
        "the artifact uses threads or shared memory, which the wasm host refuses: shared memory escapes the memory limit; build it without atomics ({reason})"
    )]
    Threads {
        /// What the validator said.
        reason: String,
    },
    /// Invalid, or it uses a proposal that no tier has.
    #[error("the artifact is not valid for this host: {reason}")]
    Invalid {
        /// What the validator said.
        reason: String,
    },
    /// An engine could not be made.
    #[error("set up the compiler: {reason}")]
    Engine {
        /// Why.
        reason: String,
    },
    /// The output could not be written.
    #[error("write {path}")]
    Write {
        /// The output.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The limits of the process could not be set.
    #[error("limit the compiling process")]
    Limit(#[source] rustix::io::Errno),
    /// The rights of the process could not be given up.
    #[error("confine the compiling process")]
    Confine(#[source] ConfineError),
}

/// Limits this process for good, opens its files, gives up its rights, then compiles. For a process that does
/// nothing else.
pub fn run(config: &CompileConfig) -> Result<(), CompileError> {
    limit_process().map_err(CompileError::Limit)?;
    let wasm = read_input(&config.input)?;
    let place = Place::open(&config.output)?;
    confine::confine_compiler().map_err(CompileError::Confine)?;
    place.write(&seal::sealed(compile(&wasm)?))
}

fn limit_process() -> Result<(), rustix::io::Errno> {
    let limits = [
        (Resource::As, MAX_ADDRESS_SPACE),
        (Resource::Cpu, MAX_CPU_SECONDS),
        (Resource::Fsize, MAX_OUTPUT),
        (Resource::Core, 0),
    ];
    for (resource, value) in limits {
        let hard = rustix::process::getrlimit(resource).maximum;
        let value = hard.map_or(value, |hard| hard.min(value));
        rustix::process::setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?;
    }
    rustix::process::nice(10).map(drop)
}

/// Compiles `input` for this machine with the smallest tier that accepts it.
pub fn compile_file(input: &Path, output: &Path) -> Result<(), CompileError> {
    let wasm = read_input(input)?;
    Place::open(output)?.write(&seal::sealed(compile(&wasm)?))
}

/// The whole artifact, or not more of it than is compiled.
fn read_input(input: &Path) -> Result<Vec<u8>, CompileError> {
    let read = |source| CompileError::Read { path: input.to_owned(), source };
    let file = File::open(input).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    if size > MAX_INPUT {
        return Err(CompileError::TooBig { size });
    }
    let mut wasm = Vec::new();
    file.take(MAX_INPUT).read_to_end(&mut wasm).map_err(read)?;
    Ok(wasm)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Module,
    Component,
}

fn kind(wasm: &[u8]) -> Result<Kind, CompileError> {
    match wasm.get(..8) {
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => Ok(Kind::Module),
        Some([0, b'a', b's', b'm', 0x0d, 0, 1, 0]) => Ok(Kind::Component),
        _ if wasmtime::Engine::detect_precompiled(wasm).is_some() => Err(CompileError::Precompiled),
        _ => Err(CompileError::NotWasm { begins: format!("{:02x?}", &wasm[..wasm.len().min(8)]) }),
    }
}

fn compile(wasm: &[u8]) -> Result<Vec<u8>, CompileError> {
    let kind = kind(wasm)?;
    let mut refusals = Vec::new();
    for tier in Tier::ALL {
        if kind == Kind::Module && tier == Tier::P3 {
            continue;
        }
        let engine =
            engine::compiling(tier).map_err(|e| CompileError::Engine { reason: format!("{e:#}") })?;
        let compiled = match kind {
            Kind::Module => engine.precompile_module(wasm),
            Kind::Component => engine.precompile_component(wasm),
        };
        match compiled {
            Ok(code) => return Ok(code),
            Err(e) => refusals.push(format!("{e:#}")),
        }
    }
    Err(refusal(&refusals))
}

/// The tier that came farthest into the binary is the one that understood most of it.
fn refusal(reasons: &[String]) -> CompileError {
    let offset = |reason: &String| {
        let hex = reason.rsplit("offset 0x").next().unwrap_or_default();
        u64::from_str_radix(hex.split(|c: char| !c.is_ascii_hexdigit()).next().unwrap_or_default(), 16)
            .unwrap_or(0)
    };
    let reason = reasons.iter().max_by_key(|reason| offset(reason)).cloned().unwrap_or_default();
    let threads = ["threads must be enabled", "shared memor", "atomic"];
    if reasons.iter().any(|reason| threads.iter().any(|word| reason.contains(word))) {
        CompileError::Threads { reason }
    } else {
        CompileError::Invalid { reason }
    }
}

/// Where the output goes. Holding the directory open takes no right to get to it later.
struct Place {
    path: PathBuf,
    directory: OwnedFd,
    name: OsString,
}

impl Place {
    fn open(output: &Path) -> Result<Self, CompileError> {
        let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(parent.unwrap_or(Path::new(".")), flags, Mode::empty());
        let write = |source: io::Error| CompileError::Write { path: output.to_owned(), source };
        let directory = opened.map_err(|errno| write(errno.into()))?;
        let name = output.file_name().ok_or_else(|| write(io::ErrorKind::InvalidInput.into()))?.to_owned();
        Ok(Self { path: output.to_owned(), directory, name })
    }

    /// Written beside the output, made durable, renamed.
    fn write(&self, code: &[u8]) -> Result<(), CompileError> {
        let mut temporary = self.name.clone();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let done = self.write_by(&temporary, code).inspect_err(|_| self.remove(&temporary));
        done.map_err(|source| CompileError::Write { path: self.path.clone(), source })
    }

    fn write_by(&self, temporary: &OsStr, code: &[u8]) -> io::Result<()> {
        // Left behind by a process of the same number.
        self.remove(temporary);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, temporary, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(file);
        file.write_all(code)?;
        file.sync_all()?;
        rustix::fs::renameat(&self.directory, temporary, &self.directory, &self.name)?;
        Ok(rustix::fs::fsync(&self.directory)?)
    }

    fn remove(&self, name: &OsStr) {
        // Mostly there is none; else nothing more can be done about it.
        let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
    }
}

/// Names everything besides the artifact that decides the compiled file: version, settings, CPU.
/// A compiled file whose name has another key must be compiled anew.
pub fn key() -> Result<String, CompileError> {
    let mut hasher = Sha256Hasher(Sha256::new());
    seal::MAGIC.hash(&mut hasher);
    for tier in Tier::ALL {
        let engine =
            engine::compiling(tier).map_err(|e| CompileError::Engine { reason: format!("{e:#}") })?;
        engine.precompile_compatibility_hash().hash(&mut hasher);
    }
    Ok(hasher.0.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// Feeds `Hash` into SHA-256: the standard hasher's result is not promised to stay the same.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        u64::from_le_bytes(std::array::from_fn(|i| digest[i]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(wasm: &[u8]) -> String {
        compile(wasm).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_wasm_is_named() {
        assert!(error(b"\x7fELF....").contains("not WebAssembly"));
        assert!(error(b"").contains("not WebAssembly"));
        assert!(error(b"\0asm\x07\0\0\0").contains("not WebAssembly"));
    }

    #[test]
    fn threads_are_refused_with_the_reason() {
        let wasm = wat::parse_str("(module (memory 1 1 shared))").unwrap();
        assert!(error(&wasm).contains("threads or shared memory"), "{}", error(&wasm));
    }

    #[test]
    fn invalid_code_is_named() {
        let mut wasm = wat::parse_str("(module (func (result i32) i32.const 1))").unwrap();
        let last = wasm.len() - 2;
        wasm.truncate(last);
        assert!(matches!(compile(&wasm), Err(CompileError::Invalid { .. })));
    }

    #[test]
    fn compiled_code_is_not_taken_for_an_artifact() {
        let code = compile(&wat::parse_str("(module)").unwrap()).unwrap();
        assert!(matches!(compile(&code), Err(CompileError::Precompiled)));
    }

    #[test]
    fn output_appears_whole_and_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("in.wasm"), dir.path().join("out.cwasm"));
        std::fs::write(&input, wat::parse_str("(module)").unwrap()).unwrap();
        compile_file(&input, &output).unwrap();
        assert!(wasmtime::Engine::detect_precompiled_file(&output).unwrap().is_some());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn the_key_is_stable() {
        assert_eq!(key().unwrap(), key().unwrap());
        assert_eq!(key().unwrap().len(), 16);
    }
}
