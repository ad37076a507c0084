//! The root file system of a container as operations: layers, mounts, devices, what is hidden.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use catamaran_task::spec::{RootMount, Rootfs};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount, Spec};

use super::super::mounts::{self, Bind, MountOptions};
use super::super::plan::{Links, Op, Overlay, Point, PointKind, Source};
use super::super::process::{Invalid, c_string, invalid};
use super::super::sys::{MountAttr, attr};
use super::Builder;

/// Device numbers of what every container has.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

impl Builder {
    pub(super) fn file_systems(
        &mut self,
        spec: &Spec,
        root: (&Rootfs, &Path),
        cgroups: &[(String, PathBuf)],
    ) -> Result<(), Invalid> {
        // Slave: what the node unmounts goes away in here too, what we mount stays in here.
        let inherited = match propagation(spec)? {
            0 => libc::MS_SLAVE,
            asked => asked,
        };
        self.push(Op::Propagation(inherited | libc::MS_REC));
        self.root(spec, root)?;
        self.push(Op::Umask(0));
        let mut own_dev = false;
        for mount in spec.mounts().iter().flatten() {
            let at = mount.destination();
            self.mount(mount, cgroups).map_err(|e| Invalid(format!("the mount at {}: {e}", at.display())))?;
            if at == Path::new("/dev") && mount.typ().as_deref() == Some("tmpfs") {
                own_dev = true;
            }
        }
        if own_dev {
            self.default_devices()?;
        }
        for device in spec.linux().as_ref().and_then(|l| l.devices().clone()).unwrap_or_default() {
            self.device(&device)?;
        }
        Ok(())
    }

    fn root(&mut self, spec: &Spec, (rootfs, mount_point): (&Rootfs, &Path)) -> Result<(), Invalid> {
        let shared = propagation(spec)? & libc::MS_SHARED != 0;
        let at = match rootfs {
            // Where mounts spread to the node, the root's own must not: it goes over the node's /proc,
            // which is not needed any more and can be private without taking volumes along.
            Rootfs::Overlay { .. } if shared => PathBuf::from("/proc"),
            Rootfs::Overlay { .. } => mount_point.to_owned(),
            Rootfs::Directory(path) | Rootfs::Mounts { target: path, .. } => path.clone(),
            Rootfs::None => return invalid("a container needs a root file system"),
        };
        if shared {
            let ancestors = at.ancestors().map(path_string).collect::<Result<_, _>>()?;
            self.push(Op::PrivateParent(ancestors));
        }
        let at = path_string(&at)?;
        match rootfs {
            Rootfs::Overlay { lower, scratch } => {
                let overlay = overlay(lower, scratch)?;
                if self.user_namespace {
                    self.plan.mapped_root = Some(overlay);
                    self.push(Op::RootReceived { at });
                } else {
                    self.push(Op::RootOverlay { overlay, at });
                }
            }
            Rootfs::Mounts { mounts, .. } => {
                for mount in mounts {
                    self.push(root_mount(mount, &at)?);
                }
            }
            Rootfs::Directory(_) | Rootfs::None => self.push(Op::RootDirectory { path: at }),
        }
        Ok(())
    }

    fn mount(&mut self, mount: &Mount, cgroups: &[(String, PathBuf)]) -> Result<(), Invalid> {
        let options = mount.options().iter().flatten().map(String::as_str);
        let mut options = mounts::parse(options).map_err(Invalid)?;
        let destination = mount.destination().to_str().ok_or_else(|| Invalid("not UTF-8".into()))?;
        let kind = mount.typ().as_deref().unwrap_or("bind");
        if kind == "bind" && options.bind == Bind::No {
            options.bind = Bind::One;
        }
        if options.bind != Bind::No {
            return self.bind(mount, options, destination);
        }
        match kind {
            "cgroup" | "cgroup2" => self.cgroup_mount(destination, &options, cgroups),
            "sysfs" if self.foreign_network => self.bind_sysfs(destination, &options),
            _ => {
                let at = Point {
                    plain: matches!(kind, "proc" | "sysfs"),
                    ..point(destination, PointKind::Directory)?
                };
                let mut parameters = options.parameters;
                if let Some(source) = mount.source().as_ref().and_then(|s| s.to_str()) {
                    parameters.insert(0, (c"source".into(), Some(c_string("the source", source)?)));
                }
                let source = Source::New { kind: c_string("the type", kind)?, parameters };
                self.push(Op::Mount { source, attributes: options.own, recursive: options.recursive, at });
                Ok(())
            }
        }
    }

    fn bind(&mut self, mount: &Mount, mut options: MountOptions, destination: &str) -> Result<(), Invalid> {
        let Some(path) = mount.source().as_ref() else { return invalid("a bind mount needs a source") };
        let about = look_at(path, self.links).map_err(|e| Invalid(format!("{}: {e}", path.display())))?;
        let kind = if about.is_dir() { PointKind::Directory } else { PointKind::File };
        if !options.has_propagation() {
            options.recursive.propagation = libc::MS_PRIVATE;
        }
        let recursive = options.bind == Bind::WithAllBelow;
        let source = Source::Bind { path: path_string(path)?, recursive, links: self.links };
        let at = point(destination, kind)?;
        self.push(Op::Mount { source, attributes: options.own, recursive: options.recursive, at });
        Ok(())
    }

    /// On cgroup v1 each controller's directory of this container, on v2 the one tree.
    fn cgroup_mount(
        &mut self,
        destination: &str,
        options: &MountOptions,
        cgroups: &[(String, PathBuf)],
    ) -> Result<(), Invalid> {
        let attributes = MountAttr {
            set: options.own.set | attr::NOSUID | attr::NODEV | attr::NOEXEC,
            ..MountAttr::default()
        };
        let private = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
        let bind = |name: &str, path: &Path| -> Result<Op, Invalid> {
            let at = if name.is_empty() { destination.to_owned() } else { format!("{destination}/{name}") };
            let path = path_string(path)?;
            let source = Source::Bind { path, recursive: false, links: Links::Followed };
            Ok(Op::Mount { source, attributes, recursive: private, at: point(&at, PointKind::Directory)? })
        };
        if let [(name, path)] = cgroups
            && name.is_empty()
        {
            let op = bind("", path)?;
            self.push(op);
            return Ok(());
        }
        let parameters = vec![(c"mode".into(), Some(c"755".into())), (c"size".into(), Some(c"64k".into()))];
        let source = Source::New { kind: c"tmpfs".into(), parameters };
        let at = point(destination, PointKind::Directory)?;
        let writable = MountAttr { set: attributes.set & !attr::RDONLY, ..MountAttr::default() };
        self.push(Op::Mount { source, attributes: writable, recursive: MountAttr::default(), at });
        for (name, path) in cgroups {
            let op = bind(name, path)?;
            self.push(op);
        }
        if attributes.set & attr::RDONLY != 0 {
            self.push(Op::ReadOnly(c_string("the mount point", relative(destination))?));
        }
        Ok(())
    }

    fn bind_sysfs(&mut self, destination: &str, options: &MountOptions) -> Result<(), Invalid> {
        let source = Source::Bind { path: c"/sys".into(), recursive: true, links: Links::Followed };
        let recursive = MountAttr { set: options.own.set, propagation: libc::MS_SLAVE, ..options.own };
        let at = point(destination, PointKind::Directory)?;
        self.push(Op::Mount { source, attributes: MountAttr::default(), recursive, at });
        Ok(())
    }

    fn default_devices(&mut self) -> Result<(), Invalid> {
        for (name, major, minor) in DEVICES {
            let at = point(&format!("dev/{name}"), PointKind::File)?;
            let device = libc::makedev(major, minor);
            let node = self.user_namespace.then(|| c_string("device", format!("/dev/{name}"))).transpose()?;
            self.push(Op::Device { at, mode: libc::S_IFCHR | 0o666, device, owner: (0, 0), node });
        }
        for (to, name) in LINKS {
            let at = point(&format!("dev/{name}"), PointKind::File)?;
            self.push(Op::Link { to: c_string("link", to)?, at });
        }
        Ok(())
    }

    fn device(&mut self, device: &LinuxDevice) -> Result<(), Invalid> {
        let path = device.path().to_str().unwrap_or_default();
        let kind = match device.typ() {
            LinuxDeviceType::B => libc::S_IFBLK,
            LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
            LinuxDeviceType::P => libc::S_IFIFO,
            LinuxDeviceType::A => return invalid(format!("the device {path} has no type")),
        };
        let number = |n: i64| u32::try_from(n).map_err(|_| Invalid(format!("the device {path}: number {n}")));
        let at = point(path, PointKind::File)?;
        let node = self.user_namespace.then(|| path_string(device.path())).transpose()?;
        self.push(Op::Device {
            at,
            mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
            device: libc::makedev(number(device.major())?, number(device.minor())?),
            owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
            node,
        });
        Ok(())
    }

    pub(super) fn hide(&mut self, spec: &Spec) -> Result<(), Invalid> {
        let linux = spec.linux().as_ref();
        for path in linux.and_then(|l| l.readonly_paths().clone()).unwrap_or_default() {
            self.push(Op::ReadOnly(c_string("the read-only path", relative(&path))?));
        }
        for path in linux.and_then(|l| l.masked_paths().clone()).unwrap_or_default() {
            self.push(Op::Mask(c_string("the masked path", relative(&path))?));
        }
        Ok(())
    }

    pub(super) fn finish_root(&mut self, spec: &Spec) -> Result<(), Invalid> {
        if let Some(process) = spec.process() {
            // Images name working directories that no layer has.
            let cwd = process.cwd().to_str().unwrap_or_default();
            if !relative(cwd).is_empty() {
                let at = point(cwd, PointKind::Directory)?;
                self.push(Op::Umask(0o022));
                self.push(Op::MakePoint(at));
            }
        }
        self.push(Op::Pivot);
        let read_only = spec.root().as_ref().and_then(|r| r.readonly()) == Some(true);
        let attributes = MountAttr { set: if read_only { attr::RDONLY } else { 0 }, ..MountAttr::default() };
        let propagation = match propagation(spec)? {
            0 => 0,
            flags => flags | libc::MS_REC,
        };
        if read_only || propagation != 0 {
            self.push(Op::RootAttributes { attributes, propagation });
        }
        Ok(())
    }
}

fn propagation(spec: &Spec) -> Result<u64, Invalid> {
    let name = spec.linux().as_ref().and_then(|l| l.rootfs_propagation().clone()).unwrap_or_default();
    Ok(match name.trim_start_matches('r') {
        "" => 0,
        "private" => libc::MS_PRIVATE,
        "slave" => libc::MS_SLAVE,
        "shared" => libc::MS_SHARED,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return invalid(format!("rootfsPropagation {name:?} is not known")),
    })
}

fn relative(path: &str) -> String {
    let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    parts.collect::<Vec<_>>().join("/")
}

/// A place in the root. `..` is refused: what it leads to depends on links of the image.
pub(super) fn point(path: &str, kind: PointKind) -> Result<Point, Invalid> {
    let path = relative(path);
    if path.split('/').any(|part| part == "..") {
        return invalid(format!("the path {path} holds .."));
    }
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    let steps = ends.filter_map(|end| path.get(..end)).filter(|step| !step.is_empty());
    let steps = steps.map(|step| c_string("the path", step)).collect::<Result<Vec<_>, _>>()?;
    if steps.is_empty() {
        return invalid("the root itself cannot be mounted over");
    }
    Ok(Point { steps, kind, plain: false })
}

fn look_at(path: &Path, links: Links) -> std::io::Result<std::fs::Metadata> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
    if links == Links::Followed {
        return std::fs::metadata(path);
    }
    match openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(place) => std::fs::File::from(place).metadata(),
        Err(rustix::io::Errno::LOOP) => Err(std::io::Error::other("a symbolic link lies on the way")),
        Err(errno) => Err(errno.into()),
    }
}

fn path_string(path: &Path) -> Result<CString, Invalid> {
    c_string("the path", path.as_os_str().as_encoded_bytes())
}

fn overlay(lower: &[PathBuf], scratch: &Path) -> Result<Overlay, Invalid> {
    if lower.is_empty() {
        return invalid("the root has no layers");
    }
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    let text = |path: &Path| escape(&path.to_string_lossy());
    let layers: Vec<String> = lower.iter().map(|layer| text(layer)).collect();
    let options =
        format!("lowerdir={},upperdir={},workdir={},volatile", layers.join(":"), text(&upper), text(&work));
    Ok(Overlay {
        lower: lower.iter().map(|layer| path_string(layer)).collect::<Result<_, _>>()?,
        upper: path_string(&upper)?,
        work: path_string(&work)?,
        options: c_string("the overlay", options)?,
    })
}

/// Colons and commas separate in the options of an overlay.
fn escape(path: &str) -> String {
    path.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
}

fn root_mount(mount: &RootMount, at: &CString) -> Result<Op, Invalid> {
    let options = mounts::parse(mount.options.iter().map(String::as_str)).map_err(Invalid)?;
    let mut classic = None;
    let source = if options.bind != Bind::No || mount.kind == "bind" {
        Source::Bind {
            path: c_string("the source", mount.source.as_str())?,
            recursive: options.bind == Bind::WithAllBelow,
            links: Links::Followed,
        }
    } else {
        let kind = c_string("the type", mount.kind.as_str())?;
        if mount.kind == "overlay" {
            classic = Some(classic_options(&options.parameters)?);
        }
        Source::New { kind, parameters: root_parameters(mount, options.parameters)? }
    };
    Ok(Op::RootMount { source, attributes: options.own, at: at.clone(), options: classic })
}

/// Parameters as mount(2) takes them.
fn classic_options(parameters: &[(CString, Option<CString>)]) -> Result<CString, Invalid> {
    let text = |(key, value): &(CString, Option<CString>)| match value {
        Some(value) => [key.as_bytes(), b"=", value.as_bytes()].concat(),
        None => key.as_bytes().to_vec(),
    };
    let options: Vec<Vec<u8>> = parameters.iter().map(text).collect();
    c_string("the overlay", options.join(&b","[..]))
}

/// Layers one by one: a list of them may be longer than one parameter can be.
fn root_parameters(
    mount: &RootMount,
    parameters: Vec<(CString, Option<CString>)>,
) -> Result<Vec<(CString, Option<CString>)>, Invalid> {
    let mut all = Vec::new();
    if mount.kind != "overlay" {
        all.push((c"source".into(), Some(c_string("the source", mount.source.as_str())?)));
        all.extend(parameters);
        return Ok(all);
    }
    for (key, value) in parameters {
        match (&value, key.as_bytes()) {
            (Some(layers), b"lowerdir") => {
                for layer in layers.to_string_lossy().split(':') {
                    all.push((c"lowerdir+".into(), Some(c_string("the layer", layer)?)));
                }
            }
            _ => all.push((key, value)),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_never_leave_the_root() {
        let steps = |path: &str| {
            let point = point(path, PointKind::File).unwrap();
            point.steps.iter().map(|s| s.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(steps("/a//b/./c/"), ["a", "a/b", "a/b/c"]);
        for bad in ["", "/", "/.", "/a/../b", ".."] {
            assert!(point(bad, PointKind::File).is_err(), "{bad}");
        }
    }

    #[test]
    fn containerds_overlay_in_the_words_of_both_calls() {
        let mount = RootMount {
            kind: "overlay".into(),
            source: "overlay".into(),
            options: ["lowerdir=/a:/b", "upperdir=/u", "ro", "volatile"].map(String::from).to_vec(),
        };
        let Ok(Op::RootMount { source, attributes, options, .. }) = root_mount(&mount, &c"/at".into()) else {
            panic!("no mount of the root");
        };
        assert_eq!(options.as_deref(), Some(c"lowerdir=/a:/b,upperdir=/u,volatile"));
        assert_eq!(attributes.set, attr::RDONLY);
        let Source::New { parameters, .. } = source else { panic!("no new file system") };
        assert_eq!(parameters.iter().filter(|(key, _)| key.as_c_str() == c"lowerdir+").count(), 2);
    }

    #[test]
    fn separators_in_layer_paths_are_escaped() {
        let overlay = overlay(&["/l:1".into(), "/l2".into()], Path::new("/s")).unwrap();
        let options = overlay.options.to_str().unwrap();
        assert_eq!(options, "lowerdir=/l\\:1:/l2,upperdir=/s/upper,workdir=/s/work,volatile");
        assert_eq!(overlay.lower[0].to_str().unwrap(), "/l:1");
    }
}
