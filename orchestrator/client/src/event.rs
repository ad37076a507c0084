//! Kubernetes Events as `kubectl describe` expects them: the same thing again raises a count instead of making
//! a new object, many similar ones are combined, and a component that says too much is cut short.
//!
//! The rules and numbers are client-go's (`tools/record/events_cache.go`). What to write is decided by
//! [`Correlator::correlate`], a function of values; [`Recorder`] only queues and sends.

use std::collections::{HashMap, HashSet};
use std::future::Future;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::debug;

use crate::error::{Chain, is_not_found};

/// Events that may wait to be written; more are dropped, for an Event is a courtesy.
const WAITING: usize = 4096;
/// Writes under way at a time.
const IN_FLIGHT: usize = 32;
/// Kinds of events that are remembered.
const REMEMBERED: usize = 4096;
/// Similar events of one object within [`SIMILAR_SECONDS`] before they are combined.
const SIMILAR: usize = 10;
/// Seconds during which events count as similar.
const SIMILAR_SECONDS: i64 = 600;
/// Events of one object by one component that pass at once; then one in [`REFILL_SECONDS`].
const BURST: f64 = 25.0;
/// Seconds in which an object may have one more event after its burst.
const REFILL_SECONDS: f64 = 300.0;

/// The type column of `kubectl get events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Nothing to worry about.
    Normal,
    /// Something is not as it should be.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Happening {
    /// The object it is about; `field_path` names a part of it (`spec.containers{web}`).
    pub about: ObjectReference,
    /// Normal or Warning.
    pub event_type: EventType,
    /// A short word in CamelCase.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// Publishes Events for one component; cheap to clone, never blocks.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<(Happening, Timestamp)>,
}

impl Recorder {
    /// A recorder for `component` (on node `host`, if it belongs to one), and the task that writes its events,
    /// which the caller runs.
    pub fn new(
        client: Client,
        component: &str,
        host: Option<&str>,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let correlator = Correlator::new(component, host);
        (Self { sender }, write_all(client, correlator, receiver))
    }

    /// Says that something happened to `object`.
    pub fn event<T>(&self, object: &T, event_type: EventType, reason: &str, message: impl Into<String>)
    where
        T: Resource<DynamicType = ()>,
    {
        self.publish(object.object_ref(&()), event_type, reason, message);
    }

    /// The same for a reference, which may name a part of the object.
    pub fn publish(
        &self,
        about: ObjectReference,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let happening = Happening { about, event_type, reason: reason.to_owned(), message: message.into() };
        if self.sender.try_send((happening, Timestamp::now())).is_err() {
            debug!(reason, "too many events are waiting: this one is dropped");
        }
    }
}

async fn write_all(
    client: Client,
    mut correlator: Correlator,
    mut receiver: mpsc::Receiver<(Happening, Timestamp)>,
) {
    let mut writes = JoinSet::new();
    while let Some((happening, now)) = receiver.recv().await {
        let Some(write) = correlator.correlate(happening, now) else { continue };
        if writes.len() >= IN_FLIGHT {
            writes.join_next().await;
        }
        while writes.try_join_next().is_some() {}
        writes.spawn(send(client.clone(), write));
    }
    while writes.join_next().await.is_some() {}
}

async fn send(client: Client, write: Write) {
    let (name, namespace) = (write.name().to_owned(), write.namespace().to_owned());
    let api: Api<Event> = Api::namespaced(client, &namespace);
    let result = match &write {
        Write::Create(event) => api.create(&PostParams::default(), event).await.map(drop),
        Write::Count { patch, event } => {
            match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                // It expired, or its creation failed: make it again with the count it has reached.
                Err(error) if is_not_found(&error) => {
                    api.create(&PostParams::default(), event).await.map(drop)
                }
                other => other.map(drop),
            }
        }
    };
    if let Err(error) = result {
        debug!(%namespace, %name, error = %Chain(&error), "an event could not be written");
    }
}

/// What to write for a happening.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// A new Event.
    Create(Box<Event>),
    /// It is known: raise its count.
    Count {
        /// A merge patch of count, time and message.
        patch: serde_json::Value,
        /// The whole event, in case it is gone.
        event: Box<Event>,
    },
}

impl Write {
    fn event(&self) -> &Event {
        match self {
            Self::Create(event) | Self::Count { event, .. } => event,
        }
    }

    fn name(&self) -> &str {
        crate::object::name(&self.event().metadata)
    }

    fn namespace(&self) -> &str {
        crate::object::namespace(&self.event().metadata)
    }
}

/// What was said before, and what therefore is to be written.
pub struct Correlator {
    component: String,
    host: Option<String>,
    known: HashMap<Same, Event>,
    similar: HashMap<Similar, Group>,
    allowance: HashMap<Object, Allowance>,
}

/// Events that differ in nothing but time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Same {
    similar: Similar,
    message: String,
}

/// Events that differ in their message only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Similar {
    object: Object,
    field_path: Option<String>,
    event_type: EventType,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Object {
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
}

struct Group {
    messages: HashSet<String>,
    last: Timestamp,
}

struct Allowance {
    left: f64,
    last: Timestamp,
}

impl Correlator {
    /// Knows nothing yet; events are said by `component` on `host`.
    #[must_use]
    pub fn new(component: &str, host: Option<&str>) -> Self {
        Self {
            component: component.to_owned(),
            host: host.map(str::to_owned),
            known: HashMap::new(),
            similar: HashMap::new(),
            allowance: HashMap::new(),
        }
    }

    /// What to write for `happening` at `now`; `None` when its object has had too many events.
    pub fn correlate(&mut self, happening: Happening, now: Timestamp) -> Option<Write> {
        self.forget_old(now);
        let object = Object {
            kind: happening.about.kind.clone(),
            namespace: happening.about.namespace.clone(),
            name: happening.about.name.clone(),
            uid: happening.about.uid.clone(),
        };
        let similar = Similar {
            object: object.clone(),
            field_path: happening.about.field_path.clone(),
            event_type: happening.event_type,
            reason: happening.reason.clone(),
        };
        let combined = self.is_one_of_many(&similar, &happening.message, now);
        if !self.is_allowed(object, now) {
            return None;
        }
        let message = if combined {
            format!("(combined from similar events): {}", happening.message)
        } else {
            happening.message.clone()
        };
        // Combined events share one object whatever their message says.
        let key = Same { similar, message: if combined { String::new() } else { message.clone() } };
        Some(self.write(key, &happening, message, now))
    }

    fn write(&mut self, key: Same, happening: &Happening, message: String, now: Timestamp) -> Write {
        if let Some(event) = self.known.get_mut(&key) {
            let count = event.count.unwrap_or(1) + 1;
            event.count = Some(count);
            event.last_timestamp = Some(Time(now));
            event.message = Some(message.clone());
            let patch = serde_json::json!({"count": count, "lastTimestamp": Time(now), "message": message});
            return Write::Count { patch, event: Box::new(event.clone()) };
        }
        let event = self.new_event(happening, message, now);
        self.known.insert(key, event.clone());
        Write::Create(Box::new(event))
    }

    fn new_event(&self, happening: &Happening, message: String, now: Timestamp) -> Event {
        let about = &happening.about;
        let namespace = about.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        let name = about.name.as_deref().unwrap_or_default();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                // Events about objects without a namespace live in `default`.
                namespace: Some(namespace.unwrap_or("default").to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: about.clone(),
            reason: Some(happening.reason.clone()),
            message: Some(message),
            type_: Some(happening.event_type.as_str().to_owned()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource { component: Some(self.component.clone()), host: self.host.clone() }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.host.clone().unwrap_or_default()),
            ..Event::default()
        }
    }

    fn is_one_of_many(&mut self, similar: &Similar, message: &str, now: Timestamp) -> bool {
        let group = self
            .similar
            .entry(similar.clone())
            .or_insert_with(|| Group { messages: HashSet::new(), last: now });
        if seconds_between(group.last, now) > SIMILAR_SECONDS {
            group.messages.clear();
        }
        group.last = now;
        if group.messages.len() < SIMILAR {
            group.messages.insert(message.to_owned());
        }
        group.messages.len() >= SIMILAR
    }

    fn is_allowed(&mut self, object: Object, now: Timestamp) -> bool {
        let allowance = self.allowance.entry(object).or_insert(Allowance { left: BURST, last: now });
        let refill =
            (now.as_millisecond() - allowance.last.as_millisecond()) as f64 / 1000.0 / REFILL_SECONDS;
        allowance.left = (allowance.left + refill.max(0.0)).min(BURST);
        allowance.last = now;
        if allowance.left < 1.0 {
            return false;
        }
        allowance.left -= 1.0;
        true
    }

    /// Keeps the maps bounded: what has been quiet for long goes first, then everything.
    fn forget_old(&mut self, now: Timestamp) {
        if self.known.len() <= REMEMBERED && self.allowance.len() <= REMEMBERED {
            return;
        }
        let recent = |last: Timestamp| seconds_between(last, now) < SIMILAR_SECONDS / 10;
        self.known.retain(|_, event| event.last_timestamp.as_ref().is_some_and(|time| recent(time.0)));
        self.similar.retain(|_, group| recent(group.last));
        self.allowance.retain(|_, allowance| recent(allowance.last));
        if self.known.len() > REMEMBERED || self.allowance.len() > REMEMBERED {
            self.known.clear();
            self.similar.clear();
            self.allowance.clear();
        }
    }
}

fn seconds_between(earlier: Timestamp, later: Timestamp) -> i64 {
    later.as_second() - earlier.as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn happening(name: &str, message: &str) -> Happening {
        Happening {
            about: ObjectReference {
                kind: Some("Pod".into()),
                namespace: Some("ns".into()),
                name: Some(name.into()),
                uid: Some(format!("uid-{name}")),
                ..ObjectReference::default()
            },
            event_type: EventType::Warning,
            reason: "FailedScheduling".into(),
            message: message.into(),
        }
    }

    #[test]
    fn the_same_again_raises_the_count() {
        let mut correlator = Correlator::new("scheduler", None);
        let Some(Write::Create(first)) = correlator.correlate(happening("web", "no"), at(0)) else {
            panic!("the first is created")
        };
        assert_eq!((first.count, first.first_timestamp.clone()), (Some(1), Some(Time(at(0)))));
        let Some(Write::Count { patch, event }) = correlator.correlate(happening("web", "no"), at(5)) else {
            panic!("the second is counted")
        };
        assert_eq!(patch["count"], 2);
        assert_eq!(event.metadata.name, first.metadata.name);
        assert_eq!((event.first_timestamp, event.last_timestamp), (Some(Time(at(0))), Some(Time(at(5)))));
    }

    #[test]
    fn another_message_is_another_event_until_there_are_many() {
        let mut correlator = Correlator::new("scheduler", None);
        let writes: Vec<Write> = (0..12)
            .map(|n| {
                correlator.correlate(happening("web", &format!("no {n}")), at(n)).expect("within the burst")
            })
            .collect();
        let created = writes.iter().filter(|write| matches!(write, Write::Create(_))).count();
        assert_eq!(created, 10);
        assert_eq!(
            writes[9].event().message.as_deref(),
            Some("(combined from similar events): no 9"),
            "the tenth is the combined one"
        );
        assert_eq!(writes[11].event().count, Some(3));
        assert_eq!(writes[11].event().message.as_deref(), Some("(combined from similar events): no 11"));
    }

    #[test]
    fn a_flood_is_cut_short_and_other_objects_are_not_concerned() {
        let mut correlator = Correlator::new("agent", Some("node"));
        let passed =
            (0..40).filter(|_| correlator.correlate(happening("web", "no"), at(0)).is_some()).count();
        assert_eq!(passed, 25);
        assert!(correlator.correlate(happening("db", "no"), at(0)).is_some());
        assert!(correlator.correlate(happening("web", "no"), at(299)).is_none());
        assert!(correlator.correlate(happening("web", "no"), at(301)).is_some());
    }

    #[test]
    fn objects_without_namespace_have_their_events_in_default() {
        let mut correlator = Correlator::new("node", None);
        let mut about_node = happening("n1", "gone");
        about_node.about.namespace = None;
        let write = correlator.correlate(about_node, at(0)).expect("the first passes");
        assert_eq!(write.namespace(), "default");
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::new("agent", None);
        for n in 0..3 * REMEMBERED {
            correlator.correlate(happening(&format!("pod-{n}"), "no"), at(0));
        }
        assert!(correlator.known.len() <= REMEMBERED + 1);
        assert!(correlator.allowance.len() <= REMEMBERED + 1);
    }
}
