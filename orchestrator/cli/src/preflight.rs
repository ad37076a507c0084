//! What a machine must have before anything is started, each with what to do when it is missing.

use std::path::Path;

use rustix::mount::{FsOpenFlags, fsopen};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

/// One thing that is missing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missing {
    #[error("this needs root rights (it makes namespaces, mounts and network rules): run it with sudo")]
    Root,
    #[error("Linux {found} is too old: 5.13 or newer is needed (mount_setattr, openat2, clone3)")]
    Kernel { found: String },
    #[error(
        "overlay file systems cannot be used ({0}): load the module (`modprobe overlay`), use a kernel that has it, or, in a container, run it with all of root's rights"
    )]
    Overlay(String),
    #[error(
        "nf_tables cannot be used ({0}): load the module (`modprobe nf_tables`), use a kernel that has it, or, in a container, run it with all of root's rights"
    )]
    NfTables(String),
    #[error(
        "no cgroup controller {0} is at hand below /sys/fs/cgroup: mount cgroups (v1 or v2), and enable it on the kernel's command line if it is disabled there (`cgroup_enable={0}`)"
    )]
    Cgroup(&'static str),
    #[error("the kernel has no {0} namespaces (/proc/self/ns/{0} is missing)")]
    Namespace(&'static str),
}

/// What was found out about a machine; filled from `/proc` and `/sys`, or by a test.
pub(crate) struct Machine {
    pub(crate) root: bool,
    pub(crate) release: String,
    /// What asking for it came to; asking loads a module.
    pub(crate) overlay: Result<(), String>,
    pub(crate) nf_tables: Result<(), String>,
    /// Controllers that can be used.
    pub(crate) cgroups: Vec<String>,
    pub(crate) namespaces: Vec<String>,
}

impl Machine {
    /// Looks at this machine.
    pub(crate) fn observe() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let names = std::fs::read_dir("/proc/self/ns").into_iter().flatten().flatten();
        let root = rustix::process::geteuid().is_root();
        // Others are refused both, whether or not the kernel has them.
        let ask = |probe: fn() -> std::io::Result<()>| {
            if root { probe().map_err(|error| error.to_string()) } else { Ok(()) }
        };
        Machine {
            root,
            release: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            overlay: ask(|| Ok(fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map(drop)?)),
            nf_tables: ask(ask_nf_tables),
            cgroups: controllers(&text("/proc/cgroups"), &text("/proc/self/mountinfo"), |mount| {
                std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default()
            }),
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
        missing.extend(self.overlay.clone().err().map(Missing::Overlay));
        missing.extend(self.nf_tables.clone().err().map(Missing::NfTables));
        let has = |name: &str| self.cgroups.iter().any(|there| there == name);
        missing.extend(["cpu", "memory", "pids"].into_iter().filter(|name| !has(name)).map(Missing::Cgroup));
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

/// Controllers of the hierarchies that are mounted below `/sys/fs/cgroup`: those of version 1 are mount options and must
/// be enabled in the kernel's table; those of version 2 are in a file at the mount.
fn controllers(table: &str, mounts: &str, of_version_2: impl Fn(&Path) -> String) -> Vec<String> {
    let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let enabled: Vec<_> = rows.filter(|row| row.get(3) == Some(&"1")).map(|row| row[0]).collect();
    let mut found = Vec::new();
    for line in mounts.lines() {
        let Some((front, back)) = line.split_once(" - ") else { continue };
        let point = Path::new(front.split(' ').nth(4).unwrap_or_default());
        if !point.starts_with("/sys/fs/cgroup") {
            continue;
        }
        let mut back = back.split(' ');
        match (back.next(), back.nth(1)) {
            (Some("cgroup"), Some(options)) => {
                found.extend(options.split(',').filter(|name| enabled.contains(name)).map(str::to_owned));
            }
            (Some("cgroup2"), _) => {
                found.extend(of_version_2(point).split_whitespace().map(str::to_owned));
            }
            _ => {}
        }
    }
    found
}

/// Asks for the generation of the rules (`NFT_MSG_GETGEN`), which changes nothing.
fn ask_nf_tables() -> std::io::Result<()> {
    const NF_TABLES: u16 = 10 << 8;
    const GET_GENERATION: u16 = NF_TABLES | 16;
    const REQUEST: u16 = 1;
    const ERROR: u16 = 2;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    // struct nlmsghdr (length, type, flags, sequence, port), then struct nfgenmsg (all zero).
    let mut message = [0; 20];
    message[0..4].copy_from_slice(&20_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&GET_GENERATION.to_ne_bytes());
    message[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &netlink::SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 512];
    // The kernel has answered by the time the request is sent.
    let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::DONTWAIT)?;
    if length >= 20 && answer[4..6] == ERROR.to_ne_bytes() {
        let code = [answer[16], answer[17], answer[18], answer[19]];
        return Err(std::io::Error::from_raw_os_error(-i32::from_ne_bytes(code)));
    }
    Ok(())
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
            overlay: Ok(()),
            nf_tables: Ok(()),
            cgroups: ["cpu", "memory", "pids"].map(str::to_owned).to_vec(),
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
        let no_overlay = Machine { overlay: Err("No such device".to_owned()), ..good() };
        assert_eq!(no_overlay.missing(), [Missing::Overlay("No such device".to_owned())]);
        let no_rules = Machine { nf_tables: Err("Invalid argument".to_owned()), ..good() };
        assert_eq!(no_rules.missing(), [Missing::NfTables("Invalid argument".to_owned())]);
        let no_memory = Machine { cgroups: ["cpu", "pids"].map(str::to_owned).to_vec(), ..good() };
        assert_eq!(no_memory.missing(), [Missing::Cgroup("memory")]);
        let no_pid =
            Machine { namespaces: ["mnt", "net", "ipc", "uts"].map(str::to_owned).to_vec(), ..good() };
        assert_eq!(no_pid.missing(), [Missing::Namespace("pid")]);
        assert!(Machine { release: "6.1.0-28".to_owned(), ..good() }.slower().is_some());
    }

    #[test]
    fn controllers_count_where_they_are_enabled_and_mounted() {
        let table =
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t0\t1\t0\npids\t8\t1\t1\n";
        let v1 = |options: &str| format!("32 31 0:29 / /sys/fs/cgroup/x rw - cgroup cgroup rw,{options}\n");
        let none = |_: &Path| String::new();
        assert_eq!(controllers(table, &v1("cpu,cpuacct"), none), ["cpu"]);
        assert!(controllers(table, &v1("memory"), none).is_empty(), "disabled");
        assert!(controllers(table, "", none).is_empty(), "not mounted");
        let elsewhere = "32 31 0:29 / /mnt/x rw - cgroup cgroup rw,cpu\n";
        assert!(controllers(table, elsewhere, none).is_empty(), "not where it is used");
        let v2 = "32 31 0:29 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let file = |point: &Path| {
            if point == Path::new("/sys/fs/cgroup") {
                "cpuset cpu io memory pids\n".to_owned()
            } else {
                String::new()
            }
        };
        assert_eq!(controllers("", v2, file), ["cpuset", "cpu", "io", "memory", "pids"]);
    }
}
