//! Connection tracking entries: list those of UDP, delete some (`linux/netfilter/nfnetlink_conntrack.h`).

use std::net::Ipv4Addr;

use rustix::io::Errno;

use super::{Attributes, Messages, NetlinkError, Socket};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const FAMILY_IPV4: u8 = 2;
const UDP: u8 = 17;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tuple {
    /// Source address and port.
    pub(crate) source: (Ipv4Addr, u16),
    /// Destination address and port.
    pub(crate) destination: (Ipv4Addr, u16),
}

/// A UDP flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    /// As the first packet came.
    pub(crate) original: Tuple,
    /// As answers come: their source is the real destination.
    pub(crate) reply: Tuple,
}

/// All UDP flows over IPv4 in the socket's namespace.
pub(crate) fn udp_flows(socket: &mut Socket) -> Result<Vec<Flow>, NetlinkError> {
    let mut messages = Messages::new();
    messages.push(SUBSYSTEM << 8 | GET, REQUEST | DUMP, &[FAMILY_IPV4, 0, 0, 0], |_| {});
    let mut flows = Vec::new();
    socket.dump(messages, |_, payload| {
        let attributes = Attributes::after(payload, 4);
        let original = attributes.nested(TUPLE_ORIGINAL).and_then(|tuple| read_tuple(&tuple));
        let reply = attributes.nested(TUPLE_REPLY).and_then(|tuple| read_tuple(&tuple));
        flows.extend(original.zip(reply).map(|(original, reply)| Flow { original, reply }));
    })?;
    Ok(flows)
}

/// Forgets these flows, so that their next packet is looked at as a new one. Gone already is fine.
pub(crate) fn delete_udp_flows(socket: &mut Socket, flows: &[Flow]) -> Result<(), NetlinkError> {
    for flow in flows {
        let mut messages = Messages::new();
        messages.push(SUBSYSTEM << 8 | DELETE, REQUEST | ACK, &[FAMILY_IPV4, 0, 0, 0], |w| {
            w.nest(TUPLE_ORIGINAL, |w| {
                w.nest(TUPLE_IP, |w| {
                    w.ip(1, flow.original.source.0);
                    w.ip(2, flow.original.destination.0);
                });
                w.nest(TUPLE_PROTOCOL, |w| {
                    w.bytes(1, &[UDP]);
                    w.bytes(2, &flow.original.source.1.to_be_bytes());
                    w.bytes(3, &flow.original.destination.1.to_be_bytes());
                });
            });
        });
        match socket.request(messages) {
            Err(error) if error.is(Errno::NOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

fn read_tuple(tuple: &Attributes<'_>) -> Option<Tuple> {
    let (addresses, protocol) = (tuple.nested(TUPLE_IP)?, tuple.nested(TUPLE_PROTOCOL)?);
    if protocol.get(1)?.first() != Some(&UDP) {
        return None;
    }
    Some(Tuple {
        source: (addresses.ip(1)?, protocol.be16(2)?),
        destination: (addresses.ip(2)?, protocol.be16(3)?),
    })
}
