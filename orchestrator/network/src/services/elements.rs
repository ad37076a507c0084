//! What the data maps of the rules hold, as values: from the backends of each Service port to map elements,
//! and the difference between two such sets. Pure.

use std::collections::{BTreeMap, BTreeSet};
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
    /// The one that the client's address met before (`sessionAffinity: ClientIP`), as long as it is a backend.
    ClientAddress(Memory),
}

/// How long a client's backend is remembered after its last new connection. The rules are fixed, so these are
/// a few steps; a Service gets the next longer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Memory(u8);

impl Memory {
    /// Seconds of each step. The longest is the longest that the API allows.
    const STEPS: [u32; 6] = [10, 60, 600, 3600, 10_800, 86_400];
    /// The API's default: three hours.
    pub const DEFAULT: Self = Self(4);

    /// The step for `sessionAffinityConfig.clientIP.timeoutSeconds`.
    pub fn for_seconds(seconds: u32) -> Self {
        let step = Self::STEPS.iter().position(|step| *step >= seconds).unwrap_or(Self::STEPS.len() - 1);
        Self(u8::try_from(step).unwrap_or(0))
    }

    /// How long that is.
    pub(crate) fn seconds(self) -> u32 {
        Self::STEPS[usize::from(self.0)]
    }

    fn all() -> impl Iterator<Item = Self> + Clone {
        (0_u8..).take(Self::STEPS.len()).map(Self)
    }
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
/// The same for backends that clients come back to: there a new backend should move few of the new clients.
const STICKY: [(usize, u32); 5] = [(8, 64), (64, 512), (256, 2048), (1024, 8192), (8192, 65536)];

/// Which fixed rule chooses among the slots of a frontend: its modulus and its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chooser(u32);

impl Chooser {
    const CLIENT_ADDRESS: u32 = 1 << 31;
    /// Where the step of the memory is.
    const MEMORY: u32 = 24;
    const SLOTS: u32 = (1 << Self::MEMORY) - 1;

    /// The chooser for this number of backends (at least one). Beyond 8,192 the rest gets no traffic.
    fn new(backends: usize, choice: Choice) -> Self {
        let among = |sizes: &[(usize, u32)]| {
            sizes.iter().find(|(most, _)| backends <= *most).map_or(65536, |(_, slots)| *slots)
        };
        match choice {
            Choice::Random if backends <= EXACT => Self(u32::try_from(backends).unwrap_or(1)),
            Choice::Random => Self(among(&COARSE)),
            Choice::ClientAddress(memory) => Self::sticky(among(&STICKY), memory),
        }
    }

    fn sticky(slots: u32, memory: Memory) -> Self {
        Self(slots | u32::from(memory.0) << Self::MEMORY | Self::CLIENT_ADDRESS)
    }

    /// Every chooser there can be.
    pub(crate) fn all() -> impl Iterator<Item = Chooser> {
        let exact = (1..=EXACT).map(|n| Self::new(n, Choice::Random));
        let coarse = COARSE.iter().map(|(_, slots)| Self(*slots));
        let sticky =
            STICKY.iter().flat_map(|(_, slots)| Memory::all().map(|memory| Self::sticky(*slots, memory)));
        exact.chain(coarse).chain(sticky)
    }

    /// Number of slots that it chooses from.
    pub(crate) fn slots(self) -> u32 {
        self.0 & Self::SLOTS
    }

    /// How it chooses.
    pub(crate) fn choice(self) -> Choice {
        if self.0 & Self::CLIENT_ADDRESS == 0 {
            return Choice::Random;
        }
        let step = (self.0 & !Self::CLIENT_ADDRESS) >> Self::MEMORY;
        Choice::ClientAddress(Memory(u8::try_from(step).unwrap_or(0)))
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
    /// This is a backend of a frontend whose clients come back to theirs.
    Member(Frontend, Backend),
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
    if let Choice::ClientAddress(_) = route.choice {
        let members = route.backends.iter().take(chooser.slots() as usize);
        elements.extend(members.map(|backend| (Key::Member(frontend, *backend), Value::Nothing)));
    }
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
            Key::Member(..) | Key::Masqueraded(_) | Key::Hairpin(_) => None,
        });
        frontends.filter(|frontend| frontend.protocol == Protocol::Udp).collect()
    }

    /// Notes what became of one element.
    pub(super) fn step(&mut self, key: Key, before: Option<&Value>, after: Option<&Value>) {
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
    /// Reads what [`Self::bytes`] wrote; another version of the rules may have had others.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let read = Self(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?));
        Self::all().find(|chooser| *chooser == read)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

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
            for choice in [Choice::Random, Choice::ClientAddress(Memory::DEFAULT)] {
                let slots = Chooser::new(count, choice);
                assert_eq!(slots.choice(), choice);
                assert!(Chooser::all().any(|chooser| chooser == slots), "{count}: no rule for {slots:?}");
            }
        }
    }

    #[test]
    fn clients_are_remembered_at_least_as_long_as_asked() {
        for (asked, kept) in
            [(0, 10), (10, 10), (11, 60), (10_800, 10_800), (86_400, 86_400), (u32::MAX, 86_400)]
        {
            assert_eq!(Memory::for_seconds(asked).seconds(), kept, "{asked}");
        }
        assert_eq!(Memory::for_seconds(10_800), Memory::DEFAULT);
        let sticky = Route { choice: Choice::ClientAddress(Memory::DEFAULT), ..route([2, 3]) };
        let keys: Vec<_> = expand(frontend(80), &sticky).into_iter().map(|(key, _)| key).collect();
        for backend in sticky.backends {
            assert!(keys.contains(&Key::Member(frontend(80), backend)));
        }
        assert_eq!(Chooser::read(&[0xff; 4]), None, "a chooser of other rules");
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
}
