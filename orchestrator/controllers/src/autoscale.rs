//! HorizontalPodAutoscalers (autoscaling/v2): the number of replicas of a target follows what its pods use.
//!
//! observe (the target's scale, its pods, their figures in `metrics.k8s.io`) → plan (`autoscale/plan.rs`, pure) → apply
//! (the scale) → report (the status).

mod behaviour;
mod metrics;
mod plan;
mod replicas;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, HorizontalPodAutoscaler};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::Request;
use serde_json::{Value, json};

use catamaran_client::error::Chain;
use catamaran_client::{Cache, EventType, Key, Outcome, Queue, Recorder, Tasks, runner};

use crate::caches;
use crate::discovery;
use crate::write::status_patch;
use behaviour::History;
use metrics::Figures;
use plan::Observed;

/// Keys that are worked on at a time.
const WORKERS: usize = 5;
/// How often each is looked at. Kubernetes: 15 s.
const PERIOD: Duration = Duration::from_secs(15);

/// Why an autoscaler could not be worked on; what its own conditions tell is no error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AutoscaleError {
    /// The pods of the target could not be listed.
    #[error("cannot list the pods of the target")]
    Pods(#[source] kube::Error),
    /// The status could not be written.
    #[error("cannot write the status of the HorizontalPodAutoscaler")]
    Status(#[source] kube::Error),
}

struct Context {
    client: Client,
    autoscalers: Cache<HorizontalPodAutoscaler>,
    recorder: Recorder,
    histories: Mutex<HashMap<Key, History>>,
}

/// Starts the cache of autoscalers in `tasks`.
pub(crate) fn cache(client: &Client, tasks: &mut Tasks) -> Cache<HorizontalPodAutoscaler> {
    let autoscalers = caches::all(client);
    tasks.spawn("cache of horizontalpodautoscalers", autoscalers.clone().run());
    autoscalers
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, autoscalers: Cache<HorizontalPodAutoscaler>, recorder: Recorder) {
    let queue = Queue::new();
    let wake = queue.clone();
    autoscalers.on_change(move |change| match change {
        // Its own status does not wake it.
        catamaran_client::Change::Applied { old: Some(old), new } if old.spec == new.spec => {}
        change => wake.add(Key::of(&**change.object())),
    });
    autoscalers.ready().await;
    let context = Arc::new(Context { client, autoscalers, recorder, histories: Mutex::default() });
    runner::run("horizontalpodautoscaler", queue, WORKERS, move |key| reconcile(Arc::clone(&context), key))
        .await;
}

async fn reconcile(context: Arc<Context>, key: Key) -> Result<Outcome, AutoscaleError> {
    let Some(autoscaler) = context.autoscalers.get(&key) else {
        context.histories.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        return Ok(Outcome::Done);
    };
    let target = autoscaler.spec.as_ref().map(|spec| spec.scale_target_ref.clone()).unwrap_or_default();
    let scale = match Scale::read(&context.client, &key.namespace, &target).await {
        Ok(scale) => scale,
        Err(text) => {
            let message = format!("the HPA controller was unable to get the target's current scale: {text}");
            context.recorder.event(&*autoscaler, EventType::Warning, "FailedGetScale", text);
            report_failure(&context, &key, &autoscaler, ("FailedGetScale", message)).await?;
            return Ok(Outcome::After(PERIOD));
        }
    };
    let pods = pods(&context.client, &key.namespace, &scale.selector).await?;
    let figures = figures(&context.client, &key.namespace, &scale.selector).await;
    let now = Timestamp::now();
    let observed =
        Observed { autoscaler: &autoscaler, current: scale.replicas, pods: &pods, figures: &figures, now };
    let mut plan = context.with_history(&key, |history| plan::plan(&observed, history));
    if let Some((reason, message)) = &plan.warning {
        context.recorder.event(&*autoscaler, EventType::Warning, reason, message.clone());
    }
    if let Some((replicas, event)) = plan.rescale.clone() {
        match scale.write(&context.client, replicas).await {
            Ok(()) => {
                context.with_history(&key, |history| history.changed(replicas - scale.replicas, now));
                context.recorder.event(&*autoscaler, EventType::Normal, "SuccessfulRescale", event);
            }
            Err(error) => {
                let text = format!("{event}; error: {}", Chain(&error));
                context.recorder.event(&*autoscaler, EventType::Warning, "FailedRescale", text);
                plan.status.desired_replicas = scale.replicas;
            }
        }
    }
    report(&context, &key, &autoscaler, &plan.status).await?;
    Ok(Outcome::After(PERIOD))
}

impl Context {
    fn with_history<T>(&self, key: &Key, work: impl FnOnce(&mut History) -> T) -> T {
        let mut histories = self.histories.lock().unwrap_or_else(PoisonError::into_inner);
        work(histories.entry(key.clone()).or_default())
    }
}

/// The scale of a target, and where it is.
struct Scale {
    path: String,
    replicas: i32,
    selector: String,
}

impl Scale {
    /// # Errors
    /// In words for an event.
    async fn read(
        client: &Client,
        namespace: &str,
        target: &CrossVersionObjectReference,
    ) -> Result<Self, String> {
        let version = target.api_version.as_deref().unwrap_or("v1");
        let plural = plural(client, version, &target.kind).await?;
        let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
        let path = format!("{root}/namespaces/{namespace}/{plural}/{}/scale", target.name);
        let request = http::Request::get(&path).body(Vec::new()).map_err(|error| error.to_string())?;
        let found: Value = client.request(request).await.map_err(|error| Chain(&error).to_string())?;
        let selector = found["status"]["selector"].as_str().unwrap_or_default().to_owned();
        if selector.is_empty() {
            return Err("selector is required".to_owned());
        }
        let replicas = found["spec"]["replicas"].as_i64().unwrap_or(0);
        Ok(Scale { path, replicas: i32::try_from(replicas).unwrap_or(i32::MAX), selector })
    }

    async fn write(&self, client: &Client, replicas: i32) -> Result<(), kube::Error> {
        let body = json!({"spec": {"replicas": replicas}}).to_string().into_bytes();
        let request = http::Request::patch(&self.path).header("content-type", "application/merge-patch+json");
        let request = request.body(body).map_err(kube::Error::HttpError)?;
        client.request::<Value>(request).await.map(drop)
    }
}

/// The plural of a kind: of those that Kubernetes itself scales without asking, else as the server says.
async fn plural(client: &Client, version: &str, kind: &str) -> Result<String, String> {
    let known = match (version, kind) {
        ("apps/v1", "Deployment") => Some("deployments"),
        ("apps/v1", "ReplicaSet") => Some("replicasets"),
        ("apps/v1", "StatefulSet") => Some("statefulsets"),
        ("v1", "ReplicationController") => Some("replicationcontrollers"),
        _ => None,
    };
    if let Some(known) = known {
        return Ok(known.to_owned());
    }
    let kinds = discovery::kinds(client).await.map_err(|error| Chain(&error).to_string())?;
    let found = kinds.get(&(version.to_owned(), kind.to_owned()));
    let unknown = || {
        format!("no matches for kind {kind:?} in group {:?}", version.split('/').next().unwrap_or_default())
    };
    found.map(|found| found.resource.plural.clone()).ok_or_else(unknown)
}

async fn pods(client: &Client, namespace: &str, selector: &str) -> Result<Vec<Pod>, AutoscaleError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let listed = api.list(&ListParams::default().labels(selector)).await;
    listed.map(|list| list.items).map_err(AutoscaleError::Pods)
}

/// What the pods used, or why that is not known.
async fn figures(client: &Client, namespace: &str, selector: &str) -> Result<Figures, String> {
    let url = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods");
    let listed = async {
        let request = Request::new(url).list(&ListParams::default().labels(selector));
        client.request(request.map_err(kube::Error::BuildRequest)?).await
    };
    let words =
        |error: kube::Error| format!("unable to fetch metrics from resource metrics API: {}", Chain(&error));
    listed.await.map_err(words)
}

async fn report_failure(
    context: &Context,
    key: &Key,
    autoscaler: &HorizontalPodAutoscaler,
    (reason, message): (&str, String),
) -> Result<(), AutoscaleError> {
    let status = plan::unable(autoscaler, reason, &message, Timestamp::now());
    report(context, key, autoscaler, &status).await
}

async fn report(
    context: &Context,
    key: &Key,
    autoscaler: &HorizontalPodAutoscaler,
    status: &k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerStatus,
) -> Result<(), AutoscaleError> {
    let before = autoscaler.status.clone().unwrap_or_default();
    let Some(patch) = status_patch(&autoscaler.metadata, &before, status) else { return Ok(()) };
    let api: Api<HorizontalPodAutoscaler> = Api::namespaced(context.client.clone(), &key.namespace);
    let written = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
    written.map(drop).map_err(AutoscaleError::Status)
}
