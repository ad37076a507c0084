//! The expressions of a rule, as attributes of netlink.

use super::super::message::Writer;
use super::{DATA_VALUE, DATA_VERDICT, FAMILY_IPV4, Set};

/// A 32-bit register. A value wider than that takes the following ones too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Register(pub(crate) u8);

impl Register {
    fn number(self) -> u32 {
        8 + u32::from(self.0)
    }
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
    pub(super) fn write(self, w: &mut Writer<'_>) {
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
    pub(super) fn name(&self) -> &'static str {
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

    pub(super) fn write(&self, w: &mut Writer<'_>) {
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

pub(super) fn pairs(w: &mut Writer<'_>, pairs: &[(u16, u32)]) {
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
