//! ResourceQuotas: how much of them is used.
//!
//! observe (lists of the server, since no cache holds whole objects) → plan (`catamaran_api::quota`, pure) → report.
//!
//! What comes is charged by the server's admission, in one step with the object. What goes is counted here. Objects
//! are listed after the quota was read, and the count holds only for the quota as it was read: a charge in between
//! makes the write fail and everything be counted again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::{ObjectList, Request};
use serde_json::Value;

use catamaran_api::quota::{self as usage, Counted};
use catamaran_client::cache::Cached;
use catamaran_client::{Cache, Change, Index, Key, Outcome, Queue, Tasks, object, runner};

use crate::caches::{self, Caches};
use crate::discovery;
use crate::pod::Pod;
use crate::write::{Written, status_patch};

/// Keys that are worked on at a time.
const WORKERS: usize = 4;
/// Changes within this time are counted together.
const GATHER: Duration = Duration::from_millis(200);
/// How often objects are counted again whose changes nobody tells us.
const RECOUNT: Duration = Duration::from_secs(10);
/// How often everything is counted again, whatever happened to the status meanwhile.
const RESYNC: Duration = Duration::from_secs(300);

/// Why a quota could not be counted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuotaError {
    /// The kinds of the server could not be read.
    #[error("cannot read which kinds the server has")]
    Discovery(#[source] kube::Error),
    /// The objects of a kind could not be listed.
    #[error("cannot list the {plural} that a quota counts")]
    List {
        /// The kind.
        plural: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// The status could not be written.
    #[error("cannot write the status of the ResourceQuota")]
    Status(#[source] kube::Error),
}

struct Context {
    client: Client,
    quotas: Cache<ResourceQuota>,
    /// Revisions of quotas written.
    written: Written<Key>,
}

/// Starts the cache of quotas in `tasks`.
pub(crate) fn cache(client: &Client, tasks: &mut Tasks) -> Cache<ResourceQuota> {
    let quotas = caches::all(client);
    tasks.spawn("cache of resourcequotas", quotas.clone().run());
    quotas
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, caches: Caches, quotas: Cache<ResourceQuota>) {
    let queue = Queue::new();
    let wake = queue.clone();
    quotas.on_change(move |change| {
        if !only_charged(change) {
            wake.add(Key::of(&**change.object()));
        }
    });
    let by_namespace: Index<ResourceQuota, String> = quotas.index(|quota: &ResourceQuota, add| {
        add(object::namespace(&quota.metadata).to_owned());
    });
    wake_on(&caches.pods, &by_namespace, &queue, |old: &Pod, new: &Pod| old.status.phase != new.status.phase);
    wake_on(&caches.services, &by_namespace, &queue, |old: &Service, new: &Service| old.spec != new.spec);
    quotas.ready().await;
    let context = Arc::new(Context { client, quotas, written: Written::default() });
    runner::run("resourcequota", queue, WORKERS, move |key| reconcile(Arc::clone(&context), key)).await;
}

/// Whether nothing happened to a quota but that more of it is used.
fn only_charged(change: &Change<'_, ResourceQuota>) -> bool {
    let Change::Applied { old: Some(old), new } = change else { return false };
    let hard = |quota: &ResourceQuota| quota.status.as_ref().and_then(|status| status.hard.clone());
    let used = |quota: &ResourceQuota| {
        let used = quota.status.as_ref().and_then(|status| status.used.clone());
        used.into_iter().flatten().map(|(name, _)| name).collect::<Vec<_>>()
    };
    old.spec == new.spec && hard(old) == hard(new) && used(old) == used(new)
}

/// Wakes the quotas of a namespace when an object goes or is `other` than before; one that comes is charged.
fn wake_on<T: Cached>(
    cache: &Cache<T>,
    quotas: &Index<ResourceQuota, String>,
    queue: &Queue<Key>,
    other: fn(&T, &T) -> bool,
) {
    let (quotas, queue) = (quotas.clone(), queue.clone());
    cache.on_change(move |change: &Change<'_, T>| {
        match change {
            Change::Applied { old: None, .. } => return,
            Change::Applied { old: Some(old), new } if !other(old, new) => return,
            _ => {}
        }
        for quota in quotas.get(object::namespace(change.object().meta())) {
            queue.add_after(Key::of(&*quota), GATHER);
        }
    });
}

async fn reconcile(context: Arc<Context>, key: Key) -> Result<Outcome, QuotaError> {
    if context.written.is_ahead_of(&key, context.quotas.progress().revision) {
        return Ok(Outcome::After(Duration::from_secs(1)));
    }
    let Some(quota) = context.quotas.get(&key) else { return Ok(Outcome::Done) };
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
    let objects = objects(&context.client, &key.namespace, &hard).await?;
    let scopes = usage::scopes(&serde_json::to_value(&quota.spec).unwrap_or_default());
    let find = |counted: &Counted| objects.get(counted).map(Vec::as_slice);
    let used = usage::all_used(hard.keys(), find, &scopes);
    let status = ResourceQuotaStatus {
        hard: Some(hard).filter(|hard| !hard.is_empty()),
        used: Some(used.into_iter().map(|(name, amount)| (name, Quantity(amount))).collect())
            .filter(|used: &BTreeMap<String, Quantity>| !used.is_empty()),
    };
    let before = quota.status.clone().unwrap_or_default();
    if let Some(patch) = status_patch(&quota.metadata, &before, &status) {
        let api: Api<ResourceQuota> = Api::namespaced(context.client.clone(), &key.namespace);
        let written = api
            .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(QuotaError::Status)?;
        context.written.note(&key, object::revision(&written.metadata));
    }
    let told = |counted: &Counted| {
        counted.group.is_empty() && matches!(counted.plural.as_str(), "pods" | "services")
    };
    Ok(Outcome::After(if objects.keys().all(told) { RESYNC } else { RECOUNT }))
}

/// The objects that the names of a quota count.
async fn objects(
    client: &Client,
    namespace: &str,
    hard: &BTreeMap<String, Quantity>,
) -> Result<HashMap<Counted, Vec<Value>>, QuotaError> {
    let mut objects = HashMap::new();
    let mut kinds = None;
    for counted in hard.keys().filter_map(|name| usage::counted(name)) {
        if objects.contains_key(&counted) {
            continue;
        }
        let path = if counted.group.is_empty() {
            format!("/api/v1/namespaces/{namespace}/{}", counted.plural)
        } else {
            if kinds.is_none() {
                kinds = Some(discovery::kinds(client).await.map_err(QuotaError::Discovery)?);
            }
            let is_it = |kind: &&discovery::Kind| {
                kind.resource.group == counted.group && kind.resource.plural == counted.plural
            };
            // A kind that does not exist is not counted.
            let Some(kind) = kinds.iter().flat_map(HashMap::values).find(is_it) else { continue };
            let (group, version) = (&kind.resource.group, &kind.resource.version);
            format!("/apis/{group}/{version}/namespaces/{namespace}/{}", counted.plural)
        };
        let failed = |source| QuotaError::List { plural: counted.plural.clone(), source };
        let request = Request::new(path).list(&ListParams::default());
        let request = request.map_err(|error| failed(kube::Error::BuildRequest(error)))?;
        let list: ObjectList<Value> = client.request(request).await.map_err(failed)?;
        objects.insert(counted, list.items);
    }
    Ok(objects)
}
