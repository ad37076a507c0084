//! The list of checks and how their findings are told: the Pod Security Standards. Pure.

use serde_json::Value;

use super::policy::{Level, Rules};
use super::{baseline, restricted};

/// What a check looks at.
#[derive(Clone, Copy)]
pub(super) struct Pod<'a> {
    pub(super) metadata: &'a Value,
    pub(super) spec: &'a Value,
    /// Minor number of the version whose rules are applied.
    pub(super) version: u32,
}

impl<'a> Pod<'a> {
    /// Init containers first, as in Kubernetes' messages.
    pub(super) fn containers(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .filter_map(move |field| spec[field].as_array())
            .flatten()
    }

    /// The security context of the pod.
    pub(super) fn context(&self) -> &'a Value {
        &self.spec["securityContext"]
    }

    pub(super) fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }
}

/// Why a check does not let a pod pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) reason: String,
    pub(super) detail: String,
}

impl Violation {
    pub(super) fn new(reason: impl Into<String>, detail: impl Into<String>) -> Self {
        Violation { reason: reason.into(), detail: detail.into() }
    }
}

struct Check {
    id: &'static str,
    level: Level,
    /// The first version that has it.
    since: u32,
    /// The baseline check that it makes superfluous.
    replaces: Option<&'static str>,
    run: fn(&Pod<'_>) -> Option<Violation>,
}

const fn baseline(id: &'static str, run: fn(&Pod<'_>) -> Option<Violation>) -> Check {
    Check { id, level: Level::Baseline, since: 0, replaces: None, run }
}

const fn restricted(
    id: &'static str,
    since: u32,
    replaces: Option<&'static str>,
    run: fn(&Pod<'_>) -> Option<Violation>,
) -> Check {
    Check { id, level: Level::Restricted, since, replaces, run }
}

/// In the order in which findings are told: by level, then by name.
const CHECKS: [Check; 17] = [
    baseline("appArmorProfile", baseline::app_armor_profile),
    baseline("capabilities_baseline", baseline::capabilities),
    baseline("hostNamespaces", baseline::host_namespaces),
    baseline("hostPathVolumes", baseline::host_path_volumes),
    baseline("hostPorts", baseline::host_ports),
    baseline("privileged", baseline::privileged),
    baseline("procMount", baseline::proc_mount),
    baseline("seLinuxOptions", baseline::selinux_options),
    baseline("seccompProfile_baseline", baseline::seccomp_profile),
    baseline("sysctls", baseline::sysctls),
    baseline("windowsHostProcess", baseline::windows_host_process),
    restricted("allowPrivilegeEscalation", 8, None, restricted::privilege_escalation),
    restricted("capabilities_restricted", 22, Some("capabilities_baseline"), restricted::capabilities),
    restricted("restrictedVolumes", 0, Some("hostPathVolumes"), restricted::volumes),
    restricted("runAsNonRoot", 0, None, restricted::run_as_non_root),
    restricted("runAsUser", 23, None, restricted::run_as_user),
    restricted("seccompProfile_restricted", 19, Some("seccompProfile_baseline"), restricted::seccomp_profile),
];

/// What a pod (or the template of one) has that the rules do not allow.
pub(super) fn violations(rules: Rules, metadata: &Value, spec: &Value) -> Vec<Violation> {
    let pod = Pod { metadata, spec, version: rules.version.minor() };
    let applies = |check: &&Check| check.level <= rules.level && check.since <= pod.version;
    let replaced = |id: &str| CHECKS.iter().filter(applies).any(|check| check.replaces == Some(id));
    CHECKS.iter().filter(applies).filter(|check| !replaced(check.id)).filter_map(|c| (c.run)(&pod)).collect()
}

/// `privileged (container "a" must not …), host namespaces (hostPID=true)`
pub(super) fn in_detail(violations: &[Violation]) -> String {
    let told = violations.iter().map(|violation| {
        let Violation { reason, detail } = violation;
        if detail.is_empty() { reason.clone() } else { format!("{reason} ({detail})") }
    });
    told.collect::<Vec<_>>().join(", ")
}

/// `privileged, host namespaces`
pub(super) fn in_short(violations: &[Violation]) -> String {
    violations.iter().map(|violation| violation.reason.as_str()).collect::<Vec<_>>().join(", ")
}

/// `"a", "b"`
pub(super) fn quoted<S: AsRef<str>>(items: &[S]) -> String {
    let items: Vec<String> = items.iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    items.join(", ")
}

pub(super) fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`
pub(super) fn containers<S: AsRef<str>>(names: &[S]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod`, `containers "a", "b"`, or both with `and` between.
pub(super) fn setters<S: AsRef<str>>(pod: bool, names: &[S]) -> String {
    match (pod, names.is_empty()) {
        (true, true) => "pod".to_owned(),
        (true, false) => format!("pod and {}", containers(names)),
        (false, _) => containers(names),
    }
}

pub(super) fn name(object: &Value) -> &str {
    object["name"].as_str().unwrap_or_default()
}
