//! The keeper: parent of the worker and of every container. It does nothing that can fail for load or
//! input: it holds descriptors, reaps, writes exit files, and starts the worker again.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use catamaran_task::server::{ServeError, Sockets};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::ShimOciConfig;
use crate::custody::{self, Served, Vault};
use crate::exits::{self, Ended, Identity, Status};
use crate::launch::sys::{self, MountAttr, attr};
use crate::state::Root;
use crate::worker::{self, Inheritance};

/// Workers that die one after the other, each younger than this, are started again after a pause.
const HEALTHY: Duration = Duration::from_secs(1);
/// How many of them at once.
const AT_ONCE: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);
/// How soon an exit that could not be written down is tried again.
const RECORD_AGAIN: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// Says that this process runs from a read-only mount of its own file.
const SEALED: &str = "CATAMARAN_SHIM_OCI_SEALED";

/// Why the shim could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeeperError {
    #[error("prepare the directory {}", path.display())]
    Root {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another shim uses the directory {0}; stop it or choose another --root")]
    InUse(PathBuf),
    #[error("open the log {}", path.display())]
    Log {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Sockets(#[from] ServeError),
    #[error("{step}")]
    System {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

fn system(step: &'static str) -> impl Fn(io::Error) -> KeeperError {
    move |source| KeeperError::System { step, source }
}

/// Runs the keeper until the worker ends by itself.
pub(crate) fn run(config: &ShimOciConfig) -> Result<(), KeeperError> {
    let _lock = lock(&config.root)?;
    let root =
        Root::open(&config.root).map_err(|source| KeeperError::Root { path: config.root.clone(), source })?;
    if let Some(log) = &config.log {
        redirect_output(log)?;
    }
    seal_executable();
    raise_descriptor_limit();
    // Containers are siblings of the worker from birth; what they leave behind comes here too.
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1).map_err(errno("become a subreaper"))?;
    // A process on its way into a container must not be open to those already in it: they could
    // reach this program's file or memory through /proc (CVE-2019-5736). Forks inherit this.
    sys::prctl(libc::PR_SET_DUMPABLE, 0).map_err(errno("set PR_SET_DUMPABLE"))?;
    let sockets = Sockets::bind(&config.socket)?;
    let mut keeper = Keeper {
        signals: signal_descriptor().map_err(system("watch for signals"))?,
        wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| system("make an eventfd")(e.into()))?,
        vault: Vault::default(),
        sockets,
        root,
        worker: None,
        unrecorded: Vec::new(),
        unnamed: false,
        died_young: 0,
        ending: false,
    };
    keeper.keep()?;
    Sockets::remove(&config.socket);
    Ok(())
}

fn errno(step: &'static str) -> impl Fn(i32) -> KeeperError {
    move |errno| KeeperError::System { step, source: io::Error::from_raw_os_error(errno) }
}

struct Keeper {
    signals: OwnedFd,
    /// Tells the worker that exit files were written.
    wake: OwnedFd,
    vault: Vault,
    sockets: Sockets,
    root: Root,
    worker: Option<Worker>,
    /// Exits that could not be written down yet: the disk is full, say.
    unrecorded: Vec<(Identity, Ended)>,
    /// A child ended of which it could not be told which one it is; it is not reaped yet.
    unnamed: bool,
    /// Workers in a row that died young.
    died_young: u32,
    /// SIGTERM was received: the worker is not started again.
    ending: bool,
}

struct Worker {
    pid: i32,
    custody: Option<OwnedFd>,
    started: Instant,
}

impl Keeper {
    fn keep(&mut self) -> Result<(), KeeperError> {
        self.start_worker()?;
        loop {
            let custody = self.worker.as_ref().and_then(|w| w.custody.as_ref());
            let mut watched = vec![PollFd::new(&self.signals, PollFlags::IN)];
            watched.extend(custody.map(|socket| PollFd::new(socket, PollFlags::IN)));
            let open = self.unnamed || !self.unrecorded.is_empty();
            match poll(&mut watched, open.then_some(&RECORD_AGAIN)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(system("poll")(e.into())),
            }
            let ready: Vec<bool> = watched.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready.get(1) == Some(&true) {
                self.serve_custody();
            }
            let next = match ready.first() {
                Some(&true) => self.signal()?,
                _ if open => self.reap()?,
                _ => Next::Go,
            };
            if next == Next::End {
                return Ok(());
            }
        }
    }

    fn serve_custody(&mut self) {
        let Some(worker) = &mut self.worker else { return };
        let Some(socket) = &worker.custody else { return };
        match self.vault.serve(socket) {
            Ok(Served::One) => {}
            // Its end follows by SIGCHLD.
            Ok(Served::Closed) => worker.custody = None,
            Err(e) => {
                tracing::error!(error = %e, "serve the worker");
                worker.custody = None;
            }
        }
    }

    fn signal(&mut self) -> Result<Next, KeeperError> {
        let mut buffer = [0u8; 128];
        while let Ok(128) = sys::read(self.signals.as_raw_fd(), &mut buffer) {
            let number = buffer.first_chunk::<4>().map_or(0, |b| i32::from_ne_bytes(*b));
            if number == libc::SIGTERM || number == libc::SIGINT {
                self.ending = true;
                if let Some(worker) = &self.worker {
                    // SAFETY: our own child, not yet reaped.
                    unsafe { libc::kill(worker.pid, libc::SIGTERM) };
                }
            }
        }
        // Signals of one kind are merged: look at all children whenever any came.
        self.reap()
    }

    /// Puts every ended child on record, then lets the kernel forget it.
    fn reap(&mut self) -> Result<Next, KeeperError> {
        let mut recorded = self.record_again();
        self.unnamed = false;
        while let Some((pid, status)) = ended_child() {
            let is_worker = self.worker.as_ref().is_some_and(|worker| worker.pid == pid);
            if !is_worker {
                match Identity::of(pid as u32) {
                    Ok(identity) => recorded |= self.record(identity, Ended::now(status)),
                    Err(e) => {
                        tracing::error!(pid, ?status, error = %e, "look at a process that ended");
                        self.unnamed = true;
                        break;
                    }
                }
            }
            // SAFETY: a child that ended; the status is not asked for again.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
            if is_worker && self.worker_ended(status)? == Next::End {
                return Ok(Next::End);
            }
        }
        if recorded {
            // Full only after 2^64 - 2 records.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
        Ok(Next::Go)
    }

    /// Writes an end down, now or later; true when it was now.
    fn record(&mut self, process: Identity, ended: Ended) -> bool {
        let Err(e) = exits::record(&self.root.exits(), process, ended) else { return true };
        let status = ended.status;
        tracing::error!(pid = process.pid, ?status, error = %e, "record an exit; it is tried again");
        self.unrecorded.push((process, ended));
        false
    }

    /// Tries what could not be written down before; true when some of it was.
    fn record_again(&mut self) -> bool {
        let before = self.unrecorded.len();
        let exits = self.root.exits();
        self.unrecorded.retain(|(process, ended)| exits::record(&exits, *process, *ended).is_err());
        self.unrecorded.len() < before
    }

    fn worker_ended(&mut self, status: Status) -> Result<Next, KeeperError> {
        let Some(worker) = self.worker.take() else { return Ok(Next::Go) };
        if status == Status::Exited(0) || self.ending {
            tracing::info!("the worker ended");
            return Ok(Next::End);
        }
        // What it had sent before it died still counts.
        while let Some(socket) = &worker.custody {
            let mut watched = [PollFd::new(socket, PollFlags::IN)];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            match poll(&mut watched, Some(&now)) {
                Ok(1) if matches!(self.vault.serve(socket), Ok(Served::One)) => {}
                _ => break,
            }
        }
        tracing::warn!(?status, "the worker died; starting it again");
        self.died_young = if worker.started.elapsed() < HEALTHY { self.died_young + 1 } else { 0 };
        if self.died_young > AT_ONCE {
            std::thread::sleep(PAUSE);
        }
        self.start_worker()?;
        Ok(Next::Go)
    }

    fn start_worker(&mut self) -> Result<(), KeeperError> {
        let (ours, theirs) = custody::pair().map_err(system("make a socket pair"))?;
        let inheritance = Inheritance {
            custody: theirs,
            wake: self.wake.try_clone().map_err(system("copy a descriptor"))?,
            sockets: self.sockets.try_clone().map_err(system("copy the sockets"))?,
            root: self.root.clone(),
            keeper: std::process::id(),
        };
        // SAFETY: this process has one thread, so the copy is whole: no lock is held by another.
        match unsafe { libc::fork() } {
            -1 => Err(system("fork")(io::Error::last_os_error())),
            0 => {
                drop(ours);
                std::process::exit(become_worker(inheritance))
            }
            pid => {
                self.worker = Some(Worker { pid, custody: Some(ours), started: Instant::now() });
                Ok(())
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Next {
    Go,
    End,
}

/// In the fork. The worker ends with the keeper: without it nobody would reap.
fn become_worker(inheritance: Inheritance) -> i32 {
    let keeper = inheritance.keeper;
    let bound = sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
    // SAFETY: no arguments.
    if bound.is_err() || unsafe { libc::getppid() } as u32 != keeper {
        return 1;
    }
    sys::reset_signals();
    // SAFETY: the default for a program that writes to sockets: errors, not a signal.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    match worker::run(inheritance) {
        Ok(()) => 0,
        Err(e) => {
            tracing::error!(error = %e, "the worker failed");
            1
        }
    }
}

/// A child that ended and was not reaped yet.
fn ended_child() -> Option<(i32, Status)> {
    // SAFETY: all zeros is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` lives over the call.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) };
    // SAFETY: after waitid these fields are set (pid zero: nobody).
    let (pid, value) = unsafe { (info.si_pid(), info.si_status()) };
    if result != 0 || pid == 0 {
        return None;
    }
    let status = if info.si_code == libc::CLD_EXITED { Status::Exited(value) } else { Status::Killed(value) };
    Some((pid, status))
}

fn signal_descriptor() -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: an empty set is filled and blocked; signalfd makes a descriptor that only we know.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        // The terminal that started it may go away.
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

fn lock(root: &Path) -> Result<File, KeeperError> {
    let failed = |source| KeeperError::Root { path: root.to_owned(), source };
    std::fs::create_dir_all(root).map_err(failed)?;
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).open(Root::lock(root)).map_err(failed)?;
    // A predecessor that was just killed may have a worker that is still dying.
    for _ in 0..50 {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
            Err(std::fs::TryLockError::Error(e)) => return Err(failed(e)),
        }
    }
    Err(KeeperError::InUse(root.to_owned()))
}

fn redirect_output(log: &Path) -> Result<(), KeeperError> {
    let failed = |source| KeeperError::Log { path: log.to_owned(), source };
    if let Some(directory) = log.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let file = OpenOptions::new().append(true).create(true).open(log).map_err(failed)?;
    let null = File::open("/dev/null").map_err(failed)?;
    for (from, to) in [(null.as_fd(), 0), (file.as_fd(), 1), (file.as_fd(), 2)] {
        sys::dup_onto(from.as_raw_fd(), to).map_err(|e| failed(io::Error::from_raw_os_error(e)))?;
    }
    Ok(())
}

fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(error = %e, "raise the limit of open files");
    }
}

/// Executes this program again from a read-only mount of its file, so that no container can write to
/// it through `/proc/PID/exe`. Goes on without where the kernel refuses.
fn seal_executable() {
    if std::env::var_os(SEALED).is_some() {
        return;
    }
    let Ok(mount) = sys::clone_tree(libc::AT_FDCWD, c"/proc/self/exe", false) else {
        return tracing::warn!("the program's file stays writable: open_tree failed");
    };
    let read_only = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
    if sys::mount_setattr(mount, &read_only, false).is_err() {
        return tracing::warn!("the program's file stays writable: mount_setattr failed");
    }
    let text = |s: std::ffi::OsString| std::ffi::CString::new(s.into_encoded_bytes()).unwrap_or_default();
    let arguments: Vec<_> = std::env::args_os().map(text).collect();
    let mut environment: Vec<_> = std::env::vars_os()
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            text(name)
        })
        .collect();
    environment.push(text(format!("{SEALED}=1").into()));
    let pointers = |list: &[std::ffi::CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(&arguments), pointers(&environment));
    // SAFETY: arrays of strings that end with NUL, ended by NULL; comes back only with an error.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            mount,
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    tracing::warn!(error = %io::Error::last_os_error(), "the program's file stays writable: execveat failed");
    sys::close(mount);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_that_cannot_be_written_down_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut keeper = Keeper {
            signals: eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
            wake: eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
            vault: Vault::default(),
            sockets: Sockets::bind(&dir.path().join("s")).unwrap(),
            root: root.clone(),
            worker: None,
            unrecorded: Vec::new(),
            unnamed: false,
            died_young: 0,
            ending: false,
        };
        let ends = [1, 2].map(|pid| (Identity { pid, start: 1 }, Ended::now(Status::Exited(3))));
        // No place to write to, as on a full disk.
        std::fs::remove_dir(root.exits()).unwrap();
        for (process, ended) in ends {
            assert!(!keeper.record(process, ended));
        }
        assert!(!keeper.record_again());
        assert_eq!(keeper.unrecorded, ends);
        std::fs::create_dir(root.exits()).unwrap();
        assert!(keeper.record_again());
        assert!(keeper.unrecorded.is_empty());
        let exits = exits::Exits::new(root.exits());
        assert!(ends.iter().all(|(process, ended)| exits.recorded(*process) == Some(*ended)));
        assert!(!keeper.record_again(), "once");
    }
}
