//! The checks one by one, and what is told of them.

use serde_json::json;

use super::policy::{NEWEST, Version};
use super::*;

fn rules(level: Level, minor: u32) -> Rules {
    Rules { level, version: Version::Minor(minor) }
}

fn said(level: Level, minor: u32, pod: &Value) -> String {
    check::in_detail(&check::violations(rules(level, minor), &pod["metadata"], &pod["spec"]))
}

/// A pod with one container `c`.
fn pod(spec: Value, container: Value) -> Value {
    let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "c"}]}});
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    pod["spec"]["containers"][0].as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    pod
}

/// The same container with a security context.
fn secured(context: Value) -> Value {
    pod(json!({}), json!({"securityContext": context}))
}

fn whole(context: Value) -> Value {
    pod(json!({"securityContext": context}), json!({}))
}

/// A pod that every level lets pass.
fn hardened() -> Value {
    pod(
        json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}}),
        json!({"securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}),
    )
}

fn check(level: Level, table: &[(Value, u32, &str)]) {
    for (pod, minor, expected) in table {
        assert_eq!(said(level, *minor, pod), *expected, "v1.{minor} {pod}");
        assert_eq!(said(Level::Privileged, *minor, pod), "");
    }
}

#[test]
fn baseline() {
    let two = json!({"metadata": {}, "spec": {
        "initContainers": [{"name": "i", "securityContext": {"privileged": true}}],
        "containers": [{"name": "c", "securityContext": {"privileged": true}}],
    }});
    let table = [
        (pod(json!({}), json!({})), NEWEST, ""),
        (hardened(), NEWEST, ""),
        (
            secured(json!({"privileged": true})),
            NEWEST,
            r#"privileged (container "c" must not set securityContext.privileged=true)"#,
        ),
        (two, NEWEST, r#"privileged (containers "i", "c" must not set securityContext.privileged=true)"#),
        (
            pod(json!({"hostNetwork": true, "hostIPC": true}), json!({})),
            NEWEST,
            "host namespaces (hostNetwork=true, hostIPC=true)",
        ),
        (
            pod(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), json!({})),
            NEWEST,
            r#"hostPath volumes (volume "v")"#,
        ),
        (
            pod(json!({}), json!({"ports": [{"hostPort": 80}, {"hostPort": 0}, {"hostPort": 443}]})),
            NEWEST,
            r#"hostPort (container "c" uses hostPorts 443, 80)"#,
        ),
        (
            secured(json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN", "NET_RAW"]}})),
            NEWEST,
            r#"non-default capabilities (container "c" must not include "NET_RAW", "SYS_ADMIN" in securityContext.capabilities.add)"#,
        ),
        (
            secured(json!({"procMount": "Unmasked"})),
            NEWEST,
            r#"procMount (container "c" must not set securityContext.procMount to "Unmasked")"#,
        ),
    ];
    check(Level::Baseline, &table);
}

#[test]
fn profiles_and_kernel_settings() {
    let annotated = |key: &str, value: &str| {
        let mut pod = pod(json!({}), json!({}));
        pod["metadata"]["annotations"][key] = value.into();
        pod
    };
    let table = [
        (
            whole(json!({"seLinuxOptions": {"type": "spc_t", "user": "u", "role": "r"}})),
            NEWEST,
            r#"seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type "spc_t"; user may not be set; role may not be set)"#,
        ),
        (whole(json!({"seLinuxOptions": {"type": "container_engine_t"}})), 31, ""),
        (
            whole(json!({"seLinuxOptions": {"type": "container_engine_t"}})),
            30,
            r#"seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type "container_engine_t")"#,
        ),
        (
            whole(json!({"seccompProfile": {"type": "Unconfined"}})),
            NEWEST,
            r#"seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")"#,
        ),
        (whole(json!({"seccompProfile": {"type": "Unconfined"}})), 18, ""),
        (
            annotated("seccomp.security.alpha.kubernetes.io/pod", "unconfined"),
            18,
            r#"seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod="unconfined")"#,
        ),
        (
            whole(json!({"sysctls": [{"name": "kernel.shmmax"}, {"name": "net.ipv4.tcp_rmem"}]})),
            31,
            "forbidden sysctls (kernel.shmmax, net.ipv4.tcp_rmem)",
        ),
        (whole(json!({"sysctls": [{"name": "net.ipv4.tcp_rmem"}]})), NEWEST, ""),
        (
            whole(json!({"windowsOptions": {"hostProcess": true}})),
            NEWEST,
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            secured(json!({"appArmorProfile": {"type": "Unconfined"}})),
            NEWEST,
            r#"forbidden AppArmor profile (container "c" must not set AppArmor profile type to "Unconfined")"#,
        ),
        (
            annotated("container.apparmor.security.beta.kubernetes.io/c", "unconfined"),
            NEWEST,
            r#"forbidden AppArmor profile (annotation must not set AppArmor profile type to "container.apparmor.security.beta.kubernetes.io/c="unconfined"")"#,
        ),
        (annotated("container.apparmor.security.beta.kubernetes.io/c", "runtime/default"), NEWEST, ""),
    ];
    check(Level::Baseline, &table);
}

#[test]
fn restricted() {
    const ESCALATION: &str = r#"allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false)"#;
    const CAPABILITIES: &str =
        r#"unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"])"#;
    const ROOT: &str =
        r#"runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true)"#;
    const SECCOMP: &str = r#"seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#;
    let plain = pod(json!({}), json!({}));
    let with = |change: fn(&mut Value)| {
        let mut pod = hardened();
        change(&mut pod);
        pod
    };
    let table = [
        (hardened(), NEWEST, String::new()),
        (plain.clone(), NEWEST, [ESCALATION, CAPABILITIES, ROOT, SECCOMP].join(", ")),
        (plain.clone(), 21, [ESCALATION, ROOT, SECCOMP].join(", ")),
        (plain.clone(), 7, ROOT.to_owned()),
        (pod(json!({"os": {"name": "windows"}}), json!({})), NEWEST, ROOT.to_owned()),
        (pod(json!({"os": {"name": "windows"}}), json!({})), 24, [ESCALATION, CAPABILITIES, ROOT, SECCOMP].join(", ")),
        (
            with(|pod| pod["spec"]["containers"][0]["securityContext"]["runAsNonRoot"] = false.into()),
            NEWEST,
            r#"runAsNonRoot != true (container "c" must not set securityContext.runAsNonRoot=false)"#.to_owned(),
        ),
        (
            with(|pod| pod["spec"]["securityContext"]["runAsUser"] = 0.into()),
            NEWEST,
            "runAsUser=0 (pod must not set runAsUser=0)".to_owned(),
        ),
        (with(|pod| pod["spec"]["securityContext"]["runAsUser"] = 0.into()), 22, String::new()),
        (
            with(|pod| pod["spec"]["containers"][0]["securityContext"]["capabilities"]["add"] = json!(["CHOWN"])),
            NEWEST,
            r#"unrestricted capabilities (container "c" must not include "CHOWN" in securityContext.capabilities.add)"#.to_owned(),
        ),
        (
            with(|pod| pod["spec"]["containers"][0]["securityContext"]["capabilities"]["add"] = json!(["NET_BIND_SERVICE"])),
            NEWEST,
            String::new(),
        ),
        (
            with(|pod| pod["spec"]["volumes"] = json!([{"name": "v", "hostPath": {}}, {"name": "n", "nfs": {}}, {"name": "e", "emptyDir": {}}])),
            NEWEST,
            r#"restricted volume types (volumes "v", "n" use restricted volume types "hostPath", "nfs")"#.to_owned(),
        ),
        (
            with(|pod| pod["spec"]["containers"][0]["securityContext"]["seccompProfile"]["type"] = "Unconfined".into()),
            NEWEST,
            r#"seccompProfile (container "c" must not set securityContext.seccompProfile.type to "Unconfined")"#.to_owned(),
        ),
    ];
    for (pod, minor, expected) in table {
        assert_eq!(said(Level::Restricted, minor, &pod), expected, "v1.{minor} {pod}");
    }
}

#[test]
fn images_and_new_containers_are_judged_again() {
    let old = json!({"spec": {"containers": [{"name": "c", "image": "a"}], "ephemeralContainers": [{"name": "e", "image": "a"}]}});
    let with = |change: fn(&mut Value)| {
        let mut pod = old.clone();
        change(&mut pod);
        pod
    };
    let table = [
        (with(|pod| pod["metadata"] = json!({"labels": {"a": "b"}})), false),
        (with(|pod| pod["spec"]["containers"][0]["resources"] = json!({})), false),
        (with(|pod| pod["spec"]["containers"][0]["image"] = "b".into()), true),
        (
            with(|pod| {
                pod["spec"]["ephemeralContainers"] =
                    json!([{"name": "e", "image": "a"}, {"name": "f", "image": "a"}])
            }),
            true,
        ),
    ];
    for (new, expected) in table {
        assert_eq!(is_significant(&new, &old), expected, "{new}");
    }
}

#[test]
fn existing_pods_are_told_of() {
    let privileged = |name: &str, owner: Option<&str>| {
        let mut pod = secured(json!({"privileged": true}));
        pod["metadata"]["name"] = name.into();
        if let Some(uid) = owner {
            pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": uid, "controller": true}]);
        }
        pod
    };
    let pods = [privileged("b", Some("u")), privileged("a", Some("u")), privileged("c", None), hardened()];
    assert_eq!(
        warnings("n", rules(Level::Baseline, NEWEST), &pods, 9),
        [
            "new PodSecurity enforce level only checked against the first 4 of 9 existing pods",
            "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:v1.33\"",
            "a (and 2 other pods): privileged",
        ]
    );
}
