//! The status, case by case.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::observe::{Seen, Task};
use crate::probe::{Health, Probes};
use crate::record::{PodRecord, Sandbox};
use crate::runtime::{Place, ShimKey};

const NOW: i64 = 10_000;

/// A specification, its containers, the phase that follows.
type PhaseRow = (Value, Vec<(&'static str, ContainerRecord, Task)>, &'static str);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn desired(spec: Value, status: Value) -> Desired {
    let pod: Pod = serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec, "status": status}),
    )
    .unwrap();
    Desired { pod: Arc::new(pod), gone: false }
}

fn record(attempt: u32, finished: Option<Finished>, crashes: u32) -> ContainerRecord {
    ContainerRecord {
        attempt,
        shim: ShimKey::Oci,
        image: "docker.io/library/nginx:latest".into(),
        image_id: "docker.io/library/nginx@sha256:1".into(),
        created: true,
        finished,
        last: None,
        crashes,
    }
}

fn end(code: i32, ago: i64) -> Finished {
    Finished {
        attempt: 0,
        code,
        reason: if code == 0 { "Completed" } else { "Error" }.into(),
        message: None,
        started: Some(at(NOW - ago - 1)),
        at: at(NOW - ago),
    }
}

fn sandbox() -> Sandbox {
    Sandbox { place: Place::Own, ip: std::net::Ipv4Addr::new(10, 128, 0, 9), netns: None }
}

fn seen(containers: &[(&str, ContainerRecord, Task)]) -> Observed {
    let mut seen = Observed {
        record: PodRecord { started: Some(at(NOW - 60)), sandbox: Some(sandbox()), ..PodRecord::default() },
        ..Observed::default()
    };
    for (name, record, task) in containers {
        seen.record.containers.insert((*name).to_owned(), record.clone());
        seen.containers.insert((*name).to_owned(), Seen { task: task.clone(), ..Seen::default() });
    }
    seen
}

fn running() -> Task {
    Task::Running { started: at(NOW - 30) }
}

fn spec() -> Value {
    json!({"containers": [{"name": "c", "image": "nginx"}]})
}

fn condition(status: &core::PodStatus, kind: &str) -> (String, Option<String>) {
    let found = status.conditions.as_ref().unwrap().iter().find(|condition| condition.type_ == kind).unwrap();
    (found.status.clone(), found.reason.clone())
}

fn waiting_reason(status: &core::PodStatus) -> Option<String> {
    let state = status.container_statuses.as_ref()?[0].state.as_ref()?;
    state.waiting.as_ref()?.reason.clone()
}

#[test]
fn a_running_pod() {
    let status = status(
        &desired(spec(), json!({})),
        &seen(&[("c", record(1, None, 0), running())]),
        "10.128.0.1",
        at(NOW),
    );
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.128.0.9"));
    assert_eq!(status.host_ip.as_deref(), Some("10.128.0.1"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    for kind in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&status, kind), ("True".into(), None), "{kind}");
    }
    let container = &status.container_statuses.unwrap()[0];
    assert!(container.ready && container.started == Some(true));
    assert_eq!(container.restart_count, 1);
    assert_eq!(container.container_id.as_deref(), Some("catamaran://u_c_1"));
    assert_eq!(container.image_id, "docker.io/library/nginx@sha256:1");
}

#[test]
fn phases() {
    let never = json!({"restartPolicy": "Never", "containers": [{"name": "c"}]});
    let two = json!({"restartPolicy": "Never", "containers": [{"name": "c"}, {"name": "d"}]});
    let init =
        json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "c"}]});
    let done = |code| record(0, Some(end(code, 1)), 1);
    let table: Vec<PhaseRow> = vec![
        (spec(), vec![], "Pending"),
        (spec(), vec![("c", record(0, None, 0), Task::Created)], "Pending"),
        (spec(), vec![("c", done(1), Task::Absent)], "Running"),
        (never.clone(), vec![("c", done(0), Task::Absent)], "Succeeded"),
        (never, vec![("c", done(1), Task::Absent)], "Failed"),
        (two.clone(), vec![("c", done(1), Task::Absent), ("d", record(0, None, 0), running())], "Running"),
        (two.clone(), vec![("c", done(1), Task::Absent), ("d", done(0), Task::Absent)], "Failed"),
        (two, vec![("c", record(0, None, 0), running())], "Pending"),
        (init.clone(), vec![("i", record(0, None, 0), running())], "Pending"),
        (init.clone(), vec![("i", done(1), Task::Absent)], "Failed"),
        (init, vec![("i", done(0), Task::Absent), ("c", record(0, None, 0), running())], "Running"),
    ];
    for (number, (spec, containers, expected)) in table.into_iter().enumerate() {
        let status = status(&desired(spec, json!({})), &seen(&containers), "h", at(NOW));
        assert_eq!(status.phase.as_deref(), Some(expected), "{number}");
    }
}

#[test]
fn a_deleted_pod_whose_containers_ended_well_has_succeeded() {
    let mut seen = seen(&[("c", record(0, Some(end(0, 1)), 1), Task::Absent)]);
    seen.record.released = true;
    let status = status(&desired(spec(), json!({})), &seen, "h", at(NOW));
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
    assert_eq!(condition(&status, "Ready"), ("False".into(), Some("PodCompleted".into())));
    assert_eq!(condition(&status, "PodReadyToStartContainers").0, "False");
}

#[test]
fn a_crash_loop_says_so() {
    let observed = seen(&[("c", record(3, Some(end(1, 5)), 3), Task::Absent)]);
    let status = status(&desired(spec(), json!({})), &observed, "h", at(NOW));
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(waiting_reason(&status).as_deref(), Some("CrashLoopBackOff"));
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
    let text = container.state.as_ref().unwrap().waiting.as_ref().unwrap().message.clone().unwrap();
    assert_eq!(text, "back-off 20s restarting failed container=c pod=p_n(u)");
}

#[test]
fn pull_errors_become_back_offs() {
    let mut observed = seen(&[]);
    let trouble = |since| Trouble {
        reason: "ErrImagePull",
        message: "no such image".into(),
        since: at(since),
        retry_at: at(NOW + 10),
        failures: 1,
    };
    let mut reason = |since| {
        let seen = Seen { image: ImageState::Failed(trouble(since)), ..Seen::default() };
        observed.containers.insert("c".into(), seen);
        let status = status(&desired(spec(), json!({})), &observed, "h", at(NOW));
        (status.phase.clone().unwrap(), waiting_reason(&status).unwrap())
    };
    assert_eq!(reason(NOW), ("Pending".into(), "ErrImagePull".into()));
    assert_eq!(reason(NOW - 5), ("Pending".into(), "ImagePullBackOff".into()));
}

#[test]
fn init_containers_hold_up_the_others() {
    let spec =
        json!({"initContainers": [{"name": "i", "image": "x"}], "containers": [{"name": "c", "image": "y"}]});
    let status =
        status(&desired(spec, json!({})), &seen(&[("i", record(0, None, 0), running())]), "h", at(NOW));
    assert_eq!(waiting_reason(&status).as_deref(), Some("PodInitializing"));
    assert_eq!(condition(&status, "Initialized"), ("False".into(), Some("ContainersNotInitialized".into())));
    assert_eq!(status.init_container_statuses.unwrap().len(), 1);
}

#[test]
fn readiness_follows_the_probe_and_the_gates() {
    let mut observed = seen(&[("c", record(0, None, 0), running())]);
    let mut ready = |readiness, spec: Value, old: Value| {
        observed.containers.get_mut("c").unwrap().probes = Probes { readiness, ..Probes::default() };
        condition(&status(&desired(spec, old), &observed, "h", at(NOW)), "Ready")
    };
    assert_eq!(
        ready(Health::Pending, spec(), json!({})),
        ("False".into(), Some("ContainersNotReady".into()))
    );
    assert_eq!(ready(Health::Pass, spec(), json!({})).0, "True");
    let gated = json!({"containers": [{"name": "c"}], "readinessGates": [{"conditionType": "g"}]});
    let closed = ready(Health::Pass, gated.clone(), json!({}));
    assert_eq!(closed, ("False".into(), Some("ReadinessGatesNotReady".into())));
    let open = json!({"conditions": [{"type": "g", "status": "True"}]});
    assert_eq!(ready(Health::Pass, gated, open).0, "True");
}

#[test]
fn an_unchanged_condition_keeps_its_time() {
    let old = json!({"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:00:01Z"},
        {"type": "ContainersReady", "status": "False", "lastTransitionTime": "1970-01-01T00:00:01Z"}]});
    let status = status(&desired(spec(), old), &seen(&[("c", record(0, None, 0), running())]), "h", at(NOW));
    let time = |kind: &str| {
        let conditions = status.conditions.as_ref().unwrap();
        conditions.iter().find(|c| c.type_ == kind).unwrap().last_transition_time.clone().unwrap().0
    };
    assert_eq!(time("Ready"), at(1));
    assert_eq!(time("ContainersReady"), at(NOW));
}

#[test]
fn a_silent_shim_does_not_change_the_report() {
    let old = json!({"containerStatuses": [{"name": "c", "image": "nginx", "imageID": "", "ready": true,
        "restartCount": 0, "state": {"running": {"startedAt": "1970-01-01T00:00:01Z"}}}]});
    let status =
        status(&desired(spec(), old), &seen(&[("c", record(0, None, 0), Task::Unknown)]), "h", at(NOW));
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert!(status.container_statuses.unwrap()[0].state.as_ref().unwrap().running.is_some());
}

#[test]
fn a_deadline_is_the_reason() {
    let mut observed = seen(&[("c", record(0, Some(end(137, 1)), 1), Task::Absent)]);
    observed.record.failed = Some(("DeadlineExceeded".into(), "late".into()));
    observed.record.released = true;
    let status = status(&desired(spec(), json!({})), &observed, "h", at(NOW));
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
}
