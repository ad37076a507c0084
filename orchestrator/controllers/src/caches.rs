//! The caches that several controllers read, each watched once.

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, PersistentVolumeClaim, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::api::Api;
use kube::runtime::watcher;
use kube::{Client, Resource};

use catamaran_client::cache::Cached;
use catamaran_client::{Cache, Index, Tasks, object};

use crate::pod::Pod;

/// A label of an object in a namespace, as a key of an index.
pub(crate) type LabelKey = (String, String, String);

/// All shared caches and their indexes; cheap to clone.
#[derive(Clone)]
pub(crate) struct Caches {
    pub(crate) deployments: Cache<Deployment>,
    pub(crate) replica_sets: Cache<ReplicaSet>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) services: Cache<Service>,
    pub(crate) slices: Cache<EndpointSlice>,
    pub(crate) endpoints: Cache<Endpoints>,
    pub(crate) namespaces: Cache<Namespace>,
    pub(crate) nodes: Cache<Node>,
    pub(crate) claims: Cache<PersistentVolumeClaim>,
    pub(crate) revisions: Cache<ControllerRevision>,
    /// By the uid of their controller.
    pub(crate) revisions_by_owner: Index<ControllerRevision, String>,
    pub(crate) stateful_sets: Cache<StatefulSet>,
    pub(crate) jobs: Cache<Job>,
    /// By the uid of their controller.
    pub(crate) jobs_by_owner: Index<Job, String>,
    /// By the uid of their controller.
    pub(crate) sets_by_owner: Index<ReplicaSet, String>,
    /// Those without a controller, by namespace.
    pub(crate) orphan_sets: Index<ReplicaSet, String>,
    /// By the uid of their controller.
    pub(crate) pods_by_owner: Index<Pod, String>,
    /// Those without a controller, by namespace and each of their labels, and by namespace alone ([`any`]).
    pub(crate) orphan_pods: Index<Pod, LabelKey>,
    /// By namespace and each of their labels.
    pub(crate) pods_by_label: Index<Pod, LabelKey>,
    /// By the node they are bound to; an empty name for those that are bound to none.
    pub(crate) pods_by_node: Index<Pod, String>,
    /// By namespace and the first label of their selector.
    pub(crate) services_by_label: Index<Service, LabelKey>,
    /// By namespace and the name of their Service.
    pub(crate) slices_by_service: Index<EndpointSlice, (String, String)>,
}

impl Caches {
    /// Caches for `client`, fed by tasks that are started in `tasks`.
    pub(crate) fn start(client: &Client, tasks: &mut Tasks) -> Self {
        let config = watcher::Config::default();
        let pods = Cache::new(Api::all(client.clone()), config).trimmed(Pod::trim);
        let replica_sets = all(client);
        let services = all(client);
        let slices = all(client);
        let jobs = all(client);
        let revisions = all(client);
        let caches = Self {
            sets_by_owner: by_owner(&replica_sets),
            orphan_sets: orphans(&replica_sets),
            pods_by_owner: by_owner(&pods),
            orphan_pods: pods.index(|pod: &Pod, add| {
                if object::controller_of(&pod.metadata).is_none() {
                    label_keys(&pod.metadata).for_each(add);
                }
            }),
            pods_by_label: pods.index(|pod: &Pod, add| {
                for (key, value) in pod.metadata.labels.iter().flatten() {
                    add((object::namespace(&pod.metadata).to_owned(), key.clone(), value.clone()));
                }
            }),
            pods_by_node: pods.index(|pod: &Pod, add| add(pod.node().unwrap_or_default().to_owned())),
            services_by_label: services.index(|service: &Service, add| {
                if let Some((key, value)) = selector(service).and_then(|selector| selector.iter().next()) {
                    add((object::namespace(&service.metadata).to_owned(), key.clone(), value.clone()));
                }
            }),
            slices_by_service: slices.index(|slice: &EndpointSlice, add| {
                if let Some(name) = object::label(&slice.metadata, SERVICE_NAME) {
                    add((object::namespace(&slice.metadata).to_owned(), name.to_owned()));
                }
            }),
            deployments: all(client),
            endpoints: all(client),
            namespaces: all(client),
            nodes: all(client),
            claims: all(client),
            revisions_by_owner: by_owner(&revisions),
            revisions,
            stateful_sets: all(client),
            jobs_by_owner: by_owner(&jobs),
            jobs,
            replica_sets,
            pods,
            services,
            slices,
        };
        caches.feed(tasks);
        caches
    }

    fn feed(&self, tasks: &mut Tasks) {
        tasks.spawn("cache of deployments", self.deployments.clone().run());
        tasks.spawn("cache of replicasets", self.replica_sets.clone().run());
        tasks.spawn("cache of pods", self.pods.clone().run());
        tasks.spawn("cache of services", self.services.clone().run());
        tasks.spawn("cache of endpointslices", self.slices.clone().run());
        tasks.spawn("cache of endpoints", self.endpoints.clone().run());
        tasks.spawn("cache of namespaces", self.namespaces.clone().run());
        tasks.spawn("cache of controllerrevisions", self.revisions.clone().run());
        tasks.spawn("cache of statefulsets", self.stateful_sets.clone().run());
        tasks.spawn("cache of jobs", self.jobs.clone().run());
        tasks.spawn("cache of nodes", self.nodes.clone().run());
        tasks.spawn("cache of persistentvolumeclaims", self.claims.clone().run());
    }
}

/// The label of an EndpointSlice that names its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The selector of a Service whose endpoints are ours to find; `None` when the user keeps them.
pub(crate) fn selector(service: &Service) -> Option<&std::collections::BTreeMap<String, String>> {
    let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"))?;
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// A cache of all objects of a kind, without what no controller reads.
pub(crate) fn all<T>(client: &Client) -> Cache<T>
where
    T: Cached + Resource<DynamicType = ()>,
{
    Cache::new(Api::all(client.clone()), watcher::Config::default()).trimmed(|object: &mut T| {
        object.meta_mut().managed_fields = None;
    })
}

pub(crate) fn by_owner<T: Cached>(cache: &Cache<T>) -> Index<T, String> {
    cache.index(|object: &T, add| {
        if let Some(owner) = object::controller_of(object.meta()) {
            add(owner.uid.clone());
        }
    })
}

/// The key of all objects of a namespace.
pub(crate) fn any(namespace: &str) -> LabelKey {
    (namespace.to_owned(), String::new(), String::new())
}

/// The keys of an object in an index by label: each of its labels, and [`any`].
pub(crate) fn label_keys(meta: &ObjectMeta) -> impl Iterator<Item = LabelKey> + '_ {
    let namespace = object::namespace(meta);
    let labels = meta.labels.iter().flatten();
    labels.map(|(key, value)| (namespace.to_owned(), key.clone(), value.clone())).chain([any(namespace)])
}

/// A key that every pod of the namespace has which `selector` selects.
pub(crate) fn selected_key(namespace: &str, selector: &LabelSelector) -> LabelKey {
    match selector.match_labels.as_ref().and_then(|labels| labels.iter().next()) {
        Some((key, value)) => (namespace.to_owned(), key.clone(), value.clone()),
        None => any(namespace),
    }
}

fn orphans<T: Cached>(cache: &Cache<T>) -> Index<T, String> {
    cache.index(|object: &T, add| {
        if object::controller_of(object.meta()).is_none() {
            add(object::namespace(object.meta()).to_owned());
        }
    })
}
