//! Netlink messages as bytes: a writer for requests and a reader of attributes (`linux/netlink.h`).

use std::net::Ipv4Addr;

/// Size of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that are not flags.
const TYPE_MASK: u16 = 0x3fff;

/// Request messages back to back, as one `send` takes them.
#[derive(Default, Clone)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
    count: u32,
}

impl Messages {
    /// No message yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Number of messages written.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The bytes; sequence numbers count from zero until the socket sets them.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds one message: type, `NLM_F_*` flags, the fixed part, then what `attributes` writes.
    pub(crate) fn push(
        &mut self,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        attributes: impl FnOnce(&mut Writer<'_>),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.count.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        pad(&mut self.bytes);
        attributes(&mut Writer { bytes: &mut self.bytes });
        let length = length_u32(self.bytes.len() - start);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.count += 1;
    }

    /// The bytes with sequence numbers that count from `first`.
    pub(crate) fn numbered(mut self, first: u32) -> Vec<u8> {
        renumber(&mut self.bytes, first);
        self.bytes
    }

    /// Sets further flags on the last message.
    pub(crate) fn flag_last(&mut self, flags: u16) {
        let mut at = 0;
        for _ in 1..self.count {
            at += align(read_u32(&self.bytes, at).unwrap_or(0) as usize);
        }
        if let Some(old) = read_u16(&self.bytes, at + 6) {
            self.bytes[at + 6..at + 8].copy_from_slice(&(old | flags).to_ne_bytes());
        }
    }
}

fn renumber(bytes: &mut [u8], first: u32) {
    let (mut at, mut sequence) = (0, first);
    while let Some(length) = read_u32(bytes, at) {
        bytes[at + 8..at + 12].copy_from_slice(&sequence.to_ne_bytes());
        sequence = sequence.wrapping_add(1);
        at += align(length as usize);
    }
}

/// Writes the attributes of one message.
pub(crate) struct Writer<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Writer<'_> {
    /// An attribute of raw bytes.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("an attribute is shorter than 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(self.bytes);
    }

    /// A 32-bit number in the machine's order.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// A 32-bit number in network order, as nf_tables wants its own.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A string with its closing zero.
    pub(crate) fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// An IPv4 address.
    pub(crate) fn ip(&mut self, kind: u16, value: Ipv4Addr) {
        self.bytes(kind, &value.octets());
    }

    /// An attribute that holds further attributes.
    pub(crate) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Writer<'_>)) {
        self.nest_after(kind | NESTED, &[], inner);
    }

    /// A nest that starts with a fixed part, as the peer of a veth does; no flag is added to `kind`.
    pub(crate) fn nest_after(&mut self, kind: u16, fixed: &[u8], inner: impl FnOnce(&mut Writer<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(fixed);
        pad(self.bytes);
        inner(&mut Writer { bytes: self.bytes });
        let length = u16::try_from(self.bytes.len() - start).expect("callers split nests below 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// Iterates the attributes in a reply: (type without flags, value).
#[derive(Clone)]
pub(crate) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Reads the attributes in `bytes`, after the fixed part of `skip` bytes.
    pub(crate) fn after(bytes: &'a [u8], skip: usize) -> Self {
        Self { rest: bytes.get(align(skip)..).unwrap_or(&[]) }
    }

    /// The first attribute of this type.
    pub(crate) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// The attributes inside the first attribute of this type.
    pub(crate) fn nested(&self, kind: u16) -> Option<Attributes<'a>> {
        self.get(kind).map(|bytes| Attributes::after(bytes, 0))
    }

    /// An IPv4 address.
    pub(crate) fn ip(&self, kind: u16) -> Option<Ipv4Addr> {
        self.get(kind)?.get(..4)?.try_into().ok().map(|octets: [u8; 4]| Ipv4Addr::from(octets))
    }

    /// A 16-bit number in network order.
    pub(crate) fn be16(&self, kind: u16) -> Option<u16> {
        self.get(kind)?.get(..2)?.try_into().ok().map(u16::from_be_bytes)
    }

    /// A string without its closing zero.
    pub(crate) fn string(&self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(read_u16(self.rest, 0)?);
        let kind = read_u16(self.rest, 2)? & TYPE_MASK;
        let value = self.rest.get(4..length)?;
        self.rest = self.rest.get(align(length)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// Rounds up to the four bytes that netlink aligns to.
pub(crate) fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// A 16-bit number in the machine's order at `at`.
pub(crate) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// A 32-bit number in the machine's order at `at`.
pub(crate) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(align(bytes.len()), 0);
}

fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("a netlink message is shorter than 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut messages = Messages::new();
        messages.push(16, 5, &[1, 2, 3, 4], |w| {
            w.string(3, "eth0");
            w.nest(18, |w| w.ip(1, Ipv4Addr::new(10, 1, 2, 3)));
        });
        messages.push(17, 0, &[], |_| {});
        messages.flag_last(4);
        assert_eq!(messages.count(), 2);
        let bytes = messages.numbered(40);
        assert_eq!(read_u32(&bytes, 8), Some(40));
        let attributes = Attributes::after(&bytes[HEADER..], 4);
        assert_eq!(attributes.string(3).as_deref(), Some("eth0"));
        assert_eq!(attributes.nested(18).and_then(|n| n.ip(1)), Some(Ipv4Addr::new(10, 1, 2, 3)));
        let second = read_u32(&bytes, 0).expect("length") as usize;
        assert_eq!((read_u32(&bytes, second + 8), read_u16(&bytes, second + 6)), (Some(41), Some(4)));
    }

    #[test]
    fn truncated_attributes_end_the_iteration() {
        assert_eq!(Attributes::after(&[8, 0, 1, 0, 1, 2], 0).count(), 0);
        assert_eq!(Attributes::after(&[2, 0, 1, 0], 0).count(), 0);
    }
}
