//! What the child does between clone and exec, as a flat list that was prepared down to the last
//! string: the child must not allocate.

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use libc::{c_char, c_int, sock_filter};

use super::sys::MountAttr;

/// A program for the kernel's filter of system calls.
pub(crate) type Filter = Arc<Vec<sock_filter>>;

/// A list of operations and the descriptors they name.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub ops: Vec<Op>,
    /// `CLONE_NEW*` of the namespaces that the clone makes.
    pub namespaces: u64,
    /// Pid namespace that the child is born into, in place of a new one.
    pub pid_namespace: Option<OwnedFd>,
    /// Directory of the unified hierarchy that the child is born into.
    pub cgroup: Option<OwnedFd>,
    /// Ids of a new user namespace: lines of uid_map and gid_map.
    pub id_maps: Option<IdMaps>,
    /// Namespaces of the node's own that must be entered before a new user namespace takes the right.
    pub entered_before: Vec<(OwnedFd, c_int)>,
    /// The root of a container with ids of its own: the parent mounts it, the child receives it.
    pub mapped_root: Option<Overlay>,
    /// Keeps open what `ops` name by number.
    pub held: Vec<OwnedFd>,
}

/// Contents of `uid_map` and `gid_map`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdMaps {
    pub uid: String,
    pub gid: String,
}

/// Whether a step that fails ends the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Must,
    /// Goes on where the machine does not allow it.
    BestEffort,
}

/// What a mount point is made as, where it does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PointKind {
    Directory,
    File,
}

/// A place below the new root; never outside it, whatever links the image holds.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    /// The path and all its parents, relative to the root: `a`, `a/b`, `a/b/c`.
    pub steps: Vec<CString>,
    pub kind: PointKind,
    /// Refuse symbolic links on the way (`/proc` and `/sys` must be where they seem to be).
    pub plain: bool,
}

impl Point {
    pub(crate) fn path(&self) -> &CStr {
        self.steps.last().map_or(c".", CString::as_c_str)
    }
}

/// Where a mount comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A new instance of a file system; a parameter without value is a flag.
    New { kind: CString, parameters: Vec<(CString, Option<CString>)> },
    /// A copy of a mount of the node.
    Bind { path: CString, recursive: bool, links: Links },
}

/// What a symbolic link on the way to the source of a mount does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Links {
    /// It is followed: whoever wrote the path is trusted with all of it (containerd, this shim itself).
    #[default]
    Followed,
    /// The mount fails. The path was resolved before, and part of it may be open to a container that
    /// changes it in between (CVE-2021-25741).
    Refused,
}

/// Layers of a root file system.
#[derive(Clone, Debug)]
pub(crate) struct Overlay {
    /// Topmost first.
    pub lower: Vec<CString>,
    pub upper: CString,
    pub work: CString,
    /// The same for mount(2).
    pub options: CString,
}

/// One operation of the child.
#[derive(Debug)]
pub(crate) enum Op {
    /// Makes 0, 1 and 2 from these and closes every other descriptor but those named.
    Descriptors {
        stdio: [Option<RawFd>; 3],
        keep: Vec<RawFd>,
    },
    /// Waits until the parent wrote the id maps, then becomes root of the user namespace.
    BecomeRoot,
    /// Writes `0` to a `tasks` or `cgroup.procs` file.
    JoinCgroup {
        fd: RawFd,
        path: CString,
    },
    /// Leads a session of its own.
    NewSession,
    /// Enters a namespace that exists.
    Enter {
        fd: RawFd,
        kinds: c_int,
        what: String,
    },
    /// A cgroup namespace whose root is the cgroup joined.
    NewCgroupNamespace,
    Hostname(CString),
    Domainname(CString),
    LoopbackUp,
    /// Writes to a file of the node's `/proc`.
    Write {
        path: CString,
        value: CString,
        need: Need,
    },
    /// Propagation of all mounts inherited from the node.
    Propagation(u64),
    /// Mounts an overlay at a directory of the node and makes it the root to be.
    RootOverlay {
        overlay: Overlay,
        at: CString,
    },
    /// Receives a mount from the parent and makes it the root to be.
    RootReceived {
        at: CString,
    },
    /// Makes the mount that holds the first of these (the first that is a mount point) private.
    PrivateParent(Vec<CString>),
    /// Takes a directory of the node as the root to be.
    RootDirectory {
        path: CString,
    },
    /// Mounts something on the root to be, before it is opened.
    RootMount {
        source: Source,
        attributes: MountAttr,
        at: CString,
        /// Of an overlay: its options for mount(2).
        options: Option<CString>,
    },
    /// Makes a mount point in the root, if it does not exist.
    MakePoint(Point),
    /// Mounts `source` there. `recursive` attributes hold for mounts below it too.
    Mount {
        source: Source,
        attributes: MountAttr,
        recursive: MountAttr,
        at: Point,
    },
    /// A device node; in a user namespace the node's own is mounted instead.
    Device {
        at: Point,
        mode: u32,
        device: u64,
        owner: (u32, u32),
        node: Option<CString>,
    },
    Link {
        to: CString,
        at: Point,
    },
    /// Makes a path of the root read-only; nothing where it does not exist.
    ReadOnly(CString),
    /// Hides a path of the root; nothing where it does not exist.
    Mask(CString),
    /// Takes a pseudoterminal for 0, 1 and 2 and sends its other end to the parent.
    /// `console`: also bound on `/dev/console` of the root.
    Terminal {
        owner: (u32, u32),
        console: Option<Point>,
        size: (u16, u16),
    },
    Pivot,
    /// Attributes of the new root mount, after the pivot.
    RootAttributes {
        attributes: MountAttr,
        propagation: u64,
    },
    Umask(u32),
    Rlimit {
        resource: c_int,
        name: &'static str,
        limit: libc::rlimit64,
    },
    NoNewPrivileges,
    Seccomp {
        filter: Filter,
        flags: u64,
    },
    Groups(Vec<u32>),
    Ids {
        uid: u32,
        gid: u32,
    },
    /// Keeps capabilities over the change of ids.
    KeepCapabilities,
    /// Drops what is not in the set from the bounding set.
    BoundingSet(u64),
    Capabilities {
        effective: u64,
        permitted: u64,
        inheritable: u64,
    },
    AmbientSet(u64),
    Chdir(CString),
    /// Tells the parent that all is set up, then waits to be started.
    Gate,
    Exec(Box<Program>),
}

/// A program with its arguments, ready for execve.
pub(crate) struct Program {
    /// As the user wrote it.
    pub name: String,
    /// Paths to try, in the order of PATH.
    pub candidates: Vec<CString>,
    pub arguments: Strings,
    pub environment: Strings,
    /// Look `HOME` up in `/etc/passwd` of the root for this user, into the spare slot.
    pub home_of: Option<u32>,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("candidates", &self.candidates).finish_non_exhaustive()
    }
}

/// Strings and the array of pointers to them that execve takes: a NULL ends it, one spare slot before.
pub(crate) struct Strings {
    _strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

// SAFETY: the pointers lead to the strings owned beside them, which never change.
#[allow(unsafe_code)]
unsafe impl Send for Strings {}
// SAFETY: as above; nobody writes to the array but a child process, to its own copy.
#[allow(unsafe_code)]
unsafe impl Sync for Strings {}

impl Strings {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let spare = [std::ptr::null(), std::ptr::null()];
        let pointers = strings.iter().map(|s| s.as_ptr()).chain(spare).collect();
        Self { _strings: strings, pointers }
    }

    /// For execve.
    pub(crate) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }

    /// Index of the spare slot.
    pub(crate) fn spare(&self) -> usize {
        self.pointers.len() - 2
    }
}

impl Op {
    /// The step in words, for an error message. `part` is what the child said about where in the step.
    pub(crate) fn describe(&self, part: u16) -> String {
        let text = |s: &CStr| s.to_string_lossy().into_owned();
        let inside = |p: &Point| format!("/{}", text(p.path()));
        match self {
            Op::Descriptors { .. } => "set up standard input and output".into(),
            Op::BecomeRoot => "become root of the user namespace".into(),
            Op::JoinCgroup { path, .. } => format!("join the cgroup {}", text(path)),
            Op::NewSession => "begin a session".into(),
            Op::Enter { what, .. } => format!("enter the {what}"),
            Op::NewCgroupNamespace => "make a cgroup namespace".into(),
            Op::Hostname(name) => format!("set the host name {}", text(name)),
            Op::Domainname(name) => format!("set the domain name {}", text(name)),
            Op::LoopbackUp => "set the interface lo up".into(),
            Op::Write { path, value, .. } => format!("write {:?} to {}", text(value), text(path)),
            Op::Propagation(_) => "set the propagation of mounts".into(),
            Op::RootOverlay { at, overlay } => overlay_step(&text(at), overlay, part),
            Op::RootReceived { at } => format!("mount the root at {} with the container's ids", text(at)),
            Op::PrivateParent(_) => "keep the root's mount from spreading to the node".into(),
            Op::RootDirectory { path } => format!("use {} as the root directory", text(path)),
            Op::RootMount { source, at, .. } => format!("{} as the root at {}", source.describe(), text(at)),
            Op::MakePoint(point) => format!("make {} in the root", inside(point)),
            Op::Mount { source, at, .. } => mount_step(source, &inside(at), part),
            Op::Device { at, .. } => format!("make the device {}", inside(at)),
            Op::Link { at, .. } => format!("make the link {}", inside(at)),
            Op::ReadOnly(path) => format!("make /{} read-only", text(path)),
            Op::Mask(path) => format!("mask /{}", text(path)),
            Op::Terminal { .. } => "set up the terminal (a devpts at /dev/pts is needed)".into(),
            Op::Pivot => "pivot_root into the new root".into(),
            Op::RootAttributes { .. } => "set attributes of the root mount".into(),
            Op::Umask(_) => "set the umask".into(),
            Op::Rlimit { name, limit, .. } => {
                format!("set {name} to {} (at most {})", limit.rlim_cur, limit.rlim_max)
            }
            Op::NoNewPrivileges => "set no_new_privs".into(),
            Op::Seccomp { .. } => "install the seccomp filter".into(),
            Op::Groups(groups) => format!("set the supplementary groups {groups:?}"),
            Op::Ids { uid, gid } => format!("become user {uid}, group {gid}"),
            Op::KeepCapabilities => "keep capabilities".into(),
            Op::BoundingSet(_) => "drop capabilities from the bounding set".into(),
            Op::Capabilities { .. } => "set the capabilities".into(),
            Op::AmbientSet(_) => "raise ambient capabilities".into(),
            Op::Chdir(path) => format!("change to the working directory {}", text(path)),
            Op::Gate => "wait for the start".into(),
            Op::Exec(program) => format!("run {:?}", program.name),
        }
    }
}

impl Source {
    fn describe(&self) -> String {
        match self {
            Source::New { kind, .. } => format!("mount {}", kind.to_string_lossy()),
            Source::Bind { path, .. } => format!("mount {}", path.to_string_lossy()),
        }
    }
}

/// Parts of a mount, as the child counts them.
pub(crate) mod part {
    /// Opening the source, or the first parameter is `PARAMETER + index`.
    pub(crate) const SOURCE: u16 = 0;
    pub(crate) const CREATE: u16 = 1;
    pub(crate) const ATTRIBUTES: u16 = 2;
    pub(crate) const TARGET: u16 = 3;
    pub(crate) const ATTACH: u16 = 4;
    pub(crate) const PARAMETER: u16 = 16;
}

fn mount_step(source: &Source, at: &str, part: u16) -> String {
    let what = source.describe();
    match (part, source) {
        (part::TARGET, _) => format!("{what}: open the mount point {at}"),
        (part::ATTRIBUTES, _) => format!("{what} at {at}: set its attributes"),
        (part::ATTACH, _) => format!("{what} at {at}: attach it"),
        (index @ part::PARAMETER.., Source::New { parameters, .. }) => {
            match parameters.get(usize::from(index - part::PARAMETER)) {
                Some((key, Some(value))) => {
                    format!("{what} at {at}: option {}={}", key.to_string_lossy(), value.to_string_lossy())
                }
                Some((key, None)) => format!("{what} at {at}: option {}", key.to_string_lossy()),
                None => format!("{what} at {at}"),
            }
        }
        _ => format!("{what} at {at}"),
    }
}

fn overlay_step(at: &str, overlay: &Overlay, part: u16) -> String {
    let index = part.checked_sub(part::PARAMETER).map(usize::from);
    match index.and_then(|index| overlay.lower.get(index)) {
        Some(layer) => format!("mount the root: layer {}", layer.to_string_lossy()),
        None => format!("mount the root at {at} of {} layers", overlay.lower.len()),
    }
}
