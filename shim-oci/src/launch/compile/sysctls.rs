//! Which settings of the kernel a container may bring: those that a namespace of its own has for itself.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use super::super::process::{Invalid, invalid};

/// The file below `/proc/sys` of the setting `name`; refused where it would change more than one of
/// `namespaces`, which are those of the container.
pub(super) fn file(name: &str, namespaces: &[LinuxNamespace]) -> Result<String, Invalid> {
    if name.contains("..") || name.starts_with(['.', '/']) {
        return invalid(format!("the sysctl {name:?} is not a name"));
    }
    // Names with a slash may hold dots (interfaces); others use dots for slashes.
    let file = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let Some(kind) = namespace_of(&file) else {
        return invalid(format!("the sysctl {name:?} belongs to no namespace: it would change the node"));
    };
    if !namespaces.iter().any(|namespace| namespace.typ() == kind && is_own(namespace)) {
        return invalid(format!("the sysctl {name:?} needs a {kind} namespace that is not the node's"));
    }
    Ok(file)
}

/// The kind of namespace that has the setting for itself.
fn namespace_of(file: &str) -> Option<LinuxNamespaceType> {
    const IPC: [&str; 11] = [
        "msgmax",
        "msgmnb",
        "msgmni",
        "msg_next_id",
        "sem",
        "sem_next_id",
        "shmall",
        "shmmax",
        "shmmni",
        "shm_next_id",
        "shm_rmid_forced",
    ];
    match file.split_once('/')? {
        ("net", _) => Some(LinuxNamespaceType::Network),
        ("kernel", name) if IPC.contains(&name) => Some(LinuxNamespaceType::Ipc),
        ("kernel", "domainname") => Some(LinuxNamespaceType::Uts),
        ("fs", name) if name.starts_with("mqueue/") => Some(LinuxNamespaceType::Ipc),
        _ => None,
    }
}

/// Whether it is another one than that of the node, by whatever path it is named.
fn is_own(namespace: &LinuxNamespace) -> bool {
    let Some(path) = namespace.path() else { return true };
    let name = match namespace.typ() {
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Ipc => "ipc",
        _ => "uts",
    };
    let which = |path: &Path| std::fs::metadata(path).map(|about| (about.dev(), about.ino()));
    match (which(path), which(&Path::new("/proc/self/ns").join(name))) {
        (Ok(theirs), Ok(ours)) => theirs != ours,
        // What cannot be looked at cannot be entered either.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces(list: serde_json::Value) -> Vec<LinuxNamespace> {
        serde_json::from_value(list).unwrap()
    }

    #[test]
    fn only_what_its_namespaces_have_for_themselves() {
        let all = namespaces(serde_json::json!([{"type": "network"}, {"type": "ipc"}, {"type": "uts"}]));
        for (name, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced"),
            ("kernel.sem", "kernel/sem"),
            ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
            ("kernel.domainname", "kernel/domainname"),
        ] {
            assert_eq!(file(name, &all).unwrap(), path);
            assert!(file(name, &[]).is_err(), "{name} of the node");
        }
        let evil = [
            "kernel.core_pattern",
            "kernel/core_pattern",
            "kernel.modprobe",
            "kernel.semx",
            "fs.protected_symlinks",
            "fs.mqueue",
            "vm.overcommit_memory",
            "net/../kernel/core_pattern",
            "/kernel/core_pattern",
            "net",
            "",
        ];
        for name in evil {
            assert!(file(name, &all).is_err(), "{name}");
        }
    }

    #[test]
    fn the_nodes_namespace_by_its_path_is_not_one_of_its_own() {
        let path = |path: &str| namespaces(serde_json::json!([{"type": "network", "path": path}]));
        assert!(file("net.ipv4.ip_forward", &path("/proc/self/ns/net")).is_err());
        assert!(file("net.ipv4.ip_forward", &path("/no/such")).is_err());
        assert!(file("net.ipv4.ip_forward", &path("/proc/self/ns/uts")).is_ok(), "another file");
    }
}
