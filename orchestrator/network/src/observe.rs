//! Follows Services and EndpointSlices of the whole cluster and hands over what changed, in rounds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client};

use crate::model::{Name, Service, Slice};

/// Events that are taken into one round at most.
const ROUND: usize = 1024;

/// The objects as they were seen last.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    services: BTreeMap<Name, Service>,
    slices: BTreeMap<Name, Slice>,
    /// Service → names of its slices.
    of_service: BTreeMap<Name, BTreeSet<Name>>,
}

impl Objects {
    /// The Service of this name.
    pub(crate) fn service(&self, name: &Name) -> Option<&Service> {
        self.services.get(name)
    }

    /// The slices of a Service.
    pub(crate) fn slices(&self, service: &Name) -> impl Iterator<Item = &Slice> + Clone {
        self.of_service.get(service).into_iter().flatten().filter_map(|name| self.slices.get(name))
    }

    fn set_service(&mut self, name: Name, service: Option<Service>, changed: &mut BTreeSet<Name>) {
        let same = self.services.get(&name) == service.as_ref();
        match service {
            Some(service) => self.services.insert(name.clone(), service),
            None => self.services.remove(&name),
        };
        if !same {
            changed.insert(name);
        }
    }

    fn set_slice(&mut self, name: Name, slice: Option<Slice>, changed: &mut BTreeSet<Name>) {
        if self.slices.get(&name) == slice.as_ref() {
            return;
        }
        let old = self.slices.remove(&name).and_then(|old| old.service);
        if let Some(service) = old {
            if let Some(names) = self.of_service.get_mut(&service) {
                names.remove(&name);
                if names.is_empty() {
                    self.of_service.remove(&service);
                }
            }
            changed.insert(service);
        }
        let Some(slice) = slice else { return };
        if let Some(service) = slice.service.clone() {
            self.of_service.entry(service.clone()).or_default().insert(name.clone());
            changed.insert(service);
        }
        self.slices.insert(name, slice);
    }
}

/// What came in one round.
#[derive(Debug)]
pub(crate) struct Round {
    /// Services that changed themselves or in their slices.
    pub(crate) changed: BTreeSet<Name>,
    /// Newest resource version of an EndpointSlice seen.
    pub(crate) revision: u64,
}

enum Seen {
    Service(Box<Event<v1::Service>>),
    Slice(Box<Event<discovery::EndpointSlice>>),
}

/// Collects events into rounds. Pure.
#[derive(Default)]
struct Collector {
    objects: Objects,
    fresh_services: Option<BTreeSet<Name>>,
    fresh_slices: Option<BTreeSet<Name>>,
    listed: (bool, bool),
    changed: BTreeSet<Name>,
    revision: u64,
}

impl Collector {
    fn take(&mut self, seen: Seen) {
        match seen {
            Seen::Service(event) => self.take_service(*event),
            Seen::Slice(event) => self.take_slice(*event),
        }
    }

    fn take_service(&mut self, event: Event<v1::Service>) {
        let Self { objects, changed, .. } = self;
        match event {
            Event::Init => self.fresh_services = Some(BTreeSet::new()),
            Event::Apply(object) | Event::InitApply(object) => {
                let name = Name::of(&object.metadata);
                self.fresh_services.iter_mut().for_each(|fresh| fresh.extend([name.clone()]));
                objects.set_service(name, Some(Service::read(&object)), changed);
            }
            Event::Delete(object) => objects.set_service(Name::of(&object.metadata), None, changed),
            Event::InitDone => {
                let fresh = self.fresh_services.take().unwrap_or_default();
                for name in absent(&objects.services, &fresh) {
                    objects.set_service(name, None, changed);
                }
                self.listed.0 = true;
            }
        }
    }

    fn take_slice(&mut self, event: Event<discovery::EndpointSlice>) {
        let Self { objects, changed, .. } = self;
        match event {
            Event::Init => self.fresh_slices = Some(BTreeSet::new()),
            Event::Apply(object) | Event::InitApply(object) => {
                self.revision = self.revision.max(revision(&object.metadata));
                let name = Name::of(&object.metadata);
                self.fresh_slices.iter_mut().for_each(|fresh| fresh.extend([name.clone()]));
                objects.set_slice(name, Some(Slice::read(&object)), changed);
            }
            Event::Delete(object) => {
                self.revision = self.revision.max(revision(&object.metadata));
                objects.set_slice(Name::of(&object.metadata), None, changed);
            }
            Event::InitDone => {
                let fresh = self.fresh_slices.take().unwrap_or_default();
                for name in absent(&objects.slices, &fresh) {
                    objects.set_slice(name, None, changed);
                }
                self.listed.1 = true;
            }
        }
    }

    /// The changes so far, once both kinds have been listed.
    fn round(&mut self) -> Option<Round> {
        let listed = self.listed.0 && self.listed.1;
        listed.then(|| Round { changed: std::mem::take(&mut self.changed), revision: self.revision })
    }
}

fn absent<T>(known: &BTreeMap<Name, T>, fresh: &BTreeSet<Name>) -> Vec<Name> {
    known.keys().filter(|name| !fresh.contains(name)).cloned().collect()
}

fn revision(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Follows both kinds.
pub(crate) struct Follower {
    seen: Pin<Box<dyn Stream<Item = Vec<Seen>> + Send>>,
    collector: Collector,
}

impl Follower {
    /// Starts listing with the first call of [`Self::next`].
    pub(crate) fn new(client: &Client) -> Self {
        let services = events::<v1::Service>(client).map(|event| Seen::Service(Box::new(event)));
        let slices = events::<discovery::EndpointSlice>(client).map(|event| Seen::Slice(Box::new(event)));
        let seen = futures::stream::select(services, slices).ready_chunks(ROUND);
        Self { seen: seen.boxed(), collector: Collector::default() }
    }

    /// What changed: first when everything has been listed, then after every batch of events. An API that
    /// does not answer is asked again for ever. May be dropped and called again without loss.
    pub(crate) async fn next(&mut self) -> Option<Round> {
        loop {
            let events = self.seen.next().await?;
            events.into_iter().for_each(|event| self.collector.take(event));
            if let Some(round) = self.collector.round() {
                return Some(round);
            }
        }
    }

    /// The objects as they are after the last round.
    pub(crate) fn objects(&self) -> &Objects {
        &self.collector.objects
    }
}

fn events<K>(client: &Client) -> impl Stream<Item = Event<K>> + use<K>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    let stream = watch(Api::<K>::all(client.clone()), watcher::Config::default());
    stream.backoff(Retry::default()).filter_map(|event| async {
        event.map_err(|error| tracing::debug!(kind = %K::kind(&()), %error, "watch interrupted")).ok()
    })
}

/// Waits between tries: short at first, because a server that restarts is back within a moment.
struct Retry {
    waits: VecDeque<Duration>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { waits: [20, 50, 100, 200, 500, 1000, 2000].map(Duration::from_millis).into() }
    }
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.waits.front().copied()?;
        if self.waits.len() > 1 {
            self.waits.pop_front();
        }
        Some(wait)
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(name: &str, ip: &str) -> v1::Service {
        let object = json!({"metadata": {"name": name, "namespace": "a"}, "spec": {"clusterIP": ip}});
        serde_json::from_value(object).unwrap()
    }

    fn slice(name: &str, service: &str, revision: u64) -> discovery::EndpointSlice {
        let meta = json!({"name": name, "namespace": "a", "resourceVersion": revision.to_string(),
                          "labels": {"kubernetes.io/service-name": service}});
        serde_json::from_value(json!({"metadata": meta, "addressType": "IPv4", "endpoints": []})).unwrap()
    }

    fn names(round: Option<Round>) -> Option<Vec<String>> {
        round.map(|round| round.changed.into_iter().map(|name| name.name).collect())
    }

    #[test]
    fn a_round_needs_both_lists_and_a_new_list_finds_what_is_gone() {
        let mut collector = Collector::default();
        let mut take = |events: Vec<Seen>| {
            events.into_iter().for_each(|event| collector.take(event));
            names(collector.round())
        };
        use Event::{Apply, Delete, Init, InitApply, InitDone};
        let service_event = |event| Seen::Service(Box::new(event));
        let slice_event = |event| Seen::Slice(Box::new(event));
        let two = [service("x", "10.0.0.1"), service("y", "10.0.0.2")].map(|s| service_event(InitApply(s)));
        assert_eq!(take([vec![service_event(Init)], two.into()].concat_vec()), None);
        assert_eq!(take(vec![service_event(InitDone), slice_event(Init)]), None);
        let all = take(vec![slice_event(InitApply(slice("x-1", "x", 5))), slice_event(InitDone)]);
        assert_eq!(all, Some(vec!["x".into(), "y".into()]));
        assert_eq!(take(vec![service_event(Apply(service("x", "10.0.0.1")))]), Some(vec![]));
        assert_eq!(take(vec![slice_event(Apply(slice("x-1", "y", 6)))]), Some(vec!["x".into(), "y".into()]));
        assert_eq!(take(vec![slice_event(Delete(slice("x-1", "y", 7)))]), Some(vec!["y".into()]));
        let relisted = vec![
            service_event(Init),
            service_event(InitApply(service("x", "10.0.0.1"))),
            service_event(InitDone),
        ];
        assert_eq!(take(relisted), Some(vec!["y".into()]));
        assert_eq!(collector.revision, 7);
    }

    trait Concat<T> {
        fn concat_vec(self) -> Vec<T>;
    }

    impl<T> Concat<T> for [Vec<T>; 2] {
        fn concat_vec(self) -> Vec<T> {
            self.into_iter().flatten().collect()
        }
    }

    #[test]
    fn retries_slow_down_and_start_again_after_success() {
        let mut retry = Retry::default();
        let waits: Vec<_> = retry.by_ref().take(9).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [20, 50, 100, 200, 500, 1000, 2000, 2000, 2000]);
        retry.reset();
        assert_eq!(retry.next(), Some(Duration::from_millis(20)));
    }
}
