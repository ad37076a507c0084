//! Settings of the kernel that a pod may bring: those that its own namespaces have for themselves and with which it
//! harms nobody else (Kubernetes' safe list).

use k8s_openapi::api::core::v1::{PodSpec, Sysctl};
use serde_json::{Map, Value};

/// Status reason of a pod that brings another one.
pub(crate) const FORBIDDEN: &str = "SysctlForbidden";

const OF_IPC: [&str; 1] = ["kernel.shm_rmid_forced"];
const OF_NETWORK: [&str; 11] = [
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

fn list(spec: &PodSpec) -> impl Iterator<Item = &Sysctl> {
    spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten())
}

/// With dots between its parts; slashes are the other way to write it.
fn plain(name: &str) -> String {
    name.replace('/', ".")
}

/// The first setting the pod may not bring, as it wrote it.
pub(crate) fn forbidden(spec: &PodSpec) -> Option<&str> {
    let may = |name: &str| {
        (OF_IPC.contains(&name) && spec.host_ipc != Some(true))
            || (OF_NETWORK.contains(&name) && spec.host_network != Some(true))
    };
    list(spec).map(|sysctl| sysctl.name.as_str()).find(|name| !may(&plain(name)))
}

/// `linux.sysctl` of the runtime specification.
pub(crate) fn of(spec: &PodSpec) -> Value {
    let entry = |sysctl: &Sysctl| (plain(&sysctl.name), Value::String(sysctl.value.clone()));
    list(spec).map(entry).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, more: &str) -> PodSpec {
        let mut spec =
            json!({"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        if !more.is_empty() {
            spec[more] = json!(true);
        }
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn only_safe_ones_of_its_own_namespaces() {
        for (name, more, safe) in [
            ("net.ipv4.tcp_syncookies", "", true),
            ("net/ipv4/tcp_syncookies", "", true),
            ("net.ipv4.tcp_syncookies", "hostIPC", true),
            ("net.ipv4.tcp_syncookies", "hostNetwork", false),
            ("kernel.shm_rmid_forced", "", true),
            ("kernel.shm_rmid_forced", "hostNetwork", true),
            ("kernel.shm_rmid_forced", "hostIPC", false),
            ("kernel.core_pattern", "", false),
            ("kernel/core_pattern", "", false),
            ("net.ipv4.ip_forward", "", false),
            ("net/../kernel/core_pattern", "", false),
            ("net.ipv4.tcp_syncookies/../../../kernel/core_pattern", "", false),
            ("", "", false),
        ] {
            assert_eq!(forbidden(&pod(name, more)).is_none(), safe, "{name:?} {more}");
        }
        assert_eq!(forbidden(&PodSpec::default()), None);
        assert_eq!(of(&pod("net/ipv4/tcp_rmem", "")), json!({"net.ipv4.tcp_rmem": "1"}));
    }
}
