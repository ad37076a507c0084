//! Point 1: one command, and a wasm pod and a container answer behind one Service.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;

use catamaran_tests::cluster::{Cluster, Demo};
use catamaran_tests::{http, processes};
use serde_json::Value;

/// Repeated requests are answered by both kinds, and the kernel agrees about which is which.
pub(crate) fn both_kinds_answer_behind_one_service() {
    let cluster = Cluster::up(Demo::With);
    answers_come_from_all_pods(&cluster);
    containers_have_namespaces_and_an_overlay_root(&cluster);
    wasm_pods_have_no_process(&cluster);
    the_way_on_is_printed(&cluster);
}

fn pods(cluster: &Cluster, selector: &str) -> Vec<Value> {
    let list = cluster.kubectl.ok(&["get", "pods", "-l", selector, "-o", "json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    list["items"].as_array().unwrap().clone()
}

fn answers_come_from_all_pods(cluster: &Cluster) {
    let address = cluster.node_port("hello");
    let mut answers = BTreeSet::new();
    for _ in 0..200 {
        let answer = http::get(address, "/").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        answers.insert(answer.body.trim().to_owned());
    }
    let names: BTreeSet<_> = pods(cluster, "app=hello")
        .iter()
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), 4);
    for name in &names {
        let kind = if name.starts_with("hello-wasm") { "wasm" } else { "container" };
        let found = answers.iter().any(|answer| answer.contains(name) && answer.contains(kind));
        assert!(found, "{name} never answered: {answers:?}");
    }
}

fn containers_have_namespaces_and_an_overlay_root(cluster: &Cluster) {
    let containers = pods(cluster, "kind=container");
    assert_eq!(containers.len(), 2);
    for pod in containers {
        let [pid] = &in_cgroup_of(&pod)[..] else { panic!("one process for {}", pod["metadata"]["name"]) };
        for kind in ["mnt", "pid", "net", "ipc", "uts"] {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
            assert_ne!(of(pid), of("self"), "{kind} namespace of the container");
        }
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
        assert!(root.contains(" - overlay "), "{root}");
        let lower = root.split("lowerdir").nth(1).unwrap_or_default();
        assert!(
            lower.contains(cluster.data().to_str().unwrap()),
            "the root is made of the image's layers: {root}"
        );
    }
}

/// All wasm pods of the namespace are served by one process, which listens on the address of each.
fn wasm_pods_have_no_process(cluster: &Cluster) {
    let mut hosts = processes::of_cluster(cluster.data());
    hosts.retain(|process| process.part() == "shim-wasm");
    let [host] = &hosts[..] else { panic!("one wasm host: {hosts:?}") };
    let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", host.pid)).unwrap();
    for pod in pods(cluster, "kind=wasm") {
        assert_eq!(in_cgroup_of(&pod), Vec::<String>::new(), "a wasm pod has no process of its own");
        let ip: Ipv4Addr = pod["status"]["podIP"].as_str().unwrap().parse().unwrap();
        let listening = format!("{:08X}:{:04X} 00000000:0000 0A", u32::from(ip).swap_bytes(), 8080);
        assert!(sockets.contains(&listening), "the host listens on {ip}:\n{sockets}");
    }
}

/// Processes in a cgroup of the pod.
fn in_cgroup_of(pod: &Value) -> Vec<String> {
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let pids = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default().contains(uid))
        .collect()
}

/// `up --demo` on what runs already changes nothing and says again where it answers and what to try.
fn the_way_on_is_printed(cluster: &Cluster) {
    let said = cluster.start(Demo::With, &[], &[]);
    let kubeconfig = format!("export KUBECONFIG={}", cluster.data().join("kubeconfig").display());
    for part in ["http://127.0.0.1:30080", kubeconfig.as_str(), "kubectl get pods", "kubectl scale", "curl"] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
}
