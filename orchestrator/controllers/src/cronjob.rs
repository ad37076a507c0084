//! CronJobs: a Job at each time of a schedule.
//!
//! observe (caches) → plan (`cronjob/plan.rs`, pure) → apply (`cronjob/apply.rs`) → report (the status, at its
//! end). A Job is named after its time, so that it is never made twice.

mod apply;
mod missed;
mod plan;
mod schedule;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::Client;
use tracing::debug;

use catamaran_client::{Cache, Change, Key, Outcome, Queue, Recorder, Tasks, object, runner};

use crate::caches::{self, Caches};
use crate::write::Written;

/// Keys that are worked on at a time.
const WORKERS: usize = 8;

/// Why a CronJob could not be brought further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CronJobError {
    /// A Job could not be created.
    #[error("cannot create the Job {name}")]
    Create {
        /// The Job.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// A Job could not be deleted.
    #[error("cannot delete the Job {name}")]
    Delete {
        /// The Job.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// A Job could not be read.
    #[error("cannot read a Job")]
    Read(#[source] kube::Error),
    /// The status could not be written.
    #[error("cannot write the status of the CronJob")]
    Status(#[source] kube::Error),
}

/// What the calls share.
struct Context {
    client: Client,
    caches: Caches,
    cron_jobs: Cache<CronJob>,
    recorder: Recorder,
    /// Revisions of Jobs written for a CronJob.
    jobs_written: Written<Key>,
    /// Revisions of CronJobs written.
    written: Written<Key>,
}

/// Starts the cache of CronJobs in `tasks`.
pub(crate) fn cache(client: &Client, tasks: &mut Tasks) -> Cache<CronJob> {
    let cron_jobs = caches::all(client);
    tasks.spawn("cache of cronjobs", cron_jobs.clone().run());
    cron_jobs
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, caches: Caches, cron_jobs: Cache<CronJob>, recorder: Recorder) {
    let queue = Queue::new();
    let wake = queue.clone();
    cron_jobs.on_change(move |change| wake.add(Key::of(&**change.object())));
    let wake = queue.clone();
    caches.jobs.on_change(move |change: &Change<'_, Job>| {
        let job = change.object();
        if let Some(owner) = object::controller_of(&job.metadata).filter(|owner| owner.kind == "CronJob") {
            wake.add(Key::new(object::namespace(&job.metadata), owner.name.as_str()));
        }
    });
    cron_jobs.ready().await;
    caches.jobs.ready().await;
    let context = Arc::new(Context {
        client,
        caches,
        cron_jobs,
        recorder,
        jobs_written: Written::default(),
        written: Written::default(),
    });
    runner::run("cronjob", queue, WORKERS, move |key| reconcile(Arc::clone(&context), key)).await;
}

async fn reconcile(context: Arc<Context>, key: Key) -> Result<Outcome, CronJobError> {
    if context.written.is_ahead_of(&key, context.cron_jobs.progress().revision)
        || context.jobs_written.is_ahead_of(&key, context.caches.jobs.progress().revision)
    {
        debug!("waits until the cache shows the last write");
        return Ok(Outcome::After(Duration::from_secs(1)));
    }
    let Some(cron) = context.cron_jobs.get(&key) else { return Ok(Outcome::Done) };
    let jobs = context.caches.jobs_by_owner.get(object::uid(&cron.metadata));
    let observed = plan::Observed { cron: &cron, jobs: &jobs, now: Timestamp::now() };
    let plan = plan::plan(&observed);
    let look_again = plan.look_again;
    apply::apply(&context, &key, &cron, plan).await?;
    Ok(look_again.map_or(Outcome::Done, Outcome::After))
}
