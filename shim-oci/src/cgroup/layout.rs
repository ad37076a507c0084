//! Which hierarchies of control groups the node has, and where.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

use super::CgroupError;

/// Controllers in which a container always has a group of its own.
const ALWAYS: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "devices"];
/// Controllers of v2 that must be enabled from the root down.
const V2_ALWAYS: [&str; 3] = ["cpu", "memory", "pids"];

/// The node's hierarchies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Controllers in hierarchies of their own; the hybrid has the unified one as well, without any.
    V1 {
        /// Mount point of each controller.
        controllers: BTreeMap<String, PathBuf>,
        /// Mount point of the unified hierarchy.
        unified: Option<PathBuf>,
    },
    /// All in the unified hierarchy, mounted here.
    V2(PathBuf),
}

impl Layout {
    /// What this node has; `None` when no hierarchy is mounted.
    pub(crate) fn detect() -> Option<Self> {
        Self::from_mountinfo(&fs::read_to_string("/proc/self/mountinfo").ok()?)
    }

    pub(crate) fn from_mountinfo(text: &str) -> Option<Self> {
        let mut controllers = BTreeMap::new();
        let mut unified = None;
        for line in text.lines() {
            let Some((mount, super_block)) = line.split_once(" - ") else { continue };
            let Some(at) = mount.split(' ').nth(4) else { continue };
            let fields: Vec<&str> = super_block.split(' ').collect();
            match fields.as_slice() {
                ["cgroup2", ..] => unified = unified.or_else(|| Some(PathBuf::from(at))),
                ["cgroup", _, options] => {
                    let names = options.split(',').filter(|o| !matches!(*o, "rw" | "ro") && !o.contains('='));
                    for name in names {
                        controllers.entry(name.to_owned()).or_insert_with(|| PathBuf::from(at));
                    }
                }
                _ => {}
            }
        }
        if controllers.contains_key("memory") || controllers.contains_key("cpu") {
            return Some(Self::V1 { controllers, unified });
        }
        unified.map(Self::V2)
    }

    /// Mount point of the hierarchy with this controller.
    pub(crate) fn controller(&self, name: &str) -> Option<&Path> {
        match self {
            Self::V1 { controllers, .. } => controllers.get(name).map(PathBuf::as_path),
            Self::V2(root) => Some(root),
        }
    }

    pub(crate) fn unified(&self) -> Option<&Path> {
        match self {
            Self::V1 { unified, .. } => unified.as_deref(),
            Self::V2(root) => Some(root),
        }
    }

    /// Hierarchies of v1 with the names they are mounted under, each once.
    pub(crate) fn v1_hierarchies(&self) -> Vec<(String, PathBuf)> {
        let Self::V1 { controllers, .. } = self else { return Vec::new() };
        let distinct: BTreeSet<&PathBuf> = controllers.values().collect();
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        distinct.into_iter().map(|path| (name(path), path.clone())).collect()
    }

    pub(crate) fn all_hierarchies(&self) -> Vec<PathBuf> {
        let v1 = self.v1_hierarchies().into_iter().map(|(_, path)| path);
        v1.chain(self.unified().map(Path::to_path_buf)).collect()
    }

    /// Hierarchies in which a container with these limits gets a directory: each costs 20 to 50 µs.
    pub(crate) fn used(&self, resources: Option<&LinuxResources>) -> Vec<PathBuf> {
        let Self::V1 { controllers, unified } = self else { return self.all_hierarchies() };
        let mut wanted: Vec<&str> = ALWAYS.to_vec();
        wanted.extend(more(resources));
        let paths: BTreeSet<&PathBuf> = wanted.iter().filter_map(|name| controllers.get(*name)).collect();
        paths.into_iter().chain(unified).cloned().collect()
    }
}

/// Controllers that only some limits need.
fn more(resources: Option<&LinuxResources>) -> Vec<&'static str> {
    let Some(resources) = resources else { return Vec::new() };
    let mut wanted = Vec::new();
    if resources.cpu().as_ref().is_some_and(|cpu| cpu.cpus().is_some() || cpu.mems().is_some()) {
        wanted.push("cpuset");
    }
    if resources.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty()) {
        wanted.push("hugetlb");
    }
    wanted
}

/// On v1 a new cpuset is empty and takes no process: it starts with what its parent has.
pub(super) fn inherit_cpuset(hierarchy: &Path, path: &str) -> Result<(), CgroupError> {
    let mut directory = hierarchy.to_path_buf();
    for part in path.split('/') {
        let parent = directory.clone();
        directory.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (parent.join(file), directory.join(file));
            let own = fs::read_to_string(&to).unwrap_or_default();
            if !own.trim().is_empty() {
                continue;
            }
            let value =
                fs::read_to_string(&from).map_err(|source| CgroupError::Read { path: from, source })?;
            fs::write(&to, value.trim()).map_err(|source| CgroupError::Write {
                path: to,
                value: value.trim().into(),
                source,
            })?;
        }
    }
    Ok(())
}

/// On v2 a group has the controllers that every group above it enables for its children.
pub(super) fn enable_controllers(
    root: &Path,
    path: &str,
    resources: Option<&LinuxResources>,
) -> Result<(), CgroupError> {
    let mut wanted: Vec<&str> = V2_ALWAYS.to_vec();
    wanted.extend(more(resources));
    let mut directory = root.to_path_buf();
    for part in path.split('/') {
        let words = |file: &str| fs::read_to_string(directory.join(file)).unwrap_or_default();
        let (available, enabled) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
        let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
        for name in wanted.iter().filter(|name| has(&available, name) && !has(&enabled, name)) {
            let (file, value) = (directory.join("cgroup.subtree_control"), format!("+{name}"));
            fs::write(&file, &value).map_err(|source| CgroupError::Write { path: file, value, source })?;
        }
        directory.push(part);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 23 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid_v1_and_v2_are_told_apart() {
        let Some(Layout::V1 { controllers, unified }) = Layout::from_mountinfo(HYBRID) else { panic!() };
        assert_eq!(controllers.keys().collect::<Vec<_>>(), ["cpu", "cpuacct", "memory"]);
        assert_eq!(unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        let v2 = "35 24 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(Layout::from_mountinfo(v2), Some(Layout::V2("/sys/fs/cgroup".into())));
        assert_eq!(Layout::from_mountinfo("1 0 8:1 / / rw - ext4 /dev/sda rw\n"), None);
    }

    #[test]
    fn a_hierarchy_of_two_controllers_counts_once() {
        let layout = Layout::from_mountinfo(HYBRID).unwrap();
        let names: Vec<String> = layout.v1_hierarchies().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["cpu,cpuacct", "memory"]);
        assert_eq!(layout.used(None).len(), 3);
    }

    #[test]
    fn controllers_are_enabled_from_the_root_down() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("cgroup.controllers", "cpu memory pids io");
        write("cgroup.subtree_control", "cpu memory pids");
        write("a/cgroup.controllers", "cpu memory pids");
        write("a/cgroup.subtree_control", "cpu memory");
        enable_controllers(dir.path(), "a/b", None).unwrap();
        let read = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
        assert_eq!(read("cgroup.subtree_control"), "cpu memory pids", "nothing was missing");
        assert_eq!(read("a/cgroup.subtree_control"), "+pids");
    }
}
