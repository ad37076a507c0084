//! Links, addresses, routes and neighbours (`linux/rtnetlink.h`, `linux/if_link.h`).

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::{Attributes, Messages, NetlinkError, Socket};
use crate::ipam::Cidr;

const AF_INET: u8 = 2;
const AF_INET6: u16 = 10;
const REQUEST_ACK: u16 = 0x1 | 0x4;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const REPLACE: u16 = 0x100;
const DUMP: u16 = 0x1 | 0x300;

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const DEVCONF_ROUTE_LOCALNET: u16 = 26;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
const IFF_UP: u32 = 1;

const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const ON_LINK: u32 = 4;

/// `rtm_protocol` of every route that we make (values from 4 on mean nothing to the kernel).
pub(crate) const ROUTE_PROTOCOL: u8 = 0xca;
/// Link group of the node's end of every veth that we make.
pub(crate) const LINK_GROUP: u32 = 0xca7a;

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouteKind {
    /// Out of the link, as if every destination were on it.
    Link {
        /// Source address for sockets that did not choose one.
        source: Option<Ipv4Addr>,
    },
    /// Out of the link to a neighbour that is on it whatever its address.
    Gateway(Ipv4Addr),
    /// To this namespace itself.
    Local,
    /// Refused with "host unreachable".
    Unreachable,
}

impl RouteKind {
    fn table(self) -> u8 {
        if self == Self::Local { 255 } else { 254 }
    }

    fn scope(self) -> u8 {
        match self {
            Self::Link { .. } => 253,
            Self::Local => 254,
            Self::Gateway(_) | Self::Unreachable => 0,
        }
    }

    fn rtn(self) -> u8 {
        match self {
            Self::Link { .. } | Self::Gateway(_) => 1,
            Self::Local => 2,
            Self::Unreachable => 7,
        }
    }
}

/// A route that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    /// Where to.
    pub(crate) destination: Cidr,
    /// Index of the outgoing link.
    pub(crate) link: u32,
    /// `RT_TABLE_*`.
    table: u8,
    /// `RTN_*`.
    rtn: u8,
    /// `RT_SCOPE_*`.
    scope: u8,
}

/// A link that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// Interface index.
    pub(crate) index: u32,
    /// Interface name.
    pub(crate) name: String,
    /// Free text.
    pub(crate) alias: Option<String>,
    /// Link group.
    pub(crate) group: u32,
}

/// The two ends of a veth to be made. The peer is born in another namespace: moving it there costs 16 ms.
pub(crate) struct Veth<'a> {
    /// Name in the socket's namespace.
    pub(crate) name: &'a str,
    /// Ethernet address in the socket's namespace.
    pub(crate) mac: [u8; 6],
    /// Name in the other namespace.
    pub(crate) peer_name: &'a str,
    /// Ethernet address in the other namespace.
    pub(crate) peer_mac: [u8; 6],
    /// The other namespace.
    pub(crate) peer_netns: BorrowedFd<'a>,
}

/// Makes the veth; `EEXIST` where the name is taken.
pub(crate) fn create_veth(socket: &mut Socket, veth: &Veth<'_>) -> Result<(), NetlinkError> {
    let mut messages = Messages::new();
    messages.push(NEW_LINK, REQUEST_ACK | CREATE | EXCLUSIVE, &link_header(0, 0, 0), |w| {
        w.string(IFLA_IFNAME, veth.name);
        w.bytes(IFLA_ADDRESS, &veth.mac);
        w.u32(IFLA_GROUP, LINK_GROUP);
        w.nest(IFLA_LINKINFO, |w| {
            w.string(IFLA_INFO_KIND, "veth");
            w.nest(IFLA_INFO_DATA, |w| {
                w.nest_after(VETH_INFO_PEER, &link_header(0, 0, 0), |w| {
                    w.string(IFLA_IFNAME, veth.peer_name);
                    w.bytes(IFLA_ADDRESS, &veth.peer_mac);
                    w.bytes(IFLA_NET_NS_FD, &veth.peer_netns.as_raw_fd().to_ne_bytes());
                });
            });
        });
    });
    socket.request(messages)
}

/// How a link is to be set.
#[derive(Default)]
pub(crate) struct LinkSettings<'a> {
    /// Free text.
    pub(crate) alias: Option<&'a str>,
    /// Lets packets with loopback addresses pass this link (`route_localnet`), as NodePorts on 127.0.0.1 need.
    pub(crate) route_localnet: bool,
}

/// Brings a link up with these settings.
pub(crate) fn set_up(
    socket: &mut Socket,
    index: u32,
    settings: &LinkSettings<'_>,
) -> Result<(), NetlinkError> {
    let mut messages = Messages::new();
    messages.push(NEW_LINK, REQUEST_ACK, &link_header(index, IFF_UP, IFF_UP), |w| {
        if let Some(alias) = settings.alias {
            w.bytes(IFLA_IFALIAS, alias.as_bytes());
        }
        if settings.route_localnet {
            w.nest(IFLA_AF_SPEC, |w| {
                w.nest(u16::from(AF_INET), |w| {
                    w.nest(IFLA_INET_CONF, |w| w.u32(DEVCONF_ROUTE_LOCALNET, 1));
                });
            });
        }
    });
    socket.request(messages)
}

/// Keeps the kernel from giving the link an IPv6 address, which would send multicast for every pod.
/// A kernel without IPv6 refuses, and there is nothing to prevent then.
pub(crate) fn without_ipv6_address(socket: &mut Socket, index: u32) -> Result<(), NetlinkError> {
    let mut messages = Messages::new();
    messages.push(NEW_LINK, REQUEST_ACK, &link_header(index, 0, 0), |w| {
        w.nest(IFLA_AF_SPEC, |w| {
            w.nest(AF_INET6, |w| w.bytes(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]));
        });
    });
    match socket.request(messages) {
        Err(error) if error.is(Errno::AFNOSUPPORT) || error.is(Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

/// All links of the namespace.
pub(crate) fn links(socket: &mut Socket) -> Result<Vec<Link>, NetlinkError> {
    let mut messages = Messages::new();
    messages.push(GET_LINK, DUMP, &link_header(0, 0, 0), |_| {});
    let mut found = Vec::new();
    socket.dump(messages, |kind, payload| {
        if kind == NEW_LINK && payload.len() >= 16 {
            found.push(read_link(payload));
        }
    })?;
    Ok(found)
}

/// The link of this name.
pub(crate) fn link_by_name(socket: &mut Socket, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut messages = Messages::new();
    messages.push(GET_LINK, REQUEST_ACK, &link_header(0, 0, 0), |w| w.string(IFLA_IFNAME, name));
    let mut found = None;
    let answer = socket.dump(messages, |kind, payload| {
        if kind == NEW_LINK && payload.len() >= 16 {
            found = Some(read_link(payload));
        }
    });
    absent_is_fine(answer, &[Errno::NODEV])?;
    Ok(found)
}

/// Deletes every link of our group in one request.
pub(crate) fn delete_our_links(socket: &mut Socket) -> Result<(), NetlinkError> {
    let mut messages = Messages::new();
    messages.push(DELETE_LINK, REQUEST_ACK, &link_header(0, 0, 0), |w| w.u32(IFLA_GROUP, LINK_GROUP));
    absent_is_fine(socket.request(messages), &[Errno::NODEV])
}

/// Adds an address; there already is fine. `label` makes it recognisable.
pub(crate) fn add_address(
    socket: &mut Socket,
    link: u32,
    address: Ipv4Addr,
    label: Option<&str>,
) -> Result<(), NetlinkError> {
    let mut messages = Messages::new();
    messages.push(NEW_ADDRESS, REQUEST_ACK | CREATE | REPLACE, &address_header(link), |w| {
        w.ip(IFA_LOCAL, address);
        if let Some(label) = label {
            w.string(IFA_LABEL, label);
        }
    });
    absent_is_fine(socket.request(messages), &[Errno::EXIST])
}

/// Deletes the addresses that carry this label.
pub(crate) fn delete_addresses(socket: &mut Socket, label: &str) -> Result<(), NetlinkError> {
    let mut messages = Messages::new();
    messages.push(GET_ADDRESS, DUMP, &[AF_INET, 0, 0, 0, 0, 0, 0, 0], |_| {});
    let mut found = Vec::new();
    socket.dump(messages, |kind, payload| {
        let attributes = Attributes::after(payload, 8);
        if kind == NEW_ADDRESS && attributes.string(IFA_LABEL).as_deref() == Some(label) {
            let index = super::message::read_u32(payload, 4).unwrap_or(0);
            found.extend(attributes.ip(IFA_LOCAL).map(|address| (index, address)));
        }
    })?;
    for (index, address) in found {
        let mut messages = Messages::new();
        messages.push(DELETE_ADDRESS, REQUEST_ACK, &address_header(index), |w| w.ip(IFA_LOCAL, address));
        absent_is_fine(socket.request(messages), &[Errno::ADDRNOTAVAIL])?;
    }
    Ok(())
}

/// Adds or replaces a route. `link` is not used by `Unreachable`.
pub(crate) fn set_route(
    socket: &mut Socket,
    destination: Cidr,
    link: u32,
    kind: RouteKind,
) -> Result<(), NetlinkError> {
    let mut messages = Messages::new();
    push_route(&mut messages, destination, link, kind);
    socket.request(messages)
}

fn push_route(messages: &mut Messages, destination: Cidr, link: u32, kind: RouteKind) {
    let onlink = if matches!(kind, RouteKind::Gateway(_)) { ON_LINK } else { 0 };
    let header = route_header(destination.prefix(), kind.table(), kind.scope(), kind.rtn(), onlink);
    messages.push(NEW_ROUTE, REQUEST_ACK | CREATE | REPLACE, &header, |w| {
        if destination.prefix() > 0 {
            w.ip(RTA_DST, destination.first());
        }
        if kind != RouteKind::Unreachable {
            w.u32(RTA_OIF, link);
        }
        match kind {
            RouteKind::Gateway(gateway) => w.ip(RTA_GATEWAY, gateway),
            RouteKind::Link { source: Some(source) } => w.ip(RTA_PREFSRC, source),
            _ => {}
        }
    });
}

/// Removes the route of ours to this destination; absent is fine.
pub(crate) fn delete_route(
    socket: &mut Socket,
    destination: Cidr,
    kind: RouteKind,
) -> Result<(), NetlinkError> {
    let header = route_header(destination.prefix(), kind.table(), 255, kind.rtn(), 0);
    let mut messages = Messages::new();
    messages.push(DELETE_ROUTE, REQUEST_ACK, &header, |w| w.ip(RTA_DST, destination.first()));
    absent_is_fine(socket.request(messages), &[Errno::SRCH])
}

/// The IPv4 routes that carry our protocol number.
pub(crate) fn our_routes(socket: &mut Socket) -> Result<Vec<Route>, NetlinkError> {
    let mut messages = Messages::new();
    messages.push(GET_ROUTE, DUMP, &[AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], |_| {});
    let mut found = Vec::new();
    socket.dump(messages, |kind, payload| {
        if kind == NEW_ROUTE && payload.len() >= 12 && payload[5] == ROUTE_PROTOCOL {
            let attributes = Attributes::after(payload, 12);
            let destination = attributes.ip(RTA_DST).unwrap_or(Ipv4Addr::UNSPECIFIED);
            let link = attributes.get(RTA_OIF).and_then(|b| super::message::read_u32(b, 0)).unwrap_or(0);
            found.extend(Cidr::new(destination, payload[1]).map(|destination| Route {
                destination,
                link,
                table: payload[4],
                rtn: payload[7],
                scope: payload[6],
            }));
        }
    })?;
    Ok(found)
}

/// Removes routes found by [`our_routes`], many in one request.
pub(crate) fn delete_routes(socket: &mut Socket, routes: &[Route]) -> Result<(), NetlinkError> {
    for chunk in routes.chunks(256) {
        let mut messages = Messages::new();
        for route in chunk {
            let header = route_header(route.destination.prefix(), route.table, route.scope, route.rtn, 0);
            messages.push(DELETE_ROUTE, REQUEST_ACK, &header, |w| {
                w.ip(RTA_DST, route.destination.first());
                w.u32(RTA_TABLE, u32::from(route.table));
            });
        }
        absent_is_fine(socket.request(messages), &[Errno::SRCH])?;
    }
    Ok(())
}

/// A neighbour that needs no asking (ARP).
pub(crate) fn set_neighbour(
    socket: &mut Socket,
    link: u32,
    address: Ipv4Addr,
    mac: [u8; 6],
) -> Result<(), NetlinkError> {
    let mut header = [0; 12];
    header[0] = AF_INET;
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    let mut messages = Messages::new();
    messages.push(NEW_NEIGHBOUR, REQUEST_ACK | CREATE | REPLACE, &header, |w| {
        w.ip(NDA_DST, address);
        w.bytes(NDA_LLADDR, &mac);
    });
    socket.request(messages)
}

fn absent_is_fine(result: Result<(), NetlinkError>, fine: &[Errno]) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.errno().is_some_and(|errno| fine.contains(&errno)) => Ok(()),
        other => other,
    }
}

fn read_link(payload: &[u8]) -> Link {
    let attributes = Attributes::after(payload, 16);
    Link {
        index: super::message::read_u32(payload, 4).unwrap_or(0),
        name: attributes.string(IFLA_IFNAME).unwrap_or_default(),
        alias: attributes.string(IFLA_IFALIAS),
        group: attributes.get(IFLA_GROUP).and_then(|b| super::message::read_u32(b, 0)).unwrap_or(0),
    }
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn address_header(link: u32) -> [u8; 8] {
    let mut header = [AF_INET, 32, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header
}

fn route_header(prefix: u8, table: u8, scope: u8, rtn: u8, flags: u32) -> [u8; 12] {
    let mut header = [AF_INET, prefix, 0, 0, table, ROUTE_PROTOCOL, scope, rtn, 0, 0, 0, 0];
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header
}
