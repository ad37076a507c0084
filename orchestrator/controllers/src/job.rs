//! Jobs: pods that run to their end, as many of them as are wanted, each counted once.
//!
//! observe (`own.rs`) → plan (`job/plan.rs`, pure) → apply (`job/apply.rs`) → report (the status, at its end).

mod apply;
mod backoff;
mod count;
mod decide;
mod index;
mod orphan;
mod plan;
mod policy;
mod status;
mod template;
#[cfg(test)]
mod tests;
pub(crate) mod ttl;
mod view;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use tracing::debug;

use catamaran_client::{Key, Outcome, Queue, Recorder, runner};

use crate::caches::Caches;
use crate::own::{CACHE_PATIENCE, OwnError, OwnPods, OwnerKind, Wording, wake_owners};
use crate::write::Written;

pub(crate) use view::finished;

/// Keys that are worked on at a time.
const WORKERS: usize = 16;

const KIND: OwnerKind = OwnerKind {
    api_version: "batch/v1",
    kind: "Job",
    finalizer: Some(view::FINALIZER),
    wording: Wording::Plain,
};

/// Why a Job could not be brought further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// Its pods could not be dealt with.
    #[error("cannot manage the pods of the Job")]
    Pods(#[from] OwnError),
    /// The Job could not be read.
    #[error("cannot read the Job")]
    Read(#[source] kube::Error),
    /// The status could not be written.
    #[error("cannot write the status of the Job")]
    Status(#[source] kube::Error),
}

/// What the calls share.
struct Context {
    own: Arc<OwnPods>,
    /// Revisions of Jobs written.
    status_written: Written<Key>,
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, caches: Caches, recorder: Recorder) {
    let (queue, orphans) = (Queue::new(), Queue::new());
    let own = OwnPods::new(client, caches, recorder, KIND);
    let context = Arc::new(Context { own, status_written: Written::default() });
    let caches = &context.own.caches;
    let wake = queue.clone();
    caches.jobs.on_change(move |change| wake.add(Key::of(&**change.object())));
    wake_owners(&context.own, &caches.jobs, selector, &queue);
    caches.jobs.ready().await;
    caches.pods.ready().await;
    orphan::feed(&context, &orphans);
    let shared = Arc::clone(&context);
    let released = runner::run("job-orphan-pods", orphans, WORKERS, move |key| {
        orphan::reconcile(Arc::clone(&shared), key)
    });
    let counted = runner::run("job", queue, WORKERS, move |key| reconcile(Arc::clone(&context), key));
    futures::join!(released, counted);
}

fn selector(job: &Job) -> Option<Cow<'_, LabelSelector>> {
    job.spec.as_ref().and_then(|spec| spec.selector.as_ref()).map(Cow::Borrowed)
}

/// Is the Job left to somebody else?
fn is_foreign(job: &Job) -> bool {
    let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
    manager.is_some_and(|manager| manager != "kubernetes.io/job-controller")
}

async fn reconcile(context: Arc<Context>, key: Key) -> Result<Outcome, JobError> {
    let caches = &context.own.caches;
    if context.status_written.is_ahead_of(&key, caches.jobs.progress().revision) {
        debug!("waits until the cache shows the last status");
        return Ok(Outcome::After(Duration::from_secs(1)));
    }
    let Some(job) = caches.jobs.get(&key) else {
        context.own.forget(&key);
        return Ok(Outcome::Done);
    };
    let Some(selector) = selector(&job).filter(|_| !is_foreign(&job)) else { return Ok(Outcome::Done) };
    let Some(pods) = context.own.observe(&key, &job.metadata, &selector, &|_| true).await? else {
        return Ok(Outcome::After(CACHE_PATIENCE));
    };
    let observed = plan::Observed { job: &job, pods: &pods, now: Timestamp::now() };
    let plan = plan::plan(&observed);
    let look_again = plan.look_again;
    apply::apply(&context, &key, &job, plan).await?;
    Ok(look_again.map_or(Outcome::Done, Outcome::After))
}
