//! A namespace with a routed link to the node: no bridge, no address to share, no asking for neighbours.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::error::{NetworkError, OnFile, Step};
use crate::ipam::Cidr;
use crate::namespace;
use crate::netlink::route::{self, LinkSettings, RouteKind, Veth};
use crate::netlink::{Family, Socket};

/// The gateway as every pod sees it: the node's end of its link.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The pod's end of a link as the node sees it: one neighbour for however many addresses are behind it.
const POD_END: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 2);
const GATEWAY_MAC: [u8; 6] = [0xee; 6];
/// Name of the link inside.
const INSIDE: &str = "eth0";
/// Index of `lo` in every namespace.
const LO: u32 = 1;
/// The default route's destination.
const ANYWHERE: Cidr = match Cidr::new(Ipv4Addr::UNSPECIFIED, 0) {
    Some(range) => range,
    None => panic!("0.0.0.0/0 is a range"),
};

/// A random part of names: eight hexadecimal digits.
pub(super) fn new_id() -> String {
    format!("{:08x}", rand::random::<u32>())
}

/// Name of the node's end of the link.
pub(super) fn link_name(id: &str) -> String {
    format!("cata{id}")
}

/// A namespace that is connected to the node. The open socket keeps it alive.
pub(super) struct Connected {
    /// Where it is mounted.
    pub(super) path: PathBuf,
    /// Speaks inside.
    pub(super) inside: Socket,
    /// Index of the link inside.
    inside_link: u32,
    /// Index of the link on the node.
    node_link: u32,
}

impl Connected {
    /// Makes a namespace at `path` with everything but addresses.
    pub(super) fn make(
        node: &mut Socket,
        path: PathBuf,
        id: &str,
        alias: &str,
    ) -> Result<Self, NetworkError> {
        let inside = namespace::create(&path, || {
            allow_unprivileged()?;
            Socket::open(Family::Route).step("open a socket in the new network namespace")
        })?;
        let mut inside = inside?;
        let file = File::open(&path).on(&path)?;
        let name = link_name(id);
        let [a, b, c, d] = rand::random::<[u8; 4]>();
        let veth = Veth {
            name: &name,
            mac: GATEWAY_MAC,
            peer_name: INSIDE,
            peer_mac: [0x0a, 0x58, a, b, c, d],
            peer_netns: file.as_fd(),
        };
        route::create_veth(node, &veth).step("make the link to a pod (veth)")?;
        let node_link = index(node, &name)?;
        let inside_link = index(&mut inside, INSIDE)?;
        let settings = LinkSettings { alias: Some(alias), route_localnet: true };
        for (socket, link) in [(&mut *node, node_link), (&mut inside, inside_link)] {
            route::without_ipv6_address(socket, link).step("set up the link to a pod")?;
        }
        route::set_up(node, node_link, &settings).step("bring up the link to a pod")?;
        route::set_neighbour(node, node_link, POD_END, veth.peer_mac).step("set a pod's neighbour entry")?;
        for link in [LO, inside_link] {
            route::set_up(&mut inside, link, &LinkSettings::default()).step("bring up a pod's links")?;
        }
        route::set_neighbour(&mut inside, inside_link, GATEWAY, GATEWAY_MAC)
            .step("set a pod's gateway neighbour")?;
        let gateway = RouteKind::Gateway(GATEWAY);
        route::set_route(&mut inside, ANYWHERE, inside_link, gateway).step("set a pod's default route")?;
        Ok(Self { path, inside, inside_link, node_link })
    }

    /// Finds one that was made before; `None` where it is no longer whole.
    pub(super) fn find(node: &mut Socket, path: &Path, id: &str) -> Result<Option<Self>, NetworkError> {
        let link = route::link_by_name(node, &link_name(id)).step("look for the link to a pod")?;
        let Some(link) = link.filter(|_| namespace::exists(path)) else { return Ok(None) };
        let inside = namespace::enter(path, || Socket::open(Family::Route))?;
        let mut inside = inside.step("open a socket in a pod's network namespace")?;
        let inside_link = route::link_by_name(&mut inside, INSIDE).step("look for a pod's link")?;
        let path = path.to_owned();
        Ok(inside_link.map(|i| Self { path, inside, inside_link: i.index, node_link: link.index }))
    }

    /// Gives the link inside an address, and routes it there.
    pub(super) fn add_link_address(
        &mut self,
        node: &mut Socket,
        address: Ipv4Addr,
    ) -> Result<(), NetworkError> {
        route::add_address(&mut self.inside, self.inside_link, address, None)
            .step("give a pod its address")?;
        self.route_here(node, address)
    }

    /// Makes an address local inside, and routes it there: cheaper than an address on a link.
    pub(super) fn add_local_address(
        &mut self,
        node: &mut Socket,
        address: Ipv4Addr,
    ) -> Result<(), NetworkError> {
        route::set_route(&mut self.inside, Cidr::host(address), LO, RouteKind::Local)
            .step("give a wasm pod its address")?;
        self.route_here(node, address)
    }

    /// Takes back what [`Self::add_local_address`] did.
    pub(super) fn remove_local_address(
        &mut self,
        node: &mut Socket,
        address: Ipv4Addr,
    ) -> Result<(), NetworkError> {
        unroute(node, address)?;
        route::delete_route(&mut self.inside, Cidr::host(address), RouteKind::Local)
            .step("take a wasm pod's address back")
    }

    fn route_here(&self, node: &mut Socket, address: Ipv4Addr) -> Result<(), NetworkError> {
        route::set_route(node, Cidr::host(address), self.node_link, RouteKind::Gateway(POD_END))
            .step("route a pod's address to it")
    }
}

/// Lets programs without rights use low ports and ping, as containers of other runtimes may: the namespace is
/// theirs alone.
fn allow_unprivileged() -> Result<(), NetworkError> {
    for (name, value) in [("ip_unprivileged_port_start", "0"), ("ping_group_range", "0 2147483647")] {
        let path = Path::new("/proc/sys/net/ipv4").join(name);
        std::fs::write(&path, value).on(&path)?;
    }
    Ok(())
}

/// Removes the node's route to a pod.
pub(super) fn unroute(node: &mut Socket, address: Ipv4Addr) -> Result<(), NetworkError> {
    route::delete_route(node, Cidr::host(address), RouteKind::Gateway(POD_END)).step("remove a pod's route")
}

fn index(socket: &mut Socket, name: &str) -> Result<u32, NetworkError> {
    let link = route::link_by_name(socket, name).step("look for a new link")?;
    link.map(|link| link.index).ok_or_else(|| NetworkError::LinkGone(name.to_owned()))
}
