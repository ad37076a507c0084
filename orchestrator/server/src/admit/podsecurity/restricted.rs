//! What the restricted standard does not allow beyond the baseline: whatever a hardened pod has no need of. Pure.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline::{bad_seccomp_profiles, is_good_seccomp, seccomp_type, texts};
use super::check::{Pod, Violation, containers, name, plural, quoted, setters};

/// Sources of volumes that a pod may have.
const GOOD_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
/// The sources that have a name in messages.
const BAD_VOLUMES: [&str; 21] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];
/// From here on, pods that say they are for Windows need not say what has no meaning there.
const KNOWS_WINDOWS: u32 = 25;

fn is_exempt(pod: &Pod<'_>) -> bool {
    pod.version >= KNOWS_WINDOWS && pod.is_windows()
}

pub(super) fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    if is_exempt(pod) {
        return None;
    }
    let open = |container: &&Value| container["securityContext"]["allowPrivilegeEscalation"] != false;
    let names: Vec<&str> = pod.containers().filter(open).map(name).collect();
    (!names.is_empty()).then(|| {
        let detail =
            format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
        Violation::new("allowPrivilegeEscalation != false", detail)
    })
}

pub(super) fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    if is_exempt(pod) {
        return None;
    }
    let (mut keeping, mut adding, mut added) = (Vec::new(), Vec::new(), BTreeSet::new());
    for container in pod.containers() {
        let capabilities = &container["securityContext"]["capabilities"];
        if !texts(&capabilities["drop"]).any(|dropped| dropped == "ALL") {
            keeping.push(name(container));
        }
        let more: Vec<&str> = texts(&capabilities["add"]).filter(|one| *one != "NET_BIND_SERVICE").collect();
        if !more.is_empty() {
            adding.push(name(container));
            added.extend(more);
        }
    }
    let mut details = Vec::new();
    if !keeping.is_empty() {
        let who = containers(&keeping);
        details.push(format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    if !adding.is_empty() {
        let added: Vec<&str> = added.into_iter().collect();
        let (who, what) = (containers(&adding), quoted(&added));
        details.push(format!("{who} must not include {what} in securityContext.capabilities.add"));
    }
    (!details.is_empty()).then(|| Violation::new("unrestricted capabilities", details.join("; ")))
}

pub(super) fn volumes(pod: &Pod<'_>) -> Option<Violation> {
    let (mut names, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in pod.spec["volumes"].as_array().into_iter().flatten() {
        let has = |source: &&&str| volume[**source].is_object();
        if GOOD_VOLUMES.iter().any(|source| has(&source)) {
            continue;
        }
        names.push(name(volume));
        kinds.insert(BAD_VOLUMES.iter().find(has).copied().unwrap_or("unknown"));
    }
    let kinds: Vec<&str> = kinds.into_iter().collect();
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", names.len()),
            quoted(&names),
            plural("uses", "use", names.len()),
            plural("restricted volume type", "restricted volume types", kinds.len()),
            quoted(&kinds)
        );
        Violation::new("restricted volume types", detail)
    })
}

pub(super) fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let said = |context: &Value| context["runAsNonRoot"].as_bool();
    let of_pod = said(pod.context());
    let with = |wanted: Option<bool>| -> Vec<&str> {
        pod.containers().filter(|c| said(&c["securityContext"]) == wanted).map(name).collect()
    };
    let explicit = with(Some(false));
    if of_pod == Some(false) || !explicit.is_empty() {
        let who = setters(of_pod == Some(false), &explicit);
        return Some(Violation::new(
            REASON,
            format!("{who} must not set securityContext.runAsNonRoot=false"),
        ));
    }
    let implicit = if of_pod == Some(true) { Vec::new() } else { with(None) };
    (!implicit.is_empty()).then(|| {
        let who = containers(&implicit);
        Violation::new(REASON, format!("pod or {who} must set securityContext.runAsNonRoot=true"))
    })
}

pub(super) fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    let root = |context: &Value| context["runAsUser"] == 0;
    let names: Vec<&str> = pod.containers().filter(|c| root(&c["securityContext"])).map(name).collect();
    let of_pod = root(pod.context());
    (of_pod || !names.is_empty()).then(|| {
        Violation::new("runAsUser=0", format!("{} must not set runAsUser=0", setters(of_pod, &names)))
    })
}

pub(super) fn seccomp_profile(pod: &Pod<'_>) -> Option<Violation> {
    if is_exempt(pod) {
        return None;
    }
    if let Some(violation) = bad_seccomp_profiles(pod) {
        return Some(violation);
    }
    if seccomp_type(pod.context()).is_some_and(is_good_seccomp) {
        return None;
    }
    let silent = pod.containers().filter(|container| seccomp_type(&container["securityContext"]).is_none());
    let names: Vec<&str> = silent.map(name).collect();
    (!names.is_empty()).then(|| {
        let detail = format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers(&names)
        );
        Violation::new("seccompProfile", detail)
    })
}
