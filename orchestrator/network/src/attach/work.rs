//! The work behind [`super::Network`]: blocking calls to the kernel, under short locks.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::blocks::Blocks;
use super::error::{NetworkError, OnFile, Step};
use super::node::{self, HOSTS, LAST_ADDRESS, NAMESPACES, PODS};
use super::records::{HostRecord, PodPlace, PodRecord, Records};
use super::veth::{self, Connected};
use super::{NetworkConfig, PodAttachment};
use crate::ipam::{Cidr, MoreBlocks, Pool, Taken};
use crate::model::Name;
use crate::namespace;
use crate::netlink::{Family, Socket, route};
use crate::services::apply::{Place, Rules};
use crate::services::elements::{Frontend, Route};
use crate::services::plan;
use crate::services::rules::{Ranges, Role};

mod ports;

/// Namespaces that wait to be dropped together: one by one, each would cost the kernel 30 ms.
const WAITING_TO_DROP: usize = 4096;
const DROP_TOGETHER: Duration = Duration::from_millis(200);

/// A namespace that waits for its pod.
struct Prepared {
    id: String,
    connected: Connected,
}

/// Addresses and who has them.
struct Addresses {
    pool: Pool,
    pods: Records<PodRecord>,
    hosts: Records<HostRecord>,
}

pub(super) struct Work {
    config: NetworkConfig,
    node_address: Ipv4Addr,
    namespaces: PathBuf,
    start: Instant,
    blocks: tokio::sync::Mutex<Blocks>,
    addresses: Mutex<Addresses>,
    node: Mutex<Socket>,
    prepared: Mutex<Vec<Prepared>>,
    taken: Arc<Notify>,
    hosts: Mutex<HashMap<String, Connected>>,
    to_drop: mpsc::Sender<PathBuf>,
    rules: Rules,
}

impl Work {
    pub(super) async fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let claims = config.claims.clone().map(|client| (client, config.node_name.clone()));
        let file = config.data_dir.join("network/blocks");
        let mut blocks = Blocks::open(file, config.pod_range, claims)?;
        if blocks.owned().is_empty() {
            blocks.claim().await?;
        }
        let (to_drop, dropped) = mpsc::channel(WAITING_TO_DROP);
        let open = move || Self::open_blocking(config, blocks, to_drop);
        let work = tokio::task::spawn_blocking(open).await.map_err(|_| NetworkError::Ending)??;
        tokio::spawn(drop_together(dropped));
        Ok(work)
    }

    fn open_blocking(
        config: NetworkConfig,
        blocks: Blocks,
        to_drop: mpsc::Sender<PathBuf>,
    ) -> Result<Self, NetworkError> {
        let namespaces = config.run_dir.join(NAMESPACES);
        namespace::prepare_folder(&namespaces)?;
        let first = blocks.owned().first().ok_or(NetworkError::NoAddress(config.pod_range))?;
        let node_address = first.node_address();
        let mut socket = Socket::open(Family::Route).step("open a socket")?;
        node::set_node_address(&mut socket, node_address, config.service_range)?;
        // The guard of 127.0.0.0/8 must be there before any link that lets such packets pass.
        let ranges = Ranges { pods: config.pod_range, services: config.service_range };
        let rules = Rules::new(ranges, plan::cluster_dns(config.cluster_dns, node_address));
        let role = Role::Node { address: node_address };
        rules.add(Place::Node, role).step("set the Service rules of the node")?;
        node::switch_forwarding_on(&config.run_dir)?;
        for block in blocks.owned() {
            node::close_block(&mut socket, *block)?;
        }
        let addresses = Addresses::open(&config.run_dir, blocks.owned())?;
        let work = Self {
            node_address,
            namespaces,
            start: Instant::now(),
            blocks: tokio::sync::Mutex::new(blocks),
            addresses: Mutex::new(addresses),
            node: Mutex::new(socket),
            prepared: Mutex::default(),
            taken: Arc::default(),
            hosts: Mutex::default(),
            to_drop,
            rules,
            config,
        };
        work.find_hosts()?;
        work.drop_strangers()?;
        work.find_ports()?;
        Ok(work)
    }

    /// Takes up the namespaces of trust domains that were made before.
    fn find_hosts(&self) -> Result<(), NetworkError> {
        let known: Vec<_> = lock(&self.addresses)
            .hosts
            .iter()
            .map(|(domain, record)| (domain.clone(), record.clone()))
            .collect();
        for (domain, record) in known {
            let path = self.host_namespace(&domain);
            let found = Connected::find(&mut lock(&self.node), &path, &record.id)?;
            match found {
                Some(connected) => self.add_host(&domain, record.address, connected)?,
                None => self.forget_host(&domain)?,
            }
        }
        Ok(())
    }

    /// Drops namespaces and routes that no record names: prepared ones of an earlier process, and what a
    /// crash left half done.
    fn drop_strangers(&self) -> Result<(), NetworkError> {
        let addresses = lock(&self.addresses);
        let mut names: HashSet<String> =
            addresses.hosts.iter().map(|(domain, _)| host_name(domain)).collect();
        let mut routed: HashSet<Ipv4Addr> = addresses.hosts.iter().map(|(_, host)| host.address).collect();
        for (_, record) in addresses.pods.iter() {
            routed.insert(record.address);
            if let PodPlace::Container { id } = &record.place {
                names.insert(id.clone());
            }
        }
        drop(addresses);
        for entry in fs::read_dir(&self.namespaces).on(&self.namespaces)? {
            let path = entry.on(&self.namespaces)?.path();
            if !path.file_name().and_then(|name| name.to_str()).is_some_and(|name| names.contains(name)) {
                namespace::drop_name(&path)?;
            }
        }
        let mut node = lock(&self.node);
        let mut routes = route::our_routes(&mut node).step("list routes")?;
        routes.retain(|route| {
            let destination = route.destination;
            destination.prefix() == 32 && !routed.contains(&destination.first())
        });
        route::delete_routes(&mut node, &routes).step("delete routes to pods that are gone")
    }

    pub(super) fn config(&self) -> &NetworkConfig {
        &self.config
    }

    pub(super) fn node_address(&self) -> Ipv4Addr {
        self.node_address
    }

    pub(super) fn blocks(&self) -> Vec<Cidr> {
        lock(&self.addresses).pool.blocks().to_vec()
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(super) fn address_of(&self, uid: &str) -> Option<Ipv4Addr> {
        lock(&self.addresses).pods.get(uid).map(|record| record.address)
    }

    pub(super) fn take_address(&self) -> Result<Taken, NetworkError> {
        let mut addresses = lock(&self.addresses);
        let most = 1_usize << 24_u8.saturating_sub(self.config.pod_range.prefix());
        let alone = addresses.pool.blocks().len() < most;
        let more = if alone { MoreBlocks::Available } else { MoreBlocks::None };
        let taken = addresses.pool.take(self.start.elapsed(), more);
        let taken = taken.ok_or(NetworkError::NoAddress(self.config.pod_range))?;
        if let Taken::Address(address) = taken {
            // Only a hint for the order after a restart; an address without it is fine.
            let _ = fs::write(self.config.run_dir.join(LAST_ADDRESS), address.to_string());
        }
        Ok(taken)
    }

    /// Claims one more block, unless another caller has just done so.
    pub(super) async fn claim_block(&self) -> Result<(), NetworkError> {
        let known = lock(&self.addresses).pool.blocks().len();
        let mut blocks = self.blocks.lock().await;
        if lock(&self.addresses).pool.blocks().len() > known {
            return Ok(());
        }
        let block = blocks.claim().await?;
        node::close_block(&mut lock(&self.node), block)?;
        lock(&self.addresses).pool.add_block(block, &HashSet::new(), None);
        Ok(())
    }

    pub(super) fn attach_container(
        &self,
        uid: &str,
        address: Ipv4Addr,
    ) -> Result<PodAttachment, NetworkError> {
        let known = match lock(&self.addresses).pods.get(uid).map(|record| record.place.clone()) {
            Some(PodPlace::Container { id }) => Some(id),
            Some(PodPlace::Wasm { .. }) | None => None,
        };
        if let Some(id) = known {
            let path = self.namespaces.join(&id);
            let found = Connected::find(&mut lock(&self.node), &path, &id)?;
            if let Some(connected) = found {
                return self.connect(connected, address);
            }
            namespace::drop_name(&path)?;
        }
        let prepared = self.take_prepared()?;
        let (place, ports) = (PodPlace::Container { id: prepared.id.clone() }, self.ports_of(uid));
        let record = PodRecord { address, place, ports };
        let recorded = lock(&self.addresses).pods.insert(uid, record);
        if let Err(error) = recorded {
            // Nobody would ever know of it: the next pod gets it.
            lock(&self.prepared).push(prepared);
            return Err(error);
        }
        self.connect(prepared.connected, address)
    }

    fn connect(&self, mut connected: Connected, ip: Ipv4Addr) -> Result<PodAttachment, NetworkError> {
        connected.add_link_address(&mut lock(&self.node), ip)?;
        Ok(PodAttachment { ip, netns: connected.path })
    }

    fn take_prepared(&self) -> Result<Prepared, NetworkError> {
        let ready = lock(&self.prepared).pop();
        self.taken.notify_one();
        match ready {
            Some(prepared) => Ok(prepared),
            None => self.prepare(&mut Socket::open(Family::Route).step("open a socket")?),
        }
    }

    /// Takes milliseconds, so `node` is not the socket that everybody waits for.
    fn prepare(&self, node: &mut Socket) -> Result<Prepared, NetworkError> {
        // Two of the same name would be one pod's end when the other fails.
        let free = |id: &String| !self.namespaces.join(id).exists();
        let id = std::iter::repeat_with(veth::new_id).find(free).unwrap_or_default();
        let path = self.namespaces.join(&id);
        let made = Connected::make(node, path.clone(), &id, &format!("catamaran pod {id}"));
        let connected = made.inspect_err(|_| drop_half_made(&path))?;
        Ok(Prepared { id, connected })
    }

    pub(super) fn attach_wasm(
        &self,
        uid: &str,
        domain: &str,
        ip: Ipv4Addr,
    ) -> Result<PodAttachment, NetworkError> {
        let mut hosts = lock(&self.hosts);
        let host = hosts.get_mut(domain).ok_or_else(|| NetworkError::LinkGone(host_name(domain)))?;
        let (place, ports) = (PodPlace::Wasm { domain: domain.to_owned() }, self.ports_of(uid));
        let record = PodRecord { address: ip, place, ports };
        lock(&self.addresses).pods.insert(uid, record)?;
        host.add_local_address(&mut lock(&self.node), ip)?;
        Ok(PodAttachment { ip, netns: host.path.clone() })
    }

    pub(super) fn host_path(&self, domain: &str) -> Option<PathBuf> {
        lock(&self.hosts).get(domain).map(|host| host.path.clone())
    }

    pub(super) fn make_host(&self, domain: &str, address: Ipv4Addr) -> Result<PathBuf, NetworkError> {
        if let Some(path) = self.host_path(domain) {
            self.give_back(address);
            return Ok(path);
        }
        let (id, path) = (veth::new_id(), self.host_namespace(domain));
        namespace::drop_name(&path)?;
        if let Some(old) = lock(&self.addresses).hosts.remove(domain)? {
            veth::unroute(&mut lock(&self.node), old.address)?;
            self.give_back(old.address);
        }
        let record = HostRecord { address, id: id.clone() };
        lock(&self.addresses).hosts.insert(domain, record)?;
        let alias = format!("catamaran wasm host {domain}");
        let connected = Connected::make(&mut lock(&self.node), path.clone(), &id, &alias)?;
        self.add_host(domain, address, connected)?;
        Ok(path)
    }

    fn add_host(
        &self,
        domain: &str,
        address: Ipv4Addr,
        mut connected: Connected,
    ) -> Result<(), NetworkError> {
        connected.add_link_address(&mut lock(&self.node), address)?;
        let place = Place::WasmHost(domain.to_owned());
        let added = namespace::enter(&connected.path, || self.rules.add(place, Role::WasmHost))?;
        added.step("set the Service rules of a wasm host")?;
        lock(&self.hosts).insert(domain.to_owned(), connected);
        Ok(())
    }

    pub(super) fn release_host(&self, domain: &str) -> Result<(), NetworkError> {
        let inside =
            |record: &PodRecord| matches!(&record.place, PodPlace::Wasm { domain: d } if d == domain);
        let pods: Vec<String> = {
            let addresses = lock(&self.addresses);
            addresses.pods.iter().filter(|(_, r)| inside(r)).map(|(uid, _)| uid.clone()).collect()
        };
        for uid in pods {
            self.detach(&uid)?;
        }
        self.forget_host(domain)
    }

    fn forget_host(&self, domain: &str) -> Result<(), NetworkError> {
        self.rules.remove(&Place::WasmHost(domain.to_owned()));
        lock(&self.hosts).remove(domain);
        let record = lock(&self.addresses).hosts.remove(domain)?;
        if let Some(record) = record {
            veth::unroute(&mut lock(&self.node), record.address)?;
            self.give_back(record.address);
        }
        namespace::drop_name(&self.host_namespace(domain))?;
        Ok(())
    }

    /// Takes back what a host that could not be made whole has so far.
    pub(super) fn take_back_host(&self, domain: &str) {
        if let Err(error) = self.forget_host(domain) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, domain, "cannot take back a wasm host's network");
        }
    }

    /// The record goes last: until then a detachment that failed half-way can be repeated.
    pub(super) fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        let Some(record) = lock(&self.addresses).pods.get(uid).cloned() else { return Ok(()) };
        self.withdraw_ports(uid, &record)?;
        match &record.place {
            PodPlace::Container { id } => {
                veth::unroute(&mut lock(&self.node), record.address)?;
                let path = self.namespaces.join(id);
                if let Err(full) = self.to_drop.try_send(path) {
                    namespace::drop_name(&full.into_inner())?;
                }
            }
            PodPlace::Wasm { domain } => {
                if let Some(host) = lock(&self.hosts).get_mut(domain) {
                    host.remove_local_address(&mut lock(&self.node), record.address)?;
                }
            }
        }
        // Of two that detach at once one gives the address back.
        if lock(&self.addresses).pods.remove(uid)?.is_some() {
            self.give_back(record.address);
        }
        Ok(())
    }

    pub(super) fn pods_except(&self, live: &HashSet<String>) -> Vec<String> {
        let addresses = lock(&self.addresses);
        addresses.pods.iter().map(|(uid, _)| uid).filter(|uid| !live.contains(*uid)).cloned().collect()
    }

    pub(super) fn update_rules(
        &self,
        services: Vec<(Name, Vec<(Frontend, Route)>)>,
        revision: u64,
    ) -> Result<(), NetworkError> {
        let _apply = tracing::debug_span!("apply").entered();
        self.rules.update(services, revision).map(drop).step("change the Service rules")
    }

    pub(super) fn repair_rules(&self) -> Result<(), NetworkError> {
        self.rules.repair().step("mend the Service rules")
    }

    /// After a failed attachment: an address that no record names is nobody's. One that a record names is found
    /// again by the next attempt.
    pub(super) fn give_back_unless_recorded(&self, address: Ipv4Addr) {
        let mut addresses = lock(&self.addresses);
        let recorded = addresses.pods.iter().any(|(_, record)| record.address == address)
            || addresses.hosts.iter().any(|(_, record)| record.address == address);
        if !recorded {
            addresses.pool.give_back(address, self.start.elapsed());
        }
    }

    fn give_back(&self, address: Ipv4Addr) {
        lock(&self.addresses).pool.give_back(address, self.start.elapsed());
    }

    fn host_namespace(&self, domain: &str) -> PathBuf {
        self.namespaces.join(host_name(domain))
    }
}

impl Addresses {
    fn open(run_dir: &Path, blocks: &[Cidr]) -> Result<Self, NetworkError> {
        let pods: Records<PodRecord> = Records::open(run_dir.join(PODS))?;
        let hosts: Records<HostRecord> = Records::open(run_dir.join(HOSTS))?;
        let of_pods = pods.iter().map(|(_, record)| record.address);
        let used: HashSet<_> = of_pods.chain(hosts.iter().map(|(_, host)| host.address)).collect();
        let last = fs::read_to_string(run_dir.join(LAST_ADDRESS)).ok();
        let last = last.and_then(|text| text.parse().ok());
        let mut pool = Pool::default();
        for block in blocks {
            pool.add_block(*block, &used, last);
        }
        Ok(Self { pool, pods, hosts })
    }
}

/// A namespace that could not be made whole; the link in it goes with it.
fn drop_half_made(path: &Path) {
    if let Err(error) = namespace::drop_name(path) {
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot drop a namespace");
    }
}

/// File name of the namespace of a trust domain; identifiers of the others have no dash.
fn host_name(domain: &str) -> String {
    format!("host-{domain}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prepares namespaces ahead of need, as long as the network is in use.
pub(super) fn keep_pool_filled(work: &Arc<Work>) {
    let (weak, taken) = (Arc::downgrade(work), Arc::clone(&work.taken));
    tokio::spawn(async move {
        while let Some(work) = weak.upgrade() {
            let filled = tokio::task::spawn_blocking(move || fill(&work)).await;
            if let Ok(Err(error)) = filled {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot prepare a namespace");
            }
            taken.notified().await;
        }
    });
}

impl Drop for Work {
    fn drop(&mut self) {
        // Whoever fills the pool sees that there is nothing to fill any more.
        self.taken.notify_one();
    }
}

fn fill(work: &Work) -> Result<(), NetworkError> {
    if lock(&work.prepared).len() >= work.config.pool {
        return Ok(());
    }
    let mut node = Socket::open(Family::Route).step("open a socket")?;
    while lock(&work.prepared).len() < work.config.pool {
        let prepared = work.prepare(&mut node)?;
        lock(&work.prepared).push(prepared);
    }
    Ok(())
}

/// Drops namespaces in batches: the kernel takes a batch down in one go.
async fn drop_together(mut dropped: mpsc::Receiver<PathBuf>) {
    let mut batch = Vec::new();
    while dropped.recv_many(&mut batch, WAITING_TO_DROP).await > 0 {
        tokio::time::sleep(DROP_TOGETHER).await;
        while let Ok(path) = dropped.try_recv() {
            batch.push(path);
        }
        let paths = std::mem::take(&mut batch);
        let work = move || {
            for path in paths {
                if let Err(error) = namespace::drop_name(&path) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot drop a namespace");
                }
            }
        };
        let _ = tokio::task::spawn_blocking(work).await;
    }
}
