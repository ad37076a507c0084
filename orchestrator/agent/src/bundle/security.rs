//! What a container may do: capabilities, privilege, masked paths, devices, seccomp. Nothing that is not granted.

use k8s_openapi::api::core::v1::{Container, SeccompProfile};
use serde_json::{Value, json};

use super::{BundleError, Input};
use crate::members::spec;

/// The fourteen capabilities a container has unless its spec says otherwise.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
/// All others of Linux 6.
const OTHERS: [&str; 27] = [
    "CAP_DAC_READ_SEARCH",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_LEASE",
    "CAP_AUDIT_CONTROL",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What follows from the security contexts of pod and container.
pub(super) struct Security {
    pub(super) privileged: bool,
    pub(super) read_only_root: bool,
    pub(super) no_new_privileges: bool,
    /// `process.capabilities`.
    pub(super) capabilities: Value,
    pub(super) seccomp: Seccomp,
}

/// Which system calls a container may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seccomp {
    /// Those of the shim's profile, fitted to the container's capabilities.
    Default,
    /// All.
    Unconfined,
}

pub(super) fn of(input: &Input<'_>) -> Result<Security, BundleError> {
    let context = input.container.security_context.clone().unwrap_or_default();
    let privileged = context.privileged == Some(true);
    let granted = capabilities(input.container)?;
    // A program that is not root gets no capability by itself: they take effect for root, and by file capabilities.
    let effective = if input.identity.uid == 0 { granted.clone() } else { Vec::new() };
    // Kubernetes leaves privilege gain possible unless it is asked not to; here it must be asked for.
    let may_gain = context
        .allow_privilege_escalation
        .unwrap_or(privileged || granted.iter().any(|cap| cap == "CAP_SYS_ADMIN"));
    Ok(Security {
        privileged,
        read_only_root: context.read_only_root_filesystem == Some(true),
        no_new_privileges: !may_gain,
        seccomp: if privileged { Seccomp::Unconfined } else { seccomp(input)? },
        capabilities: json!({
            "bounding": granted, "effective": effective, "permitted": effective, "inheritable": [], "ambient": [],
        }),
    })
}

/// Default, plus `add`, minus `drop`; `ALL` counts in both. A name to add that nobody knows is refused: the container
/// would run without what it asks for.
fn capabilities(container: &Container) -> Result<Vec<String>, BundleError> {
    let context = container.security_context.clone().unwrap_or_default();
    let all = || DEFAULT.iter().chain(&OTHERS).map(|cap| (*cap).to_owned()).collect::<Vec<_>>();
    if context.privileged == Some(true) {
        return Ok(all());
    }
    let wanted = context.capabilities.unwrap_or_default();
    let full = |name: &String| {
        let upper = name.to_uppercase();
        if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
    };
    let add: Vec<String> = wanted.add.iter().flatten().map(full).collect();
    let drop: Vec<String> = wanted.drop.iter().flatten().map(full).collect();
    let has = |list: &[String], name: &str| list.iter().any(|entry| entry == name);
    let mut granted: Vec<String> = if has(&add, "ALL") { all() } else { DEFAULT.map(str::to_owned).to_vec() };
    if has(&drop, "ALL") {
        granted.clear();
    }
    granted.retain(|cap| !has(&drop, cap));
    for cap in add.into_iter().filter(|cap| cap != "ALL") {
        if !all().contains(&cap) {
            return Err(BundleError::Capability(cap));
        }
        if !granted.contains(&cap) {
            granted.push(cap);
        }
    }
    Ok(granted)
}

/// The shim's own profile, unless the container or the pod says `Unconfined`.
fn seccomp(input: &Input<'_>) -> Result<Seccomp, BundleError> {
    let of_container =
        input.container.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref());
    let of_pod =
        spec(input.pod).security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref());
    let profile: Option<&SeccompProfile> = of_container.or(of_pod);
    match profile.map(|profile| profile.type_.as_str()) {
        Some("Unconfined") => Ok(Seccomp::Unconfined),
        Some("Localhost") => {
            let file = profile.and_then(|profile| profile.localhost_profile.clone());
            Err(BundleError::SeccompFile(file.unwrap_or_default()))
        }
        _ => Ok(Seccomp::Default),
    }
}

pub(super) fn masked_paths(container: &Container) -> Value {
    if unmasked(container) {
        return json!([]);
    }
    json!([
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/scsi",
        "/proc/sched_debug",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ])
}

pub(super) fn readonly_paths(container: &Container) -> Value {
    if unmasked(container) {
        return json!([]);
    }
    json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"])
}

fn unmasked(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.proc_mount.as_deref()) == Some("Unmasked")
}

/// The device rules of a container that is not privileged: making nodes, and the usual few.
pub(super) fn devices() -> Value {
    let mut rules = vec![
        json!({"allow": false, "access": "rwm"}),
        json!({"allow": true, "type": "c", "access": "m"}),
        json!({"allow": true, "type": "b", "access": "m"}),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx, pts.
    let known = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(1)),
        (5, Some(2)),
        (136, None),
    ];
    for (major, minor) in known {
        let mut rule = json!({"allow": true, "type": "c", "major": major, "access": "rwm"});
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        rules.push(rule);
    }
    Value::Array(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(context: serde_json::Value) -> Vec<String> {
        let container = serde_json::from_value(json!({"name": "c", "securityContext": context})).unwrap();
        capabilities(&container).unwrap()
    }

    #[test]
    fn capabilities_follow_the_context() {
        assert_eq!(granted(json!({})).len(), 14);
        assert_eq!(granted(json!({"privileged": true})).len(), 41);
        assert_eq!(granted(json!({"capabilities": {"drop": ["ALL"]}})), Vec::<String>::new());
        assert_eq!(
            granted(json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}})),
            ["CAP_NET_BIND_SERVICE"]
        );
        assert!(
            granted(json!({"capabilities": {"add": ["net_admin"]}})).contains(&"CAP_NET_ADMIN".to_owned())
        );
        assert!(!granted(json!({"capabilities": {"drop": ["CAP_KILL"]}})).contains(&"CAP_KILL".to_owned()));
        assert_eq!(granted(json!({"capabilities": {"drop": ["NO_SUCH"]}})).len(), 14);
        assert_eq!(granted(json!({"capabilities": {"add": ["ALL"], "drop": ["SYS_ADMIN"]}})).len(), 40);
    }
}
