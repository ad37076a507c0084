//! Control groups: v1, v2, and the hybrid of both (v1 controllers, and the unified tree beside them
//! for kill, freeze and births inside it). Made, limited, read, joined and removed by plain files
//! (`orchestrator/decisions/0004`).

mod devices;
mod layout;
mod settings;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::LinuxResources;

pub(crate) use layout::Layout;
use settings::{Setting, Version};

/// How long a directory may stay busy after its last process was killed.
const REMOVE_TRIES: u32 = 400;

/// Why a control group could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error("make the cgroup {}", path.display())]
    Make {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write {value:?} to {}", path.display())]
    Write {
        path: PathBuf,
        value: String,
        #[source]
        source: io::Error,
    },
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the node has no {0} controller")]
    NoController(&'static str),
    #[error("the cgroup path {0:?} must be a path below the root of the hierarchy")]
    Path(String),
    #[error("the device rules of the cgroup: {0}")]
    Devices(#[source] io::Error),
}

/// What a process needs to be born into a cgroup and to see it.
#[derive(Debug, Default)]
pub(crate) struct Joining {
    /// Files into which the process writes `0`, with their paths.
    pub files: Vec<(PathBuf, OwnedFd)>,
    /// Directory of the unified tree to be born into.
    pub directory: Option<OwnedFd>,
    /// Directories to show below `/sys/fs/cgroup`; one without a name is shown there itself.
    pub visible: Vec<(String, PathBuf)>,
}

/// Figures of a cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub cpu_ns: u64,
    pub working_set_bytes: u64,
    pub pids: u64,
}

/// The control group of one container, in all hierarchies.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    layout: Arc<Layout>,
    path: String,
}

impl Cgroup {
    /// The group at `path`, which is below the root of every hierarchy.
    pub(crate) fn new(layout: &Arc<Layout>, path: &str) -> Result<Self, CgroupError> {
        let trimmed = path.trim_matches('/');
        let plain = !trimmed.is_empty() && trimmed.split('/').all(|p| !matches!(p, "" | "." | ".."));
        if !plain || path.contains(':') {
            return Err(CgroupError::Path(path.to_owned()));
        }
        Ok(Self { layout: Arc::clone(layout), path: trimmed.to_owned() })
    }

    /// Its path below the root of each hierarchy.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Makes the directories and sets the limits. What an earlier container left there is made anew: its
    /// counters would count for this one.
    pub(crate) fn create(&self, resources: Option<&LinuxResources>) -> Result<(), CgroupError> {
        let used = self.layout.used(resources);
        for hierarchy in &used {
            let directory = hierarchy.join(&self.path);
            // Not there, mostly; what is busy stays as it is.
            let _ = fs::remove_dir(&directory);
            match fs::create_dir(&directory) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) if e.kind() == ErrorKind::NotFound => make_all(&directory)?,
                Err(source) => return Err(CgroupError::Make { path: directory, source }),
            }
        }
        match &*self.layout {
            Layout::V1 { controllers, .. } => {
                if let Some(cpuset) = controllers.get("cpuset").filter(|path| used.contains(path)) {
                    layout::inherit_cpuset(cpuset, &self.path)?;
                }
            }
            Layout::V2(root) => layout::enable_controllers(root, &self.path, resources)?,
        }
        self.update(resources)?;
        devices::apply(&self.layout, &self.path, resources)
    }

    /// Sets limits.
    pub(crate) fn update(&self, resources: Option<&LinuxResources>) -> Result<(), CgroupError> {
        let version = match &*self.layout {
            Layout::V1 { .. } => Version::V1,
            Layout::V2(_) => Version::V2,
        };
        let Some(resources) = resources else { return Ok(()) };
        settings::settings(version, resources).iter().try_for_each(|setting| self.set(setting))
    }

    fn set(&self, setting: &Setting) -> Result<(), CgroupError> {
        let Some(directory) = self.directory(setting.controller) else {
            return if setting.optional {
                Ok(())
            } else {
                Err(CgroupError::NoController(setting.controller))
            };
        };
        let path = directory.join(&setting.file);
        match fs::write(&path, &setting.value) {
            Err(_) if setting.optional => Ok(()),
            Err(source) => Err(CgroupError::Write { path, value: setting.value.clone(), source }),
            Ok(()) => Ok(()),
        }
    }

    fn directory(&self, controller: &str) -> Option<PathBuf> {
        self.layout.controller(controller).map(|hierarchy| hierarchy.join(&self.path))
    }

    fn unified(&self) -> Option<PathBuf> {
        self.layout.unified().map(|root| root.join(&self.path))
    }

    /// What a process that is to live here must be given. On v1 it writes itself into `tasks`: unlike
    /// `cgroup.procs` that takes no lock of all processes, whose first holder after a quiet time waits
    /// 6 to 26 ms for a grace period. On v2 it is born here.
    pub(crate) fn joining(&self) -> Result<Joining, CgroupError> {
        let read = |path: PathBuf| move |source| CgroupError::Read { path, source };
        let mut joining = Joining::default();
        for (name, hierarchy) in self.layout.v1_hierarchies() {
            let directory = hierarchy.join(&self.path);
            let path = directory.join("tasks");
            match OpenOptions::new().write(true).open(&path) {
                Ok(file) => {
                    joining.files.push((path, file.into()));
                    joining.visible.push((name, directory));
                }
                // A controller without limits for this container.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(read(path)(e)),
            }
        }
        if let Some(unified) = self.unified() {
            joining.directory = Some(File::open(&unified).map_err(read(unified.clone()))?.into());
            let name = if joining.visible.is_empty() { "" } else { "unified" };
            joining.visible.push((name.into(), unified));
        }
        Ok(joining)
    }

    /// Kills everything inside. True when the kernel did it in one stroke.
    pub(crate) fn kill(&self) {
        if let Some(unified) = self.unified()
            && fs::write(unified.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for pid in self.pids() {
            // The process may be gone by now; the next look would tell.
            if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }

    /// Processes inside, in the node's pid namespace.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let directory = self.unified().or_else(|| self.directory("pids"));
        let text = directory.and_then(|d| fs::read_to_string(d.join("cgroup.procs")).ok());
        text.unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Stops or continues everything inside.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let Some(directory) = self.unified() else {
            return Err(CgroupError::NoController("unified (cgroup2)"));
        };
        let (path, value) = (directory.join("cgroup.freeze"), u8::from(frozen).to_string());
        fs::write(&path, &value).map_err(|source| CgroupError::Write { path, value, source })
    }

    /// How many processes the kernel has killed in here for memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let file = match &*self.layout {
            Layout::V1 { .. } => "memory.oom_control",
            Layout::V2(_) => "memory.events",
        };
        self.read("memory", file).map_or(0, |text| value_of(&text, "oom_kill"))
    }

    /// What it uses. All zero once it is gone.
    pub(crate) fn figures(&self) -> Figures {
        let number = |controller: &str, file: &str| {
            self.read(controller, file).and_then(|text| text.trim().parse().ok()).unwrap_or(0)
        };
        let statistics = self.read("memory", "memory.stat").unwrap_or_default();
        let (cpu_ns, memory, droppable) = match &*self.layout {
            Layout::V1 { .. } => (
                number("cpuacct", "cpuacct.usage"),
                number("memory", "memory.usage_in_bytes"),
                value_of(&statistics, "total_inactive_file"),
            ),
            Layout::V2(_) => (
                self.read("cpu", "cpu.stat").map_or(0, |text| value_of(&text, "usage_usec") * 1000),
                number("memory", "memory.current"),
                value_of(&statistics, "inactive_file"),
            ),
        };
        let pids = number("pids", "pids.current");
        Figures { cpu_ns, working_set_bytes: memory.saturating_sub(droppable), pids }
    }

    fn read(&self, controller: &str, file: &str) -> Option<String> {
        fs::read_to_string(self.directory(controller)?.join(file)).ok()
    }

    /// Removes it everywhere, with groups that the container made inside, and parents that are empty
    /// then, up to the topmost, which stays for the next. What still runs inside is killed. Blocks up to
    /// two seconds.
    pub(crate) fn remove(&self) -> Result<(), CgroupError> {
        for hierarchy in self.layout.all_hierarchies() {
            let directory = hierarchy.join(&self.path);
            self.remove_directory(&directory)
                .map_err(|source| CgroupError::Make { path: directory.clone(), source })?;
            let kept = self.path.split('/').next().map_or(hierarchy.clone(), |top| hierarchy.join(top));
            for parent in directory.ancestors().skip(1).take_while(|p| *p != hierarchy && *p != kept) {
                if fs::remove_dir(parent).is_err() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Removes the group at the top, where it is empty.
    pub(crate) fn remove_top(layout: &Layout, name: &str) {
        for hierarchy in layout.all_hierarchies() {
            // In use by another shim, or never made.
            let _ = fs::remove_dir(hierarchy.join(name));
        }
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        for attempt in 0..REMOVE_TRIES {
            match fs::remove_dir(directory) {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) && attempt + 1 < REMOVE_TRIES => {
                    if attempt == 2 {
                        self.kill();
                        remove_below(directory);
                    }
                    std::thread::sleep(Duration::from_micros(if attempt < 10 { 200 } else { 5_000 }));
                }
                other => return other,
            }
        }
        Ok(())
    }
}

/// Directories that a container made in its own group, innermost first.
fn remove_below(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
            // What is busy is tried again with its parent.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn make_all(directory: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(directory).map_err(|source| CgroupError::Make { path: directory.into(), source })
}

/// The number behind `key` in a file of lines `key number`.
fn value_of(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_whole_key() {
        let text = "oom 3\noom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
        assert_eq!(value_of(text, "oom_kill"), 2);
        assert_eq!(value_of(text, "none"), 0);
    }

    #[test]
    fn paths_stay_below_the_root() {
        let layout = Arc::new(Layout::V2("/sys/fs/cgroup".into()));
        for bad in ["", "/", "a/../b", "..", "a//b", "./a", "slice:prefix:name"] {
            assert!(Cgroup::new(&layout, bad).is_err(), "{bad}");
        }
        assert_eq!(Cgroup::new(&layout, "/a/b/").unwrap().path, "a/b");
    }
}
