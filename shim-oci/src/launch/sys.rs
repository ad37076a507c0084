//! System calls as the child makes them between clone and exec: no allocation, no lock, no libc state.
//! Every function is safe to call in a process that is a copy of one thread of a many-threaded one.
#![allow(unsafe_code)]

mod mounts;

use std::ffi::CStr;
use std::mem::{size_of, zeroed};
use std::os::fd::RawFd;
use std::ptr::{null, null_mut};

use libc::{c_char, c_int, c_long, c_void};
pub(crate) use mounts::*;

/// A number of errno(3).
pub(crate) type Errno = i32;
/// What a step came to.
pub(crate) type Sys<T> = Result<T, Errno>;

pub(crate) const RESOLVE_IN_ROOT: u64 = 0x10;
pub(crate) const RESOLVE_NO_SYMLINKS: u64 = 0x04;
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

pub(crate) fn errno() -> Errno {
    // SAFETY: the location is this thread's own and always valid.
    unsafe { *libc::__errno_location() }
}

fn check(result: c_long) -> Sys<c_long> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

fn check_fd(result: c_long) -> Sys<RawFd> {
    check(result).map(|fd| fd as RawFd)
}

pub(crate) fn close(fd: RawFd) {
    // SAFETY: the child owns its copies of descriptors; nothing of Rust's runs after it to use them.
    unsafe { libc::syscall(libc::SYS_close, c_long::from(fd)) };
}

/// Closes every descriptor from `first` to `last`.
pub(crate) fn close_range(first: u32, last: u32) -> Sys<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// `openat2(root, path)`, confined to `root`.
pub(crate) fn open_in(root: RawFd, path: &CStr, flags: c_int, mode: u32, extra_resolve: u64) -> Sys<RawFd> {
    openat2(root, path, flags, mode, RESOLVE_IN_ROOT | extra_resolve)
}

/// The place `path` itself: `ELOOP` where a symbolic link lies on the way or at its end.
pub(crate) fn open_plain(path: &CStr) -> Sys<RawFd> {
    openat2(libc::AT_FDCWD, path, libc::O_PATH, 0, RESOLVE_NO_SYMLINKS)
}

fn openat2(directory: RawFd, path: &CStr, flags: c_int, mode: u32, resolve: u64) -> Sys<RawFd> {
    let how = OpenHow { flags: (flags | libc::O_CLOEXEC) as u64, mode: u64::from(mode), resolve };
    // SAFETY: `path` ends with NUL, `how` is a struct open_how of the size given.
    check_fd(unsafe {
        libc::syscall(libc::SYS_openat2, directory, path.as_ptr(), &raw const how, size_of::<OpenHow>())
    })
}

/// `open(path)` in the file system as this process sees it.
pub(crate) fn open(path: &CStr, flags: c_int) -> Sys<RawFd> {
    // SAFETY: `path` ends with NUL.
    check_fd(unsafe {
        libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags | libc::O_CLOEXEC, 0)
    })
}

pub(crate) fn mkdirat(directory: RawFd, name: &CStr, mode: u32) -> Sys<()> {
    // SAFETY: `name` ends with NUL.
    check(unsafe { libc::syscall(libc::SYS_mkdirat, directory, name.as_ptr(), mode) }).map(drop)
}

pub(crate) fn mknodat(directory: RawFd, name: &CStr, mode: u32, device: u64) -> Sys<()> {
    // SAFETY: `name` ends with NUL.
    check(unsafe { libc::syscall(libc::SYS_mknodat, directory, name.as_ptr(), mode, device as c_long) })
        .map(drop)
}

pub(crate) fn symlinkat(to: &CStr, directory: RawFd, name: &CStr) -> Sys<()> {
    // SAFETY: both strings end with NUL.
    check(unsafe { libc::syscall(libc::SYS_symlinkat, to.as_ptr(), directory, name.as_ptr()) }).map(drop)
}

pub(crate) fn fchownat(directory: RawFd, name: &CStr, uid: u32, gid: u32) -> Sys<()> {
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: `name` ends with NUL.
    check(unsafe { libc::syscall(libc::SYS_fchownat, directory, name.as_ptr(), uid, gid, flags) }).map(drop)
}

pub(crate) fn fchown(fd: RawFd, uid: u32, gid: u32) -> Sys<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_fchown, fd, uid, gid) }).map(drop)
}

pub(crate) fn is_directory(fd: RawFd) -> Sys<bool> {
    // SAFETY: all zeros is a valid stat; the kernel fills it.
    let mut stat: libc::stat = unsafe { zeroed() };
    // SAFETY: `stat` is large enough and lives over the call.
    check(c_long::from(unsafe { libc::fstat(fd, &raw mut stat) }))?;
    Ok(stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// File system type of `fd` (`f_type` of statfs).
pub(crate) fn filesystem(fd: RawFd) -> Sys<i64> {
    // SAFETY: all zeros is a valid statfs; the kernel fills it.
    let mut stat: libc::statfs = unsafe { zeroed() };
    // SAFETY: `stat` is large enough and lives over the call.
    check(c_long::from(unsafe { libc::fstatfs(fd, &raw mut stat) }))?;
    Ok(stat.f_type as i64)
}

pub(crate) fn read(fd: RawFd, buffer: &mut [u8]) -> Sys<usize> {
    // SAFETY: the buffer is valid for its length.
    check(unsafe { libc::syscall(libc::SYS_read, fd, buffer.as_mut_ptr(), buffer.len()) }).map(|n| n as usize)
}

pub(crate) fn write(fd: RawFd, bytes: &[u8]) -> Sys<usize> {
    // SAFETY: the bytes are valid for their length.
    check(unsafe { libc::syscall(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) }).map(|n| n as usize)
}

/// Replaces descriptor `to` by a copy of `from` that survives exec.
pub(crate) fn dup_onto(from: RawFd, to: RawFd) -> Sys<()> {
    if from == to {
        // SAFETY: numbers only; drops close-on-exec.
        return check(c_long::from(unsafe { libc::fcntl(from, libc::F_SETFD, 0) })).map(drop);
    }
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_dup3, from, to, 0) }).map(drop)
}

pub(crate) fn fchdir(fd: RawFd) -> Sys<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_fchdir, fd) }).map(drop)
}

pub(crate) fn chdir(path: &CStr) -> Sys<()> {
    // SAFETY: `path` ends with NUL.
    check(unsafe { libc::syscall(libc::SYS_chdir, path.as_ptr()) }).map(drop)
}

/// Whether the working directory can be reached from the root (it cannot when a path led outside).
pub(crate) fn cwd_is_inside() -> Sys<bool> {
    let mut path = [0u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is valid for its length.
    check(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    Ok(path[0] == b'/')
}

pub(crate) fn umask(mask: u32) {
    // SAFETY: numbers only; cannot fail.
    unsafe { libc::syscall(libc::SYS_umask, mask) };
}

pub(crate) fn setns(fd: RawFd, kinds: c_int) -> Sys<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_setns, fd, kinds) }).map(drop)
}

pub(crate) fn unshare(flags: c_int) -> Sys<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags) }).map(drop)
}

pub(crate) fn setsid() -> Sys<()> {
    // SAFETY: no arguments.
    check(unsafe { libc::syscall(libc::SYS_setsid) }).map(drop)
}

pub(crate) fn sethostname(name: &CStr) -> Sys<()> {
    // SAFETY: pointer and length of one string.
    check(unsafe { libc::syscall(libc::SYS_sethostname, name.as_ptr(), name.count_bytes()) }).map(drop)
}

pub(crate) fn setdomainname(name: &CStr) -> Sys<()> {
    // SAFETY: pointer and length of one string.
    check(unsafe { libc::syscall(libc::SYS_setdomainname, name.as_ptr(), name.count_bytes()) }).map(drop)
}

/// Sets the interface `lo` up.
pub(crate) fn loopback_up() -> Sys<()> {
    // SAFETY: numbers only.
    let socket = check_fd(unsafe {
        libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { zeroed() };
    request.ifr_name[0] = b'l' as c_char;
    request.ifr_name[1] = b'o' as c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads a struct ifreq.
    let result =
        check(unsafe { libc::syscall(libc::SYS_ioctl, socket, libc::SIOCSIFFLAGS, &raw const request) });
    close(socket);
    result.map(drop)
}

pub(crate) fn setrlimit(resource: c_int, limit: &libc::rlimit64) -> Sys<()> {
    // SAFETY: `limit` is a struct rlimit64; the old one is not asked for.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, std::ptr::from_ref(limit), null_mut::<c_void>())
    })
    .map(drop)
}

pub(crate) fn getrlimit(resource: c_int) -> Sys<libc::rlimit64> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a struct rlimit64; no new one is set.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, null::<c_void>(), &raw mut limit) })?;
    Ok(limit)
}

pub(crate) fn prctl(option: c_int, argument: u64) -> Sys<c_long> {
    // SAFETY: the options used take numbers only.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, argument, 0, 0, 0) })
}

pub(crate) fn ambient_raise(capability: u64) -> Sys<()> {
    // SAFETY: numbers only.
    check(unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0)
    })
    .map(drop)
}

/// Sets the capabilities of this process (`capset`, version 3).
pub(crate) fn capset(effective: u64, permitted: u64, inheritable: u64) -> Sys<()> {
    let header: [u32; 2] = [0x2008_0522, 0];
    let half = |set: u64| [set as u32, (set >> 32) as u32];
    let (e, p, i) = (half(effective), half(permitted), half(inheritable));
    let data: [u32; 6] = [e[0], p[0], i[0], e[1], p[1], i[1]];
    // SAFETY: header and data are laid out as version 3 has them.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

pub(crate) fn setgroups(groups: &[u32]) -> Sys<()> {
    // SAFETY: pointer and length of one array of gid_t.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Real, effective and saved ids. Not glibc's functions: those would wait for the parent's threads.
pub(crate) fn set_ids(uid: u32, gid: u32) -> Sys<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Installs one filter on this thread.
pub(crate) fn seccomp(filter: &[libc::sock_filter], flags: u64) -> Sys<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions and keeps a copy.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })
    .map(drop)
}

/// `ioctl` with a number for an argument.
pub(crate) fn ioctl(fd: RawFd, request: u64, argument: u64) -> Sys<c_long> {
    // SAFETY: the requests used take numbers.
    check(unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) })
}

/// Unlocks the other end of the pseudoterminal `master` and opens it.
pub(crate) fn terminal_peer(master: RawFd) -> Sys<RawFd> {
    let unlock: c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int.
    check(unsafe { libc::syscall(libc::SYS_ioctl, master, libc::TIOCSPTLCK, &raw const unlock) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    ioctl(master, libc::TIOCGPTPEER, flags as u64).map(|fd| fd as RawFd)
}

/// Sends `packet` with a descriptor.
pub(crate) fn send_fd(socket: RawFd, packet: &[u8], fd: RawFd) -> Sys<()> {
    #[repr(C, align(8))]
    struct Control([u8; 24]);
    let mut control = Control([0; 24]);
    let mut part = libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
    // SAFETY: all zeros is a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    // SAFETY: CMSG_LEN only computes; 16 + 4 bytes padded to 24 fit into `control`.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<c_int>() as u32) } as _;
    // SAFETY: the first header lies inside `control`, which is aligned and large enough for it.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<c_int>() as u32) as _;
        libc::CMSG_DATA(header).cast::<c_int>().write_unaligned(fd);
    }
    // SAFETY: the message points at live parts.
    check(unsafe { libc::syscall(libc::SYS_sendmsg, socket, &raw const message, libc::MSG_NOSIGNAL) })
        .map(drop)
}

/// Receives one packet into `packet`, and a descriptor if one came with it.
pub(crate) fn receive_fd(socket: RawFd, packet: &mut [u8]) -> Sys<(usize, Option<RawFd>)> {
    #[repr(C, align(8))]
    struct Control([u8; 24]);
    let mut control = Control([0; 24]);
    let mut part = libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() };
    // SAFETY: all zeros is a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: the message points at live parts.
    let bytes =
        check(unsafe { libc::syscall(libc::SYS_recvmsg, socket, &raw mut message, libc::MSG_CMSG_CLOEXEC) })?;
    // SAFETY: the kernel filled `control` up to msg_controllen; a header is read only where it says one is.
    let fd = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
            None
        } else {
            Some(libc::CMSG_DATA(header).cast::<c_int>().read_unaligned())
        }
    };
    Ok((bytes as usize, fd))
}

/// All signals to their defaults, none blocked: what the worker ignores must not reach the container.
pub(crate) fn reset_signals() {
    let default = [0u64; 4];
    for signal in 1..65 {
        // SAFETY: the kernel's struct sigaction of 32 bytes, all zeros: SIG_DFL. KILL and STOP refuse.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                null_mut::<c_void>(),
                size_of::<u64>(),
            )
        };
    }
    let none = 0u64;
    // SAFETY: a signal set of 8 bytes.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            null_mut::<c_void>(),
            size_of::<u64>(),
        )
    };
}

pub(crate) fn exit(code: c_int) -> ! {
    loop {
        // SAFETY: does not return.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
    }
}

/// Replaces the program. Returns only with an error.
///
/// # Safety
/// `argv` and `envp` must be arrays of pointers to strings that end with NUL, themselves ended by NULL.
pub(crate) unsafe fn execve(path: &CStr, argv: *const *const c_char, envp: *const *const c_char) -> Errno {
    // SAFETY: by the caller's promise.
    unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), argv, envp) };
    errno()
}
