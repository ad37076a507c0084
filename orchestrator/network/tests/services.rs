//! From objects of the API to packets and names: the watchers, the plan and the kernel together.

mod fake_api;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use catamaran_network::{
    DnsConfig, DnsSockets, Network, NetworkConfig, Routed, Upstreams, run_dns, run_services,
};
use fake_api::{FakeApi, SERVICES, SLICES, isolated, service, slice};

const SOON: Duration = Duration::from_secs(5);

fn ask(address: &str) -> Result<String, ErrorKind> {
    let connect = || {
        let address: SocketAddr = address.parse().expect("an address");
        let mut stream = TcpStream::connect_timeout(&address, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    connect().map_err(|error: std::io::Error| error.kind())
}

async fn greet(network: &Network, uid: &str) -> String {
    let pod = network.attach_wasm_pod(uid, "default").await.expect("attached");
    let listener = network.listen(&pod.netns, SocketAddr::from((pod.ip, 8080))).await.expect("listens");
    let name = uid.to_owned();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(name.as_bytes());
        }
    });
    pod.ip.to_string()
}

#[test]
fn events_become_rules() {
    isolated(|folder| async move {
        let api = FakeApi::default();
        let network =
            Network::open(NetworkConfig::new("n", folder.join("data"), &folder)).await.expect("opens");
        let (old, new) = (greet(&network, "old").await, greet(&network, "new").await);
        api.list(SERVICES, service("web", "10.96.0.50"));
        api.list(SLICES, slice("web", 7, std::slice::from_ref(&old)));
        let run = tokio::spawn(run_services(api.client(), network.clone(), std::future::pending()));
        let in_force = |revision| tokio::time::timeout(SOON, network.wait_in_force(revision));
        in_force(7).await.expect("the list is in force");
        assert_eq!(ask("10.96.0.50:80"), Ok("old".to_owned()));
        let address: Ipv4Addr = old.parse().expect("an address");
        assert_eq!(network.wait_until_unrouted(address, Duration::ZERO).await, Routed::Yes);
        api.send(SLICES, "MODIFIED", &slice("web", 8, &[new])).await;
        assert_eq!(network.wait_until_unrouted(address, SOON).await, Routed::No);
        assert_eq!(ask("10.96.0.50:80"), Ok("new".to_owned()));
        api.send(SLICES, "DELETED", &slice("web", 9, &[])).await;
        in_force(9).await.expect("the deletion is in force");
        assert_eq!(ask("10.96.0.50:80"), Err(ErrorKind::ConnectionRefused));
        run.abort();
    });
}

#[test]
fn names_are_answered_at_the_cluster_address() {
    isolated(|folder| async move {
        let api = FakeApi::default();
        api.list(SERVICES, service("web", "10.96.0.50"));
        let config = NetworkConfig::new("n", folder.join("data"), &folder);
        let (pod_range, service_range) = (config.pod_range, config.service_range);
        // The sockets exist before the node address does.
        let sockets = DnsSockets::bind(&["10.128.0.1:53".parse().expect("an address")]).expect("bound");
        let network = Network::open(config).await.expect("opens");
        let config = DnsConfig {
            client: api.client(),
            sockets,
            domain: "cluster.local".to_owned(),
            pod_range,
            service_range,
            upstreams: Upstreams::Servers(vec![]),
        };
        let dns = tokio::spawn(run_dns(config, std::future::pending()));
        let answer = tokio::task::spawn_blocking(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bound");
            socket.set_read_timeout(Some(SOON)).expect("set");
            let name = b"\x03web\x07default\x03svc\x07cluster\x05local\0\0\x01\0\x01";
            let query = [&[0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name].concat();
            socket.send_to(&query, "10.96.0.10:53").expect("sent");
            let mut buffer = [0; 512];
            let (length, _) = socket.recv_from(&mut buffer).expect("answered");
            buffer[..length].to_vec()
        });
        let answer = answer.await.expect("joined");
        assert_eq!((&answer[..2], &answer[answer.len() - 4..]), (&[0xab, 0xcd][..], &[10, 96, 0, 50][..]));
        dns.abort();
        drop(network);
    });
}
