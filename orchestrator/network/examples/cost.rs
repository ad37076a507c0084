//! What Services and pods cost on this machine: run as root, `cargo run --release --example cost`.
//! It works in namespaces of its own and leaves nothing.

#[path = "../tests/fake_api/mod.rs"]
mod fake_api;

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use catamaran_network::{Network, NetworkConfig, run_services};
use fake_api::{FakeApi, SERVICES, SLICES, isolated, service, slice};

const COUNT: u32 = 10_000;

fn address(n: u32) -> String {
    std::net::Ipv4Addr::from_bits(0x0a60_1000 + n).to_string()
}

fn backends(n: u32) -> Vec<String> {
    (0..3).map(|k| std::net::Ipv4Addr::from_bits(0x0a90_0000 + 3 * n + k).to_string()).collect()
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
    println!("{what:55} p50 {:>10.1?}  p99 {:>10.1?}  n {}", at(50), at(99), times.len());
}

async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let start = Instant::now();
    (work.await, start.elapsed())
}

async fn services(network: &Network) {
    let api = FakeApi::default();
    for n in 0..COUNT {
        api.list(SERVICES, service(&format!("s{n}"), &address(n)));
        api.list(SLICES, slice(&format!("s{n}"), 10, &backends(n)));
    }
    let start = Instant::now();
    let run = tokio::spawn(run_services(api.client(), network.clone(), std::future::pending()));
    network.wait_in_force(10).await;
    println!("{COUNT} Services with 3 endpoints listed and in force after {:.1?}", start.elapsed());
    let mut times = Vec::new();
    for n in 0..1000_u32 {
        let of = n * 7 % COUNT;
        let keep = backends(of).into_iter().skip(usize::try_from(n % 2).unwrap_or(0)).collect::<Vec<_>>();
        let event = slice(&format!("s{of}"), u64::from(11 + n), &keep[..2.min(keep.len())]);
        let start = Instant::now();
        api.send(SLICES, "MODIFIED", &event).await;
        network.wait_in_force(u64::from(11 + n)).await;
        times.push(start.elapsed());
    }
    show("one EndpointSlice event → in force", times);
    run.abort();
}

async fn pods(network: &Network) {
    let (mut attach, mut detach) = (Vec::new(), Vec::new());
    for n in 0..200 {
        let uid = format!("container-{n}");
        let (pod, time) = timed(network.attach_container_pod(&uid)).await;
        pod.expect("attached");
        attach.push(time);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    show("container pod attached, 200/s, from the pool", attach);
    let mut burst = Vec::new();
    for n in 0..100 {
        let (pod, time) = timed(network.attach_container_pod(&format!("burst-{n}"))).await;
        pod.expect("attached");
        burst.push(time);
    }
    show("container pod attached, as fast as it goes", burst);
    for n in 0..200 {
        let uid = format!("container-{n}");
        detach.push(timed(network.detach(&uid)).await.1);
    }
    show("container pod detached", detach);
    let (mut attach, mut detach) = (Vec::new(), Vec::new());
    for n in 0..10_000 {
        let uid = format!("wasm-{n}");
        let (pod, time) = timed(network.attach_wasm_pod(&uid, "default")).await;
        pod.expect("attached");
        attach.push(time);
    }
    show("wasm pod attached", attach);
    for n in 0..10_000 {
        let uid = format!("wasm-{n}");
        detach.push(timed(network.detach(&uid)).await.1);
    }
    show("wasm pod detached", detach);
}

async fn connections(network: &Network) {
    let pod = network.attach_container_pod("server").await.expect("attached");
    let listener = network.listen(&pod.netns, SocketAddr::from((pod.ip, 8080))).await.expect("listens");
    std::thread::spawn(move || while listener.accept().is_ok() {});
    let api = FakeApi::default();
    api.list(SERVICES, service("web", "10.96.0.50"));
    api.list(SLICES, slice("web", 5000, &[pod.ip.to_string()]));
    let run = tokio::spawn(run_services(api.client(), network.clone(), std::future::pending()));
    network.wait_in_force(5000).await;
    for (what, to) in [
        ("pod address", SocketAddr::from((pod.ip, 8080))),
        ("ClusterIP", "10.96.0.50:80".parse().expect("an address")),
    ] {
        let connect = || {
            let start = Instant::now();
            TcpStream::connect(to).expect("connected");
            start.elapsed()
        };
        show(&format!("connection from the node to a {what}"), (0..2000).map(|_| connect()).collect());
    }
    run.abort();
}

fn main() {
    isolated(|folder| async move {
        let config = NetworkConfig { pool: 16, ..NetworkConfig::new("node", folder.join("data"), &folder) };
        let (network, time) = timed(Network::open(config)).await;
        let network = network.expect("the network opens");
        println!("network opened in {time:.1?}");
        pods(&network).await;
        services(&network).await;
        connections(&network).await;
        let (torn, time) = timed(catamaran_network::teardown_all(&folder)).await;
        println!("torn down in {time:.1?}: {:?}", torn.expect("torn down"));
    });
}
