//! The names of the cluster, after the Kubernetes DNS specification 1.1.0
//! (<https://github.com/kubernetes/dns/blob/master/docs/specification.md>). In memory, changed Service by
//! Service, asked without copying.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use crate::model::{Endpoint, Name, Publish, Service, ServiceKind, Slice};
use crate::services::elements::Protocol;

/// A named or unnamed port with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) number: u16,
}

/// One endpoint of a headless Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Its name below the Service's: the pod's hostname, or its address with dashes.
    pub(super) label: String,
    pub(super) address: Ipv4Addr,
    pub(super) ports: Vec<Port>,
}

/// What a Service's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// A ClusterIP.
    Address { address: Ipv4Addr, ports: Vec<Port> },
    /// Its endpoints.
    Members(Vec<Member>),
    /// Another name.
    Alias(String),
}

impl Entry {
    /// What the objects of the API mean for names.
    pub(super) fn read<'a>(service: &Service, slices: impl Iterator<Item = &'a Slice>) -> Self {
        match &service.kind {
            ServiceKind::ExternalName(target) => Self::Alias(target.clone()),
            ServiceKind::ClusterIp(address) => {
                let ports = service.ports.iter();
                let port = ports.map(|p| Port { name: p.name.clone(), protocol: p.protocol, number: p.port });
                Self::Address { address: *address, ports: port.collect() }
            }
            ServiceKind::Headless => Self::Members(members(service.publish, slices)),
        }
    }

    fn addresses(&self) -> Vec<Ipv4Addr> {
        match self {
            Self::Address { address, .. } => vec![*address],
            Self::Members(members) => members.iter().map(|member| member.address).collect(),
            Self::Alias(_) => Vec::new(),
        }
    }
}

fn members<'a>(publish: Publish, slices: impl Iterator<Item = &'a Slice>) -> Vec<Member> {
    let mut found = Vec::new();
    let named = |endpoint: &&Endpoint| endpoint.ready || publish == Publish::All;
    for slice in slices {
        let ports = slice.ports.iter();
        let ports = ports.map(|p| Port { name: p.name.clone(), protocol: p.protocol, number: p.port });
        let ports: Vec<Port> = ports.collect();
        for endpoint in slice.endpoints.iter().filter(named) {
            found.extend(endpoint.addresses.iter().map(|address| Member {
                label: endpoint.hostname.clone().unwrap_or_else(|| dashed(*address)),
                address: *address,
                ports: ports.clone(),
            }));
        }
    }
    merged(found)
}

/// An endpoint may be in two slices for a moment, or for good with ports of its own in each.
fn merged(members: Vec<Member>) -> Vec<Member> {
    let mut found: Vec<Member> = Vec::with_capacity(members.len());
    let mut places: HashMap<(String, Ipv4Addr), usize> = HashMap::new();
    for member in members {
        let place = *places.entry((member.label.clone(), member.address)).or_insert(found.len());
        match found.get_mut(place) {
            Some(known) => {
                let new: Vec<_> = member.ports.into_iter().filter(|p| !known.ports.contains(p)).collect();
                known.ports.extend(new);
            }
            None => found.push(member),
        }
    }
    found
}

/// An address as a label: `10-128-0-5`.
pub(super) fn dashed(address: Ipv4Addr) -> String {
    address.to_string().replace('.', "-")
}

/// Reads [`dashed`].
pub(super) fn undashed(label: &str) -> Option<Ipv4Addr> {
    if label.contains('.') { None } else { label.replace('-', ".").parse().ok() }
}

/// All Services by namespace and name, and by address.
#[derive(Debug, Default)]
pub(super) struct Table {
    namespaces: HashMap<String, HashMap<String, Entry>>,
    by_address: HashMap<Ipv4Addr, BTreeSet<Name>>,
}

impl Table {
    /// The Service of this name. Names are in lower case, as DNS labels of Kubernetes are.
    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<&Entry> {
        self.namespaces.get(namespace)?.get(name)
    }

    /// True if the namespace has a Service.
    pub(super) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// The Services that have this address, with their entries.
    pub(super) fn at(&self, address: Ipv4Addr) -> impl Iterator<Item = (&Name, &Entry)> {
        let names = self.by_address.get(&address).into_iter().flatten();
        names.filter_map(|name| Some((name, self.service(&name.namespace, &name.name)?)))
    }

    /// Sets or removes one Service.
    pub(super) fn set(&mut self, name: &Name, entry: Option<Entry>) {
        let old = self.namespaces.get_mut(&name.namespace).and_then(|services| services.remove(&name.name));
        for address in old.map(|old| old.addresses()).unwrap_or_default() {
            if let Some(names) = self.by_address.get_mut(&address) {
                names.remove(name);
                if names.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
        if let Some(entry) = entry {
            for address in entry.addresses() {
                self.by_address.entry(address).or_default().insert(name.clone());
            }
            let services = self.namespaces.entry(name.namespace.clone()).or_default();
            services.insert(name.name.clone(), entry);
        } else if self.namespaces.get(&name.namespace).is_some_and(HashMap::is_empty) {
            self.namespaces.remove(&name.namespace);
        }
    }
}
