//! Memory and CPU of each process of an idle cluster.

use std::fs;
use std::time::Duration;

use catamaran_tests::cluster::Cluster;
use catamaran_tests::processes;

const WATCHED: Duration = Duration::from_secs(20);

/// Waits for things to settle, then watches for a while.
pub(crate) fn report(cluster: &Cluster) {
    std::thread::sleep(Duration::from_secs(10));
    let processes = processes::of_cluster(cluster.data());
    let before: Vec<_> = processes.iter().map(|p| ticks(p.pid)).collect();
    std::thread::sleep(WATCHED);
    println!("{:<24} {:>12} {:>12}", "idle process", "own MiB", "% of a core");
    let (mut memory, mut cpu) = (0.0, 0.0);
    for (process, before) in processes.iter().zip(before) {
        let own = own_bytes(process.pid) as f64 / f64::from(1 << 20);
        let used = (ticks(process.pid) - before) as f64 / WATCHED.as_secs_f64();
        println!("{:<24} {own:>12.1} {used:>12.2}", process.part());
        memory += own;
        cpu += used;
    }
    println!("{:<24} {memory:>12.1} {cpu:>12.2}", "together");
}

/// Memory that would be free if the process ended: private pages, clean ones of files not counted.
fn own_bytes(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// CPU time used so far, in microseconds, as the scheduler counts it: the sum over the threads that live.
pub(crate) fn cpu_micros(pid: i32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0)
    };
    threads.map(of).sum::<f64>() / 1e3
}

/// CPU time used so far, in clock ticks of a hundredth of a second.
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<_> =
        stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let field = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    field(11) + field(12)
}
