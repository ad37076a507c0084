//! The fixed rules: written once per network namespace, they read everything that changes from data maps.
//! The decision and its measurements: `orchestrator/decisions/0003-service-rules.md`.

use std::net::Ipv4Addr;

use super::elements::{Choice, Chooser, Memory};
use crate::ipam::Cidr;
use crate::netlink::nftables::{
    Batch, Elements, Expression, Hook, Refusal, Register, Set, SetValue, Verdict,
};

/// Name of the one table that we make in a network namespace.
pub(crate) const TABLE: &str = "catamaran";

/// Bit of the packet mark that says: masquerade. It lives from prerouting to postrouting of one packet.
const MASQUERADE: u32 = 0x4000;
const LOOPBACK: Cidr = match Cidr::new(Ipv4Addr::new(127, 0, 0, 0), 8) {
    Some(range) => range,
    None => panic!("127.0.0.0/8 is a range"),
};

// Type numbers of the `nft` program, so that `nft list` shows elements readably; a concatenation has six bits
// for each part.
const MARK: u32 = 19;
const ADDRESS: u32 = 7;
const SERVICE: u32 = 13;
const FRONTEND: u32 = (ADDRESS << 12) | (12 << 6) | SERVICE;
const ADDRESS_AND_PORT: u32 = (ADDRESS << 6) | SERVICE;
const TWO_ADDRESSES: u32 = (ADDRESS << 6) | ADDRESS;

/// Frontend → chooser.
pub(crate) const FRONTENDS: Set = Set {
    name: "frontends",
    id: 1,
    key_length: 12,
    key_shown_as: FRONTEND,
    value: SetValue::Data { length: 4, shown_as: MARK },
    elements: Elements::Given,
};
/// Frontend and slot → backend.
pub(crate) const BACKENDS: Set = Set {
    name: "backends",
    id: 2,
    key_length: 16,
    key_shown_as: (FRONTEND << 6) | MARK,
    value: SetValue::Data { length: 8, shown_as: ADDRESS_AND_PORT },
    elements: Elements::Given,
};
/// Frontend and client → the backend that the client met last. The rules themselves write it.
const CLIENTS: Set = Set {
    name: "clients",
    id: 7,
    key_length: 16,
    key_shown_as: (FRONTEND << 6) | ADDRESS,
    value: SetValue::Data { length: 8, shown_as: ADDRESS_AND_PORT },
    elements: Elements::Learned { most: 65_536 },
};
/// Backends of frontends whose clients come back: frontend, four zero bytes, backend.
pub(crate) const MEMBERS: Set = Set {
    name: "members",
    id: 8,
    key_length: 24,
    key_shown_as: (((FRONTEND << 6) | MARK) << 12) | ADDRESS_AND_PORT,
    value: SetValue::Nothing,
    elements: Elements::Given,
};
/// Frontends whose connections are masqueraded.
pub(crate) const MASQUERADED: Set = Set {
    name: "masqueraded",
    id: 3,
    key_length: 12,
    key_shown_as: FRONTEND,
    value: SetValue::Nothing,
    elements: Elements::Given,
};
/// Source and destination of connections from a backend to itself.
pub(crate) const HAIRPINS: Set = Set {
    name: "hairpins",
    id: 4,
    key_length: 8,
    key_shown_as: TWO_ADDRESSES,
    value: SetValue::Nothing,
    elements: Elements::Given,
};
/// Chooser → chain, for frontends with an address of their own.
const CHOOSE_BY_ADDRESS: Set = Set {
    name: "choose-by-address",
    id: 5,
    key_length: 4,
    key_shown_as: MARK,
    value: SetValue::Verdict,
    elements: Elements::Given,
};
/// Chooser → chain, for frontends on every address of the node.
const CHOOSE_ON_NODE: Set = Set {
    name: "choose-on-node",
    id: 6,
    key_length: 4,
    key_shown_as: MARK,
    value: SetValue::Verdict,
    elements: Elements::Given,
};

/// Which namespace the rules are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The node's: pods' connections come in by prerouting, the node's own go out.
    Node {
        /// What masqueraded connections to pods seem to come from.
        address: Ipv4Addr,
    },
    /// One that wasm pods share: all connections are the namespace's own.
    WasmHost,
}

/// The two ranges that rules tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// All pods of the cluster.
    pub(crate) pods: Cidr,
    /// All ClusterIPs.
    pub(crate) services: Cidr,
}

/// Whether a frontend is known by the packet's destination or stands for the whole node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyAddress {
    Destination,
    AnyOfNode,
}

const KEY: Register = Register(0);
const SLOT: Register = Register(3);
/// Follows the frontend in the keys of `clients`.
const CLIENT: Register = SLOT;
const BACKEND: Register = Register(4);
const BACKEND_PORT: Register = Register(5);
const SCRATCH: Register = Register(8);

/// Writes sets, chains and rules into a table that has none.
pub(crate) fn write(batch: &mut Batch, role: Role, ranges: Ranges) {
    for set in [FRONTENDS, BACKENDS, CLIENTS, MEMBERS, MASQUERADED, HAIRPINS, CHOOSE_BY_ADDRESS] {
        batch.add_set(&set);
    }
    write_choosers(batch, KeyAddress::Destination);
    batch.add_chain("services", None);
    let mut rule = frontend_key(KeyAddress::Destination);
    rule.push(Expression::Map { set: FRONTENDS, key: KEY, into: SLOT });
    rule.push(Expression::VerdictMap { set: CHOOSE_BY_ADDRESS, key: SLOT });
    batch.add_rule("services", &rule);
    hook(batch, "nat-output", "nat", 3, -100);
    hook(batch, "filter-output", "filter", 3, 0);
    if let Role::Node { address } = role {
        batch.add_set(&CHOOSE_ON_NODE);
        write_choosers(batch, KeyAddress::AnyOfNode);
        write_node_ports(batch, ranges.pods);
        hook(batch, "nat-prerouting", "nat", 0, -100);
        batch.add_rule("nat-prerouting", &[Expression::Verdict(Verdict::Jump("services"))]);
        write_postrouting(batch, address, ranges.pods);
        write_loopback_guard(batch);
        hook(batch, "filter-forward", "filter", 2, 0);
        refuse(batch, "filter-forward", ranges.services);
    }
    batch.add_rule("nat-output", &[Expression::Verdict(Verdict::Jump("services"))]);
    refuse(batch, "filter-output", ranges.services);
}

/// One chain for each chooser: pick a slot, send the connection to its backend.
fn write_choosers(batch: &mut Batch, address: KeyAddress) {
    let (set, prefix) = match address {
        KeyAddress::Destination => (CHOOSE_BY_ADDRESS, "address"),
        KeyAddress::AnyOfNode => (CHOOSE_ON_NODE, "node"),
    };
    let mut verdicts = Vec::new();
    for chooser in Chooser::all() {
        let slots = chooser.slots();
        let chain = match chooser.choice() {
            Choice::Random => format!("{prefix}-random-{slots}"),
            Choice::ClientAddress(memory) => format!("{prefix}-client-{slots}-{}s", memory.seconds()),
        };
        batch.add_chain(&chain, None);
        match chooser.choice() {
            Choice::Random => {
                let mut rule = frontend_key(address);
                rule.push(Expression::Random { modulus: slots, into: SLOT });
                batch.add_rule(&chain, &to_slot(rule));
            }
            Choice::ClientAddress(memory) => write_sticky(batch, &chain, address, slots, memory),
        }
        // A change between the two look-ups of one packet can take its slot away; the first one always exists.
        let mut first = frontend_key(address);
        first.push(Expression::Immediate { into: SLOT, value: 0_u32.to_ne_bytes().to_vec() });
        batch.add_rule(&chain, &to_slot(first));
        verdicts.push((chooser.bytes().to_vec(), chain));
    }
    batch.add_verdicts(&set, &verdicts);
}

/// A client goes to the backend that it met last, if that still is one; else to one by a hash of its address,
/// which is remembered.
fn write_sticky(batch: &mut Batch, chain: &str, address: KeyAddress, slots: u32, memory: Memory) {
    let client = Expression::NetworkHeader { offset: 12, length: 4, into: CLIENT };
    let milliseconds = u64::from(memory.seconds()) * 1000;
    let remember = Expression::Learn { set: CLIENTS, key: KEY, value: BACKEND, milliseconds };
    let to_backend = Expression::DestinationNat { address: BACKEND, port: BACKEND_PORT };
    let mut again = frontend_key(address);
    again.extend([
        client.clone(),
        Expression::Map { set: CLIENTS, key: KEY, into: BACKEND },
        Expression::Immediate { into: CLIENT, value: vec![0; 4] },
        Expression::InSet { set: MEMBERS, key: KEY },
        client.clone(),
        remember.clone(),
        to_backend.clone(),
    ]);
    batch.add_rule(chain, &again);
    // What is remembered is not replaced by learning, only kept longer.
    let mut forget = frontend_key(address);
    forget.extend([
        client.clone(),
        Expression::Immediate { into: BACKEND, value: vec![0; 8] },
        Expression::Forget { set: CLIENTS, key: KEY, value: BACKEND },
    ]);
    batch.add_rule(chain, &forget);
    let hashed = || {
        let mut rule = frontend_key(address);
        rule.push(Expression::NetworkHeader { offset: 12, length: 4, into: SCRATCH });
        let (register, length, seed) = (SCRATCH, 4, 0);
        rule.push(Expression::Hash { register, length, modulus: slots, seed, into: SLOT });
        rule
    };
    let mut choose = hashed();
    choose.push(Expression::Map { set: BACKENDS, key: KEY, into: BACKEND });
    choose.extend([client, remember, to_backend]);
    batch.add_rule(chain, &choose);
    // Too many clients to remember.
    batch.add_rule(chain, &to_slot(hashed()));
}

fn to_slot(mut rule: Vec<Expression<'static>>) -> Vec<Expression<'static>> {
    rule.push(Expression::Map { set: BACKENDS, key: KEY, into: BACKEND });
    rule.push(Expression::DestinationNat { address: BACKEND, port: BACKEND_PORT });
    rule
}

/// Frontends on every address of the node, in the chain that all new connections pass.
fn write_node_ports(batch: &mut Batch, pods: Cidr) {
    let local = || {
        let mut rule = vec![
            Expression::DestinationKind { into: SCRATCH },
            Expression::Equal { register: SCRATCH, value: 2_u32.to_ne_bytes().to_vec() },
        ];
        rule.extend(frontend_key(KeyAddress::AnyOfNode));
        rule
    };
    let mark = |mut rule: Vec<Expression<'static>>| {
        rule.extend([
            Expression::Meta { key: 3, into: SCRATCH },
            Expression::Bitwise {
                register: SCRATCH,
                mask: (!MASQUERADE).to_ne_bytes(),
                xor: MASQUERADE.to_ne_bytes(),
            },
            Expression::SetMeta { key: 3, from: SCRATCH },
        ]);
        rule
    };
    let mut masqueraded = local();
    masqueraded.push(Expression::InSet { set: MASQUERADED, key: KEY });
    batch.add_rule("services", &mark(masqueraded));
    // A pod that goes by the node: its backend may share its namespace, which takes no packet from outside
    // with a source of its own.
    let mut from_pod = local();
    from_pod.push(Expression::Map { set: FRONTENDS, key: KEY, into: SLOT });
    from_pod.extend(within(12, pods));
    batch.add_rule("services", &mark(from_pod));
    let mut choose = local();
    choose.push(Expression::Map { set: FRONTENDS, key: KEY, into: SLOT });
    choose.push(Expression::VerdictMap { set: CHOOSE_ON_NODE, key: SLOT });
    batch.add_rule("services", &choose);
}

/// Source addresses: what must come back through this node gets one of its own.
fn write_postrouting(batch: &mut Batch, node: Ipv4Addr, pods: Cidr) {
    let chain = "nat-postrouting";
    hook(batch, chain, "nat", 4, 100);
    let as_node = |mut rule: Vec<Expression<'static>>| {
        rule.push(Expression::Immediate { into: SCRATCH, value: node.octets().to_vec() });
        rule.push(Expression::SourceNat { address: SCRATCH });
        rule
    };
    let marked = || {
        let (value, zero) = (MASQUERADE.to_ne_bytes(), [0; 4]);
        vec![
            Expression::Meta { key: 3, into: SCRATCH },
            Expression::Bitwise { register: SCRATCH, mask: value, xor: zero },
            Expression::Equal { register: SCRATCH, value: value.to_vec() },
        ]
    };
    let mut to_pod = marked();
    to_pod.extend(within(16, pods));
    batch.add_rule(chain, &as_node(to_pod));
    let mut elsewhere = marked();
    elsewhere.push(Expression::Masquerade);
    batch.add_rule(chain, &elsewhere);
    // A NodePort on 127.0.0.1 that keeps client addresses: this one no pod can answer.
    let mut from_loopback = vec![
        Expression::Conntrack { key: 2, into: SCRATCH },
        Expression::Bitwise { register: SCRATCH, mask: 0x20_u32.to_ne_bytes(), xor: [0; 4] },
        Expression::NotEqual { register: SCRATCH, value: vec![0; 4] },
    ];
    from_loopback.extend(within(12, LOOPBACK));
    batch.add_rule(chain, &as_node(from_loopback));
    let hairpin = vec![
        Expression::NetworkHeader { offset: 12, length: 8, into: KEY },
        Expression::InSet { set: HAIRPINS, key: KEY },
    ];
    batch.add_rule(chain, &as_node(hairpin));
    let mut leaving = within(12, pods);
    leaving.extend(outside(16, pods));
    leaving.push(Expression::Masquerade);
    batch.add_rule(chain, &leaving);
}

/// Our links let loopback addresses pass, for answers to NodePorts on 127.0.0.1; nothing else may use that.
fn write_loopback_guard(batch: &mut Batch) {
    let chain = "raw-prerouting";
    hook(batch, chain, "filter", 0, -300);
    for offset in [12, 16] {
        let mut rule = vec![
            Expression::Meta { key: 4, into: SCRATCH },
            Expression::NotEqual { register: SCRATCH, value: 1_u32.to_ne_bytes().to_vec() },
        ];
        rule.extend(within(offset, LOOPBACK));
        rule.push(Expression::Verdict(Verdict::Drop));
        batch.add_rule(chain, &rule);
    }
}

/// What still has a ClusterIP as destination found no backend. A reset reaches a TCP client at once; an ICMP
/// message that comes while it still sends is only taken at its next attempt, a second later.
fn refuse(batch: &mut Batch, chain: &str, services: Cidr) {
    let mut tcp = within(16, services);
    let mut other = tcp.clone();
    tcp.extend([
        Expression::Meta { key: 16, into: SCRATCH },
        Expression::Equal { register: SCRATCH, value: vec![6] },
        Expression::Reject(Refusal::TcpReset),
    ]);
    other.push(Expression::Reject(Refusal::PortUnreachable));
    batch.add_rule(chain, &tcp);
    batch.add_rule(chain, &other);
}

fn hook(batch: &mut Batch, chain: &str, kind: &'static str, number: u32, priority: i32) {
    batch.add_chain(chain, Some(Hook { kind, number, priority }));
}

/// Loads address, protocol and port into the three registers from `KEY` on.
fn frontend_key(address: KeyAddress) -> Vec<Expression<'static>> {
    let address = match address {
        KeyAddress::Destination => Expression::NetworkHeader { offset: 16, length: 4, into: KEY },
        KeyAddress::AnyOfNode => Expression::Immediate { into: KEY, value: vec![0; 4] },
    };
    let protocol = Expression::Meta { key: 16, into: Register(1) };
    vec![address, protocol, Expression::TransportHeader { offset: 2, length: 2, into: Register(2) }]
}

/// The address at this offset of the header (12 source, 16 destination) is in the range.
fn within(offset: u32, range: Cidr) -> Vec<Expression<'static>> {
    let value = range.first().octets().to_vec();
    masked(offset, range, Expression::Equal { register: SCRATCH, value })
}

fn outside(offset: u32, range: Cidr) -> Vec<Expression<'static>> {
    let value = range.first().octets().to_vec();
    masked(offset, range, Expression::NotEqual { register: SCRATCH, value })
}

fn masked(offset: u32, range: Cidr, compare: Expression<'static>) -> Vec<Expression<'static>> {
    let mask = range.mask().to_be_bytes();
    vec![
        Expression::NetworkHeader { offset, length: 4, into: SCRATCH },
        Expression::Bitwise { register: SCRATCH, mask, xor: [0; 4] },
        compare,
    ]
}

/// Says which rules a table holds, in the form in which `nft list` shows a comment.
pub(crate) fn fingerprint(role: Role, ranges: Ranges) -> Vec<u8> {
    let mut batch = Batch::new(TABLE);
    write(&mut batch, role, ranges);
    let hash = batch.bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let text = format!("Services, made by Catamaran; rules {hash:016x}\0");
    let length = u8::try_from(text.len()).expect("the text is short");
    [&[0, length], text.as_bytes()].concat()
}
