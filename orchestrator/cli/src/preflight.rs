//! What a machine must have before anything is started, each with what to do when it is missing.

use std::path::Path;

/// One thing that is missing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missing {
    #[error("this needs root rights (it makes namespaces, mounts and network rules): run it with sudo")]
    Root,
    #[error("Linux {found} is too old: 5.13 or newer is needed (mount_setattr, openat2, clone3)")]
    Kernel { found: String },
    #[error(
        "the kernel has no {0} file system: load its module (`modprobe {0}`) or use a kernel that has it"
    )]
    FileSystem(&'static str),
    #[error("no cgroup controller {0} is mounted below /sys/fs/cgroup: mount cgroups (v1 or v2) first")]
    Cgroup(&'static str),
    #[error("the kernel has no {0} namespaces (/proc/self/ns/{0} is missing)")]
    Namespace(&'static str),
}

/// What was found out about a machine; filled from `/proc` and `/sys`, or by a test.
pub(crate) struct Machine {
    pub(crate) root: bool,
    pub(crate) release: String,
    pub(crate) file_systems: String,
    pub(crate) cgroups: String,
    pub(crate) namespaces: Vec<String>,
}

impl Machine {
    /// Looks at this machine.
    pub(crate) fn observe() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let names = std::fs::read_dir("/proc/self/ns").into_iter().flatten().flatten();
        Machine {
            root: rustix::process::geteuid().is_root(),
            release: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_systems: text("/proc/filesystems"),
            cgroups: format!("{} {}", text("/proc/cgroups"), text("/sys/fs/cgroup/cgroup.controllers")),
            namespaces: names.map(|name| name.file_name().to_string_lossy().into_owned()).collect(),
        }
    }

    /// Everything that is missing, the most basic first.
    pub(crate) fn missing(&self) -> Vec<Missing> {
        let mut missing = Vec::new();
        if !self.root {
            missing.push(Missing::Root);
        }
        if version(&self.release).is_some_and(|found| found < (5, 13)) {
            missing.push(Missing::Kernel { found: self.release.clone() });
        }
        let has = |text: &str, word: &str| text.split_whitespace().any(|w| w == word);
        let module = |name: &str| Path::new("/sys/module").join(name).exists();
        if !has(&self.file_systems, "overlay") && !module("overlay") {
            missing.push(Missing::FileSystem("overlay"));
        }
        let cgroups = ["cpu", "memory", "pids"].into_iter().filter(|name| !has(&self.cgroups, name));
        missing.extend(cgroups.map(Missing::Cgroup));
        let wanted = ["mnt", "pid", "net", "ipc", "uts"].into_iter();
        let absent = wanted.filter(|name| !self.namespaces.iter().any(|there| there == name));
        missing.extend(absent.map(Missing::Namespace));
        missing
    }

    /// What works, but slower than it could.
    pub(crate) fn slower(&self) -> Option<&'static str> {
        let old = version(&self.release).is_some_and(|found| found < (6, 7));
        old.then_some(
            "Linux is older than 6.7: wasm instances are cleaned without memory scanning, which is slower",
        )
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Machine {
        Machine {
            root: true,
            release: "6.12.9-amd64".to_owned(),
            file_systems: "nodev\ttmpfs\nnodev\toverlay\n".to_owned(),
            cgroups: "cpu 0 1 1\nmemory 0 1 1\npids 0 1 1".to_owned(),
            namespaces: ["mnt", "pid", "net", "ipc", "uts"].map(str::to_owned).to_vec(),
        }
    }

    #[test]
    fn a_good_machine_lacks_nothing() {
        assert_eq!(good().missing(), []);
        assert_eq!(good().slower(), None);
    }

    #[test]
    fn each_lack_is_named() {
        assert_eq!(Machine { root: false, ..good() }.missing(), [Missing::Root]);
        let old = Machine { release: "4.19.0".to_owned(), ..good() };
        assert_eq!(old.missing(), [Missing::Kernel { found: "4.19.0".to_owned() }]);
        let v2 = Machine { cgroups: "cpuset cpu io memory pids".to_owned(), ..good() };
        assert_eq!(v2.missing(), []);
        let no_memory = Machine { cgroups: "cpu pids".to_owned(), ..good() };
        assert_eq!(no_memory.missing(), [Missing::Cgroup("memory")]);
        let no_pid =
            Machine { namespaces: ["mnt", "net", "ipc", "uts"].map(str::to_owned).to_vec(), ..good() };
        assert_eq!(no_pid.missing(), [Missing::Namespace("pid")]);
        assert!(Machine { release: "6.1.0-28".to_owned(), ..good() }.slower().is_some());
    }
}
