//! DaemonSets: where their pods are, how they are replaced, and what is remembered of earlier templates.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::world::{World, runs, wait_until};

fn daemon_set(name: &str, more: Value) -> DaemonSet {
    let mut spec = json!({"selector": {"matchLabels": {"app": name}}, "template": {
        "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "log:1"}]}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

struct Daemons {
    world: World,
    sets: Api<DaemonSet>,
    pods: Api<Pod>,
    revisions: Api<ControllerRevision>,
}

impl Daemons {
    async fn new() -> Self {
        let world = World::new().await;
        let (sets, pods) =
            (Api::namespaced(world.client(), "default"), Api::namespaced(world.client(), "default"));
        let revisions = Api::namespaced(world.client(), "default");
        Self { world, sets, pods, revisions }
    }

    async fn create(&self, name: &str, more: Value) {
        self.sets.create(&PostParams::default(), &daemon_set(name, more)).await.unwrap();
    }

    async fn image(&self, name: &str, image: &str) {
        let containers =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
        self.sets.patch(name, &PatchParams::default(), &Patch::Strategic(containers)).await.unwrap();
    }

    async fn pods(&self, name: &str) -> Vec<Pod> {
        let params = ListParams::default().labels(&format!("app={name}"));
        let mut pods = self.pods.list(&params).await.unwrap().items;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        pods
    }

    async fn places(&self, name: &str) -> BTreeSet<String> {
        self.pods(name).await.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect()
    }

    /// Is a pod of `image`, and no other, available on each of `count` nodes?
    async fn is_out(&self, name: &str, image: &str, count: i32) -> bool {
        let set = self.sets.get(name).await.unwrap();
        let status = set.status.clone().unwrap_or_default();
        let pods = self.pods(name).await;
        let images =
            pods.iter().all(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image));
        // The status may still be that of the pods before.
        images
            && pods.iter().all(runs)
            && pods.len() == usize::try_from(count).unwrap()
            && status.observed_generation == set.metadata.generation
            && (status.desired_number_scheduled, status.number_available.unwrap_or(0)) == (count, count)
            && status.updated_number_scheduled.unwrap_or(0) == count
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_that_fits_has_a_pod() {
    let daemons = Daemons::new().await;
    let nodes: Api<Node> = Api::all(daemons.world.client());
    let mut played = vec![daemons.world.node("node-1").await];
    daemons.create("log", json!({})).await;
    wait_until("the first node has one", || daemons.is_out("log", "log:1", 1)).await;
    played.push(daemons.world.node("node-2").await);
    wait_until("so has the second", || daemons.is_out("log", "log:1", 2)).await;
    assert_eq!(daemons.places("log").await, BTreeSet::from(["node-1".to_owned(), "node-2".to_owned()]));

    // A cordoned node keeps its pod; a deleted and a failed pod come back.
    nodes.cordon("node-2").await.unwrap();
    for failed in [false, true] {
        let pod = daemons.pods("log").await.remove(0);
        if failed {
            let status = Patch::Merge(json!({"status": {"phase": "Failed"}}));
            daemons.pods.patch_status(&pod.name_any(), &PatchParams::default(), &status).await.unwrap();
        } else {
            daemons.pods.delete(&pod.name_any(), &DeleteParams::default()).await.unwrap();
        }
        wait_until("another pod takes its place", || async {
            daemons.is_out("log", "log:1", 2).await
                && daemons.pods("log").await.iter().all(|p| p.uid() != pod.uid())
        })
        .await;
    }

    // Pods follow the labels of nodes.
    daemons
        .create(
            "gpu",
            json!({"template": {"metadata": {"labels": {"app": "gpu"}}, "spec": {
        "nodeSelector": {"gpu": "yes"}, "containers": [{"name": "c", "image": "log:1"}]}}}),
        )
        .await;
    let label = |value: Value| Patch::Merge(json!({"metadata": {"labels": {"gpu": value}}}));
    assert!(daemons.places("gpu").await.is_empty());
    nodes.patch("node-1", &PatchParams::default(), &label(json!("yes"))).await.unwrap();
    wait_until("the labelled node has one", || daemons.is_out("gpu", "log:1", 1)).await;
    nodes.patch("node-1", &PatchParams::default(), &label(json!(null))).await.unwrap();
    wait_until("it goes with the label", || async { daemons.places("gpu").await.is_empty() }).await;

    daemons.sets.delete("log", &DeleteParams::background()).await.unwrap();
    wait_until("nothing is left", || async {
        let params = ListParams::default().labels("app=log");
        daemons.pods("log").await.is_empty()
            && daemons.revisions.list(&params).await.unwrap().items.is_empty()
    })
    .await;
    daemons.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn templates_are_rolled_out_and_remembered() {
    let daemons = Daemons::new().await;
    let _nodes = [
        daemons.world.node("node-1").await,
        daemons.world.node("node-2").await,
        daemons.world.node("node-3").await,
    ];
    daemons.create("log", json!({"revisionHistoryLimit": 1})).await;
    wait_until("the first is out", || daemons.is_out("log", "log:1", 3)).await;
    daemons.image("log", "log:2").await;
    wait_until("the second is out", || daemons.is_out("log", "log:2", 3)).await;
    let numbers = || async {
        let all = daemons.revisions.list(&ListParams::default().labels("app=log")).await.unwrap().items;
        all.iter().map(|revision| revision.revision).collect::<BTreeSet<i64>>()
    };
    assert_eq!(numbers().await, BTreeSet::from([1, 2]));
    daemons.image("log", "log:1").await;
    wait_until("the first is out again", || daemons.is_out("log", "log:1", 3)).await;
    assert_eq!(numbers().await, BTreeSet::from([2, 3]), "the first revision has a new number");
    daemons.image("log", "log:4").await;
    wait_until("the fourth is out", || daemons.is_out("log", "log:4", 3)).await;
    wait_until("one old revision is kept", || async { numbers().await == BTreeSet::from([3, 4]) }).await;

    // With a surge the new pod comes before the old one goes.
    let surge = json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}}});
    daemons.sets.patch("log", &PatchParams::default(), &Patch::Merge(surge)).await.unwrap();
    daemons.image("log", "log:5").await;
    wait_until("the fifth is out", || daemons.is_out("log", "log:5", 3)).await;

    // On deletion only.
    let patient = json!({"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}});
    daemons.sets.patch("log", &PatchParams::default(), &Patch::Merge(patient)).await.unwrap();
    daemons.image("log", "log:6").await;
    let one = daemons.pods("log").await.remove(0);
    daemons.pods.delete(&one.name_any(), &DeleteParams::default()).await.unwrap();
    wait_until("one of three is new", || async {
        let status = daemons.sets.get("log").await.unwrap().status.unwrap_or_default();
        (status.number_available, status.updated_number_scheduled) == (Some(3), Some(1))
    })
    .await;
    daemons.world.stop().await;
}
