//! Named network namespaces: made, entered for a moment on a thread of its own, and dropped.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::mount::{self, MountPropagationFlags, UnmountFlags};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// `NSFS_MAGIC` of `linux/magic.h`: what a namespace file is, as opposed to the plain file below the mount.
const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;
/// Connections that may wait in a listener while its owner is away or busy.
const BACKLOG: i32 = 4096;

/// Why a network namespace could not be made, entered or dropped.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// A file or folder could not be made.
    #[error("cannot make {path} for a network namespace")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No thread could be started.
    #[error("cannot start a thread that enters a network namespace")]
    Thread(#[source] io::Error),
    /// The kernel made no new namespace.
    #[error("cannot make a network namespace (root rights and CONFIG_NET_NS are needed)")]
    Make(#[source] io::Error),
    /// The namespace could not be given a name.
    #[error("cannot mount the network namespace at {path}")]
    Mount {
        /// Its name.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The namespace could not be entered.
    #[error("cannot enter the network namespace {path}")]
    Enter {
        /// Its name.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The list of mounts could not be read.
    #[error("cannot read /proc/thread-self/mountinfo")]
    Mounts(#[source] io::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {address} in the network namespace {path}")]
    Listen {
        /// The wanted address.
        address: SocketAddr,
        /// The namespace.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Makes the folder in which namespaces are mounted. It is a shared mount, so that dropping a name here drops
/// it in the mount namespaces of containers too, which would keep it alive otherwise.
pub(crate) fn prepare_folder(folder: &Path) -> Result<(), NamespaceError> {
    let file = |source| NamespaceError::File { path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(file)?;
    let folder = folder.canonicalize().map_err(file)?;
    if mounts_at_or_below(&folder)?.contains(&folder) {
        return Ok(());
    }
    let mount = || {
        mount::mount_bind_recursive(&folder, &folder)?;
        mount::mount_change(&folder, MountPropagationFlags::SHARED | MountPropagationFlags::REC)
    };
    mount().map_err(|errno| NamespaceError::Mount { path: folder.clone(), source: errno.into() })
}

/// Makes a network namespace with this name and runs `inside` in it.
pub(crate) fn create<T: Send>(path: &Path, inside: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
    File::create(path).map_err(|source| NamespaceError::File { path: path.to_owned(), source })?;
    on_own_thread(|| {
        #[expect(deprecated, reason = "the replacement is unsafe because of FILES, which is not used here")]
        rustix::thread::unshare(UnshareFlags::NEWNET).map_err(|errno| NamespaceError::Make(errno.into()))?;
        mount::mount_bind("/proc/thread-self/ns/net", path)
            .map_err(|errno| NamespaceError::Mount { path: path.to_owned(), source: errno.into() })?;
        Ok(inside())
    })
}

/// Runs `inside` in the namespace of this name.
pub(crate) fn enter<T: Send>(path: &Path, inside: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
    let fail = |source| NamespaceError::Enter { path: path.to_owned(), source };
    let file = File::open(path).map_err(fail)?;
    on_own_thread(|| {
        rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| fail(errno.into()))?;
        Ok(inside())
    })
}

/// A thread of its own: it ends in whatever namespace it is in, and nobody else runs there by mistake.
fn on_own_thread<T: Send>(
    run: impl FnOnce() -> Result<T, NamespaceError> + Send,
) -> Result<T, NamespaceError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).stack_size(256 << 10);
        let thread = thread.spawn_scoped(scope, run).map_err(NamespaceError::Thread)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// True if a namespace is mounted at this path.
pub(crate) fn exists(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == NSFS_MAGIC)
}

/// Drops the name. The namespace goes when its last process, socket and name are gone. Absent is fine.
pub(crate) fn drop_name(path: &Path) -> Result<(), NamespaceError> {
    match mount::unmount(path, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(NamespaceError::Mount { path: path.to_owned(), source: errno.into() }),
    }
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(NamespaceError::File { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Mount points at or below `folder`, the deepest last.
pub(crate) fn mounts_at_or_below(folder: &Path) -> Result<Vec<PathBuf>, NamespaceError> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").map_err(NamespaceError::Mounts)?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points.filter(|point| point.starts_with(folder)).collect())
}

/// Mount points in `mountinfo` have blanks, tabs, line ends and backslashes as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(3).unwrap_or((part, ""));
        plain.extend(u8::from_str_radix(digits, 8).ok().map(char::from));
        plain.push_str(rest);
    }
    PathBuf::from(plain)
}

/// Makes a listener in a namespace; it stays there whoever uses it.
pub(crate) fn listen(path: &Path, address: SocketAddr) -> Result<TcpListener, NamespaceError> {
    let listener = enter(path, || {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        net::bind(&fd, &address)?;
        net::listen(&fd, BACKLOG)?;
        Ok(fd)
    })?;
    listener.map(TcpListener::from).map_err(|errno: rustix::io::Errno| NamespaceError::Listen {
        address,
        path: path.to_owned(),
        source: errno.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        for (escaped, plain) in [("/a/b", "/a/b"), ("/a\\040b\\134", "/a b\\")] {
            assert_eq!(unescape(escaped), PathBuf::from(plain));
        }
    }
}
