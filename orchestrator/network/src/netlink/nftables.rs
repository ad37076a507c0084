//! nf_tables: tables, chains, sets, rules and elements in atomic batches (`linux/netfilter/nf_tables.h`).
//! Numbers in attributes are in network order; data in registers is as the packet or the machine has it.

use rustix::io::Errno;

use super::message::Writer;
use super::{Attributes, Messages, NetlinkError, Socket};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const FAMILY_IPV4: u8 = 2;

const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;

const TABLE_NAME: u16 = 1;
const TABLE_USERDATA: u16 = 6;
const LIST_ELEMENT: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const SET_MAP: u32 = 8;
/// With time-outs, and written by rules.
const SET_LEARNED: u32 = 0x10 | 0x20;
/// How often the kernel takes out elements that have expired; until then nobody finds them.
const SWEEP_MILLISECONDS: u32 = 60_000;
const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
/// Elements in one message: an attribute holds at most 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// A 32-bit register. A value wider than that takes the following ones too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Register(pub(crate) u8);

impl Register {
    fn number(self) -> u32 {
        8 + u32::from(self.0)
    }
}

/// Where a base chain hooks in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    /// `filter` or `nat`.
    pub(crate) kind: &'static str,
    /// `NF_INET_*`.
    pub(crate) number: u32,
    /// Smaller comes first.
    pub(crate) priority: i32,
}

/// What the elements of a set carry.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SetValue {
    /// Nothing: a plain set.
    Nothing,
    /// Data of this many bytes, and the type that `nft list` shows it as.
    Data {
        /// Bytes.
        length: u32,
        /// Type number of the `nft` program.
        shown_as: u32,
    },
    /// A chain to go to.
    Verdict,
}

/// Who writes the elements of a set.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Elements {
    /// We do.
    Given,
    /// Rules do, and they expire; so many at most.
    Learned {
        /// Number of elements.
        most: u32,
    },
}

/// A set or map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Set {
    /// Its name in the table.
    pub(crate) name: &'static str,
    /// Number by which the rules of the same batch mean it.
    pub(crate) id: u32,
    /// Bytes of a key.
    pub(crate) key_length: u32,
    /// Type number of the `nft` program for the key.
    pub(crate) key_shown_as: u32,
    /// What an element carries.
    pub(crate) value: SetValue,
    /// Who writes them.
    pub(crate) elements: Elements,
}

/// Where a rule's evaluation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    /// The packet is dropped.
    Drop,
    /// Go on in this chain and come back.
    Jump(&'a str),
    /// Go on in this chain for good.
    Goto(&'a str),
}

impl Verdict<'_> {
    fn write(self, w: &mut Writer<'_>) {
        let (code, chain) = match self {
            Self::Drop => (0_i32, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
        };
        w.nest(DATA_VERDICT, |w| {
            w.be32(1, code.cast_unsigned());
            if let Some(chain) = chain {
                w.string(2, chain);
            }
        });
    }
}

/// How the sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// ICMP "port unreachable".
    PortUnreachable,
    /// A TCP reset, for TCP only.
    TcpReset,
}

/// One step of a rule.
#[derive(Debug, Clone)]
pub(crate) enum Expression<'a> {
    /// Bytes of the network header.
    NetworkHeader { offset: u32, length: u32, into: Register },
    /// Bytes of the transport header.
    TransportHeader { offset: u32, length: u32, into: Register },
    /// Packet metadata (`NFT_META_*`).
    Meta { key: u32, into: Register },
    /// Sets packet metadata.
    SetMeta { key: u32, from: Register },
    /// Connection tracking data (`NFT_CT_*`).
    Conntrack { key: u32, into: Register },
    /// Goes on only if equal.
    Equal { register: Register, value: Vec<u8> },
    /// Goes on only if not equal.
    NotEqual { register: Register, value: Vec<u8> },
    /// `(register & mask) ^ xor`, 4 bytes.
    Bitwise { register: Register, mask: [u8; 4], xor: [u8; 4] },
    /// A constant.
    Immediate { into: Register, value: Vec<u8> },
    /// Ends the rule.
    Verdict(Verdict<'a>),
    /// Goes on only if the key is in the set.
    InSet { set: Set, key: Register },
    /// Reads the element's data; goes on only if there is one.
    Map { set: Set, key: Register, into: Register },
    /// Follows the element's verdict; goes on if there is none.
    VerdictMap { set: Set, key: Register },
    /// Adds an element that expires. One that is there keeps its data and starts its time anew. Goes on only if
    /// there is room.
    Learn { set: Set, key: Register, value: Register, milliseconds: u64 },
    /// Removes an element; there being none is fine. The kernel wants to be given some value all the same.
    Forget { set: Set, key: Register, value: Register },
    /// A random number below the modulus.
    Random { modulus: u32, into: Register },
    /// A hash of `length` bytes, below the modulus.
    Hash { register: Register, length: u32, modulus: u32, seed: u32, into: Register },
    /// What kind of address the destination is (`RTN_*`).
    DestinationKind { into: Register },
    /// Changes the destination.
    DestinationNat { address: Register, port: Register },
    /// Changes the source address.
    SourceNat { address: Register },
    /// Changes the source address to the one of the outgoing link.
    Masquerade,
    /// Refuses the packet.
    Reject(Refusal),
}

impl Expression<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::NetworkHeader { .. } | Self::TransportHeader { .. } => "payload",
            Self::Meta { .. } | Self::SetMeta { .. } => "meta",
            Self::Conntrack { .. } => "ct",
            Self::Equal { .. } | Self::NotEqual { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::InSet { .. } | Self::Map { .. } | Self::VerdictMap { .. } => "lookup",
            Self::Learn { .. } | Self::Forget { .. } => "dynset",
            Self::Random { .. } => "numgen",
            Self::Hash { .. } => "hash",
            Self::DestinationKind { .. } => "fib",
            Self::DestinationNat { .. } | Self::SourceNat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Reject(_) => "reject",
        }
    }

    fn write(&self, w: &mut Writer<'_>) {
        match self {
            Self::NetworkHeader { offset, length, into } => payload(w, 1, *offset, *length, *into),
            Self::TransportHeader { offset, length, into } => payload(w, 2, *offset, *length, *into),
            Self::Meta { key, into } => pairs(w, &[(1, into.number()), (2, *key)]),
            Self::SetMeta { key, from } => pairs(w, &[(2, *key), (3, from.number())]),
            Self::Conntrack { key, into } => pairs(w, &[(1, into.number()), (2, *key)]),
            Self::Equal { register, value } => compare(w, *register, 0, value),
            Self::NotEqual { register, value } => compare(w, *register, 1, value),
            Self::Bitwise { register, mask, xor } => {
                pairs(w, &[(1, register.number()), (2, register.number()), (3, 4)]);
                w.nest(4, |w| w.bytes(DATA_VALUE, mask));
                w.nest(5, |w| w.bytes(DATA_VALUE, xor));
            }
            Self::Immediate { into, value } => {
                w.be32(1, into.number());
                w.nest(2, |w| w.bytes(DATA_VALUE, value));
            }
            Self::Verdict(verdict) => {
                w.be32(1, 0);
                w.nest(2, |w| verdict.write(w));
            }
            Self::InSet { set, key } => lookup(w, set, *key, None),
            Self::Map { set, key, into } => lookup(w, set, *key, Some(into.number())),
            Self::VerdictMap { set, key } => lookup(w, set, *key, Some(0)),
            Self::Learn { set, key, value, milliseconds } => {
                w.string(1, set.name);
                pairs(w, &[(2, set.id), (3, 1), (4, key.number()), (5, value.number())]);
                w.bytes(6, &milliseconds.to_be_bytes());
            }
            Self::Forget { set, key, value } => {
                w.string(1, set.name);
                pairs(w, &[(2, set.id), (3, 2), (4, key.number()), (5, value.number())]);
            }
            Self::Random { modulus, into } => pairs(w, &[(1, into.number()), (2, *modulus), (3, 1)]),
            Self::Hash { register, length, modulus, seed, into } => pairs(
                w,
                &[
                    (1, register.number()),
                    (2, into.number()),
                    (3, *length),
                    (4, *modulus),
                    (5, *seed),
                    (7, 0),
                ],
            ),
            Self::DestinationKind { into } => pairs(w, &[(1, into.number()), (2, 3), (3, 2)]),
            Self::DestinationNat { address, port } => {
                pairs(w, &[(1, 1), (2, u32::from(FAMILY_IPV4)), (3, address.number()), (5, port.number())]);
            }
            Self::SourceNat { address } => {
                pairs(w, &[(1, 0), (2, u32::from(FAMILY_IPV4)), (3, address.number())]);
            }
            Self::Masquerade => {}
            Self::Reject(Refusal::PortUnreachable) => {
                w.be32(1, 0);
                w.bytes(2, &[3]);
            }
            Self::Reject(Refusal::TcpReset) => w.be32(1, 1),
        }
    }
}

fn pairs(w: &mut Writer<'_>, pairs: &[(u16, u32)]) {
    for (kind, value) in pairs {
        w.be32(*kind, *value);
    }
}

fn payload(w: &mut Writer<'_>, base: u32, offset: u32, length: u32, into: Register) {
    pairs(w, &[(1, into.number()), (2, base), (3, offset), (4, length)]);
}

fn compare(w: &mut Writer<'_>, register: Register, operation: u32, value: &[u8]) {
    pairs(w, &[(1, register.number()), (2, operation)]);
    w.nest(3, |w| w.bytes(DATA_VALUE, value));
}

fn lookup(w: &mut Writer<'_>, set: &Set, key: Register, into: Option<u32>) {
    w.string(1, set.name);
    w.be32(2, key.number());
    if let Some(into) = into {
        w.be32(3, into);
    }
    w.be32(4, set.id);
}

/// Key and data of an element.
pub(crate) type Element = (Vec<u8>, Vec<u8>);

/// Changes that come into force together or not at all. All of them are in the `ip` family.
pub(crate) struct Batch {
    messages: Messages,
    table: &'static str,
}

impl Batch {
    /// An empty batch for one table.
    pub(crate) fn new(table: &'static str) -> Self {
        let mut messages = Messages::new();
        messages.push(BATCH_BEGIN, REQUEST, &[0, 0, 0, 10], |_| {});
        Self { messages, table }
    }

    /// The bytes so far, for a fingerprint of a rule set.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.messages.bytes()
    }

    /// True if nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.count() == 1
    }

    /// Makes the table; there already is fine, its userdata stays as it is then.
    pub(crate) fn add_table(&mut self, userdata: &[u8]) {
        let table = self.table;
        self.push(NEW_TABLE, CREATE, |w| {
            w.string(TABLE_NAME, table);
            w.be32(2, 0);
            if !userdata.is_empty() {
                w.bytes(TABLE_USERDATA, userdata);
            }
        });
    }

    /// Deletes the table and all in it; it must exist.
    pub(crate) fn delete_table(&mut self) {
        let table = self.table;
        self.push(DELETE_TABLE, 0, |w| w.string(TABLE_NAME, table));
    }

    /// Makes a chain; with a hook it is a base chain that accepts by default.
    pub(crate) fn add_chain(&mut self, name: &str, hook: Option<Hook>) {
        let table = self.table;
        self.push(NEW_CHAIN, CREATE, |w| {
            w.string(1, table);
            w.string(3, name);
            if let Some(hook) = hook {
                w.nest(4, |w| {
                    w.be32(1, hook.number);
                    w.be32(2, hook.priority.cast_unsigned());
                });
                w.be32(5, 1);
                w.string(7, hook.kind);
            }
        });
    }

    /// Makes a set or map.
    pub(crate) fn add_set(&mut self, set: &Set) {
        let table = self.table;
        self.push(NEW_SET, CREATE, |w| {
            w.string(1, table);
            w.string(2, set.name);
            let map = if matches!(set.value, SetValue::Nothing) { 0 } else { SET_MAP };
            let learned = if matches!(set.elements, Elements::Learned { .. }) { SET_LEARNED } else { 0 };
            w.be32(3, map | learned);
            w.be32(4, set.key_shown_as);
            w.be32(5, set.key_length);
            match set.value {
                SetValue::Nothing => {}
                SetValue::Data { length, shown_as } => pairs(w, &[(6, shown_as), (7, length)]),
                SetValue::Verdict => w.be32(6, DATA_TYPE_VERDICT),
            }
            w.be32(10, set.id);
            if let Elements::Learned { most } = set.elements {
                w.nest(9, |w| w.be32(1, most));
                w.be32(12, SWEEP_MILLISECONDS);
            }
        });
    }

    /// Appends a rule to a chain.
    pub(crate) fn add_rule(&mut self, chain: &str, expressions: &[Expression<'_>]) {
        let table = self.table;
        self.push(NEW_RULE, CREATE | APPEND, |w| {
            w.string(1, table);
            w.string(2, chain);
            w.nest(4, |w| {
                for expression in expressions {
                    w.nest(LIST_ELEMENT, |w| {
                        w.string(1, expression.name());
                        w.nest(2, |w| expression.write(w));
                    });
                }
            });
        });
    }

    /// Adds elements with their data (empty for a plain set). An equal element there already is fine, one
    /// with other data is refused (`EEXIST`).
    pub(crate) fn add_elements(&mut self, set: &Set, elements: &[Element]) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push_elements(NEW_ELEMENT, CREATE, set, chunk, |(key, value), w| {
                w.nest(1, |w| w.bytes(DATA_VALUE, key));
                if !value.is_empty() {
                    w.nest(2, |w| w.bytes(DATA_VALUE, value));
                }
            });
        }
    }

    /// Adds elements that lead to chains.
    pub(crate) fn add_verdicts(&mut self, set: &Set, elements: &[(Vec<u8>, String)]) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push_elements(NEW_ELEMENT, CREATE, set, chunk, |(key, chain), w| {
                w.nest(1, |w| w.bytes(DATA_VALUE, key));
                w.nest(2, |w| Verdict::Goto(chain).write(w));
            });
        }
    }

    /// Deletes elements; they must exist.
    pub(crate) fn delete_elements(&mut self, set: &Set, keys: &[Vec<u8>]) {
        for chunk in keys.chunks(ELEMENTS_PER_MESSAGE) {
            self.push_elements(DELETE_ELEMENT, 0, set, chunk, |key, w| {
                w.nest(1, |w| w.bytes(DATA_VALUE, key));
            });
        }
    }

    /// Puts the batch into force.
    pub(crate) fn commit(mut self, socket: &mut Socket) -> Result<(), NetlinkError> {
        if self.is_empty() {
            return Ok(());
        }
        self.messages.flag_last(ACK);
        self.messages.push(BATCH_END, REQUEST, &[0, 0, 0, 10], |_| {});
        socket.transaction(self.messages)
    }

    fn push_elements<T>(
        &mut self,
        kind: u16,
        flags: u16,
        set: &Set,
        elements: &[T],
        write: impl Fn(&T, &mut Writer<'_>),
    ) {
        let table = self.table;
        self.push(kind, flags, |w| {
            w.string(1, table);
            w.string(2, set.name);
            w.be32(4, set.id);
            w.nest(3, |w| {
                for element in elements {
                    w.nest(LIST_ELEMENT, |w| write(element, w));
                }
            });
        });
    }

    fn push(&mut self, kind: u16, flags: u16, attributes: impl FnOnce(&mut Writer<'_>)) {
        self.messages.push(SUBSYSTEM << 8 | kind, REQUEST | flags, &[FAMILY_IPV4, 0, 0, 0], attributes);
    }
}

/// The userdata of a table, empty where it carries none; `None` where there is no such table.
pub(crate) fn table_userdata(socket: &mut Socket, table: &str) -> Result<Option<Vec<u8>>, NetlinkError> {
    let mut messages = Messages::new();
    messages.push(SUBSYSTEM << 8 | GET_TABLE, REQUEST | ACK, &[FAMILY_IPV4, 0, 0, 0], |w| {
        w.string(TABLE_NAME, table);
    });
    let mut found = None;
    let answer = socket.dump(messages, |_, payload| {
        let attributes = Attributes::after(payload, 4);
        found = Some(attributes.get(TABLE_USERDATA).unwrap_or(&[]).to_vec());
    });
    match answer {
        Ok(()) => Ok(found),
        Err(error) if error.is(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every element (key, data) of a set.
pub(crate) fn elements(socket: &mut Socket, table: &str, set: &str) -> Result<Vec<Element>, NetlinkError> {
    let mut messages = Messages::new();
    messages.push(SUBSYSTEM << 8 | GET_ELEMENT, REQUEST | DUMP, &[FAMILY_IPV4, 0, 0, 0], |w| {
        w.string(1, table);
        w.string(2, set);
    });
    let mut found = Vec::new();
    socket.dump(messages, |_, payload| {
        for (_, element) in Attributes::after(payload, 4).nested(3).into_iter().flatten() {
            let element = Attributes::after(element, 0);
            let value = |kind| element.nested(kind).and_then(|data| data.get(DATA_VALUE)).map(<[u8]>::to_vec);
            found.extend(value(1).map(|key| (key, value(2).unwrap_or_default())));
        }
    })?;
    Ok(found)
}

/// Deletes a table; absent is fine.
pub(crate) fn delete_table(socket: &mut Socket, table: &'static str) -> Result<(), NetlinkError> {
    let mut batch = Batch::new(table);
    batch.delete_table();
    match batch.commit(socket) {
        Err(error) if error.is(Errno::NOENT) => Ok(()),
        other => other,
    }
}
