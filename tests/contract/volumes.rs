//! PersistentVolumes and claims: who gets whom, volumes made on the node of the first consumer, and what is left.

use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::world::{World, runs, wait_until};

struct Storage {
    world: World,
    claims: Api<PersistentVolumeClaim>,
    volumes: Api<PersistentVolume>,
    pods: Api<Pod>,
}

impl Storage {
    async fn new() -> Self {
        let world = World::new().await;
        let claims = Api::namespaced(world.client(), "default");
        let (volumes, pods) = (Api::all(world.client()), Api::namespaced(world.client(), "default"));
        Self { world, claims, volumes, pods }
    }

    async fn claim(&self, name: &str, more: Value) {
        let mut spec =
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let claim = json!({"metadata": {"name": name}, "spec": spec});
        self.claims.create(&PostParams::default(), &serde_json::from_value(claim).unwrap()).await.unwrap();
    }

    async fn volume(&self, name: &str, more: Value) {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "hostPath": {"path": "/x"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let volume = json!({"metadata": {"name": name}, "spec": spec});
        self.volumes.create(&PostParams::default(), &serde_json::from_value(volume).unwrap()).await.unwrap();
    }

    async fn pod(&self, name: &str, source: Value) {
        let mut volume = source;
        volume["name"] = json!("v");
        let pod = json!({"metadata": {"name": name}, "spec": {
            "containers": [{"name": "c", "image": "i:1"}], "volumes": [volume]}});
        self.pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }

    /// Phase and volume of a claim.
    async fn is(&self, claim: &str, phase: &str, volume: &str) -> bool {
        let Some(claim) = self.claims.get_opt(claim).await.unwrap() else { return false };
        claim.status.unwrap_or_default().phase.as_deref() == Some(phase)
            && claim.spec.unwrap().volume_name.unwrap_or_default() == volume
    }

    async fn phase(&self, volume: &str) -> String {
        let volume = self.volumes.get_opt(volume).await.unwrap();
        volume.and_then(|volume| volume.status?.phase).unwrap_or_default()
    }

    async fn told(&self, reason: &str) -> bool {
        let events: Api<Event> = Api::all(self.world.client());
        let all = events.list(&ListParams::default().fields(&format!("reason={reason}"))).await.unwrap();
        !all.items.is_empty()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_gets_the_volume_that_fits() {
    let storage = Storage::new().await;
    storage.volume("big", json!({"capacity": {"storage": "9Gi"}})).await;
    storage.volume("small", json!({})).await;
    storage.volume("mine", json!({"claimRef": {"namespace": "default", "name": "named"}})).await;
    for name in ["big", "small", "mine"] {
        wait_until("volumes are available", || async { storage.phase(name).await == "Available" }).await;
    }
    storage.claim("data", json!({"storageClassName": ""})).await;
    wait_until("it gets the smallest", || storage.is("data", "Bound", "small")).await;
    wait_until("the volume says so", || async { storage.phase("small").await == "Bound" }).await;
    let claim = storage.claims.get("data").await.unwrap();
    assert_eq!(claim.metadata.finalizers.unwrap(), ["kubernetes.io/pvc-protection"]);
    assert_eq!(claim.status.unwrap().capacity.unwrap()["storage"].0, "2Gi", "what the volume has");
    storage.claim("named", json!({"storageClassName": ""})).await;
    wait_until("it gets the one that is meant for it", || storage.is("named", "Bound", "mine")).await;
    storage.claim("third", json!({"storageClassName": "", "volumeName": "big"})).await;
    wait_until("it gets the one it names", || storage.is("third", "Bound", "big")).await;
    storage.claim("none", json!({"storageClassName": ""})).await;
    wait_until("it is told why not", || storage.told("FailedBinding")).await;

    // A volume that was kept is not given again; one whose maker is unknown cannot be deleted.
    storage.claims.delete("data", &DeleteParams::default()).await.unwrap();
    wait_until("it is released", || async { storage.phase("small").await == "Released" }).await;
    assert!(storage.is("none", "Pending", "").await);
    let policy = Patch::Merge(json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}}));
    storage.volumes.patch("big", &PatchParams::default(), &policy).await.unwrap();
    storage.claims.delete("third", &DeleteParams::default()).await.unwrap();
    wait_until("it failed", || async { storage.phase("big").await == "Failed" }).await;

    // Bound volumes and claims in use are protected; a volume that is lost is noticed.
    storage.volumes.delete("mine", &DeleteParams::default()).await.unwrap();
    assert!(storage.volumes.get("mine").await.unwrap().metadata.deletion_timestamp.is_some());
    storage.claims.delete("named", &DeleteParams::default()).await.unwrap();
    wait_until("both are gone", || async { storage.volumes.get_opt("mine").await.unwrap().is_none() }).await;
    storage.volume("again", json!({})).await;
    wait_until("it takes the next", || storage.is("none", "Bound", "again")).await;
    storage.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_made_on_the_node_of_its_first_consumer() {
    let storage = Storage::new().await;
    let _nodes = (storage.world.node("node-1").await, storage.world.node("node-2").await);
    storage.claim("data", json!({})).await;
    wait_until("it has the default class", || async {
        let claim = storage.claims.get("data").await.unwrap();
        claim.spec.unwrap().storage_class_name.as_deref() == Some("local-path")
    })
    .await;
    wait_until("it waits", || storage.told("WaitForFirstConsumer")).await;
    assert!(storage.is("data", "Pending", "").await);
    let source = || json!({"persistentVolumeClaim": {"claimName": "data"}});
    storage.pod("first", source()).await;
    storage.pod("second", source()).await;
    for pod in ["first", "second"] {
        wait_until("the pods run", || async { runs(&storage.pods.get(pod).await.unwrap()) }).await;
    }
    let node = |pod: Pod| pod.spec.unwrap().node_name.unwrap();
    let first = node(storage.pods.get("first").await.unwrap());
    assert_eq!(node(storage.pods.get("second").await.unwrap()), first, "where the volume is");
    let name = format!("pvc-{}", storage.claims.get("data").await.unwrap().uid().unwrap());
    wait_until("it is bound", || storage.is("data", "Bound", &name)).await;
    let volume = storage.volumes.get(&name).await.unwrap();
    let affinity = serde_json::to_value(volume.spec.unwrap().node_affinity).unwrap();
    assert!(affinity.to_string().contains(&first), "{affinity}");

    // A claim in use stays until its last pod is gone; then the volume goes, once its node says that it did.
    storage.claims.delete("data", &DeleteParams::default()).await.unwrap();
    storage.pods.delete("first", &DeleteParams::default()).await.unwrap();
    wait_until("one pod is gone", || async { storage.pods.get_opt("first").await.unwrap().is_none() }).await;
    assert!(storage.claims.get("data").await.unwrap().metadata.deletion_timestamp.is_some());
    storage.pods.delete("second", &DeleteParams::default()).await.unwrap();
    wait_until("the claim is gone", || async { storage.claims.get_opt("data").await.unwrap().is_none() })
        .await;
    wait_until("the volume waits for its node", || async {
        let volume = storage.volumes.get(&name).await.unwrap();
        volume.metadata.deletion_timestamp.is_some()
            && volume.metadata.finalizers == Some(vec!["local-path.catamaran.dev/directory".to_owned()])
    })
    .await;
    let removed = Patch::Merge(json!({"status": {"reason": "DirectoryRemoved"}}));
    storage.volumes.patch_status(&name, &PatchParams::default(), &removed).await.unwrap();
    wait_until("the volume is gone", || async { storage.volumes.get_opt(&name).await.unwrap().is_none() })
        .await;
    storage.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_say_what_their_claims_lack() {
    let storage = Storage::new().await;
    let _node = storage.world.node("node-1").await;
    let class = json!({"metadata": {"name": "now"}, "provisioner": "csi.example.com", "volumeBindingMode": "Immediate"});
    let classes: Api<StorageClass> = Api::all(storage.world.client());
    classes.create(&PostParams::default(), &serde_json::from_value(class).unwrap()).await.unwrap();
    storage.pod("early", json!({"persistentVolumeClaim": {"claimName": "late"}})).await;
    let unschedulable = |pod: &'static str, why: &'static str| {
        let pods = &storage.pods;
        async move {
            let status = pods.get(pod).await.unwrap().status.unwrap_or_default();
            let mut conditions = status.conditions.unwrap_or_default().into_iter();
            conditions.any(|one| one.message.unwrap_or_default().contains(why))
        }
    };
    let missing = "persistentvolumeclaim \"late\" not found";
    wait_until("its claim is missed", || unschedulable("early", missing)).await;
    storage.claim("late", json!({"storageClassName": "now"})).await;
    let unbound = "pod has unbound immediate PersistentVolumeClaims";
    wait_until("its claim is not bound", || unschedulable("early", unbound)).await;
    wait_until("somebody is asked for a volume", || storage.told("ExternalProvisioning")).await;
    let claim = storage.claims.get("late").await.unwrap();
    assert_eq!(claim.annotations()["volume.kubernetes.io/storage-provisioner"], "csi.example.com");
    storage.volume("made", json!({"storageClassName": "now"})).await;
    wait_until("it runs", || async { runs(&storage.pods.get("early").await.unwrap()) }).await;

    // An `ephemeral` volume is a claim that goes with its pod.
    let template =
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
    storage.pod("own", json!({"ephemeral": {"volumeClaimTemplate": template}})).await;
    wait_until("it runs too", || async { runs(&storage.pods.get("own").await.unwrap()) }).await;
    let own = storage.claims.get("own-v").await.unwrap();
    assert_eq!(own.owner_references()[0].name, "own");
    storage.pods.delete("own", &DeleteParams::default()).await.unwrap();
    wait_until("its claim is gone", || async { storage.claims.get_opt("own-v").await.unwrap().is_none() })
        .await;
    storage.world.stop().await;
}
