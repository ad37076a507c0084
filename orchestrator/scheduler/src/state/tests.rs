//! What the scheduler decides as events come in, without IO.

use serde_json::{Value, json};

use super::*;

struct World {
    state: State,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self { state: State::default(), now: Instant::now() }
    }

    fn node(&mut self, name: &str, cpu: &str) -> &mut Self {
        let node = json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "9"},
                          "runtimeHandlers": [{"name": "wasm"}, {"name": "oci"}]}});
        self.apply(Update::Node(Box::new(serde_json::from_value(node).unwrap())))
    }

    fn apply(&mut self, update: Update) -> &mut Self {
        self.state.apply(update, self.now);
        self
    }

    fn pod(&mut self, name: &str, spec: Value) -> &mut Self {
        let pod = pod(name, spec);
        self.apply(Update::Pod(Box::new(pod)))
    }

    /// What is decided, as text.
    fn decide(&mut self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .state
            .decide(1, self.now)
            .into_iter()
            .map(|decision| match decision {
                Decision::Bind { uid, node, .. } => format!("{uid} → {node}"),
                Decision::Tell { uid, why, .. } => format!("{uid}: {why}"),
            })
            .collect();
        lines.sort();
        lines
    }

    fn wait(&mut self) -> &mut Self {
        self.now += std::time::Duration::from_secs(11);
        self
    }
}

fn pod(name: &str, spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": spec}))
        .unwrap()
}

fn cpu(amount: &str) -> Value {
    json!({"containers": [{"resources": {"requests": {"cpu": amount}}}]})
}

const NO_CPU: &str = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No \
                      preemption victims found for incoming pod.";

#[tokio::test(start_paused = true)]
async fn what_is_assumed_counts() {
    let mut world = World::new();
    world.node("n", "1").pod("a", cpu("600m")).pod("b", cpu("600m"));
    assert_eq!(world.decide(), ["a → n".to_owned(), format!("b: {NO_CPU}")]);
    assert!(world.decide().is_empty());
    world.state.bound(&Uid::from("a"));
    world.wait().apply(Update::PodGone(Box::new(pod("a", cpu("600m")))));
    assert_eq!(world.decide(), ["b → n"]);
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_fails_gives_the_room_back() {
    let mut world = World::new();
    world.node("n", "1").pod("a", cpu("600m")).pod("b", cpu("600m"));
    world.decide();
    world.state.not_bound(&Uid::from("a"), world.now);
    world.wait();
    assert_eq!(world.decide(), ["a → n"], "both are tried again, and the other has been told already");
}

#[tokio::test(start_paused = true)]
async fn an_older_event_does_not_unbind() {
    let mut world = World::new();
    world.node("n", "1").pod("a", cpu("600m"));
    assert_eq!(world.decide(), ["a → n"]);
    world.pod("a", cpu("600m"));
    world.state.bound(&Uid::from("a"));
    world.pod("a", cpu("600m")).wait();
    assert!(world.decide().is_empty());
    let mut bound = cpu("600m");
    bound["nodeName"] = json!("n");
    world.pod("a", bound).pod("b", cpu("600m"));
    assert_eq!(world.decide(), [format!("b: {NO_CPU}")], "it is counted once, and still");
}

#[tokio::test(start_paused = true)]
async fn somebody_else_binds() {
    let mut world = World::new();
    let mut bound = cpu("600m");
    bound["nodeName"] = json!("n");
    world.node("n", "1").pod("a", cpu("600m")).pod("a", bound);
    assert!(world.decide().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_waits_is_told_once_and_tried_when_something_changes() {
    let mut world = World::new();
    world.pod("a", cpu("1"));
    assert_eq!(world.decide(), ["a: no nodes available to schedule pods"]);
    world.wait().node("n", "500m");
    assert_eq!(world.decide(), [format!("a: {NO_CPU}")]);
    world.wait().node("n", "500m");
    assert!(world.decide().is_empty(), "a heartbeat is no change");
    world.wait().node("n", "600m");
    assert!(world.decide().is_empty(), "tried in vain, and it was told so before");
    world.wait().node("n", "1");
    assert_eq!(world.decide(), ["a → n"]);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_runtime_class_names_those_there_are() {
    let mut world = World::new();
    let class = |name: &str, handler: &str| {
        serde_json::from_value(json!({"metadata": {"name": name}, "handler": handler})).unwrap()
    };
    world.node("n", "1").apply(Update::RuntimeClass(Box::new(class("fast", "wasm"))));
    world.pod("a", json!({"runtimeClassName": "kata"}));
    assert_eq!(
        world.decide(),
        [
            "a: 0/1 nodes are available: RuntimeClass \"kata\" not found. RuntimeClasses: fast. Handlers of the nodes: \
          oci, wasm."
        ]
    );
    world.wait().apply(Update::RuntimeClass(Box::new(class("kata", "wasm"))));
    assert_eq!(world.decide(), ["a → n"]);
}

#[tokio::test(start_paused = true)]
async fn whom_it_does_not_concern() {
    let mut world = World::new();
    world.node("n", "1");
    world.pod("other", json!({"schedulerName": "mine"}));
    world.pod("gated", json!({"schedulingGates": [{"name": "x"}]}));
    let mut leaving = pod("leaving", json!({}));
    leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    world.apply(Update::Pod(Box::new(leaving)));
    let mut done = pod("done", json!({"nodeName": "n"}));
    done.status.phase = "Succeeded".into();
    world.apply(Update::Pod(Box::new(done)));
    assert!(world.decide().is_empty());
    world.pod("gated", json!({}));
    assert_eq!(world.decide(), ["gated → n"]);
}

#[tokio::test(start_paused = true)]
async fn a_new_list_drops_what_is_gone() {
    let mut world = World::new();
    world.node("n", "1").node("m", "1").pod("a", cpu("1")).pod("b", cpu("1"));
    assert_eq!(world.decide().len(), 2);
    world.apply(Update::PodsListed(HashSet::from([Uid::from("a")])));
    world.apply(Update::NodesListed(HashSet::from([Uid::from("n"), Uid::from("m")])));
    world.pod("c", cpu("1"));
    assert_eq!(world.decide().len(), 1);
    world.apply(Update::NodesListed(HashSet::new())).pod("d", cpu("1"));
    assert_eq!(world.decide(), ["d: no nodes available to schedule pods"]);
}

fn storage(kind: &str, object: Value) -> Update {
    let claim = || Box::new(serde_json::from_value(object.clone()).unwrap());
    Update::Storage(match kind {
        "class" => Change::Class(Box::new(serde_json::from_value(object.clone()).unwrap())),
        _ => Change::Claim(claim()),
    })
}

#[tokio::test(start_paused = true)]
async fn pods_that_share_a_claim_share_its_node() {
    let mut world = World::new();
    let claim = |annotations: Value| json!({"metadata": {"name": "c", "namespace": "ns", "annotations": annotations}, "spec": {"storageClassName": "late"}});
    let pod =
        json!({"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
    world.node("n", "1").node("m", "1").pod("a", pod.clone()).pod("b", pod);
    let refused = world.decide();
    assert!(
        refused[0].starts_with("a: 0/2 nodes are available: persistentvolumeclaim \"c\" not found."),
        "{refused:?}"
    );
    let class = json!({"metadata": {"name": "late"}, "provisioner": "x.example.com", "volumeBindingMode": "WaitForFirstConsumer"});
    world.wait().apply(storage("class", class)).apply(storage("claim", claim(json!({}))));
    let placed = world.decide();
    let node = |line: &str| line.split(" → ").nth(1).unwrap().to_owned();
    assert_eq!(node(&placed[0]), node(&placed[1]), "{placed:?}");
    // What was chosen did not come true: another node may be.
    for uid in ["a", "b"] {
        world.state.not_bound(&Uid::from(uid), world.now);
    }
    let chosen = json!({"volume.kubernetes.io/selected-node": "m"});
    world.wait().apply(storage("claim", claim(chosen)));
    assert_eq!(world.decide(), ["a → m", "b → m"]);
}
