//! System calls about mounts.

use std::ffi::CStr;
use std::mem::size_of;
use std::os::fd::RawFd;
use std::ptr::null;

use libc::{c_uint, c_void};

use super::{Sys, chdir, check, check_fd, close, fchdir};

const OPEN_TREE_CLONE: c_uint = 1;
const AT_RECURSIVE: c_uint = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;
const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x40;
const FSCONFIG_SET_FLAG: c_uint = 0;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_SET_FD: c_uint = 5;
const FSCONFIG_CMD_CREATE: c_uint = 6;
const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;

/// `MOUNT_ATTR_*` of mount_setattr(2).
pub(crate) mod attr {
    pub(crate) const RDONLY: u64 = 0x1;
    pub(crate) const NOSUID: u64 = 0x2;
    pub(crate) const NODEV: u64 = 0x4;
    pub(crate) const NOEXEC: u64 = 0x8;
    /// Mask of the three ways of keeping access times; relatime is 0.
    pub(crate) const ATIME: u64 = 0x70;
    pub(crate) const NOATIME: u64 = 0x10;
    pub(crate) const STRICTATIME: u64 = 0x20;
    pub(crate) const NODIRATIME: u64 = 0x80;
    pub(crate) const IDMAP: u64 = 0x10_0000;
    pub(crate) const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// `struct mount_attr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountAttr {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    pub userns_fd: u64,
}

/// mount(2), for what the newer calls cannot say.
pub(crate) fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: u64,
    data: Option<&CStr>,
) -> Sys<()> {
    let pointer = |text: Option<&CStr>| text.map_or(null(), CStr::as_ptr);
    // SAFETY: every pointer is NULL or a string that ends with NUL.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount,
            pointer(source),
            target.as_ptr(),
            pointer(kind),
            flags,
            pointer(data).cast::<c_void>(),
        )
    })
    .map(drop)
}

pub(crate) fn fsopen(kind: &CStr) -> Sys<RawFd> {
    // SAFETY: `kind` ends with NUL.
    check_fd(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })
}

/// Sets one parameter; without a value it is a flag.
pub(crate) fn fsconfig(context: RawFd, key: &CStr, value: Option<&CStr>) -> Sys<()> {
    let (command, value) = match value {
        Some(value) => (FSCONFIG_SET_STRING, value.as_ptr()),
        None => (FSCONFIG_SET_FLAG, null()),
    };
    // SAFETY: key ends with NUL, value too or is NULL as the command wants.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context, command, key.as_ptr(), value, 0) }).map(drop)
}

pub(crate) fn fsconfig_fd(context: RawFd, key: &CStr, fd: RawFd) -> Sys<()> {
    // SAFETY: key ends with NUL; this command takes no value.
    check(unsafe {
        libc::syscall(libc::SYS_fsconfig, context, FSCONFIG_SET_FD, key.as_ptr(), null::<c_void>(), fd)
    })
    .map(drop)
}

/// Makes the superblock of `context` and a detached mount of it; closes `context`.
pub(crate) fn fsmount(context: RawFd, attributes: u64) -> Sys<RawFd> {
    // SAFETY: this command takes neither key nor value.
    let made = check(unsafe {
        libc::syscall(libc::SYS_fsconfig, context, FSCONFIG_CMD_CREATE, null::<c_void>(), null::<c_void>(), 0)
    });
    let mount = made.and_then(|_| {
        // SAFETY: numbers only.
        check_fd(unsafe { libc::syscall(libc::SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes) })
    });
    close(context);
    mount
}

/// A detached copy of the mount at `path` below `directory` (an empty path: at `directory` itself).
pub(crate) fn clone_tree(directory: RawFd, path: &CStr, recursive: bool) -> Sys<RawFd> {
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as c_uint;
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH as c_uint;
    }
    if recursive {
        flags |= AT_RECURSIVE;
    }
    // SAFETY: `path` ends with NUL.
    check_fd(unsafe { libc::syscall(libc::SYS_open_tree, directory, path.as_ptr(), flags) })
}

/// Changes attributes of the mount `fd`, with those below it or without.
pub(crate) fn mount_setattr(fd: RawFd, attributes: &MountAttr, recursive: bool) -> Sys<()> {
    let flags = libc::AT_EMPTY_PATH as c_uint | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: an empty path and a struct mount_attr of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Attaches the detached mount `fd` on `target`.
pub(crate) fn move_mount(fd: RawFd, target: RawFd) -> Sys<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty strings.
    check(unsafe { libc::syscall(libc::SYS_move_mount, fd, c"".as_ptr(), target, c"".as_ptr(), flags) })
        .map(drop)
}

/// Makes `root` the root of the mount namespace and lets go of the old one.
pub(crate) fn pivot_root(root: RawFd) -> Sys<()> {
    fchdir(root)?;
    // SAFETY: both strings end with NUL.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // What is mounted over here is the old root; slave, so that unmounting it stays in here.
    mount(None, c".", None, libc::MS_SLAVE | libc::MS_REC, None)?;
    // SAFETY: the string ends with NUL.
    check(unsafe { libc::syscall(libc::SYS_umount2, c".".as_ptr(), libc::MNT_DETACH) })?;
    chdir(c"/")
}
