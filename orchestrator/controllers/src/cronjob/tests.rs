//! Tables for the plan of a CronJob.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use serde_json::{Value, json};

use super::apply;
use super::plan::{Observed, Plan, plan};
use catamaran_client::object;

const NOW: &str = "2026-01-01T12:00:30Z";

fn cron(spec: Value, status: Value) -> CronJob {
    let mut all = json!({"schedule": "0 * * * *", "jobTemplate": {"metadata": {"labels": {"a": "b"}}}});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "metadata": {"name": "tick", "namespace": "ns", "uid": "cron", "creationTimestamp": "2026-01-01T11:30:00Z"},
        "spec": all, "status": status
    }))
    .unwrap()
}

fn job(name: &str, end: Option<&str>, start: &str) -> Arc<Job> {
    let conditions: Vec<Value> = end.iter().map(|end| json!({"type": end, "status": "True"})).collect();
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name},
            "status": {"conditions": conditions, "startTime": start, "completionTime": end.map(|_| start)}
        }))
        .unwrap(),
    )
}

fn pass(cron: &CronJob, jobs: &[Arc<Job>]) -> Plan {
    plan(&Observed { cron, jobs, now: NOW.parse().unwrap() })
}

fn reasons(plan: &Plan) -> Vec<&str> {
    plan.notes.iter().map(|note| note.reason).collect()
}

#[test]
fn when_a_job_is_started() {
    let last = |time: &str| json!({"lastScheduleTime": time});
    let noon = Some("2026-01-01T12:00:00Z");
    // (spec, status, time of the new Job)
    let table = [
        (json!({}), json!({}), noon),
        (json!({}), last("2026-01-01T12:00:00Z"), None),
        (json!({}), last("2026-01-01T09:00:00Z"), noon),
        (json!({"suspend": true}), json!({}), None),
        (json!({"startingDeadlineSeconds": 20}), json!({}), None),
        (json!({"startingDeadlineSeconds": 60}), json!({}), noon),
        (json!({"schedule": "30 17 * * *", "timeZone": "Asia/Kolkata"}), json!({}), noon),
        (json!({"schedule": "30 17 * * *"}), json!({}), None),
    ];
    for (spec, status, expected) in table {
        let plan = pass(&cron(spec.clone(), status.clone()), &[]);
        assert_eq!(plan.start, expected.map(|time| time.parse().unwrap()), "{spec} {status}");
    }
    let next = pass(&cron(json!({}), last("2026-01-01T12:00:00Z")), &[]);
    assert_eq!(next.look_again, Some(Duration::from_millis(3_570_100)));
}

#[test]
fn what_cannot_be_read_is_said() {
    let table = [
        (json!({"schedule": "often"}), "UnparseableSchedule"),
        (json!({"timeZone": "Moon/Tranquility"}), "UnknownTimeZone"),
    ];
    for (spec, reason) in table {
        let plan = pass(&cron(spec, json!({})), &[]);
        assert_eq!((plan.start, reasons(&plan)), (None, vec![reason]));
    }
    let plan = pass(
        &cron(json!({"schedule": "* * * * *"}), json!({"lastScheduleTime": "2025-01-01T00:00:00Z"})),
        &[],
    );
    assert_eq!(reasons(&plan), ["TooManyMissedTimes"]);
    assert!(plan.start.is_some(), "the last one is made nevertheless");
}

#[test]
fn one_at_a_time_or_not() {
    let status = json!({"active": [{"name": "tick-1", "uid": "tick-1"}]});
    let running = [job("tick-1", None, "2026-01-01T11:00:00Z")];
    // (policy, is a Job made, is the old one replaced, events)
    let table: [(&str, bool, usize, &[&str]); 3] =
        [("Allow", true, 0, &[]), ("Forbid", false, 0, &["JobAlreadyActive"]), ("Replace", true, 1, &[])];
    for (policy, made, replaced, events) in table {
        let plan = pass(&cron(json!({"concurrencyPolicy": policy}), status.clone()), &running);
        assert_eq!((plan.start.is_some(), plan.replace.len()), (made, replaced), "{policy}");
        assert_eq!(reasons(&plan), events, "{policy}");
    }
}

#[test]
fn active_jobs_come_and_go() {
    let status = json!({"lastScheduleTime": "2026-01-01T12:00:00Z", "active": [
        {"name": "done", "uid": "done"}, {"name": "lost", "uid": "lost"}, {"name": "runs", "uid": "runs"}]});
    let jobs = [
        job("done", Some("Complete"), "2026-01-01T11:59:00Z"),
        job("runs", None, "2026-01-01T11:00:00Z"),
        job("strange", None, "2026-01-01T11:00:00Z"),
    ];
    let plan = pass(&cron(json!({}), status), &jobs);
    let active = plan.status.active.as_deref().unwrap();
    assert_eq!(active.iter().map(|job| job.name.as_deref().unwrap()).collect::<Vec<_>>(), ["lost", "runs"]);
    assert_eq!(plan.missing[0].name.as_deref(), Some("lost"), "the server is asked before it is given up");
    assert_eq!(reasons(&plan), ["SawCompletedJob", "UnexpectedJob"]);
    assert_eq!(plan.status.last_successful_time.unwrap().0, "2026-01-01T11:59:00Z".parse().unwrap());
}

#[test]
fn the_oldest_are_swept() {
    let jobs: Vec<Arc<Job>> = (0..4)
        .map(|n| job(&format!("good-{n}"), Some("Complete"), &format!("2026-01-01T0{}:00:00Z", 9 - n)))
        .chain([
            job("bad-0", Some("Failed"), "2026-01-01T01:00:00Z"),
            job("runs", None, "2026-01-01T00:00:00Z"),
        ])
        .collect();
    let swept = |good: i32, bad: i32| {
        let spec = json!({"successfulJobsHistoryLimit": good, "failedJobsHistoryLimit": bad});
        let plan = pass(&cron(spec, json!({})), &jobs);
        plan.sweep.iter().map(|job| object::name(&job.metadata).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(swept(3, 1), ["good-3"]);
    assert_eq!(swept(2, 0), ["good-3", "good-2", "bad-0"]);
    assert!(swept(9, 9).is_empty());
}

#[test]
fn a_job_of_the_template() {
    let cron = cron(json!({}), json!({}));
    let zone = TimeZone::get("Asia/Kolkata").unwrap();
    let job = apply::job(&cron, "2026-01-01T12:00:00Z".parse().unwrap(), &zone);
    assert_eq!(job.metadata.name.as_deref(), Some("tick-29454480"));
    assert_eq!(job.metadata.labels.as_ref().unwrap()["a"], "b");
    let time = &job.metadata.annotations.as_ref().unwrap()["batch.kubernetes.io/cronjob-scheduled-timestamp"];
    assert_eq!(time, "2026-01-01T17:30:00+05:30");
    assert_eq!(job.metadata.owner_references.unwrap()[0].kind, "CronJob");
}
