//! StatefulSets: names, order, volumes and rollouts.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::world::{World, runs, wait_until};

struct Sets {
    world: World,
    sets: Api<StatefulSet>,
    pods: Api<Pod>,
    claims: Api<PersistentVolumeClaim>,
}

impl Sets {
    async fn new() -> Self {
        let world = World::new().await;
        let (sets, pods) =
            (Api::namespaced(world.client(), "default"), Api::namespaced(world.client(), "default"));
        let claims = Api::namespaced(world.client(), "default");
        Self { world, sets, pods, claims }
    }

    async fn create(&self, replicas: i32, more: Value) -> StatefulSet {
        let mut spec = json!({"replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "db:1"}]}}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let set = serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": spec})).unwrap();
        self.sets.create(&PostParams::default(), &set).await.unwrap()
    }

    async fn change(&self, spec: Value) {
        self.sets
            .patch("db", &PatchParams::default(), &Patch::Strategic(json!({"spec": spec})))
            .await
            .unwrap();
    }

    async fn image(&self, image: &str) {
        self.change(json!({"template": {"spec": {"containers": [{"name": "c", "image": image}]}}})).await;
    }

    /// The images of the pods by their names.
    async fn pods(&self) -> BTreeMap<String, String> {
        let pods = self.pods.list(&ListParams::default().labels("app=db")).await.unwrap().items;
        let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
        pods.iter().map(|pod| (pod.name_any(), image(pod))).collect()
    }

    /// Are there pods of these images, in the order of their ordinals, and all available?
    async fn is_out(&self, images: &[&str]) -> bool {
        let set = self.sets.get("db").await.unwrap();
        let status = set.status.clone().unwrap_or_default();
        let count = i32::try_from(images.len()).unwrap();
        let pods = self.pods().await;
        // The status may still be that of the pods before.
        let running = self.pods.list(&ListParams::default().labels("app=db")).await.unwrap();
        running.items.iter().all(runs)
            && pods.values().map(String::as_str).eq(images.iter().copied())
            && status.observed_generation == set.metadata.generation
            && (status.replicas, status.available_replicas.unwrap_or(0)) == (count, count)
    }

    async fn claims(&self) -> Vec<String> {
        let claims = self.claims.list(&ListParams::default()).await.unwrap().items;
        claims.iter().map(ResourceExt::name_any).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_come_and_go_in_order() {
    let sets = Sets::new().await;
    let _node = sets.world.node("node-1").await;
    sets.create(3, json!({})).await;
    wait_until("three are out", || sets.is_out(&["db:1"; 3])).await;
    let pods = sets.pods.list(&ListParams::default()).await.unwrap().items;
    let times: Vec<_> =
        pods.iter().map(|pod| pod.resource_version().unwrap().parse::<u64>().unwrap()).collect();
    assert!(times.is_sorted(), "each was ready before the next was made");
    let first = sets.pods.get("db-0").await.unwrap();
    let spec = first.spec.as_ref().unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-0"), Some("db")));
    assert_eq!(first.labels()["statefulset.kubernetes.io/pod-name"], "db-0");
    assert_eq!(first.labels()["apps.kubernetes.io/pod-index"], "0");

    // One that is not ready halts everything.
    let unready = json!({"metadata": {"uid": first.uid()}, "status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    sets.pods.patch_status("db-0", &PatchParams::default(), &Patch::Strategic(unready)).await.unwrap();
    wait_until("the set knows it", || async {
        sets.sets.get("db").await.unwrap().status.unwrap_or_default().ready_replicas == Some(2)
    })
    .await;
    sets.change(json!({"replicas": 4})).await;
    wait_until("the set saw the change", || async {
        let set = sets.sets.get("db").await.unwrap();
        set.status.unwrap_or_default().observed_generation == set.metadata.generation
    })
    .await;
    assert_eq!(sets.pods().await.len(), 3);
    let ready = json!({"metadata": {"uid": first.uid()}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    sets.pods.patch_status("db-0", &PatchParams::default(), &Patch::Strategic(ready)).await.unwrap();
    wait_until("four are out", || sets.is_out(&["db:1"; 4])).await;

    // A pod that is lost or has failed comes back under its name.
    for failed in [false, true] {
        let lost = sets.pods.get("db-1").await.unwrap();
        if failed {
            let status = Patch::Merge(json!({"status": {"phase": "Failed"}}));
            sets.pods.patch_status("db-1", &PatchParams::default(), &status).await.unwrap();
        } else {
            sets.pods.delete("db-1", &DeleteParams::default()).await.unwrap();
        }
        wait_until("it is back", || async {
            let pod = sets.pods.get_opt("db-1").await.unwrap();
            pod.is_some_and(|pod| pod.uid() != lost.uid()) && sets.is_out(&["db:1"; 4]).await
        })
        .await;
    }
    sets.change(json!({"replicas": 1})).await;
    wait_until("the first is left", || sets.is_out(&["db:1"])).await;
    assert!(sets.pods().await.contains_key("db-0"));
    sets.change(json!({"ordinals": {"start": 4}, "replicas": 2})).await;
    wait_until("the numbers start at four", || async {
        sets.is_out(&["db:1"; 2]).await && sets.pods().await.keys().eq(["db-4", "db-5"])
    })
    .await;
    sets.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn templates_are_rolled_out_down_to_the_partition() {
    let sets = Sets::new().await;
    let _node = sets.world.node("node-1").await;
    let revisions: Api<ControllerRevision> = Api::namespaced(sets.world.client(), "default");
    sets.create(3, json!({"podManagementPolicy": "Parallel"})).await;
    wait_until("three are out", || sets.is_out(&["db:1"; 3])).await;
    sets.change(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}))
        .await;
    sets.image("db:2").await;
    wait_until("the last is new", || sets.is_out(&["db:1", "db:1", "db:2"])).await;
    wait_until("the status says so", || async {
        let status = sets.sets.get("db").await.unwrap().status.unwrap();
        (status.updated_replicas, status.current_replicas) == (Some(1), Some(2))
            && status.current_revision != status.update_revision
    })
    .await;

    // A pod below the partition that is lost comes back as it was.
    let lost = sets.pods.get("db-0").await.unwrap();
    sets.pods.delete("db-0", &DeleteParams::default()).await.unwrap();
    wait_until("it is as it was", || async {
        let pod = sets.pods.get_opt("db-0").await.unwrap();
        pod.is_some_and(|pod| pod.uid() != lost.uid()) && sets.is_out(&["db:1", "db:1", "db:2"]).await
    })
    .await;
    sets.change(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}))
        .await;
    wait_until("all are new", || sets.is_out(&["db:2"; 3])).await;
    wait_until("the rollout is over", || async {
        let status = sets.sets.get("db").await.unwrap().status.unwrap();
        status.current_revision == status.update_revision && status.current_replicas == Some(3)
    })
    .await;
    sets.image("db:1").await;
    wait_until("all are as before", || sets.is_out(&["db:1"; 3])).await;
    let numbers: Vec<i64> =
        revisions.list(&ListParams::default()).await.unwrap().items.iter().map(|one| one.revision).collect();
    assert_eq!(numbers.iter().sum::<i64>(), 5, "the first revision is the third now");
    sets.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_stay_or_go_as_is_asked() {
    let sets = Sets::new().await;
    let _node = sets.world.node("node-1").await;
    let template = json!({"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    sets.create(2, json!({"volumeClaimTemplates": [template]})).await;
    wait_until("the first pod and its claim are there", || async {
        !sets.claims().await.is_empty() && !sets.pods().await.is_empty()
    })
    .await;
    let pod = sets.pods.get("db-0").await.unwrap();
    let volumes = pod.spec.unwrap().volumes.unwrap();
    let claim = volumes.iter().find_map(|volume| volume.persistent_volume_claim.as_ref()).unwrap();
    assert_eq!(claim.claim_name, "data-db-0");

    // Whether the pods run does not matter here: nobody binds the claims.
    sets.change(json!({"podManagementPolicy": null, "persistentVolumeClaimRetentionPolicy": {
        "whenDeleted": "Delete", "whenScaled": "Delete"}}))
        .await;
    wait_until("the claim goes with the set", || async {
        let claim = sets.claims.get("data-db-0").await.unwrap();
        claim.owner_references().iter().any(|owner| owner.kind == "StatefulSet")
    })
    .await;
    sets.change(json!({"replicas": 0})).await;
    wait_until("the claims of the pods that went are gone", || async { sets.claims().await.is_empty() })
        .await;
    sets.change(json!({"replicas": 1})).await;
    wait_until("a new claim is there", || async { sets.claims().await == ["data-db-0"] }).await;
    sets.sets.delete("db", &DeleteParams::background()).await.unwrap();
    wait_until("it goes with the set", || async { sets.claims().await.is_empty() }).await;
    sets.world.stop().await;
}
