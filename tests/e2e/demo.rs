//! Point 1: one command, and a wasm pod and a container answer behind one Service.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use catamaran_tests::cluster::{Cluster, Demo};
use catamaran_tests::http;
use serde_json::Value;

/// Repeated requests are answered by both kinds, and the kernel agrees about which is which.
pub(crate) fn both_kinds_answer_behind_one_service() {
    let cluster = Cluster::up(Demo::With);
    answers_come_from_all_pods(&cluster);
    containers_have_namespaces_and_an_overlay_root(&cluster);
    wasm_pods_have_no_process(&cluster);
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
    let processes = processes_named("/hello");
    assert_eq!(processes.len(), 2, "one process for each container of the sample");
    for pid in &processes {
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

fn wasm_pods_have_no_process(cluster: &Cluster) {
    for pod in pods(cluster, "kind=wasm") {
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let own = all_processes().filter(|pid| {
            let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            cgroup.contains(uid)
        });
        assert_eq!(own.collect::<Vec<_>>(), Vec::<String>::new(), "a wasm pod has no process of its own");
    }
}

fn all_processes() -> impl Iterator<Item = String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
}

fn processes_named(program: &str) -> Vec<String> {
    let is = |pid: &String| {
        let line = fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).next() == Some(program.as_bytes())
    };
    all_processes().filter(is).collect()
}
