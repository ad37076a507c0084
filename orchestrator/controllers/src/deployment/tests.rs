//! Plans for Deployments as tables, and a whole rollout played through.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::member::{REVISION, REVISION_HISTORY, spec_replicas};
use super::plan::{Observed, Plan, plan};

fn start() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// A Deployment with its ReplicaSets, and time; what a plan says is applied at once.
struct World {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    busy: HashSet<String>,
    now: Timestamp,
}

impl World {
    fn new(spec: Value) -> Self {
        let deployment = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1,
                         "annotations": {"kubernetes.io/change-cause": "first"}},
            "spec": merge(json!({
                "replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 10, "strategy": {"type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
                "template": {"metadata": {"labels": {"app": "web"}},
                             "spec": {"containers": [{"name": "c", "image": "v1"}]}}
            }), spec),
        }))
        .unwrap();
        Self { deployment, sets: Vec::new(), busy: HashSet::new(), now: start() }
    }

    fn plan(&self) -> Plan {
        plan(&Observed { deployment: &self.deployment, sets: &self.sets, busy: &self.busy, now: self.now })
    }

    /// Plans and does what the plan says.
    fn step(&mut self) -> Plan {
        let plan = self.plan();
        if let Some(set) = &plan.create {
            let mut set = (**set).clone();
            set.metadata.uid = set.metadata.name.clone();
            set.metadata.creation_timestamp = Some(Time(self.now));
            set.metadata.generation = Some(1);
            self.sets.push(Arc::new(set));
        }
        for change in &plan.changes {
            let at = self.sets.iter().position(|set| set.metadata.name == change.meta.name).unwrap();
            let set = Arc::make_mut(&mut self.sets[at]);
            set.spec.as_mut().unwrap().replicas = Some(change.to);
            let annotations = set.metadata.annotations.get_or_insert_default();
            for (key, value) in &change.annotations {
                match value {
                    Some(value) => drop(annotations.insert(key.clone(), value.clone())),
                    None => drop(annotations.remove(key)),
                }
            }
        }
        self.sets.retain(|set| !plan.delete.iter().any(|gone| gone.metadata.name == set.metadata.name));
        if let Some(revision) = &plan.revision {
            self.deployment
                .metadata
                .annotations
                .get_or_insert_default()
                .insert(REVISION.to_owned(), revision.clone());
        }
        self.deployment.status = Some(plan.status.clone());
        self.now += SignedDuration::from_secs(1);
        plan
    }

    /// Every ReplicaSet gets its pods; those of `ready` are available too.
    fn pods_follow(&mut self, ready: impl Fn(&ReplicaSet) -> i32) {
        for set in &mut self.sets {
            let available = ready(set);
            let set = Arc::make_mut(set);
            set.status = Some(ReplicaSetStatus {
                replicas: spec_replicas(set),
                ready_replicas: Some(available),
                available_replicas: Some(available),
                observed_generation: set.metadata.generation,
                ..ReplicaSetStatus::default()
            });
        }
    }

    fn set_image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    fn resize(&mut self, replicas: i32) {
        self.deployment.spec.as_mut().unwrap().replicas = Some(replicas);
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    fn settle(&mut self) {
        for _ in 0..50 {
            self.pods_follow(spec_replicas);
            self.step();
        }
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(|set| spec_replicas(set)).collect()
    }

    fn condition(&self, type_: &str) -> (String, String, String) {
        let conditions = self.deployment.status.as_ref().unwrap().conditions.as_ref().unwrap();
        let found =
            conditions.iter().find(|condition| condition.type_ == type_).expect("the condition is there");
        (found.status.clone(), found.reason.clone().unwrap(), found.message.clone().unwrap())
    }

    fn annotation(&self, set: usize, key: &str) -> Option<&str> {
        self.sets[set].metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

fn merge(mut base: Value, over: Value) -> Value {
    for (key, value) in over.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

#[test]
fn a_status_that_lags_gives_no_pod_away_twice() {
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 10, "maxUnavailable": 0}});
    let mut world = World::new(json!({"replicas": 10, "strategy": strategy}));
    world.settle();
    world.set_image("v2");
    world.step();
    assert_eq!(world.sizes(), [10, 10]);
    let mut new_has = |available: i32| {
        Arc::make_mut(&mut world.sets[1]).status = Some(ReplicaSetStatus {
            replicas: 10,
            available_replicas: Some(available),
            ..Default::default()
        });
        world.step();
        spec_replicas(&world.sets[0])
    };
    assert_eq!(new_has(4), 6);
    // The status of the old one still counts the four pods that it was told to delete.
    assert_eq!(new_has(4), 6);
    assert_eq!(new_has(6), 4);
    assert_eq!(new_has(10), 0);
}

#[test]
fn the_first_rollout() {
    let mut world = World::new(json!({}));
    let plan = world.step();
    let set = plan.create.expect("there is none yet");
    assert_eq!(spec_replicas(&set), 4);
    assert!(set.metadata.name.as_ref().unwrap().starts_with("web-"));
    let hash = &set.metadata.labels.as_ref().unwrap()["pod-template-hash"];
    assert_eq!(*set.metadata.name.as_ref().unwrap(), format!("web-{hash}"));
    assert_eq!(
        set.spec.as_ref().unwrap().selector.match_labels.as_ref().unwrap()["pod-template-hash"],
        *hash
    );
    assert_eq!(plan.revision.as_deref(), Some("1"));
    assert_eq!(world.annotation(0, "kubernetes.io/change-cause"), Some("first"));
    assert_eq!(world.annotation(0, "deployment.kubernetes.io/max-replicas"), Some("5"));
    assert_eq!(world.condition("Progressing").1, "NewReplicaSetCreated");
    assert_eq!(world.condition("Available").1, "MinimumReplicasUnavailable");
    world.pods_follow(|_| 3);
    world.step();
    assert_eq!(world.condition("Available").1, "MinimumReplicasAvailable");
    assert_eq!(world.condition("Progressing").1, "ReplicaSetUpdated");
    world.settle();
    let (status, reason, message) = world.condition("Progressing");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "NewReplicaSetAvailable"));
    assert!(message.starts_with("ReplicaSet \"web-") && message.ends_with("\" has successfully progressed."));
    let status = world.deployment.status.clone().unwrap();
    assert_eq!(
        (status.replicas, status.updated_replicas, status.unavailable_replicas),
        (Some(4), Some(4), None)
    );
    let plan = world.step();
    assert!(plan.create.is_none() && plan.changes.is_empty() && plan.look_again.is_none());
}

#[test]
fn a_rolling_update_goes_up_and_down_in_turn() {
    let mut world = World::new(json!({"replicas": 10}));
    world.settle();
    world.set_image("v2");
    world.step();
    assert_eq!(world.sizes(), [8, 3], "25% of 10 more, rounded up, and as many less, rounded down");
    world.pods_follow(|set| if spec_replicas(set) == 8 { 8 } else { 0 });
    world.step();
    assert_eq!(world.sizes(), [8, 5], "the new one takes the room of those that went");
    world.pods_follow(|set| if spec_replicas(set) == 8 { 8 } else { 2 });
    world.step();
    assert_eq!(world.sizes(), [6, 5], "two new ones are available, so two old ones may go");
    world.settle();
    assert_eq!(world.sizes(), [0, 10]);
    assert_eq!(world.annotation(1, REVISION), Some("2"));
    assert_eq!(world.deployment.metadata.annotations.as_ref().unwrap()[REVISION], "2");
}

#[test]
fn pods_that_never_became_available_go_first() {
    let mut world = World::new(json!({"replicas": 4}));
    world.settle();
    world.set_image("broken");
    world.step();
    world.pods_follow(|set| if spec_replicas(set) == 4 { 4 } else { 0 });
    world.step();
    assert_eq!(world.sizes(), [3, 2]);
    world.set_image("v3");
    for _ in 0..20 {
        world.pods_follow(|set| if is_broken(set) { 0 } else { spec_replicas(set) });
        world.step();
    }
    assert_eq!(world.sizes(), [0, 0, 4]);
}

fn is_broken(set: &ReplicaSet) -> bool {
    let template = set.spec.as_ref().unwrap().template.as_ref().unwrap();
    template.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("broken")
}

#[test]
fn undo_reuses_the_old_set_and_remembers_its_number() {
    let mut world = World::new(json!({}));
    world.settle();
    world.set_image("v2");
    world.settle();
    world.set_image("v1");
    world.settle();
    assert_eq!(world.sizes(), [4, 0]);
    assert_eq!(world.annotation(0, REVISION), Some("3"));
    assert_eq!(world.annotation(0, REVISION_HISTORY), Some("1"));
    assert_eq!(world.deployment.metadata.annotations.as_ref().unwrap()[REVISION], "3");
}

#[test]
fn history_beyond_the_limit_is_given_up() {
    let mut world = World::new(json!({"revisionHistoryLimit": 2}));
    for version in 1..=5 {
        world.set_image(&format!("v{version}"));
        world.settle();
    }
    let revisions: Vec<_> =
        (0..world.sets.len()).map(|set| world.annotation(set, REVISION).unwrap()).collect();
    assert_eq!(revisions, ["3", "4", "5"]);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut world = World::new(json!({"strategy": {"type": "Recreate"}}));
    world.settle();
    world.set_image("v2");
    world.step();
    assert_eq!(world.sizes(), [0]);
    world.busy.insert(world.sets[0].metadata.uid.clone().unwrap());
    world.pods_follow(|_| 0);
    world.step();
    assert_eq!(world.sizes(), [0], "a pod is still there");
    world.busy.clear();
    world.step();
    assert_eq!(world.sizes(), [0, 4]);
}

#[test]
fn a_pause_stops_the_rollout_but_not_the_scaling() {
    let mut world = World::new(json!({}));
    world.settle();
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.set_image("v2");
    world.settle();
    assert_eq!(world.sizes(), [4]);
    assert_eq!(world.condition("Progressing").1, "DeploymentPaused");
    world.resize(6);
    world.settle();
    assert_eq!(world.sizes(), [6]);
    world.deployment.spec.as_mut().unwrap().paused = Some(false);
    world.step();
    world.settle();
    assert_eq!(world.sizes(), [0, 6]);
}

#[test]
fn a_rollout_that_is_resized_grows_in_proportion() {
    let mut world = World::new(json!({"replicas": 10, "strategy": {"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}}));
    world.settle();
    world.set_image("v2");
    world.step();
    world.pods_follow(|set| if spec_replicas(set) == 8 { 8 } else { 0 });
    world.step();
    assert_eq!(world.sizes(), [8, 5]);
    world.pods_follow(|set| if spec_replicas(set) == 8 { 8 } else { 0 });
    // The example of Kubernetes' documentation: 10 → 15 adds 3 to the old and 2 to the new.
    world.resize(15);
    world.step();
    assert_eq!(world.sizes(), [11, 7]);
}

#[test]
fn a_rollout_that_hangs_misses_its_deadline() {
    let mut world = World::new(json!({"progressDeadlineSeconds": 60}));
    world.step();
    world.pods_follow(|_| 0);
    let plan = world.step();
    assert!(plan.look_again.is_some_and(|wait| wait.as_secs() <= 61), "{:?}", plan.look_again);
    world.now += SignedDuration::from_secs(70);
    world.step();
    let (status, reason, message) = world.condition("Progressing");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ProgressDeadlineExceeded"));
    assert!(message.ends_with("has timed out progressing."), "{message}");
    world.settle();
    assert_eq!(world.condition("Progressing").1, "NewReplicaSetAvailable", "late is better than never");
}

#[test]
fn a_deployment_that_leaves_is_only_counted() {
    let mut world = World::new(json!({}));
    world.settle();
    world.deployment.metadata.deletion_timestamp = Some(Time(world.now));
    world.set_image("v2");
    let plan = world.plan();
    assert!(plan.create.is_none() && plan.changes.is_empty());
    assert_eq!(plan.status.observed_generation, world.deployment.metadata.generation);
}

#[test]
fn a_failure_of_the_new_set_is_shown() {
    let mut world = World::new(json!({}));
    world.step();
    let set = Arc::make_mut(&mut world.sets[0]);
    set.status = Some(
        serde_json::from_value(
            json!({"replicas": 0, "conditions": [{"type": "ReplicaFailure", "status": "True",
            "reason": "FailedCreate", "message": "quota"}]}),
        )
        .unwrap(),
    );
    world.step();
    assert_eq!(world.condition("ReplicaFailure"), ("True".into(), "FailedCreate".into(), "quota".into()));
    world.settle();
    let conditions = world.deployment.status.unwrap().conditions.unwrap();
    assert!(conditions.iter().all(|condition| condition.type_ != "ReplicaFailure"));
}

proptest! {
    /// Whatever happens to the pods: never more than the surge allows, never a step that makes less available
    /// than allowed, and in the end all pods are of the last template.
    #[test]
    fn a_rollout_keeps_its_bounds(replicas in 1..30i32, surge in 0..8i32, unavailable in 0..8i32,
                                  readiness in prop::collection::vec(0..4usize, 60), switch in 0..20usize) {
        let mut world = World::new(json!({"replicas": replicas, "progressDeadlineSeconds": null,
            "strategy": {"type": "RollingUpdate",
                         "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}));
        world.settle();
        world.set_image("v2");
        let floor = replicas - if surge == 0 && unavailable == 0 { 1 } else { unavailable.min(replicas) };
        for (at, share) in readiness.iter().enumerate() {
            if at == switch {
                world.set_image("v3");
            }
            let before: Vec<i32> = world.sizes();
            let image = format!("v{}", if at >= switch { 3 } else { 2 });
            // Old pods stay available; of the young ones only a share has come up.
            world.pods_follow(|set| {
                let template = set.spec.as_ref().unwrap().template.as_ref().unwrap();
                let young = template.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(&image);
                if young { spec_replicas(set) * i32::try_from(*share).unwrap() / 3 } else { spec_replicas(set) }
            });
            let available: Vec<i32> = world.sets.iter()
                .map(|set| set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)).collect();
            world.step();
            let total: i32 = world.sizes().iter().sum();
            prop_assert!(total <= (replicas + surge).max(before.iter().sum()), "{total} pods");
            // A ReplicaSet that shrinks gives up what is not available first.
            let left: i32 = available.iter().zip(world.sizes()).map(|(available, size)| (*available).min(size)).sum();
            let least = floor.min(available.iter().sum());
            prop_assert!(left >= least, "{available:?} available, then {left}: the floor is {floor}");
        }
        world.settle();
        prop_assert_eq!(world.sizes().iter().sum::<i32>(), replicas);
        prop_assert_eq!(*world.sizes().last().unwrap(), replicas);
    }
}
