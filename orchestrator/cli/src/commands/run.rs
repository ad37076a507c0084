//! `catamaran run`: a project from source to an address: build, push, apply, wait, and show what it writes.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::{DataDir, Outcome};
use crate::cluster::{self, Cluster, ClusterError};
use crate::follow::follow;
use crate::images::{PushError, Pusher};
use crate::layout::Settings;
use crate::progress::step;
use crate::project::Project;
use crate::project::build::{Tools, build};

/// Until a Deployment is available.
const START: Duration = Duration::from_secs(120);
/// Until a Job has ended.
const END: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    data: DataDir,
    /// Folder of the project
    #[arg(value_name = "NAME|DIR", default_value = ".")]
    project: PathBuf,
    /// Return once it answers instead of showing its log
    #[arg(long)]
    detach: bool,
}

impl Run {
    pub(crate) async fn run(self) -> Outcome {
        let layout = self.data.layout();
        // Whoever is not root has a copy of the kubeconfig.
        let kubeconfig = std::env::var_os("KUBECONFIG").map_or_else(|| layout.kubeconfig(), PathBuf::from);
        let cluster = Cluster::open(&kubeconfig).await?;
        let project = Project::open(&self.project)?;
        let artifact = build(&project, &Tools::here())?;
        let pusher = Pusher::local(Settings::load(&layout).map_or(5000, |settings| settings.registry_port));
        let wasm = std::fs::read(&artifact)
            .map_err(|source| PushError::Read { path: artifact.display().to_string(), source })?;
        let pushed = pusher.wasm(&project.image, wasm.into());
        let digest = step(&format!("push {}", project.image), pushed).await?;
        // By its digest: the same name may have meant another program a moment ago.
        let image = format!("{}@{digest}", pusher.reference(&project.image)?);
        let objects = project.objects_with(&image);
        let manifest = project.directory.join("manifest.yaml").display().to_string();
        step(&format!("apply {manifest}"), deploy(&cluster, &manifest, &objects)).await?;
        for workload in workloads(&objects, "Deployment") {
            let what = format!("deployment {}", workload.name);
            let ready = cluster.wait(&what, &workload.path, START, cluster::is_available);
            step(&format!("wait for {what}"), ready).await?;
        }
        for address in addresses(&cluster, &objects).await? {
            println!("\n  {address}");
        }
        println!();
        if self.detach {
            return Ok(());
        }
        let shown = show(&cluster, &objects, &image);
        tokio::select! {
            ended = shown => ended,
            _ = tokio::signal::ctrl_c() => {
                println!("\n  It goes on without this window; `kubectl delete -f {manifest}` removes it.");
                Ok(())
            }
        }
    }
}

/// One object that makes pods.
struct Workload {
    name: String,
    path: String,
    namespace: String,
}

fn workloads(objects: &[Value], kind: &str) -> Vec<Workload> {
    let of_kind = objects.iter().filter(|object| object["kind"] == kind);
    let workload = |object: &Value| {
        let name = object["metadata"]["name"].as_str()?.to_owned();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
        Some(Workload { path: format!("{}/{name}", cluster::collection(object)?), name, namespace })
    };
    of_kind.filter_map(workload).collect()
}

/// Applies the objects. A Job's pods cannot be changed: one of before is removed first, so that it runs again.
async fn deploy(cluster: &Cluster, manifest: &str, objects: &[Value]) -> Result<(), ClusterError> {
    for job in workloads(objects, "Job") {
        cluster.remove(&job.path).await?;
    }
    cluster.apply_objects(manifest, objects).await
}

/// Where the Services answer on this machine.
async fn addresses(cluster: &Cluster, objects: &[Value]) -> Result<Vec<String>, ClusterError> {
    let mut found = Vec::new();
    for service in workloads(objects, "Service") {
        found.extend(node_ports(&cluster.get(&service.path).await?));
    }
    Ok(found)
}

/// The node ports of a Service; as URLs where the port's name says that it is HTTP.
fn node_ports(service: &Value) -> Vec<String> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let address = |port: &Value| {
        let number = port["nodePort"].as_u64()?;
        let is_http = [&port["name"], &port["appProtocol"]]
            .iter()
            .any(|word| word.as_str().is_some_and(|word| word.starts_with("http")));
        Some(if is_http { format!("http://127.0.0.1:{number}/") } else { format!("127.0.0.1:{number}") })
    };
    ports.filter_map(address).collect()
}

/// Shows what the program writes: for ever, or until its Jobs have ended, and then how they did.
async fn show(cluster: &Cluster, objects: &[Value], image: &str) -> Outcome {
    let jobs = workloads(objects, "Job");
    let mut failed = None;
    for job in &jobs {
        let pods = pods_of(cluster, job).await?;
        let mut end = None;
        follow(cluster, &pods, image, async { end = Some(finished(cluster, job).await) }).await;
        if let Some(reason) = end.transpose()?.flatten() {
            failed = Some(format!("job {} failed: {reason}", job.name));
        }
    }
    let servers = workloads(objects, "Deployment");
    let pods = futures::future::try_join_all(servers.iter().map(|server| pods_of(cluster, server))).await?;
    let ever = pods.iter().map(|pods| follow(cluster, pods, image, std::future::pending()));
    futures::future::join_all(ever).await;
    failed.map_or(Ok(()), |reason| Err(reason.into()))
}

/// Where the pods of a workload are listed.
async fn pods_of(cluster: &Cluster, workload: &Workload) -> Result<String, ClusterError> {
    let object = cluster.get(&workload.path).await?;
    let labels = object["spec"]["selector"]["matchLabels"].as_object().into_iter().flatten();
    let pairs: Vec<_> =
        labels.filter_map(|(name, value)| Some(format!("{name}%3D{}", value.as_str()?))).collect();
    let selector = pairs.join("%2C").replace('/', "%2F");
    Ok(format!("/api/v1/namespaces/{}/pods?labelSelector={selector}", workload.namespace))
}

/// Waits for the end of a Job; why it failed, where it did.
async fn finished(cluster: &Cluster, job: &Workload) -> Result<Option<String>, ClusterError> {
    let what = format!("job {}", job.name);
    let ended = cluster.wait(&what, &job.path, END, |job| end_of(job).is_some()).await?;
    Ok(end_of(&ended).flatten())
}

/// Whether a Job has ended, and with which failure.
fn end_of(job: &Value) -> Option<Option<String>> {
    let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
    let mut met = conditions.filter(|condition| condition["status"] == "True");
    met.find_map(|condition| match condition["type"].as_str()? {
        "Complete" => Some(None),
        "Failed" => Some(Some(condition["message"].as_str().unwrap_or("no reason is told").to_owned())),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_become_addresses() {
        let service = json!({"spec": {"ports": [
            {"name": "http", "port": 80, "nodePort": 30001},
            {"name": "lines", "port": 7000, "nodePort": 30002},
            {"port": 81, "appProtocol": "http", "nodePort": 30003},
            {"name": "inside", "port": 9},
        ]}});
        let expected = ["http://127.0.0.1:30001/", "127.0.0.1:30002", "http://127.0.0.1:30003/"];
        assert_eq!(node_ports(&service), expected);
    }

    #[test]
    fn workloads_have_paths() {
        let objects = [
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "n"}}),
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "b"}}),
        ];
        let jobs = workloads(&objects, "Job");
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs[0].path, "/apis/batch/v1/namespaces/default/jobs/b");
        assert_eq!(workloads(&objects, "Deployment")[0].namespace, "n");
    }

    #[test]
    fn a_job_ends_well_or_not() {
        let job = |kind: &str| {
            json!({"status": {"conditions": [
                {"type": "SuccessCriteriaMet", "status": "True"},
                {"type": kind, "status": "True", "message": "too often"},
            ]}})
        };
        assert_eq!(end_of(&job("Complete")), Some(None));
        assert_eq!(end_of(&job("Failed")), Some(Some("too often".to_owned())));
        assert_eq!((end_of(&job("FailureTarget")), end_of(&json!({}))), (None, None));
    }
}
