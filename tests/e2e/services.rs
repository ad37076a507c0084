//! Point 10: Services and cluster DNS for both kinds, from everywhere, and rolling updates that lose nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use catamaran_tests::cluster::{Cluster, Demo};
use catamaran_tests::http::{self, Connection};
use catamaran_tests::images;
use catamaran_tests::kubectl::Kubectl;
use catamaran_tests::wait::until;

/// The node's address in the cluster's network.
const NODE: &str = "10.128.0.1";
const BUSYBOX: &str = "localhost:5000/busybox:1";

/// ClusterIP and NodePort from the host, from a container and from wasm; names for both.
pub(crate) fn reachable_from_everywhere() {
    let cluster = Cluster::up(Demo::With);
    images::busybox().push(BUSYBOX);
    let kubectl = &cluster.kubectl;
    let vip = kubectl.value(&["service", "hello"], "{.spec.clusterIP}");
    let vip: SocketAddr = format!("{vip}:80").parse().unwrap();
    both_kinds("the ClusterIP from the host", || {
        http::get(vip, "/").map(|a| a.body).map_err(|e| e.to_string())
    });
    let port = cluster.node_port("hello");
    both_kinds("the NodePort from the host", || {
        http::get(port, "/").map(|a| a.body).map_err(|e| e.to_string())
    });
    kubectl.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: shell}}, spec: {{containers: [{{name: c, image: '{BUSYBOX}', command: [sleep, '600']}}]}}}}"
    ));
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/shell", "--timeout=60s"]);
    both_kinds("the name from a container", || {
        let got = kubectl.run(&["exec", "shell", "--", "wget", "-qO-", "http://hello/"]);
        if got.code == 0 { Ok(got.stdout) } else { Err(got.stderr) }
    });
    both_kinds("the NodePort from a container", || {
        let got =
            kubectl.run(&["exec", "shell", "--", "wget", "-qO-", &format!("http://{NODE}:{}/", port.port())]);
        if got.code == 0 { Ok(got.stdout) } else { Err(got.stderr) }
    });
    headless_services_name_their_pods(kubectl);
    let looked_up = kubectl.ok(&["exec", "shell", "--", "nslookup", "hello.default.svc.cluster.local"]);
    assert!(looked_up.contains(&vip.ip().to_string()), "{looked_up}");
    wasm_calls_a_service(&cluster);
    only_ready_endpoints_get_traffic(&cluster);
}

/// A headless Service is known by the addresses of its pods.
fn headless_services_name_their_pods(kubectl: &Kubectl) {
    kubectl.apply("{apiVersion: v1, kind: Service, metadata: {name: bare}, spec: {clusterIP: None, selector: {app: hello}, ports: [{port: 8080}]}}");
    let pods = kubectl.ok(&["get", "pods", "-l", "app=hello", "-o", "jsonpath={.items[*].status.podIP}"]);
    until("the addresses of a headless Service", Duration::from_secs(10), || {
        let found = kubectl.run(&["exec", "shell", "--", "nslookup", "bare.default.svc.cluster.local"]);
        let all = pods.split(' ').all(|ip| found.stdout.contains(ip));
        if all { Ok(()) } else { Err(format!("{pods}: {}{}", found.stdout, found.stderr)) }
    });
}

/// Calls until an answer of each kind came.
fn both_kinds(what: &str, call: impl Fn() -> Result<String, String>) {
    let (mut wasm, mut container) = (false, false);
    until(what, Duration::from_secs(20), || {
        let body = call()?;
        wasm |= body.contains("wasm");
        container |= body.contains("container");
        if wasm && container { Ok(()) } else { Err(body) }
    });
}

/// A wasm pod that calls a Service whose backends are in the same host process.
fn wasm_calls_a_service(cluster: &Cluster) {
    let guest = include_bytes!("../guests/prebuilt/fetch.wasm");
    images::push_wasm("localhost:5000/http-caller:1", bytes::Bytes::from_static(guest));
    cluster.kubectl.apply(include_str!("manifests/http-caller.yaml"));
    cluster.kubectl.ok(&["wait", "--for=condition=Ready", "pod/caller", "--timeout=60s"]);
    let address = cluster.kubectl.value(&["pod", "caller"], "{.status.podIP}");
    let address: SocketAddr = format!("{address}:8080").parse().unwrap();
    both_kinds("the name from wasm", || fetch(address, "http://hello.default.svc.cluster.local/"));
    let port = cluster.node_port("hello").port();
    both_kinds("the NodePort from wasm", || fetch(address, &format!("http://{NODE}:{port}/")));
}

/// Lets the wasm pod at `address` call `url`.
fn fetch(address: SocketAddr, url: &str) -> Result<String, String> {
    let answer = http::get(address, &format!("/fetch?url={url}")).map_err(|e| e.to_string())?;
    if answer.status == 200 { Ok(answer.body) } else { Err(format!("{} {}", answer.status, answer.body)) }
}

fn only_ready_endpoints_get_traffic(cluster: &Cluster) {
    let kubectl = &cluster.kubectl;
    let never = "{\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"hello\",\"readinessProbe\":{\"httpGet\":{\"path\":\"/nowhere\",\"port\":9}}}]}}}}";
    kubectl.ok(&["scale", "deployment/hello-container", "--replicas=0"]);
    kubectl.ok(&["patch", "deployment", "hello-container", "-p", never]);
    kubectl.ok(&["scale", "deployment/hello-container", "--replicas=1"]);
    until("the unready pod runs", Duration::from_secs(30), || {
        let phases =
            kubectl.ok(&["get", "pods", "-l", "kind=container", "-o", "jsonpath={.items[*].status.phase}"]);
        if phases == "Running" { Ok(()) } else { Err(phases) }
    });
    let address = cluster.node_port("hello");
    for _ in 0..50 {
        let answer = http::get(address, "/").unwrap();
        assert!(answer.body.contains("wasm"), "an unready container answered: {}", answer.body);
    }
}

/// A rolling update of each kind under load, three times in a row, loses no request.
pub(crate) fn rolling_updates_lose_nothing() {
    let cluster = Cluster::up(Demo::With);
    let address = cluster.node_port("hello");
    for deployment in ["hello-wasm", "hello-container"] {
        for round in 1..=3 {
            let (load, start) = (Load::start(address), Instant::now());
            let target = format!("deployment/{deployment}");
            cluster.kubectl.ok(&["set", "env", &target, &format!("ROUND={deployment}-{round}")]);
            cluster.kubectl.ok(&["rollout", "status", &target, "--timeout=90s"]);
            std::thread::sleep(Duration::from_secs(1));
            let (answered, lost) = load.stop();
            assert!(lost.is_empty(), "{deployment}, round {round}: {answered} answered, lost: {lost:#?}");
            let rate = answered as f64 / start.elapsed().as_secs_f64();
            assert!(rate > 150.0, "the load ran at {rate:.0} requests/s");
        }
    }
}

/// 200 requests a second: half on kept connections, half on new ones.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<Vec<String>>>,
}

const THREADS: usize = 4;
const PERIOD: Duration = Duration::from_millis(20);

impl Load {
    fn start(address: SocketAddr) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = |n: usize| {
            let (stop, answered) = (stop.clone(), answered.clone());
            std::thread::spawn(move || requests(address, n.is_multiple_of(2), &stop, &answered))
        };
        let threads = (0..THREADS).map(thread).collect();
        Load { stop, answered, threads }
    }

    fn stop(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Release);
        let lost = self.threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        (self.answered.load(Ordering::Acquire), lost)
    }
}

fn requests(address: SocketAddr, keep: bool, stop: &AtomicBool, answered: &AtomicUsize) -> Vec<String> {
    let mut lost = Vec::new();
    let mut kept: Option<Connection> = None;
    let mut next = Instant::now();
    while !stop.load(Ordering::Acquire) {
        match request(address, &mut kept) {
            Ok(answer) if answer.status == 200 => {
                answered.fetch_add(1, Ordering::AcqRel);
                if !keep || answer.closes {
                    kept = None;
                }
            }
            Ok(answer) => lost.push(format!("status {}: {}", answer.status, answer.body)),
            Err(error) => {
                kept = None;
                lost.push(error.to_string());
            }
        }
        next += PERIOD;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    lost
}

/// An idle kept connection that the server closed before the request was sent is opened again, as every
/// HTTP client does (RFC 9110 9.2.2, 9112 9.3.1); one that breaks after part of an answer is a lost request.
fn request(address: SocketAddr, kept: &mut Option<Connection>) -> std::io::Result<http::Answer> {
    if let Some(connection) = kept {
        match connection.get("/") {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && connection.is_untouched() => {}
            other => return other,
        }
    }
    let mut fresh = Connection::open(address)?;
    let answer = fresh.get("/");
    *kept = Some(fresh);
    answer
}
