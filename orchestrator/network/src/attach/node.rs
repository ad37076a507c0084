//! What the node's own namespace needs, and taking all of it back.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::path::Path;

use super::error::{NetworkError, OnFile, Step};
use crate::ipam::Cidr;
use crate::namespace;
use crate::netlink::route::{self, LINK_GROUP, LinkSettings, RouteKind};
use crate::netlink::{Family, Socket, nftables};
use crate::services::rules::TABLE;

/// Label by which the node address is known as ours.
const ADDRESS_LABEL: &str = "lo:catamaran";
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// Remembers that forwarding was off before.
const FORWARDING_WAS_OFF: &str = "forwarding-was-off";
const LO: u32 = 1;

/// The folder in the run directory in which namespaces are mounted.
pub(super) const NAMESPACES: &str = "netns";
/// The folder in the run directory with the records of pods.
pub(super) const PODS: &str = "network/pods";
/// The folder in the run directory with the records of trust domains.
pub(super) const HOSTS: &str = "network/hosts";
/// The file in the run directory with the address that was handed out last.
pub(super) const LAST_ADDRESS: &str = "network/last-address";

/// Switches forwarding on, and remembers that it was off.
pub(super) fn switch_forwarding_on(run_dir: &Path) -> Result<(), NetworkError> {
    let now = fs::read_to_string(FORWARDING).map_err(NetworkError::Forwarding)?;
    if now.trim() != "0" {
        return Ok(());
    }
    let note = run_dir.join(FORWARDING_WAS_OFF);
    fs::write(&note, "").on(&note)?;
    fs::write(FORWARDING, "1").map_err(NetworkError::Forwarding)
}

/// Gives the node its address. Sockets of the node that talk to Services use it as source. Without a route
/// for the Service range a host that has no default route would refuse such connections before any rule.
pub(super) fn set_node_address(
    socket: &mut Socket,
    address: Ipv4Addr,
    services: Cidr,
) -> Result<(), NetworkError> {
    route::set_up(socket, LO, &LinkSettings::default()).step("bring up the loopback link")?;
    route::add_address(socket, LO, address, Some(ADDRESS_LABEL)).step("give the node its address")?;
    let kind = RouteKind::Link { source: Some(address) };
    route::set_route(socket, services, LO, kind).step("route the Service range")
}

/// Makes connections to addresses of a block that no pod has fail at once, instead of leaving the node.
pub(super) fn close_block(socket: &mut Socket, block: Cidr) -> Result<(), NetworkError> {
    route::set_route(socket, block, LO, RouteKind::Unreachable).step("reserve an address block")
}

/// What [`teardown_all`] took back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TornDown {
    /// Network namespaces.
    pub namespaces: usize,
    /// Links on the node.
    pub links: usize,
    /// Routes on the node.
    pub routes: usize,
}

/// Takes back everything that this crate ever made in the calling thread's network namespace and below
/// `run_dir`, whether or not anything remembers it: links by their group, routes by their protocol number, the
/// address by its label, rules by their table, namespaces by where they are mounted. Processes in the
/// namespaces must have ended. May be repeated.
pub async fn teardown_all(run_dir: &Path) -> Result<TornDown, NetworkError> {
    let run_dir = run_dir.to_owned();
    let work = tokio::task::spawn_blocking(move || tear_down(&run_dir));
    work.await.map_err(|_| NetworkError::Ending)?
}

fn tear_down(run_dir: &Path) -> Result<TornDown, NetworkError> {
    let mut socket = Socket::open(Family::Route).step("open a socket")?;
    let mut netfilter = Socket::open(Family::Netfilter).step("open a socket")?;
    nftables::delete_table(&mut netfilter, TABLE).step("delete the Service rules")?;
    let links = route::links(&mut socket).step("list links")?;
    let links = links.iter().filter(|link| link.group == LINK_GROUP).count();
    if links > 0 {
        route::delete_our_links(&mut socket).step("delete the links to pods")?;
    }
    let routes = route::our_routes(&mut socket).step("list routes")?;
    route::delete_routes(&mut socket, &routes).step("delete routes")?;
    route::delete_addresses(&mut socket, ADDRESS_LABEL).step("delete the node address")?;
    let namespaces = drop_namespaces(run_dir)?;
    restore_forwarding(run_dir)?;
    for part in ["network", NAMESPACES] {
        let path = run_dir.join(part);
        absent_is_fine(fs::remove_dir_all(&path)).on(&path)?;
    }
    Ok(TornDown { namespaces, links, routes: routes.len() })
}

fn drop_namespaces(run_dir: &Path) -> Result<usize, NetworkError> {
    let folder = run_dir.join(NAMESPACES);
    let Ok(folder) = folder.canonicalize() else { return Ok(0) };
    let mut mounts = namespace::mounts_at_or_below(&folder)?;
    mounts.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for mount in &mounts {
        if *mount == folder {
            rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH)
                .map_err(io::Error::from)
                .on(mount)?;
        } else {
            namespace::drop_name(mount)?;
        }
    }
    Ok(mounts.iter().filter(|mount| **mount != folder).count())
}

fn restore_forwarding(run_dir: &Path) -> Result<(), NetworkError> {
    let note = run_dir.join(FORWARDING_WAS_OFF);
    if note.exists() {
        fs::write(FORWARDING, "0").map_err(NetworkError::Forwarding)?;
        fs::remove_file(&note).on(&note)?;
    }
    Ok(())
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
