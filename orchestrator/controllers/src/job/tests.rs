//! Tables for the plan of a Job, and a model in which everything is killed at any time.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{NewPod, Observed, Plan, plan};
use super::view::FINALIZER;
use crate::pod::{COMPLETION_INDEX, INDEX_FAILURES, Phase, Pod};
use catamaran_client::object;

const START: &str = "2026-01-01T00:00:00Z";
/// Long after every back-off.
const LATER: &str = "2026-01-01T01:00:00Z";

fn job(spec: Value, status: Value) -> Job {
    let mut spec = spec;
    spec["template"] = json!({"spec": {"restartPolicy": "Never", "containers": []}});
    serde_json::from_value(
        json!({"metadata": {"name": "j", "uid": "j", "namespace": "ns"}, "spec": spec, "status": status}),
    )
    .unwrap()
}

fn pod(uid: &str, phase: &str, change: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": uid, "uid": uid, "namespace": "ns", "finalizers": [FINALIZER], "creationTimestamp": START},
        "spec": {"nodeName": "n"}, "status": {"phase": phase}});
    for (key, value) in change.as_object().into_iter().flatten() {
        pod["metadata"][key] = value.clone();
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn of_index(index: i32) -> Value {
    json!({"annotations": {COMPLETION_INDEX: index.to_string()}})
}

fn pass(job: &Job, pods: &[Arc<Pod>]) -> Plan {
    plan(&Observed { job, pods, now: LATER.parse().unwrap() })
}

fn condition<'a>(status: &'a JobStatus, type_: &str) -> Option<&'a str> {
    let found = status.conditions.iter().flatten().find(|condition| condition.type_ == type_)?;
    (found.status == "True").then_some(found.reason.as_deref()?)
}

#[test]
fn as_many_pods_as_the_job_wants() {
    let running = |n: usize| (0..n).map(|n| pod(&format!("p{n}"), "Running", json!({}))).collect::<Vec<_>>();
    // (spec, succeeded before, running, created, withdrawn)
    let table = [
        (json!({"completions": 5, "parallelism": 2}), 0, 0, 2, 0),
        (json!({"completions": 5, "parallelism": 2}), 4, 0, 1, 0),
        (json!({"completions": 5, "parallelism": 2}), 0, 2, 0, 0),
        (json!({"completions": 5, "parallelism": 1}), 0, 3, 0, 2),
        (json!({"completions": 5, "parallelism": 0}), 0, 3, 0, 3),
        (json!({"parallelism": 3}), 0, 1, 2, 0),
        (json!({"parallelism": 3}), 1, 1, 0, 0),
        (json!({"completions": 5, "parallelism": 5, "suspend": true}), 0, 3, 0, 3),
        (json!({"completions": 5000, "parallelism": 5000}), 0, 0, 500, 0),
    ];
    for (spec, succeeded, count, created, withdrawn) in table {
        let job = job(spec.clone(), json!({"succeeded": succeeded, "startTime": START}));
        let plan = pass(&job, &running(count));
        assert_eq!((plan.create.len(), plan.withdraw.len()), (created, withdrawn), "{spec} {count}");
        assert!(plan.stop.is_empty());
    }
}

#[test]
fn indexes_are_given_out_once() {
    let spec = json!({"completionMode": "Indexed", "completions": 6, "parallelism": 4});
    let job = job(spec, json!({"completedIndexes": "0", "startTime": START}));
    let pods = [
        pod("a", "Running", of_index(2)),
        pod("b", "Succeeded", of_index(3)),
        pod("c", "Running", of_index(9)),
        pod("d", "Running", of_index(2)),
    ];
    let one = pass(&job, &pods);
    let mut gone: Vec<&str> = one.withdraw.iter().map(|pod| object::name(&pod.metadata)).collect();
    gone.sort_unstable();
    assert_eq!(gone, ["c", "d"], "an index that does not exist, and one that is taken");
    assert_eq!(one.status.completed_indexes.as_deref(), Some("0,3"));
    assert_eq!(object::name(&one.release[0].metadata), "b");
    let next = pass(&job, &pods[..2]);
    let made: Vec<Option<i32>> = next.create.iter().map(|new| new.index).collect();
    assert_eq!(made, [Some(1), Some(4), Some(5)]);
}

#[test]
fn a_failed_pod_is_replaced_after_a_while() {
    let job = job(json!({"completions": 1, "parallelism": 1}), json!({"startTime": START}));
    let pods = [pod("a", "Failed", json!({"creationTimestamp": "2026-01-01T00:59:57Z"}))];
    let plan = pass(&job, &pods);
    assert_eq!((plan.create.len(), plan.look_again), (0, Some(Duration::from_secs(7))));
    assert_eq!(plan.status.uncounted_terminated_pods.unwrap().failed, Some(vec!["a".to_owned()]));
    let later =
        super::plan::plan(&Observed { job: &job, pods: &pods, now: "2026-01-01T01:00:07Z".parse().unwrap() });
    assert_eq!(later.create, [NewPod::default()]);
}

#[test]
fn how_jobs_end() {
    let status = |more: Value| {
        let mut status = json!({"startTime": START});
        status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        status
    };
    let free = json!({"finalizers": []});
    // (spec, status, pods, condition, its reason)
    let table = [
        (json!({"completions": 2}), json!({"succeeded": 2}), vec![], "Complete", "CompletionsReached"),
        (json!({"completions": 0}), json!({}), vec![], "Complete", "CompletionsReached"),
        (json!({}), json!({"succeeded": 1}), vec![], "Complete", "CompletionsReached"),
        (
            json!({"completions": 2}),
            json!({"succeeded": 1}),
            vec![pod("a", "Succeeded", json!({}))],
            "SuccessCriteriaMet",
            "CompletionsReached",
        ),
        (
            json!({"completions": 2, "backoffLimit": 1}),
            json!({"failed": 2}),
            vec![],
            "Failed",
            "BackoffLimitExceeded",
        ),
        (
            json!({"completions": 2, "backoffLimit": 1}),
            json!({"failed": 2}),
            vec![pod("a", "Running", free)],
            "FailureTarget",
            "BackoffLimitExceeded",
        ),
        (
            json!({"completions": 2, "activeDeadlineSeconds": 60}),
            json!({}),
            vec![],
            "Failed",
            "DeadlineExceeded",
        ),
        (
            json!({"completions": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 0}),
            json!({"completedIndexes": "0,1", "failedIndexes": "2"}),
            vec![],
            "Failed",
            "FailedIndexes",
        ),
        (
            json!({"completions": 9, "completionMode": "Indexed", "backoffLimitPerIndex": 0, "maxFailedIndexes": 1}),
            json!({"failedIndexes": "2,3"}),
            vec![],
            "Failed",
            "MaxFailedIndexesExceeded",
        ),
        (
            json!({"completions": 9, "completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "0"}]}}),
            json!({"completedIndexes": "0"}),
            vec![],
            "Complete",
            "SuccessPolicy",
        ),
    ];
    for (spec, more, pods, type_, reason) in table {
        let plan = pass(&job(spec.clone(), status(more)), &pods);
        assert_eq!(condition(&plan.status, type_), Some(reason), "{spec}: {:?}", plan.status);
        assert!(plan.create.is_empty());
        assert_eq!(plan.notes.len(), usize::from(matches!(type_, "Complete" | "Failed")), "{spec}");
    }
}

#[test]
fn a_decision_stays_and_waits_for_what_still_ends() {
    let decided =
        json!({"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded", "message": "late"});
    let status = json!({"startTime": START, "succeeded": 2, "conditions": [decided]});
    let job = job(json!({"completions": 2, "parallelism": 2}), status);
    let leaving = json!({"deletionTimestamp": START, "deletionGracePeriodSeconds": 30, "finalizers": []});
    let waits = pass(&job, &[pod("a", "Running", leaving)]);
    assert_eq!((condition(&waits.status, "Failed"), waits.status.terminating), (None, Some(1)));
    let ended = pass(&job, &[]);
    assert_eq!(condition(&ended.status, "Failed"), Some("DeadlineExceeded"));
    assert_eq!(ended.status.completion_time, None);
}

#[test]
fn a_job_sleeps_and_wakes() {
    let spec = |suspend: bool| json!({"completions": 2, "parallelism": 2, "suspend": suspend});
    let mut job = job(spec(true), json!({"startTime": START}));
    let asleep = pass(&job, &[pod("a", "Running", json!({}))]);
    assert_eq!(condition(&asleep.status, "Suspended"), Some("JobSuspended"));
    assert_eq!((asleep.status.start_time.clone(), asleep.withdraw.len()), (None, 1));
    job.status = Some(asleep.status);
    assert!(pass(&job, &[]).notes.is_empty(), "it is said once");
    job.spec.as_mut().unwrap().suspend = Some(false);
    let awake = pass(&job, &[]);
    assert_eq!((condition(&awake.status, "Suspended"), awake.create.len()), (None, 2));
    assert_eq!(awake.notes[0].reason, "Resumed");
    assert_eq!(awake.status.start_time.unwrap().0, LATER.parse::<Timestamp>().unwrap());
}

#[test]
fn only_what_has_ended_is_replaced() {
    let leaving = |grace: i32| json!({"deletionTimestamp": START, "deletionGracePeriodSeconds": grace});
    let spec = |policy: &str| json!({"completions": 1, "parallelism": 1, "podReplacementPolicy": policy});
    // (policy, grace period, created, counted as failed)
    let table = [("TerminatingOrFailed", 30, 1, true), ("Failed", 30, 0, false), ("Failed", 0, 1, true)];
    for (policy, grace, created, counted) in table {
        let job = job(spec(policy), json!({"startTime": START}));
        let plan = pass(&job, &[pod("a", "Running", leaving(grace))]);
        assert_eq!((plan.create.len(), !plan.release.is_empty()), (created, counted), "{policy} {grace}");
    }
}

#[test]
fn each_index_has_its_own_limit() {
    let spec =
        json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimitPerIndex": 1});
    let job = job(spec, json!({"startTime": START}));
    let failed = |uid: &str, index: i32, earlier: &str| {
        let annotations = json!({COMPLETION_INDEX: index.to_string(), INDEX_FAILURES: earlier});
        pod(uid, "Failed", json!({"annotations": annotations}))
    };
    let once = pass(&job, &[failed("a", 0, "0"), pod("b", "Running", of_index(1))]);
    assert_eq!(once.create, [NewPod { index: Some(0), failures: Some((1, 0)) }]);
    assert!(once.release.is_empty(), "it is held until its successor has its number of failures");
    assert_eq!(once.status.failed_indexes.as_deref(), Some(""));
    let twice = pass(&job, &[failed("a", 0, "0"), failed("c", 0, "1"), pod("b", "Running", of_index(1))]);
    assert_eq!((twice.status.failed_indexes.as_deref(), twice.release.len()), (Some("0"), 2));
    assert!(twice.create.is_empty());
}

/// A cluster of one Job, in which a step may end at any write.
struct World {
    job: Job,
    pods: Vec<Pod>,
    made: usize,
    failed: i32,
}

impl World {
    /// One pass, of which only the first `writes` writes happen.
    fn pass(&mut self, mut writes: usize) {
        let pods: Vec<Arc<Pod>> = self.pods.iter().cloned().map(Arc::new).collect();
        let plan = plan(&Observed { job: &self.job, pods: &pods, now: LATER.parse().unwrap() });
        let mut write = || writes.checked_sub(1).map(|left| writes = left).is_some();
        for pod in plan.withdraw.iter().chain(&plan.stop) {
            if !write() {
                return;
            }
            let pod = self.pods.iter_mut().find(|p| p.metadata.uid == pod.metadata.uid).unwrap();
            pod.metadata.deletion_timestamp = Some(serde_json::from_value(json!(START)).unwrap());
        }
        for _ in &plan.create {
            if !write() {
                return;
            }
            self.pods.push((*pod(&format!("p{}", self.made), "Running", json!({}))).clone());
            self.made += 1;
        }
        if !write() {
            return;
        }
        self.job.status = Some(plan.status);
        for pod in &plan.release {
            if !write() {
                return;
            }
            let pod = self.pods.iter_mut().find(|p| p.metadata.uid == pod.metadata.uid).unwrap();
            pod.metadata.finalizers = None;
        }
    }

    /// A running pod ends.
    fn end(&mut self, phase: Phase) {
        let running = |pod: &&mut Pod| pod.status.phase == Phase::Running && !pod.is_terminating();
        if let Some(pod) = self.pods.iter_mut().find(running) {
            pod.status.phase = phase;
            self.failed += i32::from(phase == Phase::Failed);
        }
    }

    /// Somebody removes the pods that are counted.
    fn sweep(&mut self) {
        self.pods.retain(|pod| pod.has_finalizer(FINALIZER) || pod.is_active());
    }
}

proptest! {
    #[test]
    fn every_pod_is_counted_once(steps in proptest::collection::vec((0..4, 0..12usize), 0..80)) {
        let spec = json!({"completions": 8, "parallelism": 3, "backoffLimit": 1000});
        let mut world = World { job: job(spec, json!({})), pods: Vec::new(), made: 0, failed: 0 };
        for (what, writes) in steps {
            match what {
                0 => world.end(Phase::Succeeded),
                1 => world.end(Phase::Failed),
                2 => world.sweep(),
                _ => world.pass(writes),
            }
            let succeeded = world.job.status.as_ref().and_then(|status| status.succeeded).unwrap_or(0);
            prop_assert!(succeeded <= 8);
        }
        for _ in 0..60 {
            world.end(Phase::Succeeded);
            world.pass(usize::MAX);
        }
        let status = world.job.status.unwrap();
        prop_assert_eq!(condition(&status, "Complete"), Some("CompletionsReached"));
        prop_assert_eq!((status.succeeded, status.failed.unwrap_or(0)), (Some(8), world.failed));
        prop_assert!(world.pods.iter().all(|pod| !pod.has_finalizer(FINALIZER)));
    }
}
