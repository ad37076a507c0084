//! PersistentVolumes and their claims: who gets whom, volumes made for claims, and what becomes of a volume whose claim
//! is gone.
//!
//! observe (caches; the server itself before something is given up) → plan (`volume/claim.rs`, `volume/persistent.rs`,
//! pure) → apply (`volume/apply.rs`).
//!
//! | file | what |
//! | --- | --- |
//! | `claim` | the next step of a claim |
//! | `persistent` | the next step of a volume |
//! | `matching` | which volume a claim gets |
//! | `local_path` | the volume that the built-in provisioner makes |
//! | `ephemeral` | claims out of the `ephemeral` volumes of pods |

mod apply;
mod claim;
pub(crate) mod ephemeral;
mod local_path;
mod matching;
mod persistent;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Api, ListParams};

use catamaran_api::local_path::{BIND_COMPLETED, CLAIM_IN_USE, NODE_LABEL, SELECTED_NODE};
use catamaran_client::{Cache, Change, Index, Key, Outcome, Queue, Recorder, Tasks, object, runner};

use crate::caches::{self, Caches};
use crate::pod::Pod;
use crate::write::Written;
use claim::{Told, class_name, volume_name};
use matching::{claim_ref, class_of_volume};

/// Keys that are worked on at a time. Each write holds only if its object is unchanged, so that no volume is given
/// twice.
const WORKERS: usize = 4;

/// Why a claim or a volume could not be worked on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// The server could not be asked.
    #[error("cannot read the {0}")]
    Read(&'static str, #[source] kube::Error),
    /// A claim could not be written.
    #[error("cannot write the PersistentVolumeClaim")]
    Claim(#[source] kube::Error),
    /// A volume could not be written.
    #[error("cannot write the PersistentVolume")]
    Volume(#[source] kube::Error),
    /// A volume could not be made.
    #[error("cannot create the PersistentVolume {0}")]
    Provision(String, #[source] kube::Error),
    /// A volume could not be deleted.
    #[error("cannot delete the PersistentVolume")]
    Delete(#[source] kube::Error),
}

/// What is worked on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Claim(Key),
    Volume(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(key) => write!(f, "claim {key}"),
            Self::Volume(name) => write!(f, "volume {name}"),
        }
    }
}

/// The caches that only this controller needs.
pub(crate) struct OwnCaches {
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
}

impl OwnCaches {
    /// Starts the caches in `tasks`.
    pub(crate) fn start(client: &Client, tasks: &mut Tasks) -> Self {
        let (volumes, classes) = (caches::all(client), caches::all(client));
        tasks.spawn("cache of persistentvolumes", Cache::clone(&volumes).run());
        tasks.spawn("cache of storageclasses", Cache::clone(&classes).run());
        Self { volumes, classes }
    }
}

/// What the calls share.
struct Context {
    client: Client,
    caches: Caches,
    own: OwnCaches,
    found: Indexes,
    recorder: Recorder,
    /// Revisions written.
    written: Written<Subject>,
    /// What each claim was last told, so that it is not told again and again.
    told: Mutex<HashMap<Key, Told>>,
}

#[derive(Clone)]
struct Indexes {
    /// By class.
    volumes: Index<PersistentVolume, String>,
    /// By the claim that they name.
    volumes_of_claim: Index<PersistentVolume, Key>,
    /// Claims without a volume, by class; also under an empty name those that name none.
    waiting: Index<PersistentVolumeClaim, String>,
    /// By the volume that they name.
    claims_of_volume: Index<PersistentVolumeClaim, String>,
    /// By the claims that they use.
    pods_of_claim: Index<Pod, Key>,
}

impl Indexes {
    fn new(caches: &Caches, own: &OwnCaches) -> Self {
        Self {
            volumes: own.volumes.index(|volume: &PersistentVolume, add| {
                add(class_of_volume(volume).to_owned());
            }),
            volumes_of_claim: own.volumes.index(|volume: &PersistentVolume, add| {
                if let Some(key) = claim_key(volume) {
                    add(key);
                }
            }),
            waiting: caches.claims.index(|claim: &PersistentVolumeClaim, add| {
                if object::annotation(&claim.metadata, BIND_COMPLETED).is_none() {
                    add(class_name(claim).unwrap_or_default().to_owned());
                }
            }),
            claims_of_volume: caches.claims.index(|claim: &PersistentVolumeClaim, add| {
                let name = volume_name(claim);
                if !name.is_empty() {
                    add(name.to_owned());
                }
            }),
            pods_of_claim: caches.pods.index(|pod: &Pod, add| {
                for name in pod.claims() {
                    add(Key::new(object::namespace(&pod.metadata), name));
                }
            }),
        }
    }
}

/// The claim that a volume names.
fn claim_key(volume: &PersistentVolume) -> Option<Key> {
    let named = claim_ref(volume)?;
    Some(Key::new(named.namespace.clone()?, named.name.clone()?))
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, caches: Caches, own: OwnCaches, recorder: Recorder) {
    let queue = Queue::new();
    let found = Indexes::new(&caches, &own);
    feed(&caches, &own, &found, &queue);
    own.volumes.ready().await;
    own.classes.ready().await;
    caches.claims.ready().await;
    caches.pods.ready().await;
    caches.nodes.ready().await;
    let (written, told) = (Written::default(), Mutex::default());
    let context = Arc::new(Context { client, caches, own, found, recorder, written, told });
    runner::run("persistentvolume", queue, WORKERS, move |subject| reconcile(Arc::clone(&context), subject))
        .await;
}

/// Who looks again when something changes.
fn feed(caches: &Caches, own: &OwnCaches, found: &Indexes, queue: &Queue<Subject>) {
    let wake = queue.clone();
    caches.claims.on_change(move |change: &Change<'_, PersistentVolumeClaim>| {
        wake.add(Subject::Claim(Key::of(&**change.object())));
        for claim in change.states().filter(|claim| !volume_name(claim).is_empty()) {
            wake.add(Subject::Volume(volume_name(claim).to_owned()));
        }
    });
    let (wake, all) = (queue.clone(), found.clone());
    own.volumes.on_change(move |change: &Change<'_, PersistentVolume>| {
        let name = object::name(&change.object().metadata);
        wake.add(Subject::Volume(name.to_owned()));
        change.states().filter_map(|volume| claim_key(volume)).for_each(|key| wake.add(Subject::Claim(key)));
        let by_name = all.claims_of_volume.get(name);
        let free = claim_ref(change.object()).is_none();
        let waiting = if free { all.waiting.get(class_of_volume(change.object())) } else { Vec::new() };
        by_name.iter().chain(&waiting).for_each(|claim| wake.add(Subject::Claim(Key::of(&**claim))));
    });
    let (wake, all) = (queue.clone(), found.clone());
    own.classes.on_change(move |change: &Change<'_, StorageClass>| {
        let names = [object::name(&change.object().metadata), ""];
        for claim in names.iter().flat_map(|name| all.waiting.get(*name)) {
            wake.add(Subject::Claim(Key::of(&*claim)));
        }
    });
    let wake = queue.clone();
    caches.pods.on_change(move |change: &Change<'_, Pod>| {
        for pod in change.states() {
            for name in pod.claims() {
                wake.add(Subject::Claim(Key::new(object::namespace(&pod.metadata), name)));
            }
        }
    });
    let (wake, volumes) = (queue.clone(), own.volumes.clone());
    caches.nodes.on_change(move |change: &Change<'_, Node>| {
        let Change::Deleted { old } = change else { return };
        let host = host_of(old).to_owned();
        volumes.for_each(|key, volume| {
            if local_path::node_of(volume) == Some(&host) {
                wake.add(Subject::Volume(key.name.clone()));
            }
        });
    });
}

/// What volumes of a node call it.
fn host_of(node: &Node) -> &str {
    object::label(&node.metadata, NODE_LABEL).unwrap_or(object::name(&node.metadata))
}

async fn reconcile(context: Arc<Context>, subject: Subject) -> Result<Outcome, VolumeError> {
    let seen = match &subject {
        Subject::Claim(_) => context.caches.claims.progress().revision,
        Subject::Volume(_) => context.own.volumes.progress().revision,
    };
    if context.written.is_ahead_of(&subject, seen) {
        return Ok(Outcome::After(Duration::from_secs(1)));
    }
    match &subject {
        Subject::Claim(key) => reconcile_claim(&context, key, &subject).await?,
        Subject::Volume(name) => reconcile_volume(&context, name, &subject).await?,
    }
    Ok(Outcome::Done)
}

async fn reconcile_claim(context: &Context, key: &Key, subject: &Subject) -> Result<(), VolumeError> {
    let Some(claim) = context.caches.claims.get(key) else {
        context.told.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        return Ok(());
    };
    let mut finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
    let protected = finalizers.iter().any(|one| one == CLAIM_IN_USE);
    if object::is_being_deleted(&claim.metadata) {
        if protected && !is_used(context, key).await? {
            finalizers.retain(|one| one != CLAIM_IN_USE);
            return context.write_finalizers_of_claim(subject, &claim, &finalizers).await;
        }
    } else if !protected {
        finalizers.push(CLAIM_IN_USE.to_owned());
        return context.write_finalizers_of_claim(subject, &claim, &finalizers).await;
    }
    let named = named_volume(context, &claim).await?;
    let class = class_name(&claim).unwrap_or_default();
    let mut volumes = context.found.volumes.get(class);
    volumes.extend(context.found.volumes_of_claim.get(key));
    let chosen = object::annotation(&claim.metadata, SELECTED_NODE);
    let waits = |pod: &Arc<Pod>| pod.node().is_none() && pod.is_active();
    let consumer = context.found.pods_of_claim.get(key).into_iter().find(waits);
    let step = claim::plan(&claim::Observed {
        claim: &claim,
        named,
        volumes: &volumes,
        classes: &context.own.classes.list(),
        node: chosen.and_then(|name| context.caches.nodes.get(&Key::new("", name))),
        consumer: consumer.as_ref().map(|pod| object::name(&pod.metadata)),
    });
    context.apply_to_claim(subject, key, &claim, step).await
}

/// The volume that a claim names; the server itself is asked before it counts as gone.
async fn named_volume(
    context: &Context,
    claim: &PersistentVolumeClaim,
) -> Result<Option<Arc<PersistentVolume>>, VolumeError> {
    let name = volume_name(claim);
    if name.is_empty() {
        return Ok(None);
    }
    if let Some(volume) = context.own.volumes.get(&Key::new("", name)) {
        return Ok(Some(volume));
    }
    let api: Api<PersistentVolume> = Api::all(context.client.clone());
    let found = api.get_opt(name).await.map_err(|source| VolumeError::Read("PersistentVolume", source))?;
    Ok(found.map(Arc::new))
}

/// Does a pod that has a node use the claim? The server itself is asked before it counts as unused: one that is
/// only being placed does not count, for its node refuses a claim that is to be deleted.
async fn is_used(context: &Context, key: &Key) -> Result<bool, VolumeError> {
    let uses = |pod: &Pod| pod.node().is_some() && pod.claims().any(|name| name == key.name);
    if context.found.pods_of_claim.get(key).iter().any(|pod| uses(pod)) {
        return Ok(true);
    }
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let pods = api.list(&ListParams::default()).await.map_err(|source| VolumeError::Read("pods", source))?;
    Ok(pods.items.iter().any(uses))
}

async fn reconcile_volume(context: &Context, name: &str, subject: &Subject) -> Result<(), VolumeError> {
    let Some(volume) = context.own.volumes.get(&Key::new("", name)) else { return Ok(()) };
    let claim = claim_of(context, &volume).await?;
    let host = local_path::node_of(&volume);
    let has_node = host.is_some_and(|host| {
        let named = context.caches.nodes.get(&Key::new("", host));
        named.is_some() || context.caches.nodes.list().iter().any(|node| host_of(node) == host)
    });
    let step = persistent::plan(&persistent::Observed { volume: &volume, claim: claim.as_deref(), has_node });
    context.apply_to_volume(subject, &volume, step).await
}

/// The claim whose uid the volume names; the server itself is asked before it counts as gone.
async fn claim_of(
    context: &Context,
    volume: &PersistentVolume,
) -> Result<Option<Arc<PersistentVolumeClaim>>, VolumeError> {
    let uid = claim_ref(volume).and_then(|named| named.uid.as_deref()).unwrap_or_default();
    let Some(key) = claim_key(volume).filter(|_| !uid.is_empty()) else { return Ok(None) };
    let same = |claim: &PersistentVolumeClaim| object::uid(&claim.metadata) == uid;
    if let Some(claim) = context.caches.claims.get(&key).filter(|claim| same(claim)) {
        return Ok(Some(claim));
    }
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &key.namespace);
    let found = api.get_opt(&key.name).await;
    let found = found.map_err(|source| VolumeError::Read("PersistentVolumeClaim", source))?;
    Ok(found.filter(same).map(Arc::new))
}
