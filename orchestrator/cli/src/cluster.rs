//! The administrator's view of the cluster on this machine: an API client from the kubeconfig file,
//! applying manifests, waiting for what they ask for.

use std::path::Path;
use std::time::Duration;

use catamaran_api::kind::{self, Scope};
use futures::{AsyncBufReadExt, Stream};
use http::{Method, Request, StatusCode};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

/// Time between two looks while waiting.
const LOOK: Duration = Duration::from_millis(50);
/// Time for finding out why a wait ran out.
const HINT: Duration = Duration::from_secs(2);

/// Why the cluster could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("no cluster here: {path} cannot be read; start one with `catamaran up`")]
    Kubeconfig {
        path: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the API did not answer")]
    Api(#[source] kube::Error),
    #[error("{what} is not ready after {seconds} s; {hint}")]
    Timeout { what: String, seconds: u64, hint: String },
    #[error("document {number} of {name} is not usable: {reason}")]
    Manifest { name: String, number: usize, reason: String },
}

/// A client with administrator's rights.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
}

// === impl Cluster ===

impl Cluster {
    /// Reads the kubeconfig; nothing is sent yet.
    pub(crate) async fn open(kubeconfig: &Path) -> Result<Self, ClusterError> {
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| ClusterError::Kubeconfig {
            path: kubeconfig.display().to_string(),
            source,
        };
        let parsed = Kubeconfig::read_from(kubeconfig).map_err(|e| fail(e.into()))?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(parsed, &options).await.map_err(|e| fail(e.into()))?;
        let client = Client::try_from(config).map_err(ClusterError::Api)?;
        Ok(Cluster { client })
    }

    /// One object or list.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, ClusterError> {
        self.send(Method::GET, path, Vec::new(), "application/json").await.map_err(ClusterError::Api)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        media: &str,
    ) -> Result<Value, kube::Error> {
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        self.client.request(request.body(body).map_err(kube::Error::HttpError)?).await
    }

    /// Whether the API is ready to serve.
    pub(crate) async fn is_serving(&self) -> bool {
        let request = Request::get("/readyz").body(Vec::new()).expect("a constant request is valid");
        self.client.request_text(request).await.is_ok()
    }

    /// Creates what the documents name, or merges them into what is there.
    pub(crate) async fn apply(&self, name: &str, yaml: &str) -> Result<usize, ClusterError> {
        let documents = documents(name, yaml)?;
        self.apply_objects(name, &documents).await?;
        Ok(documents.len())
    }

    /// The same with the objects of a manifest of that name.
    pub(crate) async fn apply_objects(&self, name: &str, objects: &[Value]) -> Result<(), ClusterError> {
        for (number, object) in objects.iter().enumerate() {
            let path = collection(object).ok_or_else(|| ClusterError::Manifest {
                name: name.to_owned(),
                number: number + 1,
                reason: "its apiVersion and kind are not known".to_owned(),
            })?;
            self.create_or_merge(&path, object).await?;
        }
        Ok(())
    }

    /// Deletes an object, where it is there, and waits until it is gone.
    pub(crate) async fn remove(&self, path: &str) -> Result<(), ClusterError> {
        let options = br#"{"propagationPolicy":"Background"}"#.to_vec();
        let mut answer = self.send(Method::DELETE, path, options, "application/json").await;
        loop {
            match answer {
                Err(kube::Error::Api(status)) if status.code == StatusCode::NOT_FOUND.as_u16() => {
                    return Ok(());
                }
                Err(error) => return Err(ClusterError::Api(error)),
                Ok(_) => sleep(LOOK).await,
            }
            answer = self.send(Method::GET, path, Vec::new(), "application/json").await;
        }
    }

    /// A log, line by line as it is written.
    pub(crate) async fn lines(
        &self,
        path: &str,
    ) -> Result<impl Stream<Item = std::io::Result<String>> + use<>, ClusterError> {
        let request = Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError);
        let log = match request {
            Ok(request) => self.client.request_stream(request).await,
            Err(error) => Err(error),
        };
        Ok(log.map_err(ClusterError::Api)?.lines())
    }

    async fn create_or_merge(&self, collection: &str, object: &Value) -> Result<(), ClusterError> {
        let body = object.to_string().into_bytes();
        match self.send(Method::POST, collection, body.clone(), "application/json").await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == StatusCode::CONFLICT.as_u16() => {}
            Err(error) => return Err(ClusterError::Api(error)),
        }
        let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap_or_default());
        let merged = self.send(Method::PATCH, &path, body, "application/merge-patch+json").await;
        merged.map(drop).map_err(ClusterError::Api)
    }

    /// Looks at `path` until `ready` says so.
    pub(crate) async fn wait(
        &self,
        what: &str,
        path: &str,
        limit: Duration,
        ready: impl Fn(&Value) -> bool,
    ) -> Result<Value, ClusterError> {
        let start = Instant::now();
        let mut last = String::from("the API did not answer");
        while start.elapsed() < limit {
            match timeout(limit, self.get(path)).await {
                Ok(Ok(object)) if ready(&object) => return Ok(object),
                Ok(Ok(object)) => last = why_not(&object),
                Ok(Err(error)) => last = chain(&error),
                Err(_) => break,
            }
            sleep(LOOK).await;
        }
        let hint = self.last_warning().await.unwrap_or(last);
        Err(ClusterError::Timeout { what: what.to_owned(), seconds: limit.as_secs(), hint })
    }

    /// The newest warning of all events: most likely why something waited for does not come.
    async fn last_warning(&self) -> Option<String> {
        let events = timeout(HINT, self.get("/api/v1/events?fieldSelector=type%3DWarning")).await;
        newest_warning(&events.ok()?.ok()?)
    }
}

/// Every wanted replica of a Deployment is updated and available.
pub(crate) fn is_available(deployment: &Value) -> bool {
    let wanted = wanted(deployment);
    let status = &deployment["status"];
    let seen = status["observedGeneration"].as_u64() >= deployment["metadata"]["generation"].as_u64();
    let count = |field: &str| status[field].as_u64().unwrap_or(0);
    seen && count("availableReplicas") >= wanted && count("updatedReplicas") >= wanted
}

/// How many replicas a Deployment is to have.
pub(crate) fn wanted(deployment: &Value) -> u64 {
    deployment["spec"]["replicas"].as_u64().unwrap_or(1)
}

/// A time as objects have it.
pub(crate) fn time(value: &Value) -> Option<jiff::Timestamp> {
    value.as_str()?.parse().ok()
}

/// An error with all its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The documents of a YAML file as JSON values; empty ones are left out.
pub(crate) fn documents(name: &str, yaml: &str) -> Result<Vec<Value>, ClusterError> {
    let parsed = serde_saphyr::from_multiple::<Value>(yaml);
    parsed.map_err(|error| ClusterError::Manifest {
        name: name.to_owned(),
        number: 0,
        reason: error.to_string(),
    })
}

/// The path of the collection that an object belongs to.
pub(crate) fn collection(object: &Value) -> Option<String> {
    let api_version = object["apiVersion"].as_str()?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = kind::find_kind(group, version, object["kind"].as_str()?)?;
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    Some(match resource.scope {
        Scope::Cluster => format!("{root}/{}", resource.plural),
        Scope::Namespaced => {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
            format!("{root}/namespaces/{namespace}/{}", resource.plural)
        }
    })
}

/// The first condition that is not as wanted, for the message of a wait that ran out.
fn why_not(object: &Value) -> String {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let mut unmet = conditions.filter(|c| c["status"] != "True").filter_map(|c| c["message"].as_str());
    unmet.next_back().unwrap_or("see `kubectl get events` and the logs in the data directory").to_owned()
}

/// What the last of these events says, and of whom. One that only names a reason (`Error: ErrImagePull`) counts less.
fn newest_warning(events: &Value) -> Option<String> {
    let at = |event: &Value| time(&event["lastTimestamp"]).or_else(|| time(&event["eventTime"]));
    let is_bare = |event: &Value| event["message"].as_str().is_some_and(|text| text.starts_with("Error: "));
    let newest = events["items"].as_array()?.iter().max_by_key(|event| (!is_bare(event), at(event)))?;
    let (object, text) = (&newest["involvedObject"], newest["message"].as_str()?);
    Some(format!("{} {}: {text}", object["kind"].as_str()?.to_lowercase(), object["name"].as_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn collections_follow_the_table_of_kinds() {
        let path = |api: &str, kind: &str| {
            collection(&json!({"apiVersion": api, "kind": kind, "metadata": {"namespace": "n"}}))
        };
        assert_eq!(path("v1", "Service").as_deref(), Some("/api/v1/namespaces/n/services"));
        assert_eq!(path("apps/v1", "Deployment").as_deref(), Some("/apis/apps/v1/namespaces/n/deployments"));
        assert_eq!(path("v1", "Namespace").as_deref(), Some("/api/v1/namespaces"));
        assert_eq!(path("v1", "Nonsense"), None);
    }

    #[test]
    fn a_file_of_several_documents_is_read_whole() {
        let all = documents("x", "kind: A\n---\n---\nkind: B\n").unwrap();
        assert_eq!(all, [json!({"kind": "A"}), json!({"kind": "B"})]);
        assert!(documents("x", "a: 1\na: 2\n").unwrap_err().to_string().contains("not usable"));
    }

    #[test]
    fn the_newest_warning_is_told() {
        let event = |second: u8, name: &str| {
            json!({
                "involvedObject": {"kind": "Pod", "name": name},
                "message": "no space",
                "lastTimestamp": format!("2026-01-02T03:04:0{second}Z"),
            })
        };
        let events = json!({"items": [event(1, "a"), event(3, "b"), event(2, "c")]});
        assert_eq!(newest_warning(&events).as_deref(), Some("pod b: no space"));
        let mut bare = event(4, "c");
        bare["message"] = "Error: ImagePullBackOff".into();
        let events = json!({"items": [event(3, "b"), bare]});
        assert_eq!(newest_warning(&events).as_deref(), Some("pod b: no space"));
        assert_eq!(newest_warning(&json!({"items": []})), None);
    }
}
