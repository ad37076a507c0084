//! Addresses, names and outgoing calls of guests, on loopback addresses that stand for pods.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::common::*;
use catamaran_shim_wasm::Isolation;
use catamaran_task::spec::{Outbound, Resolvers};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wildcard_and_loopback_binds_are_the_pods_own_address() {
    let (host, _) = host(Isolation::Shared);
    for (id, bind) in [("any", "0.0.0.0:7000"), ("loopback", "127.0.0.1:7000")] {
        let mut given = Given::new(id, &guest("tcp"), &["tcp", "serve", bind]);
        let ip = given.wasm().pod_ip;
        up(&host, &given).await;
        let mut stream = connect(SocketAddr::from((ip, 7000))).await;
        stream.write_all(b"ping").await.unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"ping");
        assert_eq!(given.stdout(), format!("listening on {ip}:7000\n"));
        // Nobody else's address answers: both guests have port 7000.
        assert!(tokio::net::TcpStream::connect("127.0.0.1:7000").await.is_err());
    }
}

async fn connect(address: SocketAddr) -> tokio::net::TcpStream {
    for _ in 0..100 {
        if let Ok(stream) = tokio::net::TcpStream::connect(address).await {
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody listens on {address}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_reaches_itself_by_loopback_but_no_other() {
    let (host, _) = host(Isolation::Shared);
    let given = Given::new("self", &guest("tcp"), &["tcp", "pair", "127.0.0.1:7100", "to myself"]);
    let exit = run(&host, &given).await;
    assert_eq!(exit.code, 0, "{}", given.log());
    assert!(given.stdout().contains("to myself"));
    // A service of the node on loopback is out of reach, whatever the policy.
    let node = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut given =
        Given::new("node", &guest("tcp"), &["tcp", "call", &node.local_addr().unwrap().to_string(), "x"]);
    given.wasm().outbound = Outbound::All;
    assert_ne!(run(&host, &given).await.code, 0);
}

/// The tests' pods have loopback addresses, which only a solo guest may reach: the policy for
/// ranges is tested there, confinement above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_come_from_the_pods_address() {
    let (host, _) = host(Isolation::Shared);
    let server = tokio::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    let mut given = Given::new("source", &guest("fetch"), &[]);
    let ip = given.wasm().pod_ip;
    let port = server.local_addr().unwrap().port();
    up(&host, &given).await;
    // To its own address on another port: allowed always, and it shows the source.
    let caller = tokio::spawn(get(given.address(), format!("/fetch?url=http://{ip}:{port}/x")));
    let (mut stream, from) =
        tokio::time::timeout(Duration::from_secs(5), server.accept()).await.unwrap().unwrap();
    assert_eq!(from.ip(), ip);
    let mut request = vec![0; 1024];
    let length = stream.read(&mut request).await.unwrap();
    assert!(request[..length].starts_with(b"GET /x HTTP/1.1"));
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback").await.unwrap();
    assert_eq!(caller.await.unwrap().body, "back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outgoing_http_is_refused_unless_granted() {
    let (host, _) = host(Isolation::Shared);
    let given = Given::new("denied", &guest("fetch"), &[]);
    up(&host, &given).await;
    for url in ["http://192.0.2.1/", "http://example.com/", "http://127.0.0.1:1/"] {
        let answer = get(given.address(), format!("/fetch?url={url}")).await;
        assert_eq!(answer.status, 502, "{url}: {}", answer.body);
    }
    // The refusal can come before the guest has ended its request's empty body; its library then tells of a broken
    // connection, and not of the reason.
    let mut said = String::new();
    for _ in 0..20 {
        said = get(given.address(), "/fetch?url=http://192.0.2.1/").await.body;
        if said.contains("Prohibited") {
            return;
        }
    }
    panic!("the reason was never told: {said}");
}

/// A name server on a loopback address, which knows one name.
async fn name_server(ip: Ipv4Addr, name: &'static str, address: Ipv4Addr) {
    let socket = tokio::net::UdpSocket::bind((ip, 53)).await.unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut packet).await {
            let question = &packet[..length];
            let mut wire: Vec<u8> = Vec::new();
            for label in name.split('.') {
                wire.push(label.len() as u8);
                wire.extend_from_slice(label.as_bytes());
            }
            let known = question[12..].starts_with(&wire);
            let mut answer = question.to_vec();
            answer[2..4].copy_from_slice(if known { &[0x81, 0x80] } else { &[0x81, 0x83] });
            if known {
                answer[7] = 1;
                answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
                answer.extend_from_slice(&address.octets());
            }
            socket.send_to(&answer, from).await.unwrap();
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_asked_of_the_pods_servers_with_its_search_domains() {
    let server = pod_ip();
    let found = Ipv4Addr::new(10, 96, 7, 7);
    name_server(server, "hello.default.svc.cluster.local", found).await;
    let (host, _) = host(Isolation::Shared);
    let resolvers = Resolvers {
        nameservers: vec![server],
        search: vec!["default.svc.cluster.local".into(), "svc.cluster.local".into()],
        ndots: 5,
        ..Resolvers::default()
    };
    let lookup = |id: &str, name: &str, outbound: Outbound| {
        let mut given = Given::new(id, &guest("tcp"), &["tcp", "lookup", name]);
        given.wasm().resolvers = resolvers.clone();
        given.wasm().outbound = outbound;
        given
    };
    let given = lookup("short", "hello", Outbound::All);
    assert_eq!(run(&host, &given).await.code, 0, "{}", given.log());
    assert!(given.stdout().contains("(10, 96, 7, 7)"), "{}", given.log());
    let given = lookup("unknown", "nobody", Outbound::All);
    assert_ne!(run(&host, &given).await.code, 0);
    assert!(given.log().contains("name-unresolvable"), "{}", given.log());
    let given = lookup("not-granted", "hello", Outbound::None);
    assert_ne!(run(&host, &given).await.code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wasm_pod_calls_another_by_name() {
    let (host, _) = host(Isolation::Solo);
    let backend = std::net::TcpListener::bind((pod_ip(), 0)).unwrap();
    let address = backend.local_addr().unwrap();
    let SocketAddr::V4(v4) = address else { unreachable!() };
    let server = pod_ip();
    name_server(server, "hello.default.svc.cluster.local", *v4.ip()).await;
    backend.set_nonblocking(true).unwrap();
    let backend = tokio::net::TcpListener::from_std(backend).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = backend.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
        }
    });
    let mut given = Given::new("caller", &guest("fetch"), &[]);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let wasm = given.wasm();
    wasm.pod_ip = Ipv4Addr::LOCALHOST;
    wasm.http_ports = vec![free];
    wasm.outbound = Outbound::All;
    wasm.resolvers = Resolvers {
        nameservers: vec![server],
        search: vec!["default.svc.cluster.local".into()],
        ndots: 5,
        ..Resolvers::default()
    };
    up(&host, &given).await;
    let port = address.port();
    for _ in 0..2 {
        let answer = get(given.address(), format!("/fetch?url=http://hello:{port}/")).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    }
}
