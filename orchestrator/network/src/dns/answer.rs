//! A query and the table → the answer. Pure.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::table::{Entry, Member, Port, Table, dashed, undashed};
use crate::ipam::Cidr;
use crate::services::elements::Protocol;

/// Seconds that an answer may be kept: short, because endpoints come and go.
const TTL: u32 = 5;
/// The largest UDP answer that we send or announce: it fits every path without fragments.
const MOST_BYTES: u16 = 1232;

/// What this server is responsible for.
#[derive(Debug, Clone)]
pub(super) struct Zone {
    /// `cluster.local.`
    pub(super) domain: Name,
    /// Addresses of pods and of Services: their reverse names are ours.
    pub(super) ranges: [Cidr; 2],
}

/// What to do with a query.
#[derive(Debug, PartialEq)]
pub(super) enum Response {
    /// Send this.
    Reply(Message),
    /// Ask the servers of the host.
    Forward,
    /// Send this together with the addresses of the name that it points to.
    Follow(Message, Name),
}

/// What is known of a name.
enum Found {
    Records { answers: Vec<RData>, additionals: Vec<Record> },
    Alias(Name),
    NoData,
    NoName,
}

impl Found {
    fn data(answers: Vec<RData>) -> Self {
        if answers.is_empty() { Self::NoData } else { Self::Records { answers, additionals: Vec::new() } }
    }
}

/// Answers a query from the table. `turn` differs from call to call: it says which of several addresses
/// comes first.
pub(super) fn respond(zone: &Zone, table: &Table, request: &Message, turn: usize) -> Response {
    let mut reply = reply_to(request);
    let code = |reply: &mut Message, code| reply.metadata.response_code = code;
    let [query] = request.queries.as_slice() else {
        code(&mut reply, ResponseCode::FormErr);
        return Response::Reply(reply);
    };
    if request.metadata.op_code != OpCode::Query {
        code(&mut reply, ResponseCode::NotImp);
        return Response::Reply(reply);
    }
    if request.version() > 0 {
        code(&mut reply, ResponseCode::BADVERS);
        return Response::Reply(reply);
    }
    if query.query_class != DNSClass::IN {
        code(&mut reply, ResponseCode::Refused);
        return Response::Reply(reply);
    }
    let name = query.name.to_lowercase();
    let found = match (labels_below(&zone.domain, &name), address_of(&name)) {
        (Some(labels), _) => find(zone, table, &labels, query.query_type),
        (None, Some(address)) if zone.ranges.iter().any(|range| range.contains(address)) => {
            reverse(zone, table, address, query.query_type)
        }
        (None, _) => return Response::Forward,
    };
    reply.metadata.authoritative = true;
    match found {
        Found::Records { mut answers, additionals } => {
            let middle = turn % answers.len().max(1);
            answers.rotate_left(middle);
            let record = |data| Record::from_rdata(query.name.clone(), TTL, data);
            reply.answers = answers.into_iter().map(record).collect();
            reply.additionals = additionals;
        }
        Found::Alias(target) => {
            let data = RData::CNAME(CNAME(target.clone()));
            reply.answers = vec![Record::from_rdata(query.name.clone(), TTL, data)];
            if matches!(query.query_type, RecordType::A | RecordType::AAAA) {
                return Response::Follow(reply, target);
            }
        }
        Found::NoData => reply.authorities = vec![start_of_authority(&zone.domain)],
        Found::NoName => {
            code(&mut reply, ResponseCode::NXDomain);
            reply.authorities = vec![start_of_authority(&zone.domain)];
        }
    }
    Response::Reply(reply)
}

/// An empty answer to this request: same identity and question, EDNS where the client speaks it.
pub(super) fn reply_to(request: &Message) -> Message {
    let mut reply = Message::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&request.metadata);
    reply.metadata.recursion_available = true;
    reply.queries = request.queries.clone();
    reply.edns = request.edns.as_ref().map(|_| {
        let mut edns = Edns::new();
        edns.set_max_payload(MOST_BYTES).set_version(0);
        edns
    });
    reply
}

/// The answer as bytes, cut to what the client takes over UDP; then it is marked as cut, and asked again over
/// TCP. Addresses that fit are kept, for clients that never ask again.
pub(super) fn encode(mut reply: Message, request: &Message, transport: Transport) -> Vec<u8> {
    let limit = match transport {
        Transport::Udp => usize::from(request.max_payload().min(MOST_BYTES)),
        Transport::Tcp => usize::from(u16::MAX),
    };
    loop {
        let bytes = reply.to_vec().unwrap_or_default();
        if bytes.len() <= limit || (reply.answers.is_empty() && reply.additionals.is_empty()) {
            return bytes;
        }
        if reply.additionals.is_empty() {
            reply.metadata.truncation = true;
            reply.answers.truncate(reply.answers.len() * 3 / 4);
        } else {
            reply.additionals.clear();
        }
    }
}

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// One datagram.
    Udp,
    /// A stream of messages with their lengths.
    Tcp,
}

fn start_of_authority(domain: &Name) -> Record {
    let server = name_server(domain);
    let data = SOA::new(server, below(domain, &["hostmaster"]), 1, 7200, 1800, 86400, TTL);
    Record::from_rdata(domain.clone(), TTL, RData::SOA(data))
}

fn name_server(domain: &Name) -> Name {
    below(domain, &["ns", "dns"])
}

/// The name with these labels in front. Labels of Kubernetes always fit; one that does not is left out.
fn below(name: &Name, labels: &[&str]) -> Name {
    let add = |name: Name, label: &&str| name.prepend_label(*label).unwrap_or(name);
    labels.iter().rev().fold(name.clone(), add)
}

/// The labels of `name` in front of `domain`, the first first.
fn labels_below<'a>(domain: &Name, name: &'a Name) -> Option<Vec<&'a str>> {
    if !domain.zone_of(name) {
        return None;
    }
    let count = usize::from(name.num_labels() - domain.num_labels());
    // A label that is no text is nobody's name here.
    Some(name.iter().take(count).map(|label| std::str::from_utf8(label).unwrap_or("\0")).collect())
}

/// The address that a name in `in-addr.arpa` stands for.
fn address_of(name: &Name) -> Option<Ipv4Addr> {
    let labels: Vec<&[u8]> = name.iter().collect();
    let [d, c, b, a, b"in-addr", b"arpa"] = labels.as_slice() else { return None };
    let octet = |label: &[u8]| std::str::from_utf8(label).ok()?.parse::<u8>().ok();
    Some(Ipv4Addr::new(octet(a)?, octet(b)?, octet(c)?, octet(d)?))
}

fn find(zone: &Zone, table: &Table, labels: &[&str], kind: RecordType) -> Found {
    match *labels {
        [] => Found::data(match kind {
            RecordType::SOA => vec![start_of_authority(&zone.domain).data],
            RecordType::NS => vec![RData::NS(NS(name_server(&zone.domain)))],
            _ => Vec::new(),
        }),
        ["dns-version"] => Found::data(match kind {
            RecordType::TXT => vec![RData::TXT(TXT::new(vec!["1.1.0".to_owned()]))],
            _ => Vec::new(),
        }),
        ["svc" | "pod"] | [_, "pod"] => Found::NoData,
        [namespace, "svc"] if table.has_namespace(namespace) => Found::NoData,
        [address, _, "pod"] => match undashed(address) {
            Some(address) if zone.ranges[0].contains(address) => addresses([address], kind),
            _ => Found::NoName,
        },
        [service, namespace, "svc"] => {
            with(table, namespace, service, |entry| of_service(zone, (service, namespace), entry, kind))
        }
        [label, service, namespace, "svc"] => {
            with(table, namespace, service, |entry| below_service(label, entry, kind))
        }
        [port, protocol, service, namespace, "svc"] => with(table, namespace, service, |entry| {
            let protocol = protocol_of(protocol);
            let port = port.strip_prefix('_').filter(|port| !port.is_empty());
            match port.zip(protocol) {
                Some((port, protocol)) => {
                    let wanted = |p: &Port| p.name == port && p.protocol == protocol;
                    services(zone, (service, namespace), entry, kind, wanted)
                }
                None => Found::NoName,
            }
        }),
        _ => Found::NoName,
    }
}

fn with(table: &Table, namespace: &str, service: &str, found: impl FnOnce(&Entry) -> Found) -> Found {
    table.service(namespace, service).map_or(Found::NoName, found)
}

fn of_service(zone: &Zone, at: (&str, &str), entry: &Entry, kind: RecordType) -> Found {
    match entry {
        Entry::Alias(target) => match Name::from_ascii(target) {
            Ok(mut target) => {
                target.set_fqdn(true);
                Found::Alias(target)
            }
            Err(_) => Found::NoData,
        },
        // The specification asks for this, so that clients do not keep an empty answer.
        Entry::Members(members) if members.is_empty() => Found::NoName,
        _ if kind == RecordType::SRV => services(zone, at, entry, kind, |_| true),
        Entry::Address { address, .. } => addresses([*address], kind),
        Entry::Members(members) => {
            let mut all: Vec<_> = members.iter().map(|member| member.address).collect();
            all.sort_unstable();
            all.dedup();
            addresses(all, kind)
        }
    }
}

/// A name directly below a Service's: an endpoint of a headless one, or the empty name above its ports.
fn below_service(label: &str, entry: &Entry, kind: RecordType) -> Found {
    if let Some(protocol) = protocol_of(label) {
        let named = |ports: &[Port]| ports.iter().any(|p| p.protocol == protocol && !p.name.is_empty());
        let any = match entry {
            Entry::Address { ports, .. } => named(ports),
            Entry::Members(members) => members.iter().any(|member| named(&member.ports)),
            Entry::Alias(_) => false,
        };
        return if any { Found::NoData } else { Found::NoName };
    }
    let Entry::Members(members) = entry else { return Found::NoName };
    let found: Vec<_> = members.iter().filter(|m| m.label == label).map(|m| m.address).collect();
    if found.is_empty() { Found::NoName } else { addresses(found, kind) }
}

/// SRV records of the wanted ports, with the addresses of their targets.
fn services(
    zone: &Zone,
    (service, namespace): (&str, &str),
    entry: &Entry,
    kind: RecordType,
    wanted: impl Fn(&Port) -> bool,
) -> Found {
    let own = below(&zone.domain, &[service, namespace, "svc"]);
    let mut targets: Vec<(Name, Ipv4Addr, u16)> = Vec::new();
    let ports = |all: &[Port]| all.iter().filter(|port| wanted(port)).map(|p| p.number).collect::<Vec<_>>();
    match entry {
        Entry::Address { address, ports: all } => {
            targets.extend(ports(all).into_iter().map(|port| (own.clone(), *address, port)));
        }
        Entry::Members(members) => {
            let one = |m: &Member| {
                let name = below(&own, &[&m.label]);
                ports(&m.ports)
                    .into_iter()
                    .map(move |port| (name.clone(), m.address, port))
                    .collect::<Vec<_>>()
            };
            targets.extend(members.iter().flat_map(one));
        }
        Entry::Alias(_) => {}
    }
    if targets.is_empty() {
        return Found::NoName;
    }
    if kind != RecordType::SRV {
        return Found::NoData;
    }
    let weight = u16::try_from(100 / targets.len()).unwrap_or(1).max(1);
    let answers = targets.iter().map(|(name, _, port)| RData::SRV(SRV::new(0, weight, *port, name.clone())));
    let answers = answers.collect();
    targets.dedup_by(|a, b| a.0 == b.0);
    let address =
        |(name, address, _): (Name, Ipv4Addr, u16)| Record::from_rdata(name, TTL, RData::A(A(address)));
    Found::Records { answers, additionals: targets.into_iter().map(address).collect() }
}

fn reverse(zone: &Zone, table: &Table, address: Ipv4Addr, kind: RecordType) -> Found {
    let name = |name: &crate::model::Name, entry: &Entry| {
        let own = below(&zone.domain, &[&name.name, &name.namespace, "svc"]);
        match entry {
            Entry::Members(members) => {
                let member = members.iter().find(|member| member.address == address);
                let label = member.map_or_else(|| dashed(address), |member| member.label.clone());
                below(&own, &[&label])
            }
            Entry::Address { .. } | Entry::Alias(_) => own,
        }
    };
    let names: Vec<_> = table.at(address).map(|(at, entry)| name(at, entry)).collect();
    match kind {
        _ if names.is_empty() => Found::NoName,
        RecordType::PTR => Found::data(names.into_iter().map(|name| RData::PTR(PTR(name))).collect()),
        _ => Found::NoData,
    }
}

/// Addresses of version 4; asked for another kind the name exists without data.
fn addresses(all: impl IntoIterator<Item = Ipv4Addr>, kind: RecordType) -> Found {
    match kind {
        RecordType::A | RecordType::ANY => Found::data(all.into_iter().map(|a| RData::A(A(a))).collect()),
        _ => Found::NoData,
    }
}

fn protocol_of(label: &str) -> Option<Protocol> {
    match label {
        "_tcp" => Some(Protocol::Tcp),
        "_udp" => Some(Protocol::Udp),
        "_sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}
