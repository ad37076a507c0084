//! The table and its answers as values, and queries over loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use serde_json::json;

use super::answer::{Response, Transport, Zone, encode, respond};
use super::table::{Entry, Table};
use super::*;
use crate::model;

fn zone() -> Zone {
    let range = |text: &str| text.parse().unwrap();
    Zone {
        domain: Name::from_ascii("cluster.local.").unwrap(),
        ranges: [range("10.128.0.0/10"), range("10.96.0.0/16")],
    }
}

fn set(table: &mut Table, name: &str, spec: serde_json::Value, slices: &[serde_json::Value]) {
    let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    let service = model::Service::read(&serde_json::from_value(object).unwrap());
    let slices = slices.iter().map(|v| model::Slice::read(&serde_json::from_value(v.clone()).unwrap()));
    let slices: Vec<_> = slices.collect();
    let name = model::Name { namespace: "default".to_owned(), name: name.to_owned() };
    table.set(&name, Some(Entry::read(&service, slices.iter())));
}

fn slice(endpoints: serde_json::Value) -> serde_json::Value {
    json!({"metadata": {"name": "s", "namespace": "default"}, "addressType": "IPv4", "endpoints": endpoints,
           "ports": [{"name": "db", "protocol": "TCP", "port": 5432}]})
}

fn table() -> Table {
    let mut table = Table::default();
    let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    set(&mut table, "web", json!({"clusterIP": "10.96.0.7", "ports": ports}), &[]);
    let endpoints = slice(json!([
        {"addresses": ["10.128.0.5"], "hostname": "db-0"},
        {"addresses": ["10.128.0.6"]},
        {"addresses": ["10.128.0.7"], "conditions": {"ready": false}}]));
    set(&mut table, "db", json!({"clusterIP": "None"}), &[endpoints]);
    set(&mut table, "empty", json!({"clusterIP": "None"}), &[]);
    set(&mut table, "away", json!({"type": "ExternalName", "externalName": "example.org"}), &[]);
    table
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// The answer in one line: code, then the data of each record.
fn line(name: &str, kind: RecordType) -> String {
    match respond(&zone(), &table(), &query(name, kind), 0) {
        Response::Forward => "forward".to_owned(),
        Response::Follow(_, target) => format!("follow {target}"),
        Response::Reply(reply) => {
            assert_eq!(reply.authorities.is_empty(), !reply.answers.is_empty(), "SOA only without answers");
            let data = reply.answers.iter().map(|record| format!(" {}", record.data));
            format!("{:?}{}", reply.metadata.response_code, data.collect::<String>())
        }
    }
}

#[test]
fn the_table_of_names() {
    use RecordType::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
    for (name, kind, expected) in [
        ("web.default.svc.cluster.local.", A, "NoError 10.96.0.7"),
        ("WEB.Default.svc.CLUSTER.local.", A, "NoError 10.96.0.7"),
        ("web.default.svc.cluster.local.", AAAA, "NoError"),
        ("web.default.svc.cluster.local.", TXT, "NoError"),
        ("no.default.svc.cluster.local.", A, "NXDomain"),
        ("web.other.svc.cluster.local.", A, "NXDomain"),
        ("default.svc.cluster.local.", A, "NoError"),
        ("other.svc.cluster.local.", A, "NXDomain"),
        ("svc.cluster.local.", A, "NoError"),
        ("cluster.local.", A, "NoError"),
        (
            "cluster.local.",
            SOA,
            "NoError ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5",
        ),
        ("example.org.default.svc.cluster.local.", A, "NXDomain"),
        ("example.org.svc.cluster.local.", A, "NXDomain"),
        ("example.org.cluster.local.", A, "NXDomain"),
        ("example.org.", A, "forward"),
        ("cluster.local.example.org.", A, "forward"),
        ("dns-version.cluster.local.", TXT, "NoError 1.1.0"),
        ("db.default.svc.cluster.local.", A, "NoError 10.128.0.5 10.128.0.6"),
        ("db-0.db.default.svc.cluster.local.", A, "NoError 10.128.0.5"),
        ("db-0.db.default.svc.cluster.local.", AAAA, "NoError"),
        ("10-128-0-6.db.default.svc.cluster.local.", A, "NoError 10.128.0.6"),
        ("10-128-0-7.db.default.svc.cluster.local.", A, "NXDomain"),
        ("db-0.web.default.svc.cluster.local.", A, "NXDomain"),
        ("empty.default.svc.cluster.local.", A, "NXDomain"),
        ("10-128-0-99.default.pod.cluster.local.", A, "NoError 10.128.0.99"),
        ("1-1-1-1.default.pod.cluster.local.", A, "NXDomain"),
        ("_http._tcp.web.default.svc.cluster.local.", SRV, "NoError 0 100 80 web.default.svc.cluster.local."),
        ("_dns._udp.web.default.svc.cluster.local.", SRV, "NoError 0 100 53 web.default.svc.cluster.local."),
        ("_dns._tcp.web.default.svc.cluster.local.", SRV, "NXDomain"),
        ("_http._tcp.web.default.svc.cluster.local.", A, "NoError"),
        ("_tcp.web.default.svc.cluster.local.", SRV, "NoError"),
        (
            "_db._tcp.db.default.svc.cluster.local.",
            SRV,
            "NoError 0 50 5432 db-0.db.default.svc.cluster.local. 0 50 5432 10-128-0-6.db.default.svc.cluster.local.",
        ),
        ("away.default.svc.cluster.local.", A, "follow example.org."),
        ("away.default.svc.cluster.local.", CNAME, "NoError example.org."),
        ("7.0.96.10.in-addr.arpa.", PTR, "NoError web.default.svc.cluster.local."),
        ("5.0.128.10.in-addr.arpa.", PTR, "NoError db-0.db.default.svc.cluster.local."),
        ("99.0.128.10.in-addr.arpa.", PTR, "NXDomain"),
        ("1.1.1.1.in-addr.arpa.", PTR, "forward"),
    ] {
        assert_eq!(line(name, kind), expected, "{name} {kind}");
    }
}

fn reply(request: &Message) -> Message {
    match respond(&zone(), &table(), request, 0) {
        Response::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn odd_queries_get_the_code_they_deserve() {
    let name = "web.default.svc.cluster.local.";
    let mut two = query(name, RecordType::A);
    two.add_query(two.queries[0].clone());
    let mut update = query(name, RecordType::A);
    update.metadata.op_code = OpCode::Update;
    let mut version = query(name, RecordType::A);
    version.edns = Some(Edns::new());
    version.edns.as_mut().unwrap().set_version(1);
    for (request, code) in
        [(two, ResponseCode::FormErr), (update, ResponseCode::NotImp), (version, ResponseCode::BADVERS)]
    {
        let reply = reply(&request);
        assert_eq!((reply.metadata.response_code, reply.metadata.id), (code, request.metadata.id));
    }
}

#[test]
fn several_addresses_take_turns() {
    let request = query("db.default.svc.cluster.local.", RecordType::A);
    let first = |turn| match respond(&zone(), &table(), &request, turn) {
        Response::Reply(reply) => reply.answers[0].data.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!([first(0), first(1), first(2)], ["10.128.0.5", "10.128.0.6", "10.128.0.5"]);
}

#[test]
fn long_answers_are_cut_over_udp_only() {
    let endpoints: Vec<_> = (2..250).map(|n| json!({"addresses": [format!("10.128.0.{n}")]})).collect();
    let mut table = Table::default();
    set(&mut table, "big", json!({"clusterIP": "None"}), &[slice(json!(endpoints))]);
    let mut request = query("big.default.svc.cluster.local.", RecordType::A);
    let encoded = |request: &Message, transport| match respond(&zone(), &table, request, 0) {
        Response::Reply(reply) => encode(reply, request, transport),
        other => panic!("{other:?}"),
    };
    for (limit, edns) in [(512, None), (1232, Some(4096)), (800, Some(800))] {
        request.edns = edns.map(|size| {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            edns
        });
        let bytes = encoded(&request, Transport::Udp);
        let message = Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() <= limit && message.metadata.truncation && message.answers.len() > 5);
        assert_eq!(message.edns.is_some(), request.edns.is_some());
    }
    let message = Message::from_vec(&encoded(&request, Transport::Tcp)).unwrap();
    assert_eq!((message.answers.len(), message.metadata.truncation), (248, false));
}

#[test]
fn a_removed_service_leaves_nothing() {
    let mut table = table();
    for name in ["web", "db", "empty", "away"] {
        let name = model::Name { namespace: "default".to_owned(), name: name.to_owned() };
        table.set(&name, None);
    }
    assert!(!table.has_namespace("default"));
    assert_eq!(table.at(Ipv4Addr::new(10, 96, 0, 7)).count(), 0);
}

struct Running {
    address: SocketAddr,
    server: Arc<Server>,
    _tasks: JoinSet<()>,
}

/// A server on loopback, with the table or not yet, and these upstream servers.
fn start(upstreams: Vec<SocketAddr>) -> Running {
    let mut sockets = DnsSockets::default();
    while sockets.tcp.is_empty() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = std::net::TcpListener::bind(udp.local_addr().unwrap());
        if let Ok(tcp) = tcp {
            sockets = DnsSockets { udp: vec![udp], tcp: vec![tcp] };
        }
    }
    let address = sockets.udp[0].local_addr().unwrap();
    let server =
        Arc::new(Server::new(zone(), Forwarder::new(Upstreams::Servers(upstreams), vec![], zone().ranges)));
    let mut tasks = JoinSet::new();
    sockets.udp[0].set_nonblocking(true).unwrap();
    sockets.tcp[0].set_nonblocking(true).unwrap();
    let udp = tokio::net::UdpSocket::from_std(sockets.udp.remove(0)).unwrap();
    let tcp = tokio::net::TcpListener::from_std(sockets.tcp.remove(0)).unwrap();
    tasks.spawn(serve::datagrams(Arc::clone(&server), Arc::new(udp)));
    tasks.spawn(serve::streams(Arc::clone(&server), tcp));
    Running { address, server, _tasks: tasks }
}

fn fill(server: &Server) {
    let name = model::Name { namespace: "default".to_owned(), name: "web".to_owned() };
    let entry = Entry::Address { address: Ipv4Addr::new(10, 96, 0, 7), ports: vec![] };
    let alias = |from: &str, to: &str| {
        (model::Name { name: from.to_owned(), ..name.clone() }, Some(Entry::Alias(to.to_owned())))
    };
    let aliases = [
        alias("away", "far.example"),
        alias("further", "away.default.svc.cluster.local"),
        alias("near", "web.default.svc.cluster.local"),
        alias("circle", "circle.default.svc.cluster.local"),
        alias("nowhere", "no.default.svc.cluster.local"),
    ];
    // In one update: from the first one on, a name that is not known does not exist.
    server.update(aliases.into_iter().chain([(name, Some(entry))]));
}

async fn ask_udp(server: SocketAddr, request: Message) -> Message {
    tokio::task::spawn_blocking(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.send_to(&request.to_vec().unwrap(), server).unwrap();
        let mut buffer = [0; 4096];
        let (length, _) = socket.recv_from(&mut buffer).unwrap();
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(answer.metadata.id, request.metadata.id);
        answer
    })
    .await
    .unwrap()
}

async fn ask_tcp(server: SocketAddr, requests: Vec<Message>) -> Vec<Message> {
    use std::io::{Read, Write};
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(server).unwrap();
        let mut answer = |request: Message| {
            let bytes = request.to_vec().unwrap();
            stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
            stream.write_all(&bytes).unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut bytes).unwrap();
            Message::from_vec(&bytes).unwrap()
        };
        requests.into_iter().map(&mut answer).collect()
    })
    .await
    .unwrap()
}

/// An upstream server that says 192.0.2.1 to every question.
async fn upstream() -> SocketAddr {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let request = Message::from_vec(&buffer[..length]).unwrap();
            let mut reply = answer::reply_to(&request);
            let data = hickory_proto::rr::RData::A(hickory_proto::rr::rdata::A::new(192, 0, 2, 1));
            let name = request.queries[0].name.clone();
            reply.add_answer(hickory_proto::rr::Record::from_rdata(name, 60, data));
            socket.send_to(&reply.to_vec().unwrap(), peer).await.unwrap();
        }
    });
    address
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_over_loopback() {
    let running = start(vec![upstream().await]);
    let ours = || query("web.default.svc.cluster.local.", RecordType::A);
    // Before the API was read a query for a name of ours waits; others do not.
    let early = tokio::spawn(ask_udp(running.address, ours()));
    let other = ask_udp(running.address, query("host.example.", RecordType::A)).await;
    assert_eq!(data(&other), ["192.0.2.1"]);
    assert!(!early.is_finished());
    fill(&running.server);
    assert_eq!(data(&early.await.unwrap()), ["10.96.0.7"]);
    let answers = ask_tcp(running.address, vec![ours(), ours()]).await;
    assert_eq!(answers.iter().map(data).collect::<Vec<_>>(), [["10.96.0.7"], ["10.96.0.7"]]);
    let away = ask_udp(running.address, query("away.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(data(&away), ["far.example.", "192.0.2.1"]);
    for (name, code, expected) in [
        (
            "further",
            ResponseCode::NoError,
            &["away.default.svc.cluster.local.", "far.example.", "192.0.2.1"][..],
        ),
        ("near", ResponseCode::NoError, &["web.default.svc.cluster.local.", "10.96.0.7"]),
        ("nowhere", ResponseCode::NXDomain, &["no.default.svc.cluster.local."]),
        ("circle", ResponseCode::ServFail, &[]),
    ] {
        let name = format!("{name}.default.svc.cluster.local.");
        let answer = ask_udp(running.address, query(&name, RecordType::A)).await;
        assert_eq!(
            (answer.metadata.response_code, &data(&answer)[..]),
            (code, &expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
            "{name}"
        );
    }
    let start = Instant::now();
    for _ in 0..100 {
        ask_udp(running.address, ours()).await;
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?} for 100 queries", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_upstream_servers_foreign_names_fail() {
    let running = start(vec![]);
    fill(&running.server);
    let answer = ask_udp(running.address, query("host.example.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let ours = ask_udp(running.address, query("web.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(data(&ours), ["10.96.0.7"]);
}

#[test]
fn sockets_are_handed_over() {
    let made = DnsSockets::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    made.send(ours.as_fd()).unwrap();
    let received = DnsSockets::receive(theirs.as_fd()).unwrap();
    let addresses = |sockets: &DnsSockets| {
        let udp: Vec<_> = sockets.udp.iter().map(|s| s.local_addr().unwrap()).collect();
        let tcp: Vec<_> = sockets.tcp.iter().map(|s| s.local_addr().unwrap()).collect();
        (udp, tcp)
    };
    assert_eq!(addresses(&received), addresses(&made));
    drop(ours);
    assert!(DnsSockets::receive(theirs.as_fd()).is_err());
}
