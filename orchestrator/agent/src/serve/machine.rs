//! What the whole machine uses and has, from `/proc` (proc(5)).

use std::fs;

/// Clock ticks in a second, as the kernel reports times to programs on every architecture that we run on.
const TICKS: u64 = 100;

/// What the machine uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    /// CPU time since boot, nanoseconds.
    pub(super) cpu_ns: u64,
    /// Memory that is not available to new programs, bytes.
    pub(super) memory_bytes: u64,
}

/// What the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) cpus: u64,
    pub(super) memory_bytes: u64,
}

/// None where `/proc` cannot be read.
pub(super) fn usage() -> Option<Usage> {
    let (stat, memory) = (fs::read_to_string("/proc/stat").ok()?, fs::read_to_string("/proc/meminfo").ok()?);
    Some(Usage {
        cpu_ns: busy_ns(&stat)?,
        memory_bytes: entry(&memory, "MemTotal")?.saturating_sub(entry(&memory, "MemAvailable")?),
    })
}

/// None where `/proc` cannot be read.
pub(super) fn size() -> Option<Size> {
    let (stat, memory) = (fs::read_to_string("/proc/stat").ok()?, fs::read_to_string("/proc/meminfo").ok()?);
    Some(Size { cpus: cpus(&stat), memory_bytes: entry(&memory, "MemTotal")? })
}

/// The time that all CPUs together were not idle: the line `cpu` without idle and iowait. The time of guests is
/// in that of users already.
fn busy_ns(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let busy = ticks.iter().take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4));
    Some(busy.map(|(_, ticks)| ticks).sum::<u64>() * (1_000_000_000 / TICKS))
}

fn cpus(stat: &str) -> u64 {
    let lines = stat.lines().filter_map(|line| line.strip_prefix("cpu"));
    lines.filter(|rest| rest.starts_with(|first: char| first.is_ascii_digit())).count() as u64
}

/// Bytes of an entry that is given in kB.
fn entry(memory: &str, name: &str) -> Option<u64> {
    let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 20 30 4000 500 6 7 8 9 10\ncpu0 50 10 15 2000 250 3 3 4 4 5\ncpu1 50 10 15 2000 250 3 4 4 5 5\nintr 1\n";
    const MEMORY: &str = "MemTotal:        2048 kB\nMemFree:          100 kB\nMemAvailable:    1024 kB\n";

    #[test]
    fn idle_time_does_not_count() {
        assert_eq!(busy_ns(STAT), Some(171 * 10_000_000));
        assert_eq!(cpus(STAT), 2);
        assert_eq!(busy_ns("intr 1\n"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(entry(MEMORY, "MemTotal"), Some(2 * 1024 * 1024));
        assert_eq!(entry(MEMORY, "Mem"), None);
        assert_eq!(entry(MEMORY, "SwapTotal"), None);
    }

    #[test]
    fn this_machine_has_figures() {
        assert!(usage().is_some_and(|usage| usage.cpu_ns > 0 && usage.memory_bytes > 0));
        assert!(size().is_some_and(|size| size.cpus > 0));
    }
}
