//! Puts elements into force: one table in each network namespace, changed in atomic transactions.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::desired::{Desired, Use};
use super::elements::{Backend, Change, Chooser, Elements, Frontend, Key, Route, Value, diff};
use super::rules::{self, BACKENDS, FRONTENDS, HAIRPINS, MASQUERADED, MEMBERS, Ranges, Role, TABLE};
use crate::model::Name;
use crate::netlink::conntrack::{self, Flow};
use crate::netlink::nftables::{self, Batch, Set};
use crate::netlink::{Family, NetlinkError, Socket};

/// A network namespace with rules of ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// The node's own.
    Node,
    /// The one that the wasm pods of this trust domain share.
    WasmHost(String),
}

struct Target {
    role: Role,
    socket: Socket,
    state: TargetState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TargetState {
    /// It holds what is wanted.
    InStep,
    /// What it holds must be read first.
    Unknown,
}

struct State {
    desired: Desired<Name>,
    sync: ApiState,
    targets: HashMap<Place, Target>,
    /// The newest resource version that `desired` stands for.
    revision: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ApiState {
    /// The API has not been read yet: what the kernel holds from before stays.
    Waiting,
    /// `desired` is what the API says.
    Read,
}

/// The rules of all our network namespaces on this node.
pub(crate) struct Rules {
    ranges: Ranges,
    state: Mutex<State>,
    rounds: watch::Sender<InForce>,
}

/// How far the rules are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct InForce {
    /// The newest resource version in force everywhere.
    pub(crate) revision: u64,
    /// Number of rounds so far.
    pub(crate) rounds: u64,
}

impl Rules {
    /// No namespace yet. `defaults` hold where no Service has backends.
    pub(crate) fn new(ranges: Ranges, defaults: Vec<(Frontend, Route)>) -> Self {
        let (sync, targets) = (ApiState::Waiting, HashMap::new());
        let state = State { desired: Desired::new(defaults), sync, targets, revision: 0 };
        Self { ranges, state: Mutex::new(state), rounds: watch::Sender::default() }
    }

    /// Adds the namespace of the calling thread. When this returns it has the fixed rules and, once the API
    /// was read, every element. Elements from before a restart stay.
    pub(crate) fn add(&self, place: Place, role: Role) -> Result<(), NetlinkError> {
        let socket = Socket::open(Family::Netfilter)?;
        let mut target = Target { role, socket, state: TargetState::Unknown };
        let mut state = self.lock();
        ensure_table(&mut target, self.ranges)?;
        match state.sync {
            ApiState::Read => bring_into_step(&mut target, state.desired.elements(), self.ranges)?,
            ApiState::Waiting => add_missing(&mut target, state.desired.elements())?,
        }
        state.targets.insert(place, target);
        Ok(())
    }

    /// Lets go of a namespace; its rules stay as they are.
    pub(crate) fn remove(&self, place: &Place) {
        self.lock().targets.remove(place);
    }

    /// Puts new routes of some Services into force everywhere. `revision` is the newest resource version that
    /// they stand for. A namespace that refuses is tried again by [`Self::repair`]; the first error is told.
    pub(crate) fn update(
        &self,
        services: Vec<(Name, Vec<(Frontend, Route)>)>,
        revision: u64,
    ) -> Result<usize, NetlinkError> {
        let mut state = self.lock();
        let change = state.desired.update(services);
        let first = state.sync == ApiState::Waiting;
        state.sync = ApiState::Read;
        state.revision = state.revision.max(revision);
        let State { desired, targets, .. } = &mut *state;
        let mut result = Ok(change.remove.len() + change.add.len());
        for target in targets.values_mut() {
            let outcome = if first || target.state == TargetState::Unknown {
                bring_into_step(target, desired.elements(), self.ranges)
            } else {
                commit(target, &change, desired.elements())
                    .or_else(|_| bring_into_step(target, desired.elements(), self.ranges))
            };
            if let Err(error) = outcome {
                result = Err(error);
            }
        }
        let revision = in_force(&state);
        drop(state);
        self.tell(revision);
        result
    }

    /// Puts the routes of something that is no Service into force everywhere, also before the API was read: then
    /// beside what is there from before.
    pub(crate) fn publish(&self, name: Name, routes: Vec<(Frontend, Route)>) -> Result<(), NetlinkError> {
        let mut state = self.lock();
        let change = state.desired.update(vec![(name, routes)]);
        if change.is_empty() {
            return Ok(());
        }
        let State { desired, targets, sync, .. } = &mut *state;
        let mut result = Ok(());
        for target in targets.values_mut() {
            let outcome = match (*sync, target.state) {
                (ApiState::Waiting, _) => add_missing(target, desired.elements()),
                (ApiState::Read, TargetState::Unknown) => {
                    bring_into_step(target, desired.elements(), self.ranges)
                }
                (ApiState::Read, TargetState::InStep) => commit(target, &change, desired.elements())
                    .or_else(|_| bring_into_step(target, desired.elements(), self.ranges)),
            };
            if let Err(error) = outcome {
                result = Err(error);
            }
        }
        result
    }

    /// Looks whether every table is still there (another program may have flushed all rules) and brings what
    /// is not in step into step.
    pub(crate) fn repair(&self) -> Result<(), NetlinkError> {
        let mut state = self.lock();
        let State { desired, targets, sync, .. } = &mut *state;
        if *sync == ApiState::Waiting {
            return Ok(());
        }
        let mut result = Ok(());
        for target in targets.values_mut() {
            // A namespace that fails does not keep the others from being mended.
            if let Err(error) = mend(target, desired.elements(), self.ranges) {
                result = Err(error);
            }
        }
        let revision = in_force(&state);
        drop(state);
        self.tell(revision);
        result
    }

    /// Tells of every round.
    pub(crate) fn rounds(&self) -> watch::Receiver<InForce> {
        self.rounds.subscribe()
    }

    fn tell(&self, revision: u64) {
        self.rounds.send_modify(|in_force| {
            in_force.revision = in_force.revision.max(revision);
            in_force.rounds += 1;
        });
    }

    /// Whether new connections go to this address. Waits for a change that is under way.
    pub(crate) fn use_of(&self, address: Ipv4Addr) -> Use {
        let state = self.lock();
        let behind = state.targets.values().any(|target| target.state != TargetState::InStep);
        if behind { Use::Ready } else { state.desired.use_of(address) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest resource version in force everywhere; 0 where a namespace is behind.
fn in_force(state: &State) -> u64 {
    let behind = state.targets.values().any(|target| target.state != TargetState::InStep);
    if behind { 0 } else { state.revision }
}

fn mend(target: &mut Target, wanted: &Elements, ranges: Ranges) -> Result<(), NetlinkError> {
    let found = nftables::table_userdata(&mut target.socket, TABLE)?;
    let whole = found.is_some_and(|found| found == rules::fingerprint(target.role, ranges));
    if whole && target.state == TargetState::InStep {
        return Ok(());
    }
    bring_into_step(target, wanted, ranges)
}

/// Makes the table where there is none or one with other rules. Elements of an older table are taken over in
/// the same transaction, so that no connection meets a node without rules.
fn ensure_table(target: &mut Target, ranges: Ranges) -> Result<(), NetlinkError> {
    let wanted = rules::fingerprint(target.role, ranges);
    let found = nftables::table_userdata(&mut target.socket, TABLE)?;
    if found.as_ref() == Some(&wanted) {
        return Ok(());
    }
    let mut batch = Batch::new(TABLE);
    let mut old = Elements::new();
    if found.is_some() {
        old = observe_known(&mut target.socket);
        batch.delete_table();
    }
    batch.add_table(&wanted);
    rules::write(&mut batch, target.role, ranges);
    write(&mut batch, &diff(&Elements::new(), &old));
    batch.commit(&mut target.socket)
}

/// Makes the table hold exactly these elements, whatever it holds now.
fn bring_into_step(target: &mut Target, wanted: &Elements, ranges: Ranges) -> Result<(), NetlinkError> {
    target.state = TargetState::Unknown;
    ensure_table(target, ranges)?;
    let change = diff(&observe(&mut target.socket)?, wanted);
    commit(target, &change, wanted)
}

/// Adds what is not there yet, and leaves the rest.
fn add_missing(target: &mut Target, wanted: &Elements) -> Result<(), NetlinkError> {
    let found = observe(&mut target.socket)?;
    // A frontend that has backends from before keeps them, whatever they are.
    let taken = |key: &Key| match key {
        Key::Frontend(frontend)
        | Key::Slot(frontend, _)
        | Key::Member(frontend, _)
        | Key::Masqueraded(frontend) => found.contains_key(&Key::Frontend(*frontend)),
        Key::Hairpin(_) => found.contains_key(key),
    };
    let missing = wanted.iter().filter(|(key, _)| !taken(key)).map(|(key, value)| (*key, *value));
    let mut batch = Batch::new(TABLE);
    write(&mut batch, &Change { remove: Vec::new(), add: missing.collect() });
    batch.commit(&mut target.socket)
}

fn commit(target: &mut Target, change: &Change, wanted: &Elements) -> Result<(), NetlinkError> {
    target.state = TargetState::Unknown;
    let mut batch = Batch::new(TABLE);
    write(&mut batch, change);
    batch.commit(&mut target.socket)?;
    target.state = TargetState::InStep;
    let frontends = change.udp_frontends();
    if frontends.is_empty() {
        return Ok(());
    }
    let stale = stale_flows(conntrack::udp_flows(&mut target.socket)?, &frontends, wanted);
    conntrack::delete_udp_flows(&mut target.socket, &stale)
}

/// UDP flows to these frontends whose backend is gone: without help they would go on to it for as long as the
/// client sends. TCP connections end by themselves.
fn stale_flows(flows: Vec<Flow>, frontends: &BTreeSet<Frontend>, wanted: &Elements) -> Vec<Flow> {
    let backends = |frontend: Frontend| {
        wanted.range(Key::Slot(frontend, 0)..=Key::Slot(frontend, u32::MAX)).map(|(_, value)| *value)
    };
    let is_stale = |flow: &Flow| {
        let (address, port) = flow.original.destination;
        let (backend_address, backend_port) = flow.reply.source;
        let to = Value::Backend(Backend { address: backend_address, port: backend_port });
        let translated = flow.reply.source != flow.original.destination;
        frontends.iter().any(|frontend| {
            let meant = frontend.port == port
                && (frontend.address == address || (frontend.address.is_unspecified() && translated));
            meant && backends(*frontend).all(|backend| backend != to)
        })
    };
    flows.into_iter().filter(is_stale).collect()
}

/// Everything that the kernel holds.
fn observe(socket: &mut Socket) -> Result<Elements, NetlinkError> {
    let mut found = Elements::new();
    observe_frontends(socket, &mut found)?;
    observe_rest(socket, &mut found)?;
    Ok(found)
}

fn observe_frontends(socket: &mut Socket, found: &mut Elements) -> Result<(), NetlinkError> {
    for (key, value) in nftables::elements(socket, TABLE, FRONTENDS.name)? {
        let frontend = Frontend::read(&key).map(Key::Frontend);
        found.extend(frontend.zip(Chooser::read(&value).map(Value::Chooser)));
    }
    for (key, value) in nftables::elements(socket, TABLE, BACKENDS.name)? {
        let slot = key.get(12..16).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        let key = Frontend::read(&key).zip(slot).map(|(frontend, slot)| Key::Slot(frontend, slot));
        found.extend(key.zip(Backend::read(&value).map(Value::Backend)));
    }
    Ok(())
}

fn observe_rest(socket: &mut Socket, found: &mut Elements) -> Result<(), NetlinkError> {
    for (key, _) in nftables::elements(socket, TABLE, MASQUERADED.name)? {
        found.extend(Frontend::read(&key).map(|frontend| (Key::Masqueraded(frontend), Value::Nothing)));
    }
    for (key, _) in nftables::elements(socket, TABLE, HAIRPINS.name)? {
        let address = key.get(..4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        found.extend(address.map(|address| (Key::Hairpin(address.into()), Value::Nothing)));
    }
    // Last: tables of older rules have no such set.
    for (key, _) in nftables::elements(socket, TABLE, MEMBERS.name)? {
        let backend = key.get(16..).and_then(Backend::read);
        let member = Frontend::read(&key).zip(backend);
        found.extend(member.map(|(frontend, backend)| (Key::Member(frontend, backend), Value::Nothing)));
    }
    Ok(())
}

/// What a table of perhaps other rules holds that ours understand: only whole frontends, without memory of
/// clients. What is missing comes when the API is read.
fn observe_known(socket: &mut Socket) -> Elements {
    let mut found = Elements::new();
    let _ = observe_frontends(socket, &mut found);
    let _ = observe_rest(socket, &mut found);
    let kept = found.clone();
    found.retain(|key, _| match key {
        Key::Slot(frontend, _) | Key::Masqueraded(frontend) | Key::Member(frontend, _) => {
            kept.contains_key(&Key::Frontend(*frontend))
        }
        Key::Frontend(_) | Key::Hairpin(_) => true,
    });
    found
}

/// Adds a change to a batch: all removals, then all additions.
fn write(batch: &mut Batch, change: &Change) {
    let mut removed = [const { Vec::new() }; SETS.len()];
    for key in &change.remove {
        let (set, key) = encode_key(key);
        removed[set].push(key);
    }
    let mut added = [const { Vec::new() }; SETS.len()];
    for (key, value) in &change.add {
        let (set, key) = encode_key(key);
        added[set].push((key, encode_value(value)));
    }
    for (set, keys) in SETS.iter().zip(&removed) {
        batch.delete_elements(set, keys);
    }
    for (set, elements) in SETS.iter().zip(&added) {
        batch.add_elements(set, elements);
    }
}

const SETS: [Set; 5] = [FRONTENDS, BACKENDS, MASQUERADED, HAIRPINS, MEMBERS];

/// Position in `SETS`, and the key's bytes.
fn encode_key(key: &Key) -> (usize, Vec<u8>) {
    match key {
        Key::Frontend(frontend) => (0, frontend.bytes().to_vec()),
        Key::Slot(frontend, slot) => (1, [&frontend.bytes()[..], &slot.to_ne_bytes()[..]].concat()),
        Key::Masqueraded(frontend) => (2, frontend.bytes().to_vec()),
        Key::Hairpin(address) => (3, [address.octets(), address.octets()].concat()),
        Key::Member(frontend, backend) => {
            (4, [&frontend.bytes()[..], &[0; 4][..], &backend.bytes()[..]].concat())
        }
    }
}

fn encode_value(value: &Value) -> Vec<u8> {
    match value {
        Value::Chooser(chooser) => chooser.bytes().to_vec(),
        Value::Backend(backend) => backend.bytes().to_vec(),
        Value::Nothing => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::conntrack::Tuple;
    use crate::services::elements::{Choice, ClientSource, Protocol, Standing, expand};

    #[test]
    fn only_flows_to_backends_that_are_gone_are_stale() {
        let [vip, kept, gone, client] = [1, 2, 3, 4].map(|n| Ipv4Addr::new(10, 0, 0, n));
        let frontend = Frontend { address: vip, protocol: Protocol::Udp, port: 53 };
        let backends = vec![Backend { address: kept, port: 53 }];
        let (choice, source, standing) = (Choice::Random, ClientSource::Kept, Standing::Ready);
        let wanted = expand(frontend, &Route { choice, source, standing, backends }).into_iter().collect();
        let flow = |to: Ipv4Addr, port, backend| Flow {
            original: Tuple { source: (client, 9), destination: (to, port) },
            reply: Tuple { source: backend, destination: (client, 9) },
        };
        let stale = vec![flow(vip, 53, (gone, 53)), flow(vip, 53, (vip, 53)), flow(vip, 53, (kept, 54))];
        let fine = vec![flow(vip, 53, (kept, 53)), flow(vip, 54, (gone, 53)), flow(gone, 53, (gone, 53))];
        let all = [stale.clone(), fine].concat();
        assert_eq!(stale_flows(all, &BTreeSet::from([frontend]), &wanted), stale);
    }
}
