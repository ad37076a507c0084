//! Point 12: every process of the cluster is killed with -9 at random moments; containers never notice.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use catamaran_tests::cluster::{Cluster, Demo};
use catamaran_tests::wait::until;
use catamaran_tests::{http, images, processes};
use serde_json::Value;

const BUSYBOX: &str = "localhost:5000/busybox:1";
/// Kills of each process.
const ROUNDS: usize = 50;
/// The processes of a node; of shim-oci, the one that does the work and the one that keeps the containers.
const PARTS: [&str; 6] = ["server", "agent", "supervisor", "shim-oci", "dns", "keeper"];

/// What must not change about a running container.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Container {
    pid: String,
    start_time: String,
    address: String,
    restarts: i64,
    id: String,
}

/// Kills each process in turn, `ROUNDS` times in all.
pub(crate) fn containers_survive_every_kill() {
    let cluster = Cluster::up(Demo::With);
    images::busybox().push(BUSYBOX);
    cluster.kubectl.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: counter}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: '{BUSYBOX}', command: [sh, -c, 'i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done']}}]}}}}"
    ));
    cluster.kubectl.ok(&["wait", "--for=condition=Ready", "pod/counter", "--timeout=60s"]);
    let before = containers(&cluster);
    assert_eq!(before.len(), 3);
    let address = cluster.node_port("hello");
    let mut dice = seed();
    for round in 0..ROUNDS * PARTS.len() {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let part = PARTS[round % PARTS.len()];
        std::thread::sleep(Duration::from_millis(dice % 300));
        kill(&cluster, part);
        if part == "supervisor" {
            cluster.start(Demo::Without, &[], &[]);
        }
        if part == "server" {
            server_is_back(&cluster);
        }
    }
    until("the API answers after all kills", Duration::from_secs(20), || {
        let nodes = cluster.kubectl.run(&["get", "nodes"]);
        if nodes.stdout.contains(" Ready") { Ok(()) } else { Err(nodes.stderr) }
    });
    until("the same containers", Duration::from_secs(20), || {
        let after = containers(&cluster);
        if after == before { Ok(()) } else { Err(format!("{after:#?}\nbefore: {before:#?}")) }
    });
    log_has_no_gap(&cluster);
    until("requests are answered", Duration::from_secs(10), || {
        http::get(address, "/").map_err(|e| e.to_string())
    });
}

/// Another one in each run; printed, so that a failure can be had again.
fn seed() -> u64 {
    let given = std::env::var("CATAMARAN_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) | 1 << 40
    });
    eprintln!("CATAMARAN_SEED={seed}");
    seed
}

fn server_is_back(cluster: &Cluster) {
    until("the server is back", Duration::from_secs(20), || {
        let ready = cluster.kubectl.run(&["get", "--raw", "/readyz"]);
        if ready.code == 0 { Ok(()) } else { Err(ready.stderr) }
    });
}

fn kill(cluster: &Cluster, part: &str) {
    let name = if part == "keeper" { "shim-oci" } else { part };
    let mine = until(&format!("{part} runs"), Duration::from_secs(10), || {
        let mut mine = processes::of_cluster(cluster.data());
        mine.retain(|process| process.part() == name);
        // The worker of a shim is its keeper's child: it comes second, and may not be there yet.
        let nth = usize::from(part == "shim-oci");
        mine.into_iter().nth(nth).ok_or_else(|| cluster.logs())
    });
    processes::kill(&[mine]);
}

fn all_pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// Every running container that has a process, by pod name.
fn containers(cluster: &Cluster) -> BTreeMap<String, Container> {
    let list = cluster.kubectl.run(&["get", "pods", "-l", "kind!=wasm", "-o", "json"]);
    let Ok(list) = serde_json::from_str::<Value>(&list.stdout) else { return BTreeMap::new() };
    let mut found = BTreeMap::new();
    for pod in list["items"].as_array().unwrap() {
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let in_pod =
            |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default().contains(uid);
        let Some(pid) = all_pids().filter(in_pod).min() else { continue };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let start_time = stat.rsplit_once(") ").and_then(|(_, r)| r.split(' ').nth(19)).unwrap_or_default();
        let status = &pod["status"]["containerStatuses"][0];
        let container = Container {
            pid: pid.to_string(),
            start_time: start_time.to_owned(),
            address: pod["status"]["podIP"].to_string(),
            restarts: status["restartCount"].as_i64().unwrap_or(-1),
            id: status["containerID"].to_string(),
        };
        found.insert(pod["metadata"]["name"].as_str().unwrap().to_owned(), container);
    }
    found
}

/// The counter's log goes on counting: no line is missing. A line that a worker had written without having noted it
/// when it was killed comes twice; never more of them than kills.
fn log_has_no_gap(cluster: &Cluster) {
    let text = cluster.kubectl.ok(&["logs", "counter"]);
    let mut numbers: Vec<u64> =
        text.lines().map(|line| line.parse().unwrap_or_else(|_| panic!("{line:?} in the log"))).collect();
    assert!(numbers.len() > 100);
    let all = numbers.len();
    numbers.dedup();
    assert!(all - numbers.len() <= 2 * ROUNDS, "{} lines came twice", all - numbers.len());
    for pair in numbers.windows(2) {
        assert_eq!(pair[1], pair[0] + 1, "the log jumps");
    }
}

/// A killed wasm host is back within a second; meanwhile connections wait instead of being refused.
pub(crate) fn a_killed_wasm_host_refuses_no_connection() {
    let cluster = Cluster::up(Demo::With);
    cluster.kubectl.ok(&["scale", "deployment/hello-container", "--replicas=0"]);
    cluster.wait_available("hello-wasm");
    let address = cluster.node_port("hello");
    until("only wasm answers", Duration::from_secs(20), || {
        let all: Vec<_> = (0..20).map(|_| http::get(address, "/").map(|a| a.body)).collect();
        if all.iter().all(|a| a.as_ref().is_ok_and(|b| b.contains("wasm"))) {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    });
    let mut slowest = Duration::ZERO;
    for _ in 0..ROUNDS {
        let stop = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..4).map(|_| connect_until(address, stop.clone())).collect();
        // A host that dies as soon as it was started is started again after a pause only.
        std::thread::sleep(Duration::from_millis(1100));
        let killed = Instant::now();
        kill(&cluster, "shim-wasm");
        until("the host is back", Duration::from_secs(5), || {
            http::get(address, "/").map_err(|e| e.to_string())
        });
        let took = killed.elapsed();
        stop.store(true, Ordering::Release);
        let refused: Vec<_> = callers.into_iter().flat_map(|c| c.join().unwrap()).collect();
        assert!(refused.is_empty(), "connections were refused: {refused:?}");
        assert!(took < Duration::from_secs(1), "back after {took:?}");
        slowest = slowest.max(took);
    }
    eprintln!("slowest return of {ROUNDS}: {slowest:?}");
}

/// Opens connections one after another and keeps what was refused.
fn connect_until(address: SocketAddr, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<Vec<String>> {
    std::thread::spawn(move || {
        let mut refused = Vec::new();
        while !stop.load(Ordering::Acquire) {
            if let Err(error) = http::Connection::open(address)
                && error.kind() == std::io::ErrorKind::ConnectionRefused
            {
                refused.push(error.to_string());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        refused
    })
}
