//! What the data maps of the rules hold, as values: from the backends of each Service port to map elements,
//! and the difference between two such sets. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

/// Transport protocol of a Service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol of a Service or EndpointSlice port (`core/v1` Protocol); absent means TCP.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// Number in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|protocol| protocol.number() == number)
    }
}

/// Where clients connect to. For NodePorts the address is `0.0.0.0`, which stands for every address of the
/// node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// ClusterIP, external address, or `0.0.0.0`.
    pub address: Ipv4Addr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
}

/// Where a connection ends up: a pod's address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Pod address.
    pub address: Ipv4Addr,
    /// Pod port.
    pub port: u16,
}

/// How a backend is chosen for a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Choice {
    /// Any, evenly.
    Random,
    /// By the client's address (`sessionAffinity: ClientIP`): the same one as long as the backends stay.
    ClientAddress,
}

/// Whose address the backend sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientSource {
    /// The client's own.
    Kept,
    /// The node's, so that answers come back through it.
    Masqueraded,
}

/// Why these backends get traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// They are ready.
    Ready,
    /// None is ready; these are terminating and still serve.
    LastResort,
}

/// The backends of one frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// How one is chosen.
    pub choice: Choice,
    /// Whose address they see.
    pub source: ClientSource,
    /// Why they are here.
    pub standing: Standing,
    /// In a fixed order, each once. Empty: connections are refused.
    pub backends: Vec<Backend>,
}

/// Up to this number of backends each gets exactly the same share.
const EXACT: usize = 32;
/// Numbers of slots for more backends: at least eight each, so that shares differ by an eighth at most.
const COARSE: [(usize, u32); 4] = [(64, 512), (256, 2048), (1024, 8192), (8192, 65536)];

/// Which fixed rule chooses among the slots of a frontend: its modulus and its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chooser(u32);

impl Chooser {
    const CLIENT_ADDRESS: u32 = 1 << 31;

    /// The chooser for this number of backends (at least one). Beyond 8,192 the rest gets no traffic.
    fn new(backends: usize, choice: Choice) -> Self {
        let slots = if backends <= EXACT {
            u32::try_from(backends).unwrap_or(1)
        } else {
            COARSE.iter().find(|(most, _)| backends <= *most).map_or(65536, |(_, slots)| *slots)
        };
        Self(if choice == Choice::ClientAddress { slots | Self::CLIENT_ADDRESS } else { slots })
    }

    /// Every chooser there can be.
    pub(crate) fn all() -> impl Iterator<Item = Chooser> {
        let exact = (1..=EXACT).map(|n| Self::new(n, Choice::Random));
        let coarse = COARSE.iter().map(|(_, slots)| Self(*slots));
        exact.chain(coarse).flat_map(|c| [c, Self(c.0 | Self::CLIENT_ADDRESS)])
    }

    /// Number of slots that it chooses from.
    pub(crate) fn slots(self) -> u32 {
        self.0 & !Self::CLIENT_ADDRESS
    }

    /// How it chooses.
    pub(crate) fn choice(self) -> Choice {
        if self.0 & Self::CLIENT_ADDRESS == 0 { Choice::Random } else { Choice::ClientAddress }
    }

    /// As the maps hold it.
    pub(crate) fn bytes(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }
}

/// The key of one element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// This frontend has backends.
    Frontend(Frontend),
    /// One slot of a frontend.
    Slot(Frontend, u32),
    /// Connections to this frontend are masqueraded.
    Masqueraded(Frontend),
    /// Connections from this backend to itself are masqueraded, else the answer would not leave the pod.
    Hairpin(Ipv4Addr),
}

/// The data of one element; the variant follows from the key's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Value {
    /// Of `Frontend`.
    Chooser(Chooser),
    /// Of `Slot`.
    Backend(Backend),
    /// Of the others.
    Nothing,
}

/// A whole set of elements.
pub type Elements = BTreeMap<Key, Value>;

/// The elements for one frontend, without hairpins. None where there are no backends.
pub fn expand(frontend: Frontend, route: &Route) -> Vec<(Key, Value)> {
    if route.backends.is_empty() {
        return Vec::new();
    }
    let chooser = Chooser::new(route.backends.len(), route.choice);
    let backends = route.backends.iter().take(chooser.slots() as usize).cycle();
    let mut elements: Vec<_> = (0..chooser.slots())
        .zip(backends)
        .map(|(slot, backend)| (Key::Slot(frontend, slot), Value::Backend(*backend)))
        .collect();
    elements.push((Key::Frontend(frontend), Value::Chooser(chooser)));
    if route.source == ClientSource::Masqueraded {
        elements.push((Key::Masqueraded(frontend), Value::Nothing));
    }
    elements
}

/// What leads from one set of elements to another: removals first, then additions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Elements to delete.
    pub remove: Vec<Key>,
    /// Elements to add; a changed one is in both lists.
    pub add: Vec<(Key, Value)>,
}

impl Change {
    /// True if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// The UDP frontends that are touched.
    pub fn udp_frontends(&self) -> BTreeSet<Frontend> {
        let keys = self.remove.iter().chain(self.add.iter().map(|(key, _)| key));
        let frontends = keys.filter_map(|key| match key {
            Key::Frontend(frontend) | Key::Slot(frontend, _) => Some(*frontend),
            Key::Masqueraded(_) | Key::Hairpin(_) => None,
        });
        frontends.filter(|frontend| frontend.protocol == Protocol::Udp).collect()
    }

    fn step(&mut self, key: Key, before: Option<&Value>, after: Option<&Value>) {
        if before == after {
            return;
        }
        if before.is_some() {
            self.remove.push(key);
        }
        self.add.extend(after.map(|after| (key, *after)));
    }
}

/// What leads from `before` to `after`.
pub fn diff(before: &Elements, after: &Elements) -> Change {
    let mut change = Change::default();
    for (key, old) in before {
        change.step(*key, Some(old), after.get(key));
    }
    for (key, new) in after.iter().filter(|(key, _)| !before.contains_key(key)) {
        change.step(*key, None, Some(new));
    }
    change
}

/// Carries a change out on a set of elements.
pub fn apply(change: &Change, elements: &mut Elements) {
    for key in &change.remove {
        elements.remove(key);
    }
    elements.extend(change.add.iter().copied());
}

/// Whether connections are sent to an address, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// No new connection goes there.
    Unused,
    /// Only because nothing better is left.
    LastResort,
    /// As a ready backend.
    Ready,
}

#[derive(Debug, Clone, Copy, Default)]
struct Uses {
    ready: u32,
    last_resort: u32,
}

/// The elements that all Services together want, kept up to date Service by Service: the cost of a change
/// does not grow with their number.
#[derive(Debug, Default)]
pub struct Desired<Name> {
    services: HashMap<Name, Vec<(Frontend, Route)>>,
    defaults: Vec<(Frontend, Route)>,
    /// Positions in `defaults` of those in force.
    filled: Vec<usize>,
    uses: HashMap<Ipv4Addr, Uses>,
    elements: Elements,
}

impl<Name: std::hash::Hash + Eq> Desired<Name> {
    /// Nothing but `defaults`, which hold for frontends that no Service has backends for.
    pub fn new(defaults: Vec<(Frontend, Route)>) -> Self {
        let (services, uses, elements) = (HashMap::new(), HashMap::new(), Elements::new());
        let mut desired = Self { services, defaults, filled: Vec::new(), uses, elements };
        desired.update(Vec::new());
        desired
    }

    /// Everything that is wanted.
    pub fn elements(&self) -> &Elements {
        &self.elements
    }

    /// Whether connections are to be sent to this address.
    pub fn use_of(&self, address: Ipv4Addr) -> Use {
        match self.uses.get(&address) {
            Some(uses) if uses.ready > 0 => Use::Ready,
            Some(_) => Use::LastResort,
            None => Use::Unused,
        }
    }

    /// Replaces the routes of some Services (empty: the Service is gone) and tells what that changes.
    /// A frontend that moves from one Service to another in the same update stays in force.
    pub fn update(&mut self, services: Vec<(Name, Vec<(Frontend, Route)>)>) -> Change {
        let mut before: BTreeMap<Key, Option<Value>> = BTreeMap::new();
        self.take_out_defaults(&mut before);
        for (name, _) in &services {
            for (frontend, route) in self.services.remove(name).unwrap_or_default() {
                self.take_out(&mut before, frontend, &route);
            }
        }
        for (name, routes) in services {
            for (frontend, route) in &routes {
                self.put_in(&mut before, *frontend, route);
            }
            if !routes.is_empty() {
                self.services.insert(name, routes);
            }
        }
        self.fill_defaults(&mut before);
        let mut change = Change::default();
        for (key, old) in before {
            change.step(key, old.as_ref(), self.elements.get(&key));
        }
        change
    }

    fn take_out_defaults(&mut self, before: &mut BTreeMap<Key, Option<Value>>) {
        for index in std::mem::take(&mut self.filled) {
            let (frontend, route) = self.defaults[index].clone();
            for (key, _) in expand(frontend, &route) {
                self.note(before, key);
                self.elements.remove(&key);
            }
        }
    }

    fn fill_defaults(&mut self, before: &mut BTreeMap<Key, Option<Value>>) {
        for (index, (frontend, route)) in self.defaults.clone().into_iter().enumerate() {
            if self.elements.contains_key(&Key::Frontend(frontend)) {
                continue;
            }
            self.filled.push(index);
            for (key, value) in expand(frontend, &route) {
                self.note(before, key);
                self.elements.insert(key, value);
            }
        }
    }

    fn note(&self, before: &mut BTreeMap<Key, Option<Value>>, key: Key) {
        before.entry(key).or_insert_with(|| self.elements.get(&key).copied());
    }

    fn take_out(&mut self, before: &mut BTreeMap<Key, Option<Value>>, frontend: Frontend, route: &Route) {
        for (key, _) in expand(frontend, route) {
            self.note(before, key);
            self.elements.remove(&key);
        }
        for backend in &route.backends {
            let key = Key::Hairpin(backend.address);
            self.note(before, key);
            if let Some(uses) = self.uses.get_mut(&backend.address) {
                let count = uses.of(route.standing);
                *count = count.saturating_sub(1);
                if uses.ready == 0 && uses.last_resort == 0 {
                    self.uses.remove(&backend.address);
                    self.elements.remove(&key);
                }
            }
        }
    }

    fn put_in(&mut self, before: &mut BTreeMap<Key, Option<Value>>, frontend: Frontend, route: &Route) {
        for (key, value) in expand(frontend, route) {
            self.note(before, key);
            self.elements.insert(key, value);
        }
        for backend in &route.backends {
            let key = Key::Hairpin(backend.address);
            self.note(before, key);
            *self.uses.entry(backend.address).or_default().of(route.standing) += 1;
            self.elements.insert(key, Value::Nothing);
        }
    }
}

impl Uses {
    fn of(&mut self, standing: Standing) -> &mut u32 {
        match standing {
            Standing::Ready => &mut self.ready,
            Standing::LastResort => &mut self.last_resort,
        }
    }
}

impl Frontend {
    /// As the maps hold it: each part starts at a multiple of four bytes.
    pub(crate) fn bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.address.octets());
        bytes[4] = self.protocol.number();
        bytes[8..10].copy_from_slice(&self.port.to_be_bytes());
        bytes
    }

    /// Reads what [`Self::bytes`] wrote.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let address: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        let port: [u8; 2] = bytes.get(8..10)?.try_into().ok()?;
        let protocol = Protocol::from_number(*bytes.get(4)?)?;
        Some(Self { address: address.into(), protocol, port: u16::from_be_bytes(port) })
    }
}

impl Backend {
    /// As the maps hold it.
    pub(crate) fn bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.address.octets());
        bytes[4..6].copy_from_slice(&self.port.to_be_bytes());
        bytes
    }

    /// Reads what [`Self::bytes`] wrote.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let address: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        let port: [u8; 2] = bytes.get(4..6)?.try_into().ok()?;
        Some(Self { address: address.into(), port: u16::from_be_bytes(port) })
    }
}

impl Chooser {
    /// Reads what [`Self::bytes`] wrote.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frontend(port: u16) -> Frontend {
        Frontend { address: Ipv4Addr::new(10, 96, 0, 1), protocol: Protocol::Tcp, port }
    }

    fn route(backends: impl IntoIterator<Item = u8>) -> Route {
        let backends = backends.into_iter();
        Route {
            choice: Choice::Random,
            source: ClientSource::Kept,
            standing: Standing::Ready,
            backends: backends.map(|n| Backend { address: Ipv4Addr::new(10, 128, 0, n), port: 80 }).collect(),
        }
    }

    #[test]
    fn every_backend_has_a_fair_share_of_the_slots() {
        for count in [1_usize, 2, 3, 31, 32, 33, 64, 65, 256, 1000, 8192] {
            let backends = (0..count)
                .map(|n| Backend { address: Ipv4Addr::from_bits(u32::try_from(n).unwrap()), port: 1 });
            let route = Route { backends: backends.collect(), ..route([]) };
            let mut shares: HashMap<Backend, usize> = HashMap::new();
            for (key, value) in expand(frontend(80), &route) {
                if let (Key::Slot(..), Value::Backend(backend)) = (key, value) {
                    *shares.entry(backend).or_default() += 1;
                }
            }
            let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
            assert_eq!(shares.len(), count);
            assert!(most - least <= 1 && (*least >= 8 || least == most), "{count}: {least} to {most}");
            let slots = Chooser::new(count, Choice::Random);
            assert!(Chooser::all().any(|chooser| chooser == slots), "{count}: no rule for {slots:?}");
        }
    }

    #[test]
    fn no_backends_means_no_elements() {
        assert_eq!(expand(frontend(80), &route([])), []);
    }

    #[test]
    fn keys_and_values_survive_their_bytes() {
        let frontend = Frontend { address: Ipv4Addr::new(1, 2, 3, 4), protocol: Protocol::Udp, port: 53 };
        assert_eq!(Frontend::read(&frontend.bytes()), Some(frontend));
        let backend = Backend { address: Ipv4Addr::new(9, 8, 7, 6), port: 65535 };
        assert_eq!(Backend::read(&backend.bytes()), Some(backend));
        for chooser in Chooser::all() {
            assert_eq!(Chooser::read(&chooser.bytes()), Some(chooser));
        }
    }

    #[test]
    fn an_address_is_used_as_long_as_one_service_uses_it() {
        let mut desired = Desired::new(vec![]);
        let address = Ipv4Addr::new(10, 128, 0, 7);
        desired
            .update(vec![("a", vec![(frontend(1), route([7]))]), ("b", vec![(frontend(2), route([7, 8]))])]);
        assert_eq!(desired.use_of(address), Use::Ready);
        desired.update(vec![("a", vec![])]);
        assert_eq!(desired.use_of(address), Use::Ready);
        let last = Route { standing: Standing::LastResort, ..route([7]) };
        desired.update(vec![("b", vec![(frontend(2), last)])]);
        assert_eq!(desired.use_of(address), Use::LastResort);
        desired.update(vec![("b", vec![])]);
        assert_eq!(desired.use_of(address), Use::Unused);
        assert_eq!(desired.elements(), &Elements::new());
    }

    #[test]
    fn a_frontend_that_moves_to_another_service_stays() {
        let mut desired = Desired::new(vec![]);
        desired.update(vec![("old", vec![(frontend(80), route([2, 3]))])]);
        let change = desired.update(vec![("new", vec![(frontend(80), route([2, 3]))]), ("old", vec![])]);
        assert_eq!(change, Change::default());
    }

    #[test]
    fn defaults_give_way_to_a_service_and_come_back() {
        let mut desired = Desired::new(vec![(frontend(53), route([1]))]);
        let slot = |desired: &Desired<&str>| desired.elements().get(&Key::Slot(frontend(53), 0)).copied();
        let backend = |n| Some(Value::Backend(Backend { address: Ipv4Addr::new(10, 128, 0, n), port: 80 }));
        assert_eq!(slot(&desired), backend(1));
        desired.update(vec![("dns", vec![(frontend(53), route([9]))])]);
        assert_eq!(slot(&desired), backend(9));
        desired.update(vec![("dns", vec![(frontend(53), route([]))])]);
        assert_eq!(slot(&desired), backend(1));
    }

    prop_compose! {
        fn routes()(ports in prop::collection::btree_map(1_u16..5, prop::collection::vec(2_u8..9, 0..4), 0..4),
                    last in any::<bool>(), masquerade in any::<bool>()) -> Vec<(Frontend, Route)> {
            ports.into_iter().map(|(port, backends)| {
                let source = if masquerade { ClientSource::Masqueraded } else { ClientSource::Kept };
                let standing = if last { Standing::LastResort } else { Standing::Ready };
                (frontend(port), Route { source, standing, ..route(BTreeSet::from_iter(backends)) })
            }).collect()
        }
    }

    fn whole(routes: &[(Frontend, Route)]) -> Elements {
        let mut desired = Desired::new(vec![]);
        desired.update(vec![("all", routes.to_vec())]);
        desired.elements().clone()
    }

    proptest! {
        #[test]
        fn a_difference_leads_from_one_to_the_other(a in routes(), b in routes()) {
            let (mut from, to) = (whole(&a), whole(&b));
            apply(&diff(&from, &to), &mut from);
            prop_assert_eq!(from, to);
        }

        #[test]
        fn steps_lead_to_the_same_as_a_fresh_start(steps in prop::collection::vec((0_u16..3, routes()), 1..12)) {
            let (mut desired, mut in_force) = (Desired::new(vec![]), Elements::new());
            let mut last = BTreeMap::new();
            for (service, routes) in steps {
                // Services have addresses of their own, as the server allocates them.
                let own = |frontend: Frontend| Frontend { port: frontend.port + 10 * service, ..frontend };
                let routes: Vec<_> = routes.into_iter().map(|(f, r)| (own(f), r)).collect();
                last.insert(service, routes.clone());
                apply(&desired.update(vec![(service, routes)]), &mut in_force);
                prop_assert_eq!(&in_force, desired.elements());
            }
            let all: Vec<_> = last.into_values().flatten().collect();
            prop_assert_eq!(&in_force, &whole(&all));
        }
    }
}
