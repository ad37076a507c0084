//! The child between clone and exec: walks the plan with raw system calls. Nothing here allocates,
//! locks or unwinds, so it may be the copy of one thread of a process with many.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::RawFd;

use libc::c_char;

use super::plan::{Need, Op, Overlay, Plan, Point, PointKind, Program, Source, part};
use super::sys::{self, Errno, MountAttr, Sys, attr};

/// What the child says on its socket: 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// Set up; waits at the gate.
    Ready,
    /// The terminal's other end comes with this packet.
    Terminal,
    /// Step, part of the step, errno.
    Failed { step: u16, part: u16, errno: Errno },
}

impl Report {
    pub(crate) fn to_bytes(self) -> [u8; 8] {
        let (step, part, errno) = match self {
            Report::Ready => (u16::MAX, 0, 0),
            Report::Terminal => (u16::MAX, 1, 0),
            Report::Failed { step, part, errno } => (step, part, errno),
        };
        let (s, p, e) = (step.to_ne_bytes(), part.to_ne_bytes(), errno.to_ne_bytes());
        [s[0], s[1], p[0], p[1], e[0], e[1], e[2], e[3]]
    }

    pub(crate) fn from_bytes(b: [u8; 8]) -> Self {
        let step = u16::from_ne_bytes([b[0], b[1]]);
        let part = u16::from_ne_bytes([b[2], b[3]]);
        match (step, part) {
            (u16::MAX, 0) => Report::Ready,
            (u16::MAX, _) => Report::Terminal,
            _ => Report::Failed { step, part, errno: i32::from_ne_bytes([b[4], b[5], b[6], b[7]]) },
        }
    }
}

/// What the parent says on the socket.
pub(crate) const MAPPED: u8 = b'm';
pub(crate) const START: u8 = b's';

/// Exit codes of a child that did not come to run its program.
pub(crate) const EXIT_ABANDONED: i32 = 125;
pub(crate) const EXIT_FAILED: i32 = 126;

/// Walks the plan. Does not return.
pub(super) fn walk(plan: &Plan, socket: RawFd) -> ! {
    sys::reset_signals();
    let mut child = Child { socket, root: -1, part: 0 };
    for (step, op) in plan.ops.iter().enumerate() {
        child.part = 0;
        if let Err(errno) = child.step(op) {
            let report = Report::Failed { step: step as u16, part: child.part, errno };
            // Nobody is left to be told when this fails; the exit code says the same.
            let _ = sys::write(child.socket, &report.to_bytes());
            sys::exit(EXIT_FAILED);
        }
    }
    sys::exit(EXIT_FAILED)
}

struct Child {
    socket: RawFd,
    /// The root to be.
    root: RawFd,
    /// Where in the step.
    part: u16,
}

impl Child {
    fn step(&mut self, op: &Op) -> Sys<()> {
        match op {
            Op::Descriptors { stdio, keep } => self.descriptors(stdio, keep),
            Op::BecomeRoot => self.become_root(),
            Op::JoinCgroup { fd, .. } => sys::write(*fd, b"0").map(drop),
            Op::NewSession => sys::setsid(),
            Op::Enter { fd, kinds, .. } => sys::setns(*fd, *kinds),
            Op::NewCgroupNamespace => sys::unshare(libc::CLONE_NEWCGROUP),
            Op::Hostname(name) => sys::sethostname(name),
            Op::Domainname(name) => sys::setdomainname(name),
            Op::LoopbackUp => sys::loopback_up(),
            Op::Write { path, value, need } => tolerate(*need, write_file(path, value)),
            Op::Propagation(flags) => sys::mount(None, c"/", None, *flags, None),
            Op::Umask(mask) => {
                sys::umask(*mask);
                Ok(())
            }
            Op::Gate => self.gate(),
            Op::Exec(program) => Err(exec(program)),
            Op::RootOverlay { .. }
            | Op::RootReceived { .. }
            | Op::PrivateParent(_)
            | Op::RootDirectory { .. }
            | Op::RootMount { .. }
            | Op::MakePoint(_)
            | Op::Mount { .. }
            | Op::Device { .. }
            | Op::Link { .. }
            | Op::ReadOnly(_)
            | Op::Mask(_)
            | Op::Terminal { .. }
            | Op::Pivot
            | Op::RootAttributes { .. } => self.file_systems(op),
            _ => credentials(op),
        }
    }

    fn file_systems(&mut self, op: &Op) -> Sys<()> {
        match op {
            Op::RootOverlay { overlay, at } => self.root_overlay(overlay, at),
            Op::RootReceived { at } => {
                let mut word = [0u8; 1];
                let (_, mount) = sys::receive_fd(self.socket, &mut word)?;
                self.attach_root(mount.ok_or(libc::EBADMSG)?, at)
            }
            Op::PrivateParent(ancestors) => private_parent(ancestors),
            Op::RootDirectory { path } => {
                let mount = sys::clone_tree(libc::AT_FDCWD, path, true)?;
                self.attach_root(mount, path)
            }
            Op::RootMount { source, attributes, at } => {
                let mount = self.source(source, attributes)?;
                self.attach_root(mount, at)
            }
            Op::MakePoint(point) => self.make(point).map(sys::close),
            Op::Mount { source, attributes, recursive, at } => self.mount(source, attributes, recursive, at),
            Op::Device { at, mode, device, owner, node } => {
                self.device(at, *mode, *device, *owner, node.as_deref())
            }
            Op::Link { to, at } => self.link(to, at),
            Op::ReadOnly(path) => self.read_only(path),
            Op::Mask(path) => self.mask(path),
            Op::Terminal { owner, console, size } => self.terminal(*owner, console.as_ref(), *size),
            Op::Pivot => sys::pivot_root(self.root),
            Op::RootAttributes { attributes, propagation } => {
                let root = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY)?;
                if *attributes != MountAttr::default() {
                    sys::mount_setattr(root, attributes, false)?;
                }
                sys::close(root);
                match *propagation {
                    0 => Ok(()),
                    flags => sys::mount(None, c"/", None, flags, None),
                }
            }
            _ => Err(libc::ENOSYS),
        }
    }

    fn descriptors(&mut self, stdio: &[Option<RawFd>; 3], keep: &[RawFd]) -> Sys<()> {
        for (number, fd) in stdio.iter().enumerate() {
            if let Some(fd) = fd {
                sys::dup_onto(*fd, number as RawFd)?;
            }
        }
        // `keep` is sorted; the socket is not in it, because its number is known only after the clone.
        let mut next = 3u32;
        let mut socket = Some(self.socket as u32);
        let mut kept = keep.iter().map(|fd| *fd as u32).peekable();
        loop {
            let listed = kept.peek().copied();
            let fd = match (listed, socket) {
                (Some(a), Some(b)) if b < a => socket.take(),
                (Some(_), _) => kept.next(),
                (None, _) => socket.take(),
            };
            let Some(fd) = fd else { break };
            if fd > next {
                sys::close_range(next, fd - 1)?;
            }
            next = next.max(fd + 1);
        }
        sys::close_range(next, u32::MAX)
    }

    fn become_root(&mut self) -> Sys<()> {
        let mut word = [0u8; 1];
        if sys::read(self.socket, &mut word)? != 1 || word[0] != MAPPED {
            sys::exit(EXIT_ABANDONED);
        }
        sys::setgroups(&[])?;
        sys::set_ids(0, 0)
    }

    fn gate(&mut self) -> Sys<()> {
        sys::write(self.socket, &Report::Ready.to_bytes())?;
        let mut word = [0u8; 1];
        loop {
            match sys::read(self.socket, &mut word) {
                Err(libc::EINTR) => {}
                Ok(1) if word[0] == START => return Ok(()),
                // Shim and keeper are gone, or this container is not wanted any more.
                _ => sys::exit(EXIT_ABANDONED),
            }
        }
    }

    fn attach_root(&mut self, mount: RawFd, at: &CStr) -> Sys<()> {
        self.part = part::TARGET;
        let target = sys::open(at, libc::O_PATH | libc::O_DIRECTORY)?;
        self.part = part::ATTACH;
        sys::move_mount(mount, target)?;
        sys::close(target);
        sys::close(mount);
        if self.root >= 0 {
            sys::close(self.root);
        }
        self.root = sys::open(at, libc::O_PATH | libc::O_DIRECTORY)?;
        Ok(())
    }

    fn root_overlay(&mut self, overlay: &Overlay, at: &CStr) -> Sys<()> {
        match self.new_overlay(overlay) {
            Ok(mount) => self.attach_root(mount, at),
            // Kernels before 6.5 know no `lowerdir+`.
            Err(libc::EINVAL) if self.part == part::PARAMETER => {
                self.part = 0;
                sys::mount(Some(c"overlay"), at, Some(c"overlay"), 0, Some(&overlay.options))?;
                self.root = sys::open(at, libc::O_PATH | libc::O_DIRECTORY)?;
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }

    fn new_overlay(&mut self, overlay: &Overlay) -> Sys<RawFd> {
        let context = sys::fsopen(c"overlay")?;
        for (index, layer) in overlay.lower.iter().enumerate() {
            self.part = part::PARAMETER + index as u16;
            sys::fsconfig(context, c"lowerdir+", Some(layer))?;
        }
        self.part = part::CREATE;
        sys::fsconfig(context, c"upperdir", Some(&overlay.upper))?;
        sys::fsconfig(context, c"workdir", Some(&overlay.work))?;
        sys::fsconfig(context, c"volatile", None)?;
        sys::fsmount(context, 0)
    }

    /// A detached mount with its attributes set.
    fn source(&mut self, source: &Source, attributes: &MountAttr) -> Sys<RawFd> {
        self.part = part::SOURCE;
        match source {
            Source::New { kind, parameters } => {
                let context = sys::fsopen(kind)?;
                for (index, (key, value)) in parameters.iter().enumerate() {
                    self.part = part::PARAMETER + index as u16;
                    sys::fsconfig(context, key, value.as_deref())?;
                }
                self.part = part::CREATE;
                let mount = sys::fsmount(context, attributes.set)?;
                self.part = part::ATTRIBUTES;
                let rest = MountAttr { set: 0, clear: 0, ..*attributes };
                if rest != MountAttr::default() {
                    sys::mount_setattr(mount, &rest, false)?;
                }
                Ok(mount)
            }
            Source::Bind { path, recursive } => {
                let mount = sys::clone_tree(libc::AT_FDCWD, path, *recursive)?;
                self.part = part::ATTRIBUTES;
                if *attributes != MountAttr::default() {
                    sys::mount_setattr(mount, attributes, false)?;
                }
                Ok(mount)
            }
        }
    }

    fn mount(&mut self, source: &Source, own: &MountAttr, recursive: &MountAttr, at: &Point) -> Sys<()> {
        let mount = self.source(source, own)?;
        if *recursive != MountAttr::default() {
            sys::mount_setattr(mount, recursive, true)?;
        }
        self.part = part::TARGET;
        let target = self.make(at)?;
        self.part = part::ATTACH;
        sys::move_mount(mount, target)?;
        sys::close(target);
        sys::close(mount);
        Ok(())
    }

    /// Opens a place of the root, making it and its parents where they are missing.
    fn make(&self, point: &Point) -> Sys<RawFd> {
        let resolve = if point.plain { sys::RESOLVE_NO_SYMLINKS } else { 0 };
        match sys::open_in(self.root, point.path(), libc::O_PATH, 0, resolve) {
            Err(libc::ENOENT) => {}
            other => return other,
        }
        let (last, parents) = point.steps.split_last().ok_or(libc::EINVAL)?;
        for (index, parent) in parents.iter().enumerate() {
            self.make_directory(index.checked_sub(1).and_then(|i| parents.get(i)), parent, resolve)?;
        }
        match point.kind {
            PointKind::Directory => self.make_directory(parents.last(), last, resolve)?,
            PointKind::File => {
                let flags = libc::O_CREAT | libc::O_RDONLY | libc::O_NOFOLLOW;
                sys::close(sys::open_in(self.root, last, flags, 0o644, resolve)?);
            }
        }
        sys::open_in(self.root, last, libc::O_PATH, 0, resolve)
    }

    fn make_directory(&self, parent: Option<&std::ffi::CString>, path: &CStr, resolve: u64) -> Sys<()> {
        let directory = libc::O_PATH | libc::O_DIRECTORY;
        match sys::open_in(self.root, path, directory, 0, resolve) {
            Err(libc::ENOENT) => {}
            other => return other.map(sys::close),
        }
        let above = sys::open_in(self.root, parent.map_or(c".", |p| p.as_c_str()), directory, 0, resolve)?;
        let made = sys::mkdirat(above, base_name(path), 0o755);
        sys::close(above);
        match made {
            Err(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// The directory that holds `point`.
    fn parent_of(&self, point: &Point) -> Sys<RawFd> {
        let parents = point.steps.split_last().map_or(&[][..], |(_, parents)| parents);
        for (index, parent) in parents.iter().enumerate() {
            self.make_directory(index.checked_sub(1).and_then(|i| parents.get(i)), parent, 0)?;
        }
        let parent = parents.last().map_or(c".", |p| p.as_c_str());
        sys::open_in(self.root, parent, libc::O_PATH | libc::O_DIRECTORY, 0, 0)
    }

    fn device(
        &mut self,
        at: &Point,
        mode: u32,
        device: u64,
        owner: (u32, u32),
        node: Option<&CStr>,
    ) -> Sys<()> {
        if let Some(node) = node {
            let source = sys::clone_tree(libc::AT_FDCWD, node, false)?;
            let target = self.make(at)?;
            sys::move_mount(source, target)?;
            sys::close(target);
            sys::close(source);
            return Ok(());
        }
        let directory = self.parent_of(at)?;
        let name = base_name(at.path());
        match sys::mknodat(directory, name, mode, device) {
            // An image may bring its own; then the mode and owner are its own as well.
            Err(libc::EEXIST) => {}
            Ok(()) if owner != (0, 0) => sys::fchownat(directory, name, owner.0, owner.1)?,
            other => other?,
        }
        sys::close(directory);
        Ok(())
    }

    fn link(&mut self, to: &CStr, at: &Point) -> Sys<()> {
        let directory = self.parent_of(at)?;
        let made = sys::symlinkat(to, directory, base_name(at.path()));
        sys::close(directory);
        match made {
            Err(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    fn read_only(&mut self, path: &CStr) -> Sys<()> {
        let Some(target) = self.existing(path)? else { return Ok(()) };
        let mount = sys::clone_tree(target, c"", true)?;
        self.part = part::ATTRIBUTES;
        sys::mount_setattr(mount, &MountAttr { set: attr::RDONLY, ..MountAttr::default() }, true)?;
        self.attach(mount, target)
    }

    fn mask(&mut self, path: &CStr) -> Sys<()> {
        let Some(target) = self.existing(path)? else { return Ok(()) };
        let mount = if sys::is_directory(target)? {
            let context = sys::fsopen(c"tmpfs")?;
            sys::fsmount(context, attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC)?
        } else {
            sys::clone_tree(libc::AT_FDCWD, c"/dev/null", false)?
        };
        self.attach(mount, target)
    }

    fn existing(&mut self, path: &CStr) -> Sys<Option<RawFd>> {
        self.part = part::TARGET;
        match sys::open_in(self.root, path, libc::O_PATH, 0, 0) {
            Ok(fd) => Ok(Some(fd)),
            Err(libc::ENOENT | libc::ENOTDIR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn attach(&mut self, mount: RawFd, target: RawFd) -> Sys<()> {
        self.part = part::ATTACH;
        sys::move_mount(mount, target)?;
        sys::close(mount);
        sys::close(target);
        Ok(())
    }

    fn terminal(&mut self, owner: (u32, u32), console: Option<&Point>, size: (u16, u16)) -> Sys<()> {
        const DEVPTS: i64 = 0x1cd1;
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NOFOLLOW;
        let directory = if self.root >= 0 { self.root } else { sys::open(c"/", libc::O_PATH)? };
        let master = sys::open_in(directory, c"dev/pts/ptmx", flags, 0, sys::RESOLVE_NO_SYMLINKS)?;
        if sys::filesystem(master)? != DEVPTS {
            return Err(libc::ENOTTY);
        }
        let slave = sys::terminal_peer(master)?;
        sys::fchown(slave, owner.0, owner.1)?;
        set_size(slave, size)?;
        if let Some(console) = console {
            let target = self.make(console)?;
            let mount = sys::clone_tree(slave, c"", false)?;
            self.attach(mount, target)?;
        }
        sys::send_fd(self.socket, &Report::Terminal.to_bytes(), master)?;
        sys::close(master);
        sys::ioctl(slave, libc::TIOCSCTTY, 0)?;
        for number in 0..3 {
            sys::dup_onto(slave, number)?;
        }
        sys::close(slave);
        Ok(())
    }
}

fn private_parent(ancestors: &[std::ffi::CString]) -> Sys<()> {
    for path in ancestors {
        match sys::mount(None, path, None, libc::MS_PRIVATE, None) {
            // Not a mount point, or not there yet: the one above may be.
            Err(libc::EINVAL | libc::ENOENT) => {}
            other => return other,
        }
    }
    Ok(())
}

fn set_size(terminal: RawFd, (width, height): (u16, u16)) -> Sys<()> {
    if (width, height) == (0, 0) {
        return Ok(());
    }
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    sys::ioctl(terminal, libc::TIOCSWINSZ, (&raw const size) as u64).map(drop)
}

/// Who the program runs as.
fn credentials(op: &Op) -> Sys<()> {
    match op {
        Op::Rlimit { resource, limit, .. } => rlimit(*resource, limit),
        Op::NoNewPrivileges => sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop),
        Op::Seccomp { filter, flags } => sys::seccomp(filter, *flags),
        Op::Groups(groups) => sys::setgroups(groups),
        Op::Ids { uid, gid } => sys::set_ids(*uid, *gid),
        Op::KeepCapabilities => sys::prctl(libc::PR_SET_KEEPCAPS, 1).map(drop),
        Op::BoundingSet(keep) => bounding_set(*keep),
        Op::Capabilities { effective, permitted, inheritable } => {
            sys::capset(*effective, *permitted, *inheritable)
        }
        Op::AmbientSet(set) => (0..64).filter(|bit| set >> bit & 1 == 1).try_for_each(sys::ambient_raise),
        Op::Chdir(path) => {
            sys::chdir(path)?;
            if sys::cwd_is_inside()? { Ok(()) } else { Err(libc::EACCES) }
        }
        _ => Err(libc::ENOSYS),
    }
}

/// Sets a limit; where the hard one may not be raised, as much of it as may be.
fn rlimit(resource: i32, limit: &libc::rlimit64) -> Sys<()> {
    match sys::setrlimit(resource, limit) {
        Err(libc::EPERM) => {
            let hard = sys::getrlimit(resource)?.rlim_max.min(limit.rlim_max);
            sys::setrlimit(resource, &libc::rlimit64 { rlim_cur: limit.rlim_cur.min(hard), rlim_max: hard })
        }
        other => other,
    }
}

fn bounding_set(keep: u64) -> Sys<()> {
    for bit in 0..64u64 {
        if keep >> bit & 1 == 1 {
            continue;
        }
        match sys::prctl(libc::PR_CAPBSET_READ, bit) {
            Ok(1) => sys::prctl(libc::PR_CAPBSET_DROP, bit).map(drop)?,
            Ok(_) => {}
            // Past the last capability of this kernel.
            Err(libc::EINVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn write_file(path: &CStr, value: &CStr) -> Sys<()> {
    let file = sys::open(path, libc::O_WRONLY)?;
    let written = sys::write(file, value.to_bytes());
    sys::close(file);
    written.map(drop)
}

fn tolerate(need: Need, result: Sys<()>) -> Sys<()> {
    match need {
        Need::Must => result,
        Need::BestEffort => Ok(()),
    }
}

/// The part after the last slash; a tail of a C string is one too.
fn base_name(path: &CStr) -> &CStr {
    let bytes = path.to_bytes_with_nul();
    let start = bytes.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
    // SAFETY: a tail of a string that ends with its only NUL.
    unsafe { CStr::from_bytes_with_nul_unchecked(bytes.get_unchecked(start..)) }
}

/// Tries the candidates in order; comes back with the error that says most.
fn exec(program: &Program) -> Errno {
    let mut home = [0u8; 512];
    if let Some(uid) = program.home_of {
        let slot = program.environment.as_ptr().cast_mut();
        home_of(uid, &mut home);
        // SAFETY: this process is a copy, nobody else reads the array; the spare slot is inside it.
        unsafe { slot.add(program.environment.spare()).write(home.as_ptr().cast::<c_char>()) };
    }
    let mut error = libc::ENOENT;
    for candidate in &program.candidates {
        // SAFETY: `Strings` ends its arrays with NULL and owns the strings.
        let errno =
            unsafe { sys::execve(candidate, program.arguments.as_ptr(), program.environment.as_ptr()) };
        if errno != libc::ENOENT && errno != libc::ENOTDIR {
            error = errno;
        }
    }
    error
}

/// Writes `HOME=DIRECTORY` of the user in the root's `/etc/passwd`, `HOME=/` where it names none.
fn home_of(uid: u32, into: &mut [u8; 512]) {
    let mut found = [0u8; 500];
    let length = read_home(uid, &mut found).unwrap_or(0);
    let (prefix, root) = (b"HOME=", b"/");
    let value = if length == 0 { &root[..] } else { found.get(..length).unwrap_or(root) };
    for (to, from) in into.iter_mut().zip(prefix.iter().chain(value)) {
        *to = *from;
    }
}

/// Reads `/etc/passwd` as a stream, one byte at a time through a small buffer: it may be of any size.
fn read_home(uid: u32, home: &mut [u8; 500]) -> Option<usize> {
    let file = sys::open(c"/etc/passwd", libc::O_RDONLY | libc::O_NONBLOCK).ok()?;
    let mut buffer = [0u8; 4096];
    let (mut field, mut number, mut valid, mut length) = (0u8, 0u64, false, 0usize);
    loop {
        let got = sys::read(file, &mut buffer).unwrap_or(0);
        for byte in buffer.get(..got).unwrap_or_default() {
            match (byte, field) {
                (b'\n', _) => {
                    if valid && number == u64::from(uid) && length > 0 && field >= 5 {
                        sys::close(file);
                        return Some(length);
                    }
                    (field, number, valid, length) = (0, 0, false, 0);
                }
                (b':', _) => field += 1,
                (b'0'..=b'9', 2) => {
                    number = number.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
                    valid = true;
                }
                (_, 5) => {
                    if let Some(slot) = home.get_mut(length) {
                        *slot = *byte;
                        length += 1;
                    }
                }
                _ => {}
            }
        }
        if got == 0 {
            sys::close(file);
            let last = valid && number == u64::from(uid) && length > 0 && field >= 5;
            return last.then_some(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_travel() {
        let failed = Report::Failed { step: 7, part: 3, errno: libc::EPERM };
        for report in [Report::Ready, Report::Terminal, failed] {
            assert_eq!(Report::from_bytes(report.to_bytes()), report);
        }
    }

    #[test]
    fn base_names() {
        for (path, name) in [(c"a", c"a"), (c"a/b", c"b"), (c"a/b/", c"")] {
            assert_eq!(base_name(path), name);
        }
    }

    #[test]
    fn home_of_root_is_found_and_of_nobody_known_is_the_root() {
        let text = |uid| {
            let mut home = [0u8; 512];
            home_of(uid, &mut home);
            CStr::from_bytes_until_nul(&home).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(text(0), "HOME=/root");
        assert_eq!(text(4_000_000_000), "HOME=/");
    }
}
