//! What the host process gives up before it runs a guest, in this order: its network namespace for
//! the pods', backtraces of its own errors, core dumps, capabilities except binding low ports, new
//! privileges, system calls that a wasm host never makes.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Why the process could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The namespace could not be entered.
    #[error("enter the network namespace {path}")]
    Namespace {
        /// Where it is mounted.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A limit could not be set.
    #[error("set a limit of the process")]
    Limit(#[source] rustix::io::Errno),
    /// Capabilities could not be given up.
    #[error("give up capabilities")]
    Capabilities(#[source] rustix::io::Errno),
    /// The filter for system calls could not be installed.
    #[error("install the filter for system calls")]
    Filter(#[source] seccompiler::Error),
}

/// Enters a network namespace. Must come before the process has other threads.
pub(crate) fn enter_network(path: &Path) -> Result<(), ConfineError> {
    let enter = || -> std::io::Result<()> {
        let namespace = std::fs::File::open(path)?;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    };
    enter().map_err(|source| ConfineError::Namespace { path: path.to_owned(), source })
}

/// `RUST_BACKTRACE` makes every error inside wasmtime walk the stack: up to five times the cost of a
/// request. Must come before the process has other threads.
#[allow(unsafe_code)]
pub(crate) fn clear_backtraces() {
    for name in ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"] {
        // SAFETY: no other thread exists that could read the environment.
        unsafe { std::env::remove_var(name) };
    }
}

/// Everything else, for this thread and those it starts.
pub(crate) fn confine() -> Result<(), ConfineError> {
    limits().map_err(ConfineError::Limit)?;
    give_up(CapabilitySet::NET_BIND_SERVICE, &SOCKETS)
}

/// For the compile role, with its files open: no capabilities, no sockets, no other programs.
pub(crate) fn confine_compiler() -> Result<(), ConfineError> {
    give_up(CapabilitySet::empty(), &[])
}

fn give_up(kept: CapabilitySet, sockets: &[i32]) -> Result<(), ConfineError> {
    capabilities(kept).map_err(ConfineError::Capabilities)?;
    rustix::thread::set_no_new_privs(true).map_err(ConfineError::Capabilities)?;
    let program = filter(sockets).map_err(|e| ConfineError::Filter(e.into()))?;
    seccompiler::apply_filter(&program).map_err(ConfineError::Filter)
}

fn limits() -> Result<(), rustix::io::Errno> {
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // One descriptor for each connection, listener and file of thousands of pods.
    let files = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })
}

fn capabilities(kept: CapabilitySet) -> Result<(), rustix::io::Errno> {
    let now = rustix::thread::capabilities(None)?;
    let held = now.permitted | now.effective;
    for capability in CapabilitySet::all().difference(kept).iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Not known to this kernel, or no right to change the set: then there is little to lose.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM) => {}
            Err(e) => return Err(e),
        }
    }
    let left = held & kept;
    let sets = CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}

/// Refused with EPERM. Guests cannot make system calls; this is for the day one escapes.
const REFUSED: [i64; 34] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_sethostname,
    libc::SYS_acct,
    libc::SYS_open_by_handle_at,
    libc::SYS_io_uring_setup,
    libc::SYS_pidfd_getfd,
];

/// Kinds of sockets that a host opens.
const SOCKETS: [i32; 3] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];

/// `sockets`: the families that may be opened.
fn filter(sockets: &[i32]) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let other = sockets
        .iter()
        .map(|family| {
            let family = u64::from(family.unsigned_abs());
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
        })
        .collect::<Result<Vec<_>, _>>()?;
    // No condition means always.
    let refused = if other.is_empty() { Vec::new() } else { vec![SeccompRule::new(other)?] };
    rules.insert(libc::SYS_socket, refused);
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, std::env::consts::ARCH.try_into()?)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a thread of its own: what is given up stays given up.
    #[test]
    fn a_confined_thread_opens_inet_sockets_only_and_runs_no_programs() {
        let confined = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            seccompiler::apply_filter(&filter(&SOCKETS).unwrap()).unwrap();
            let netlink =
                rustix::net::socket(rustix::net::AddressFamily::NETLINK, rustix::net::SocketType::RAW, None);
            let inet = std::net::TcpListener::bind("127.0.0.1:0");
            let program = std::process::Command::new("/bin/true").status();
            (netlink.err(), inet.is_ok(), program.is_err())
        });
        let (netlink, inet, refused) = confined.join().unwrap();
        assert_eq!(netlink, Some(rustix::io::Errno::PERM));
        assert!(inet && refused);
    }

    #[test]
    fn a_compiling_thread_opens_no_sockets_and_has_no_capabilities() {
        let confined = std::thread::spawn(|| {
            confine_compiler().unwrap();
            let socket = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| e.kind());
            let pair = std::os::unix::net::UnixListener::bind("/tmp/never").map_err(|e| e.kind());
            let left = rustix::thread::capabilities(None).unwrap();
            (socket.err(), pair.err(), left.effective | left.permitted)
        });
        let refused = Some(std::io::ErrorKind::PermissionDenied);
        assert_eq!(confined.join().unwrap(), (refused, refused, CapabilitySet::empty()));
    }
}
