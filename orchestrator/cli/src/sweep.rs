//! Finds what a cluster left on this machine without remembering anything: processes by their command
//! line and cgroup, mounts by their path, cgroups by their name. Works also after everything was killed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::layout::Layout;
use crate::supervise::process::{Identity, own_pid};

/// Sub-commands that run as processes of their own.
const PARTS: [&str; 6] = ["supervisor", "server", "agent", "dns", "shim-oci", "shim-wasm"];

/// Processes of this binary that belong to this data directory, supervisor first.
pub(crate) fn parts(layout: &Layout) -> Vec<(Identity, String)> {
    let mut found: Vec<(usize, Identity, String)> = Vec::new();
    for pid in pids() {
        let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let Some(part) = part_of(&line, layout) else { continue };
        if let Some(identity) = Identity::of(pid) {
            found.push((PARTS.iter().position(|p| *p == part).unwrap_or(0), identity, part.to_owned()));
        }
    }
    found.sort_by_key(|(order, ..)| *order);
    found.into_iter().map(|(_, identity, part)| (identity, part)).collect()
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| *pid != own_pid())
}

/// The part that a command line belongs to, if it is one of this data directory.
fn part_of(command_line: &[u8], layout: &Layout) -> Option<&'static str> {
    let mut words = command_line.split(|byte| *byte == 0);
    let _program = words.next()?;
    let name = words.next()?;
    let part = PARTS.into_iter().find(|part| part.as_bytes() == name)?;
    let ours = |word: &[u8]| {
        let path = PathBuf::from(OsString::from_vec(word.to_vec()));
        path.starts_with(&layout.data) || path.starts_with(&layout.run)
    };
    words.any(ours).then_some(part)
}

/// Ends processes: TERM, then KILL for those still there after `wait`.
pub(crate) async fn end(processes: &[Identity], wait: Duration) {
    for process in processes {
        process.signal(Signal::TERM);
    }
    let start = Instant::now();
    while start.elapsed() < wait && processes.iter().any(Identity::is_alive) {
        sleep(Duration::from_millis(10)).await;
    }
    for process in processes.iter().filter(|process| process.is_alive()) {
        process.signal(Signal::KILL);
        process.ended().await;
    }
}

/// The parts without which a cluster has no network of its own, or will have one again in a moment.
const NETWORKED: [&str; 2] = ["supervisor", "agent"];

/// A cluster of another data directory in the network namespace of this process: one of its processes, and that
/// directory. There is room for one, since node address, links and rules have fixed names.
pub(crate) fn neighbour(layout: &Layout) -> Option<(Identity, PathBuf)> {
    let network = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let here = network("self")?;
    pids().find_map(|pid| {
        let data = data_of_other(&std::fs::read(format!("/proc/{pid}/cmdline")).ok()?, layout)?;
        let identity = Identity::of(pid)?;
        (network(&pid.to_string())? == here).then_some((identity, data))
    })
}

/// The data directory in the command line of a part that has to do with the network, if it is another one.
fn data_of_other(command_line: &[u8], layout: &Layout) -> Option<PathBuf> {
    let mut words = command_line.split(|byte| *byte == 0);
    let program = words.next()?;
    let name = words.next()?;
    let is_part = program.ends_with(b"catamaran") && NETWORKED.iter().any(|part| part.as_bytes() == name);
    is_part.then_some(())?;
    words.find(|word| *word == b"--data-dir")?;
    let data = PathBuf::from(OsString::from_vec(words.next()?.to_vec()));
    (data != layout.data).then_some(data)
}

/// Processes in the cgroups of this data directory's containers.
pub(crate) fn contained(layout: &Layout) -> Vec<Identity> {
    let mut pids = BTreeSet::new();
    for directory in cgroup_directories(&layout.cgroup()) {
        let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    pids.into_iter().filter_map(Identity::of).collect()
}

/// Removes the cgroups of this data directory's containers. Returns those that would not go.
pub(crate) async fn remove_cgroups(layout: &Layout) -> Vec<PathBuf> {
    let top = layout.cgroup();
    for _ in 0..100 {
        // Children come after their parents in the list; the innermost go first.
        let left = cgroup_directories(&top);
        for directory in left.iter().rev() {
            // Busy while the kernel still counts a process that has ended: tried again.
            let _ = std::fs::remove_dir(directory);
        }
        if left.is_empty() {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    cgroup_directories(&top)
}

/// Every directory at or below the cgroup `name` in every hierarchy, parents before children.
fn cgroup_directories(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all = Vec::new();
    for top in hierarchies.chain([root.to_owned()]) {
        descend(&top.join(name), &mut all);
    }
    all
}

fn descend(directory: &Path, all: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    all.push(directory.to_owned());
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        descend(&entry.path(), all);
    }
}

/// Unmounts everything below the given directories, the last mounted first.
pub(crate) fn unmount_below(directories: &[&Path]) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for point in mounts_below(&table, directories).iter().rev() {
        if let Err(error) = unmount(point, UnmountFlags::DETACH) {
            tracing::warn!(path = %point.display(), %error, "unmount");
        }
    }
}

/// Mount points below the directories in the order of the mount table.
fn mounts_below(table: &str, directories: &[&Path]) -> Vec<PathBuf> {
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    points.filter(|point| directories.iter().any(|directory| point.starts_with(directory))).collect()
}

/// Blanks and the like are written as octal escapes in the mount table.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_of_this_data_directory_are_ours() {
        let layout = Layout::of(Path::new("/tmp/a"));
        let line = |words: &[&str]| words.join("\0").into_bytes();
        let part = |words: &[&str]| part_of(&line(words), &layout);
        assert_eq!(part(&["catamaran", "server", "--data-dir", "/tmp/a"]), Some("server"));
        assert_eq!(part(&["/x/catamaran", "shim-oci", "--root", "/tmp/a/shim/oci"]), Some("shim-oci"));
        assert_eq!(part(&["catamaran", "server", "--data-dir", "/tmp/ab"]), None);
        assert_eq!(part(&["vim", "/tmp/a/log"]), None);
        assert_eq!(part(&["catamaran", "down", "--data-dir", "/tmp/a"]), None);
    }

    #[test]
    fn clusters_of_other_data_directories_are_known() {
        let layout = Layout::of(Path::new("/tmp/a"));
        let other = |words: &[&str]| data_of_other(&words.join("\0").into_bytes(), &layout);
        let found = other(&["catamaran", "agent", "--data-dir", "/tmp/b", "--node-name", "n"]);
        assert_eq!(found, Some(PathBuf::from("/tmp/b")));
        assert_eq!(other(&["catamaran", "agent", "--data-dir", "/tmp/a"]), None);
        assert_eq!(other(&["catamaran", "down", "--data-dir", "/tmp/b"]), None);
        assert_eq!(other(&["catamaran", "server", "--data-dir", "/tmp/b"]), None, "it has no network");
        assert_eq!(other(&["docker", "agent", "--data-dir", "/tmp/b"]), None);
    }

    #[test]
    fn mounts_are_found_by_path_with_blanks_unescaped() {
        let table = "1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /tmp/a\\040b/m rw - tmpfs t rw\n3 1 0:2 / /tmp/ab rw - tmpfs t rw";
        assert_eq!(mounts_below(table, &[Path::new("/tmp/a b")]), [PathBuf::from("/tmp/a b/m")]);
    }
}
