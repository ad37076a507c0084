//! Limits of an OCI specification as files to write, for either version of control groups.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

/// Which version's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// One file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub controller: &'static str,
    pub file: String,
    pub value: String,
    /// Goes on without where the node does not have it.
    pub optional: bool,
}

/// The files, in the order in which they must be written.
pub(super) fn settings(version: Version, resources: &LinuxResources) -> Vec<Setting> {
    let mut list = List { version, settings: Vec::new() };
    if let Some(cpu) = resources.cpu() {
        list.cpu(cpu);
    }
    if let Some(memory) = resources.memory() {
        list.memory(memory);
    }
    if let Some(pids) = resources.pids() {
        let limit = pids.limit();
        let value = if limit > 0 { limit.to_string() } else { "max".into() };
        list.must("pids", "pids.max", "pids.max", value);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let (v1, v2) = (
            format!("hugetlb.{}.limit_in_bytes", limit.page_size()),
            format!("hugetlb.{}.max", limit.page_size()),
        );
        list.must("hugetlb", &v1, &v2, limit.limit().to_string());
    }
    if version == Version::V2 {
        for (file, value) in resources.unified().iter().flatten() {
            list.push("cpu", file, value.clone(), false);
        }
    }
    list.settings
}

struct List {
    version: Version,
    settings: Vec<Setting>,
}

impl List {
    fn push(&mut self, controller: &'static str, file: &str, value: String, optional: bool) {
        self.settings.push(Setting { controller, file: file.to_owned(), value, optional });
    }

    fn must(&mut self, controller: &'static str, v1: &str, v2: &str, value: String) {
        let file = if self.version == Version::V1 { v1 } else { v2 };
        self.push(controller, file, value, false);
    }

    fn cpu(&mut self, cpu: &LinuxCpu) {
        let period = cpu.period().filter(|p| *p > 0);
        match self.version {
            Version::V1 => {
                if let Some(shares) = cpu.shares().filter(|s| *s > 0) {
                    self.push("cpu", "cpu.shares", shares.to_string(), false);
                }
                if let Some(period) = period {
                    self.push("cpu", "cpu.cfs_period_us", period.to_string(), false);
                }
                if let Some(quota) = cpu.quota().filter(|q| *q != 0) {
                    self.push("cpu", "cpu.cfs_quota_us", quota.max(-1).to_string(), false);
                }
            }
            Version::V2 => {
                if let Some(shares) = cpu.shares().filter(|s| *s > 0) {
                    self.push("cpu", "cpu.weight", weight(shares).to_string(), false);
                }
                if cpu.quota().is_some() || period.is_some() {
                    let quota = cpu.quota().filter(|q| *q > 0).map_or("max".into(), |q| q.to_string());
                    let value = format!("{quota} {}", period.unwrap_or(100_000));
                    self.push("cpu", "cpu.max", value, false);
                }
            }
        }
        if let Some(cpus) = cpu.cpus().as_deref().filter(|c| !c.is_empty()) {
            self.must("cpuset", "cpuset.cpus", "cpuset.cpus", cpus.to_owned());
        }
        if let Some(mems) = cpu.mems().as_deref().filter(|m| !m.is_empty()) {
            self.must("cpuset", "cpuset.mems", "cpuset.mems", mems.to_owned());
        }
    }

    fn memory(&mut self, memory: &LinuxMemory) {
        let bytes = |n: i64| match (self.version, n) {
            (Version::V2, ..0) => "max".to_owned(),
            (_, n) => n.to_string(),
        };
        let limit = memory.limit().filter(|n| *n != 0);
        let reservation = memory.reservation().filter(|n| *n != 0);
        let swap = memory.swap().filter(|n| *n != 0);
        let (limit_text, reservation_text) = (limit.map(bytes), reservation.map(bytes));
        // On v1 the limit with swap may not be below the one without; on a change one of the orders
        // is refused, so it is written on both sides. A node without swap accounting has neither.
        if let Some(swap) = swap.filter(|_| self.version == Version::V1) {
            self.push("memory", "memory.memsw.limit_in_bytes", swap.to_string(), true);
        }
        if let Some(value) = limit_text {
            self.must("memory", "memory.limit_in_bytes", "memory.max", value);
        }
        if let Some(value) = reservation_text {
            self.must("memory", "memory.soft_limit_in_bytes", "memory.low", value);
        }
        match (self.version, swap, limit) {
            (Version::V1, Some(swap), _) => {
                self.push("memory", "memory.memsw.limit_in_bytes", swap.to_string(), true);
            }
            // OCI counts memory and swap together, v2 swap alone.
            (Version::V2, Some(swap), Some(limit)) if swap > 0 => {
                self.push("memory", "memory.swap.max", (swap - limit).max(0).to_string(), true);
            }
            (Version::V2, Some(_), _) => self.push("memory", "memory.swap.max", "max".into(), true),
            _ => {}
        }
    }
}

/// Shares from 2 to 262144 as a weight from 1 to 10000.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(version: Version, resources: serde_json::Value) -> Vec<(String, String)> {
        let resources = serde_json::from_value(resources).unwrap();
        settings(version, &resources).into_iter().map(|s| (s.file, s.value)).collect()
    }

    #[test]
    fn the_same_limits_on_both_versions() {
        let limits = serde_json::json!({
            "cpu": {"shares": 1024, "quota": 50000, "period": 100000},
            "memory": {"limit": 1048576, "swap": 1048576},
            "pids": {"limit": 100},
        });
        let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(f, v)| ((*f).to_owned(), (*v).to_owned())).collect()
        };
        assert_eq!(
            files(Version::V1, limits.clone()),
            pairs(&[
                ("cpu.shares", "1024"),
                ("cpu.cfs_period_us", "100000"),
                ("cpu.cfs_quota_us", "50000"),
                ("memory.memsw.limit_in_bytes", "1048576"),
                ("memory.limit_in_bytes", "1048576"),
                ("memory.memsw.limit_in_bytes", "1048576"),
                ("pids.max", "100"),
            ])
        );
        assert_eq!(
            files(Version::V2, limits),
            pairs(&[
                ("cpu.weight", "39"),
                ("cpu.max", "50000 100000"),
                ("memory.max", "1048576"),
                ("memory.swap.max", "0"),
                ("pids.max", "100"),
            ])
        );
    }

    #[test]
    fn unlimited_is_said_in_each_versions_words() {
        let limits =
            serde_json::json!({"cpu": {"quota": -1}, "memory": {"limit": -1}, "pids": {"limit": -1}});
        assert_eq!(files(Version::V1, limits.clone())[0].1, "-1");
        assert_eq!(files(Version::V1, limits.clone())[1].1, "-1");
        let v2 = files(Version::V2, limits);
        assert_eq!(v2[0].1, "max 100000");
        assert!(v2[1..].iter().all(|(_, value)| value == "max"));
    }

    #[test]
    fn weights_keep_their_ends() {
        assert_eq!((weight(2), weight(262_144), weight(0), weight(u64::MAX)), (1, 10_000, 1, 10_000));
    }
}
