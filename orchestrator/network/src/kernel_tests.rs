//! Real packets through the real kernel: every test has network and mount namespaces of its own, which vanish
//! with its threads.

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

use crate::attach::{Network, NetworkConfig, PodAttachment, Routed, teardown_all};
use crate::ipam::Cidr;
use crate::model::Name;
use crate::namespace;
use crate::netlink::route::{self, LinkSettings, RouteKind};
use crate::netlink::{Family, Socket, nftables};
use crate::services::elements::{Backend, Choice, ClientSource, Frontend, Memory, Protocol, Route, Standing};
use crate::services::ports::HostPort;
use crate::services::rules::TABLE;

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(3);

/// Runs a test in namespaces of its own.
fn isolated<F: Future<Output = ()>>(test: impl FnOnce(PathBuf) -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            #[expect(
                deprecated,
                reason = "the replacement is unsafe because of FILES, which is not used here"
            )]
            rustix::thread::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS).expect("root rights");
            rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
                .expect("private mounts");
            let folder = tempfile::tempdir().expect("a folder");
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
            runtime.block_on(async {
                test(folder.path().to_owned()).await;
                teardown_all(folder.path()).await.expect("torn down");
            });
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

async fn open(folder: &Path) -> Network {
    let config = NetworkConfig { pool: 2, ..NetworkConfig::new("here", folder.join("data"), folder) };
    Network::open(config).await.expect("the network opens")
}

fn name(text: &str) -> Name {
    Name { namespace: "default".to_owned(), name: text.to_owned() }
}

fn vip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 1, last)
}

fn frontend(address: Ipv4Addr, port: u16) -> Frontend {
    Frontend { address, protocol: Protocol::Tcp, port }
}

fn to(backends: &[Ipv4Addr]) -> Route {
    Route {
        choice: Choice::Random,
        source: ClientSource::Kept,
        standing: Standing::Ready,
        backends: backends.iter().map(|address| Backend { address: *address, port: PORT }).collect(),
    }
}

async fn serve(network: &Network, service: &str, routes: Vec<(Frontend, Route)>) {
    network.update_rules(vec![(name(service), routes)], 1).await.expect("the rules change");
}

/// A server that greets every connection with its own name and the address that it sees.
fn greet(netns: &Path, address: Ipv4Addr, greeting: &str) {
    let listener = namespace::listen(netns, SocketAddr::from((address, PORT))).expect("listens");
    greet_on(listener, greeting);
}

fn greet_on(listener: TcpListener, greeting: &str) {
    let greeting = greeting.to_owned();
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = write!(stream, "{greeting} {}", peer.ip());
        }
    });
}

/// What a server says to a connection from the calling thread's namespace.
fn ask(from: Option<Ipv4Addr>, address: Ipv4Addr, port: u16) -> Result<String, ErrorKind> {
    let connect = || {
        let mut stream = match from {
            None => TcpStream::connect_timeout(&SocketAddr::from((address, port)), SOON)?,
            Some(from) => connect_from(from, address, port)?,
        };
        let mut text = String::new();
        stream.set_read_timeout(Some(SOON))?;
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    connect().map_err(|error: std::io::Error| error.kind())
}

fn connect_from(from: Ipv4Addr, address: Ipv4Addr, port: u16) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, sockopt};
    let fd = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, Some(SOON))?;
    rustix::net::bind(&fd, &SocketAddr::from((from, 0)))?;
    rustix::net::connect(&fd, &SocketAddr::from((address, port)))?;
    Ok(TcpStream::from(fd))
}

fn ask_in(pod: &PodAttachment, address: Ipv4Addr, port: u16) -> Result<String, ErrorKind> {
    namespace::enter(&pod.netns, || ask(Some(pod.ip), address, port)).expect("entered")
}

struct Cast {
    network: Network,
    a: PodAttachment,
    b: PodAttachment,
    wasm: PodAttachment,
    other: PodAttachment,
}

/// Containers `a` and `b`, and wasm pods `wasm` and `other` of one trust domain, each with a server.
async fn cast(folder: &Path) -> Cast {
    let network = open(folder).await;
    let a = network.attach_container_pod("uid-a").await.expect("attached");
    let b = network.attach_container_pod("uid-b").await.expect("attached");
    let wasm = network.attach_wasm_pod("uid-wasm", "default").await.expect("attached");
    let other = network.attach_wasm_pod("uid-other", "default").await.expect("attached");
    assert_eq!(wasm.netns, other.netns);
    for (pod, greeting) in [(&a, "a"), (&b, "b"), (&wasm, "wasm"), (&other, "other")] {
        greet(&pod.netns, pod.ip, greeting);
    }
    Cast { network, a, b, wasm, other }
}

#[test]
fn pods_reach_each_other_with_their_own_addresses() {
    isolated(|folder| async move {
        let Cast { network, a, b, wasm, other } = cast(&folder).await;
        let node = network.node_address();
        assert_eq!(node, Ipv4Addr::new(10, 128, 0, 1));
        assert_eq!(ask(Some(node), a.ip, PORT), Ok(format!("a {node}")));
        assert_eq!(ask(None, wasm.ip, PORT), Ok(format!("wasm {node}")));
        for (from, to, greeting) in
            [(&a, &b, "b"), (&b, &wasm, "wasm"), (&wasm, &a, "a"), (&wasm, &other, "other")]
        {
            assert_eq!(ask_in(from, to.ip, PORT), Ok(format!("{greeting} {}", from.ip)));
        }
        greet_on(TcpListener::bind((node, PORT)).expect("listens"), "node");
        assert_eq!(ask_in(&wasm, node, PORT), Ok(format!("node {}", wasm.ip)));
        let nobody = Ipv4Addr::new(10, 128, 0, 200);
        assert_eq!(ask_in(&a, nobody, PORT), Err(ErrorKind::HostUnreachable));
    });
}

#[test]
fn services_answer_from_everywhere() {
    isolated(|folder| async move {
        let Cast { network, a, b, wasm, other } = cast(&folder).await;
        let all = [a.ip, b.ip, wasm.ip, other.ip];
        serve(&network, "web", vec![(frontend(vip(1), 80), to(&all))]).await;
        for from in [None, Some(&a), Some(&wasm)] {
            let greetings = (0..60).map(|_| match from {
                None => ask(None, vip(1), 80),
                Some(pod) => ask_in(pod, vip(1), 80),
            });
            let names: HashSet<_> =
                greetings.map(|g| g.expect("answers").split(' ').next().unwrap().to_owned()).collect();
            assert_eq!(names, HashSet::from(["a", "b", "wasm", "other"].map(str::to_owned)));
        }
        // A pod behind the Service that it calls: the container sees the node, the wasm pod itself.
        serve(&network, "web", vec![(frontend(vip(1), 80), to(&[a.ip]))]).await;
        assert_eq!(ask_in(&a, vip(1), 80), Ok(format!("a {}", network.node_address())));
        serve(&network, "web", vec![(frontend(vip(1), 80), to(&[wasm.ip]))]).await;
        assert_eq!(ask_in(&wasm, vip(1), 80), Ok(format!("wasm {}", wasm.ip)));
        // A neighbour in the same host keeps its address too.
        assert_eq!(ask_in(&other, vip(1), 80), Ok(format!("wasm {}", other.ip)));
        assert_eq!(ask_in(&b, vip(1), 80), Ok(format!("wasm {}", b.ip)));
    });
}

#[test]
fn a_client_comes_back_to_its_backend_whatever_else_changes() {
    isolated(|folder| async move {
        let Cast { network, a, b, wasm, other } = cast(&folder).await;
        let sticky = |backends: &[Ipv4Addr], memory| Route {
            choice: Choice::ClientAddress(memory),
            source: ClientSource::Masqueraded,
            ..to(backends)
        };
        let routes = |backends: &[Ipv4Addr], memory| {
            let node_port = frontend(Ipv4Addr::UNSPECIFIED, 30081);
            vec![(frontend(vip(1), 80), sticky(backends, memory)), (node_port, sticky(backends, memory))]
        };
        let greeting =
            |answer: Result<String, ErrorKind>| answer.map(|a| a[..a.find(' ').unwrap()].to_owned());
        let met = |pod: &PodAttachment| greeting(ask_in(pod, vip(1), 80)).expect("answers");
        let by_node = || greeting(ask(None, Ipv4Addr::LOCALHOST, 30081)).expect("answers");
        serve(&network, "web", routes(&[a.ip], Memory::DEFAULT)).await;
        for pod in [&b, &wasm, &other] {
            assert_eq!(met(pod), "a");
        }
        assert_eq!(by_node(), "a");
        // More backends: who was here stays. A hash alone would move three of four.
        let all = [a.ip, b.ip, wasm.ip, other.ip];
        serve(&network, "web", routes(&all, Memory::DEFAULT)).await;
        for _ in 0..10 {
            for pod in [&b, &wasm, &other] {
                assert_eq!(met(pod), "a");
            }
            assert_eq!(by_node(), "a");
        }
        // It goes: another one takes over, for good.
        serve(&network, "web", routes(&all[1..], Memory::DEFAULT)).await;
        let next: Vec<_> = [&b, &wasm, &other].map(met).into();
        assert!(!next.contains(&"a".to_owned()), "{next:?}");
        serve(&network, "web", routes(&all, Memory::DEFAULT)).await;
        for _ in 0..10 {
            assert_eq!([&b, &wasm, &other].map(met).to_vec(), next);
        }
        // A restart forgets no client.
        drop(network);
        let network = open(&folder).await;
        serve(&network, "web", routes(&all, Memory::DEFAULT)).await;
        assert_eq!([&b, &wasm, &other].map(met).to_vec(), next);
    });
}

#[test]
fn node_ports_answer_on_loopback_and_on_the_node() {
    isolated(|folder| async move {
        let Cast { network, a, b, wasm, other } = cast(&folder).await;
        let node = network.node_address();
        for source in [ClientSource::Masqueraded, ClientSource::Kept] {
            for (backend, greeting) in [(a.ip, "a"), (wasm.ip, "wasm")] {
                let route = Route { source, ..to(&[backend]) };
                let port = frontend(Ipv4Addr::UNSPECIFIED, 30080);
                serve(&network, "web", vec![(port, route)]).await;
                let seen = format!("{greeting} {node}");
                assert_eq!(ask(None, Ipv4Addr::LOCALHOST, 30080), Ok(seen.clone()));
                assert_eq!(ask(None, node, 30080), Ok(seen.clone()));
                for pod in [&a, &b, &wasm, &other] {
                    assert_eq!(ask_in(pod, node, 30080), Ok(seen.clone()));
                }
            }
        }
    });
}

fn host_port(address: Ipv4Addr, port: u16) -> HostPort {
    HostPort { address, protocol: "TCP".to_owned(), port, container_port: PORT }
}

#[test]
fn pods_have_ports_of_the_node_until_they_go() {
    isolated(|folder| async move {
        let Cast { network, a, b, wasm, other } = cast(&folder).await;
        let node = network.node_address();
        let any = Ipv4Addr::UNSPECIFIED;
        network.publish("uid-a", vec![host_port(any, 8001)]).await.expect("published");
        let of_wasm = vec![host_port(Ipv4Addr::LOCALHOST, 8002), host_port(node, 8003)];
        network.publish("uid-wasm", of_wasm).await.expect("published");
        let all_answer = |network: &Network| {
            assert!(ask(None, Ipv4Addr::LOCALHOST, 8001).expect("answers").starts_with("a "));
            assert!(ask(None, node, 8001).expect("answers").starts_with("a "));
            for pod in [&a, &b, &wasm, &other] {
                assert!(ask_in(pod, node, 8001).expect("answers").starts_with("a "));
                assert!(ask_in(pod, node, 8003).expect("answers").starts_with("wasm "));
            }
            assert!(ask(None, Ipv4Addr::LOCALHOST, 8002).expect("answers").starts_with("wasm "));
            assert_eq!(ask(None, node, 8002), Err(ErrorKind::ConnectionRefused), "not asked for there");
            assert_eq!(ask(None, Ipv4Addr::LOCALHOST, 8003), Err(ErrorKind::ConnectionRefused));
            network.node_address()
        };
        all_answer(&network);
        // Services come and the network restarts: the ports stay, before and after the API was read.
        serve(&network, "web", vec![(frontend(vip(1), 80), to(&[b.ip]))]).await;
        all_answer(&network);
        drop(network);
        let network = open(&folder).await;
        all_answer(&network);
        serve(&network, "web", vec![(frontend(vip(1), 80), to(&[b.ip]))]).await;
        all_answer(&network);
        assert_eq!(network.wait_until_unrouted(a.ip, SOON).await, Routed::No, "nobody waits for them");
        network.detach("uid-a").await.expect("detached");
        assert_eq!(ask(None, node, 8001), Err(ErrorKind::ConnectionRefused));
        assert!(ask(None, Ipv4Addr::LOCALHOST, 8002).is_ok());
    });
}

#[test]
fn without_backends_connections_are_refused_at_once() {
    isolated(|folder| async move {
        let Cast { network, a, wasm, .. } = cast(&folder).await;
        serve(&network, "web", vec![(frontend(vip(1), 80), to(&[]))]).await;
        let start = Instant::now();
        for port in [80, 81] {
            assert_eq!(ask(None, vip(1), port), Err(ErrorKind::ConnectionRefused));
            assert_eq!(ask_in(&a, vip(1), port), Err(ErrorKind::ConnectionRefused));
            assert_eq!(ask_in(&wasm, vip(1), port), Err(ErrorKind::ConnectionRefused));
        }
        assert_eq!(ask(None, Ipv4Addr::LOCALHOST, 30080), Err(ErrorKind::ConnectionRefused));
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    });
}

#[test]
fn foreign_packets_do_not_reach_the_nodes_loopback() {
    isolated(|folder| async move {
        let network = open(&folder).await;
        let pod = network.attach_container_pod("uid").await.expect("attached");
        let target = Ipv4Addr::new(127, 0, 0, 9);
        greet_on(TcpListener::bind((target, PORT)).expect("listens"), "loopback");
        let attack = || {
            let mut inside = Socket::open(Family::Route).expect("opens");
            let eth0 = route::link_by_name(&mut inside, "eth0").expect("asked").expect("there").index;
            let lo = ["link", "set", "lo", "down"];
            assert!(std::process::Command::new("ip").args(lo).status().expect("ip runs").success());
            let settings = LinkSettings { alias: None, route_localnet: true };
            route::set_up(&mut inside, eth0, &settings).expect("set up");
            let gateway = RouteKind::Gateway(Ipv4Addr::new(169, 254, 1, 1));
            route::set_route(&mut inside, Cidr::host(target), eth0, gateway).expect("routed");
            connect_from(pod.ip, target, PORT).map(drop).map_err(|error| error.kind())
        };
        let attack = || namespace::enter(&pod.netns, attack).expect("entered");
        assert!(attack().is_err());
        // The same attempt gets through without the rules: it is them that stop it.
        nftables::delete_table(&mut Socket::open(Family::Netfilter).expect("opens"), TABLE).expect("deleted");
        assert_eq!(attack(), Ok(()));
    });
}

#[test]
fn a_restart_goes_on_and_interrupts_nothing() {
    isolated(|folder| async move {
        let Cast { network, a, b, wasm, .. } = cast(&folder).await;
        serve(&network, "web", vec![(frontend(vip(1), 80), to(&[b.ip, wasm.ip]))]).await;
        drop(network);
        let network = open(&folder).await;
        // Nothing was read from the API yet.
        for _ in 0..20 {
            assert!(ask(None, vip(1), 80).is_ok());
            assert!(ask_in(&wasm, vip(1), 80).is_ok());
        }
        assert_eq!(network.attach_container_pod("uid-a").await.expect("attached"), a);
        assert_eq!(network.attach_wasm_pod("uid-wasm", "default").await.expect("attached"), wasm);
        let fresh = network.attach_container_pod("uid-fresh").await.expect("attached");
        assert_eq!(fresh.ip, Ipv4Addr::new(10, 128, 0, 7), "no address is given twice");
        // What the API says now replaces what was there.
        serve(&network, "other", vec![(frontend(vip(2), 80), to(&[a.ip]))]).await;
        assert_eq!(ask_in(&wasm, vip(1), 80), Err(ErrorKind::ConnectionRefused));
        assert_eq!(ask_in(&wasm, vip(2), 80), Ok(format!("a {}", wasm.ip)));
        // A host that comes later has all rules before its first pod runs.
        let late = network.attach_wasm_pod("uid-late", "late").await.expect("attached");
        assert_eq!(ask_in(&late, vip(2), 80), Ok(format!("a {}", late.ip)));
    });
}

#[test]
fn rules_that_another_program_flushed_come_back() {
    isolated(|folder| async move {
        let Cast { network, a, wasm, .. } = cast(&folder).await;
        serve(&network, "web", vec![(frontend(vip(1), 80), to(&[a.ip]))]).await;
        nftables::delete_table(&mut Socket::open(Family::Netfilter).expect("opens"), TABLE).expect("deleted");
        assert!(ask(None, vip(1), 80).is_err());
        network.repair_rules().await.expect("mended");
        assert!(ask(None, vip(1), 80).is_ok());
        assert!(ask_in(&wasm, vip(1), 80).is_ok());
    });
}

#[test]
fn detached_and_dead_pods_leave_nothing() {
    isolated(|folder| async move {
        let Cast { network, a, b, wasm, other } = cast(&folder).await;
        network.detach("uid-a").await.expect("detached");
        network.detach("uid-a").await.expect("twice is fine");
        assert!(ask(None, a.ip, PORT).is_err());
        let live = HashSet::from(["uid-b".to_owned(), "uid-other".to_owned()]);
        assert_eq!(network.gc(&live).await.expect("collected"), 1);
        assert!(ask(None, wasm.ip, PORT).is_err());
        assert!(ask(None, b.ip, PORT).is_ok() && ask(None, other.ip, PORT).is_ok());
        assert!(network.attach_container_pod("a/b").await.is_err());
        network.release_domain("default").await.expect("released");
        assert!(!namespace::exists(&wasm.netns));
        drop(network);
        let torn = teardown_all(&folder).await.expect("torn down");
        assert!(torn.namespaces >= 1 && torn.links >= 1 && torn.routes >= 2, "{torn:?}");
        let mut socket = Socket::open(Family::Route).expect("opens");
        assert_eq!(route::our_routes(&mut socket).expect("listed"), []);
        let names: Vec<_> = route::links(&mut socket).expect("listed").into_iter().map(|l| l.name).collect();
        assert_eq!(names, ["lo"]);
        let mut netfilter = Socket::open(Family::Netfilter).expect("opens");
        assert_eq!(nftables::table_userdata(&mut netfilter, TABLE).expect("asked"), None);
        assert_eq!(teardown_all(&folder).await.expect("twice is fine"), crate::TornDown::default());
        assert_eq!(namespace::mounts_at_or_below(&folder).expect("listed"), [""; 0].map(PathBuf::from));
        let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").expect("read");
        assert_eq!(forwarding.trim(), "0");
    });
}

#[test]
fn an_attachment_that_fails_costs_no_address_and_no_namespace() {
    isolated(|folder| async move {
        let pod_range = "10.128.0.0/24".parse().expect("a range");
        let config =
            NetworkConfig { pool: 2, pod_range, ..NetworkConfig::new("here", folder.join("data"), &folder) };
        let network = Network::open(config).await.expect("the network opens");
        let namespaces = || std::fs::read_dir(folder.join("netns")).expect("listed").count();
        let records = folder.join("network/pods");
        let hosts = folder.join("network/hosts");
        for path in [&records, &hosts] {
            std::fs::remove_dir(path).expect("removed");
        }
        for attempt in 0..300 {
            let failed = network.attach_container_pod("uid").await.expect_err("no record can be written");
            assert!(failed.to_string().contains("network/pods"), "{attempt}: {failed}");
            let failed =
                network.attach_wasm_pod("uid", "default").await.expect_err("no record can be written");
            assert!(failed.to_string().contains("network/hosts"), "{attempt}: {failed}");
        }
        assert!(namespaces() <= 4, "{}", namespaces());
        for path in [&records, &hosts] {
            std::fs::create_dir(path).expect("made");
        }
        let pod = network.attach_container_pod("uid").await.expect("attached");
        greet(&pod.netns, pod.ip, "back");
        assert!(ask(None, pod.ip, PORT).is_ok());
        let wasm = network.attach_wasm_pod("uid-wasm", "default").await.expect("attached");
        greet(&wasm.netns, wasm.ip, "back");
        assert!(ask(None, wasm.ip, PORT).is_ok());
    });
}

#[test]
fn a_udp_client_moves_on_when_its_backend_is_gone() {
    isolated(|folder| async move {
        let Cast { network, a, b, wasm, .. } = cast(&folder).await;
        for (pod, greeting) in [(&a, "a"), (&b, "b")] {
            let socket = namespace::enter(&pod.netns, || UdpSocket::bind((pod.ip, PORT))).expect("entered");
            let socket = socket.expect("bound");
            std::thread::spawn(move || {
                let mut buffer = [0; 8];
                while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(greeting.as_bytes(), peer);
                }
            });
        }
        let udp = Frontend { address: vip(3), protocol: Protocol::Udp, port: 53 };
        let clients = [None, Some(&wasm)].map(|pod| {
            let bind = || UdpSocket::bind((pod.map_or(IpAddr::from([0; 4]), |pod| pod.ip.into()), 0));
            let socket = match pod {
                None => bind(),
                Some(pod) => namespace::enter(&pod.netns, bind).expect("entered"),
            };
            let socket = socket.expect("bound");
            socket.set_read_timeout(Some(SOON)).expect("set");
            socket
        });
        for (backend, greeting) in [(&a, "a"), (&b, "b"), (&a, "a")] {
            serve(&network, "dns", vec![(udp, to(&[backend.ip]))]).await;
            for client in &clients {
                let mut buffer = [0; 8];
                client.send_to(b"?", (vip(3), 53)).expect("sent");
                let (length, peer) = client.recv_from(&mut buffer).expect("answered");
                assert_eq!((&buffer[..length], peer.ip()), (greeting.as_bytes(), IpAddr::from(vip(3))));
            }
        }
    });
}

#[test]
fn callers_can_wait_for_the_rules() {
    isolated(|folder| async move {
        let Cast { network, a, b, .. } = cast(&folder).await;
        serve(&network, "web", vec![(frontend(vip(1), 80), to(&[a.ip, b.ip]))]).await;
        let short = Duration::from_millis(50);
        assert_eq!(network.wait_until_unrouted(a.ip, short).await, Routed::Yes);
        let waiting = {
            let (network, ip) = (network.clone(), a.ip);
            tokio::spawn(async move { network.wait_until_unrouted(ip, SOON).await })
        };
        let in_force = {
            let network = network.clone();
            tokio::spawn(async move { network.wait_in_force(77).await })
        };
        network
            .update_rules(vec![(name("web"), vec![(frontend(vip(1), 80), to(&[b.ip]))])], 77)
            .await
            .expect("changed");
        assert_eq!(waiting.await.expect("joined"), Routed::No);
        tokio::time::timeout(SOON, in_force).await.expect("in time").expect("joined");
        let last = Route { standing: Standing::LastResort, ..to(&[b.ip]) };
        serve(&network, "web", vec![(frontend(vip(1), 80), last)]).await;
        assert_eq!(network.wait_until_unrouted(b.ip, short).await, Routed::No);
    });
}

#[test]
fn listeners_are_made_where_they_are_wanted() {
    isolated(|folder| async move {
        let network = open(&folder).await;
        let pod = network.attach_wasm_pod("uid", "default").await.expect("attached");
        let listener = network.listen(&pod.netns, SocketAddr::from((pod.ip, 80))).await.expect("listens");
        greet_on(listener, "made");
        assert!(ask(None, pod.ip, 80).is_ok());
        let again = network.listen(&pod.netns, SocketAddr::from((pod.ip, 80))).await;
        assert!(format!("{}", again.expect_err("in use")).contains(&format!("{}:80", pod.ip)));
    });
}

#[test]
fn a_change_among_thirty_thousand_elements_is_cheap() {
    isolated(|folder| async move {
        let Cast { network, a, b, .. } = cast(&folder).await;
        let service = |n: u32, backends: &[Ipv4Addr]| {
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 16, 0).to_bits() + n);
            (name(&format!("s{n}")), vec![(frontend(address, 80), to(backends))])
        };
        let all = (0..10_000).map(|n| service(n, &[a.ip, b.ip])).collect();
        let start = Instant::now();
        network.update_rules(all, 1).await.expect("changed");
        println!("30,000 elements in force in two namespaces after {:?}", start.elapsed());
        let mut times = Vec::new();
        for n in 0..500 {
            let start = Instant::now();
            network.update_rules(vec![service(n, &[a.ip])], 2).await.expect("changed");
            times.push(start.elapsed());
        }
        times.sort_unstable();
        println!("one Service changed in both: p50 {:?}, p99 {:?}", times[250], times[495]);
        assert!(times[250] < Duration::from_millis(3), "{:?}", times[250]);
        assert_eq!(
            ask(None, Ipv4Addr::new(10, 96, 16, 0), 80).map(|g| g[..1].to_owned()),
            Ok("a".to_owned())
        );
    });
}
