//! EndpointSlices and Endpoints: which pods stand behind each Service, and in which condition they are.
//!
//! observe (`selected`) → plan (`endpoints/plan.rs` and `endpoints/legacy.rs`, pure) → apply.

mod address;
mod legacy;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use tracing::debug;

use catamaran_client::error::{is_namespace_terminating, is_not_found};
use catamaran_client::{Change, Key, Outcome, Queue, object, runner};

use crate::caches::{Caches, selector};
use crate::pod::Pod;
use crate::write::Written;

/// Keys that are worked on at a time.
const WORKERS: usize = 16;

/// Why the endpoints of a Service could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointsError {
    /// A slice could not be created.
    #[error("cannot create an EndpointSlice")]
    Create(#[source] kube::Error),
    /// A slice could not be updated.
    #[error("cannot update the EndpointSlice {name}")]
    Update {
        /// The slice.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// A slice could not be deleted.
    #[error("cannot delete the EndpointSlice {name}")]
    Delete {
        /// The slice.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// The Endpoints object could not be written.
    #[error("cannot write the Endpoints")]
    Endpoints(#[source] kube::Error),
}

struct Context {
    client: Client,
    caches: Caches,
    /// Revisions of slices written for a Service.
    slices_written: Written<Key>,
    /// Revisions of Endpoints written for a Service.
    endpoints_written: Written<Key>,
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, caches: Caches) {
    let queue = Queue::new();
    feed(&caches, &queue);
    caches.services.ready().await;
    caches.pods.ready().await;
    caches.slices.ready().await;
    caches.endpoints.ready().await;
    let context = Arc::new(Context {
        client,
        caches,
        slices_written: Written::default(),
        endpoints_written: Written::default(),
    });
    runner::run("endpoints", queue, WORKERS, move |key| reconcile(Arc::clone(&context), key)).await;
}

/// Wakes a Service when it changes, when a pod it selects changes, or when somebody touches its slices.
fn feed(caches: &Caches, queue: &Queue<Key>) {
    let wake = queue.clone();
    caches.services.on_change(move |change| wake.add(Key::of(&**change.object())));
    let (wake, by_label) = (queue.clone(), caches.services_by_label.clone());
    caches.pods.on_change(move |change: &Change<'_, Pod>| {
        if let Change::Applied { old: Some(old), new } = change
            && !address::differ(old, new)
        {
            return;
        }
        for pod in change.states() {
            let labels = pod.metadata.labels.iter().flatten();
            for (key, value) in labels {
                let key = (object::namespace(&pod.metadata).to_owned(), key.clone(), value.clone());
                for service in by_label.get(&key).iter().filter(|service| selects(service, pod)) {
                    wake.add(Key::of(&**service));
                }
            }
        }
    });
    let wake = queue.clone();
    caches.slices.on_change(move |change: &Change<'_, EndpointSlice>| {
        let slice = change.object();
        let service = object::label(&slice.metadata, crate::caches::SERVICE_NAME);
        if let Some(service) = service.filter(|_| plan::is_ours(slice)) {
            wake.add(Key::new(object::namespace(&slice.metadata), service));
        }
    });
    let wake = queue.clone();
    caches.endpoints.on_change(move |change| wake.add(Key::of(&**change.object())));
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = selector(service) else { return false };
    let labels = pod.metadata.labels.as_ref();
    selector.iter().all(|(key, value)| labels.is_some_and(|labels| labels.get(key) == Some(value)))
}

async fn reconcile(context: Arc<Context>, key: Key) -> Result<Outcome, EndpointsError> {
    let caches = &context.caches;
    if context.slices_written.is_ahead_of(&key, caches.slices.progress().revision)
        || context.endpoints_written.is_ahead_of(&key, caches.endpoints.progress().revision)
    {
        debug!("waits until the cache shows the last write");
        return Ok(Outcome::After(Duration::from_secs(1)));
    }
    let mut slices = caches.slices_by_service.get(&(key.namespace.clone(), key.name.clone()));
    slices.retain(|slice| plan::is_ours(slice));
    let service = caches.services.get(&key);
    match service.filter(|service| !object::is_being_deleted(&service.metadata)) {
        None => remove_all(&context, &key, &slices, Removal::WithEndpoints).await?,
        // The user keeps the endpoints; if the Service had a selector before, our slices are wrong now.
        Some(service) if selector(&service).is_none() => {
            remove_all(&context, &key, &slices, Removal::SlicesOnly).await?;
        }
        Some(service) => {
            let pods = selected(caches, &service);
            let written = write_slices(&context, &key, plan::plan(&service, &pods, &slices)).await;
            let other = write_endpoints(&context, &key, legacy::endpoints(&service, &pods)).await;
            written.and(other)?;
        }
    }
    Ok(Outcome::Done)
}

/// The pods that the Service selects.
fn selected(caches: &Caches, service: &Service) -> Vec<Arc<Pod>> {
    let namespace = object::namespace(&service.metadata);
    // The rarest label of the selector leads to the fewest candidates.
    let labels = selector(service).into_iter().flatten();
    let keys = labels.map(|(key, value)| (namespace.to_owned(), key.clone(), value.clone()));
    let Some(rarest) = keys.min_by_key(|key| caches.pods_by_label.count(key)) else { return Vec::new() };
    let mut pods = caches.pods_by_label.get(&rarest);
    pods.retain(|pod| selects(service, pod));
    pods
}

/// What goes when a Service does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Removal {
    WithEndpoints,
    SlicesOnly,
}

async fn remove_all(
    context: &Context,
    key: &Key,
    slices: &[Arc<EndpointSlice>],
    removal: Removal,
) -> Result<(), EndpointsError> {
    for slice in slices.iter().filter(|slice| !object::is_being_deleted(&slice.metadata)) {
        delete_slice(context, key, slice).await?;
    }
    // Endpoints without a Service that somebody else made are theirs.
    let ours = context.caches.endpoints.get(key).is_some_and(|endpoints| legacy::is_ours(&endpoints));
    if removal == Removal::WithEndpoints && ours {
        let api: Api<Endpoints> = Api::namespaced(context.client.clone(), &key.namespace);
        match api.delete(&key.name, &DeleteParams::default()).await {
            Err(error) if !is_not_found(&error) => return Err(EndpointsError::Endpoints(error)),
            _ => {}
        }
    }
    Ok(())
}

async fn write_slices(context: &Context, key: &Key, plan: plan::Plan) -> Result<(), EndpointsError> {
    let api: Api<EndpointSlice> = Api::namespaced(context.client.clone(), &key.namespace);
    // New addresses are published before old ones are taken away.
    for slice in &plan.create {
        match api.create(&PostParams::default(), slice).await {
            Ok(created) => context.slices_written.note(key, object::revision(&created.metadata)),
            Err(error) if is_namespace_terminating(&error) => return Ok(()),
            Err(error) => return Err(EndpointsError::Create(error)),
        }
    }
    for slice in &plan.update {
        let name = object::name(&slice.metadata);
        let updated = api
            .replace(name, &PostParams::default(), slice)
            .await
            .map_err(|source| EndpointsError::Update { name: name.to_owned(), source })?;
        context.slices_written.note(key, object::revision(&updated.metadata));
    }
    for slice in &plan.delete {
        delete_slice(context, key, slice).await?;
    }
    Ok(())
}

async fn delete_slice(context: &Context, key: &Key, slice: &EndpointSlice) -> Result<(), EndpointsError> {
    let api: Api<EndpointSlice> = Api::namespaced(context.client.clone(), &key.namespace);
    let name = object::name(&slice.metadata);
    match api.delete(name, &DeleteParams::default()).await {
        Err(error) if !is_not_found(&error) => {
            Err(EndpointsError::Delete { name: name.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

async fn write_endpoints(context: &Context, key: &Key, wanted: Endpoints) -> Result<(), EndpointsError> {
    let api: Api<Endpoints> = Api::namespaced(context.client.clone(), &key.namespace);
    let written = match context.caches.endpoints.get(key) {
        Some(current) if legacy::is_same(&current, &wanted) => return Ok(()),
        Some(current) => {
            let mut next = wanted;
            next.metadata.resource_version.clone_from(&current.metadata.resource_version);
            next.metadata.uid.clone_from(&current.metadata.uid);
            api.replace(&key.name, &PostParams::default(), &next).await
        }
        None => api.create(&PostParams::default(), &wanted).await,
    };
    match written {
        Ok(written) => {
            context.endpoints_written.note(key, object::revision(&written.metadata));
            Ok(())
        }
        Err(error) if is_namespace_terminating(&error) => Ok(()),
        Err(error) => Err(EndpointsError::Endpoints(error)),
    }
}
