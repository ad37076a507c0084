//! The processes of a cluster, as the kernel tells them.

use std::fs;
use std::time::Duration;

use crate::wait::until;

/// A running process of the binary under test.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its command line, in words.
    pub words: Vec<String>,
}

impl Process {
    /// The sub-command that it runs: `server`, `shim-wasm`.
    #[must_use]
    pub fn part(&self) -> &str {
        self.words.get(1).map_or("", String::as_str)
    }
}

/// Every process on this machine that runs a file named `file`.
#[must_use]
pub fn of_file(file: &str) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let named = |path: &str| path.trim_end_matches(" (deleted)").rsplit('/').next() == Some(file);
    let mut found: Vec<_> = pids
        .map(|pid| Process { pid, words: words(pid) })
        .filter(|process| {
            // A shim may run from a sealed copy in memory, and then has its name only.
            let link = fs::read_link(format!("/proc/{}/exe", process.pid)).unwrap_or_default();
            named(&link.to_string_lossy()) || process.words.first().is_some_and(|word| named(word))
        })
        .collect();
    found.sort();
    found
}

/// The processes of the cluster in `data`, shims included.
#[must_use]
pub fn of_cluster(data: &std::path::Path) -> Vec<Process> {
    let data = data.to_string_lossy();
    let mut all = of_file("catamaran");
    all.retain(|process| process.words.iter().any(|word| word.contains(&*data)));
    all
}

fn words(pid: i32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Ends processes with -9 and waits until they are gone; those that are gone already do not matter.
///
/// # Panics
/// When there is no `kill`, or a process does not end.
pub fn kill(processes: &[Process]) {
    let pids: Vec<_> = processes.iter().map(|process| process.pid.to_string()).collect();
    std::process::Command::new("kill").arg("-9").args(&pids).output().expect("`kill` starts");
    // The signal is only sent by then: what dies still looks alive for a moment.
    until("killed processes are gone", Duration::from_secs(10), || {
        let alive: Vec<_> = pids.iter().filter(|pid| is_alive(pid)).collect();
        if alive.is_empty() { Ok(()) } else { Err(format!("{alive:?}")) }
    });
}

fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
