//! What the baseline standard does not allow: known ways out of a container. Pure.

use std::collections::BTreeSet;

use catamaran_api::status;
use serde_json::Value;

use super::check::{Pod, Violation, containers, name, plural, quoted, setters};

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// Capabilities that container runtimes give by themselves.
const USUAL: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Kernel settings that concern nobody else on the node, with the first version that allows them.
const SAFE_SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

pub(super) fn app_armor_profile(pod: &Pod<'_>) -> Option<Violation> {
    let bad = |context: &Value| -> Option<String> {
        let kind = context["appArmorProfile"].as_object()?.get("type").and_then(Value::as_str);
        (!matches!(kind, Some("RuntimeDefault" | "Localhost"))).then(|| kind.unwrap_or_default().to_owned())
    };
    let mut values = BTreeSet::new();
    let mut who = Vec::new();
    if let Some(value) = bad(pod.context()) {
        who.push("pod".to_owned());
        values.insert(value);
    }
    let mut names = Vec::new();
    for container in pod.containers() {
        if let Some(value) = bad(&container["securityContext"]) {
            names.push(name(container));
            values.insert(value);
        }
    }
    if !names.is_empty() {
        who.push(containers(&names));
    }
    let annotations = pod.metadata["annotations"].as_object().into_iter().flatten();
    let forbidden: BTreeSet<String> = annotations
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(key, value)| {
            let allowed = value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
            key.starts_with(APP_ARMOR) && !allowed
        })
        .map(|(key, value)| format!("{key}={}", status::quoted(value)))
        .collect();
    if !forbidden.is_empty() {
        who.push(plural("annotation", "annotations", forbidden.len()).to_owned());
    }
    let values: Vec<String> = values.into_iter().chain(forbidden).collect();
    (!who.is_empty()).then(|| {
        Violation::new(
            plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len()),
            format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(&values)),
        )
    })
}

/// Containers with values that `bad` finds, and the values, in order.
fn find<'a>(pod: &Pod<'a>, bad: impl Fn(&'a Value) -> Vec<String>) -> Option<(Vec<&'a str>, Vec<String>)> {
    let (mut names, mut values) = (Vec::new(), BTreeSet::new());
    for container in pod.containers() {
        let found = bad(container);
        if !found.is_empty() {
            names.push(name(container));
            values.extend(found);
        }
    }
    (!names.is_empty()).then(|| (names, values.into_iter().collect()))
}

pub(super) fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

pub(super) fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    let (names, added) = find(pod, |container| {
        let added = texts(&container["securityContext"]["capabilities"]["add"]);
        added.filter(|capability| !USUAL.contains(capability)).map(str::to_owned).collect()
    })?;
    let detail = format!(
        "{} must not include {} in securityContext.capabilities.add",
        containers(&names),
        quoted(&added)
    );
    Some(Violation::new("non-default capabilities", detail))
}

pub(super) fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[field] == true);
    let shared: Vec<String> = shared.map(|field| format!("{field}=true")).collect();
    (!shared.is_empty()).then(|| Violation::new("host namespaces", shared.join(", ")))
}

pub(super) fn host_path_volumes(pod: &Pod<'_>) -> Option<Violation> {
    let volumes = pod.spec["volumes"].as_array().into_iter().flatten();
    let names: Vec<&str> = volumes.filter(|volume| volume["hostPath"].is_object()).map(name).collect();
    (!names.is_empty()).then(|| {
        let detail = format!("{} {}", plural("volume", "volumes", names.len()), quoted(&names));
        Violation::new("hostPath volumes", detail)
    })
}

pub(super) fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let (names, ports) = find(pod, |container| {
        let ports = container["ports"].as_array().into_iter().flatten();
        let taken = ports.filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0);
        taken.map(|port| port.to_string()).collect()
    })?;
    let detail = format!(
        "{} {} {} {}",
        containers(&names),
        plural("uses", "use", names.len()),
        plural("hostPort", "hostPorts", ports.len()),
        ports.join(", ")
    );
    Some(Violation::new("hostPort", detail))
}

pub(super) fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let privileged = |container: &&Value| container["securityContext"]["privileged"] == true;
    let names: Vec<&str> = pod.containers().filter(privileged).map(name).collect();
    (!names.is_empty()).then(|| {
        let detail = format!("{} must not set securityContext.privileged=true", containers(&names));
        Violation::new("privileged", detail)
    })
}

pub(super) fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let (names, mounts) = find(pod, |container| {
        let mount = container["securityContext"]["procMount"].as_str();
        mount.filter(|mount| *mount != "Default").map(str::to_owned).into_iter().collect()
    })?;
    let detail =
        format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(&mounts));
    Some(Violation::new("procMount", detail))
}

pub(super) fn selinux_options(pod: &Pod<'_>) -> Option<Violation> {
    let mut allowed = vec!["", "container_t", "container_init_t", "container_kvm_t"];
    if pod.version >= 31 {
        allowed.push("container_engine_t");
    }
    let mut types = BTreeSet::new();
    let (mut user, mut role) = (false, false);
    let mut bad = |context: &Value| {
        let text = |field: &str| context["seLinuxOptions"][field].as_str().unwrap_or_default();
        let bad_type = !allowed.contains(&text("type"));
        if bad_type {
            types.insert(text("type").to_owned());
        }
        user |= !text("user").is_empty();
        role |= !text("role").is_empty();
        bad_type || !text("user").is_empty() || !text("role").is_empty()
    };
    let of_pod = bad(pod.context());
    let names: Vec<&str> = pod.containers().filter(|c| bad(&c["securityContext"])).map(name).collect();
    if !of_pod && names.is_empty() {
        return None;
    }
    let mut found = Vec::new();
    if !types.is_empty() {
        let types: Vec<String> = types.into_iter().collect();
        found.push(format!("{} {}", plural("type", "types", types.len()), quoted(&types)));
    }
    found.extend(user.then(|| "user may not be set".to_owned()));
    found.extend(role.then(|| "role may not be set".to_owned()));
    let who = setters(of_pod, &names);
    let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {}", found.join("; "));
    Some(Violation::new("seLinuxOptions", detail))
}

/// The type of a seccomp profile, where there is a profile.
pub(super) fn seccomp_type(context: &Value) -> Option<&str> {
    let profile = context["seccompProfile"].as_object()?;
    Some(profile.get("type").and_then(Value::as_str).unwrap_or_default())
}

pub(super) fn is_good_seccomp(kind: &str) -> bool {
    matches!(kind, "Localhost" | "RuntimeDefault")
}

pub(super) fn seccomp_profile(pod: &Pod<'_>) -> Option<Violation> {
    if pod.version < 19 {
        return seccomp_annotations(pod);
    }
    bad_seccomp_profiles(pod)
}

/// Profiles that are set to something else than is good.
pub(super) fn bad_seccomp_profiles(pod: &Pod<'_>) -> Option<Violation> {
    let bad = |context| seccomp_type(context).filter(|kind| !is_good_seccomp(kind)).map(str::to_owned);
    let of_pod = bad(pod.context());
    let found = find(pod, |container| bad(&container["securityContext"]).into_iter().collect());
    let (names, values) = found.unwrap_or_default();
    if of_pod.is_none() && names.is_empty() {
        return None;
    }
    let who = setters(of_pod.is_some(), &names);
    let values: BTreeSet<String> = values.into_iter().chain(of_pod).collect();
    let values: Vec<String> = values.into_iter().collect();
    let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&values));
    Some(Violation::new("seccompProfile", detail))
}

/// Before v1.19 there were only annotations.
fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    let keys = std::iter::once(SECCOMP_OF_POD.to_owned())
        .chain(pod.containers().map(|container| format!("{SECCOMP_OF_CONTAINER}{}", name(container))));
    let forbidden: BTreeSet<String> = keys
        .filter_map(|key| {
            let value = pod.metadata["annotations"][&key].as_str()?;
            let good =
                matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
            (!good).then(|| format!("{key}={}", status::quoted(value)))
        })
        .collect();
    let forbidden: Vec<String> = forbidden.into_iter().collect();
    (!forbidden.is_empty()).then(|| {
        let called = plural("annotation", "annotations", forbidden.len());
        Violation::new("seccompProfile", format!("forbidden {called} {}", forbidden.join(", ")))
    })
}

pub(super) fn sysctls(pod: &Pod<'_>) -> Option<Violation> {
    let safe =
        |wanted: &str| SAFE_SYSCTLS.iter().any(|(known, since)| *known == wanted && *since <= pod.version);
    let set = pod.context()["sysctls"].as_array().into_iter().flatten().map(name);
    let forbidden: Vec<&str> = set.filter(|wanted| !safe(wanted)).collect();
    (!forbidden.is_empty()).then(|| Violation::new("forbidden sysctls", forbidden.join(", ")))
}

pub(super) fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    let bad = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let names: Vec<&str> = pod.containers().filter(|c| bad(&c["securityContext"])).map(name).collect();
    let of_pod = bad(pod.context());
    (of_pod || !names.is_empty()).then(|| {
        let who = setters(of_pod, &names);
        let detail = format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
        Violation::new("hostProcess", detail)
    })
}
