//! What all Services together want of the rules, kept up to date Service by Service. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use super::elements::{Change, Elements, Frontend, Key, Route, Standing, Value, expand};

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
#[derive(Debug)]
pub struct Desired<Name> {
    services: HashMap<Name, Vec<(Frontend, Route)>>,
    /// Who wants a frontend, in the order in which they came; the first has it. Mostly that is one Service.
    /// Two may name the same external address, and for a moment after a list of the API was read anew a
    /// ClusterIP belongs to a Service that is gone and to one that came.
    claims: HashMap<Frontend, Vec<Name>>,
    defaults: Vec<(Frontend, Route)>,
    /// Positions in `defaults` of those in force.
    filled: Vec<usize>,
    uses: HashMap<Ipv4Addr, Uses>,
    elements: Elements,
}

/// The elements that a change touches, as they were.
type Before = BTreeMap<Key, Option<Value>>;

impl<Name: std::hash::Hash + Eq + Clone> Desired<Name> {
    /// Nothing but `defaults`, which hold for frontends that no Service has backends for.
    pub fn new(defaults: Vec<(Frontend, Route)>) -> Self {
        let mut desired = Self {
            services: HashMap::new(),
            claims: HashMap::new(),
            defaults,
            filled: Vec::new(),
            uses: HashMap::new(),
            elements: Elements::new(),
        };
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
    /// A frontend that moves from one Service to another in the same update stays in force. Of two routes
    /// that one Service has for the same frontend the first holds.
    pub fn update(&mut self, services: Vec<(Name, Vec<(Frontend, Route)>)>) -> Change {
        let mut before = Before::new();
        self.take_out_defaults(&mut before);
        // All claims are given up before any is made: what moves does not wait behind its old owner.
        for (name, routes) in &services {
            self.withdraw(&mut before, name, routes);
        }
        for (name, mut routes) in services {
            let mut seen = std::collections::HashSet::new();
            routes.retain(|(frontend, _)| seen.insert(*frontend));
            self.claim(&mut before, &name, &routes);
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

    /// Takes a Service's routes out. Frontends that it keeps it keeps its place for; of the others the next
    /// in line gets hold.
    fn withdraw(&mut self, before: &mut Before, name: &Name, kept: &[(Frontend, Route)]) {
        for (frontend, route) in self.services.remove(name).unwrap_or_default() {
            let first = self.claims.get(&frontend).and_then(|claims| claims.first()) == Some(name);
            if first {
                self.take_out(before, frontend, &route);
            }
            if kept.iter().any(|(other, _)| *other == frontend) {
                continue;
            }
            let Some(claims) = self.claims.get_mut(&frontend) else { continue };
            claims.retain(|claim| claim != name);
            let next = claims.first().cloned();
            if next.is_none() {
                self.claims.remove(&frontend);
            }
            if let Some(route) = next.filter(|_| first).and_then(|next| self.route_of(&next, frontend)) {
                self.put_in(before, frontend, &route);
            }
        }
    }

    fn claim(&mut self, before: &mut Before, name: &Name, routes: &[(Frontend, Route)]) {
        for (frontend, route) in routes {
            let claims = self.claims.entry(*frontend).or_default();
            if !claims.contains(name) {
                claims.push(name.clone());
            }
            if claims.first() == Some(name) {
                self.put_in(before, *frontend, route);
            }
        }
    }

    /// The route of a Service that is not being changed at the moment.
    fn route_of(&self, name: &Name, frontend: Frontend) -> Option<Route> {
        let routes = self.services.get(name)?;
        routes.iter().find(|(other, _)| *other == frontend).map(|(_, route)| route.clone())
    }

    fn take_out_defaults(&mut self, before: &mut Before) {
        for index in std::mem::take(&mut self.filled) {
            let (frontend, route) = self.defaults[index].clone();
            for (key, _) in expand(frontend, &route) {
                self.note(before, key);
                self.elements.remove(&key);
            }
        }
    }

    fn fill_defaults(&mut self, before: &mut Before) {
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

    fn note(&self, before: &mut Before, key: Key) {
        before.entry(key).or_insert_with(|| self.elements.get(&key).copied());
    }

    fn take_out(&mut self, before: &mut Before, frontend: Frontend, route: &Route) {
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

    fn put_in(&mut self, before: &mut Before, frontend: Frontend, route: &Route) {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::services::elements::{Backend, Choice, ClientSource, Memory, Protocol, apply, diff};

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

    /// The backend in slot 0, by its last number.
    fn first(desired: &Desired<&str>, port: u16) -> Option<u8> {
        match desired.elements().get(&Key::Slot(frontend(port), 0)) {
            Some(Value::Backend(backend)) => Some(backend.address.octets()[3]),
            _ => None,
        }
    }

    #[test]
    fn of_two_services_with_one_frontend_the_first_has_it_until_it_goes() {
        let mut desired = Desired::new(vec![]);
        let at_80 = |n: u8| vec![(frontend(80), route([n]))];
        desired.update(vec![("old", at_80(2))]);
        assert_eq!(desired.update(vec![("new", at_80(3))]), Change::default());
        assert_eq!(
            (first(&desired, 80), desired.use_of(Ipv4Addr::new(10, 128, 0, 3))),
            (Some(2), Use::Unused)
        );
        // Its own changes do not cost the first its place.
        desired.update(vec![("old", at_80(4))]);
        assert_eq!(first(&desired, 80), Some(4));
        desired.update(vec![("new", at_80(5))]);
        assert_eq!(first(&desired, 80), Some(4));
        desired.update(vec![("old", vec![])]);
        assert_eq!(
            (first(&desired, 80), desired.use_of(Ipv4Addr::new(10, 128, 0, 5))),
            (Some(5), Use::Ready)
        );
        desired.update(vec![("new", vec![])]);
        assert_eq!(desired.elements(), &Elements::new());
        // Both at once, the second first.
        desired.update(vec![("a", at_80(6)), ("b", at_80(7))]);
        desired.update(vec![("b", at_80(8)), ("a", vec![])]);
        assert_eq!(first(&desired, 80), Some(8));
    }

    #[test]
    fn of_two_routes_for_one_frontend_the_first_holds() {
        let mut desired = Desired::new(vec![]);
        let sticky = Route { choice: Choice::ClientAddress(Memory::DEFAULT), ..route([3, 4]) };
        desired.update(vec![("a", vec![(frontend(80), route([2])), (frontend(80), sticky)])]);
        assert_eq!(first(&desired, 80), Some(2));
        desired.update(vec![("a", vec![])]);
        assert_eq!(desired.elements(), &Elements::new());
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
                    last in any::<bool>(), masquerade in any::<bool>(), sticky in any::<bool>()) -> Vec<(Frontend, Route)> {
            ports.into_iter().map(|(port, backends)| {
                let choice = if sticky { Choice::ClientAddress(Memory::DEFAULT) } else { Choice::Random };
                let source = if masquerade { ClientSource::Masqueraded } else { ClientSource::Kept };
                let standing = if last { Standing::LastResort } else { Standing::Ready };
                (frontend(port), Route { source, standing, choice, ..route(BTreeSet::from_iter(backends)) })
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
                // Of three Services two share their addresses.
                let own = |frontend: Frontend| Frontend { port: frontend.port + 10 * (service / 2), ..frontend };
                let routes: Vec<_> = routes.into_iter().map(|(f, r)| (own(f), r)).collect();
                last.insert(service, routes.clone());
                apply(&desired.update(vec![(service, routes)]), &mut in_force);
                prop_assert_eq!(&in_force, desired.elements());
            }
            // The addresses that two share are the first's: here, of the one that is there when the other goes.
            last.remove(&0);
            apply(&desired.update(vec![(0, vec![])]), &mut in_force);
            let all: Vec<_> = last.into_values().flatten().collect();
            prop_assert_eq!(&in_force, &whole(&all));
        }
    }
}
