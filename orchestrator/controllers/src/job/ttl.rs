//! Jobs that have ended are deleted when `ttlSecondsAfterFinished` has passed.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::Client;
use kube::api::{Api, DeleteParams, Preconditions};

use super::view::finished;
use crate::caches::Caches;
use catamaran_client::error::is_not_found;
use catamaran_client::{Key, Outcome, Queue, object, runner};

/// Keys that are worked on at a time.
const WORKERS: usize = 4;

/// Why a Job that has ended could not be removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TtlError {
    /// It could not be read.
    #[error("cannot read the Job")]
    Read(#[source] kube::Error),
    /// It could not be deleted.
    #[error("cannot delete the Job whose time after its end has passed")]
    Delete(#[source] kube::Error),
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, caches: Caches) {
    let queue = Queue::new();
    let wake = queue.clone();
    caches.jobs.on_change(move |change| {
        let job = change.object();
        if job.spec.as_ref().is_some_and(|spec| spec.ttl_seconds_after_finished.is_some()) {
            wake.add(Key::of(&**job));
        }
    });
    caches.jobs.ready().await;
    let shared = Arc::new((client, caches));
    runner::run("ttlafterfinished", queue, WORKERS, move |key| reconcile(Arc::clone(&shared), key)).await;
}

async fn reconcile(shared: Arc<(Client, Caches)>, key: Key) -> Result<Outcome, TtlError> {
    let (client, caches) = &*shared;
    let Some(job) = caches.jobs.get(&key) else { return Ok(Outcome::Done) };
    match remaining(&job, Timestamp::now()) {
        None => return Ok(Outcome::Done),
        Some(left) if !left.is_zero() => return Ok(Outcome::After(left)),
        Some(_) => {}
    }
    // The cache may be behind a change of the time or of the Job itself.
    let jobs: Api<Job> = Api::namespaced(client.clone(), &key.namespace);
    let Some(job) = jobs.get_opt(&key.name).await.map_err(TtlError::Read)? else { return Ok(Outcome::Done) };
    if !remaining(&job, Timestamp::now()).is_some_and(|left| left.is_zero()) {
        return Ok(Outcome::Done);
    }
    let same = Preconditions {
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
    };
    match jobs.delete(&key.name, &DeleteParams::foreground().preconditions(same)).await {
        Err(error) if !is_not_found(&error) => Err(TtlError::Delete(error)),
        _ => Ok(Outcome::Done),
    }
}

/// What is left until the Job is to be deleted; `None` when it is not, or is already.
fn remaining(job: &Job, now: Timestamp) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let end = finished(job)?.last_transition_time.as_ref()?.0;
    if object::is_being_deleted(&job.metadata) {
        return None;
    }
    let due = end.checked_add(SignedDuration::from_secs(i64::from(ttl))).ok()?;
    Some(Duration::try_from(now.duration_until(due)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn when_the_time_has_come() {
        let job = |ttl: Option<i32>, end: Option<&str>| -> Job {
            let conditions: Vec<_> = end
                .iter()
                .map(|end| json!({"type": "Failed", "status": "True", "lastTransitionTime": end}))
                .collect();
            serde_json::from_value(json!({
                "metadata": {}, "spec": {"ttlSecondsAfterFinished": ttl, "template": {}},
                "status": {"conditions": conditions}
            }))
            .unwrap()
        };
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let end = Some("2026-01-01T00:00:30Z");
        let table = [
            (job(None, end), None),
            (job(Some(60), None), None),
            (job(Some(60), end), Some(30)),
            (job(Some(30), end), Some(0)),
            (job(Some(0), end), Some(0)),
        ];
        for (job, expected) in table {
            assert_eq!(remaining(&job, now), expected.map(Duration::from_secs), "{job:?}");
        }
    }
}
