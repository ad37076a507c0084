//! Sets of capabilities as bits, by the numbers of capabilities(7).

use oci_spec::runtime::{Capabilities, LinuxCapabilities};

/// In the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The five sets of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sets {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

impl Sets {
    /// What the specification lists, cut to what this machine's root has (`limit`). Nothing listed is
    /// nothing given.
    pub(crate) fn new(listed: Option<&LinuxCapabilities>, limit: u64) -> Self {
        let Some(listed) = listed else { return Self::default() };
        let set = |names: &Option<Capabilities>| names.as_ref().map_or(0, bits) & limit;
        let bounding = set(listed.bounding());
        let permitted = set(listed.permitted()) & bounding;
        Self {
            bounding,
            permitted,
            effective: set(listed.effective()) & permitted,
            inheritable: set(listed.inheritable()) & bounding,
            ambient: set(listed.ambient()) & permitted & set(listed.inheritable()),
        }
    }
}

fn bits(names: &Capabilities) -> u64 {
    names.iter().filter_map(|name| number(&name.to_string())).fold(0, |set, number| set | 1 << number)
}

/// The number of the capability called `name`, with or without `CAP_`.
pub(crate) fn number(name: &str) -> Option<usize> {
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    NAMES.iter().position(|known| *known == name)
}

/// Capabilities in this process's bounding set: what it may give at most.
pub(crate) fn own_limit(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Capability;

    use super::*;

    #[test]
    fn every_name_of_the_specification_has_its_number() {
        let all = serde_json::to_value([
            Capability::Chown,
            Capability::CheckpointRestore,
            Capability::NetBindService,
        ]);
        assert_eq!(
            all.unwrap(),
            serde_json::json!(["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE", "CAP_NET_BIND_SERVICE"])
        );
        assert_eq!(number(&Capability::Chown.to_string()), Some(0));
        assert_eq!(number(&Capability::NetBindService.to_string()), Some(10));
        assert_eq!(number(&Capability::CheckpointRestore.to_string()), Some(40));
    }

    #[test]
    fn nothing_listed_is_nothing_and_nothing_beyond_the_limit() {
        assert_eq!(Sets::new(None, u64::MAX), Sets::default());
        let listed: LinuxCapabilities = serde_json::from_value(serde_json::json!({
            "bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE"], "permitted": ["CAP_CHOWN", "CAP_SYS_RESOURCE"],
            "effective": ["CAP_CHOWN"], "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN", "CAP_KILL"],
        }))
        .unwrap();
        let sets = Sets::new(Some(&listed), 0x1ff_feff_ffff);
        assert_eq!(sets, Sets { bounding: 1, effective: 1, permitted: 1, inheritable: 1, ambient: 1 });
        assert_eq!(own_limit("Name:\tx\nCapBnd:\t000001fffeffffff\n"), 0x1ff_feff_ffff);
    }
}
