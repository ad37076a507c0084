//! Pods from their first sight to their removal, over a fake API, network and shim.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::testing::{Bench, FakeApi};

fn pod(spec: Value) -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u1"}, "spec": spec}),
    )
    .unwrap()
}

fn app() -> Value {
    json!({"containers": [{"name": "c", "image": "app:v1", "imagePullPolicy": "IfNotPresent"}]})
}

struct Running {
    updates: watch::Sender<Desired>,
    task: JoinHandle<()>,
}

impl Running {
    /// An agent that has just started and sees this pod.
    fn begin(bench: &mut Bench, pod: Pod) -> Self {
        let (updates, receiver) = watch::channel(Desired { pod: Arc::new(pod), gone: false });
        let worker = Worker::new(bench.agent(), receiver);
        Running { updates, task: tokio::spawn(worker.run()) }
    }

    fn delete(&self, grace: i64) {
        self.updates.send_modify(|desired| {
            let pod = Arc::make_mut(&mut desired.pod);
            pod.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
            pod.metadata.deletion_grace_period_seconds = Some(grace);
        });
    }

    async fn ended(self) {
        tokio::time::timeout(Duration::from_secs(10), self.task).await.expect("the worker ends").unwrap();
    }
}

fn phase(api: &FakeApi) -> Option<String> {
    api.status()?["phase"].as_str().map(str::to_owned)
}

fn is_removed(api: &FakeApi) -> bool {
    api.calls().iter().any(|call| call.method == http::Method::DELETE && call.path.ends_with("/pods/web"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_and_leaves_nothing() {
    let mut bench = Bench::new().await;
    let running = Running::begin(&mut bench, pod(app()));
    bench.api.until("Running", |api| phase(api).as_deref() == Some("Running")).await;
    let status = bench.api.status().unwrap();
    assert_eq!(status["podIP"], "10.128.0.9");
    assert_eq!(status["containerStatuses"][0]["ready"], true);
    assert_eq!(status["containerStatuses"][0]["imageID"], "docker.io/library/app@sha256:1");
    running.delete(30);
    running.ended().await;
    assert!(is_removed(&bench.api));
    assert_eq!(phase(&bench.api).as_deref(), Some("Succeeded"));
    assert_eq!(*bench.shim.log.lock().unwrap(), ["create u1_c_0", "start u1_c_0", "kill 15 u1_c_0"]);
    assert!(bench.network.attached.lock().unwrap().is_empty());
    assert!(!bench.dir.path().join("data/agent/pods/u1").exists());
    assert!(!bench.dir.path().join("run/pods/u1").exists());
    assert!(!bench.dir.path().join("logs/shop_web_u1").exists());
    bench.api.until("all events", |api| api.events().len() >= 4).await;
    assert_eq!(bench.api.events(), ["Pulled", "Created", "Started", "Killing"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_pod_ends_and_says_why() {
    let mut bench = Bench::new().await;
    let agent = bench.agent();
    let (updates, receiver) = watch::channel(Desired { pod: Arc::new(pod(app())), gone: false });
    let task = tokio::spawn(Worker::new(agent.clone(), receiver).run());
    let running = Running { updates, task };
    bench.api.until("Running", |api| phase(api).as_deref() == Some("Running")).await;
    agent.evictions.put("u1", "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ".into());
    agent.wakers.wake("u1");
    bench.api.until("Failed", |api| phase(api).as_deref() == Some("Failed")).await;
    let status = bench.api.status().unwrap();
    assert_eq!(status["reason"], "Evicted");
    assert!(status["message"].as_str().unwrap().contains("EmptyDir"), "{status}");
    let conditions = status["conditions"].as_array().unwrap();
    let disrupted = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
    assert_eq!(
        (&disrupted["status"], &disrupted["reason"]),
        (&json!("True"), &json!("TerminationByKubelet"))
    );
    bench.api.until("the event", |api| api.events().contains(&"Evicted".to_owned())).await;
    running.delete(0);
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_starts_again_starts_nothing_twice() {
    let mut bench = Bench::new().await;
    let running = Running::begin(&mut bench, pod(app()));
    bench.api.until("Running", |api| phase(api).as_deref() == Some("Running")).await;
    running.task.abort();
    let mut known = pod(app());
    known.status = serde_json::from_value(bench.api.status().unwrap()).ok();
    let writes = |api: &FakeApi| api.calls().iter().filter(|call| call.method == http::Method::PATCH).count();
    let before = writes(&bench.api);
    let running = Running::begin(&mut bench, known);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((bench.shim.count("create"), bench.shim.count("start")), (1, 1));
    assert_eq!(writes(&bench.api), before, "nothing changed, nothing is written");
    bench.shim.end("u1_c_0", 3);
    bench
        .api
        .until("a restart", |api| {
            api.status().is_some_and(|s| s["containerStatuses"][0]["restartCount"] == 1)
        })
        .await;
    bench
        .api
        .until("Running", |api| api.status().is_some_and(|s| s["containerStatuses"][0]["ready"] == true))
        .await;
    let last = bench.api.status().unwrap()["containerStatuses"][0]["lastState"]["terminated"].clone();
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(3), &json!("Error")));
    running.delete(0);
    running.ended().await;
    assert_eq!(bench.shim.count("kill 9"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_may_die_at_every_moment_of_a_start() {
    let mut bench = Bench::new().await;
    for pause in 0..12 {
        let running = Running::begin(&mut bench, pod(app()));
        tokio::time::sleep(Duration::from_micros(pause * 700)).await;
        running.task.abort();
        let _ = running.task.await;
    }
    let running = Running::begin(&mut bench, pod(app()));
    bench.api.until("Running", |api| phase(api).as_deref() == Some("Running")).await;
    assert_eq!(bench.shim.count("start u1_c_0"), 1);
    assert_eq!(bench.shim.count("start"), 1);
    running.delete(1);
    running.ended().await;
    assert!(bench.network.attached.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_once_and_a_missing_key_is_named() {
    let mut bench = Bench::new().await;
    let mut spec = app();
    spec["restartPolicy"] = json!("Never");
    let running = Running::begin(&mut bench, pod(spec.clone()));
    bench.api.until("Running", |api| phase(api).as_deref() == Some("Running")).await;
    bench.shim.end("u1_c_0", 0);
    bench.api.until("Succeeded", |api| phase(api).as_deref() == Some("Succeeded")).await;
    assert!(!running.task.is_finished(), "it stays until it is deleted");
    running.delete(30);
    running.ended().await;
    assert_eq!(bench.shim.count("start"), 1);

    let mut bench = Bench::new().await;
    let env = json!([{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "k"}}}]);
    spec["containers"][0]["env"] = env;
    let running = Running::begin(&mut bench, pod(spec));
    bench
        .api
        .until("a clear message", |api| {
            api.status().is_some_and(|s| {
            s["containerStatuses"][0]["state"]["waiting"]
                == json!({"reason": "CreateContainerConfigError", "message": "configmap \"conf\" not found"})
        })
        })
        .await;
    running.delete(30);
    running.ended().await;
    assert_eq!(bench.shim.count("create"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_goes_away_during_a_start_starts_nothing_twice() {
    for lost in 1..=3 {
        let mut bench = Bench::new().await;
        bench.shim.lost_answers.store(lost, std::sync::atomic::Ordering::Relaxed);
        let mut spec = app();
        spec["containers"][0]["readinessProbe"] = json!({"tcpSocket": {"port": 1, "host": "127.0.0.1"}});
        let running = Running::begin(&mut bench, pod(spec));
        bench.api.until("Running", |api| phase(api).as_deref() == Some("Running")).await;
        let container = bench.api.status().unwrap()["containerStatuses"][0].clone();
        assert_eq!((&container["restartCount"], &container["ready"]), (&json!(0), &json!(false)), "{lost}");
        assert_eq!(bench.shim.count("start u1_c_0"), 1, "{lost}");
        assert!(!bench.api.events().contains(&"Failed".to_owned()), "{lost}");
        running.delete(0);
        running.ended().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_ends_again_and_again_waits_and_says_so() {
    let mut bench = Bench::new().await;
    let running = Running::begin(&mut bench, pod(app()));
    for attempt in 0..2 {
        let started = format!("start u1_c_{attempt}");
        bench.api.until(&started, |_| bench.shim.count(&started) == 1).await;
        bench.api.until("Running", |api| phase(api).as_deref() == Some("Running")).await;
        bench.shim.end(&format!("u1_c_{attempt}"), 1);
    }
    let waiting = |api: &FakeApi| api.status().map(|s| s["containerStatuses"][0]["state"]["waiting"].clone());
    bench.api.until("a pause", |api| waiting(api).is_some_and(|w| w["reason"] == "CrashLoopBackOff")).await;
    assert_eq!(
        waiting(&bench.api).unwrap()["message"],
        "back-off 10s restarting failed container=c pod=web_shop(u1)"
    );
    bench.api.until("the event", |api| api.events().contains(&"BackOff".to_owned())).await;
    running.delete(0);
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_removed_by_force_does_not_use_its_grace() {
    let mut bench = Bench::new().await;
    let mut spec = app();
    spec["terminationGracePeriodSeconds"] = json!(600);
    let running = Running::begin(&mut bench, pod(spec));
    bench.api.until("Running", |api| phase(api).as_deref() == Some("Running")).await;
    running.updates.send_modify(|desired| desired.gone = true);
    running.ended().await;
    assert!(!is_removed(&bench.api), "it is gone already");
    assert!(!bench.dir.path().join("data/agent/pods/u1").exists());
}
