//! Jobs: how they end, whom they count, and what they leave behind.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::world::{World, wait_until};

const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

fn job(name: &str, spec: Value) -> Job {
    let mut spec = spec;
    spec["template"] =
        json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

struct Batch {
    world: World,
    jobs: Api<Job>,
    pods: Api<Pod>,
}

impl Batch {
    async fn new() -> Self {
        let world = World::new().await;
        let jobs = Api::namespaced(world.client(), "default");
        let pods = Api::namespaced(world.client(), "default");
        Self { world, jobs, pods }
    }

    async fn create(&self, name: &str, spec: Value) {
        self.jobs.create(&PostParams::default(), &job(name, spec)).await.unwrap();
    }

    async fn status(&self, name: &str) -> JobStatus {
        self.jobs.get(name).await.unwrap().status.unwrap_or_default()
    }

    async fn all_pods(&self, job: &str) -> Vec<Pod> {
        let params = ListParams::default().labels(&format!("job-name={job}"));
        self.pods.list(&params).await.unwrap().items
    }

    async fn running(&self, job: &str) -> Vec<Pod> {
        let mut pods = self.all_pods(job).await;
        pods.retain(|pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
        });
        pods
    }

    async fn wait_running(&self, job: &str, count: usize) {
        wait_until("the pods run", || async { self.running(job).await.len() == count }).await;
    }

    /// Says what a kubelet says when the container of `pod` ends with `code`.
    async fn end(&self, pod: &Pod, code: i32) {
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        // Long ago, so that no back-off stands in the way.
        let ended = Timestamp::UNIX_EPOCH.to_string();
        let status = json!({"metadata": {"uid": pod.uid()}, "status": {"phase": phase, "containerStatuses": [
            {"name": "c", "image": "i:1", "imageID": "i", "ready": false, "restartCount": 0,
             "state": {"terminated": {"exitCode": code, "finishedAt": ended}}}]}});
        self.pods
            .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status))
            .await
            .unwrap();
    }

    /// Ends the running pods of `job` as `code` says until `done`.
    async fn work<F: Future<Output = bool>>(
        &self,
        job: &str,
        code: impl Fn(&Pod) -> i32,
        done: impl Fn() -> F,
    ) {
        let step = || async {
            for pod in self.running(job).await {
                self.end(&pod, code(&pod)).await;
            }
            done().await
        };
        wait_until("the job comes to its end", step).await;
    }

    async fn has(&self, job: &str, condition: &str, reason: &str) -> bool {
        let conditions = self.status(job).await.conditions.unwrap_or_default();
        conditions.iter().any(|found| {
            found.type_ == condition && found.status == "True" && found.reason.as_deref() == Some(reason)
        })
    }
}

fn index(pod: &Pod) -> i32 {
    pod.annotations().get(INDEX).and_then(|index| index.parse().ok()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_to_its_end_and_goes_with_its_pods() {
    let batch = Batch::new().await;
    let _node = batch.world.node("node-1").await;
    batch.create("sum", json!({"completions": 4, "parallelism": 2})).await;
    batch.wait_running("sum", 2).await;
    let status = batch.status("sum").await;
    assert_eq!((status.active, status.succeeded), (Some(2), None));
    assert!(status.start_time.is_some());
    batch.work("sum", |_| 0, || batch.has("sum", "Complete", "CompletionsReached")).await;
    let status = batch.status("sum").await;
    assert_eq!((status.active, status.succeeded, status.failed), (None, Some(4), None));
    assert!(
        status.completion_time.is_some()
            && batch.has("sum", "SuccessCriteriaMet", "CompletionsReached").await
    );
    let pods = batch.all_pods("sum").await;
    assert_eq!(pods.len(), 4);
    assert!(pods.iter().all(|pod| !pod.finalizers().contains(&FINALIZER.to_owned())));

    // A Job that is deleted while it runs takes pods with it that nobody has counted.
    batch.create("cut", json!({"parallelism": 3})).await;
    batch.wait_running("cut", 3).await;
    for name in ["sum", "cut"] {
        batch.jobs.delete(name, &DeleteParams::background()).await.unwrap();
        wait_until("no pod is left", || async { batch.all_pods(name).await.is_empty() }).await;
    }
    batch.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_are_worked_on_once_each() {
    let batch = Batch::new().await;
    let _node = batch.world.node("node-1").await;
    batch.create("idx", json!({"completions": 5, "parallelism": 3, "completionMode": "Indexed"})).await;
    batch.work("idx", |_| 0, || batch.has("idx", "Complete", "CompletionsReached")).await;
    let status = batch.status("idx").await;
    assert_eq!((status.completed_indexes.as_deref(), status.succeeded), (Some("0-4"), Some(5)));
    let pods = batch.all_pods("idx").await;
    assert_eq!(pods.iter().map(index).collect::<BTreeSet<i32>>(), (0..5).collect());
    for pod in &pods {
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.hostname, Some(format!("idx-{}", index(pod))));
        let env = spec.containers[0].env.as_ref().unwrap();
        assert!(env.iter().any(|variable| variable.name == "JOB_COMPLETION_INDEX"));
        assert_eq!(pod.labels()[INDEX], index(pod).to_string());
    }

    // Each index has two tries; index 1 uses them up, the others are not held up by it.
    let spec =
        json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 1});
    batch.create("own", spec).await;
    let code = |pod: &Pod| i32::from(index(pod) == 1);
    batch.work("own", code, || batch.has("own", "Failed", "FailedIndexes")).await;
    let status = batch.status("own").await;
    assert_eq!(status.completed_indexes.as_deref(), Some("0,2"));
    assert_eq!((status.failed_indexes.as_deref(), status.failed), (Some("1"), Some(2)));
    batch.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_end_a_job_when_there_are_too_many() {
    let batch = Batch::new().await;
    let _node = batch.world.node("node-1").await;
    batch.create("weak", json!({"completions": 4, "parallelism": 2, "backoffLimit": 0})).await;
    batch.wait_running("weak", 2).await;
    batch.end(&batch.running("weak").await[0], 1).await;
    wait_until("it has failed", || batch.has("weak", "Failed", "BackoffLimitExceeded")).await;
    wait_until("the other pod is stopped", || async { batch.running("weak").await.is_empty() }).await;
    let status = batch.status("weak").await;
    assert_eq!((status.active, status.failed, status.completion_time), (None, Some(2), None));

    batch.create("late", json!({"activeDeadlineSeconds": 1})).await;
    wait_until("its time is up", || batch.has("late", "Failed", "DeadlineExceeded")).await;

    // What the failure policy ignores costs nothing; what it cannot forgive ends the Job.
    let rules = json!({"rules": [
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [3]}},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]});
    batch.create("ruled", json!({"backoffLimit": 0, "podFailurePolicy": rules})).await;
    batch.wait_running("ruled", 1).await;
    let first = batch.running("ruled").await.remove(0);
    batch.end(&first, 3).await;
    wait_until("another pod runs", || async {
        batch.running("ruled").await.iter().any(|pod| pod.uid() != first.uid())
    })
    .await;
    assert_eq!(batch.status("ruled").await.failed, None);
    batch.end(&batch.running("ruled").await[0], 42).await;
    wait_until("it has failed", || batch.has("ruled", "Failed", "PodFailurePolicy")).await;
    batch.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_sleep_succeed_early_and_are_swept() {
    let batch = Batch::new().await;
    let _node = batch.world.node("node-1").await;
    batch.create("calm", json!({"completions": 2, "parallelism": 2, "suspend": true})).await;
    wait_until("it sleeps", || batch.has("calm", "Suspended", "JobSuspended")).await;
    assert!(batch.all_pods("calm").await.is_empty());
    let suspend = |suspend: bool| Patch::Merge(json!({"spec": {"suspend": suspend}}));
    batch.jobs.patch("calm", &PatchParams::default(), &suspend(false)).await.unwrap();
    batch.wait_running("calm", 2).await;
    batch.jobs.patch("calm", &PatchParams::default(), &suspend(true)).await.unwrap();
    wait_until("its pods go", || async { batch.all_pods("calm").await.is_empty() }).await;
    wait_until("it sleeps again", || batch.has("calm", "Suspended", "JobSuspended")).await;
    let status = batch.status("calm").await;
    assert_eq!((status.active, status.failed, status.start_time), (None, None, None));

    // Index 0 alone decides; the rest is stopped. Its end is seen for a second, then the Job goes.
    let policy = json!({"rules": [{"succeededIndexes": "0"}]});
    let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "successPolicy": policy,
                      "ttlSecondsAfterFinished": 1});
    batch.create("lead", spec).await;
    batch.wait_running("lead", 3).await;
    let pods = batch.running("lead").await;
    batch.end(pods.iter().find(|pod| index(pod) == 0).unwrap(), 0).await;
    wait_until("it is complete", || batch.has("lead", "Complete", "SuccessPolicy")).await;
    wait_until("it is gone with its pods", || async {
        batch.jobs.get_opt("lead").await.unwrap().is_none() && batch.all_pods("lead").await.is_empty()
    })
    .await;
    batch.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_controller_counts_and_creates_nothing_twice() {
    let mut batch = Batch::new().await;
    let _node = batch.world.node("node-1").await;
    batch.create("many", json!({"completions": 30, "parallelism": 10})).await;
    let mut seen = HashSet::new();
    for pause in [5, 17, 31, 47, 71, 90] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        batch.world.kill_controllers().await;
        for pod in batch.running("many").await {
            batch.end(&pod, 0).await;
        }
        batch.world.start_controllers();
    }
    batch.work("many", |_| 0, || batch.has("many", "Complete", "CompletionsReached")).await;
    seen.extend(batch.all_pods("many").await.iter().filter_map(ResourceExt::uid));
    assert_eq!(seen.len(), 30);
    assert_eq!(batch.status("many").await.succeeded, Some(30));
    batch.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_adopted_and_let_go() {
    let batch = Batch::new().await;
    let _node = batch.world.node("node-1").await;
    batch.create("pair", json!({"completions": 2, "parallelism": 2})).await;
    batch.wait_running("pair", 2).await;
    let pods = batch.running("pair").await;
    let (orphan, stranger) = (pods[0].name_any(), pods[1].name_any());
    let no_owner = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
    batch.pods.patch(&orphan, &PatchParams::default(), &no_owner).await.unwrap();
    wait_until("it is adopted again, to be counted", || async {
        let pod = batch.pods.get(&orphan).await.unwrap();
        pod.owner_references().iter().any(|owner| owner.kind == "Job")
            && pod.finalizers().contains(&FINALIZER.to_owned())
    })
    .await;
    let no_labels = Patch::Merge(json!({"metadata": {"labels": null}}));
    batch.pods.patch(&stranger, &PatchParams::default(), &no_labels).await.unwrap();
    wait_until("it is let go, nobody waits for it", || async {
        let pod = batch.pods.get(&stranger).await.unwrap();
        pod.owner_references().is_empty() && pod.finalizers().is_empty()
    })
    .await;
    batch.work("pair", |_| 0, || batch.has("pair", "Complete", "CompletionsReached")).await;
    assert_eq!(batch.status("pair").await.succeeded, Some(2));
    let left = batch.pods.get(&stranger).await.unwrap();
    assert_eq!(left.status.unwrap().phase.as_deref(), Some("Running"), "it belongs to nobody now");
    batch.world.stop().await;
}
