//! What to do for a CronJob, given its Jobs: a function of values.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;

use super::missed;
use super::schedule::Schedule;
use crate::job::finished;
use catamaran_client::{EventType, object};

/// A bit more than the time until the next one, so that it is due when we look.
const SLACK: Duration = Duration::from_millis(100);

/// What is observed.
pub(super) struct Observed<'a> {
    pub(super) cron: &'a CronJob,
    /// The Jobs that it controls.
    pub(super) jobs: &'a [Arc<Job>],
    pub(super) now: Timestamp,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) event_type: EventType,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

fn note(event_type: EventType, reason: &'static str, message: impl Into<String>) -> Note {
    Note { event_type, reason, message: message.into() }
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Jobs of the past that nobody needs any more.
    pub(super) sweep: Vec<Arc<Job>>,
    /// Active Jobs that make room for the next one.
    pub(super) replace: Vec<ObjectReference>,
    /// The time for which a Job is to be made.
    pub(super) start: Option<Timestamp>,
    /// The status before that Job is there.
    pub(super) status: CronJobStatus,
    /// Active Jobs that the cache does not show: they are gone if the server does not know them either.
    pub(super) missing: Vec<ObjectReference>,
    pub(super) notes: Vec<Note>,
    pub(super) look_again: Option<Duration>,
}

/// Plans one pass over a CronJob.
pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let cron = observed.cron;
    let Some(spec) = &cron.spec else { return Plan::default() };
    let mut plan = Plan { status: cron.status.clone().unwrap_or_default(), ..Plan::default() };
    update_active(observed, &mut plan);
    plan.sweep = old_jobs(observed);
    if object::is_being_deleted(&cron.metadata) || spec.suspend == Some(true) {
        return plan;
    }
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(error) => {
            let message = format!("unparseable schedule: {}: {error}", spec.schedule);
            plan.notes.push(note(EventType::Warning, "UnparseableSchedule", message));
            return plan;
        }
    };
    let zone = match zone(cron) {
        Ok(zone) => zone,
        Err(name) => {
            plan.notes.push(note(EventType::Warning, "UnknownTimeZone", format!("invalid timeZone: {name}")));
            return plan;
        }
    };
    start(observed, &schedule, &zone, &mut plan);
    let next = schedule.next(observed.now, &zone);
    plan.look_again = next
        .and_then(|next| Duration::try_from(observed.now.duration_until(next)).ok())
        .map(|left| left + SLACK);
    plan
}

/// The zone of the CronJob's clock, or the name that is none.
pub(super) fn zone(cron: &CronJob) -> Result<TimeZone, String> {
    match cron.spec.as_ref().and_then(|spec| spec.time_zone.as_deref()) {
        None => Ok(TimeZone::UTC),
        Some(name) => TimeZone::get(name).map_err(|_| name.to_owned()),
    }
}

/// Brings `status.active` to what is there.
fn update_active(observed: &Observed<'_>, plan: &mut Plan) {
    let mut active = plan.status.active.take().unwrap_or_default();
    for job in observed.jobs {
        let (uid, name) = (job.metadata.uid.clone(), object::name(&job.metadata));
        let known = active.iter().any(|reference| reference.uid == uid);
        let Some(end) = finished(job) else {
            if !known && !object::is_being_deleted(&job.metadata) {
                let message = format!("Saw a job that the controller did not create or forgot: {name}");
                plan.notes.push(note(EventType::Warning, "UnexpectedJob", message));
            }
            continue;
        };
        if known {
            active.retain(|reference| reference.uid != uid);
            let message = format!("Saw completed job: {name}, condition: {}", end.type_);
            plan.notes.push(note(EventType::Normal, "SawCompletedJob", message));
        }
        let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
        if end.type_ == "Complete" && completed > plan.status.last_successful_time {
            plan.status.last_successful_time = completed;
        }
    }
    let there =
        |reference: &&ObjectReference| observed.jobs.iter().any(|job| job.metadata.uid == reference.uid);
    plan.missing = active.iter().filter(|reference| !there(reference)).cloned().collect();
    plan.status.active = (!active.is_empty()).then_some(active);
}

/// Jobs that have ended and are more than the history may hold, the oldest first.
fn old_jobs(observed: &Observed<'_>) -> Vec<Arc<Job>> {
    let spec = observed.cron.spec.as_ref();
    let limits = [
        ("Complete", spec.and_then(|spec| spec.successful_jobs_history_limit)),
        ("Failed", spec.and_then(|spec| spec.failed_jobs_history_limit)),
    ];
    let mut old = Vec::new();
    for (type_, limit) in limits {
        let Some(keep) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let ended = observed.jobs.iter().filter(|job| finished(job).is_some_and(|end| end.type_ == type_));
        let mut ended: Vec<&Arc<Job>> = ended.collect();
        ended.sort_by_key(|job| {
            let start = job.status.as_ref().and_then(|status| status.start_time.clone());
            (start.or_else(|| job.metadata.creation_timestamp.clone()), job.metadata.name.clone())
        });
        let excess = ended.len().saturating_sub(keep);
        let leaving = |job: &&&Arc<Job>| !object::is_being_deleted(&job.metadata);
        old.extend(ended.iter().take(excess).filter(leaving).map(|job| Arc::clone(job)));
    }
    old
}

/// Is it time for a Job, and may it be?
fn start(observed: &Observed<'_>, schedule: &Schedule, zone: &TimeZone, plan: &mut Plan) {
    let (cron, now) = (observed.cron, observed.now);
    let Some(spec) = &cron.spec else { return };
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    let last = plan.status.last_schedule_time.as_ref().or(cron.metadata.creation_timestamp.as_ref());
    let mut since = last.map_or(now, |time| time.0);
    if let Some(earliest) = deadline.and_then(|deadline| now.checked_sub(deadline).ok()) {
        since = since.max(earliest);
    }
    let Some(due) = missed::due(schedule, zone, since, now) else { return };
    if due.too_many {
        let message =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.notes.push(note(EventType::Warning, "TooManyMissedTimes", message));
    }
    let name = job_name(cron, due.time);
    let active = plan.status.active.as_deref().unwrap_or_default();
    let exists = observed.jobs.iter().any(|job| object::name(&job.metadata) == name);
    if active.iter().any(|reference| reference.name.as_deref() == Some(&name)) || exists {
        return;
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message =
                "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.notes.push(note(EventType::Normal, "JobAlreadyActive", message));
            return;
        }
        Some("Replace") => plan.replace = active.to_vec(),
        _ => {}
    }
    plan.start = Some(due.time);
}

/// The name of the Job for a time: two passes that want the same Job name it the same.
pub(super) fn job_name(cron: &CronJob, time: Timestamp) -> String {
    format!("{}-{}", object::name(&cron.metadata), time.as_second() / 60)
}

/// Adds the Job that was made for `time` to the status.
pub(super) fn note_started(status: &mut CronJobStatus, job: &Job, time: Timestamp) {
    let reference =
        ObjectReference { resource_version: job.metadata.resource_version.clone(), ..job.object_ref(&()) };
    status.active.get_or_insert_default().push(reference);
    status.last_schedule_time = Some(Time(time));
}
