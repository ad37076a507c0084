//! The parent's side of a start: clone3, the id maps, the first report, and the gate that holds the
//! child until it may run its program.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::child::{self, Report};
use super::plan::{Overlay, Plan};
use super::sys::{self, Errno, MountAttr, attr};

/// Why a process could not be started: the step in words, the kernel's answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// A step of the child.
    #[error("{step}: {}{}", Reason(*errno), hint(step, *errno))]
    Step { step: String, errno: Errno },
    /// A step of the parent.
    #[error("{step}: {source}")]
    Parent { step: &'static str, source: io::Error },
    /// The child went away without a word.
    #[error("the process ended while it was being set up (killed, or out of memory)")]
    Vanished,
}

impl LaunchError {
    /// Exit code that a shell would give: 127 not found, 126 not runnable.
    pub(crate) fn exit_code(&self) -> i32 {
        match self {
            Self::Step { errno: libc::ENOENT | libc::ENOTDIR, .. } => 127,
            _ => 126,
        }
    }
}

struct Reason(Errno);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // "No such file or directory (os error 2)" without the number, which says nothing to a user.
        let text = io::Error::from_raw_os_error(self.0).to_string();
        f.write_str(text.split(" (os error").next().unwrap_or(&text))
    }
}

/// What the user can do about it.
fn hint(step: &str, errno: Errno) -> &'static str {
    match errno {
        libc::ENOSYS => " (this kernel is too old: Linux 5.12 or newer is needed)",
        libc::ENODEV if step.starts_with("mount") => " (this kernel lacks that file system)",
        libc::EACCES if step.starts_with("change to the working") => " (it must lie inside the container)",
        libc::ENOEXEC if step.starts_with("run") => " (built for another architecture, or no #! line)",
        libc::EINVAL if step.starts_with("install the seccomp") => " (this kernel lacks seccomp filters)",
        _ => "",
    }
}

/// A process that is set up and waits at its gate.
#[derive(Debug)]
pub(crate) struct Launched {
    pub pid: u32,
    pub pidfd: OwnedFd,
    pub gate: Gate,
    /// The outer end of its terminal.
    pub terminal: Option<OwnedFd>,
}

/// The parent's end of the socket to a process that waits to be started.
#[derive(Debug)]
pub(crate) struct Gate(OwnedFd);

impl From<OwnedFd> for Gate {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl Gate {
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Whether nobody waits behind it: the process runs its program, or has ended.
    pub(crate) fn is_passed(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut watched = [PollFd::new(&self.0, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let [watched] = match poll(&mut watched, Some(&at_once)) {
            Ok(_) => watched,
            Err(_) => return false,
        };
        watched.revents().contains(PollFlags::HUP)
    }

    /// Lets the child run its program and waits until it does. Blocks for a fraction of a millisecond.
    /// A second call, by a shim that was restarted in between, is harmless.
    pub(crate) fn open(&self, describe: impl Fn(u16, u16) -> String) -> Result<(), LaunchError> {
        // Where the child runs its program already there is nobody to read it: EPIPE.
        match rustix::net::send(&self.0, &[child::START], rustix::net::SendFlags::NOSIGNAL) {
            Ok(_) | Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => {}
            Err(e) => return Err(LaunchError::Parent { step: "open the gate", source: e.into() }),
        }
        loop {
            match self.report()? {
                None => return Ok(()),
                Some((Report::Failed { step, part, errno }, _)) => {
                    return Err(LaunchError::Step { step: describe(step, part), errno });
                }
                // Said before an earlier shim could read it.
                Some((Report::Ready | Report::Terminal, _)) => {}
            }
        }
    }

    /// The next report with what came along; `None` when the child closed its end (by exec or exit).
    fn report(&self) -> Result<Option<(Report, Option<OwnedFd>)>, LaunchError> {
        let mut bytes = [0u8; 8];
        loop {
            match sys::receive_fd(self.0.as_raw_fd(), &mut bytes) {
                // SAFETY: the kernel has just installed this descriptor for us; nobody else knows it.
                Ok((8, fd)) => {
                    let fd = fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
                    return Ok(Some((Report::from_bytes(bytes), fd)));
                }
                Err(libc::EINTR) => {}
                Ok(_) | Err(libc::ECONNRESET) => return Ok(None),
                Err(errno) => {
                    let source = io::Error::from_raw_os_error(errno);
                    return Err(LaunchError::Parent { step: "hear from the process", source });
                }
            }
        }
    }
}

/// Clones a process that walks `plan`, and waits until it is at its gate. The new process is a
/// *sibling* (`CLONE_PARENT`): its parent is the keeper, which outlives this process.
pub(crate) fn launch(plan: &Plan) -> Result<Launched, LaunchError> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| parent("make a socket pair", e.into()))?;
    let (pid, pidfd) = clone_into(plan, &theirs)?;
    drop(theirs);
    let gate = Gate(ours);
    if let Some(maps) = &plan.id_maps {
        write_id_maps(pid, maps)?;
        rustix::net::send(&gate.0, &[child::MAPPED], rustix::net::SendFlags::NOSIGNAL)
            .map_err(|e| parent("tell the process its ids", e.into()))?;
        if let Some(root) = &plan.mapped_root {
            send_mapped_root(pid, root, &gate)?;
        }
    }
    let mut terminal = None;
    loop {
        match gate.report()? {
            Some((Report::Ready, _)) => return Ok(Launched { pid, pidfd, gate, terminal }),
            Some((Report::Terminal, fd)) => terminal = fd,
            Some((Report::Failed { step, part, errno }, _)) => {
                let step = plan.ops.get(usize::from(step)).map_or("start".into(), |op| op.describe(part));
                return Err(LaunchError::Step { step, errno });
            }
            None => return Err(LaunchError::Vanished),
        }
    }
}

fn parent(step: &'static str, source: io::Error) -> LaunchError {
    LaunchError::Parent { step, source }
}

fn write_id_maps(pid: u32, maps: &super::plan::IdMaps) -> Result<(), LaunchError> {
    let write = |file: &str, text: &str| std::fs::write(format!("/proc/{pid}/{file}"), text);
    write("uid_map", &maps.uid).map_err(|e| parent("write the uid map", e))?;
    write("gid_map", &maps.gid).map_err(|e| parent("write the gid map", e))
}

/// Mounts the overlay on layers seen through the container's ids (an overlay itself cannot be mapped).
fn send_mapped_root(pid: u32, root: &Overlay, gate: &Gate) -> Result<(), LaunchError> {
    let failed = |step| move |errno| parent(step, io::Error::from_raw_os_error(errno));
    let users = std::fs::File::open(format!("/proc/{pid}/ns/user"))
        .map_err(|e| parent("open the user namespace", e))?;
    let step = "mount the root with the container's ids (Linux 6.13 or newer is needed)";
    let map = MountAttr { set: attr::IDMAP, userns_fd: users.as_raw_fd() as u64, ..MountAttr::default() };
    let context = sys::fsopen(c"overlay").map_err(failed(step))?;
    // SAFETY: fsopen has just made this descriptor; fsmount below takes it over.
    let context = unsafe { OwnedFd::from_raw_fd(context) };
    // Open until the overlay is made: a detached mount goes with its last descriptor.
    let mut layers = Vec::with_capacity(root.lower.len());
    for layer in &root.lower {
        let layer = sys::clone_tree(libc::AT_FDCWD, layer, false).map_err(failed(step))?;
        // SAFETY: open_tree has just made this descriptor.
        let layer = unsafe { OwnedFd::from_raw_fd(layer) };
        sys::mount_setattr(layer.as_raw_fd(), &map, false).map_err(failed(step))?;
        sys::fsconfig_fd(context.as_raw_fd(), c"lowerdir+", layer.as_raw_fd()).map_err(failed(step))?;
        layers.push(layer);
    }
    sys::fsconfig(context.as_raw_fd(), c"upperdir", Some(&root.upper)).map_err(failed(step))?;
    sys::fsconfig(context.as_raw_fd(), c"workdir", Some(&root.work)).map_err(failed(step))?;
    sys::fsconfig(context.as_raw_fd(), c"volatile", None).map_err(failed(step))?;
    let mount = sys::fsmount(context.into_raw_fd(), 0).map_err(failed(step))?;
    // SAFETY: fsmount has just made this descriptor.
    let mount = unsafe { OwnedFd::from_raw_fd(mount) };
    sys::send_fd(gate.0.as_raw_fd(), &[child::MAPPED], mount.as_raw_fd())
        .map_err(failed("hand the root over"))
}

/// What a child can only inherit, a thread of the parent must have entered: one that ends then.
fn clone_into(plan: &Plan, socket: &OwnedFd) -> Result<(u32, OwnedFd), LaunchError> {
    if plan.pid_namespace.is_none() && plan.entered_before.is_empty() {
        return clone(plan, socket.as_raw_fd());
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let before = plan.entered_before.iter().map(|(fd, kinds)| (fd, *kinds));
            let pid = plan.pid_namespace.iter().map(|fd| (fd, libc::CLONE_NEWPID));
            for (fd, kinds) in before.chain(pid) {
                sys::setns(fd.as_raw_fd(), kinds)
                    .map_err(|errno| parent("enter a namespace", io::Error::from_raw_os_error(errno)))?;
            }
            clone(plan, socket.as_raw_fd())
        });
        thread.join().unwrap_or_else(|_| Err(parent("clone", io::Error::other("the thread panicked"))))
    })
}

fn clone(plan: &Plan, socket: RawFd) -> Result<(u32, OwnedFd), LaunchError> {
    let mut pidfd: RawFd = -1;
    let mut flags = plan.namespaces | (libc::CLONE_PIDFD | libc::CLONE_PARENT) as u64;
    // SAFETY: all zeros is a valid clone_args.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    if let Some(cgroup) = &plan.cgroup {
        // Born there, the child need not migrate: migrations wait for an RCU grace period.
        flags |= 1 << 33;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    arguments.flags = flags;
    arguments.pidfd = (&raw mut pidfd) as u64;
    let blocked = BlockedSignals::all();
    // SAFETY: without CLONE_VM the child has a copy of everything. It only walks the plan, by raw
    // system calls, and never returns from here; so no lock or allocator of the parent's is touched.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, std::mem::size_of::<libc::clone_args>())
    };
    if pid == 0 {
        child::walk(plan, socket);
    }
    let error = io::Error::last_os_error();
    drop(blocked);
    if pid < 0 {
        return Err(parent(clone_step(&error), error));
    }
    // SAFETY: CLONE_PIDFD stored a new descriptor there.
    Ok((pid as u32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

fn clone_step(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "clone3 (this kernel is too old: Linux 5.12 or newer is needed)",
        Some(libc::EINVAL) => "clone3 (this kernel lacks a kind of namespace, or the cgroup is not unified)",
        Some(libc::ENOSPC) => {
            "clone3 (the limit of namespaces is reached: see /proc/sys/user/max_*_namespaces)"
        }
        Some(libc::EAGAIN) => "clone3 (the limit of processes is reached)",
        _ => "clone3",
    }
}

/// Blocks all signals, so that no handler of ours runs in the child.
struct BlockedSignals(u64);

impl BlockedSignals {
    fn all() -> Self {
        Self(Self::set(u64::MAX))
    }

    fn set(new: u64) -> u64 {
        let mut old = 0u64;
        // SAFETY: signal sets of 8 bytes, as the kernel has them.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                &raw const new,
                &raw mut old,
                std::mem::size_of::<u64>(),
            )
        };
        old
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        Self::set(self.0);
    }
}

/// The wait status of a process that ended and was reaped, whoever reaped it; from Linux 6.15 on.
pub(crate) fn exit_of(pidfd: &OwnedFd) -> Option<i32> {
    const PIDFD_GET_INFO: u64 = 0xc040_ff0b;
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    /// `struct pidfd_info` of 64 bytes.
    #[repr(C)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    let mut info = Info { mask: PIDFD_INFO_EXIT, cgroup: 0, ids: [0; 11], exit_code: 0 };
    sys::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, (&raw mut info) as u64).ok()?;
    (info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}
