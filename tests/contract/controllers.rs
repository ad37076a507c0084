//! Controllers and scheduler against the real server in one process, over the store in memory; the node is
//! played by a task that says what a kubelet would say.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod autoscale;
mod cronjobs;
mod daemonsets;
mod disruption;
mod jobs;
mod protection;
mod quota;
mod replicationcontrollers;
mod statefulsets;
mod volumes;
mod world;

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, Pod, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::core::WatchEvent;
use serde_json::{Value, json};

use world::{World, wait_until};

fn deployment(name: &str, replicas: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
                 "template": {"metadata": {"labels": {"app": name}},
                              "spec": {"containers": [{"name": "c", "image": "web:1",
                                                       "ports": [{"name": "http", "containerPort": 8080}]}]}}}
    }))
    .unwrap()
}

fn service(name: &str) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": "http"}]}
    }))
    .unwrap()
}

async fn is_rolled_out(deployments: &Api<Deployment>, name: &str, replicas: i32) -> bool {
    let Ok(deployment) = deployments.get_status(name).await else { return false };
    let status = deployment.status.unwrap_or_default();
    let done = status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "Progressing" && condition.reason.as_deref() == Some("NewReplicaSetAvailable")
    });
    let count = |count: Option<i32>| count.unwrap_or(0) == replicas;
    done && status.observed_generation == deployment.metadata.generation
        && count(status.replicas)
        && count(status.updated_replicas)
        && count(status.available_replicas)
}

async fn ready_addresses(slices: &Api<EndpointSlice>, service: &str) -> HashSet<String> {
    let params = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let slices = slices.list(&params).await.unwrap();
    let endpoints = slices.items.into_iter().flat_map(|slice| slice.endpoints);
    let ready =
        endpoints.filter(|endpoint| endpoint.conditions.as_ref().is_some_and(|all| all.ready == Some(true)));
    ready.flat_map(|endpoint| endpoint.addresses).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_lives_and_goes() {
    let world = World::new().await;
    let _node = world.node("node-1").await;
    let (client, ns) = (world.client(), "default");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), ns);
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), ns);
    let pods: Api<Pod> = Api::namespaced(client.clone(), ns);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), ns);
    let services: Api<Service> = Api::namespaced(client.clone(), ns);
    services.create(&PostParams::default(), &service("web")).await.unwrap();
    deployments.create(&PostParams::default(), &deployment("web", 3)).await.unwrap();
    wait_until("three pods are available", || async { is_rolled_out(&deployments, "web", 3).await }).await;
    wait_until("they are behind the Service", || async { ready_addresses(&slices, "web").await.len() == 3 })
        .await;
    let endpoints: Api<Endpoints> = Api::namespaced(client.clone(), ns);
    wait_until("also in the older form", || async {
        let subsets =
            endpoints.get("web").await.ok().and_then(|endpoints| endpoints.subsets).unwrap_or_default();
        subsets.iter().filter_map(|subset| subset.addresses.as_ref()).flatten().count() == 3
    })
    .await;

    let scale = json!({"spec": {"replicas": 5}});
    deployments.patch("web", &PatchParams::default(), &Patch::Merge(scale)).await.unwrap();
    wait_until("five pods are available", || async { is_rolled_out(&deployments, "web", 5).await }).await;

    let image = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
    deployments.patch("web", &PatchParams::default(), &Patch::Strategic(image("web:2"))).await.unwrap();
    wait_until("all pods are of the new image", || async { is_rolled_out(&deployments, "web", 5).await })
        .await;
    let revision = |object: &kube::api::ObjectMeta| {
        object.annotations.as_ref().and_then(|all| all.get("deployment.kubernetes.io/revision").cloned())
    };
    assert_eq!(revision(&deployments.get("web").await.unwrap().metadata).as_deref(), Some("2"));
    deployments.patch("web", &PatchParams::default(), &Patch::Strategic(image("web:1"))).await.unwrap();
    wait_until("and of the old one again", || async { is_rolled_out(&deployments, "web", 5).await }).await;
    let all = sets.list(&ListParams::default()).await.unwrap().items;
    let mut revisions: Vec<_> = all.iter().filter_map(|set| revision(&set.metadata)).collect();
    revisions.sort();
    assert_eq!(revisions, ["2", "3"], "the first ReplicaSet was used again");

    deployments.delete("web", &DeleteParams::background()).await.unwrap();
    wait_until("nothing is left", || async {
        pods.list(&ListParams::default()).await.unwrap().items.is_empty()
            && sets.list(&ListParams::default()).await.unwrap().items.is_empty()
    })
    .await;
    wait_until("nobody is behind the Service", || async { ready_addresses(&slices, "web").await.is_empty() })
        .await;
    services.delete("web", &DeleteParams::default()).await.unwrap();
    wait_until("its slices and Endpoints go with it", || async {
        let params = ListParams::default().labels("kubernetes.io/service-name=web");
        slices.list(&params).await.unwrap().items.is_empty()
            && endpoints.get_opt("web").await.unwrap().is_none()
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_that_are_killed_create_nothing_twice() {
    let mut world = World::new().await;
    let _node = world.node("node-1").await;
    let deployments: Api<Deployment> = Api::namespaced(world.client(), "default");
    let pods: Api<Pod> = Api::namespaced(world.client(), "default");
    let list = pods.list(&ListParams::default()).await.unwrap();
    let version = list.metadata.resource_version.unwrap();
    let watch = pods.watch(&kube::api::WatchParams::default(), &version).await.unwrap();
    let counter = tokio::spawn(async move {
        let mut watch = watch.boxed();
        let mut created = HashSet::new();
        while let Some(event) = watch.next().await {
            match event.unwrap() {
                WatchEvent::Added(pod) if pod.labels().get("app").map(String::as_str) == Some("end") => break,
                WatchEvent::Added(pod) => drop(created.insert(pod.uid().unwrap())),
                _ => {}
            }
        }
        created.len()
    });
    deployments.create(&PostParams::default(), &deployment("web", 60)).await.unwrap();
    for pause in [3, 11, 23, 41, 67] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        world.kill_controllers().await;
        world.start_controllers();
    }
    wait_until("sixty pods are available", || async { is_rolled_out(&deployments, "web", 60).await }).await;
    deployments.create(&PostParams::default(), &deployment("end", 1)).await.unwrap();
    assert_eq!(counter.await.unwrap(), 60, "each pod was created once");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_furnished_and_emptied() {
    let world = World::new().await;
    let _node = world.node("node-1").await;
    let namespaces: Api<Namespace> = Api::all(world.client());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "shop"}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(world.client(), "shop");
    let maps: Api<ConfigMap> = Api::namespaced(world.client(), "shop");
    let authority = || async { maps.get_opt("kube-root-ca.crt").await.unwrap().and_then(|map| map.data) };
    wait_until("account and authority are there", || async {
        accounts.get_opt("default").await.unwrap().is_some() && authority().await.is_some()
    })
    .await;
    assert!(authority().await.unwrap()["ca.crt"].contains("BEGIN CERTIFICATE"));
    accounts.delete("default", &DeleteParams::default()).await.unwrap();
    wait_until("the account comes back", || async { accounts.get_opt("default").await.unwrap().is_some() })
        .await;
    let spoilt = json!({"data": {"ca.crt": "nonsense", "more": "x"}});
    maps.patch("kube-root-ca.crt", &PatchParams::default(), &Patch::Merge(spoilt)).await.unwrap();
    wait_until("the authority is put right", || async {
        authority().await.is_some_and(|data| data.len() == 1 && data["ca.crt"].contains("BEGIN"))
    })
    .await;
    let deployments: Api<Deployment> = Api::namespaced(world.client(), "shop");
    deployments.create(&PostParams::default(), &deployment("web", 3)).await.unwrap();
    wait_until("three pods are available", || async { is_rolled_out(&deployments, "web", 3).await }).await;
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    wait_until("the namespace is gone", || async { namespaces.get_opt("shop").await.unwrap().is_none() })
        .await;
    let pods: Api<Pod> = Api::namespaced(world.client(), "shop");
    assert!(pods.list(&ListParams::default()).await.unwrap().items.is_empty());
    world.stop().await;
}

fn pod(name: &str, spec: Value) -> Pod {
    let mut pod =
        json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}});
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    serde_json::from_value(pod).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_without_a_node_says_why_and_gets_one() {
    let world = World::new().await;
    let _node = world.node("node-1").await;
    let pods: Api<Pod> = Api::namespaced(world.client(), "default");
    let large =
        json!({"containers": [{"name": "c", "image": "web:1", "resources": {"requests": {"cpu": "100"}}}]});
    pods.create(&PostParams::default(), &pod("large", large)).await.unwrap();
    let words = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption \
                 victims found for incoming pod.";
    wait_until("the condition says why", || async {
        let status = pods.get("large").await.unwrap().status.unwrap_or_default();
        status.conditions.iter().flatten().any(|condition| {
            condition.type_ == "PodScheduled"
                && condition.status == "False"
                && condition.reason.as_deref() == Some("Unschedulable")
                && condition.message.as_deref() == Some(words)
        })
    })
    .await;
    let events: Api<Event> = Api::namespaced(world.client(), "default");
    let has = |reason: &'static str, message: String| {
        let events = &events;
        async move {
            let params = ListParams::default().fields("involvedObject.name=large");
            let events = events.list(&params).await.unwrap().items;
            events.iter().any(|event| {
                event.reason.as_deref() == Some(reason) && event.message.as_deref() == Some(&message)
            })
        }
    };
    wait_until("so does an event", || has("FailedScheduling", words.to_owned())).await;
    let nodes: Api<Node> = Api::all(world.client());
    let larger = json!({"status": {"allocatable": {"cpu": "200"}}});
    nodes.patch_status("node-1", &PatchParams::default(), &Patch::Merge(larger)).await.unwrap();
    wait_until("it is bound", || {
        has("Scheduled", "Successfully assigned default/large to node-1".to_owned())
    })
    .await;
    assert_eq!(pods.get("large").await.unwrap().spec.unwrap().node_name.as_deref(), Some("node-1"));

    let strange = pod("strange", json!({"runtimeClassName": "kata"}));
    pods.create(&PostParams::default(), &strange).await.unwrap();
    wait_until("an unknown RuntimeClass is answered with those there are", || async {
        let status = pods.get("strange").await.unwrap().status.unwrap_or_default();
        let mut messages =
            status.conditions.iter().flatten().filter_map(|condition| condition.message.as_deref());
        messages.any(|message| {
            message.contains("RuntimeClass \"kata\" not found") && message.contains("oci, wasm")
        })
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_that_wait_and_owners_that_let_go() {
    let world = World::new().await;
    let maps: Api<ConfigMap> = Api::namespaced(world.client(), "default");
    let make = |name: &'static str, owner: Option<ConfigMap>, finalizer: Option<&'static str>| {
        let maps = maps.clone();
        async move {
            let owners: Vec<Value> = owner
                .iter()
                .map(|owner| {
                    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(),
                           "uid": owner.uid(), "blockOwnerDeletion": true})
                })
                .collect();
            let map = json!({"metadata": {"name": name, "ownerReferences": owners, "finalizers": finalizer.iter().collect::<Vec<_>>()}});
            maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap()
        }
    };
    let exists = |name: &'static str| {
        let maps = &maps;
        async move { maps.get_opt(name).await.unwrap().is_some() }
    };
    let policy = |policy| DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };

    // Foreground: the owner waits for a dependent that somebody holds.
    let owner = make("owner", None, None).await;
    let child = make("child", Some(owner), Some("example.com/hold")).await;
    make("grandchild", Some(child), None).await;
    maps.delete("owner", &policy(PropagationPolicy::Foreground)).await.unwrap();
    wait_until("the grandchild is gone", || async { !exists("grandchild").await }).await;
    assert!(exists("owner").await && exists("child").await, "both wait for the finalizer");
    let free = json!({"metadata": {"finalizers": null}});
    wait_until("the child is being deleted", || async {
        maps.get("child").await.unwrap().metadata.deletion_timestamp.is_some()
    })
    .await;
    maps.patch("child", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    wait_until("child and owner are gone", || async { !exists("owner").await && !exists("child").await })
        .await;

    // Orphan: the dependent stays and has no owner any more.
    let owner = make("owner", None, None).await;
    make("orphan", Some(owner), None).await;
    maps.delete("owner", &policy(PropagationPolicy::Orphan)).await.unwrap();
    wait_until("the owner is gone", || async { !exists("owner").await }).await;
    assert!(maps.get("orphan").await.unwrap().metadata.owner_references.unwrap_or_default().is_empty());

    // An owner that never was.
    let owner = make("owner", None, None).await;
    maps.delete("owner", &policy(PropagationPolicy::Background)).await.unwrap();
    make("late", Some(owner), None).await;
    wait_until("who comes too late goes too", || async { !exists("late").await }).await;
    assert!(exists("orphan").await);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_loses_its_pods() {
    let world = World::with_grace(Duration::from_secs(2)).await;
    let node = world.node("node-1").await;
    let (client, ns) = (world.client(), "default");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), ns);
    let mut web = serde_json::to_value(deployment("web", 2)).unwrap();
    web["spec"]["template"]["spec"]["tolerations"] = json!([
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1},
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]);
    deployments.create(&PostParams::default(), &serde_json::from_value(web).unwrap()).await.unwrap();
    wait_until("two pods are available", || async { is_rolled_out(&deployments, "web", 2).await }).await;
    let _other = world.node("node-2").await;
    node.abort();
    let nodes: Api<Node> = Api::all(client.clone());
    wait_until("the node is unknown and tainted", || async {
        let node = nodes.get("node-1").await.unwrap();
        let unknown =
            node.status.iter().flat_map(|status| status.conditions.iter().flatten()).any(|condition| {
                condition.type_ == "Ready"
                    && condition.status == "Unknown"
                    && condition.message.as_deref() == Some("Kubelet stopped posting node status.")
            });
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        unknown && taints.iter().filter(|taint| taint.key == "node.kubernetes.io/unreachable").count() == 2
    })
    .await;
    wait_until("the pods move to the other node", || async { is_rolled_out(&deployments, "web", 2).await })
        .await;
    let pods: Api<Pod> = Api::namespaced(client, ns);
    wait_until("those on the lost node are to be deleted", || async {
        let pods = pods.list(&ListParams::default()).await.unwrap().items;
        let (lost, alive): (Vec<&Pod>, Vec<&Pod>) = pods
            .iter()
            .partition(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some("node-1"));
        alive.len() == 2 && lost.iter().all(|pod| pod.metadata.deletion_timestamp.is_some())
    })
    .await;
    world.stop().await;
}
