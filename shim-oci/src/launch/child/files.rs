//! What the child does to file systems: the root, mounts in it, what is hidden, the terminal.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;

use super::super::plan::{Links, Op, Overlay, Point, PointKind, Source, part};
use super::super::sys::{self, MountAttr, Sys, attr};
use super::{Child, Report};

/// What mount(2) takes for options.
const PAGE: usize = 4096;
/// Attributes that are the same bits as flags of mount(2).
const FLAGS_OF_BOTH: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;

impl Child {
    pub(super) fn file_systems(&mut self, op: &Op) -> Sys<()> {
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
            Op::RootMount { source, attributes, at, options } => {
                match (self.source(source, attributes), options) {
                    (Ok(mount), _) => self.attach_root(mount, at),
                    (Err(libc::EINVAL), Some(options)) if self.is_old_overlay() => {
                        self.mount_overlay(at, attributes.set & FLAGS_OF_BOTH, options)
                    }
                    (Err(errno), _) => Err(errno),
                }
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
            Err(libc::EINVAL) if self.is_old_overlay() => self.mount_overlay(at, 0, &overlay.options),
            Err(errno) => Err(errno),
        }
    }

    /// Where EINVAL means that the kernel may know no `lowerdir+` (it came with 6.7). Up to 6.6 that
    /// parameter is refused; up to 6.4 overlayfs only collects its parameters, as many as a page holds,
    /// and refuses at the creation. Where the reason is another one, mount(2) fails as well.
    fn is_old_overlay(&self) -> bool {
        self.part == part::CREATE || self.part >= part::PARAMETER
    }

    fn mount_overlay(&mut self, at: &CStr, flags: u64, options: &CStr) -> Sys<()> {
        self.part = 0;
        // The kernel cuts off what is beyond a page, and with it the last options.
        if options.count_bytes() >= PAGE {
            return Err(libc::E2BIG);
        }
        sys::mount(Some(c"overlay"), at, Some(c"overlay"), flags, Some(options))?;
        if self.root >= 0 {
            sys::close(self.root);
        }
        self.root = sys::open(at, libc::O_PATH | libc::O_DIRECTORY)?;
        Ok(())
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
            Source::Bind { path, recursive, links } => {
                let mount = match links {
                    Links::Followed => sys::clone_tree(libc::AT_FDCWD, path, *recursive)?,
                    Links::Refused => {
                        let place = sys::open_plain(path)?;
                        let mount = sys::clone_tree(place, c"", *recursive);
                        sys::close(place);
                        mount?
                    }
                };
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

    fn make_directory(&self, parent: Option<&CString>, path: &CStr, resolve: u64) -> Sys<()> {
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

fn private_parent(ancestors: &[CString]) -> Sys<()> {
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

/// The part after the last slash; a tail of a C string is one too.
fn base_name(path: &CStr) -> &CStr {
    let bytes = path.to_bytes_with_nul();
    let start = bytes.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
    // SAFETY: a tail of a string that ends with its only NUL.
    unsafe { CStr::from_bytes_with_nul_unchecked(bytes.get_unchecked(start..)) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use catamaran_task::spec::Rootfs;

    use super::super::super::capability::Sets;
    use super::super::super::compile::{self, Parts, Stdio};
    use super::*;
    use crate::cgroup::Joining;

    fn child() -> Child {
        Child { socket: -1, root: -1, part: 0 }
    }

    fn c(path: &Path) -> CString {
        CString::new(path.as_os_str().as_encoded_bytes()).unwrap()
    }

    /// The bind mount of a container of ours at `/v`, compiled.
    fn bind(source: &Path, rootfs: &Rootfs) -> Result<Source, String> {
        let spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"args": ["a"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "mounts": [{"destination": "/v", "type": "bind", "source": source, "options": ["rbind"]}],
            "linux": {"namespaces": [{"type": "mount"}]},
        }))
        .unwrap();
        let parts = Parts {
            rootfs,
            mount_point: Path::new("/"),
            joining: Joining::default(),
            stdio: Stdio::default(),
            capabilities: Sets::default(),
            filters: Box::leak(Box::default()),
        };
        let plan = compile::container(&spec, parts).map_err(|e| e.to_string())?;
        let mut mounts = plan.ops.into_iter().filter_map(|op| match op {
            Op::Mount { source, at, .. } if at.path() == c"v" => Some(source),
            _ => None,
        });
        Ok(mounts.next().unwrap())
    }

    #[test]
    fn a_directory_that_becomes_a_link_is_not_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (volume, other) = (root.join("volume"), root.join("volume/a/b"));
        std::fs::create_dir_all(&other).unwrap();
        let layers = Rootfs::Overlay { lower: vec!["/l".into()], scratch: "/s".into() };
        let ours = bind(&other, &layers).unwrap();
        let containerds = bind(&other, &Rootfs::Directory(root.clone())).unwrap();
        let mount = |source: &Source| child().source(source, &MountAttr::default()).map(sys::close);
        assert_eq!((mount(&ours), mount(&containerds)), (Ok(()), Ok(())));
        // What a container does that may write to the volume, after its next start was compiled.
        for part in ["a/b", "a"] {
            let (path, aside) = (volume.join(part), volume.join("aside"));
            std::fs::rename(&path, &aside).unwrap();
            std::os::unix::fs::symlink(&aside, &path).unwrap();
            assert_eq!(mount(&ours), Err(libc::ELOOP), "{part}");
            assert_eq!(mount(&containerds), Ok(()), "{part}");
            assert!(bind(&other, &layers).unwrap_err().contains("symbolic link"), "{part}");
            std::fs::remove_file(&path).unwrap();
            std::fs::rename(&aside, &path).unwrap();
        }
        assert_eq!(mount(&ours), Ok(()));
    }

    /// In a mount namespace of its own.
    fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                sys::unshare(libc::CLONE_NEWNS).unwrap();
                sys::mount(None, c"/", None, libc::MS_PRIVATE | libc::MS_REC, None).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    #[test]
    fn an_overlay_on_older_kernels() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["lower", "upper", "work", "upper/inside", "at"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        std::fs::write(path("lower/file"), "below").unwrap();
        let (at, upper) = (c(&path("at")), c(&path("upper")));
        let options = || {
            let of = |name| path(name).display().to_string();
            let (lower, upper, work) = (of("lower"), of("upper"), of("work"));
            CString::new(format!("lowerdir={lower},upperdir={upper},workdir={work}")).unwrap()
        };
        // EINVAL where 6.5 gives it (a layer's parameter), and where kernels before do (the creation).
        let parameter = Overlay {
            lower: vec![c"".into()],
            upper: upper.clone(),
            work: c(&path("work")),
            options: options(),
        };
        let creation =
            Overlay { lower: vec![c(&path("lower"))], work: c(&path("upper/inside")), ..parameter.clone() };
        for (overlay, place) in [(&parameter, part::PARAMETER), (&creation, part::CREATE)] {
            let below = aside(|| {
                let mut child = child();
                assert_eq!(child.new_overlay(overlay), Err(libc::EINVAL));
                assert_eq!(child.part, place);
                child.root_overlay(overlay, &at).unwrap();
                assert!(child.root >= 0);
                sys::close(child.root);
                std::fs::read_to_string(path("at/file")).unwrap()
            });
            assert_eq!(below, "below");
        }
        // As containerd describes it: the same way back, with the flags of the mount.
        let source = Source::New {
            kind: c"overlay".into(),
            parameters: vec![(c"lowerdir+".into(), Some(c"".into()))],
        };
        let attributes = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
        let op = Op::RootMount { source, attributes, at: at.clone(), options: Some(options()) };
        let written = aside(|| {
            let mut child = child();
            child.file_systems(&op).unwrap();
            sys::close(child.root);
            (std::fs::read_to_string(path("at/file")).unwrap(), std::fs::write(path("at/new"), "").is_ok())
        });
        assert_eq!(written, ("below".to_owned(), false));
        let long = CString::new("x".repeat(PAGE)).unwrap();
        assert_eq!(child().mount_overlay(&at, 0, &long), Err(libc::E2BIG), "not cut short");
    }

    #[test]
    fn base_names() {
        for (path, name) in [(c"a", c"a"), (c"a/b", c"b"), (c"a/b/", c"")] {
            assert_eq!(base_name(path), name);
        }
    }
}
