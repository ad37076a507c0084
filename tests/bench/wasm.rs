//! Requests to a wasm pod, at its address and through its Service, beside `wasmtime serve` on the same component: each
//! number of connections is driven against all of them in turn, several rounds, and the medians are compared.

mod load;
mod peer;

use std::net::SocketAddr;
use std::time::Duration;

use catamaran_tests::cluster::Cluster;
use catamaran_tests::processes;

use load::Round;
use peer::Peer;

const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 3;
const CONNECTIONS: [usize; 4] = [1, 10, 50, 200];
const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../samples/hello/prebuilt/hello.wasm");
const POD: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
    {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bench", "labels": {"app": "bench"}}, "spec": {"containers": [{
        "name": "c", "image": "localhost:5000/hello-wasm:1", "ports": [{"containerPort": 8080}],
        "env": [{"name": "POD_NAME", "value": "bench"}],
        "resources": {"requests": {"cpu": "10m"}, "limits": {"cpu": "2", "memory": "256Mi"}}}]}},
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bench"},
        "spec": {"selector": {"app": "bench"}, "ports": [{"port": 80, "targetPort": 8080}]}}]}"#;

/// One server under load: what it is called, where it answers, whose CPU time it takes.
struct Target {
    name: &'static str,
    address: SocketAddr,
    pid: i32,
}

/// Prints a line for each server and number of connections, and the ratios to the peer's two forms.
pub(crate) fn report(cluster: &Cluster) {
    let defaults = Peer::start(SAMPLE, &[]);
    let best = Peer::start(SAMPLE, peer::BEST);
    let mut targets = vec![
        Target { name: "wasmtime serve", address: defaults.address, pid: defaults.pid() },
        Target { name: "wasmtime serve, best flags", address: best.address, pid: best.pid() },
    ];
    targets.extend(ours(cluster));
    println!("{}, {ROUNDS} rounds of {ROUND:?} each, medians; CPU is the server's alone", Peer::version());
    println!(
        "{:<28} {:>6} {:>12} {:>12} {:>10} {:>10} {:>18}",
        "server", "conns", "requests/s", "CPU us/req", "p50 us", "p99 us", "CPU ratio"
    );
    for connections in CONNECTIONS {
        let mut rounds: Vec<Vec<Round>> = targets.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUNDS {
            for (target, rounds) in targets.iter().zip(&mut rounds) {
                rounds.push(load::drive(target.address, target.pid, connections, ROUND));
            }
        }
        let medians: Vec<Round> = rounds.into_iter().map(load::median).collect();
        for (target, round) in targets.iter().zip(&medians) {
            let against = |peer: &Round| peer.cpu_micros / round.cpu_micros;
            println!(
                "{:<28} {connections:>6} {:>12.0} {:>12.1} {:>10.0} {:>10.0} {:>8.2} x {:>5.2} x",
                target.name,
                round.per_second,
                round.cpu_micros,
                round.p50_micros,
                round.p99_micros,
                against(&medians[0]),
                against(&medians[1]),
            );
        }
    }
}

/// A pod of the sample, by its own address and by its Service's.
fn ours(cluster: &Cluster) -> [Target; 2] {
    let kubectl = &cluster.kubectl;
    kubectl.apply(POD);
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/bench", "--timeout=60s"]);
    let at = |ip: String, port: u16| SocketAddr::new(ip.parse().expect("an address"), port);
    let pod = at(kubectl.value(&["pod", "bench"], "{.status.podIP}"), 8080);
    let service = at(kubectl.value(&["service", "bench"], "{.spec.clusterIP}"), 80);
    load::wait_for(service);
    let hosts = processes::of_cluster(cluster.data());
    let host = hosts.iter().find(|process| process.part() == "shim-wasm").expect("a wasm host runs");
    [
        Target { name: "catamaran, pod", address: pod, pid: host.pid },
        Target { name: "catamaran, Service", address: service, pid: host.pid },
    ]
}
