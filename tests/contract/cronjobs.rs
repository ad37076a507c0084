//! CronJobs: when a Job is made, how many may run, and what is kept.

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::world::{World, wait_until};

fn cron(name: &str, policy: &str, more: Value) -> CronJob {
    let container = json!({"name": "c", "image": "i:1"});
    let template = json!({"metadata": {"labels": {"cron": name}},
                          "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}});
    let mut spec = json!({"schedule": "* * * * *", "concurrencyPolicy": policy, "jobTemplate": template});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

/// Makes the CronJob believe that its last Job was `minutes` ago, so that no test waits for the clock.
async fn turn_back(crons: &Api<CronJob>, name: &str, minutes: i64) {
    let last = Timestamp::now().checked_sub(SignedDuration::from_mins(minutes)).unwrap();
    let last = Timestamp::from_second(last.as_second()).unwrap().to_string();
    let patch = json!({"status": {"lastScheduleTime": last}});
    crons.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_made_at_their_time_and_swept_later() {
    let world = World::new().await;
    let crons: Api<CronJob> = Api::namespaced(world.client(), "default");
    let jobs: Api<Job> = Api::namespaced(world.client(), "default");
    let pods: Api<Pod> = Api::namespaced(world.client(), "default");
    let of = |name: &str| ListParams::default().labels(&format!("cron={name}"));
    let count = |name: &'static str| {
        let jobs = &jobs;
        async move { jobs.list(&of(name)).await.unwrap().items }
    };

    let made = crons.create(&PostParams::default(), &cron("tick", "Allow", json!({}))).await.unwrap();
    turn_back(&crons, "tick", 3).await;
    wait_until("a Job is there", || async { !count("tick").await.is_empty() }).await;
    let first = count("tick").await.remove(0);
    let owner = &first.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), Some(&owner.uid)), ("CronJob", made.metadata.uid.as_ref()));
    assert!(first.annotations().contains_key("batch.kubernetes.io/cronjob-scheduled-timestamp"));
    wait_until("it is active", || async {
        let status = crons.get("tick").await.unwrap().status.unwrap_or_default();
        status.active.iter().flatten().any(|job| job.name.as_deref() == Some(&first.name_any()))
    })
    .await;

    // It ends: the CronJob remembers when, and the events say so.
    wait_until("its pod is there", || async {
        !pods.list(&ListParams::default()).await.unwrap().items.is_empty()
    })
    .await;
    let pod = pods.list(&ListParams::default()).await.unwrap().items.remove(0);
    let ended = json!({"status": {"phase": "Succeeded"}});
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(ended)).await.unwrap();
    wait_until("the end is noted", || async {
        let status = crons.get("tick").await.unwrap().status.unwrap_or_default();
        status.last_successful_time.is_some()
            && !status.active.iter().flatten().any(|job| job.uid == first.metadata.uid)
    })
    .await;
    let events: Api<Event> = Api::namespaced(world.client(), "default");
    let mine = ListParams::default().fields("involvedObject.name=tick,involvedObject.kind=CronJob");
    wait_until("there are events", || async {
        let events = events.list(&mine).await.unwrap().items;
        let has = |reason: &str| events.iter().any(|event| event.reason.as_deref() == Some(reason));
        has("SuccessfulCreate") && has("SawCompletedJob")
    })
    .await;
    let none = json!({"spec": {"successfulJobsHistoryLimit": 0}});
    crons.patch("tick", &PatchParams::default(), &Patch::Merge(none)).await.unwrap();
    wait_until("the Job of the past is gone", || async {
        jobs.get_opt(&first.name_any()).await.unwrap().is_none()
    })
    .await;

    // Suspended, nothing starts; deleted, it takes its Jobs with it.
    let idle = cron("idle", "Allow", json!({"suspend": true}));
    crons.create(&PostParams::default(), &idle).await.unwrap();
    turn_back(&crons, "idle", 3).await;
    crons.delete("tick", &DeleteParams::background()).await.unwrap();
    wait_until("its Jobs are gone", || async { count("tick").await.is_empty() }).await;
    assert!(count("idle").await.is_empty());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_job_waits_for_another_or_replaces_it() {
    let world = World::new().await;
    let crons: Api<CronJob> = Api::namespaced(world.client(), "default");
    let jobs: Api<Job> = Api::namespaced(world.client(), "default");
    let events: Api<Event> = Api::namespaced(world.client(), "default");
    for (name, policy) in [("shy", "Forbid"), ("bold", "Replace")] {
        // Suspended until all is prepared, for a minute may begin meanwhile.
        let asleep = cron(name, policy, json!({"suspend": true}));
        let created = crons.create(&PostParams::default(), &asleep).await.unwrap();
        // A Job of an earlier minute that still runs.
        let owner = json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": name, "uid": created.metadata.uid,
                           "controller": true});
        let earlier = json!({"metadata": {"name": format!("{name}-1"), "labels": {"cron": name}, "ownerReferences": [owner]},
                             "spec": created.spec.unwrap().job_template.spec});
        let earlier: Job = serde_json::from_value(earlier).unwrap();
        let earlier = jobs.create(&PostParams::default(), &earlier).await.unwrap();
        let active =
            json!({"status": {"active": [{"name": earlier.name_any(), "uid": earlier.metadata.uid}]}});
        crons.patch_status(name, &PatchParams::default(), &Patch::Merge(active)).await.unwrap();
        turn_back(&crons, name, 3).await;
        let awake = Patch::Merge(json!({"spec": {"suspend": false}}));
        crons.patch(name, &PatchParams::default(), &awake).await.unwrap();
    }
    wait_until("the bold one has replaced its Job", || async {
        let jobs = jobs.list(&ListParams::default().labels("cron=bold")).await.unwrap().items;
        jobs.len() == 1 && jobs[0].name_any() != "bold-1"
    })
    .await;
    wait_until("the shy one says that it waits", || async {
        let params = ListParams::default().fields("involvedObject.name=shy");
        let events = events.list(&params).await.unwrap().items;
        events.iter().any(|event| event.reason.as_deref() == Some("JobAlreadyActive"))
    })
    .await;
    let waiting = jobs.list(&ListParams::default().labels("cron=shy")).await.unwrap().items;
    assert_eq!(waiting.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["shy-1"]);
    world.stop().await;
}
