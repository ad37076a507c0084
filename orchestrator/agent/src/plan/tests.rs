//! The plan, case by case; and what must hold in all of them.

use std::sync::Arc;

use catamaran_task::status::{Exit, ExitReason};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::images::detect::{ImageKind, WasmKind};
use crate::images::{Image, ImageConfig};
use crate::observe::{Seen, Task, Trouble};
use crate::probe::{Health, Probes};
use crate::record::{ContainerRecord, PodRecord, Sandbox};
use crate::runtime::{Place, ShimKey};

const NOW: i64 = 10_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn image(kind: ImageKind) -> ImageState {
    ImageState::Here(Arc::new(Image {
        reference: "i".into(),
        repo_digest: "i@d".into(),
        digest: "d".into(),
        kind,
        config: ImageConfig::default(),
        layers: Vec::new(),
        wasm: None,
        size: 1,
    }))
}

/// A pod and what is the case, built up step by step.
struct Case {
    spec: Value,
    deleted: Option<i64>,
    seen: Observed,
}

impl Case {
    fn new(spec: Value) -> Self {
        let mut seen = Observed::default();
        seen.record.started = Some(at(NOW - 100));
        Case { spec, deleted: None, seen }
    }

    fn one() -> Self {
        Case::new(json!({"containers": [{"name": "c"}]}))
    }

    fn desired(&self) -> Desired {
        let mut pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": self.spec}),
        )
        .unwrap();
        if let Some(grace) = self.deleted {
            pod.metadata.deletion_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(NOW)));
            pod.metadata.deletion_grace_period_seconds = Some(grace);
        }
        Desired { pod: Arc::new(pod), gone: false }
    }

    fn plan(&self) -> Plan {
        plan(&self.desired(), &self.seen, at(NOW))
    }

    fn actions(&self) -> Vec<Action> {
        self.plan().actions
    }

    fn entry(&mut self, name: &str) -> &mut Seen {
        self.seen.containers.entry(name.to_owned()).or_default()
    }

    fn image(mut self, name: &str, kind: ImageKind) -> Self {
        self.entry(name).image = image(kind);
        self
    }

    fn prepared(mut self) -> Self {
        self.seen.prepared = Prepared::Done;
        self.seen.record.sandbox =
            Some(Sandbox { place: Place::Own, ip: std::net::Ipv4Addr::LOCALHOST, netns: None });
        self
    }

    fn record(&mut self, name: &str) -> &mut ContainerRecord {
        self.seen.record.containers.entry(name.to_owned()).or_insert(ContainerRecord {
            attempt: 0,
            shim: ShimKey::Oci,
            image: "i".into(),
            image_id: "i@d".into(),
            created: true,
            finished: None,
            last: None,
            crashes: 0,
        })
    }

    fn task(mut self, name: &str, task: Task) -> Self {
        self = self.image(name, ImageKind::Linux);
        self.record(name);
        self.entry(name).task = task;
        self
    }

    fn running(self, name: &str) -> Self {
        self.task(name, Task::Running { started: at(NOW - 50) })
    }

    fn ended(mut self, name: &str, code: i32, ago: i64, crashes: u32) -> Self {
        self = self.image(name, ImageKind::Linux);
        let record = self.record(name);
        record.crashes = crashes;
        record.finished = Some(Finished {
            attempt: 0,
            code,
            reason: "Error".into(),
            message: None,
            started: Some(at(NOW - ago - 1)),
            at: at(NOW - ago),
        });
        self
    }

    fn ending(mut self, grace: i64, since: i64) -> Self {
        self.deleted = Some(grace);
        self.seen.record.ending_since = Some(at(since));
        self.seen.drained = Progress::Done;
        self
    }

    fn stopping(mut self, name: &str, hook: Progress, term_sent: bool) -> Self {
        self.entry(name).stopping = Some(Stopping { since: at(NOW - 5), hook, term_sent, kill_sent: false });
        self
    }
}

fn start(name: &str) -> Action {
    Action::Start(name.into())
}

fn pull(name: &str) -> Action {
    Action::Pull(name.into())
}

const LINUX: ImageKind = ImageKind::Linux;
const WASM: ImageKind = ImageKind::Wasm(WasmKind::Http);

#[test]
fn a_new_pod_pulls_prepares_starts() {
    assert_eq!(Case::one().actions(), [pull("c")]);
    assert_eq!(Case::one().image("c", LINUX).actions(), [Action::Prepare, start("c")]);
    assert_eq!(Case::one().image("c", LINUX).prepared().actions(), [start("c")]);
    assert_eq!(Case::one().prepared().running("c").plan(), Plan::default());
}

#[test]
fn the_place_waits_for_the_images_that_decide_it() {
    let two = || Case::new(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    assert_eq!(two().image("a", WASM).actions(), [pull("b")]);
    assert_eq!(two().image("a", LINUX).actions(), [pull("b"), Action::Prepare, start("a")]);
    let both = two().image("a", WASM).image("b", WASM);
    assert_eq!(both.actions(), [Action::Prepare, start("a"), start("b")]);
    let mut named =
        Case::new(json!({"runtimeClassName": "wasm", "containers": [{"name": "a"}, {"name": "b"}]}));
    named = named.image("a", WASM);
    assert_eq!(named.actions(), [pull("b"), Action::Prepare, start("a")]);
}

#[test]
fn what_was_interrupted_goes_on() {
    let created = Case::one().prepared().task("c", Task::Created);
    assert_eq!(created.actions(), [Action::Resume("c".into())]);
    let mut noted = Case::one().prepared().task("c", Task::Absent);
    noted.record("c").created = false;
    assert_eq!(noted.actions(), [start("c")], "the attempt was noted and never made");
}

#[test]
fn a_silent_shim_changes_nothing() {
    let plan = Case::one().prepared().task("c", Task::Unknown).plan();
    assert_eq!(plan, Plan { actions: vec![], wake: Some(at(NOW + 1)) });
}

#[test]
fn a_lost_container_comes_back_at_once() {
    let mut case = Case::one().prepared().task("c", Task::Absent);
    case.record("c").crashes = 7;
    let actions = case.actions();
    assert!(matches!(&actions[0], Action::Harvest(name, end) if name == "c" && end.code == 137));
    assert_eq!(actions[1..], [start("c")]);
}

#[test]
fn ends_are_written_down_then_the_policy_speaks() {
    let exit = |code| Task::Exited {
        started: Some(at(NOW - 5)),
        exit: Exit {
            code,
            at_ms: u64::try_from(NOW).unwrap() * 1000,
            reason: ExitReason::Exited,
            message: None,
        },
    };
    let harvest = |actions: &[Action]| matches!(&actions[0], Action::Harvest(..));
    let mut spec = json!({"restartPolicy": "Never", "containers": [{"name": "c"}]});
    let actions = Case::new(spec.clone()).prepared().task("c", exit(1)).actions();
    assert!(harvest(&actions) && actions[1..] == [Action::Release], "{actions:?}");
    spec["restartPolicy"] = json!("OnFailure");
    let actions = Case::new(spec.clone()).prepared().task("c", exit(1)).actions();
    assert!(harvest(&actions) && actions[1..] == [start("c")], "{actions:?}");
    let actions = Case::new(spec).prepared().task("c", exit(0)).actions();
    assert!(harvest(&actions) && actions[1..] == [Action::Release], "{actions:?}");
}

#[test]
fn restarts_back_off() {
    let plan = Case::one().prepared().ended("c", 1, 3, 2).plan();
    assert_eq!(plan, Plan { actions: vec![], wake: Some(at(NOW + 7)) });
    assert_eq!(Case::one().prepared().ended("c", 1, 10, 2).actions(), [start("c")]);
    assert_eq!(Case::one().prepared().ended("c", 0, 0, 1).actions(), [start("c")]);
}

#[test]
fn failed_steps_wait_for_their_time() {
    let trouble = |retry_at| Trouble {
        reason: "CreateContainerConfigError",
        message: String::new(),
        since: at(NOW - 100),
        retry_at: at(retry_at),
        failures: 1,
    };
    let mut case = Case::one().image("c", LINUX).prepared();
    case.entry("c").trouble = Some(trouble(NOW + 5));
    assert_eq!(case.plan(), Plan { actions: vec![], wake: Some(at(NOW + 5)) });
    case.entry("c").trouble = Some(trouble(NOW));
    assert_eq!(case.actions(), [start("c")]);
    let mut case = Case::one();
    case.entry("c").image = ImageState::Failed(trouble(NOW + 5));
    assert_eq!(case.plan(), Plan { actions: vec![], wake: Some(at(NOW + 5)) });
    case.entry("c").image = ImageState::Failed(trouble(NOW));
    assert_eq!(case.actions(), [pull("c")]);
    let mut case = Case::one().image("c", LINUX);
    case.seen.prepared = Prepared::Failed(trouble(NOW + 2));
    assert_eq!(case.plan(), Plan { actions: vec![], wake: Some(at(NOW + 2)) });
}

#[test]
fn init_containers_come_first_and_in_order() {
    let case = || {
        Case::new(json!({"initContainers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "c"}]}))
            .prepared()
            .image("a", LINUX)
            .image("b", LINUX)
            .image("c", LINUX)
    };
    assert_eq!(case().actions(), [start("a")]);
    assert_eq!(case().running("a").actions(), []);
    assert_eq!(case().ended("a", 0, 1, 1).actions(), [start("b")]);
    assert_eq!(case().ended("a", 0, 1, 1).ended("b", 0, 1, 1).actions(), [start("c")]);
    assert_eq!(case().ended("a", 1, 1, 2).plan().wake, Some(at(NOW + 9)));
    let past = case().ended("a", 0, 1, 1).ended("b", 0, 1, 1).ended("c", 1, 60, 1);
    assert_eq!(past.actions(), [start("c")], "they are not run again");
}

#[test]
fn a_failed_init_container_of_a_pod_that_never_restarts_ends_it() {
    let spec =
        json!({"restartPolicy": "Never", "initContainers": [{"name": "a"}], "containers": [{"name": "c"}]});
    assert_eq!(Case::new(spec).prepared().ended("a", 1, 1, 1).image("c", LINUX).actions(), [Action::Release]);
}

#[test]
fn sidecars_run_beside_and_end_last() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [
        {"name": "s", "restartPolicy": "Always", "startupProbe": {"exec": {"command": ["x"]}}},
        {"name": "t", "restartPolicy": "Always"}], "containers": [{"name": "c"}]});
    let case = || {
        let all = Case::new(spec.clone()).prepared();
        all.image("s", LINUX).image("t", LINUX).image("c", LINUX)
    };
    assert_eq!(case().actions(), [start("s")]);
    let mut starting = case().running("s");
    starting.entry("s").probes = Probes { startup: Health::Pending, ..Probes::default() };
    assert_eq!(starting.actions(), [], "it has not started yet");
    assert_eq!(case().running("s").actions(), [start("t")]);
    assert_eq!(case().running("s").running("t").actions(), [start("c")]);
    assert_eq!(case().ended("s", 0, 60, 1).running("t").running("c").actions(), [start("s")]);
    let over = || case().running("s").running("t").ended("c", 0, 1, 1);
    assert_eq!(over().actions(), [Action::BeginStop("t".into(), Why::PodEnds)]);
    assert_eq!(over().ended("t", 0, 0, 1).actions(), [Action::BeginStop("s".into(), Why::PodEnds)]);
    assert_eq!(over().ended("t", 0, 0, 1).ended("s", 0, 0, 1).actions(), [Action::Release]);
}

#[test]
fn a_failed_probe_stops_and_the_policy_restarts() {
    let mut case = Case::one().prepared().running("c");
    case.entry("c").probes.liveness = Health::Fail;
    assert_eq!(case.actions(), [Action::BeginStop("c".into(), Why::Probe(Kind::Liveness))]);
    case = case.stopping("c", Progress::NotBegun, false);
    assert_eq!(case.actions(), [Action::Signal("c".into(), Signal::Stop)]);
    case = case.stopping("c", Progress::NotBegun, true);
    assert_eq!(case.plan(), Plan { actions: vec![], wake: Some(at(NOW + 25)) });
    case.entry("c").stopping.as_mut().unwrap().since = at(NOW - 30);
    assert_eq!(case.actions(), [Action::Signal("c".into(), Signal::Kill)]);
    let mut hook = Case::one().prepared().running("c");
    hook.entry("c").post_start = Progress::Failed;
    assert_eq!(hook.actions(), [Action::BeginStop("c".into(), Why::PostStart)]);
}

#[test]
fn a_deleted_pod_is_drained_before_it_is_told_to_end() {
    let mut case = Case::one().prepared().running("c");
    case.deleted = Some(30);
    let stop = || Action::BeginStop("c".into(), Why::PodEnds);
    assert_eq!(case.actions(), [Action::BeginEnd, Action::Drain, stop()]);
    case = case.ending(30, NOW - 5).stopping("c", Progress::NotBegun, false);
    case.seen.drained = Progress::UnderWay;
    assert_eq!(case.plan(), Plan { actions: vec![], wake: Some(at(NOW + 25)) });
    case.seen.drained = Progress::Done;
    assert_eq!(case.actions(), [Action::Signal("c".into(), Signal::Stop)]);
    case = case.stopping("c", Progress::UnderWay, false);
    assert_eq!(case.actions(), [], "its preStop hook runs");
    case.seen.record.ending_since = Some(at(NOW - 30));
    assert_eq!(case.actions(), [Action::Signal("c".into(), Signal::Stop)], "the hook took all the time");
    case = case.stopping("c", Progress::UnderWay, true);
    assert_eq!(case.plan(), Plan { actions: vec![], wake: Some(at(NOW + 2)) }, "a last moment");
    case.seen.record.ending_since = Some(at(NOW - 32));
    assert_eq!(case.actions(), [Action::Signal("c".into(), Signal::Kill)], "time is over");
}

#[test]
fn another_image_makes_another_container() {
    let with = |image: &str| Case::new(json!({"containers": [{"name": "c", "image": image}]})).prepared();
    let mut case = with("app:v2").running("c");
    case.record("c").image = "docker.io/library/app:v1".into();
    assert_eq!(case.actions(), [Action::BeginStop("c".into(), Why::Changed)]);
    // Its next attempt does not wait for the back-off of the old image.
    let mut case = with("app:v2").ended("c", 1, 1, 6);
    case.record("c").image = "docker.io/library/app:v1".into();
    assert_eq!(case.actions(), [start("c")]);
    case.record("c").image = "docker.io/library/app:v2".into();
    assert_eq!(case.actions(), []);
    let mut same = with("app").running("c");
    same.record("c").image = "docker.io/library/app:latest".into();
    assert_eq!(same.actions(), []);
}

#[test]
fn no_grace_kills_at_once() {
    let case = Case::one().prepared().running("c").ending(0, NOW).stopping("c", Progress::NotBegun, false);
    assert_eq!(case.actions(), [Action::Signal("c".into(), Signal::Kill)]);
    let created = Case::one().prepared().task("c", Task::Created).ending(30, NOW);
    assert_eq!(created.actions(), [Action::Signal("c".into(), Signal::Kill)]);
}

#[test]
fn a_deleted_pod_is_released_then_removed() {
    let mut case = Case::one().prepared().ended("c", 0, 1, 1).ending(30, NOW - 5);
    assert_eq!(case.actions(), [Action::Release]);
    case.seen.record.released = true;
    assert_eq!(case.actions(), [Action::Remove]);
    case.deleted = None;
    assert_eq!(case.actions(), [], "a finished pod stays until it is deleted");
    let mut fresh = Case::one();
    fresh.deleted = Some(30);
    assert_eq!(fresh.actions(), [Action::BeginEnd, Action::Release], "nothing was begun");
}

#[test]
fn a_deadline_ends_the_pod() {
    let spec = json!({"activeDeadlineSeconds": 100, "containers": [{"name": "c"}]});
    let mut case = Case::new(spec).prepared().running("c");
    let actions = case.actions();
    assert!(matches!(actions[0], Action::BeginFailure("DeadlineExceeded", _)));
    assert_eq!(actions[1..], [Action::BeginStop("c".into(), Why::PodEnds)]);
    case.seen.record.started = Some(at(NOW - 99));
    assert_eq!(case.plan(), Plan { actions: vec![], wake: Some(at(NOW + 1)) });
    case.seen.record =
        PodRecord { failed: Some(("DeadlineExceeded".into(), String::new())), ..case.seen.record };
    assert_eq!(case.actions(), [Action::BeginStop("c".into(), Why::PodEnds)]);
}

#[test]
fn an_evicted_pod_has_a_second_to_end() {
    let mut case = Case::one().prepared().running("c");
    case.seen.evicted = Some("too much".into());
    let actions = case.actions();
    assert_eq!(actions[0], Action::BeginFailure(EVICTED, "too much".into()));
    case.seen.record.failed = Some((EVICTED.into(), "too much".into()));
    let case = case.stopping("c", Progress::Done, true);
    let kill = Action::Signal("c".into(), Signal::Kill);
    assert_eq!(case.actions(), [kill], "five seconds after TERM, though the pod asks for thirty");
}

#[test]
fn a_pod_with_a_setting_of_the_nodes_is_not_begun() {
    let of = |name: &str| {
        let sysctls = json!([{"name": name, "value": "|/evil"}]);
        Case::new(json!({"containers": [{"name": "c"}], "securityContext": {"sysctls": sysctls}}))
    };
    let actions = of("kernel.core_pattern").actions();
    let [Action::BeginFailure("SysctlForbidden", text), Action::Release] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert!(text.contains("kernel.core_pattern"), "{text}");
    assert_eq!(of("net.ipv4.tcp_syncookies").actions(), Case::one().actions());
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn task() -> impl Strategy<Value = Option<Task>> {
        let exit = |code| Exit { code, at_ms: 9_000_000, reason: ExitReason::Exited, message: None };
        prop_oneof![
            Just(None),
            Just(Some(Task::Absent)),
            Just(Some(Task::Created)),
            Just(Some(Task::Unknown)),
            Just(Some(Task::Running { started: at(NOW - 9) })),
            (0..2).prop_map(move |code| Some(Task::Exited { started: None, exit: exit(code) })),
        ]
    }

    proptest! {
        /// Nothing is started twice, nothing is started in a pod that ends, and nothing is released that is alive.
        #[test]
        fn safety(
            tasks in prop::collection::vec((task(), any::<bool>()), 3),
            deleted in prop::option::of(0..40_i64),
            policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
            prepared in any::<bool>(),
        ) {
            let spec = json!({"restartPolicy": policy, "initContainers": [{"name": "a"}],
                "containers": [{"name": "b"}, {"name": "c"}]});
            let mut case = Case::new(spec);
            if prepared { case = case.prepared(); }
            case.deleted = deleted;
            for (name, (task, image)) in ["a", "b", "c"].into_iter().zip(tasks) {
                if image { case = case.image(name, LINUX); }
                if let Some(task) = task { case = case.task(name, task); }
            }
            let actions = case.actions();
            for name in ["a", "b", "c"] {
                let starts = actions.iter().filter(|action| **action == start(name)).count();
                prop_assert!(starts <= 1);
                let alive = matches!(case.seen.life(name, at(NOW)), Life::Running { .. } | Life::Created | Life::Unknown);
                prop_assert!(!(alive && starts > 0));
                prop_assert!(!(alive && actions.contains(&Action::Release)));
                prop_assert!(!(deleted.is_some() && starts > 0));
            }
            prop_assert!(!actions.contains(&Action::Remove));
        }
    }
}
