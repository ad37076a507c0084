//! Priority and fairness over HTTP: objects, classification, and a flood that nobody important notices.

#![allow(clippy::unwrap_used)]

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use catamaran_server::UserInfo;
use catamaran_store::{Entry, Expect, MemoryStore, Page, Put, Range, Revision, Store, StoreError, Watch};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;
use world::World;

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

/// A disk that takes its time.
struct Slow(Arc<MemoryStore>, Duration);

#[async_trait]
impl Store for Slow {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.0.get(key).await
    }
    async fn get_at(&self, key: &str, revision: Revision) -> Result<Option<Entry>, StoreError> {
        self.0.get_at(key, revision).await
    }
    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.0.range(range).await
    }
    async fn count(&self, prefix: &str) -> Result<u64, StoreError> {
        self.0.count(prefix).await
    }
    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry, StoreError> {
        sleep(self.1).await;
        self.0.put(key, value, expect).await
    }
    async fn put_all(&self, puts: Vec<Put>) -> Result<Vec<Entry>, StoreError> {
        sleep(self.1).await;
        self.0.put_all(puts).await
    }
    async fn delete(&self, key: &str, expect: Expect) -> Result<Entry, StoreError> {
        self.0.delete(key, expect).await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.0.watch(prefix, after).await
    }
    fn revision(&self) -> Revision {
        self.0.revision()
    }
    fn revisions(&self) -> tokio::sync::watch::Receiver<Revision> {
        self.0.revisions()
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.0.compact(revision).await
    }
    fn compacted(&self) -> Revision {
        self.0.compacted()
    }
}

async fn slow_world(seats: u32) -> Arc<World> {
    let store = Arc::new(MemoryStore::new());
    let slow = Arc::new(Slow(store.clone(), Duration::from_millis(10)));
    let world = World::over(slow, store, |config| config.requests_in_flight = seats).await;
    Arc::new(world)
}

fn node() -> UserInfo {
    UserInfo::new("system:node:n1", &["system:nodes"])
}

async fn uid(world: &World, kind: &str, name: &str) -> String {
    let object = world.must(&format!("GET {GROUP}/{kind}/{name}"), Value::Null).await;
    object["metadata"]["uid"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_objects_of_every_cluster_and_who_is_judged_by_which() {
    let world = World::new().await;
    let list = world.must(&format!("GET {GROUP}/flowschemas"), Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 13);
    for schema in list["items"].as_array().unwrap() {
        assert_eq!(schema["status"]["conditions"][0]["type"], "Dangling", "{schema}");
        assert_eq!(schema["status"]["conditions"][0]["status"], "False");
    }
    let list = world.must(&format!("GET {GROUP}/prioritylevelconfigurations"), Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 8);

    let robot = UserInfo::new("system:serviceaccount:d:robot", &["system:serviceaccounts"]);
    let scheduler = UserInfo::new("system:kube-scheduler", &[]);
    let jane = UserInfo::new("jane", &[]);
    let lease = "GET /apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x";
    let table = [
        (World::admin(), "GET /api/v1/nodes", "exempt", "exempt"),
        (UserInfo::anonymous(), "GET /livez", "probes", "exempt"),
        (UserInfo::anonymous(), "GET /version", "global-default", "global-default"),
        (node(), "GET /api/v1/nodes/n1", "system-node-high", "node-high"),
        (node(), "GET /api/v1/pods", "system-nodes", "system"),
        (node(), lease, "system-node-high", "node-high"),
        (scheduler.clone(), lease, "system-leader-election", "leader-election"),
        (scheduler, "GET /api/v1/pods", "kube-scheduler", "workload-high"),
        (robot, "GET /api/v1/pods", "service-accounts", "workload-low"),
        (jane, "GET /api/v1/pods", "global-default", "global-default"),
    ];
    for (user, line, schema, level) in table {
        let reply = world.ask(&user, line, &Value::Null).await;
        let told = (
            reply.header("x-kubernetes-pf-flowschema-uid"),
            reply.header("x-kubernetes-pf-prioritylevel-uid"),
        );
        let expected = (
            uid(&world, "flowschemas", schema).await,
            uid(&world, "prioritylevelconfigurations", level).await,
        );
        assert_eq!(told, (expected.0.as_str(), expected.1.as_str()), "{} {line}", user.name);
    }
}

#[tokio::test]
async fn changes_take_effect_and_what_must_be_there_stays() {
    let world = World::new().await;
    let schema = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "jane"},
        "spec": {
            "matchingPrecedence": 50, "priorityLevelConfiguration": {"name": "later"},
            "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "jane"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
            }],
        },
    });
    let path = format!("{GROUP}/flowschemas");
    world.must(&format!("POST {path}"), schema).await;
    let dangling = async || {
        let schema = world.must(&format!("GET {path}/jane"), Value::Null).await;
        schema["status"]["conditions"][0]["status"].as_str().unwrap_or_default().to_owned()
    };
    let judged = async || {
        let reply = world.ask(&UserInfo::new("jane", &[]), "GET /api/v1/pods", &Value::Null).await;
        reply.header("x-kubernetes-pf-flowschema-uid").to_owned()
    };
    assert_eq!(dangling().await, "True");
    assert_eq!(judged().await, uid(&world, "flowschemas", "global-default").await, "its level is missing");
    let level = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "later"},
        "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 10, "limitResponse": {"type": "Reject"}}},
    });
    let levels = format!("{GROUP}/prioritylevelconfigurations");
    world.must(&format!("POST {levels}"), level).await;
    assert_eq!(dangling().await, "False");
    assert_eq!(judged().await, uid(&world, "flowschemas", "jane").await);
    world.must(&format!("DELETE {levels}/later"), Value::Null).await;
    assert_eq!(
        (dangling().await.as_str(), judged().await),
        ("True", uid(&world, "flowschemas", "global-default").await)
    );

    world.must(&format!("DELETE {path}/catch-all"), Value::Null).await;
    world.must(&format!("GET {path}/catch-all"), Value::Null).await;
    let patch = json!({"spec": {"matchingPrecedence": 9000}});
    let message = world.ask(&World::admin(), &format!("PATCH {path}/catch-all"), &patch).await.refused(422);
    assert!(message.contains("spec of 'catch-all' must equal the fixed value"), "{message}");
    let shares = json!({"spec": {"exempt": {"nominalConcurrencyShares": 5}}});
    world.must(&format!("PATCH {levels}/exempt"), shares).await;
    let bad = json!({"spec": {"limited": {"lendablePercent": 200}}});
    let message = world.ask(&World::admin(), &format!("PATCH {levels}/system"), &bad).await.refused(422);
    assert!(message.contains("spec.limited.lendablePercent"), "{message}");
}

#[tokio::test]
async fn a_restart_brings_up_to_date_only_what_nobody_took_into_his_hands() {
    let world = World::new().await;
    let levels = format!("{GROUP}/prioritylevelconfigurations");
    for (name, says) in [("system", "true"), ("node-high", "false")] {
        let patch = json!({
            "metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": says}},
            "spec": {"limited": {"nominalConcurrencyShares": 7}},
        });
        world.must(&format!("PATCH {levels}/{name}"), patch).await;
    }
    let state = async || {
        let mut revisions = Vec::new();
        for kind in ["flowschemas", "prioritylevelconfigurations"] {
            let list = world.must(&format!("GET {GROUP}/{kind}"), Value::Null).await;
            for object in list["items"].as_array().unwrap() {
                revisions.push((
                    object["metadata"]["name"].clone(),
                    object["metadata"]["resourceVersion"].clone(),
                ));
            }
        }
        revisions
    };
    let before = state().await;
    world.server.bootstrap().await.unwrap();
    let after = state().await;
    let written: Vec<_> = after.iter().filter(|one| !before.contains(one)).map(|(name, _)| name).collect();
    assert_eq!(written, ["system"], "one object is written, and no other");
    for (name, shares) in [("system", 30), ("node-high", 7)] {
        let level = world.must(&format!("GET {levels}/{name}"), Value::Null).await;
        assert_eq!(level["spec"]["limited"]["nominalConcurrencyShares"], shares, "{name}");
    }
}

/// What a flood saw.
#[derive(Default)]
struct Seen {
    served: AtomicU64,
    refused: AtomicU64,
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": name}, "data": {"a": "b"}})
}

/// As many clients as told that never stop asking.
fn flood(
    world: &Arc<World>,
    user: &str,
    clients: usize,
    (stop, seen): (&Arc<AtomicBool>, &Arc<Seen>),
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (world, user, stop, seen) = (world.clone(), UserInfo::new(user, &[]), stop.clone(), seen.clone());
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let reply =
                    world.ask(&user, "POST /api/v1/namespaces/default/configmaps", &map("flood-")).await;
                match reply.code {
                    201 => drop(seen.served.fetch_add(1, Ordering::Relaxed)),
                    429 => {
                        assert_eq!(reply.header("retry-after"), "1");
                        assert_eq!(reply.json()["details"]["retryAfterSeconds"], 1);
                        assert!(!reply.header("x-kubernetes-pf-prioritylevel-uid").is_empty());
                        seen.refused.fetch_add(1, Ordering::Relaxed);
                        sleep(Duration::from_millis(50)).await;
                    }
                    code => panic!("{code} {:?}", reply.bytes),
                }
            }
        });
    }
    tasks
}

fn lease(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": namespace}, "spec": {"holderIdentity": name, "leaseTransitions": 0},
    })
}

/// Renews a lease again and again; returns how often, and the longest time that it took.
async fn renew(
    world: &World,
    user: &UserInfo,
    (namespace, name): (&str, &str),
    stop: &AtomicBool,
) -> (u64, Duration) {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    let mut object = world.ask(user, &format!("POST {path}"), &lease(namespace, name)).await.ok();
    let (mut renewed, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        object["spec"]["leaseTransitions"] = renewed.into();
        let began = Instant::now();
        object = world.ask(user, &format!("PUT {path}/{name}"), &object).await.ok();
        longest = longest.max(began.elapsed());
        renewed += 1;
        sleep(Duration::from_millis(50)).await;
    }
    (renewed, longest)
}

/// Ten times as many clients as there is room for, who come again at once when they are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_noticed_by_nobody_but_itself() {
    let world = slow_world(20).await;
    world.trust("flood").await;
    let change = json!({"spec": {"limited": {"limitResponse": {"queuing": {"queues": 4, "handSize": 2, "queueLengthLimit": 5}}}}});
    world.must(&format!("PATCH {GROUP}/prioritylevelconfigurations/global-default"), change).await;
    // Two seats, and two queues with five places each.
    let fits = 12;
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
    let flooding = flood(&world, "flood", 10 * fits, (&stop, &seen));
    let scheduler = UserInfo::new("system:kube-scheduler", &[]);
    let watching = async {
        let mut most = 0;
        for _ in 0..60 {
            let waiting = "apiserver_flowcontrol_current_inqueue_requests{priority_level=\"global-default\"}";
            most = most.max(world.metric(waiting).await);
            let used = world
                .metric("apiserver_flowcontrol_current_executing_seats{priority_level=\"global-default\"}")
                .await;
            assert!(used <= 2, "{used}");
            sleep(Duration::from_millis(50)).await;
        }
        stop.store(true, Ordering::Relaxed);
        most
    };
    let node = node();
    let (waiting, beats, elections) = tokio::join!(
        watching,
        renew(&world, &node, ("kube-node-lease", "n1"), &stop),
        renew(&world, &scheduler, ("kube-system", "kube-scheduler"), &stop),
    );
    flooding.join_all().await;
    let (served, refused) = (seen.served.load(Ordering::Relaxed), seen.refused.load(Ordering::Relaxed));
    assert!((1..=10).contains(&waiting), "queues are bounded: {waiting}");
    assert!(served > 50 && refused > served, "served {served}, refused {refused}");
    for (what, (renewed, longest)) in [("node", beats), ("leader election", elections)] {
        assert!(
            renewed >= 20 && longest < Duration::from_secs(1),
            "{what}: {renewed} times, longest {longest:?}"
        );
    }
    let left = world
        .metric("apiserver_flowcontrol_current_inqueue_requests{priority_level=\"global-default\"}")
        .await;
    assert_eq!(left, 0);
}

/// Flows of one level: who asks for little gets it, whatever others ask for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_does_not_starve_another() {
    let world = slow_world(20).await;
    world.trust("greedy").await;
    world.trust("modest").await;
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
    let flooding = flood(&world, "greedy", 150, (&stop, &seen));
    sleep(Duration::from_millis(200)).await;
    let modest = UserInfo::new("modest", &[]);
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        let began = Instant::now();
        world.ask(&modest, "POST /api/v1/namespaces/default/configmaps", &map("modest-")).await.ok();
        longest = longest.max(began.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    flooding.join_all().await;
    // Behind all that wait it would be 150 requests on two seats of 10 ms each: three quarters of a second.
    assert!(longest < Duration::from_millis(400), "{longest:?}");
}

/// A watch gives its seat back when it has begun.
#[tokio::test]
async fn watches_hold_no_seat() {
    let world = World::with(|config| config.requests_in_flight = 8).await;
    world.trust("watcher").await;
    let watcher = UserInfo::new("watcher", &[]);
    let mut open = Vec::new();
    for _ in 0..50 {
        let response = world.open(&watcher, "GET /api/v1/configmaps?watch=true", &[], Vec::new()).await;
        assert_eq!(response.status(), 200);
        open.push(response);
    }
    assert_eq!(world.ask(&watcher, "GET /api/v1/configmaps", &Value::Null).await.code, 200);
}
