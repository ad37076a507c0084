//! From a compiled file to something that can be instantiated: loaded once per file, linked against
//! what this host provides, told apart by what it exports.

use std::collections::HashMap;
use std::fmt::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Engine, Module, Precompiled};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use crate::engine::{Engines, Tier};
use crate::guest::{Guest, ModuleGuest};
use crate::net::shadow;
use crate::seal;

/// Why a compiled file cannot be run. The text is meant for the container's status.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It is not there.
    #[error("read the compiled file {path}; compile the artifact again")]
    Missing {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not one of our compiled files.
    #[error("{path} is not a compiled WebAssembly file; delete it and compile the artifact again")]
    NotCompiled {
        /// The file.
        path: PathBuf,
    },
    /// Not as the compile role left it, or where others could have changed it.
    #[error("{path} is not run: {reason}; delete it and compile the artifact again")]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Damaged, or of another version or CPU.
    #[error("{path} does not fit this host ({reason}); delete it and compile the artifact again")]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// An engine could not be made.
    #[error("set up the wasm engine: {0}")]
    Engine(String),
    /// It wants what it does not get.
    #[error("{0}")]
    Imports(String),
    /// It exports nothing that can be run.
    #[error(
        "the {kind} exports nothing that can be run (wasi:http/incoming-handler@0.2, wasi:http/handler@0.3, wasi:cli/run, or _start of a module); it exports {exports}"
    )]
    NoEntry {
        /// `component` or `module`.
        kind: &'static str,
        /// What there is.
        exports: String,
    },
}

/// What a program is, ready to be instantiated.
pub(crate) enum Entry {
    /// `wasi:http/incoming-handler@0.2`.
    Http2(ProxyPre<Guest>),
    /// `wasi:http/handler@0.3`.
    Http3(ServicePre<Guest>),
    /// `wasi:cli/run@0.2`.
    Command2(CommandPre<Guest>),
    /// `wasi:cli/run@0.3`.
    Command3(InstancePre<Guest>),
    /// `_start` of a WASI p1 module.
    Module(wasmtime::InstancePre<ModuleGuest>),
}

impl Entry {
    /// Whether it answers requests, rather than running to an end.
    pub(crate) fn is_http(&self) -> bool {
        matches!(self, Self::Http2(_) | Self::Http3(_))
    }
}

/// A loaded program; replicas on one host share it.
pub(crate) struct Program {
    pub(crate) entry: Entry,
    pub(crate) engine: Engine,
    /// Bytes of the largest memory that an instance begins with.
    pub(crate) initial_memory: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct FileId {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

/// All programs of a host.
pub(crate) struct Programs {
    engines: Arc<Engines>,
    linkers: Mutex<HashMap<Tier, Arc<Linker<Guest>>>>,
    loaded: Mutex<HashMap<FileId, Weak<Program>>>,
}

impl Programs {
    pub(crate) fn new(engines: Arc<Engines>) -> Self {
        Self { engines, linkers: Mutex::default(), loaded: Mutex::default() }
    }

    /// The program in the compiled file `path`.
    pub(crate) fn load(&self, path: &Path) -> Result<Arc<Program>, ProgramError> {
        let missing = |source| ProgramError::Missing { path: path.to_owned(), source };
        let metadata = std::fs::metadata(path).map_err(missing)?;
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let id = FileId { device: metadata.dev(), inode: metadata.ino(), changed };
        let known =
            self.loaded.lock().unwrap_or_else(PoisonError::into_inner).get(&id).and_then(Weak::upgrade);
        if let Some(program) = known {
            return Ok(program);
        }
        let program = self.read(path).inspect_err(|error| discard(path, error))?;
        let program = Arc::new(program);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|_, program| program.strong_count() > 0);
        loaded.insert(id, Arc::downgrade(&program));
        Ok(program)
    }

    fn read(&self, path: &Path) -> Result<Program, ProgramError> {
        let missing = |source| ProgramError::Missing { path: path.to_owned(), source };
        let mut file = std::fs::File::open(path).map_err(missing)?;
        // The same file, whatever happens to its name.
        let open = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let kind = Engine::detect_precompiled_file(&open).ok().flatten();
        let Some(kind) = kind else { return Err(ProgramError::NotCompiled { path: path.to_owned() }) };
        seal::check(path, &mut file).map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            let reason = format!("{error}{}", cause.unwrap_or_default());
            ProgramError::Unsafe { path: path.to_owned(), reason }
        })?;
        match kind {
            Precompiled::Component => self.component(path, &open),
            Precompiled::Module => self.module(path, &open),
        }
    }

    fn component(&self, path: &Path, open: &Path) -> Result<Program, ProgramError> {
        let mut reasons = String::new();
        for tier in Tier::ALL {
            let engine = self.engines.get(tier).map_err(ProgramError::Engine)?;
            match deserialize_component(engine, open) {
                Ok(component) => {
                    let entry = self.link(tier, engine, &component)?;
                    let required = component.resources_required();
                    let initial_memory = required.and_then(|r| r.max_initial_memory_size).unwrap_or(0);
                    return Ok(Program { entry, engine: engine.clone(), initial_memory });
                }
                Err(e) => reasons = format!("{e:#}"),
            }
        }
        Err(ProgramError::Unfit { path: path.to_owned(), reason: reasons })
    }

    fn link(&self, tier: Tier, engine: &Engine, component: &Component) -> Result<Entry, ProgramError> {
        let linker = self.linker(tier, engine)?;
        let pre = linker
            .instantiate_pre(component)
            .map_err(|e| ProgramError::Imports(imports_text(engine, component, &e)))?;
        if let Ok(http) = ProxyPre::new(pre.clone()) {
            return Ok(Entry::Http2(http));
        }
        if tier == Tier::P3
            && let Ok(http) = ServicePre::new(pre.clone())
        {
            return Ok(Entry::Http3(http));
        }
        if let Ok(command) = CommandPre::new(pre.clone()) {
            return Ok(Entry::Command2(command));
        }
        let exports: Vec<String> =
            component.component_type().exports(engine).map(|(name, _)| name.to_owned()).collect();
        if tier == Tier::P3 && exports.iter().any(|name| name.starts_with("wasi:cli/run@0.3")) {
            return Ok(Entry::Command3(pre));
        }
        Err(ProgramError::NoEntry { kind: "component", exports: listed(&exports) })
    }

    fn module(&self, path: &Path, open: &Path) -> Result<Program, ProgramError> {
        let mut reasons = String::new();
        for tier in [Tier::P2, Tier::P2Gc] {
            let engine = self.engines.get(tier).map_err(ProgramError::Engine)?;
            match deserialize_module(engine, open) {
                Ok(module) => {
                    let entry = link_module(engine, &module)?;
                    let initial_memory = module.resources_required().max_initial_memory_size.unwrap_or(0);
                    return Ok(Program { entry, engine: engine.clone(), initial_memory });
                }
                Err(e) => reasons = format!("{e:#}"),
            }
        }
        Err(ProgramError::Unfit { path: path.to_owned(), reason: reasons })
    }

    fn linker(&self, tier: Tier, engine: &Engine) -> Result<Arc<Linker<Guest>>, ProgramError> {
        let mut linkers = self.linkers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(linker) = linkers.get(&tier) {
            return Ok(Arc::clone(linker));
        }
        let linker = provide(tier, engine).map_err(|e| ProgramError::Engine(format!("{e:#}")))?;
        let linker = Arc::new(linker);
        linkers.insert(tier, Arc::clone(&linker));
        Ok(linker)
    }
}

/// Removes a compiled file that can never be run, so that the next start compiles the artifact again.
fn discard(path: &Path, error: &ProgramError) {
    let useless = matches!(
        error,
        ProgramError::NotCompiled { .. } | ProgramError::Unsafe { .. } | ProgramError::Unfit { .. }
    );
    if !useless || path.extension().is_none_or(|extension| extension != COMPILED) {
        return;
    }
    match std::fs::remove_file(path) {
        Ok(()) => {
            tracing::warn!(path = %path.display(), %error, "removed a compiled file that cannot be run")
        }
        Err(e) => {
            tracing::error!(path = %path.display(), error = %e, "remove a compiled file that cannot be run")
        }
    }
}

#[allow(unsafe_code)]
fn deserialize_component(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: `seal::check` found what our compile role wrote, unchanged, in a directory that only root may
    // write; files appear there by rename and are not changed afterwards.
    unsafe { Component::deserialize_file(engine, path) }
}

#[allow(unsafe_code)]
fn deserialize_module(engine: &Engine, path: &Path) -> wasmtime::Result<Module> {
    // SAFETY: as for components.
    unsafe { Module::deserialize_file(engine, path) }
}

/// All that a component may import.
fn provide(tier: Tier, engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    shadow::p2(&mut linker)?;
    if tier == Tier::P3 {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
        crate::net::shadow3::p3(&mut linker)?;
    }
    Ok(linker)
}

/// All that a WASI p1 module may import.
fn provide_module(engine: &Engine) -> wasmtime::Result<wasmtime::Linker<ModuleGuest>> {
    let mut linker: wasmtime::Linker<ModuleGuest> = wasmtime::Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |guest| &mut guest.wasi)?;
    // wasmtime's own traps on codes above 125; processes, and what wraps them, use all of a byte.
    linker.allow_shadowing(true);
    linker.func_wrap(P1, "proc_exit", |code: i32| -> wasmtime::Result<()> {
        Err(wasmtime_wasi::I32Exit(code & 0xff).into())
    })?;
    Ok(linker)
}

fn link_module(engine: &Engine, module: &Module) -> Result<Entry, ProgramError> {
    let linker = provide_module(engine).map_err(|e| ProgramError::Engine(format!("{e:#}")))?;
    let foreign: Vec<String> = module
        .imports()
        .filter(|import| import.module() != P1)
        .map(|import| format!("{}.{}", import.module(), import.name()))
        .collect();
    if !foreign.is_empty() {
        return Err(ProgramError::Imports(refused(&foreign, "a module gets wasi_snapshot_preview1 only")));
    }
    let pre = linker.instantiate_pre(module).map_err(|e| ProgramError::Imports(format!("{e:#}")))?;
    if module.get_export("_start").is_none() {
        let exports: Vec<String> = module.exports().map(|export| export.name().to_owned()).collect();
        return Err(ProgramError::NoEntry { kind: "module", exports: listed(&exports) });
    }
    Ok(Entry::Module(pre))
}

/// What names of compiled files end in.
const COMPILED: &str = "cwasm";
/// The module that holds the functions of WASI p1.
const P1: &str = "wasi_snapshot_preview1";
/// Interfaces of WASI that the linkers define.
const PROVIDED: [&str; 6] =
    ["wasi:io/", "wasi:clocks/", "wasi:random/", "wasi:cli/", "wasi:filesystem/", "wasi:sockets/"];
const PROVIDED_HTTP: &str = "wasi:http/";

fn imports_text(engine: &Engine, component: &Component, error: &wasmtime::Error) -> String {
    let known = |name: &str| {
        name.starts_with(PROVIDED_HTTP) || PROVIDED.iter().any(|prefix| name.starts_with(prefix))
    };
    let foreign: Vec<String> = component
        .component_type()
        .imports(engine)
        .map(|(name, _)| name.to_owned())
        .filter(|name| !known(name))
        .collect();
    if foreign.is_empty() {
        return format!(
            "the component's imports do not fit what this host provides (WASI 0.2.0 to 0.2.12 and 0.3.0): {error:#}"
        );
    }
    refused(&foreign, "this host provides wasi:io, clocks, random, cli, filesystem, sockets and http")
}

fn refused(names: &[String], provided: &str) -> String {
    format!(
        "imports {}, which {} not granted; {provided}",
        listed(names),
        if names.len() == 1 { "is" } else { "are" }
    )
}

/// At most eight names in a row.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    if names.is_empty() {
        return "nothing".into();
    }
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        // Writing to a String does not fail.
        let _ = write!(text, " and {} more", names.len() - SHOWN);
    }
    text
}
