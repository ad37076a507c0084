//! What a shim is told, field by field.

use std::net::Ipv4Addr;

use catamaran_task::spec::InstancePolicy;
use oci_spec::runtime::LinuxNamespaceType;

use super::*;
use crate::images::detect::WasmKind;
use crate::images::{Code, ImageConfig};
use crate::mounts::Access;

struct Case {
    pod: Pod,
    image: Image,
    sandbox: Sandbox,
    paths: PodPaths,
}

impl Case {
    fn new(container: Value, kind: ImageKind) -> Self {
        let pod = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u1"}, "spec": {"containers": [container]}});
        let is_wasm = kind != ImageKind::Linux;
        Case {
            pod: serde_json::from_value(pod).unwrap(),
            image: Image {
                reference: "r".into(),
                repo_digest: "r@d".into(),
                digest: "d".into(),
                kind,
                config: ImageConfig {
                    entrypoint: vec!["/entry".into()],
                    cmd: vec!["default".into()],
                    working_dir: "/work".into(),
                    ..ImageConfig::default()
                },
                layers: if is_wasm { vec![] } else { vec!["/l/top/fs".into(), "/l/base/fs".into()] },
                wasm: is_wasm.then(|| Code { artifact: "/b/a".into(), compiled: "/w/a.cwasm".into() }),
                size: 1,
            },
            sandbox: Sandbox {
                place: Place::Own,
                ip: Ipv4Addr::new(10, 128, 0, 9),
                netns: Some("/run/netns/u1".into()),
            },
            paths: PodPaths { root: "/pods/u1".into(), run: "/run/pods/u1".into() },
        }
    }

    fn spec(&self) -> Result<ContainerSpec, BundleError> {
        container_spec(&Input {
            pod: &self.pod,
            container: &spec(&self.pod).containers[0],
            image: &self.image,
            attempt: 2,
            env: vec![("NAME".into(), "value".into())],
            mounts: vec![BindMount {
                source: "/pods/u1/volumes/v".into(),
                target: "/data".into(),
                access: Access::ReadOnly,
                propagation: "rprivate",
            }],
            identity: Identity { uid: 1000, gid: 1001, groups: vec![7], home: "/home/app".into() },
            sandbox: &self.sandbox,
            paths: &self.paths,
            termination_log: "/pods/u1/containers/c/termination-2/termination-log".into(),
            log: "/logs/2.log".into(),
            stdin: Stdin::Null,
            hostname: "web".into(),
            resolvers: Resolvers::default(),
            cluster_ranges: &["10.96.0.0/16".to_owned()],
            cgroup: "catamaran-1a2b3c4d",
            node_memory: 1 << 30,
        })
    }
}

fn linux(container: Value) -> ContainerSpec {
    Case::new(container, ImageKind::Linux).spec().unwrap()
}

#[test]
fn a_container_has_namespaces_of_its_own() {
    let made = linux(json!({"name": "c"}));
    let namespaces = made.runtime_spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
    let path = |kind| {
        namespaces.iter().find(|namespace| namespace.typ() == kind).map(|namespace| namespace.path().clone())
    };
    assert_eq!(path(LinuxNamespaceType::Mount), Some(None));
    assert_eq!(path(LinuxNamespaceType::Pid), Some(None));
    assert_eq!(path(LinuxNamespaceType::Network), Some(Some("/run/netns/u1".into())));
    assert_eq!(path(LinuxNamespaceType::Ipc), Some(Some("/run/pods/u1/ipc".into())));
    assert_eq!(path(LinuxNamespaceType::Uts), Some(Some("/run/pods/u1/uts".into())));
    let overlay = Rootfs::Overlay {
        lower: vec!["/l/top/fs".into(), "/l/base/fs".into()],
        scratch: "/pods/u1/containers/c/root-2".into(),
    };
    assert_eq!(made.rootfs, overlay);
    assert_eq!(made.id.0, "u1_c_2");
}

#[test]
fn it_may_little_unless_more_is_granted() {
    let process = linux(json!({"name": "c"})).runtime_spec.process().clone().unwrap();
    assert_eq!(process.no_new_privileges(), Some(true));
    let capabilities = process.capabilities().clone().unwrap();
    assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 14);
    assert_eq!(capabilities.effective().as_ref().unwrap().len(), 0, "it is not root");
    assert_eq!((process.user().uid(), process.user().gid()), (1000, 1001));
    assert_eq!(process.user().additional_gids().clone(), Some(vec![7]));
    let set_uid = json!({"name": "c", "securityContext": {"allowPrivilegeEscalation": true, "readOnlyRootFilesystem": true}});
    let granted = linux(set_uid).runtime_spec;
    assert_eq!(granted.process().as_ref().unwrap().no_new_privileges(), Some(false));
    assert_eq!(granted.root().as_ref().unwrap().readonly(), Some(true));
    let confined = linux(json!({"name": "c"})).runtime_spec;
    let profile = |spec: &Spec| spec.annotations().clone().unwrap().get(SECCOMP_ANNOTATION).cloned();
    assert_eq!(profile(&confined).as_deref(), Some(SECCOMP_DEFAULT));
    assert!(!confined.linux().clone().unwrap().masked_paths().clone().unwrap().is_empty());
    let free = linux(json!({"name": "c", "securityContext": {"privileged": true}})).runtime_spec;
    assert!(profile(&free).is_none() && free.linux().clone().unwrap().masked_paths().is_none());
    let unconfined = json!({"name": "c", "securityContext": {"seccompProfile": {"type": "Unconfined"}}});
    assert_eq!(profile(&linux(unconfined).runtime_spec), None);
}

#[test]
fn limits_become_cgroup_figures() {
    let resources =
        json!({"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m", "memory": "32Mi"}});
    let made = linux(json!({"name": "c", "resources": resources})).runtime_spec;
    let linux = made.linux().clone().unwrap();
    assert_eq!(
        linux.cgroups_path().as_ref().unwrap().to_str(),
        Some("/catamaran-1a2b3c4d/burstable/podu1/c")
    );
    let resources = linux.resources().clone().unwrap();
    let cpu = resources.cpu().clone().unwrap();
    assert_eq!((cpu.shares(), cpu.quota(), cpu.period()), (Some(256), Some(50_000), Some(100_000)));
    assert_eq!(resources.memory().as_ref().unwrap().limit(), Some(64 << 20));
    assert_eq!(made.process().as_ref().unwrap().oom_score_adj(), Some(969));
}

#[test]
fn arguments_follow_the_four_cases() {
    let args =
        |container: Value| linux(container).runtime_spec.process().as_ref().unwrap().args().clone().unwrap();
    assert_eq!(args(json!({"name": "c"})), ["/entry", "default"]);
    assert_eq!(args(json!({"name": "c", "args": ["$(NAME)", "$$(NAME)"]})), ["/entry", "value", "$(NAME)"]);
    assert_eq!(args(json!({"name": "c", "command": ["/x"]})), ["/x"]);
    assert_eq!(args(json!({"name": "c", "command": ["/x"], "args": ["y"]})), ["/x", "y"]);
    let mut nothing = Case::new(json!({"name": "c"}), ImageKind::Linux);
    nothing.image.config = ImageConfig::default();
    assert!(matches!(nothing.spec(), Err(BundleError::NoCommand)));
}

#[test]
fn the_environment_has_what_programs_expect() {
    let process = linux(json!({"name": "c", "tty": true})).runtime_spec.process().clone().unwrap();
    let env = process.env().clone().unwrap();
    for expected in ["NAME=value", "HOSTNAME=web", "HOME=/home/app", "TERM=xterm"] {
        assert!(env.iter().any(|entry| entry == expected), "{expected} in {env:?}");
    }
    assert!(env.iter().any(|entry| entry.starts_with("PATH=/usr/local/sbin")));
    assert_eq!(process.cwd().to_str(), Some("/work"));
}

#[test]
fn volumes_come_after_what_they_lie_in() {
    let mounts = linux(json!({"name": "c"})).runtime_spec.mounts().clone().unwrap();
    let targets: Vec<_> = mounts.iter().map(|mount| mount.destination().to_str().unwrap()).collect();
    assert_eq!(targets.last(), Some(&"/data"));
    for expected in [
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/sys",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/dev/termination-log",
    ] {
        assert!(targets.contains(&expected), "{expected}");
    }
    assert!(mounts.last().unwrap().options().as_ref().unwrap().contains(&"ro".to_owned()));
}

#[test]
fn a_wasm_container_gets_only_what_is_granted() {
    let container =
        json!({"name": "c", "ports": [{"containerPort": 8080}], "resources": {"limits": {"memory": "64Mi"}}});
    let made = Case::new(container, ImageKind::Wasm(WasmKind::Http)).spec().unwrap();
    assert_eq!(made.rootfs, Rootfs::None);
    let wasm = made.wasm.unwrap();
    assert_eq!(wasm.http_ports, [8080]);
    assert_eq!(wasm.pod_ip, Ipv4Addr::new(10, 128, 0, 9));
    assert_eq!(wasm.instance, InstancePolicy::Fresh);
    assert_eq!(wasm.outbound, catamaran_task::spec::Outbound::Hosts(vec!["10.96.0.0/16".into()]));
    let mounts = made.runtime_spec.mounts().clone().unwrap();
    assert_eq!(mounts.len(), 1, "its volume and nothing of the node");
    let process = made.runtime_spec.process().clone().unwrap();
    assert_eq!(process.env().clone().unwrap(), ["NAME=value", "HOSTNAME=web"]);
    let memory = made.runtime_spec.linux().clone().unwrap().resources().clone().unwrap().memory().unwrap();
    assert_eq!(memory.limit(), Some(64 << 20));
}

#[test]
fn a_command_listens_by_itself() {
    let container = json!({"name": "c", "ports": [{"containerPort": 8080}]});
    let made = Case::new(container, ImageKind::Wasm(WasmKind::Command)).spec().unwrap();
    assert!(made.wasm.unwrap().http_ports.is_empty());
}

#[test]
fn a_command_finds_the_files_of_its_pod() {
    let mounts = |container: Value| {
        let made = Case::new(container, ImageKind::Wasm(WasmKind::Command)).spec().unwrap();
        let all = made.runtime_spec.mounts().clone().unwrap().into_iter();
        let one = |mount: oci_spec::runtime::Mount| {
            let text = |path: Option<&PathBuf>| path.unwrap().display().to_string();
            let read_only = mount.options().as_ref().unwrap().contains(&"ro".to_owned());
            (text(Some(mount.destination())), text(mount.source().as_ref()), read_only)
        };
        all.map(one).skip(1).collect::<Vec<_>>()
    };
    let etc = ("/etc".to_owned(), "/pods/u1/etc".to_owned(), true);
    let words = |place: &str| (place.to_owned(), "/pods/u1/containers/c/termination-2".to_owned(), false);
    assert_eq!(mounts(json!({"name": "c"})), [words("/dev"), etc.clone()]);
    let elsewhere = json!({"name": "c", "terminationMessagePath": "/tmp/words"});
    assert_eq!(mounts(elsewhere), [words("/tmp"), etc.clone()]);
    let in_the_volume = json!({"name": "c", "terminationMessagePath": "/data/words"});
    assert_eq!(mounts(in_the_volume), [etc], "a volume hides it");
}

#[test]
fn what_cannot_be_given_is_refused() {
    for (field, value) in [("hostUsers", false), ("shareProcessNamespace", true)] {
        let mut case = Case::new(json!({"name": "c"}), ImageKind::Linux);
        let mut spec = serde_json::to_value(&case.pod.spec).unwrap();
        spec[field] = json!(value);
        case.pod.spec = serde_json::from_value(spec).unwrap();
        let error = case.spec().unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn settings_of_the_node_and_unknown_capabilities_are_refused() {
    let mut case = Case::new(json!({"name": "c"}), ImageKind::Linux);
    let sysctls = |name: &str| json!({"sysctls": [{"name": name, "value": "1"}]});
    let with = |case: &Case, context: Value| {
        let mut spec = serde_json::to_value(&case.pod.spec).unwrap();
        spec["securityContext"] = context;
        serde_json::from_value(spec).unwrap()
    };
    case.pod.spec = with(&case, sysctls("net/ipv4/tcp_syncookies"));
    let linux = case.spec().unwrap().runtime_spec.linux().clone().unwrap();
    assert_eq!(linux.sysctl().clone().unwrap()["net.ipv4.tcp_syncookies"], "1");
    case.pod.spec = with(&case, sysctls("kernel.core_pattern"));
    assert!(matches!(case.spec(), Err(BundleError::Sysctl(name)) if name == "kernel.core_pattern"));
    let adds = |name: &str| {
        let context = json!({"capabilities": {"add": [name], "drop": ["NOT_HERE"]}});
        Case::new(json!({"name": "c", "securityContext": context}), ImageKind::Linux).spec()
    };
    for good in ["ALL", "NET_ADMIN", "net_admin", "CAP_NET_ADMIN", "CHOWN"] {
        assert!(adds(good).is_ok(), "{good}");
    }
    let error = adds("NET_ADMlN").unwrap_err().to_string();
    assert!(error.contains("CAP_NET_ADMlN".to_uppercase().as_str()), "{error}");
}

#[test]
fn a_seccomp_profile_that_is_not_read_is_refused() {
    let with = |profile: Value| json!({"name": "c", "securityContext": {"seccompProfile": profile}});
    let file = json!({"type": "Localhost", "localhostProfile": "profiles/strict.json"});
    let error = Case::new(with(file), ImageKind::Linux).spec().unwrap_err();
    assert!(error.to_string().contains("profiles/strict.json"), "{error}");
    for good in ["RuntimeDefault", "Unconfined"] {
        assert!(Case::new(with(json!({"type": good})), ImageKind::Linux).spec().is_ok(), "{good}");
    }
}
