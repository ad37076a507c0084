//! An API of two kinds in memory, for the watchers, and a place of one's own in the kernel.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use kube::Client;
use kube::client::Body;
use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Where Services are listed.
pub(crate) const SERVICES: &str = "/api/v1/services";
/// Where EndpointSlices are listed.
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

type Items = HashMap<&'static str, Vec<Value>>;
type Watchers = HashMap<String, mpsc::Sender<Bytes>>;

/// Lists and watches what it is given.
#[derive(Clone, Default)]
pub(crate) struct FakeApi {
    items: Arc<Mutex<Items>>,
    watchers: Arc<Mutex<Watchers>>,
}

impl FakeApi {
    /// Puts an object into the lists.
    pub(crate) fn list(&self, path: &'static str, object: Value) {
        self.items.lock().expect("no thread panicked").entry(path).or_default().push(object);
    }

    /// Sends a watch event to the one who watches.
    pub(crate) async fn send(&self, path: &str, kind: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        loop {
            let watcher = self.watchers.lock().expect("no thread panicked").get(path).cloned();
            if let Some(watcher) = watcher {
                watcher.send(line.into()).await.expect("somebody watches");
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    /// A client of this API.
    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let answer = tower::service_fn(move |request: Request<Body>| {
            let answer = api.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        Client::new(answer, "default")
    }

    fn answer(&self, request: &Request<Body>) -> Response<BoxBody<Bytes, Infallible>> {
        let path = request.uri().path();
        let body = if request.uri().query().unwrap_or_default().contains("watch=true") {
            let (send, receive) = mpsc::channel::<Bytes>(1024);
            self.watchers.lock().expect("no thread panicked").insert(path.to_owned(), send);
            let events = futures::stream::unfold(receive, |mut receive| async {
                receive.recv().await.map(|event| (event, receive))
            });
            StreamBody::new(futures::StreamExt::map(events, |event| Ok(http_body::Frame::data(event))))
                .boxed()
        } else {
            let items = self.items.lock().expect("no thread panicked").get(path).cloned().unwrap_or_default();
            let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"},
                              "items": items});
            Full::new(Bytes::from(list.to_string())).boxed()
        };
        Response::new(body)
    }
}

/// A Service with one port.
pub(crate) fn service(name: &str, cluster_ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
           "metadata": {"name": name, "namespace": "default", "resourceVersion": "1"},
           "spec": {"clusterIP": cluster_ip, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}})
}

/// The EndpointSlice of a Service.
pub(crate) fn slice(service: &str, revision: u64, addresses: &[String]) -> Value {
    let endpoints: Vec<_> =
        addresses.iter().map(|a| json!({"addresses": [a], "conditions": {"ready": true}})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
           "metadata": {"name": format!("{service}-1"), "namespace": "default",
                        "resourceVersion": revision.to_string(),
                        "labels": {"kubernetes.io/service-name": service}},
           "addressType": "IPv4", "endpoints": endpoints,
           "ports": [{"name": "http", "protocol": "TCP", "port": 8080}]})
}

/// What keeps namespaces ready may still be making one when the network is dropped: that one is waited for.
async fn torn_down(folder: &Path) {
    let begun = std::time::Instant::now();
    while let Err(error) = catamaran_network::teardown_all(folder).await {
        assert!(begun.elapsed().as_secs() < 5, "not torn down: {error}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Runs `work` in network and mount namespaces of its own, which vanish with its threads.
pub(crate) fn isolated<F: Future<Output = ()>>(work: impl FnOnce(PathBuf) -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            #[expect(
                deprecated,
                reason = "the replacement is unsafe because of FILES, which is not used here"
            )]
            rustix::thread::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS).expect("root rights");
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change(Path::new("/"), private).expect("private mounts");
            let folder = tempfile::tempdir().expect("a folder");
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
            runtime.block_on(async {
                work(folder.path().to_owned()).await;
                torn_down(folder.path()).await;
            });
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}
