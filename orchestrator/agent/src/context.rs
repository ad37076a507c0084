//! What all workers share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use catamaran_client::{EventType, Recorder};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::Resource;
use tokio::sync::Notify;

use crate::config::{AgentConfig, Paths};
use crate::eviction::Evictions;
use crate::images::Images;
use crate::listeners::Listeners;
use crate::members::{Role, member, name, namespace};
use crate::net::PodNetwork;
use crate::objects::Objects;
use crate::shims::Shims;

/// Shared by all workers and by the endpoint.
pub(crate) struct Context {
    pub(crate) config: AgentConfig,
    pub(crate) paths: Paths,
    pub(crate) client: kube::Client,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) shims: Arc<Shims>,
    pub(crate) images: Images,
    pub(crate) objects: Objects,
    pub(crate) listeners: Listeners,
    pub(crate) events: Recorder,
    pub(crate) wakers: Arc<Wakers>,
    pub(crate) roster: Roster,
    pub(crate) evictions: Evictions,
    /// Memory of the node, bytes.
    pub(crate) node_memory: i64,
}

/// How to wake the worker of a pod, by UID.
#[derive(Default)]
pub(crate) struct Wakers {
    all: Mutex<HashMap<String, Arc<Notify>>>,
}

/// The pods of this node, by namespace and name, for the endpoint.
#[derive(Default)]
pub(crate) struct Roster {
    all: Mutex<HashMap<(String, String), Arc<Pod>>>,
}

// === impl ===

impl Roster {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Arc<Pod>>> {
        // A panic while holding it cannot leave the map half-changed.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, pod: Arc<Pod>) {
        self.lock().insert((namespace(&pod).to_owned(), name(&pod).to_owned()), pod);
    }

    /// Takes the pod out, unless another one has its name by now.
    pub(crate) fn remove(&self, namespace: &str, name: &str, uid: &str) {
        self.lock().retain(|key, pod| key.0 != namespace || key.1 != name || crate::members::uid(pod) != uid);
    }

    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.lock().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        self.lock().values().cloned().collect()
    }
}

impl Wakers {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        // A panic while holding it cannot leave the map half-changed.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, uid: &str) -> Arc<Notify> {
        self.lock().entry(uid.to_owned()).or_default().clone()
    }

    pub(crate) fn remove(&self, uid: &str) {
        self.lock().remove(uid);
    }

    pub(crate) fn wake(&self, uid: &str) {
        if let Some(notify) = self.lock().get(uid) {
            notify.notify_one();
        }
    }

    pub(crate) fn wake_all(&self) {
        self.lock().values().for_each(|notify| notify.notify_one());
    }
}

impl Context {
    /// An event about a pod, or about one of its containers.
    pub(crate) fn event(
        &self,
        pod: &Pod,
        container: Option<&str>,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let mut about: ObjectReference = pod.object_ref(&());
        about.field_path = container.and_then(|name| {
            let list = match member(pod, name)?.role {
                Role::Main => "containers",
                Role::Init | Role::Sidecar => "initContainers",
            };
            Some(format!("spec.{list}{{{name}}}"))
        });
        self.events.publish(about, event_type, reason, message);
    }

    pub(crate) fn normal(
        &self,
        pod: &Pod,
        container: Option<&str>,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.event(pod, container, EventType::Normal, reason, message);
    }

    pub(crate) fn warning(
        &self,
        pod: &Pod,
        container: Option<&str>,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.event(pod, container, EventType::Warning, reason, message);
    }
}
